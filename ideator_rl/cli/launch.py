"""`ideator-rl train` and `ideator-rl sft`: their options, and the accelerate line that each becomes.

The modules that accelerate launches, `ideator_rl.train` and `ideator_rl.sft`, read the same options with `parse`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ideator_rl.cli.output import print_progress
from ideator_rl.errors import IdeatorError

BEST = 64

AddOptions = Callable[[argparse.ArgumentParser], None]


def train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", action="store_true", help="go on with the run in output_dir")
    parser.add_argument("--dry-run", action="store_true", help="estimate what it would cost, and start nothing")


def sft_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="FILE.jsonl", help="learn from the rows of a trajectory file")
    parser.add_argument("--from-run", type=Path, metavar="RUN", help="learn from the best ideas of a run or search")
    parser.add_argument("--best", type=int_from(1), default=BEST, metavar="K", help="how many, distinct by tree")
    parser.add_argument("--above-baseline", action="store_true", help="only those that beat the baseline")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the model's folder; <output_dir>-sft if not given")
    parser.add_argument("--adapters", action="store_true", help="train adapters of the recipe's LoRA keys, and merge")


def accelerate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--accelerate-config", metavar="FILE", help="a config file for accelerate launch")
    parser.add_argument("--num-processes", type=int_from(1), metavar="N", help="processes that train, one a GPU")


def int_from(minimum: int) -> Callable[[str], int]:
    """An argparse type: whole numbers of at least `minimum`."""

    def parse_int(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"expected a whole number from {minimum} up, got {text!r}")
        return int(text)

    return parse_int


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing its usage and leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise IdeatorError(f"{message}.")


def parse(argv: list[str], *add_options: AddOptions) -> tuple[argparse.Namespace, list[str]]:
    """The options of a launched module, with `config`, and the overrides of the recipe.

    Raises:
        IdeatorError: no recipe, or an option with a wrong value.
    """
    parser = _Parser(allow_abbrev=False, add_help=False)
    parser.add_argument("--config")
    for add in add_options:
        add(parser)
    args, overrides = parser.parse_known_args(argv)
    if not args.config:
        raise IdeatorError("No recipe was given. Expected --config RECIPE.yaml, for example recipes/quickstart.yaml.")
    return args, overrides


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
    parser = _Parser()
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
