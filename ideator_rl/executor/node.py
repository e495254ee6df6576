"""What a node takes of the experiments that a bucket waits for, and in which order."""

from __future__ import annotations

import math
import os
import random
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store, share
from ideator_rl.executor.attempt_policy import Round
from ideator_rl.executor.bucket_watch import BucketWatch
from ideator_rl.executor.record_store import DEAD, PREEMPTED, Claim, QueueEntry
from ideator_rl.sandbox.choose import why_too_weak
from ideator_rl.storage.bucket import Bucket, DamagedObject

UNFIT_SECONDS = 600.0
"""Experiments whose environment cannot be loaded here are left to other nodes for so long.  Then they are taken all the
same, so that the run which waits for them gets the reason."""
HELD_SECONDS = 10.0
"""An experiment that another node runs is not tried here for so long."""


@dataclass(frozen=True)
class Terms:
    """What this node takes, and for how long."""

    cpus: int
    """Slots for experiments that need CPUs alone."""
    gpus: int = 0
    """Slots for those that need GPUs."""
    isolation: str = "auto"
    idle: float = math.inf
    """End after so many seconds without an experiment."""
    until: float = math.inf
    """Unix seconds by the clock of this node: nothing is taken that may not have ended by then."""


class NodeQueue:
    """The queue of a bucket as a node sees it.  Used by one thread."""

    def __init__(self, bucket: Bucket, terms: Terms, report: Callable[[str], None]):
        self.bucket, self.watch, self._filter = bucket, BucketWatch(bucket), NodeFilter(terms, report)
        self._report = report
        # By experiment and round, in monotonic seconds: not to be tried here before.
        self._resting: dict[tuple[str, int], float] = {}
        # By experiment: the number of the attempt for which this node has waited already.
        self._waited: dict[str, int] = {}
        # Experiments of which a claim has failed, so that its outcome is unknown.
        self._in_doubt: set[str] = set()
        self.refused = 0
        """Claims in a row that others have won since the last look."""

    def look(self) -> None:
        """Look at the bucket: two listings, and what is new."""
        self.watch.look()
        self.refused = 0

    def __contains__(self, id: str) -> bool:
        return id in self.watch.queue

    def choose(self, running: Collection[str]) -> list[QueueEntry]:
        """What may be tried now, the last one first.

        Args:
            running: what runs here.
        """
        now, queue = time.monotonic(), self.watch.queue
        self._resting = {key: until for key, until in self._resting.items() if key[0] in queue and until > now}
        self._waited = {id: number for id, number in self._waited.items() if id in queue}
        chosen = [
            entry
            for id, entry in queue.items()
            if id not in running
            and (id, entry.from_attempt) not in self._resting
            and not (id in self.watch.beats and self.watch.alive(id))
            and self._filter.takes(entry)
        ]
        # At random, so that nodes which look at the same moment choose different ones.
        random.shuffle(chosen)
        return sorted(chosen, key=lambda entry: entry.priority)

    def claim(self, entry: QueueEntry) -> Claim | None:
        """Claim the next attempt for this process; None where another one runs it, or this node is to wait."""
        try:
            if seconds := self._seconds_to_wait(entry):
                self._resting[entry.id, entry.from_attempt] = time.monotonic() + seconds
                return None
            self._in_doubt.add(entry.id)
            claim = record_store.claim_attempt(self.bucket, entry.id, socket.gethostname())
            self._in_doubt.discard(entry.id)
        except DamagedObject as error:
            # Waiting does not help.  The run that waits for it looks, and finds the same.
            self._report(f"{entry.id}  left the queue: {error}")
            record_store.leave_queue(self.bucket, entry.id)
            self._resting[entry.id, entry.from_attempt] = math.inf
            return None
        self.refused = 0 if claim is not None else self.refused + 1
        # The process that stored the record may have been killed before it took the experiment out of the queue.
        if claim is None and record_store.has_record(self.bucket, entry.id):
            record_store.leave_queue(self.bucket, entry.id)
        return claim

    def _seconds_to_wait(self, entry: QueueEntry) -> float:
        """How long this node leaves an experiment to others, by how its attempts have ended."""
        earlier = Round(record_store.attempts(self.bucket, entry.id), entry.from_attempt)
        if (running := earlier.running) is not None:
            claim = running.claim
            if entry.id in self._in_doubt and claim.is_here and claim.pid == os.getpid():
                # The bucket went away while this process was claiming it: there is a claim, and nothing runs.
                record_store.end_attempt(self.bucket, entry.id, claim.number, PREEMPTED, "it was not started")
            elif self.watch.alive(entry.id, claim):
                return HELD_SECONDS
            else:
                record_store.end_attempt(self.bucket, entry.id, claim.number, DEAD, "its heartbeat stopped")
            return self._seconds_to_wait(entry)
        if earlier.lost is not None:
            # Where no scheduler serves the bucket, this is how the run that waits for it hears of that.
            record_store.leave_queue(self.bucket, entry.id)
            return math.inf
        if self._waited.get(entry.id) == earlier.claimed:
            return 0.0
        self._waited[entry.id] = earlier.claimed
        return earlier.backoff(socket.gethostname())


class NodeFilter:
    """Judges queue entries by the terms of a node, and prints a line about each kind that it leaves to other nodes."""

    def __init__(self, terms: Terms, report: Callable[[str], None]):
        self.terms, self._report = terms, report
        self._reported: set[str] = set()
        # By declared hardware, and whether an experiment needs GPUs: why this node is another; empty where it is not.
        self._hardware: dict[tuple[str, bool], str] = {}
        # By environment: the monotonic time from which its experiments are taken; 0 where it can be loaded.
        self._environments: dict[str, float] = {}

    def takes(self, entry: QueueEntry) -> bool:
        needs, terms = entry.resources, self.terms
        large_enough = needs.gpus <= terms.gpus if needs.gpus else needs.cpus <= terms.cpus
        if not large_enough:
            self._report_once(
                f"experiments that need {needs.cpus} CPUs and {needs.gpus} GPUs are left to other nodes: "
                f"this one offers slots for {terms.cpus} and {terms.gpus}"
            )
        elif reason := self._other_hardware(entry.hardware, needs.gpus > 0):
            self._report_once(f"experiments for the hardware {entry.hardware} are left to other nodes: {reason}")
        elif reason := why_too_weak(terms.isolation, entry.least_isolation):
            self._report_once(f"experiments are left to other nodes: {reason}")
        else:
            return self._environment_from(entry.environment) <= time.monotonic()
        return False

    def _other_hardware(self, declared: str, on_gpus: bool) -> str:
        """Why this node is not the declared hardware; empty where it is."""
        key = (declared, on_gpus)
        if key not in self._hardware:
            self._hardware[key] = ""
            try:
                share.refuse_other_hardware(declared, share.gpus() if on_gpus else [])
            except IdeatorError as error:
                self._hardware[key] = str(error)
        return self._hardware[key]

    def _environment_from(self, environment: str) -> float:
        if environment not in self._environments:
            self._environments[environment] = 0.0
            try:
                if environment:  # the entry of an earlier version has none
                    load_environment(environment)
            except IdeatorError as error:
                self._environments[environment] = time.monotonic() + UNFIT_SECONDS
                self._report_once(f"experiments of {environment} are left to other nodes: {error}")
        return self._environments[environment]

    def _report_once(self, line: str) -> None:
        if line not in self._reported:
            self._reported.add(line)
            self._report(line)
