"""What accelerate launches: `accelerate launch -m ideator_rl.train --config RECIPE.yaml [--key value …] [--resume]`.

With `--dry-run` nothing is started: the cost of the run is estimated, for the number of processes that
`--accelerate-config FILE` or `--num-processes N` gives.

Exit status 0 when the run ended by itself, 2 for an expected error, said in one sentence on stderr, 130 when it was
interrupted.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ideator_rl.errors import IdeatorError

LITTLE_BYTES = 16 << 20


def main(argv: list[str] | None = None) -> int:
    folder: Path | None = None
    try:
        given = arguments(sys.argv[1:] if argv is None else argv)
        from ideator_rl.training.progress import Progress
        from ideator_rl.training.recipe.check_names import check_installed, check_names
        from ideator_rl.training.recipe.recipe import load_recipe

        if given.dry_run:
            from ideator_rl.training.dry_run import dry_run
            from ideator_rl.training.recipe.processes import read_num_processes

            count = read_num_processes(given.accelerate_config, given.num_processes) or 1
            recipe = load_recipe(given.config, given.overrides, count)
            check_names(recipe)
            print(dry_run(recipe))
            return 0
        recipe = load_recipe(given.config, given.overrides)
        check_names(recipe)
        check_installed(recipe)
        from ideator_rl.publishing.card import model_card
        from ideator_rl.training.run import train

        folder = recipe.output_dir
        train(recipe, given.resume, Progress(), model_card)
        if int(os.environ.get("RANK", "0")) == 0:
            _report(folder)
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


def _report(folder: Path) -> None:
    """Write the run's report and print its summary."""
    from ideator_rl.report import write_report
    from ideator_rl.report.summary import summary

    write_report([folder], folder / "report.html")
    print(summary(folder), flush=True)


@dataclass(frozen=True)
class Arguments:
    config: str
    """The recipe's path."""
    resume: bool
    dry_run: bool
    overrides: list[str]
    accelerate_config: str | None = None
    num_processes: int | None = None


def arguments(argv: list[str]) -> Arguments:
    """Read a command line.

    Raises:
        IdeatorError: no recipe was given.
    """
    words: list[str] = []
    flags = {"--resume": False, "--dry-run": False}
    values: dict[str, str | None] = {"--config": None, "--accelerate-config": None, "--num-processes": None}
    rest = iter(argv)
    for word in rest:
        if word in flags:
            flags[word] = True
        elif (name := word.partition("=")[0]) in values:
            values[name] = word.partition("=")[2] if "=" in word else next(rest, None)
        else:
            words.append(word)
    config, count = values["--config"], values["--num-processes"]
    if not config:
        raise IdeatorError("No recipe was given. Expected --config RECIPE.yaml, for example recipes/quickstart.yaml.")
    if (count or values["--accelerate-config"]) and not flags["--dry-run"]:
        raise IdeatorError(
            "--accelerate-config and --num-processes are for --dry-run here; accelerate launch takes them."
        )
    if count is not None and not (count.isdecimal() and int(count)):
        raise IdeatorError(f"--num-processes is {count!r}. Expected a whole number from 1 up.")
    processes = int(count) if count else None
    return Arguments(config, flags["--resume"], flags["--dry-run"], words, values["--accelerate-config"], processes)


def _fail(sentence: str) -> int:
    """Say why not.  What a server or a model wrote may be quoted in it: nothing of that may act on the terminal."""
    from ideator_rl.text import visible

    print(f"ideator_rl.train: {visible(sentence)}", file=sys.stderr)
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
