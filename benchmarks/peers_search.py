"""OpenEvolve, Shinka and ideator_rl search on OpenEvolve's circle packing, with one scripted endpoint for all.

    python benchmarks/peers.py search --envs FOLDER --out FOLDER --openevolve FOLDER --shinka FOLDER
                                      [--seeds 0 1 2 3 4] [--evaluations 100] [--arms openevolve shinka …]
    python benchmarks/peers.py table [--seeds 0 1 2 3 4] [--evaluations 100]

--envs: for the peers' virtual environments, made by pip where they are missing.  --openevolve and --shinka: the
`examples` of a checkout of each (`git clone`).  Rows of RESULTS are not run again; a run that was cut off is removed
and begun anew.  What the endpoint answers: peers_endpoint.py and peers_mutation.py.

For all the same: the example's initial program and evaluator, so many evaluations after the initial program's, two at
a time, 60 seconds each.  The rest is what the authors wrote for this example: OpenEvolve's `config_phase_1.yaml`,
Shinka's `shinka_small.yaml`, and the recipe that `ideator-rl env new --openevolve` writes.  Changed in the first two:
the model, the limits above, no cascade (the example's would run a program twice), no embeddings and no second LLM.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from peers_endpoint import endpoint
from peers_table import PEERS, RESULTS, read_rows, table

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.storage.run_reader import read_run

HERE = Path(__file__).parent
EXAMPLE = "circle_packing"
SLOTS, SECONDS = 2, 60
MOST_SECONDS = 1800.0
"""Wall-clock seconds of one run, at most; longer is an error."""
TARGET = 2.635
"""The example's evaluator divides the sum of radii by this number."""
BEST_AFTER = (25, 50, 100)

Interpreters = dict[str, Path]


@dataclass(frozen=True)
class Setup:
    """What every run of one call shares."""

    openevolve: Path
    """OpenEvolve's folder of the example."""
    shinka: Path
    """Shinka's folder of the example."""
    interpreters: Interpreters
    """Of the peers' environments, by the name of the package."""
    evaluations: int


@dataclass(frozen=True)
class Command:
    """How one arm is run: a command, further environment variables, and how its scores are read afterwards."""

    words: list[str]
    variables: dict[str, str]
    scores: Callable[[], list[float | None]]
    """Sums of radii in the order of evaluation, without the initial program's; None for a failure."""


def openevolve(setup: Setup, folder: Path, url: str, seed: int) -> Command:
    """Its command-line program, with the example's configuration."""
    config = yaml.safe_load((setup.openevolve / "config_phase_1.yaml").read_text())
    kept = {name: value for name, value in config["llm"].items() if not name.endswith(("_model", "_weight"))}
    config["llm"] = kept | {"primary_model": "scripted", "api_base": url, "api_key": "none"}
    limits = {"timeout": SECONDS, "cascade_evaluation": False, "parallel_evaluations": SLOTS}
    config |= {"max_iterations": setup.evaluations, "random_seed": seed, "log_level": "WARNING"}
    config["evaluator"] |= limits
    config["database"]["random_seed"] = seed
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = [
        str(setup.interpreters["openevolve"]),
        "-m",
        "openevolve.cli",
        str(setup.openevolve / "initial_program.py"),
    ]
    words += [
        str(HERE / "peers_evaluator.py"),
        "--config",
        str(folder / "config.yaml"),
        "--output",
        str(folder / "out"),
    ]
    words += ["--iterations", str(setup.evaluations)]
    return Command(words, peer_variables(setup, folder), lambda: logged_scores(folder, setup.evaluations))


def shinka(setup: Setup, folder: Path, url: str, seed: int) -> Command:
    """Its `ShinkaEvolveRunner`, with the example's configuration."""
    settings = yaml.safe_load((setup.shinka / "shinka_small.yaml").read_text())
    evo: dict[str, Any] = settings["evo_config"]
    evo |= {"llm_models": [f"local/scripted@{url}"], "embedding_model": None, "novelty_llm_models": None}
    evo |= {"meta_llm_models": None, "meta_rec_interval": None, "llm_dynamic_selection": None}
    evo["llm_kwargs"].pop("reasoning_efforts", None)
    # The initial program is generation 0.
    evo |= {"num_generations": setup.evaluations + 1, "results_dir": str(folder / "out")}
    evo |= {"init_program_path": str(setup.openevolve / "initial_program.py")}
    job = {"eval_program_path": str(HERE / "peers_evaluator.py"), "time": time.strftime("%X", time.gmtime(SECONDS))}
    settings |= {"job_config": job, "max_evaluation_jobs": SLOTS, "max_proposal_jobs": SLOTS}
    (folder / "settings.json").write_text(json.dumps(settings))
    words = [str(setup.interpreters["shinka"]), str(HERE / "peers_shinka.py"), str(folder / "settings.json"), str(seed)]
    variables = peer_variables(setup, folder) | {"SHINKA_PRICING_MODE": "offline"}
    return Command(words, variables, lambda: logged_scores(folder, setup.evaluations))


def ours(*options: str) -> Callable[[Setup, Path, str, int], Command]:
    """Our search with the recipe that `env new --openevolve` writes, and these options."""

    def command(setup: Setup, folder: Path, url: str, seed: int) -> Command:
        program = [sys.executable, "-m", "ideator_rl.cli"]
        env, example = folder / "packing", setup.openevolve
        example_files = [str(example / name) for name in ("initial_program.py", "evaluator.py", "config_phase_1.yaml")]
        subprocess.run(
            [*program, "env", "new", str(env), "--openevolve", *example_files], check=True, capture_output=True
        )
        llm = {"base_url": url, "models": "scripted", "api_key_env": None, "ideas_per_call": 1}
        words = [*program, "search", str(env / "search.yaml"), "--ideator_options", json.dumps(llm), *options]
        words += ["--output_dir", str(folder / "out"), "--seed", str(seed), "--slots", str(SLOTS)]
        words += ["--max_experiments", str(setup.evaluations), "--embedder", "hashed"]
        return Command(words, {}, lambda: recorded_scores(folder / "out"))

    return command


