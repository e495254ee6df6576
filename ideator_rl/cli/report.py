"""`ideator-rl report`: one HTML file about one run or several; or the same page, served while they go on."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ideator_rl.cli.interrupt import keep
from ideator_rl.cli.output import print_text
from ideator_rl.cli.target import find_trainer
from ideator_rl.errors import IdeatorError
from ideator_rl.search.search_summary import report_notes

WATCH_SECONDS, WATCH_SHARE = 5.0, 0.1
"""Between two pages of `--watch`, at least; and the share of the time, at most, that is spent on writing them."""
KEPT = "nothing was changed, and a run that is under way goes on"


def main(args: argparse.Namespace) -> int:
    """Returns 0 when the file is written, or the runs that are watched have ended.

    Raises:
        IdeatorError: a folder holds no run, the file cannot be written, or the port cannot be used.
    """
    if args.port and not args.serve:
        raise IdeatorError("--port is the port of --serve. Give --serve too, or leave it out.")
    if args.watch and args.serve:
        raise IdeatorError("--serve follows the run already. Leave --watch out.")
    folders = [Path(folder) for folder in args.runs]
    if args.serve:
        return _serve(args, folders)
    from ideator_rl.report import write_report  # matplotlib takes a second, which a wrong folder need not wait for

    out = Path(args.out or "report.html")
    if args.watch:
        _watch(args, folders, out)
    write_report(folders, out, args.embedder, report_notes)
    print_text(str(out))
    return 0


def _serve(args: argparse.Namespace, folders: list[Path]) -> int:
    from ideator_rl.report.serve import LivePage, ReportServer

    page = LivePage(folders, args.embedder, report_notes, lambda: _under_way(folders))
    server = ReportServer(page, args.port)
    keep(KEPT)
    print_text(server.url)
    server.serve()
    return 0


def _watch(args: argparse.Namespace, folders: list[Path], out: Path) -> None:
    """Write pages that load themselves again, as long as a process of this machine is at work on the runs."""
    from ideator_rl.report.page import Live, write_report

    keep(f"{out} holds what was read last, and a run that is under way goes on")
    while _under_way(folders):
        start = time.monotonic()
        write_report(folders, out, args.embedder, report_notes, Live("reload", WATCH_SECONDS))
        time.sleep(max(WATCH_SECONDS, (time.monotonic() - start) / WATCH_SHARE))


def _under_way(folders: list[Path]) -> bool:
    return any(find_trainer(folder) is not None for folder in folders)
