"""How many patches are restored that spell the file's code otherwise, by kind, and whether any is accepted wrongly.

usage: python benchmarks/patch_spelling.py [--seeds FIRST:LAST]

Seeded edits of eight files of installed packages (`tests/patch_spelling.py`), and one kind of damage each: the same
code with other comments, blank lines, quotes, commas or line breaks, HTML entities, `diff -U0`.  Exact: the intended
tree, byte by byte.  Same: equal up to blanks at line ends, or to what the compiler ignores.  WRONG: any other tree,
and any tree at all for a patch that must be refused.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from patch_damage import Damaged  # noqa: E402
from patch_spelling import REFUSED, SPELLINGS, edit, same_code  # noqa: E402

from ideator_rl.patch import PatchError, apply_patch  # noqa: E402

HELD_OUT = (20_000, 20_015)
"""Seeds that the search was not developed on; one patch of each kind a seed."""
TRIES = 12
"""Edits tried for one patch: not every damage applies to every edit."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", help="FIRST:LAST, LAST not included", default="{}:{}".format(*HELD_OUT))
    args = parser.parse_args()
    seeds, started = range(*map(int, args.seeds.split(":"))), time.monotonic()
    rows = {kind: _outcomes(kind, seeds) for kind in (*SPELLINGS, *REFUSED)}
    print(
        f"seeds {args.seeds}, {time.monotonic() - started:.0f} s, {platform.machine()}, {platform.python_version()}\n"
    )
    print("| damage | patches | repairable | exact | same | refused | wrong |\n|---|---|---|---|---|---|---|")
    for kind, counts in rows.items():
        print(_row(kind, counts))
    print(_row("**all**", sum(rows.values(), Counter())))


def _outcomes(kind: str, seeds: range) -> Counter[str]:
    counts: Counter[str] = Counter()
    for damaged in filter(None, (_patch(kind, seed) for seed in seeds)):
        counts["patches"] += 1
        counts["repairable"] += damaged.repairable
        try:
            tree = apply_patch(damaged.base, damaged.patch)
        except PatchError:
            counts["refused"] += damaged.repairable
            continue
        right = "exact" if tree == damaged.meant else "same" if same_code(tree, damaged.meant) else "wrong"
        # A patch that need not be restored counts only if it led to another tree.
        counts[right] += damaged.repairable or right == "wrong"
    return counts


def _patch(kind: str, seed: int) -> Damaged | None:
    """The damaged patch of a seed; None if the damage applies to none of its edits."""
    for attempt in range(TRIES):
        rng = random.Random(f"{kind} {seed} {attempt}")
        if damaged := {**SPELLINGS, **REFUSED}[kind](rng, edit(rng)):
            return damaged
    return None


def _row(kind: str, counts: Counter[str]) -> str:
    names = ("patches", "repairable", "exact", "same", "refused", "wrong")
    return f"| {kind} | " + " | ".join(str(counts[name]) for name in names) + " |"


if __name__ == "__main__":
    main()
