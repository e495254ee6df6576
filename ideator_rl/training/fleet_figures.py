"""What trackers are told of the fleet and of what a run has cost, read from the run's buffer.

`fleet/busy` is how many experiments ran at once since the last reading, on average: the wall seconds of those that
ended, over the seconds that passed.  Where the slots are this machine's, `fleet/use` is their busy share.
`fleet/running` and `fleet/waiting` are of the moment.  `cost/…` is the ledger's, over all lives of the run.
"""

from __future__ import annotations

import os
import time

from ideator_rl.reward_buffer import RewardBuffer


class FleetFigures:
    def __init__(self, buffer: RewardBuffer):
        self._buffer = buffer
        self._last_read = time.monotonic()
        # Records of an earlier session are in the history from the start: they are no work of this process.
        self._records_read = len(buffer.history)

    def read(self) -> dict[str, float]:
        """The figures since the last reading."""
        buffer = self._buffer
        now, since = time.monotonic(), self._last_read
        self._last_read, seconds = now, max(now - since, 1e-6)
        counts, spent = buffer.counts(), buffer.executor.ledger.spent
        ended = buffer.history[self._records_read :]
        self._records_read += len(ended)
        cpus = buffer.executor.environment.preset(buffer.config.preset).resources.cpus
        busy = sum(record.seconds.get("run", 0.0) for record in ended if not record.replayed) / seconds
        figures = {"fleet/busy": busy, "fleet/running": counts["running"], "fleet/waiting": counts["waiting"]}
        if buffer.config.backend == "local":
            figures["fleet/use"] = busy * cpus / (buffer.config.slots or os.cpu_count() or 1)
        return figures | {"cost/usd": spent.usd, "cost/tokens": spent.tokens, "cost/gpu_hours": spent.gpu_hours}
