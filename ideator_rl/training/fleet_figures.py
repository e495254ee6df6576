"""What trackers are told of the fleet and of what a run has cost, read from the buffers of this process.

`fleet/busy` is how many experiments ran at once since the last reading, on average: the wall seconds of those that
ended, over the seconds that passed.  Where the slots are this machine's, `fleet/use` is their busy share.
`fleet/running` and `fleet/waiting` are of the moment.  `cost/…` is the ledger's, over all lives of the run.
"""

from __future__ import annotations

import os
import time

from ideator_rl.reward_buffer import RewardBuffer, live_buffers


class FleetFigures:
    def __init__(self) -> None:
        self._when = time.monotonic()
        self._read = {id(buffer): len(buffer.history) for buffer in live_buffers()}

    def read(self) -> dict[str, float]:
        """The figures, with those of all buffers added up; nothing where no buffer is open."""
        told: dict[str, float] = {}
        now, since = time.monotonic(), self._when
        self._when = now
        for buffer in live_buffers():
            for name, value in self._of(buffer, max(now - since, 1e-6)).items():
                told[name] = told.get(name, 0.0) + value
        return told

    def _of(self, buffer: RewardBuffer, seconds: float) -> dict[str, float]:
        counts, spent = buffer.counts(), buffer.executor.ledger.spent
        known = len(buffer.history)
        # What an earlier life of the run paid for stands in the history from the start, and is nobody's work now.
        ended = buffer.history[self._read.get(id(buffer), known) : known]
        self._read[id(buffer)] = known
        cpus = buffer.executor.environment.preset(buffer.config.preset).resources.cpus
        busy = sum(record.seconds.get("run", 0.0) for record in ended if not record.replayed) / seconds
        told = {"fleet/busy": busy, "fleet/running": counts["running"], "fleet/waiting": counts["waiting"]}
        if buffer.config.backend == "local":
            told["fleet/use"] = busy * cpus / (buffer.config.slots or os.cpu_count() or 1)
        return told | {"cost/usd": spent.usd, "cost/tokens": spent.tokens, "cost/gpu_hours": spent.gpu_hours}
