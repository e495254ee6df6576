"""`ideator-rl train` and `ideator-rl sft`: each becomes the accelerate line that runs the module of its name."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from ideator_rl.cli.options import AddOptions, OptionParser, accelerate_options, sft_options, train_options
from ideator_rl.cli.output import print_progress


def train(args: argparse.Namespace) -> int:
    """Becomes the accelerate line; a dry run stays in this process.

    Raises:
        IdeatorError: the recipe is not usable.
    """
    if args.dry_run:
        from ideator_rl import train as module

        return module.main(_module_argv(args, train_options, accelerate_options))
    # accelerate takes seconds to import: refuse a wrong recipe before, where the number of processes is known.
    if args.accelerate_config or args.num_processes or _starts_one_process():
        from ideator_rl.training.recipe.processes import read_num_processes
        from ideator_rl.training.recipe.recipe import load_recipe

        load_recipe(args.recipe, args.overrides, read_num_processes(args.accelerate_config, args.num_processes) or 1)
    _launch("ideator_rl.train", _module_argv(args, train_options), args)


def sft(args: argparse.Namespace) -> int:
    """Becomes the accelerate line.

    Raises:
        IdeatorError: the recipe or the source of ideas is not usable.
    """
    from ideator_rl.sft import read_request

    args.config = args.recipe
    read_request(args, args.overrides)
    _launch("ideator_rl.sft", _module_argv(args, sft_options), args)


def _module_argv(args: argparse.Namespace, *add_options: AddOptions) -> list[str]:
    """The command line of the launched module: the options that differ from their defaults, then the overrides."""
    parser = OptionParser()
    for add in add_options:
        add(parser)
    argv = ["--config", args.recipe]
    for name, default in vars(parser.parse_args([])).items():
        value, flag = getattr(args, name), f"--{name.replace('_', '-')}"
        if value is True:
            argv.append(flag)
        elif value != default:
            argv += [flag, str(value)]
    return argv + args.overrides


def _launch(module: str, module_argv: list[str], args: argparse.Namespace) -> NoReturn:
    """Replace this process by accelerate, so that signals and the exit status are those of the run."""
    argv = ["--config_file", args.accelerate_config] if args.accelerate_config else []
    argv += ["--num_processes", str(args.num_processes)] if args.num_processes else []
    argv += ["-m", module, *module_argv]
    print_progress("accelerate launch " + " ".join(argv))
    # --quiet: no traceback of accelerate follows the one sentence that a failed run ends with
    os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *argv])


def _starts_one_process() -> bool:
    """Whether accelerate will start one process; a recipe's batches must divide by the number of them."""
    cache = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    configured = any(Path(cache, "accelerate").glob("default_config.*"))
    return not configured and len(list(Path("/dev").glob("nvidia[0-9]*"))) < 2
