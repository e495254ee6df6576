"""What accelerate launches: `accelerate launch -m ideator_rl.train --config RECIPE.yaml [--key value …] [--resume]`.

With `--dry-run` nothing is started: the cost of the run is estimated, for the number of processes that
`--accelerate-config FILE` or `--num-processes N` gives.

Exit status 0 when the run ended by itself, 2 for an expected error (one sentence on stderr), 130 when interrupted.
"""

from __future__ import annotations

import argparse
import errno
import shutil
import sys
from pathlib import Path

from ideator_rl.cli.interrupt import guard, keep_run
from ideator_rl.cli.options import accelerate_options, parse, probe_override, train_options
from ideator_rl.errors import IdeatorError

FULL_DISK_BYTES = 16 << 20
"""A disk with less free space counts as full."""


def main(argv: list[str] | None = None) -> int:
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except IdeatorError as error:
        # It may quote a server or a model: nothing in it may act on the terminal.
        from ideator_rl.text.display import visible
        from ideator_rl.training.session import OtherRankFailed

        if not isinstance(error, OtherRankFailed):  # rank 0 prints the reason, once
            print(f"ideator_rl.train: {visible(str(error))}", file=sys.stderr)
        return 2


def run(argv: list[str]) -> int:
    """Train in this process; returns 0.

    Raises:
        IdeatorError: the run cannot be done.
    """
    args, overrides = parse(argv, train_options, accelerate_options)
    overrides += probe_override(args)
    from ideator_rl.training.libraries import silence

    silence()
    if args.dry_run:
        return _dry_run(args, overrides)
    if args.accelerate_config or args.num_processes:
        raise IdeatorError(
            "--accelerate-config and --num-processes are for --dry-run here; accelerate launch takes them."
        )
    from ideator_rl.training.preflight import check_recipe
    from ideator_rl.training.progress import Progress
    from ideator_rl.training.recipe.recipe import load_recipe
    from ideator_rl.training.session import is_rank_zero

    recipe = load_recipe(args.config, overrides)
    folder = recipe.output_dir
    keep_run(folder, "finished experiments and checkpoints")
    progress = Progress()
    progress.wait("checking the recipe, the model and the environment")
    try:
        notes = check_recipe(recipe, args.resume)
        if is_rank_zero():
            for note in notes:
                progress.say(note)
        from ideator_rl.cli.track import tracking_process
        from ideator_rl.publishing.cards import model_card
        from ideator_rl.training.run import train

        tracker = recipe.ours.track if is_rank_zero() else ""
        with tracking_process(folder, tracker, recipe.ours.track_runs):
            train(recipe, args.resume, progress, model_card, at_end=_report)
    except IdeatorError:
        raise
    except Exception as error:
        if not _is_disk_full(error, folder):
            raise
        raise IdeatorError(
            f"There is no room left on the disk of {folder} ({error}). Free some, and go on with --resume."
        ) from error
    finally:
        progress.end()
    return 0


def _dry_run(args: argparse.Namespace, overrides: list[str]) -> int:
    from ideator_rl.environments.environment import load_environment
    from ideator_rl.training.dry_run import dry_run
    from ideator_rl.training.preflight import check_ideator, check_recipe
    from ideator_rl.training.recipe.processes import read_num_processes
    from ideator_rl.training.recipe.recipe import load_recipe

    count = read_num_processes(args.accelerate_config, args.num_processes) or 1
    recipe = load_recipe(args.config, overrides, count)
    # The checks of the run; what only this machine lacks is a note, and the hub is not asked.
    notes = check_recipe(recipe, args.resume, dry=True)
    if not notes:
        notes = check_ideator(recipe, load_environment(recipe.ours.env).at(recipe.ours.preset))
    print(dry_run(recipe, notes))
    return 0


def _report(folder: Path) -> None:
    """Write the run's report and print its summary."""
    from ideator_rl.report import write_report
    from ideator_rl.report.summary import summary

    write_report([folder], folder / "report.html")
    print(summary(folder), flush=True)


def _is_disk_full(error: BaseException | None, folder: Path) -> bool:
    """Whether a full disk caused an error; torch and safetensors hide the errno in other exceptions."""
    if folder.is_dir() and shutil.disk_usage(folder).free < FULL_DISK_BYTES:
        return True
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    guard("ideator_rl.train")
    sys.exit(main())
