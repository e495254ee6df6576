"""What an experiment costs beyond its script: time, CPU time and rates, alone or beside another checkout in turn.

usage: python benchmarks/overhead.py [--parts noop noops nanogpt packing] [--against CHECKOUT] [--turns 2]
                                     [--start forked|cold] [--output FILE.json]

noop     a script of a few milliseconds (tests/toy_env), 20 experiments one after the other
noops    the same, 60 requested at once, two slots
nanogpt  envs/nanogpt, preset cpu, 6 learning rates, two slots
packing  benchmarks/packing, which imports numpy, 100 requested at once, two slots

A turn is a process with a bucket, slots and temporary folder of its own.  With `--against`, a checkout that has its own
.venv (such as 0.1.0), turns alternate: this one, the other, this one, the other.  Read ratios rather than times on a
machine that does other work.  CPU time is that of all processes, of the requesting one too, in a control group
where one can be made (as root).
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
from typing import Any

from cpu_account import cpu_account
from overhead_parts import PARTS, Figures

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = {
    "noop": "tests/toy_env",
    "noops": "tests/toy_env",
    "nanogpt": "envs/nanogpt",
    "packing": "benchmarks/packing",
}
RATES = ("a second", "a minute")
"""Labels of figures of which more is better."""


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    checkouts = [ROOT, *([args.against.resolve()] if args.against else [])]
    with cpu_account() as account:
        source = account.source
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.machine()}, Python ", end="")
    print(f"{platform.python_version()}, load average {os.getloadavg()[0]:.1f}; CPU time by {source}\n", flush=True)
    results: dict[str, list[list[Figures]]] = {}
    for part in args.parts:
        turns: list[list[Figures]] = [[] for _ in checkouts]
        for _ in range(args.turns):
            for checkout, figures in zip(checkouts, turns, strict=True):
                figures.append(take_turn(checkout, part, args.start))
        results[part] = turns
        print(table(part, turns), flush=True)
    if args.output:
        args.output.write_text(json.dumps({"checkouts": [str(path) for path in checkouts], "turns": results}))
    return 0


def take_turn(checkout: Path, part: str, start: str = "") -> Figures:
    """The figures of one part, measured by the interpreter of a checkout in a fresh folder.

    Raises:
        SystemExit: the part failed; its error output has been printed.
    """
    interpreter = checkout / ".venv" / "bin" / "python"
    # The environments that a checkout has, since an evaluator imports the library.
    environment = checkout / ENVIRONMENTS[part]
    if not environment.is_dir():
        environment = ROOT / ENVIRONMENTS[part]
    with tempfile.TemporaryDirectory(prefix="ideator-overhead-") as folder:
        # Slots of its own: they are files in the temporary folder, and another run would be waited for.
        Path(folder).chmod(0o755)
        temporary = Path(folder) / "tmp"
        temporary.mkdir(mode=0o755)
        command = [str(interpreter if interpreter.exists() else sys.executable)]
        command += [str(ROOT / "benchmarks" / "overhead_parts.py"), part, str(environment), folder, start]
        variables = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(checkout)}
        turn = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=variables, cwd=checkout)
    if turn.returncode != 0:
        raise SystemExit(f"The part {part} failed in {checkout}.")
    figures: Figures = json.loads(turn.stdout.splitlines()[-1])
    return figures


def table(part: str, turns: list[list[Figures]]) -> str:
    """Median, least and most over all turns of a checkout; with another one, how many times better this one is."""
    lines = [f"{part}: {PARTS[part][0].__doc__}", f"  {'':<22}{'median':>9}{'least':>9}{'most':>9}"]
    if len(turns) > 1:
        lines[-1] += f"{'other':>12}{'least':>9}{'most':>9}   times better, turn by turn"
    for label in turns[0][0]:
        row = f"  {label:<22}{_spread(turns[0], label)}"
        if len(turns) > 1:
            row += f"   {_spread(turns[1], label)}   {_ratios(label, *turns)}"
        lines.append(row)
    return "\n".join(lines) + "\n"


def _spread(turns: list[Figures], label: str) -> str:
    values = [value for figures in turns for value in figures[label]]
    numbers = (statistics.median(values), min(values), max(values))
    return "".join(f"{number:9.0f}" if number >= 1000 else f"{number:9.3g}" for number in numbers)


def _ratios(label: str, own: list[Figures], other: list[Figures]) -> str:
    pairs: list[Any] = [
        (statistics.median(a[label]), statistics.median(b[label])) for a, b in zip(own, other, strict=True)
    ]
    # A queue of 0 ms has no ratio.
    pairs = [(a, b) if label in RATES else (b, a) for a, b in pairs]
    return "  ".join(f"{a / b:.3g}" if b else "-" for a, b in pairs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--against", type=Path, help="a checkout with a .venv of its own, such as 0.1.0")
    parser.add_argument("--turns", type=int, default=2, help="turns of each checkout")
    parser.add_argument("--start", choices=("forked", "cold"), default="", help="of this version; 0.1.0 starts cold")
    parser.add_argument("--output", type=Path, help="all figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
