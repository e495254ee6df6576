"""The scheduler: on a fixed clock, finds codebases without a result, and starts supervisors for them.

State is the bucket; the scheduler keeps none that matters, so it may be killed at any moment and several may run at
once: an attempt is claimed by the supervisor, and only one claim wins.  An experiment whose attempts keep ending for
reasons that are not its own is `lost` after `max_attempts` of this scheduler's tries.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from ideator_rl.bucket import Bucket
from ideator_rl.environment import Resources, load_environment
from ideator_rl.executor import attempts
from ideator_rl.experiment import Experiment

TICK_SECONDS = 0.1


class Backend(Protocol):
    def submit(self, id: str, resources: Resources) -> bool:
        """Start a supervisor; False when there is no room now."""

    def active(self, id: str) -> bool:
        """Whether a supervisor started here is still alive."""


class Lost(Exception):
    """All attempts ended for reasons that are not the idea's."""


class Scheduler:
    def __init__(self, bucket: Bucket, backend: Backend, max_attempts: int = 3):
        self._bucket, self._backend, self._max_attempts = bucket, backend, max_attempts
        self._waiting: dict[str, tuple[Resources, asyncio.Future[Experiment]]] = {}
        self._tries: dict[str, int] = {}
        self._finished: set[str] = set()
        self._clock: asyncio.Task[None] | None = None

    def result(self, id: str, resources: Resources) -> asyncio.Future[Experiment]:
        """The future record of an experiment whose spec is in the bucket; equal ids share one.

        It fails with `Lost` when the attempts are used up.
        """
        if id not in self._waiting or self._waiting[id][1].cancelled():
            self._waiting[id] = (resources, asyncio.get_running_loop().create_future())
        if self._clock is None or self._clock.done():
            self._clock = asyncio.get_running_loop().create_task(self._run())
        return self._waiting[id][1]

    @property
    def waiting(self) -> list[str]:
        """Experiments without a result yet."""
        return list(self._waiting)

    @property
    def started(self) -> int:
        """Experiments that a supervisor of this scheduler is running now."""
        return sum(self._backend.active(id) for id in list(self._waiting))

    def discover(self) -> list[asyncio.Future[Experiment]]:
        """Take on every codebase in the bucket that has no result: for a scheduler on a machine of its own."""
        found = []
        for id in self._bucket.names("experiments"):
            if id in self._waiting or id in self._finished:
                continue
            spec = attempts.Spec.load(self._bucket, id)
            if spec is None or attempts.load_result(self._bucket, id) is not None:
                self._finished.add(id)
                continue
            resources = load_environment(spec.environment).preset(spec.preset).resources
            found.append(self.result(id, resources))
        return found

    async def _run(self) -> None:
        try:
            while self._waiting:
                self.tick()
                await asyncio.sleep(TICK_SECONDS)
        except Exception as error:
            for _, future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)
            self._waiting.clear()

    def tick(self) -> None:
        """Look once at everything that waits: settle what has a result, start what has nobody at work."""
        room = True
        for id, (resources, future) in list(self._waiting.items()):
            if self._backend.active(id):
                continue
            if (record := attempts.load_result(self._bucket, id)) is not None:
                self._settle(id, future, record)
            elif attempts.running(self._bucket, id) is not None:
                continue  # a supervisor of an earlier life of this run, or of another scheduler
            elif self._tries.get(id, 0) >= self._max_attempts:
                self._settle(id, future, Lost(attempts.last_reason(self._bucket, id)))
            elif room and (room := self._backend.submit(id, resources)):
                self._tries[id] = self._tries.get(id, 0) + 1

    def _settle(self, id: str, future: asyncio.Future[Experiment], outcome: Experiment | Lost) -> None:
        del self._waiting[id]
        self._finished.add(id)
        self._tries.pop(id, None)
        if future.done():
            return
        if isinstance(outcome, Lost):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
