"""The pull worker: runs on this node what a bucket waits for, without an engine between the two.

    look at the bucket → choose at random → take slots → claim → start the process of the attempt → look at its end

- It looks while a slot is free: every 1 to 10 s at a remote bucket, every 0.1 to 0.5 s at a folder.  Without a free
  slot it looks often enough to see which heartbeats have stopped.
- It claims here, before it starts a process: of nodes that choose the same experiment, one starts a process.
- What failed on this node is left to other nodes for a while, and a node on which nothing succeeds rests.
- At the end of its time, or by SIGTERM, it takes nothing more, and what runs ends as preempted, which is free.
- The processes that it starts end with it, however it ends.
"""

from __future__ import annotations

import os
import random
import select
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ideator_rl.environments.environment import Resources
from ideator_rl.executor import record_store
from ideator_rl.executor.backends.backend import Job
from ideator_rl.executor.backends.local import LocalBackend
from ideator_rl.executor.breaker import UNCLAIMED_IN_A_ROW, Breaker
from ideator_rl.executor.bucket_watch import MAX_LOOK_GAP_SECONDS
from ideator_rl.executor.node import NodeQueue, Terms
from ideator_rl.executor.record_store import DEAD, FAILED, PREEMPTED, Claim, QueueEntry
from ideator_rl.executor.retry import OUTAGE_ERRORS
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import Bucket, DamagedObject

FOLDER_PACE, REMOTE_PACE, OUTAGE_PACE = (0.1, 0.5), (1.0, 10.0), (2.0, 60.0)
"""Seconds between two looks: after one that had something to start, and at most."""
BUSY_PACE = 0.75 * MAX_LOOK_GAP_SECONDS
"""Without a free slot.  After a longer gap all heartbeats would seem new, and the experiments of a node that died would
wait until this one has nothing to do."""
MAX_REFUSED, MAX_ENDED = 3, UNCLAIMED_IN_A_ROW
"""Claims in a row that other nodes have won, and processes that have ended, before the bucket is looked at anew."""
TERM_SECONDS, MARGIN = 8.0, 15.0
"""For processes to end after SIGTERM, and how long before the end of the node's time they get it."""
SHORTEST_JOB = 60.0


@dataclass(frozen=True)
class Running:
    claim: Claim
    needs: Resources
    started: float
    """Monotonic seconds."""


