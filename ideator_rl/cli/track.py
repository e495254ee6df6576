"""`ideator-rl track RUN_OR_BUCKET --to TRACKER`: sends experiments to a tracker, once or as they end.

A recipe's key `track` starts this command as a process of its own, so that neither a network that is away nor a
tracker's errors reach the run.  That process ends when its stdin is closed, which the end of the run does in any case.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ideator_rl.cli.output import print_progress, print_text
from ideator_rl.cli.target import bucket_at, find_trainer, run_folder
from ideator_rl.cli.watch import LOOK_SHARE
from ideator_rl.errors import IdeatorError
from ideator_rl.publishing.track import Cursor, TrackError, Uploader
from ideator_rl.publishing.tracked import BucketSource, RunSource, Source
from ideator_rl.storage.run_reader import JOURNAL
from ideator_rl.training.tracking import refuse_missing, run_name

PACE_SECONDS, MAX_PACE_SECONDS = 20.0, 600.0
"""Between two looks; and after failures in a row, which double it."""
LAST_LOOK_SECONDS = 60.0
"""How long the end of a run waits for its uploader, which then goes on alone."""


def main(args: argparse.Namespace) -> int:
    """Returns 0 when everything was sent.

    Raises:
        IdeatorError: the target is neither a run nor a bucket, or the tracker cannot be used.
    """
    refuse_missing(args.to, "--to names")
    if args.until_closed and not _run_began(Path(args.target)):
        return 0
    folder = run_folder(args.target)
    source: Source = RunSource(folder) if folder else BucketSource(bucket_at(args.target))
    files = Path(args.dir) if args.dir else folder or Path()
    cursor = Cursor(cursor_file(files, args.to, source.group))
    # Imported late: a tracker takes a second.
    from ideator_rl.publishing.trackers import open_tracker

    sink = open_tracker(args.to, files, args.project, source.group, cursor.ids)
    uploader = Uploader(source, sink, cursor, args.runs)
    try:
        count = _follow(uploader, args, folder) if args.follow or args.until_closed else _look(uploader)
    finally:
        sink.close()
        cursor.close()
    print_text(f"{count} experiments sent to {args.to} as {source.group}")
    return 0


def _look(uploader: Uploader, last: bool = True) -> int:
    try:
        return uploader.look(last)
    except IdeatorError:
        raise
    except Exception as error:
        # A tracker raises errors of its own for a network, a login or a disk.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise TrackError(f"The tracker failed ({reason}). Mend this and repeat: nothing is sent twice.") from error


def _follow(uploader: Uploader, args: argparse.Namespace, folder: Path | None) -> int:
    """Look again and again until the run has ended, or stdin is closed; returns how many experiments were sent."""
    count, pace = 0, PACE_SECONDS
    while True:
        start = time.process_time()
        # Before the look: what a run writes last must still be seen.
        over = folder is not None and (folder / "timings.json").is_file() and find_trainer(folder) is None
        try:
            count += _look(uploader, last=over)
            pace = PACE_SECONDS
        except IdeatorError as error:
            if over:
                raise
            print_progress(f"{error} The next try is in {pace:.0f} s.")
            pace = min(2 * pace, MAX_PACE_SECONDS)
        if over:
            return count
        # A look reads the whole journal.  What it computed counts, not its waits for the tracker.
        busy_pause = min((time.process_time() - start) / LOOK_SHARE, MAX_PACE_SECONDS)
        pause = max(pace * random.uniform(0.9, 1.1), busy_pause)
        if not args.until_closed:
            time.sleep(pause)
        elif _closed(pause):
            return count + _look(uploader)


def _closed(seconds: float) -> bool:
    """Wait; returns whether stdin was closed meanwhile."""
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable) and not os.read(0, 1)


def _run_began(folder: Path) -> bool:
    """Wait for a run's journal; returns whether it came before stdin was closed."""
    while not (folder / JOURNAL).is_file():
        if _closed(1.0):
            return False
    return True


def cursor_file(folder: Path, tracker: str, group: str) -> Path:
    """What was sent of a run or bucket to a tracker whose files are in a folder."""
    return folder / "track" / f"{tracker}-{hashlib.sha256(group.encode()).hexdigest()[:12]}.jsonl"


@contextmanager
def tracking_process(folder: Path, tracker: str, runs: str) -> Iterator[None]:
    """Send a run's experiments to a tracker as long as the block goes on, by a process of its own; none for "".

    Raises:
        TrackingError: the tracker is not installed.
    """
    if not tracker:
        yield
        return
    refuse_missing(tracker, "track names")
    run_name(folder)  # before the run and its uploader ask for it at once; makes the folder
    words = [sys.executable, "-P", "-m", "ideator_rl.cli", "track", str(folder), "--to", tracker, "--runs", runs]
    with open(folder / "track.log", "ab") as log:
        # A session of its own: a terminal's Ctrl-C is for the run.
        child = subprocess.Popen([*words, "--until-closed"], stdin=subprocess.PIPE, stdout=log, stderr=log,
                                 start_new_session=True)  # fmt: skip
    try:
        yield
    finally:
        assert child.stdin is not None
        child.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            if child.wait(LAST_LOOK_SECONDS):
                print_progress(f"{tracker} has not everything; {folder / 'track.log'} has the reason. Go on with "
                               f"`ideator-rl track {folder} --to {tracker}`.")  # fmt: skip
