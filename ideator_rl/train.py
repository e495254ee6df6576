"""What accelerate launches: `accelerate launch -m ideator_rl.train --config RECIPE.yaml [--key value …] [--resume]`.

Exit status 0 when the run ended by itself, 2 for an expected error, said in one sentence on stderr.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

from ideator_rl.errors import IdeatorError


def main(argv: list[str] | None = None) -> int:
    try:
        config, resume, overrides = arguments(sys.argv[1:] if argv is None else argv)
        from ideator_rl.training.progress import Progress

        progress = Progress()
        progress.say(f"reading {config}")
        with progress.phase("imports"):
            _quiet()
            from ideator_rl.training.recipe import load_recipe

            recipe = load_recipe(config, overrides)
            from ideator_rl.training.run import train
        train(recipe, resume, progress)
    except IdeatorError as error:
        print(f"ideator_rl.train: {error}", file=sys.stderr)
        return 2
    return 0


def arguments(argv: list[str]) -> tuple[str, bool, list[str]]:
    """The recipe's path, whether to resume, and the overrides.

    Raises:
        IdeatorError: no recipe was given.
    """
    words, config, resume = [], None, False
    rest = iter(argv)
    for word in rest:
        if word == "--resume":
            resume = True
        elif word == "--config":
            config = next(rest, None)
        elif word.startswith("--config="):
            config = word.partition("=")[2]
        else:
            words.append(word)
    if not config:
        raise IdeatorError("No recipe was given. Expected --config RECIPE.yaml, for example recipes/quickstart.yaml.")
    return config, resume, words


def _quiet() -> None:
    """Silence what a user of a recipe cannot act on; errors stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|trl|transformers|peft)\.")
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in ("trl", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
