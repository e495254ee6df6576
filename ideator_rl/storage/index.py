"""A local index of a bucket's results, for readers of many: `status`, `rerun`, a search's archive, trackers.

A result never changes, so each is read from the bucket once and kept in SQLite on this host.  New results are found by
the names in `done/<day>/`, at the cost of what is new; now and then all names in `experiments/` are listed too, since a
worker that is killed between its result and that name leaves none.  A bucket of files is always listed in full, which
costs one look at a folder.

The index is a cache: losing it costs one listing and one read of each result.  Where a read or a write shows that its
file is damaged, it is made anew; where the file cannot be written, as on a full disk, it continues in memory.  Several
processes may use it at once.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from ideator_rl.experiment import Experiment
from ideator_rl.files import local_cache
from ideator_rl.storage.bucket import Bucket, DamagedObject, folder_of

VERSION = 1
BATCH = 512
"""Results of one read from the bucket and one transaction."""
LISTING_SECONDS = 3600.0
"""Between two listings of all experiments of a remote bucket."""
OPEN_DAYS = 3
"""Days of `done/` that are looked at again and again."""
_SCHEMA = """
create table if not exists results(row integer primary key autoincrement, id text unique not null, mark text not null,
    status text not null, gpu_seconds real not null, body blob not null);
create table if not exists facts(name text primary key, value text not null);
"""

log = logging.getLogger(__name__)

T = TypeVar("T")
Load = Callable[[Bucket, Iterable[str]], Iterator[tuple[str, Experiment | DamagedObject]]]
"""Reads the records that there are of some experiments, as `record_store.load_records` does."""


class ResultIndex:
    """The results of one bucket.  To be used by one thread.

    Args:
        load: reads records from the bucket.

    Raises:
        BucketError: in each method, since a damaged index is filled anew: the bucket is out of reach.
    """

    def __init__(self, bucket: Bucket, load: Load):
        self.bucket, self._load = bucket, load
        # Where a damaged index is made anew: at its path once, then in memory.
        self._places = [_index_file(bucket), None]
        self._db = _open(self._places[0])
        self._last_row = 0
        """The largest row number that a caller got."""
        # Ids with their marks, as this process knows them.  Another process may have read more: a result that is then
        # read twice changes nothing.
        self._marks: dict[str, str] = self._repairing(
            lambda: dict(self._db.execute("select id, mark from results")), fill=False
        )

    def __enter__(self) -> ResultIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, id: str) -> bool:
        return id in self._marks

    def close(self) -> None:
        self._db.close()

    def update(self) -> int:
        """Read what is new in the bucket; returns how many results that were.

        Raises:
            DamagedObject: a result is damaged.  Those read before it are kept.
        """
        return self._repairing(self._update, fill=False)

    def statuses(self) -> dict[str, int]:
        """How many results have each status, in the order in which the statuses appeared."""
        query = "select status, count(*) from results group by status order by min(row)"
        return self._repairing(lambda: dict(self._db.execute(query)))

    def gpu_hours(self) -> float:
        """GPU-hours of all runs that led to a result."""
        query = "select total(gpu_seconds) from results"
        return self._repairing(lambda: float(self._db.execute(query).fetchone()[0])) / 3600

    def records(self, status: str | None = None, after: int = 0) -> Iterator[tuple[int, Experiment]]:
        """Row numbers and records, in the order in which they entered the index.

        Once a damaged index is made anew, all records come again, with larger row numbers.

        Args:
            status: only records with this status.
            after: only rows with a larger number.
        """
        query = "select row, body from results where row > ? and (? is null or status = ?) order by row limit ?"
        # In batches: a cursor that stays open would keep other processes from shortening the write-ahead log.
        while rows := self._repairing(partial(self._rows, query, (after, status, status, BATCH))):
            after = rows[-1][0]
            self._last_row = max(self._last_row, after)
            yield from ((row, Experiment.from_json(body)) for row, body in rows)

    def _rows(self, query: str, arguments: tuple[object, ...]) -> list[tuple[int, bytes]]:
        return [(row, zlib.decompress(body)) for row, body in self._db.execute(query, arguments)]

    def _repairing(self, action: Callable[[], T], fill: bool = True) -> T:
        """The answer of an action on the database, which is made anew where the action fails.

        Args:
            fill: a new database must be filled before the action.
        """
        is_new = False
        while True:
            try:
                if is_new and fill:
                    self._update()
                return action()
            except sqlite3.ProgrammingError:  # closed, or used by another thread
                raise
            except (sqlite3.DatabaseError, zlib.error) as error:
                if not self._places:
                    raise
                self._replace(error)
                is_new = True

    def _replace(self, error: Exception) -> None:
        """Continue with an empty database, because of an error of the present one."""
        with suppress(sqlite3.Error):
            self._db.close()
        # An operational error, such as of a full disk, shows no damage: other processes may still use the file.
        path = None if isinstance(error, sqlite3.OperationalError) else self._places[0]
        self._places = [] if path is None else [None]
        reason = "is damaged and made anew" if path else "cannot be used"
        log.warning("The index of %s %s (%s): every result is read from the bucket.", self.bucket.url, reason, error)
        self._db = _open(path, anew=True)
        self._marks = {}
        with suppress(sqlite3.Error), self._db:  # the next write shows the same error
            # A caller that asks for rows after its last one must miss none.
            self._db.execute("insert into sqlite_sequence values('results', ?)", (self._last_row,))

    def _update(self) -> int:
        new, day = self._new_names()
        began, listing = time.time(), self._listing_is_due()
        if listing:
            ids = self.bucket.list("experiments").keys()
            new = {id: "" for id in ids if id not in self._marks} | new
            # A user may have removed experiments, to have them run again.
            gone = self._marks.keys() - ids
            with self._db:
                self._db.executemany("delete from results where id = ?", [(id,) for id in gone])
            self._marks = {id: mark for id, mark in self._marks.items() if id not in gone}
        names = list(new.items())
        count = sum(self._read(names[start : start + BATCH]) for start in range(0, len(names), BATCH))
        # Only now: a process that is killed before this looks at all the names once more.
        self._set_fact("day", day)
        if listing:
            self._set_fact("listed", str(began))
        return count

    def _new_names(self) -> tuple[dict[str, str], str]:
        """Ids in `done/` that this index has not read, each with its mark: the day and the version of the name; and
        the first day that the next look has to read."""
        marks, first = dict[str, str](), self._fact("day")
        days = [day for day in sorted(self.bucket.list("done")) if day >= first]
        for day in days:
            # A result may be under two days, stored again after an outage or by a second attempt: the last one counts.
            marks |= {id: f"{day}/{version}" for id, version in self.bucket.list(f"done/{day}").items()}
        # The result of an experiment that was removed and run again has another mark.
        new = {id: mark for id, mark in marks.items() if self._marks.get(id) != mark}
        # The clocks of workers differ: the last days stay open.
        return new, days[-OPEN_DAYS] if len(days) > OPEN_DAYS else first

    def _read(self, batch: list[tuple[str, str]]) -> int:
        marks, rows = dict(batch), []
        # An experiment that waits or runs has no record yet.
        for id, record in self._load(self.bucket, marks):
            if isinstance(record, DamagedObject):
                raise record
            body = zlib.compress(record.to_json().encode(), 1)
            rows.append((id, marks[id], record.status, record.seconds.get("gpu", 0.0), body))
        with self._db:
            self._db.executemany("delete from results where id = ? and mark != ?", [row[:2] for row in rows])
            self._db.executemany("insert or ignore into results values(null, ?, ?, ?, ?, ?)", rows)
        self._marks |= {id: mark for id, mark, *_ in rows}
        return len(rows)

    def _listing_is_due(self) -> bool:
        age = time.time() - float(self._fact("listed") or 0)
        return not self.bucket.remote or not 0 <= age < LISTING_SECONDS

    def _fact(self, name: str) -> str:
        row = self._db.execute("select value from facts where name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def _set_fact(self, name: str, value: str) -> None:
        with self._db:
            self._db.execute("insert or replace into facts values(?, ?)", (name, value))


def read_results(bucket: Bucket, load: Load, status: str | None = None) -> list[Experiment]:
    """Every result of a bucket, in the order of its index.

    Args:
        load: as for `ResultIndex`.
        status: only results with this status.

    Raises:
        BucketError: the bucket is out of reach, or a result is damaged.
    """
    with ResultIndex(bucket, load) as index:
        index.update()
        # By id: an index that is made anew in between returns its records again.
        return list({record.id: record for _, record in index.records(status)}.values())


def _index_file(bucket: Bucket) -> Path | None:
    """The file of a bucket's index on this host; None for a bucket that ends with this process."""
    if not bucket.remote and folder_of(bucket.url) is None:
        return None
    return local_cache("index") / f"{hashlib.sha256(bucket.url.encode()).hexdigest()[:32]}-{VERSION}.sqlite"


def _open(path: Path | None, anew: bool = False) -> sqlite3.Connection:
    """The database at a path; in memory for None and where no file can be written.

    Args:
        anew: remove the file that is there; done in any case if it is no database.
    """
    if path is None:
        return _connect(":memory:")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for end in ("", "-wal", "-shm") if anew else ():
            Path(f"{path}{end}").unlink(missing_ok=True)
        return _connect(str(path))
    except (OSError, sqlite3.DatabaseError) as error:
        if not anew and isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            return _open(path, anew=True)
        log.warning("The index %s cannot be used (%s): every result is read from the bucket.", path, error)
        return _connect(":memory:")


def _connect(name: str) -> sqlite3.Connection:
    db = sqlite3.connect(name, timeout=30)
    # A power failure may cost the newest rows, which are then read again.
    db.executescript(f"pragma journal_mode=wal; pragma synchronous=normal; {_SCHEMA}")
    return db
