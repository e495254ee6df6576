"""The baseline's runs: experiment 0 of every training run, under way while libraries load and the ideator warms up."""

from __future__ import annotations

import asyncio
import threading

from ideator_rl.errors import IdeatorError
from ideator_rl.executor.executor import Executor
from ideator_rl.experiment import SUCCEEDED
from ideator_rl.reward_buffer import RewardBuffer


class BaselineRuns:
    """Runs the unchanged baseline, one replicate after another, on a thread and an event loop of its own."""

    def __init__(self, buffer: RewardBuffer, replicates: int):
        self._buffer, self._replicates = buffer, replicates
        self._executor = Executor(buffer.config)
        self._error: Exception | None = None
        self._values: list[float] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def words(self) -> str:
        """Wait for the runs; one line about them.

        Raises:
            IdeatorError: a baseline run did not succeed.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        values = ", ".join(f"{value:.4f}" for value in self._values)
        return f"baseline {self._executor.environment.metric.name} {values}"

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except Exception as error:
            self._error = error

    async def _all(self) -> None:
        for replicate in range(self._replicates):
            record = await self._executor.baseline(replicate)
            self._buffer.record(record)
            if record.status != SUCCEEDED or record.metric is None:
                why = record.error["message"] if record.error else "no reason is known."
                raise IdeatorError(
                    f"The baseline itself did not succeed ({record.status}): {why} No idea can be judged against it. "
                    "Mend it (`ideator-rl execute ENV --baseline` runs it alone), then go on with --resume."
                )
            self._values.append(record.metric["value"])
