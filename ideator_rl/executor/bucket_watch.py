"""An observer of a bucket: which experiments runs wait for, and which attempts are alive, at the cost of two listings.

It has no thread of its own.  The scheduler, the pull worker and `status` each own one and call `look` at their pace.

Liveness needs no clock but that of this process.  An attempt is alive while its heartbeat changes: the version in the
listing, whatever times are in it.  It is dead when this observer has seen the same version for the lease.  A new
observer therefore waits for one lease, and one that could not look begins anew.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from ideator_rl.executor import record_store
from ideator_rl.executor.record_store import BEATS, QUEUE, Claim, QueueEntry
from ideator_rl.storage.bucket import Bucket

MAX_LOOK_GAP_SECONDS = 30.0
"""After a longer gap between two looks all ages start anew: this process was stopped, and workers may have been too."""


@dataclass
class _Beat:
    """A heartbeat as this observer saw it; `version` is empty while there is none."""

    version: str
    since: float
    """Monotonic seconds, when this version was first seen."""


class BucketWatch:
    """Used by one thread.  Others may read `queue`, which each look replaces."""

    def __init__(self, bucket: Bucket, every: float = 0.0):
        """
        Args:
            every: seconds between two looks, where its owner has a fixed pace.
        """
        self.bucket, self._max_gap = bucket, max(MAX_LOOK_GAP_SECONDS, 2 * every)
        self.queue: dict[str, QueueEntry] = {}
        """What runs wait for, as of the last look."""
        self._versions: dict[str, str] = {}
        self._beats: dict[str, _Beat] = {}
        self._looked: float | None = None

    def look(self) -> None:
        """List queue and heartbeats, and read the entries that are new or have changed.

        Raises:
            BucketError: the bucket is out of reach.  All stays as it was, and at the next look all ages start anew.
        """
        looked, self._looked = self._looked, None  # until this look has succeeded
        queue = {id: version for id, version in self.bucket.list(QUEUE).items() if version}
        beats = {id: version for id, version in self.bucket.list(BEATS).items() if version}
        changed = [id for id, version in queue.items() if self._versions.get(id) != version]
        if changed or len(queue) < len(self._versions):
            entries = record_store.read_queue(self.bucket, changed)
            # One that was deleted between listing and reading has no entry; it is read again when it is back.
            self.queue = {id: entry for id in queue if (entry := entries.get(id) or self.queue.get(id)) is not None}
            self._versions = queue
        self._update_ages(beats, looked)

    def _update_ages(self, beats: dict[str, str], looked: float | None) -> None:
        now = time.monotonic()
        if looked is None or now - looked > self._max_gap:
            self._beats = {}
        for id, version in beats.items():
            beat = self._beats.get(id)
            if beat is None or beat.version != version:
                self._beats[id] = _Beat(version, now)
        # Without a heartbeat: those that `alive` was asked for, for as long as a run waits for them.
        for id in self._beats.keys() - beats.keys():
            if id not in self.queue:
                del self._beats[id]
            elif self._beats[id].version:
                self._beats[id] = _Beat("", now)
        self._looked = now

    def alive(self, id: str, claim: Claim | None = None) -> bool:
        """Whether the attempt at an experiment that was claimed and has not ended is alive.

        Args:
            claim: of the attempt; for one of this machine, its process answers at once.
        """
        if claim is not None and claim.is_here:
            return claim.process_alive
        now = time.monotonic()
        # Between its claim and its first heartbeat an attempt has none.
        beat = self._beats.setdefault(id, _Beat("", now))
        return now - beat.since < record_store.LEASE_SECONDS

    @property
    def beats(self) -> dict[str, float]:
        """Seconds since each heartbeat changed, as far as this observer has seen; ids without one are left out."""
        now = time.monotonic()
        return {id: now - beat.since for id, beat in self._beats.items() if beat.version}
