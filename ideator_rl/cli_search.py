"""`ideator-rl search`: a search for the best idea, by a recipe."""

from __future__ import annotations

import argparse

from ideator_rl.cli_output import emit, show
from ideator_rl.diagnostics.summary import summary


def main(args: argparse.Namespace) -> int:
    """Returns 0 when a budget ended the search, whatever it found.

    Raises:
        IdeatorError: the recipe, or something that it names, is not usable.
    """
    from ideator_rl.search.config import load_search
    from ideator_rl.search.run import search

    config = load_search(args.recipe, args.overrides)
    ending = search(config, args.resume)
    if args.json:
        emit({"run": config.output_dir, "ended_by": ending.budget, "why": ending.words})
        return 0
    show(summary(config.folder))
    show(f"Ended by {ending.budget}: {ending.words}.")
    return 0
