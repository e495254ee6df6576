"""The options of `train` and `sft`, for the commands and for the modules that accelerate launches."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from ideator_rl.errors import IdeatorError

BEST = 64

AddOptions = Callable[[argparse.ArgumentParser], None]


def train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", action="store_true", help="go on with the run in output_dir")
    parser.add_argument("--dry-run", action="store_true", help="estimate what it would cost, and start nothing")
    probe_option(parser)


def probe_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-probe", action="store_true", help="do not ask the LLMs for a few tokens before anything is paid"
    )


def probe_override(args: argparse.Namespace) -> list[str]:
    """The option as an override of a recipe."""
    return ["--probe", "false"] if args.no_probe else []


def new_options(new: argparse.ArgumentParser) -> None:
    new.add_argument("path", metavar="PATH", help="a new folder")
    new.add_argument("--name", help="default: the folder's name")
    around = new.add_mutually_exclusive_group()
    around.add_argument("--from", dest="source", metavar="FOLDER", help="your codebase; it is copied")
    files = "an example of OpenEvolve: PROGRAM EVALUATOR [CONFIG.yaml]"
    around.add_argument("--openevolve", nargs="+", type=Path, metavar="FILE", help=files)
    around.add_argument("--shinka", type=Path, metavar="FOLDER", help="an example of ShinkaEvolve")
    kind = "what a run leaves: lm (a language model), predictions for public inputs, or an answer that is to score"
    new.add_argument("--kind", metavar="lm|predictions|score", help=kind)
    new.add_argument("--script", metavar="FILE", help="the .py or .ipynb file of FOLDER that trains")
    data = "a file or folder that is data, once for each; default: a guess"
    new.add_argument("--data", action="append", metavar="PATH", help=data)
    new.add_argument("--metric", metavar="NAME[:min|max]", help="what is measured; default: val_loss:min")


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


def end_time(text: str) -> float:
    """`2026-12-01T08:00` by this machine's clock, Unix seconds, or `+SECONDS` from now, as Unix seconds.

    Raises:
        ArgumentTypeError: it is none of these, or has passed.
    """
    try:
        if text.startswith("+"):
            end = time.time() + float(text)
        elif text.replace(".", "", 1).isdecimal():
            end = float(text)
        else:
            end = datetime.fromisoformat(text).timestamp()
    except ValueError:
        end = math.nan
    if not time.time() < end < math.inf:
        raise argparse.ArgumentTypeError(
            f"expected a time to come, such as 2026-12-01T08:00, Unix seconds, or +SECONDS from now, got {text!r}"
        )
    return end


class OptionParser(argparse.ArgumentParser):
    """Raises instead of printing its usage and leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise IdeatorError(f"{message}.")


def parse(argv: list[str], *add_options: AddOptions) -> tuple[argparse.Namespace, list[str]]:
    """The options of a launched module, with `config`, and the overrides of the recipe.

    Raises:
        IdeatorError: no recipe, or an option with a wrong value.
    """
    parser = OptionParser(prog=f"ideator_rl.{Path(sys.argv[0]).stem}", allow_abbrev=False)
    parser.add_argument("--config", metavar="RECIPE.yaml", help="then any key of the recipe: --key value")
    for add in add_options:
        add(parser)
    args, overrides = parser.parse_known_args(argv)
    if not args.config:
        raise IdeatorError("No recipe was given. Expected --config RECIPE.yaml, for example recipes/quickstart.yaml.")
    return args, overrides


def hardware_model(text: str) -> str:
    """An argument that declares a model of machines."""
    from ideator_rl.experiment import HARDWARE, is_hardware

    if not is_hardware(text):
        raise argparse.ArgumentTypeError(f"expected {HARDWARE}; got {text!r}")
    return text


def seconds(text: str) -> float:
    """An argument of more than 0 seconds."""
    value = amount(text)
    if value == 0:
        raise argparse.ArgumentTypeError("expected more than 0 seconds")
    return value


def amount(text: str) -> float:
    """An argument from 0 up, finite."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected an amount from 0 up, got {text!r}")
    return value
