"""The spool: records on this machine's disk that are not in their bucket yet.

A record that was paid for must outlast both an outage of the bucket and its worker.  It is written here and flushed to
the disk before the first try on a bucket that is a network away, and else when a try has failed.  The worker holds the
lock of its file and tries on; once it is gone, the next worker of this user on this machine publishes the record.

    <TMPDIR>/ideator_rl-spool-<uid>/<id>-<random>.json    {"bucket": URL, "record": {…, with the whole log}}
"""

from __future__ import annotations

import json
import logging
import os
import stat
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ideator_rl.config.reader import parse_json_object
from ideator_rl.executor import record_store
from ideator_rl.executor.retry import OUTAGE_ERRORS, RetriesExhausted, Retry
from ideator_rl.experiment import Experiment
from ideator_rl.files import NoFileLocks, sync_folder, try_lock
from ideator_rl.storage.bucket import Bucket, DamagedObject

log = logging.getLogger(__name__)


def publish(bucket: Bucket, record: Experiment, max_seconds: float, on_outage: Callable[[], None]) -> None:
    """Store a record, for as long as the bucket is out of reach and at most for `max_seconds`.

    Args:
        on_outage: called once when the bucket cannot be reached: release what others could use meanwhile.

    Raises:
        RetriesExhausted: it was out of reach for longer.  The record stays in the spool, if that could be written.
        DamagedObject: something else is in its place.
    """
    spooled = _SpooledRecord.write(bucket, record) if bucket.remote else None

    def begin_waiting() -> None:
        nonlocal spooled
        spooled = spooled or _SpooledRecord.write(bucket, record)
        on_outage()

    try:
        Retry(bucket.url, max_seconds).call_blocking(lambda: record_store.save_record(bucket, record), begin_waiting)
    except RetriesExhausted:
        raise
    except BaseException:
        _discard(spooled)  # it will never be stored
        raise
    _discard(spooled)


def publish_left(bucket: Bucket) -> int:
    """Store the records for this bucket that workers which are gone have left here; returns how many.

    An outage leaves the rest for the next call.  Costs one look at a folder when there are none.
    """
    published = 0
    try:
        for path in sorted(_folder().glob("*.json")) if _is_ours(_folder()) else ():
            spooled = _SpooledRecord.take(path)
            if spooled is not None:
                try:
                    published += spooled.publish(bucket)
                finally:
                    os.close(spooled.lock)
    except OUTAGE_ERRORS as error:
        log.warning("Records in %s were not published: %s", _folder(), error)
    return published


def waiting_ids() -> set[str]:
    """The experiments on this machine that have ended, and whose records wait for a bucket: they need no slot."""
    with suppress(OSError):
        return {name.partition("-")[0] for name in os.listdir(_folder()) if name.endswith(".json")}
    return set()


@dataclass
class _SpooledRecord:
    path: Path
    lock: int
    """The open file, locked for as long as a process takes care of it."""

    @classmethod
    def write(cls, bucket: Bucket, record: Experiment) -> _SpooledRecord | None:
        """None where this machine has no room or no safe place for it: it is then in memory alone."""
        folder = _folder()
        scratch = folder / f".{uuid.uuid4().hex}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            if not _is_ours(folder):
                raise PermissionError(f"{folder} belongs to another user, or others may write there")
            lock = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                try_lock(lock, scratch)
                body = json.dumps({"bucket": bucket.url, "record": json.loads(record.to_json())})
                with open(lock, "wb", closefd=False) as file:
                    file.write(body.encode())
                os.fsync(lock)
                path = folder / f"{record.id}-{scratch.name[1:]}.json"
                # It appears with its lock: no other worker takes it for one that was left.
                os.rename(scratch, path)
                sync_folder(str(folder))
                return cls(path, lock)
            except BaseException:
                os.close(lock)
                scratch.unlink(missing_ok=True)
                raise
        except (OSError, NoFileLocks) as error:
            log.warning("The record of %s is not on this machine's disk while it waits: %s", record.id, error)
            return None

    @classmethod
    def take(cls, path: Path) -> _SpooledRecord | None:
        """A file without an owner, locked; None for one whose worker lives."""
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            # Its owner may have removed it between the two calls.
            if try_lock(lock, path) and os.fstat(lock).st_nlink:
                return cls(path, lock)
            os.close(lock)
        return None

    def publish(self, bucket: Bucket) -> bool:
        """Store it if it is for this bucket.  Raises: BucketError, OSError."""
        try:
            body = parse_json_object(self.path.read_bytes())
            if body["bucket"] != bucket.url:
                return False
            record_store.save_record(bucket, Experiment.from_json(json.dumps(body["record"])))
        except (ValueError, KeyError, DamagedObject) as error:
            log.warning("The record in %s cannot be published, and is removed: %s", self.path, error)
        self.path.unlink(missing_ok=True)
        return True


def _discard(spooled: _SpooledRecord | None) -> None:
    if spooled is not None:
        with suppress(OSError):
            spooled.path.unlink()
        os.close(spooled.lock)


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / f"ideator_rl-spool-{os.getuid()}"


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder in which this user alone can write: what lies there becomes a result."""
    try:
        info = os.lstat(folder)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o022
