"""`ideator-rl export`: a run's model and trajectories, with their cards, into a folder or onto the hub.

A search has trajectories alone.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from ideator_rl.cli.output import print_json, print_progress, print_text
from ideator_rl.errors import IdeatorError


def main(args: argparse.Namespace) -> int:
    """Write or push, then print where the model and the dataset are.

    Raises:
        IdeatorError: there is nothing to export, the folder exists, or the hub refuses.
    """
    if args.private and not args.push_to_hub:
        raise IdeatorError("--private is about repos on the hub. Give --push-to-hub REPO, or leave it out.")
    with redirect_stdout(sys.stderr):  # some libraries print on import, and a program reads stdout
        from ideator_rl.publishing.export import Options, export_to_folder, export_to_hub

    run = Path(args.run)
    options = Options(
        args.dtype, args.license, dataset=args.dataset_repo, dataset_only=args.dataset_only, report=print_progress
    )
    with redirect_stdout(sys.stderr):
        if args.push_to_hub:
            exported = export_to_hub(run, args.push_to_hub, args.dataset_repo, args.private, options)
        else:
            exported = export_to_folder(run, Path(args.out), options)
    if args.json:
        print_json(asdict(exported))
        return 0
    if exported.model:
        print_text(f"model:   {exported.model} ({exported.weights})")
    print_text(f"dataset: {exported.dataset} ({', '.join(f'{count} {name}' for name, count in exported.rows.items())})")
    return 0
