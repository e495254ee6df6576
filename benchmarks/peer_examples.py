"""Every example of OpenEvolve and ShinkaEvolve as an environment of ours: which pass `env check`, and why not.

usage: python benchmarks/peer_examples.py --openevolve FOLDER --shinka FOLDER [--only TEXT] [--search N] [--timeout S]

FOLDER is a checkout's `examples`; nothing of it is changed, and no network is used.  An example of OpenEvolve is a pair
of `initial_program.*` and `evaluator.py` in one folder, one of ShinkaEvolve a folder of `evaluate.py` and `initial.*`.
With --search N, each that passed is searched with N experiments, by a scripted endpoint on loopback.  Its ideas add a
comment: what is tried is the way from a prompt to a record, not the ideas.

One line of JSON for each example: name, seconds, whether it passed, and the metric or the reason.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
IDEATOR_RL = [sys.executable, "-m", "ideator_rl.cli"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openevolve", type=Path)
    parser.add_argument("--shinka", type=Path)
    parser.add_argument("--only", default="", help="part of the example's path")
    parser.add_argument("--search", type=int, default=0, help="experiments of a search of each that passed")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one check")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each baseline")
    args = parser.parse_args()
    examples = [*openevolve_examples(args.openevolve), *shinka_examples(args.shinka)]
    for name, options in examples:
        if args.only in name:
            print(json.dumps(try_example(name, options, args.search, args.timeout, args.seeds)), flush=True)
    return 0


def openevolve_examples(folder: Path | None) -> list[tuple[str, list[str]]]:
    """Names, and the options of `env new`."""
    examples = []
    for evaluator in sorted(folder.rglob("evaluator.py")) if folder else []:
        for program in sorted(evaluator.parent.glob("initial_program.*")):
            name = f"openevolve/{evaluator.parent.relative_to(folder)}"
            examples.append((name, ["--openevolve", str(program), str(evaluator)]))
    return examples


def shinka_examples(folder: Path | None) -> list[tuple[str, list[str]]]:
    evaluators = sorted(folder.rglob("evaluate.py")) if folder else []
    return [(f"shinka/{path.parent.relative_to(folder)}", ["--shinka", str(path.parent)]) for path in evaluators]


def try_example(name: str, options: list[str], experiments: int, timeout: float, seeds: int) -> dict[str, object]:
    """Write the environment, check it, and search with it."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ideator-example-") as folder:
        env = Path(folder) / re.sub(r"\W+", "_", name)[-40:].strip("_").lower()
        written = command(["env", "new", str(env), *options, "--name", "example", "--json"], timeout)
        if written.returncode != 0:
            return outcome(name, begun, False, last_line(written.stderr))
        facts = json.loads(written.stdout)
        try:
            checked = command(["env", "check", str(env), "--slots", "1", "--seeds", str(seeds), "--json"], timeout)
        except subprocess.TimeoutExpired:
            return outcome(name, begun, False, f"the check took over {timeout:g} s", facts)
        if not checked.stdout.startswith("["):
            return outcome(name, begun, False, last_line(checked.stderr), facts)
        checks = json.loads(checked.stdout)
        failed = [f"{check['name']}: {check['words']}" for check in checks if not check["passed"]]
        if failed:
            return outcome(name, begun, False, failed[0][:2000], facts)
        metric = next(check["words"] for check in checks if check["name"] == "baseline")
        result = outcome(name, begun, True, metric.partition(" (standard")[0], facts)
        if experiments:
            result["search"] = search(env, experiments)
        return result


def search(env: Path, experiments: int) -> str:
    """The outcomes of a search with a scripted endpoint."""
    from llm_server import Scripted, answer

    from ideator_rl.environments.environment import load_environment

    environment = load_environment(env)
    path = environment.rules.editable[0]
    lines = environment.baseline("cpu")[path].splitlines()
    # A line that occurs once is replaced by itself and a comment: a codebase of its own, with the baseline's result.
    start = next((n for n, line in enumerate(lines) if "EVOLVE-BLOCK-START" in line), -1) + 1
    anchor = next(line for line in lines[start:] if line.startswith("def ") and lines.count(line) == 1)
    edit = f"{path}\n<<<<<<< SEARCH\n{anchor}\n=======\n# idea {{}}\n{anchor}\n>>>>>>> REPLACE\n"
    texts = [f"[Experiment] idea {n} [Code Changes] {edit.format(n)}[End]" for n in range(2 * experiments)]
    with Scripted(*({"body": answer(text)} for text in texts)) as server:
        options = f"{{base_url: '{server.url}', models: m, api_key_env: null, ideas_per_call: 1}}"
        keys = ["--ideator_options", options, "--output_dir", f"{env}_run", "--max_experiments", str(experiments)]
        done = command(["search", str(env / "search.yaml"), *keys, "--slots", "1", "--embedder", "hashed"], 3600)
    outcomes = re.search(r"^Outcomes: (.*)$", done.stdout, re.M)
    return outcomes[1] if done.returncode == 0 and outcomes else f"failed: {last_line(done.stderr)}"


def command(words: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*IDEATOR_RL, *words], capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def outcome(
    name: str, begun: float, passed: bool, text: str, facts: dict[str, object] | None = None
) -> dict[str, object]:
    missing = (facts or {}).get("not installed") or []
    return {
        "example": name, "passed": passed, "seconds": round(time.monotonic() - begun, 1), "result": text,
        "missing": missing,
    }  # fmt: skip


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]


if __name__ == "__main__":
    sys.exit(main())
