"""`ideator-rl search`: a search for the best idea, by a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from ideator_rl.cli.interrupt import keep_run
from ideator_rl.cli.options import probe_override
from ideator_rl.cli.output import print_json, print_text
from ideator_rl.cli.track import tracking_process
from ideator_rl.report.summary import summary
from ideator_rl.search.search_summary import read_search_summary, report_notes
from ideator_rl.storage.run_reader import read_run


def main(args: argparse.Namespace) -> int:
    """Returns 0 when a budget ended the search, whatever it found.

    Raises:
        IdeatorError: the recipe, or something that it names, is not usable.
    """
    from ideator_rl.search.config import load_search

    config = load_search(args.recipe, args.overrides + probe_override(args))
    if args.dry_run:
        from ideator_rl.search.dry_run import dry_run

        print_text(dry_run(config))
        return 0
    keep_run(config.folder, "finished experiments")
    # Imported here: a wrong recipe is refused without the second that matplotlib takes.
    from ideator_rl.report import write_report
    from ideator_rl.search.run import run_search

    def report(folder: Path) -> None:
        write_report([folder], folder / "report.html", notes=report_notes)

    with tracking_process(config.folder, config.track, config.track_runs):
        reason = run_search(config, args.resume, at_end=report)
    figures = read_search_summary(config.folder)
    assert figures is not None, "a search has just ended there"
    if args.json:
        run = read_run(config.folder)
        best = run.ranked[0] if run.ranked else None
        best_facts = {"id": best.id, "metric": best.metric, "idea": best.idea} if best else None
        facts = {"run": config.output_dir, "why": reason.text, "baseline": run.baseline, "best": best_facts}
        print_json(facts | figures.facts())
        return 0
    for line in (summary(config.folder), "", *figures.lines(), f"Ended by {reason.budget}: {reason.text.rstrip('.')}."):
        print_text(line)
    return 0
