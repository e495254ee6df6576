"""`ideator-rl train`: start a training run; becomes the accelerate line that does it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ideator_rl.cli.output import print_progress


def main(args: argparse.Namespace) -> int:
    """Becomes the accelerate line, so that signals and the exit status are those of accelerate; does not return.

    Where one process will train, the recipe is read here first: accelerate alone takes seconds to import.

    Raises:
        IdeatorError: the recipe is not usable.
    """
    options = {"--accelerate-config": args.accelerate_config, "--num-processes": args.num_processes}
    if args.dry_run:
        from ideator_rl import train as module

        flags = [word for name, value in options.items() if value is not None for word in (name, str(value))]
        return module.main(["--config", args.recipe, *args.overrides, "--dry-run", *flags])
    if any(options.values()) or _one_process():
        from ideator_rl.training.recipe.processes import read_num_processes
        from ideator_rl.training.recipe.recipe import load_recipe

        load_recipe(args.recipe, args.overrides, read_num_processes(args.accelerate_config, args.num_processes) or 1)
    config = ["--config_file", args.accelerate_config] if args.accelerate_config else []
    config += ["--num_processes", str(args.num_processes)] if args.num_processes else []
    resume = ["--resume"] if args.resume else []
    argv = [*config, "-m", "ideator_rl.train", "--config", args.recipe, *args.overrides, *resume]
    print_progress("accelerate launch " + " ".join(argv))
    # --quiet: no traceback of accelerate follows the one sentence that a failed run ends with
    os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *argv])


def _one_process() -> bool:
    """Whether accelerate will start one process; a recipe's batches divide by the number of them."""
    cache = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    configured = any(Path(cache, "accelerate").glob("default_config.*"))
    return not configured and len(list(Path("/dev").glob("nvidia[0-9]*"))) < 2
