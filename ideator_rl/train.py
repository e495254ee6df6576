"""What accelerate launches: `accelerate launch -m ideator_rl.train --config RECIPE.yaml [--key value …] [--resume]`.

Exit status 0 when the run ended by itself, 2 for an expected error, said in one sentence on stderr, 130 when it was
interrupted.
"""

from __future__ import annotations

import errno
import shutil
import sys
from pathlib import Path

from ideator_rl.errors import IdeatorError

LITTLE_BYTES = 16 << 20


def main(argv: list[str] | None = None) -> int:
    folder: Path | None = None
    try:
        config, resume, overrides = arguments(sys.argv[1:] if argv is None else argv)
        from ideator_rl.training.progress import Progress
        from ideator_rl.training.recipe import load_recipe
        from ideator_rl.training.run import train

        recipe = load_recipe(config, overrides)
        folder = recipe.output_dir
        train(recipe, resume, Progress())
    except IdeatorError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("ideator_rl.train: interrupted. The same line with --resume goes on.", file=sys.stderr)
        return 130
    except Exception as error:
        if folder is None or not _no_room(error, folder):
            raise
        return _fail(f"There is no room left on the disk of {folder} ({error}). Free some, and go on with --resume.")
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


def _fail(sentence: str) -> int:
    print(f"ideator_rl.train: {sentence}", file=sys.stderr)
    return 2


def _no_room(error: BaseException | None, folder: Path) -> bool:
    """Whether a full disk is behind an error; torch and safetensors hide the errno in texts of their own."""
    if folder.is_dir() and shutil.disk_usage(folder).free < LITTLE_BYTES:
        return True
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    sys.exit(main())