ARMS: dict[str, Callable[[Setup, Path, str, int], Command]] = {
    "openevolve": openevolve,
    "shinka": shinka,
    "puct": ours("--inherit", "none"),
    "puct, best_parent": ours("--inherit", "best_parent"),
    "top_k, best_parent": ours("--inherit", "best_parent", "--strategy", "top_k"),
    "evolution, best_parent": ours("--inherit", "best_parent", "--strategy", "evolution", "--flow", "epochs"),
}
"""By name; ours are named by their strategy, and inherit nothing unless the name adds it."""


def peer_variables(setup: Setup, folder: Path) -> dict[str, str]:
    return {"PEERS_EVALUATOR": str(setup.openevolve / "evaluator.py"), "PEERS_LOG": str(folder / "log.jsonl")}


def logged_scores(folder: Path, evaluations: int) -> list[float | None]:
    """From the lines of peers_evaluator.py; the first one is the initial program's."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["score"] * TARGET or None for row in rows[1 : evaluations + 1]]


def recorded_scores(folder: Path) -> list[float | None]:
    """From the records of a search of ours, in the order in which they ended; a score of 0 is a failure for all."""
    records = sorted(read_run(folder).ran, key=lambda record: record.finished)
    good = [record.metric if record.status == SUCCEEDED else None for record in records]
    return [metric["value"] * TARGET or None if metric else None for metric in good]


def run_arm(arm: str, setup: Setup, folder: Path, seed: int) -> dict[str, Any]:
    """One search; its row of RESULTS.

    Raises:
        RuntimeError: the search failed, took over MOST_SECONDS, or asked for what the endpoint cannot answer.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    server, mutator = endpoint(seed)
    load = os.getloadavg()[0]
    with server, open(folder / "output.txt", "w") as output:
        command = ARMS[arm](setup, folder, server.url, seed)
        began = time.monotonic()
        # A temporary folder of its own: our CPU slots are shared by all runs on one, and peers leave files there.
        (folder / "tmp").mkdir()
        variables = os.environ | {"TMPDIR": str(folder / "tmp")} | command.variables
        process = subprocess.Popen(
            command.words, stdout=output, stderr=output, cwd=folder, env=variables, start_new_session=True
        )
        try:
            status = process.wait(MOST_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{arm} took over {MOST_SECONDS:g} s; see {folder}/output.txt.") from error
        finally:
            # Whatever the search leaves in its process group would slow down the next one.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        wall = time.monotonic() - began
    if status != 0 or mutator.problems:
        problem = mutator.problems[0] if mutator.problems else f"exit status {status}"
        raise RuntimeError(f"{arm}, seed {seed}: {problem} See {folder}/output.txt.")
    scores = command.scores()
    good = [score for score in scores if score is not None]
    best_after = {str(count): max((s for s in scores[:count] if s), default=None) for count in BEST_AFTER}
    return {
        "arm": arm, "seed": seed, "budget": setup.evaluations, "evaluations": len(scores), "best": max(good),
        "failures": len(scores) - len(good), "best_after": best_after, "wall_s": round(wall, 1), "load": round(load, 1),
        "cores": os.cpu_count(), "requests": len(server.requests), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def main(argv: Sequence[str], install: Callable[[str, Path], Path | None]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("search", "table"))
    parser.add_argument("--envs", type=Path, help="folder for the peers' virtual environments")
    parser.add_argument("--out", type=Path, help="folder for the runs")
    parser.add_argument("--openevolve", type=Path, help="`examples` of a checkout")
    parser.add_argument("--shinka", type=Path, help="`examples` of a checkout")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    if args.command == "search":
        missing = [name for name in ("envs", "out", "openevolve", "shinka") if getattr(args, name) is None]
        if missing:
            parser.error(f"search needs --{', --'.join(missing)}")
        search(args, install)
    rows = [row for row in read_rows(args.results) if row["seed"] in args.seeds]
    print(table(rows, args.evaluations, list(ARMS)))
    return 0


def search(args: argparse.Namespace, install: Callable[[str, Path], Path | None]) -> None:
    """Run what is missing; the arms of one seed in turn, so that a busy hour of the machine meets all of them."""
    wanted = [name for name in PEERS if name in args.arms]
    interpreters = {name: path for name in wanted if (path := install(name, args.envs.resolve()))}
    examples = {name: (getattr(args, name) / EXAMPLE).resolve() for name in PEERS}
    setup = Setup(examples["openevolve"], examples["shinka"], interpreters, args.evaluations)
    done = {(row["arm"], row["seed"], row["budget"]) for row in read_rows(args.results)}
    for seed in args.seeds:
        for arm in args.arms:
            if (arm, seed, args.evaluations) in done or (arm in PEERS and arm not in interpreters):
                continue
            name = f"{arm.replace(', ', '-')}-{seed}-{args.evaluations}"
            row = run_arm(arm, setup, args.out.resolve() / name, seed) | {"version": version_of(arm, interpreters)}
            with open(args.results, "a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def version_of(arm: str, interpreters: Interpreters) -> str:
    """Of the package that searches."""
    if arm not in interpreters:
        return version("ideator_rl")
    name = {"openevolve": "openevolve", "shinka": "shinka-evolve"}[arm]
    code = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.run(
        [str(interpreters[arm]), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
