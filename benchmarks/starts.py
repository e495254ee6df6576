"""Whether forked and cold starts give equal results: baselines of one environment, in turn, with the same seeds.

usage: python benchmarks/starts.py [--environment nanogpt] [--preset cpu] [--runs 30] [--against CHECKOUT]

Prints the metric and the CPU seconds of each kind of start, and the mean difference of the metric from forked starts
with its 95 % interval (Welch).  With `--against`, a checkout that has its own .venv (such as 0.1.0) is a third kind.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUNS_A_TURN = 6
"""Replicates of one command; the kinds take turns, so that a busy moment of the machine meets all of them."""
T_95 = 2.0
"""Student's t for 95 % and about 60 degrees of freedom."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", default="nanogpt")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--against", type=Path)
    args = parser.parse_args()
    kinds = {"forked": (ROOT, ["--start", "forked"]), "cold": (ROOT, ["--start", "cold"])}
    if args.against:
        kinds[str(args.against.name)] = (args.against, [])
    records: dict[str, list[dict]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(math.ceil(args.runs / RUNS_A_TURN)):
            count = min(RUNS_A_TURN, args.runs - turn * RUNS_A_TURN)
            for kind, (checkout, options) in kinds.items():
                bucket = f"file://{folder}/{kind}-{turn}"
                options = [*options, "--replicates", str(count), "--seed", str(turn), "--bucket", bucket]
                records[kind] += execute(checkout, [args.environment, "--preset", args.preset, *options])
    report(records)


def execute(checkout: Path, arguments: list[str]) -> list[dict]:
    """The records of a command that runs the baseline in a checkout."""
    command = [
        str(checkout / ".venv/bin/python"),
        "-m",
        "ideator_rl.cli",
        "execute",
        *arguments,
        "--baseline",
        "--json",
    ]
    out = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout
    records = json.loads(out) if out.lstrip().startswith("[") else [json.loads(line) for line in out.splitlines()]
    assert all(record["status"] == "succeeded" for record in records), records
    return records


def report(records: dict[str, list[dict]]) -> None:
    values = {kind: [record["metric"]["value"] for record in rows] for kind, rows in records.items()}
    forked = values["forked"]
    print(
        f"{'start':<10}{'runs':>6}{'metric':>10}{'sd':>9}{'CPU s':>8}{'least':>8}{'most':>8}   difference from forked"
    )
    for kind, rows in records.items():
        mean, spread = statistics.mean(values[kind]), statistics.stdev(values[kind])
        cpu = [row["seconds"]["cpu"] for row in rows]
        line = f"{kind:<10}{len(rows):>6}{mean:>10.4f}{spread:>9.4f}{statistics.mean(cpu):>8.2f}"
        line += f"{min(cpu):>8.2f}{max(cpu):>8.2f}"
        if kind != "forked":
            error = math.sqrt(spread**2 / len(rows) + statistics.variance(forked) / len(forked))
            line += f"   {mean - statistics.mean(forked):+.4f} ± {T_95 * error:.4f}"
        print(line)


if __name__ == "__main__":
    main()
