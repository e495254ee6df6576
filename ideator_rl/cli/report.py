"""`ideator-rl report`: one HTML file about one run or several."""

from __future__ import annotations

import argparse
from pathlib import Path

from ideator_rl.cli.output import print_text
from ideator_rl.search.search_summary import report_notes


def main(args: argparse.Namespace) -> int:
    """Returns 0 when the file is written.

    Raises:
        IdeatorError: a folder holds no run, or the file cannot be written.
    """
    from ideator_rl.report import write_report  # matplotlib takes a second, which a wrong folder need not wait for

    write_report([Path(folder) for folder in args.runs], Path(args.out), args.embedder, report_notes)
    print_text(args.out)
    return 0
