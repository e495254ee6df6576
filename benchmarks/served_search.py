"""A search whose ideas come from a small model behind an OpenAI-compatible server: how many of them reach execution.

usage: python benchmarks/served_search.py [--model DIR] [--out DIR] [--shown N]

The recipe is recipes/search_nanogpt_cpu.yaml with another `ideator`, `ideator_options` and folder; the server is
`transformers serve`.  The model comes from `ideator-rl sft recipes/smollm2_nanogpt_cpu.yaml`, which is run first if the
model is missing (after `make smollm2`; some minutes).  An idea reaches execution if it leads to a codebase that breaks
no rule; the successes are counted separately.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ideator_rl.experiment import MALFORMED, REJECTED, UNPATCHABLE
from ideator_rl.storage.run_reader import read_run

ROOT = Path(__file__).parent.parent
SEARCH, WARM_UP = ROOT / "recipes/search_nanogpt_cpu.yaml", ROOT / "recipes/smollm2_nanogpt_cpu.yaml"
BIN = Path(sys.executable).parent
NEVER_RAN = (MALFORMED, UNPATCHABLE, REJECTED)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--model", type=Path, default=ROOT / "runs/smollm2_nanogpt_cpu-sft")
    options.add_argument("--out", type=Path, default=ROOT / "runs/served_search")
    options.add_argument("--shown", type=int, default=0, help="past ideas in a prompt")
    arguments = options.parse_args()
    if not arguments.model.is_dir():
        _run("ideator-rl", "sft", WARM_UP, "--out", arguments.model)
    started = time.monotonic()
    with served(arguments.model) as url:
        # The server samples only on request; the model was trained on the bare prompt, so by default no idea is shown.
        ideator = {
            "base_url": url, "models": str(arguments.model), "as_trained": True, "max_shown": arguments.shown,
            "max_tokens": 112, "concurrency": 2,
            "extra_body": {"generation_config": json.dumps({"do_sample": True, "top_k": 0})},
        }  # fmt: skip
        _run("ideator-rl", "search", SEARCH, "--ideator", "chat", "--ideator_options", json.dumps(ideator),
             "--output_dir", arguments.out)  # fmt: skip
    print_outcomes(arguments.out, time.monotonic() - started)


@contextmanager
def served(model: Path) -> Iterator[str]:
    """`transformers serve` on loopback; its base_url."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [BIN / "transformers", "serve", model, "--host", "127.0.0.1", "--port", port, "--device", "cpu"]
    server = subprocess.Popen(list(map(str, command)), env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    try:
        while not _up(port):
            if server.poll() is not None:
                raise SystemExit("transformers serve ended; see above.")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def print_outcomes(folder: Path, seconds: float) -> None:
    """Print the statuses of the ideas."""
    run = read_run(folder)
    statuses = Counter(rollout.status for rollout in run.rollouts)
    ideas, ran = len(run.rollouts), sum(n for status, n in statuses.items() if status not in NEVER_RAN)
    print(f"machine: {os.cpu_count()} cores, {platform.machine()}")
    print(f"{ideas} ideas in {seconds:.0f} s; {len({r.idea for r in run.rollouts if r.idea})} different texts")
    for status, count in statuses.most_common():
        print(f"  {status:<12}{count:5d}")
    print(f"reached execution: {ran} of {ideas} ({100 * ran / ideas:.0f} %), {statuses['succeeded']} succeeded")
    trees = [record for record in run.experiments.values() if record.tree]
    print(f"different codebases: {len({record.tree for record in trees})}")


def _up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _run(command: str, *arguments: object) -> None:
    subprocess.run([str(BIN / command), *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
