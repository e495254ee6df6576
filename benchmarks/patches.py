"""How many damaged patches are restored, by kind of damage, and whether any is accepted with another meaning.

usage: python benchmarks/patches.py [--seeds FIRST:LAST | --held-out] [--mpatch PYTHON] [--json FILE]

Seeded damage to seeded edits: catalogue edits of every environment that has a catalogue, and edits of files of
installed packages.  Each patch has one outcome: exact (the intended tree, byte by byte), refused, or WRONG (another
tree accepted).  Ours is compared with git apply --recount, GNU patch, and mpatch (a library for patches of language
models) if an interpreter with mpatch is args.  Hostile patches run with ours only: the other tools have no rules to
check, and would write outside the codebase.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from patch_answers import ANSWERS  # noqa: E402
from patch_damage import DIFFS, Damaged  # noqa: E402
from patch_edits import PACKAGES, real_edit  # noqa: E402
from patch_hostile import HOSTILE, RULES, guarded  # noqa: E402
from patch_tools import Tool, installed_tools  # noqa: E402
from patch_traps import TRAPS  # noqa: E402

from ideator_rl.patch import PatchError, Tree, apply_patch, judge  # noqa: E402

DEVELOPMENT = (0, 100)
"""Seeds that repairs were developed on."""
HELD_OUT = (10_000, 10_020)
PER_KIND = 20
"""Patches of each kind, from as many seeds as give one."""
TRIES = 12
"""Seeds tried for one patch: not every damage applies to every edit."""


@dataclass
class Row:
    kind: str
    group: str
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    """By tool: repairable-exact, repairable-refused, repairable-WRONG, and the same for the others; n/a."""

    def cell(self, tool: str) -> str:
        counts = self.outcomes.get(tool, Counter())
        repairable = sum(n for name, n in counts.items() if name.startswith("repairable"))
        wrong = sum(n for name, n in counts.items() if name.endswith("WRONG"))
        if not counts or counts["n/a"]:
            return "n/a"
        rate = f"{100 * counts['repairable exact'] / repairable:.0f} %" if repairable else "–"
        return f"{rate}, {wrong} wrong" if wrong else rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", help="FIRST:LAST, LAST not included")
    parser.add_argument("--held-out", action="store_true", help=f"seeds {HELD_OUT[0]}:{HELD_OUT[1]}")
    parser.add_argument("--mpatch", metavar="PYTHON", help="an interpreter that can import mpatch")
    parser.add_argument("--json", metavar="FILE", help="write every row to this file")
    args = parser.parse_args()
    first, last = HELD_OUT if args.held_out else DEVELOPMENT[:1] + (PER_KIND,)
    if args.seeds:
        first, last = map(int, args.seeds.split(":"))
    tools = installed_tools(args.mpatch)
    started = time.monotonic()
    rows = [_row(kind, group, range(first, last), tools) for group, kinds in GROUPS.items() for kind in kinds]
    _print(rows, tools, (first, last), time.monotonic() - started)
    if args.json:
        Path(args.json).write_text(json.dumps([row.__dict__ for row in rows], indent=1))


GROUPS = {
    "damaged diffs": DIFFS,
    "other forms of answers": ANSWERS,
    "nothing certain is meant": TRAPS,
    "hostile": HOSTILE,
}


def _row(kind: str, group: str, seeds: range, tools: list[Tool]) -> Row:
    row = Row(kind, group)
    for damaged in _patches(kind, group, seeds):
        _note(row, "ours", damaged, _ours(damaged, group))
        for tool in tools if group != "hostile" else []:
            reads_form = damaged.form in tool.forms
            tree = tool.tree(damaged.base, damaged.patch) if reads_form else None
            if reads_form:
                _note(row, tool.name, damaged, None if tree == damaged.base else tree)
            else:
                row.outcomes.setdefault(tool.name, Counter())["n/a" if group != "nothing certain is meant" else ""] += 1
    return row


def _patches(kind: str, group: str, seeds: range) -> Iterator[Damaged]:
    """One patch for each seed; if the damage does not apply to a seed's edit, the next edit of that seed is used."""
    for seed in seeds:
        for attempt in range(TRIES):
            name = f"{kind} {seed}" + f" {attempt}" * bool(attempt)
            rng, case = random.Random(name), real_edit(name)
            if group == "hostile":
                base, patch = HOSTILE[kind](rng, guarded(case.base))
                yield Damaged(base, patch, None, False)
                break
            damaged = GROUPS[group][kind](rng, case)  # type: ignore[operator]
            if damaged is not None:
                yield damaged
                break


def _ours(damaged: Damaged, group: str) -> Tree | None:
    try:
        tree = apply_patch(damaged.base, damaged.patch)
        if group == "hostile":
            judge(damaged.base, tree, RULES)
    except PatchError:
        return None
    return tree


def _note(row: Row, tool: str, damaged: Damaged, tree: Tree | None) -> None:
    outcome = "refused" if tree is None else "exact" if tree == damaged.meant else "WRONG"
    row.outcomes.setdefault(tool, Counter())[f"{'repairable' if damaged.repairable else 'other'} {outcome}"] += 1


def _print(rows: list[Row], tools: list[Tool], seeds: tuple[int, int], seconds: float) -> None:
    names = ["ours", *(tool.name for tool in tools)]
    print(f"seeds {seeds[0]}:{seeds[1]}, {seconds:.0f} s, {platform.machine()}, Python {platform.python_version()}; ")
    print(", ".join(f"{tool.name} ({tool.version})" for tool in tools) or "no other tool is installed")
    print("packages: " + ", ".join(f"{name} {version({'yaml': 'PyYAML'}.get(name, name))}" for name in PACKAGES))
    for group in GROUPS:
        print(f"\n| {group} | patches | repairable | {' | '.join(names)} |\n|---|---|---|{'---|' * len(names)}")
        for row in (row for row in rows if row.group == group):
            counts = row.outcomes.get("ours", Counter())
            repairable = sum(n for name, n in counts.items() if name.startswith("repairable"))
            cells = " | ".join(row.cell(name) for name in names)
            print(f"| {row.kind} | {counts.total()} | {repairable} | {cells} |")
    print()
    for name in names:
        total = sum((row.outcomes.get(name, Counter()) for row in rows), Counter())
        repairable = sum(n for key, n in total.items() if key.startswith("repairable"))
        wrong = sum(n for key, n in total.items() if key.endswith("WRONG"))
        hostile = sum(r.outcomes.get(name, Counter())["other WRONG"] for r in rows if r.group == "hostile")
        rate = 100 * total["repairable exact"] / max(1, repairable)
        hostile_note = f"; {hostile} hostile ones accepted" if name == "ours" else ""
        print(f"{name}: {total['repairable exact']} of {repairable} repairable ones exact ({rate:.1f} %), "
              f"{wrong} of {sum(n for key, n in total.items() if key.split()[-1:] != ['n/a'] and key)} "
              f"accepted with another meaning{hostile_note}")  # fmt: skip


if __name__ == "__main__":
    main()
