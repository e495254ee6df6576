"""Sends the experiments of a run or a bucket to a tracker: a run each, and one table of all.

Records are the truth and a tracker shows them: workers need no key and no network, and a tracker that is away loses
nothing.  One process reads what has ended (a run's journal, or `done/` of a bucket) and sends it, in the order of the
ends.  What was sent is in a file: a killed uploader that is started again sends nothing twice.
"""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from pathlib import Path
from typing import Any, Protocol

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import SUCCEEDED
from ideator_rl.files import open_lock, try_lock
from ideator_rl.publishing.tracked import GroupNews, Source, Tracked, read_lines, table_row, tracked

ALL, SUCCESSES, NONE = "all", "successes", "none"
"""Which experiments get a run of their own; the table has every one."""
MAX_ROWS = 10_000
"""Rows of the table: the newest."""
GROWTH = 1.1
"""A table is sent again when it has grown by this factor: all its versions together stay some times as large as it."""


class TrackError(IdeatorError):
    """The uploader cannot work."""


class Sink(Protocol):
    """A tracker.  What it has already is no error, and shows once."""

    def send(self, experiment: Tracked) -> None:
        """Make a run of an experiment; returns when the tracker has it, on disk if it is offline."""

    def send_group(self, news: GroupNews) -> None:
        """Add to the run of the group."""

    def close(self) -> None:
        """Send what is held back."""


class Cursor:
    """What was sent, in a file: one JSON line for each experiment, and for the numbers of what was sent of the group.

    Raises:
        TrackError: another uploader has it.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = open_lock(path.with_suffix(".lock"))
        if not try_lock(self._lock, path):
            raise TrackError(f"Another process sends to this tracker ({path}). Wait for its end, or end it.")
        self.ids: set[str] = set()
        self.sent = Counter[str]()
        # A line that a kill has cut short is of an experiment that is sent again.
        for line in read_lines(path):
            self.ids |= {line["id"]} if "id" in line else set()
            self.sent |= line.get("sent", {})
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - as long as the uploader works

    def add(self, id: str) -> None:
        self.ids.add(id)
        self._write({"id": id})

    def save_sent(self, sent: Counter[str]) -> None:
        self.sent = sent
        self._write({"sent": sent})

    def _write(self, line: dict[str, Any]) -> None:
        # A newline first: it ends what a kill has cut short.
        self._file.write("\n" + json.dumps(line))
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        os.close(self._lock)


class Uploader:
    """Sends what is new from a source to a tracker."""

    def __init__(self, source: Source, sink: Sink, cursor: Cursor, runs: str = ALL):
        self._source, self._sink, self._cursor, self._runs = source, sink, cursor, runs
        self._rows: deque[dict[str, Any]] = deque(maxlen=MAX_ROWS)
        self._total = 0

    def look(self, last: bool = False) -> int:
        """Send what is new; returns how many experiments got a run.

        Args:
            last: the table is sent even if it has hardly grown, and the curves with their newest point.
        """
        count = 0
        for record, step in self._source.new_records():
            wanted = self._runs == ALL or (self._runs == SUCCESSES and record.status == SUCCEEDED)
            if wanted and record.id not in self._cursor.ids:
                self._sink.send(tracked(record, step, self._source.group, self._source.redactor))
                self._cursor.add(record.id)
                count += 1
            # After the experiment was sent: an error above brings it again.
            self._rows.append(table_row(record, step, self._source.redactor))
            self._total += 1
        self._send_group(last)
        return count

    def _send_group(self, last: bool) -> None:
        # A copy: what could not be sent is sent at the next look.
        sent = self._cursor.sent.copy()
        news = self._source.group_news(sent, last)
        if self._total > sent["rows"] * (1 if last else GROWTH):
            news.table = list(self._rows)
            sent["rows"] = self._total
        if news:
            self._sink.send_group(news)
            self._cursor.save_sent(sent)
