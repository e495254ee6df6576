"""What the attempts at an experiment mean for the next one: whether it is due, when, and when to give up.

Every scheduler and pull worker of a bucket judges by these rules and by what is in the bucket, so that all agree.

- Only claimed attempts count.  A start that ended before its worker claimed anything is a fault of the engine's
  (`breaker`), and the experiment keeps waiting.
- Attempts that failed, or whose process died, count up to `MAX_ATTEMPTS`.
- Preempted attempts are free up to `MAX_PREEMPTIONS`; those beyond count as failed.
- A cancelled experiment is not tried again until it is requested anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ideator_rl.executor import record_store
from ideator_rl.executor.record_store import CANCELLED, DEAD, FAILED, PREEMPTED, Attempt

BACKOFF_SECONDS = tuple(factor * record_store.BEAT_SECONDS for factor in (1 / 6, 1.0, 4.0))
"""Between the end of the first, second, … attempt that counts and the next start on the same host."""


class Lost(Exception):
    """An experiment is given up for reasons that are not the idea's.

    Args:
        ran: True where attempts were claimed and all are over, False where none was, and None where one may still run.
    """

    def __init__(self, reason: str, ran: bool | None = None):
        super().__init__(reason)
        self.ran = ran


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures."""
    return BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1] if failures else 0.0


@dataclass(frozen=True)
class Round:
    """The attempts of one experiment since it was last requested.

    Args:
        attempts: all of them, as `record_store.attempts` returns them.
        from_attempt: that of its queue entry.
    """

    attempts: list[Attempt]
    from_attempt: int = 0
    max_attempts: int = record_store.MAX_ATTEMPTS

    @property
    def claimed(self) -> int:
        """How many attempts were claimed, those of earlier rounds included: the number of the next one."""
        return self.attempts[-1].number + 1 if self.attempts else 0

    @property
    def running(self) -> Attempt | None:
        """The attempt without an end.  Its process may be dead: see `BucketWatch.alive`."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].end is None else None

    @cached_property
    def failures(self) -> list[Attempt]:
        """The attempts that count."""
        ended = [
            attempt for attempt in self.attempts if attempt.number >= self.from_attempt and attempt.end is not None
        ]
        free = [attempt for attempt in ended if _kind(attempt) == PREEMPTED][: record_store.MAX_PREEMPTIONS]
        return [attempt for attempt in ended if _kind(attempt) in (FAILED, DEAD, PREEMPTED) and attempt not in free]

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where attempts that count ran: the next one prefers another host."""
        hosts = (name for attempt in self.failures for name in (attempt.claim.node, attempt.claim.host))
        return tuple(dict.fromkeys(name for name in hosts if name))

    @property
    def lost(self) -> str | None:
        """Why the experiment is given up; None while it is not."""
        if not self.attempts or self.running is not None or self.claimed <= self.from_attempt:
            return None
        last = self.attempts[-1].end
        assert last is not None
        if last.kind == CANCELLED or len(self.failures) >= self.max_attempts:
            return last.reason
        return None

    def backoff(self, host: str = "") -> float:
        """Seconds from the end of the last attempt to the next start.

        Args:
            host: where that would be; empty where an engine chooses.
        """
        if not self.failures or self.attempts[-1] is not self.failures[-1]:
            return 0.0  # a preempted attempt is repeated at once
        if host and host not in self.hosts:
            return 0.0
        return backoff(len(self.failures))


def _kind(attempt: Attempt) -> str:
    return attempt.end.kind if attempt.end is not None else ""
