"""A no-op experiment here and in OpenEvolve and Shinka, in turn in one run.

usage: python benchmarks/peers.py --envs FOLDER [--turns 2] [--start forked|cold]
       python benchmarks/peers.py search|table …        searches of the three on one task: see peers_search.py

What is timed, of the same script of a few milliseconds (tests/toy_env), 20 in turn and 60 with two slots:

ideator_rl  from a patch to its record: judged, stored, run in the best sandbox here, measured by an evaluator process
openevolve  `Evaluator.evaluate_program` with an evaluator file that runs the program by `subprocess.run`; no sandbox
shinka      `JobScheduler.run` of a local job, which polls every 0.5 s; no sandbox

No LLM takes part.  The peers are installed by pip into virtual environments below FOLDER, unless they are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peers_search
from overhead import ROOT, take_turn
from overhead_parts import Figures
from peers_turn import DISTRIBUTIONS, PEERS

OURS = "ideator_rl"
BASELINE = ROOT / "tests" / "toy_env" / "baseline" / "train.py"


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["search"], ["table"]):
        return peers_search.main(argv, install)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=Path, required=True, help="folder for the peers' virtual environments")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--start", choices=("forked", "cold"), default="")
    args = parser.parse_args(argv)
    interpreters = {name: found for name in PEERS if (found := install(name, args.envs.resolve())) is not None}
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
    print(f"load average {os.getloadavg()[0]:.1f}", flush=True)
    turns: dict[str, list[Figures]] = {name: [] for name in (OURS, *interpreters)}
    versions = {OURS: args.start or "as shipped"}
    for _ in range(args.turns):
        in_turn, together = take_turn(ROOT, "noop", args.start), take_turn(ROOT, "noops", args.start)
        turns[OURS].append({"wall, ms": in_turn["wall, ms"], "a second": together["a second"]})
        for name, interpreter in interpreters.items():
            version, figures = peer_turn(name, interpreter)
            versions[name] = version
            turns[name].append(figures)
    for name, figures in turns.items():
        print(row(f"{name} {versions[name]}", figures, turns[OURS]))
    return 0


def install(name: str, envs: Path) -> Path | None:
    """The interpreter of a peer's environment, which is made if it is missing; None where pip fails."""
    interpreter = envs / name / "bin" / "python"
    has_peer = [str(interpreter), "-c", f"import {name}"]
    if interpreter.exists() and subprocess.run(has_peer, capture_output=True).returncode == 0:
        return interpreter
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(envs / name)], check=True)
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", DISTRIBUTIONS[name]]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if installed.returncode != 0:
        reason = (installed.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"{name} cannot be installed here and is left out: {reason}")
        return None
    return interpreter


def peer_turn(name: str, interpreter: Path) -> tuple[str, Figures]:
    """The version of a peer and its figures.

    Raises:
        subprocess.CalledProcessError: the turn failed; its error output has been printed.
    """
    with tempfile.TemporaryDirectory(prefix="ideator-peer-") as folder:
        command = [str(interpreter), str(ROOT / "benchmarks" / "peers_turn.py"), name, str(BASELINE), folder]
        turn = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=folder)
    answer = json.loads(turn.stdout.splitlines()[-1])
    return answer["version"], answer["figures"]


def row(title: str, turns: list[Figures], ours: list[Figures]) -> str:
    """Pooled times and rates; how many times as long as ours a no-op takes, turn by turn."""
    walls = [value for figures in turns for value in figures["wall, ms"]]
    rates = [figures["a second"][0] for figures in turns]
    ratios = [
        statistics.median(theirs["wall, ms"]) / statistics.median(own["wall, ms"])
        for theirs, own in zip(turns, ours, strict=True)
    ]
    return (
        f"{title:<24} one in turn: median {statistics.median(walls):.0f} ms ({min(walls):.0f} to {max(walls):.0f}), "
        f"two slots: {', '.join(f'{rate:.1f}' for rate in rates)} a second; "
        f"of our time: {', '.join(f'{ratio:.2f}' for ratio in ratios)}"
    )


if __name__ == "__main__":
    sys.exit(main())
