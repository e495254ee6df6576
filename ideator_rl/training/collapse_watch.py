"""A callback that watches the ideas of GRPO on executed ideas, and warns or stops when they collapse.

    trainer = IdeatorGRPOTrainer(…)                     # or a stock GRPOTrainer with rewards.execution
    trainer.add_callback(CollapseWatch(trainer))

Metrics (`diversity/…`, `collapse/…`) go with the trainer's own logs, to trackers and trainer_state.json.  Rank 0
computes them and decides; every rank acts alike.  A batch costs the reading of its rows and the embedding of its new
descriptions.  A result that arrives after its batch was trained counts with the batch of its arrival.  An error while
metrics are computed is logged and does not end the run.

`stop` saves a checkpoint and ends the run.  Each stop is in `<output_dir>/collapse.json` before it takes effect.  A
resumed run stops again where it had stopped beyond its checkpoint, and decides only beyond the last stop, at least
`REST` windows later.  So a run that stopped and is resumed goes on for `REST` windows, and stops again if the alarm
still holds; with `collapse_action: warn` it does not.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ideator_rl.config.reader import read_json
from ideator_rl.diversity.alarms import COLLAPSE, SPAN, STOP, WARN, Alarm
from ideator_rl.diversity.embedding import get_embedder
from ideator_rl.diversity.environment_context import environment_context
from ideator_rl.diversity.rows import LiveRows, Row
from ideator_rl.diversity.watch import DiversityWatch
from ideator_rl.errors import IdeatorError
from ideator_rl.files import write_atomic
from ideator_rl.reward_buffer import REQUIRED_COLUMNS, BufferConfig, RewardBuffer, open_buffer
from ideator_rl.training.ranks import Ranks

log = logging.getLogger(__name__)
ACTIONS = (WARN, STOP)
FILE = "collapse.json"
REST = SPAN
"""Windows after a stop in which a resumed run does not stop again."""
REPLAY_SECONDS = 10.0
"""The longest wait for outcomes that an earlier session had already: they are only read again."""


def check_action(action: str = WARN) -> str:
    """Return the action.

    Raises:
        IdeatorError: it is not one of `ACTIONS`.
    """
    if action not in ACTIONS:
        raise IdeatorError(f"collapse_action is {action!r}; expected one of {', '.join(ACTIONS)}.")
    return action


@dataclass(frozen=True)
class Stop:
    """The end of a session because of an alarm, as `collapse.json` stores it."""

    step: int
    """Optimizer steps that had been taken."""
    window: int
    """Windows of the run until then."""
    action: str
    cause: str
    """Kind of the alarm."""


def should_stop(active: Sequence[Alarm], window: int, stops: Sequence[Stop]) -> Alarm | None:
    """The alarm to stop at, if any: a sign of collapse at level stop, not within `REST` windows after a stop.

    Args:
        active: alarms that hold.
        window: windows seen.
        stops: earlier stops of the run.
    """
    signs = [alarm for alarm in active if alarm.kind in COLLAPSE and alarm.level == STOP]
    is_resting = bool(stops) and window - stops[-1].window < REST
    return signs[0] if signs and not is_resting else None


class CollapseWatch(TrainerCallback):
    """Watches a trainer's ideas.

    Args:
        trainer: a GRPOTrainer, ours or the stock one.
        action: what to do at an alarm: `warn` prints it; `stop` ends the run as well, if its level is stop.
        embedder: as `get_embedder` takes it; loaded when training begins.
        say: prints a line.
        alert: takes each alarm that begins or rises, beside its line.
        buffer: the run's experiments; the default is the trainer's, or those that the columns of its dataset name.

    Raises:
        IdeatorError: there is no such action.
    """

    def __init__(
        self,
        trainer: Any,
        action: str = WARN,
        *,
        embedder: str = "auto",
        say: Callable[[str], None] = log.warning,
        alert: Callable[[Alarm], None] | None = None,
        buffer: RewardBuffer | None = None,
    ):
        self._trainer, self.action, self._embedder, self._say = trainer, check_action(action), embedder, say
        self._alert = alert
        self._buffer = buffer if buffer is not None else getattr(trainer, "buffer", None)
        # All fields below are rank 0's; `on_train_begin` resets what belongs to a session.
        self.watch: DiversityWatch | None = None
        self._live_rows: list[LiveRows] = []
        """Of each buffer that the run writes."""
        self._last_batch = -1
        """The last batch whose rows are in a window."""
        self._replayed_until = -1
        """The last batch of earlier sessions: up to it, outcomes are there and only have to be read again."""
        self._stops: list[Stop] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        is_new = state.global_step == 0 and not getattr(self._trainer, "_resumed", False)
        self._ranks = Ranks()

        def prepare() -> None:
            get_embedder(self._embedder)  # one that cannot be loaded ends the run here, not after an hour
            # Rows from before this moment are another run's, unless this run is resumed.
            self._live_rows = [LiveRows(buffer, time.time() if is_new else 0.0) for buffer in self._buffers()]
            last_steps = [] if is_new else [live.last_step() for live in self._live_rows]
            self._replayed_until = max(last_steps, default=-1)
            path = Path(args.output_dir) / FILE
            if is_new:
                path.unlink(missing_ok=True)
            self._stops = read_stops(path)

        # A broadcast, so that an error at rank 0 ends the other ranks as well.
        self._ranks.broadcast("begin", prepare)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Only between batches: rows of a batch that is trained in several steps count once.
        if state.global_step * args.gradient_accumulation_steps % self._micro_steps:
            return
        cause = self._ranks.broadcast(f"step/{state.global_step}", lambda: self._look(args, state))
        if cause is None:
            return
        control.should_save = control.should_training_stop = True
        if state.is_world_process_zero:
            self._say(f"collapse: training stops ({cause})")

    # At rank 0.

    def _look(self, args: Any, state: Any) -> str | None:
        """Log the metrics of what was trained since the last look; returns the kind of alarm to stop at, if any."""
        step, windows = state.global_step, len(self.watch.windows) if self.watch else 0
        try:
            self._log_metrics(step)
        except Exception as error:  # a long run is worth more than its metrics
            log.warning("The figures of step %d are missing: %s", step, error, exc_info=error)
        # Up to the last stop of earlier sessions nothing is decided again.
        if self._stops and step <= self._stops[-1].step:
            return next((stop.cause for stop in self._stops if stop.step == step), None)
        if self.action != STOP or self.watch is None or len(self.watch.windows) == windows:
            return None
        alarm = should_stop(self.watch.active_alarms(), len(self.watch.windows), self._stops)
        if alarm is None:
            return None
        self._stops.append(Stop(step, len(self.watch.windows), STOP, alarm.kind))
        body = [asdict(stop) for stop in self._stops]
        write_atomic(Path(args.output_dir) / FILE, json.dumps(body, indent=1))
        return alarm.kind

    def _log_metrics(self, step: int) -> None:
        rows = self._new_rows(step)
        if self.watch is None:
            if not rows:
                return
            buffer = self._buffers()[0]
            context = environment_context(buffer.executor.environment, buffer.config.preset)
            self.watch = DiversityWatch(get_embedder(self._embedder), context)
        if windows := self.watch.update(rows):
            for alarm in self.watch.new_alarms:
                self._say(f"{alarm.level}: {alarm.text}")
                if self._alert is not None:
                    self._alert(alarm)
            for name, value in self.watch.metrics(windows[-1]).items():
                self._trainer._metrics["train"][name].append(value)

    def _new_rows(self, step: int) -> list[Row]:
        """Rows of the batches that were trained since the last look, and late rows of earlier batches."""
        # Our trainer names a batch by its index, the stock one by the step that it was sampled at.
        micro_steps = step * self._trainer.args.gradient_accumulation_steps
        last_batch = micro_steps // self._micro_steps - 1 if hasattr(self._trainer, "pipeline") else step - 1
        rows: list[Row] = []
        for live in self._live_rows:
            deadline = time.monotonic() + REPLAY_SECONDS
            # Waiting gives a resumed run the same windows as one that was never killed.
            while last_batch <= self._replayed_until and live.count_running(last_batch) and time.monotonic() < deadline:
                time.sleep(0.02)
            rows += live.new_rows(last_batch)
        # A window takes steps in order: rows that arrive late count for the step at which they were seen.
        late = [replace(row, step=last_batch) for row in rows if row.step <= self._last_batch]
        rows = [row for row in rows if row.step > self._last_batch] + late
        self._last_batch = last_batch
        return sorted(rows, key=lambda row: row.step)

    def _buffers(self) -> list[RewardBuffer]:
        if self._buffer is not None:
            return [self._buffer]
        dataset = self._trainer.train_dataset
        names = [field.name for field in fields(BufferConfig) if field.name in (dataset.column_names or ())]
        if any(name not in names for name in REQUIRED_COLUMNS):
            return []
        # `open_buffer` returns the one that the reward functions use, or will use.
        configs = dict.fromkeys(map(BufferConfig.of_row, dataset.select_columns(names)))
        return [open_buffer(config) for config in configs]

    @property
    def _micro_steps(self) -> int:
        """Forward passes that one generated batch feeds."""
        return int(self._trainer.args.steps_per_generation * self._trainer.num_iterations)


def read_stops(path: Path) -> list[Stop]:
    """The stops in a run's `collapse.json`; other actions, which 0.1.0 could take, are left out.

    Raises:
        IdeatorError: the file cannot be read.
    """
    if not path.is_file():
        return []
    # Keys that 0.1.0 stored as well are ignored.
    names = [field.name for field in fields(Stop)]
    try:
        entries = read_json(path)
        for entry in entries:
            if entry["action"] != STOP:
                log.warning("The run took %s at step %d, which has no effect any more.", entry["action"], entry["step"])
        return [Stop(**{name: entry[name] for name in names}) for entry in entries if entry["action"] == STOP]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IdeatorError(
            f"{path} cannot be read: {error}. It records where a collapse has stopped the run; restore it, or remove "
            "it to go on as the recipe says."
        ) from error
