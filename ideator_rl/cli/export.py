"""`ideator-rl export`: a run's model and trajectories, with their cards, into a folder or onto the hub."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

from ideator_rl.cli.output import emit, say, show
from ideator_rl.errors import IdeatorError


def main(args: argparse.Namespace) -> int:
    """Write or push, then say where it lies.

    Raises:
        IdeatorError: there is nothing to export, the folder is taken, or the hub refuses.
    """
    if args.private and not args.push_to_hub:
        raise IdeatorError("--private is about repos on the hub. Give --push-to-hub REPO, or leave it out.")
    with redirect_stdout(sys.stderr):  # some libraries log there when imported, and a program reads ours
        from ideator_rl.publishing.export import Options, export_to_folder, export_to_hub

    run = Path(args.run)
    options = Options(args.dtype, args.license, dataset=args.dataset_repo, tell=say)
    with redirect_stdout(sys.stderr):
        if args.push_to_hub:
            made = export_to_hub(run, args.push_to_hub, args.dataset_repo, args.private, options)
        else:
            made = export_to_folder(run, Path(args.out), options)
    if args.json:
        emit(made.facts())
        return 0
    show(f"model:   {made.model} ({made.weights})")
    show(f"dataset: {made.dataset} ({', '.join(f'{count} {name}' for name, count in made.rows.items())})")
    return 0
