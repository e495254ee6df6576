"""What accelerate launches for a warm-up: `accelerate launch -m ideator_rl.sft --config RECIPE.yaml [--key value …]`.

    --data FILE.jsonl                                 rows of a trajectory file
    --from-run RUN [--best K] [--above-baseline]      the best ideas of a run or search
    (neither)                                         ideas sampled from the environment's catalogue
    --out DIR                                         the model's folder; <output_dir>-sft if not given
    --adapters                                        train adapters of the recipe's LoRA keys, and merge them in

Exit status 0 when the model is stored, 2 for an expected error (one sentence on stderr), 130 when interrupted.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING

from ideator_rl.cli.interrupt import guard, keep
from ideator_rl.cli.options import parse, sft_options
from ideator_rl.errors import IdeatorError

if TYPE_CHECKING:
    from ideator_rl.training.recipe.recipe import Recipe
    from ideator_rl.training.sft.run import WarmupRequest


def main(argv: list[str] | None = None) -> int:
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except IdeatorError as error:
        print(f"ideator_rl.sft: {error}", file=sys.stderr)
        return 2


def run(argv: list[str]) -> int:
    """Train in this process; returns 0.

    Raises:
        IdeatorError: the warm-up cannot be done.
    """
    args, overrides = parse(argv, sft_options)
    recipe, request = read_request(args, overrides)
    from ideator_rl.training.libraries import silence
    from ideator_rl.training.progress import Progress
    from ideator_rl.training.sft.run import sft

    silence()
    keep(
        lambda: (
            f"the model is complete in {request.out}"
            if request.out.exists()
            else "no model was stored, and the same line starts anew"
        )
    )
    sft(recipe, request, Progress())
    if int(os.environ.get("RANK", "0")) == 0:
        scratch = " --scratch_model null" if recipe.ours.scratch_model else ""
        config, model = shlex.quote(str(args.config)), shlex.quote(str(request.out))
        print(f"The model is in {request.out}. To train it: ideator-rl train {config}{scratch} --sft_steps 0 "
              f"--model_name_or_path {model}")  # fmt: skip
    return 0


def read_request(args: argparse.Namespace, overrides: list[str]) -> tuple[Recipe, WarmupRequest]:
    """The recipe and the request of a command line, both checked.

    Args:
        args: `config`, and the options of `sft_options`.

    Raises:
        IdeatorError: the recipe or the source of ideas is not usable.
    """
    from ideator_rl.training.preflight import check_recipe
    from ideator_rl.training.recipe.recipe import load_recipe
    from ideator_rl.training.sft.run import WarmupRequest, check

    recipe = load_recipe(args.config, overrides, batches=False)
    out = args.out or recipe.output_dir.with_name(f"{recipe.output_dir.name}-sft")
    request = WarmupRequest(out, args.data, args.from_run, args.best, args.above_baseline, args.adapters)
    check(recipe, request)
    check_recipe(recipe, for_rewards=False)
    return recipe, request


if __name__ == "__main__":
    guard("ideator_rl.sft")
    sys.exit(main())
