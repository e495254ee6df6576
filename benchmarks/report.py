"""The report of a large run: how long it takes to write, how large it is, how soon it can be used in a browser.

    python benchmarks/report.py [--experiments 5000] [--keep FOLDER]

Generates a run of 5,000 experiments with texts as long as real ones (thoughts of hundreds of words, patches of tens
of lines, logs of 4 kB, all different), writes its report as `ideator-rl report` does, and opens it in Chromium.
Measures the seconds until the table can be used, an idea is open, and the first search through all texts is done.
Goal: usable in under 2 s, and under 15 MB.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ideator_rl.experiment import Experiment
from ideator_rl.report import write_report
from ideator_rl.storage.journal import Journal

WORDS = Path(argparse.__file__).read_text().split()
"""Some thousand real words, to generate texts from."""
STEP = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--embedder", default="hashed")
    parser.add_argument("--keep", type=Path, help="a folder for the run and its report")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "buffer.sqlite").exists():
            make_run(folder, args.experiments)
        page = folder / "report.html"
        started = time.monotonic()
        write_report([folder], page, args.embedder)
        print(f"{args.experiments} experiments, journal {(folder / 'buffer.sqlite').stat().st_size / 1e6:.1f} MB")
        print(f"written in {time.monotonic() - started:.1f} s, {page.stat().st_size / 1e6:.2f} MB")
        measure_browser(page, args.repeats)


def make_run(folder: Path, count: int) -> None:
    """Fifty ideas a step, four of ten failing, each from the second step on in answer to two of the best."""
    rng = random.Random(0)
    journal = Journal(folder / "buffer.sqlite")
    for replicate in range(3):
        journal.record(
            _experiment(rng, f"base{replicate}", "succeeded", "", implementer="baseline", replicate=replicate)
        )
    best: list[tuple[float, str]] = []
    for step in range((count + STEP - 1) // STEP):
        ideas = [_idea(rng) for _ in range(min(STEP, count - step * STEP))]
        journal.propose(step, [f"{_text(rng, 300)} {idea}" for idea in ideas])
        outcomes = []
        for place, idea in enumerate(ideas):
            kinds = ("succeeded", "failed", "timed_out", "unpatchable", "malformed")
            status = rng.choices(kinds, (6, 2, 1, 0.7, 0.3))[0]
            outcomes.append((step, place, _experiment(rng, f"{step:04x}{place:028x}", status, idea)))
        journal.settle_all(outcomes)
        for _, _, record in outcomes:
            if best and record.tree:
                journal.descend(record.id, tuple(id for _, id in rng.sample(best[:20], min(2, len(best)))), step)
        best = sorted(best + [(record.metric["value"], record.id) for _, _, record in outcomes if record.metric])[:20]
    journal.close()
    (folder / "recipe.yaml").write_text("env: made_up\nstrategy: evolution\nseed: 0\n")
    (folder / "timings.json").write_text('{"total": 36000.0}')


def _experiment(rng: random.Random, id: str, status: str, idea: str, **fields: object) -> Experiment:
    good = status == "succeeded"
    return Experiment(
        id, status, idea, "made_up", "cpu", tree=f"tree-{id}" if status not in ("unpatchable", "malformed") else "",
        metric={"name": "val_loss", "value": rng.gauss(2.6, 0.1), "direction": "min"} if good else None,
        reward=0.38 if good else 0.0, error=None if good else {"kind": status, "message": _text(rng, 60)},
        seconds={"implement": rng.random() * 9, "queue": rng.random() * 90, "run": 4 + rng.random(), "score": 2.5},
        patch=_patch(rng) if status != "malformed" else "", log=_text(rng, 600), isolation="bwrap",
        cost={"usd": 0.002}, **{"implementer": "llm", **fields},
    )  # fmt: skip


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=max(1, int(rng.gauss(words, words / 3)))))


def _idea(rng: random.Random) -> str:
    return f"[Experiment] {_text(rng, 60)} [Code Changes] {_text(rng, 40)} [End]"


def _patch(rng: random.Random) -> str:
    lines = [f"{rng.choice('+-  ')}    {_text(rng, 8)}" for _ in range(40)]
    old, new = (sum(line[0] in marks for line in lines) for marks in (" -", " +"))
    head = "diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n"
    return f"{head}@@ -{rng.randint(1, 300)},{old} +1,{new} @@\n" + "\n".join(lines) + "\n"


def measure_browser(page: Path, repeats: int) -> None:
    """Medians over fresh browser profiles; a first one warms the disk's cache."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    seconds_by_name: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        for turn in range(repeats + 1):
            browser = playwright.chromium.launch(executable_path=program, args=options)
            times = _times(browser.new_page(), page)
            browser.close()
            for name, value in times.items() if turn else ():
                seconds_by_name.setdefault(name, []).append(value)
    for name, values in seconds_by_name.items():
        print(f"{name}: {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f}, {repeats} opened)")


def _times(tab: Any, page: Path) -> dict[str, float]:
    """Seconds from the start of the navigation, by the browser's own clock; then seconds of each action."""
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-ready=yes]")
    usable = tab.evaluate("performance.getEntriesByName('ready')[0].startTime") / 1000
    loaded = tab.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd") / 1000
    started = time.monotonic()
    tab.click("#rows tbody a >> nth=20")
    tab.wait_for_selector("#idea-view h1")
    opened = time.monotonic() - started
    tab.go_back()
    started = time.monotonic()
    tab.fill("#f-text", "namespace formatter")
    tab.locator("#count", has_text=" of ").wait_for()
    searched = time.monotonic() - started
    started = time.monotonic()
    tab.click("#rows th button >> text=val_loss")
    tab.wait_for_selector("#rows th[aria-sort=ascending]")
    return {
        "usable": usable,
        "wholly loaded": loaded,
        "an idea opened": opened,
        "first search": searched,
        "sorted": time.monotonic() - started,
    }


if __name__ == "__main__":
    main()
