"""What accelerate launches for a warm-up: `accelerate launch -m ideator_rl.sft --config RECIPE.yaml [--key value …]`.

    --data FILE.jsonl                                 rows of a trajectory file
    --from-run RUN [--best K] [--above-baseline]      the best ideas of a run or search
    (neither)                                         made-up ideas of the environment's catalogue
    --out DIR                                         the model's folder; <output_dir>-sft if not given
    --adapters                                        train adapters of the recipe's LoRA keys, and merge them in

Exit status 0 when the model is there, 2 for an expected error, said in one sentence on stderr, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ideator_rl.errors import IdeatorError

if TYPE_CHECKING:
    from ideator_rl.training.recipe.recipe import Recipe
    from ideator_rl.training.sft.run import Wanted

BEST = 64


def main(argv: list[str] | None = None) -> int:
    try:
        given, overrides = parser().parse_known_args(sys.argv[1:] if argv is None else argv)
        recipe, wanted = asked(given, overrides)
        from ideator_rl.training.progress import Progress
        from ideator_rl.training.sft.run import sft

        sft(recipe, wanted, Progress())
    except IdeatorError as error:
        print(f"ideator_rl.sft: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ideator_rl.sft: interrupted; nothing was left.", file=sys.stderr)
        return 130
    if int(os.environ.get("RANK", "0")) == 0:
        scratch = " --scratch_model null" if recipe.ours.scratch_model else ""
        print(f"The model is in {wanted.out}. To train it: ideator-rl train {given.config}{scratch} --sft_steps 0 "
              f"--model_name_or_path {wanted.out}")  # fmt: skip
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of a warm-up, without those that name the recipe's keys."""
    options = argparse.ArgumentParser(prog="ideator_rl.sft", allow_abbrev=False)
    options.add_argument("--config", required=True, metavar="RECIPE.yaml")
    add_options(options)
    return options


def add_options(options: argparse.ArgumentParser) -> None:
    """The same for both command lines."""
    options.add_argument("--data", type=Path, metavar="FILE.jsonl", help="learn from the rows of a trajectory file")
    options.add_argument("--from-run", type=Path, metavar="RUN", help="learn from the best ideas of a run or search")
    options.add_argument("--best", type=int, default=BEST, metavar="K", help="how many of them, distinct by tree")
    options.add_argument("--above-baseline", action="store_true", help="only those that beat the baseline")
    options.add_argument("--out", type=Path, metavar="DIR", help="the model's folder; <output_dir>-sft if not given")
    options.add_argument("--adapters", action="store_true", help="train adapters of the recipe's LoRA keys, and merge")


def asked(given: argparse.Namespace, overrides: list[str]) -> tuple[Recipe, Wanted]:
    """The recipe and what is wanted of it, checked.

    Raises:
        IdeatorError: the recipe is not usable, or what is asked for cannot be done.
    """
    from ideator_rl.training.recipe.recipe import load_recipe
    from ideator_rl.training.sft.run import Wanted, check

    if given.best < 1:
        raise IdeatorError(f"--best is {given.best}. Expected at least 1.")
    recipe = load_recipe(given.config, overrides, batches=False)
    out = given.out or recipe.output_dir.with_name(f"{recipe.output_dir.name}-sft")
    wanted = Wanted(out, given.data, given.from_run, given.best, given.above_baseline, given.adapters)
    check(recipe, wanted)
    return recipe, wanted


if __name__ == "__main__":
    sys.exit(main())