class PullWorker:
    """One thread calls all methods.  Only `stop` may run in another one, while the first is stopped by a signal."""

    def __init__(self, bucket: Bucket, backend: LocalBackend, terms: Terms, report: Callable[[str], None] = print):
        """
        Args:
            backend: it has the machine's slots, and starts the processes.
            report: prints a line for a person.
        """
        self.bucket, self.backend, self.terms, self.report = bucket, backend, terms, report
        self.queue = NodeQueue(bucket, terms, report)
        # What runs here, and what has ended since the last look; `stop` ends those of both that have no record.
        self._running: dict[str, Running] = {}
        self._ended: dict[str, Running] = {}
        # The experiment that is being claimed now: a signal may come between the claim and the start of its process.
        self._claiming: QueueEntry | None = None
        # To be tried, the last one first, as of the last look.
        self._candidates: list[QueueEntry] = []
        self._breaker = Breaker("attempts in a row failed on this node")
        self._paces = REMOTE_PACE if bucket.remote else FOLDER_PACE
        self._pace, self._next_look, self._next_busy_look, self._out_of_reach = 0.0, 0.0, 0.0, False
        backend.before_start = self._claim

    def facts(self) -> dict[str, Any]:
        """What a report of this node holds; any thread may ask."""
        return {"running": len(self._running), "breaker": self._breaker.reason}

    def serve(self) -> None:
        """Take experiments until the node's time is over, or nothing has come for long."""
        try:
            last_busy = time.monotonic()
            while True:
                now, left = time.monotonic(), self.terms.until - time.time() - MARGIN
                last_busy = now if self._running else last_busy
                idle = now - last_busy >= self.terms.idle or left < SHORTEST_JOB
                if left < 0 or (idle and not self._running):
                    return
                self._step(left)
        finally:
            self.stop()

    def _step(self, left: float) -> None:
        for id in [id for id in self._running if not self.backend.active(id)]:
            self._ended[id] = self._running.pop(id)
        try:
            # A look shows how what ran before has ended: nothing is taken while too little is known of that.
            due = self._next_look if self._ended or self._has_room() else self._next_busy_look
            if time.monotonic() >= due or len(self._ended) >= MAX_ENDED:
                self._look()
            while len(self._ended) < MAX_ENDED and self._has_room() and self._take(left):
                pass
        except OUTAGE_ERRORS as error:
            self._plan_look(OUTAGE_PACE, quick=not self._out_of_reach)
            if not self._out_of_reach:
                self.report(f"the bucket is out of reach, and is tried again: {error}")
            self._out_of_reach = True
        # Until the next look is due, or a process ends.
        wait = self._next_look - time.monotonic() if self._ended or self._has_room() else 1.0
        poll = select.poll()
        for descriptor in self.backend.end_descriptors():
            poll.register(descriptor, select.POLLIN)
        poll.poll(1000 * min(max(0.01, wait), 1.0))

    def _free(self) -> tuple[int, int]:
        """Free slots for experiments that need CPUs alone, and for those that need GPUs."""
        needs = [running.needs for running in self._running.values()]
        cpus = sum(need.cpus for need in needs if not need.gpus)
        return self.terms.cpus - cpus, self.terms.gpus - sum(need.gpus for need in needs)

    def _has_room(self) -> bool:
        most = self._breaker.most()
        # What has run since before the breaker opened does not show whether the cause is gone.
        tries = sum(running.started >= self._breaker.opened for running in self._running.values())
        return max(self._free()) > 0 and (most is None or tries < most)

    def _plan_look(self, pace: tuple[float, float], quick: bool) -> None:
        self._pace = pace[0] if quick else min(pace[1], max(pace[0], 1.5 * self._pace))
        now = time.monotonic()
        self._next_look = now + self._pace * random.uniform(0.75, 1.25)
        self._next_busy_look = max(self._next_look, now + BUSY_PACE)

    def _look(self) -> None:
        self.queue.look()
        for id in list(self._ended):
            self._settle(self._ended[id])
            del self._ended[id]
        self._candidates = self.queue.choose(self._running)
        self._out_of_reach = False
        self._plan_look(self._paces, quick=bool(self._candidates))

    def _take(self, left: float) -> bool:
        """Start one of the candidates; False when none is left, or none could start now."""
        while self._candidates and self.queue.refused < MAX_REFUSED:
            entry = self._candidates.pop()
            needs, (cpus, gpus) = entry.resources, self._free()
            # One that does not fit now is a candidate again after the next look.
            if 60 * entry.minutes > left or (needs.gpus > gpus if needs.gpus else needs.cpus > cpus):
                continue
            job = Job(
                entry.id, entry.id, self.bucket.url, self.terms.isolation, needs, entry.minutes, entry.hardware,
                least_isolation=entry.least_isolation,
            )  # fmt: skip
            self._claiming = entry
            started = entry.id in self.backend.submit([job])
            lacks_slots, self._claiming = self._claiming is entry, None
            if started:
                self.report(f"{entry.id}  started")
            if lacks_slots:  # other runs of this machine have them
                self._plan_look(self._paces, quick=False)
            if started or lacks_slots:
                return started
        return False

    def _claim(self, job: Job) -> dict[str, Any] | None:
        """Claim an attempt whose slots are taken; returns what its process has to know, or None to start none."""
        entry = self._claiming
        assert entry is not None
        claim = self.queue.claim(entry)
        if claim is not None:
            self._running[entry.id] = Running(claim, entry.resources, time.monotonic())
        self._claiming = None
        owner = {"pid": os.getpid(), "start": process_tree.start_time(os.getpid())}
        return {"claim": asdict(claim), "owner": owner} if claim is not None else None

    def _settle(self, ended: Running) -> None:
        """Find out how an attempt has ended whose process is gone, and write its end if it left none."""
        id, number = ended.claim.id, ended.claim.number
        # With its record an experiment leaves the queue and has no heartbeat: this costs no request.  One that was
        # cancelled leaves the queue while it runs.
        left = id not in self.queue and id not in self.queue.watch.beats
        if left or record_store.has_record(self.bucket, id):
            self._breaker.count_claimed()
            return
        record_store.end_attempt(self.bucket, id, number, DEAD, "its process was killed")
        try:
            attempts = record_store.attempts(self.bucket, id)
        except DamagedObject as error:
            self.report(f"{id}  how it ended here is not known: {error}")
            return
        # None where a person has removed the experiment meanwhile.
        end = next((attempt.end for attempt in attempts if attempt.number == number), None)
        if end is not None and end.kind in (FAILED, DEAD):
            reason = end.reason.strip().rpartition("\n")[2]
            self.report(f"{id}  failed: {reason}")
            self._breaker.count_unclaimed(ended.started, reason)

    def stop(self) -> None:
        """End what runs.  What has led to no record ends as preempted."""
        self.backend.end_all(TERM_SECONDS)
        claims = [running.claim for running in (self._running | self._ended).values()]
        try:
            if self._claiming is not None:
                last = [attempt.claim for attempt in record_store.attempts(self.bucket, self._claiming.id)[-1:]]
                claims += [claim for claim in last if claim.is_here and claim.pid == os.getpid()]
            for claim in claims:
                if not record_store.has_record(self.bucket, claim.id):
                    record_store.end_attempt(self.bucket, claim.id, claim.number, PREEMPTED, "its node ends")
        except OUTAGE_ERRORS as error:
            # No time to wait: the workers have tried to write their ends, and others take what is left for dead.
            self.report(f"the bucket is out of reach at the end of this node: {error}")
        self.backend.close()
