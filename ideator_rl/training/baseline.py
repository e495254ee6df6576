"""The baseline's runs: experiment 0 of every training run, started while libraries load.

They end before the ideator's own computations start: a budget in CPU seconds buys fewer steps on a busy machine, and
ideas are measured on a machine that runs nothing but experiments.
"""

from __future__ import annotations

import asyncio
import threading

from ideator_rl.archive.baseline import baseline_line
from ideator_rl.executor.executor import Executor
from ideator_rl.experiment import Experiment
from ideator_rl.reward_buffer import RewardBuffer


class BaselineRuns:
    """Runs the unchanged baseline, as many at once as there are slots, on a thread with an event loop of its own.

    The thread writes `_records` and `_error`; the caller reads them in `wait`, after the thread has ended.
    """

    def __init__(self, buffer: RewardBuffer, replicates: int):
        self._buffer, self._replicates = buffer, replicates
        self._executor = Executor(buffer.config)
        self._error: Exception | None = None
        self._records: list[Experiment] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> str:
        """Wait for the runs to end; returns one line about them.

        Raises:
            IdeatorError: no run of the baseline succeeded.
        """
        # The join is also what makes the thread's writes safe to read.
        self._thread.join()
        if self._error is not None:
            raise self._error
        return baseline_line(self._records, self._executor.environment.metric.label)

    def _run(self) -> None:
        try:
            asyncio.run(self._run_replicates())
        except Exception as error:
            self._error = error
        finally:
            # Its zygote would keep the evaluator's libraries in memory as long as the run trains.
            self._executor.close()

    async def _run_replicates(self) -> None:
        runs = [self._executor.baseline(replicate) for replicate in range(self._replicates)]
        for finished in asyncio.as_completed(runs):
            record = await finished
            # Entered as each ends, so that a report sees it before the slowest one.
            self._buffer.record(record)
            self._records.append(record)
