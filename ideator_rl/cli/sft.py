"""`ideator-rl sft`: warm an ideator up for a recipe; becomes the accelerate line that does it."""

from __future__ import annotations

import argparse
import os
import sys

from ideator_rl.cli.output import print_progress
from ideator_rl.sft import asked


def main(args: argparse.Namespace) -> int:
    """Becomes `accelerate launch -m ideator_rl.sft`, so that signals and the exit status are its own.

    The recipe and the sources are looked at here first: accelerate alone takes seconds to import.

    Raises:
        IdeatorError: the recipe is not usable, or what is asked for cannot be done.
    """
    args.config = args.recipe
    asked(args, args.overrides)
    words = ["-m", "ideator_rl.sft", "--config", args.recipe, *_options(args), *args.overrides]
    if args.accelerate_config:
        words = ["--config_file", args.accelerate_config, *words]
    print_progress("accelerate launch " + " ".join(words))
    # --quiet: what ends with one sentence is not followed by accelerate's own traceback
    os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *words])


def _options(args: argparse.Namespace) -> list[str]:
    given = {"--data": args.data, "--from-run": args.from_run, "--best": args.best, "--out": args.out}
    words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    flags = {"--above-baseline": args.above_baseline, "--adapters": args.adapters}
    return words + [name for name, value in flags.items() if value]
