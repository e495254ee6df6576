"""`ideator-rl best`: the codebase of the best idea, with its patch and a note on how sure its value is."""

from __future__ import annotations

import argparse
from pathlib import Path

from ideator_rl.cli.output import print_json, print_text
from ideator_rl.cli.target import run_folder


def main(args: argparse.Namespace) -> int:
    """Returns 0 when the folder is written.

    Raises:
        IdeatorError: no success, fewer than `--rank`, a codebase that is nowhere, or a folder that holds something.
    """
    from ideator_rl.publishing.best import CODEBASE, NOTE, PATCH, best_codebase, write_best  # scipy takes a second

    out = Path(args.out)
    best = best_codebase(args.target, run_folder(args.target), args.rank)
    write_best(best, out)
    facts = best.facts()
    places = {"codebase": str(out / CODEBASE), "patch": str(out / PATCH), "note": str(out / NOTE)}
    if args.json:
        print_json(facts | places)
        return 0
    for name, place in places.items():
        print_text(f"{name + ':':<10}{place}")
    print_text(f"{'sure?':<10}{facts['sure']}")
    return 0
