"""A callback for GRPO on executed ideas: the population in figures at every batch, an alarm, and what to do about it.

    trainer = IdeatorGRPOTrainer(…)                     # or a stock GRPOTrainer with rewards.execution
    trainer.add_callback(CollapseWatch(trainer))

It reads the trainer's buffer, or else the buffers that the columns of its dataset name.  Figures (`diversity/…`,
`collapse/…`) go with the trainer's own logs, so that trackers and trainer_state.json have them.  The first process
computes; every process acts alike.  A batch costs the reading of its rows and the embedding of its new descriptions;
what arrives after its batch was trained counts with the batch of its arrival.  What goes wrong while figures are
computed is logged and does not end a run.

What was done stands in `<output_dir>/collapse.json`, on disk before it takes effect.  A resumed run does again what was
done up to its checkpoint, and at later steps what was done then; it decides only beyond these.  So a run that was
stopped and is resumed unchanged goes on for `REST` windows, and stops again if the alarm still holds; with
`collapse_action: warn` it does not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ideator_rl.diversity.embedding import get_embedder
from ideator_rl.diversity.environment_context import surroundings
from ideator_rl.diversity.rows import LiveRows, Row
from ideator_rl.diversity.watch import Watch
from ideator_rl.errors import IdeatorError
from ideator_rl.reward_buffer import REQUIRED_COLUMNS, BufferConfig, RewardBuffer, open_buffer
from ideator_rl.training.advantages import make_advantage
from ideator_rl.training.collapse_action import HALT, RAISE, SWITCH, Action, Deeds, Done
from ideator_rl.training.ranks import Ranks
from ideator_rl.training.temperature import fused_heads, set_temperature

log = logging.getLogger(__name__)
REPLAYED_SECONDS = 10.0
"""The longest wait for outcomes that an earlier life of the run knew already: they only have to be found again."""


class CollapseWatch(TrainerCallback):
    """Args:
    trainer: a GRPOTrainer, ours or the stock one.
    action: what to do at an alarm; the default only says it.
    buffer: of the run; asked in the first process only.
    embedder: as `get_embedder` takes it; loaded when training begins.
    say: takes a line for a person to read.

    Raises:
        IdeatorError: the action is not possible with this trainer.
    """

    def __init__(
        self,
        trainer: Any,
        action: Action | None = None,
        *,
        buffer: RewardBuffer | None = None,
        embedder: str = "auto",
        say: Callable[[str], None] = log.warning,
    ):
        self._trainer, self.action, self._embedder, self._say = trainer, action or Action(), embedder, say
        self.watch: Watch | None = None
        self._buffer = buffer if buffer is not None else getattr(trainer, "buffer", None)
        self._live: list[LiveRows] = []
        """Of each buffer that the run writes; filled in the first process when training begins."""
        self._looked = -1
        self._since, self._replayed = 0.0, -1
        """When the run began, if it is new; and the last step of an earlier life, whose rows are proposed again."""
        self._deeds: Deeds | None = None
        self._refuse_impossible()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        fresh = state.global_step == 0 and not getattr(self._trainer, "_resumed", False)
        self._since = time.time() if fresh else 0.0
        self._ranks = Ranks()

        def before() -> list[dict[str, Any]]:
            get_embedder(self._embedder)  # one that cannot be had is told now
            self._live = [LiveRows(buffer, self._since) for buffer in self._buffers()]
            self._replayed = -1 if fresh else max((live.last_step() for live in self._live), default=-1)
            self._deeds = Deeds(Path(args.output_dir), fresh)
            return [asdict(done) for done in self._deeds.done if done.step <= state.global_step]

        for done in self._ranks.share("begin", before):
            self._do(Done(**done))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step * args.gradient_accumulation_steps % self._micro_steps:
            return  # within a batch: what samples and what is trained must stay one
        told = self._ranks.share(f"step/{state.global_step}", lambda: self._look(state))
        if told is None:
            return
        done = Done(**told)
        self._do(done)
        if done.action == HALT:
            control.should_save = control.should_training_stop = True
        if state.is_world_process_zero:
            self._say(f"collapse: {done.words}")

    # In the first process.

    def _look(self, state: Any) -> dict[str, Any] | None:
        """Figures of what was trained since the last look, and what is to be done about them, as a `Done` of JSON."""
        assert self._deeds is not None
        step, seen = state.global_step, len(self.watch.windows) if self.watch else 0
        try:
            self._figure(step)
        except Exception as error:  # a long run is worth more than its figures
            log.warning("The figures of step %d are missing: %s", step, error, exc_info=error)
        if self._deeds.done and step <= self._deeds.done[-1].step:
            return next((asdict(done) for done in self._deeds.done if done.step == step), None)
        if self.watch is None or len(self.watch.windows) == seen:
            return None
        now = Done(step, len(self.watch.windows))
        done = self.action.decide(self.watch.active(), self._trainer.temperature, self._deeds.done, now)
        if done is None:
            return None
        self._deeds.enter(done)
        return asdict(done)

    def _figure(self, step: int) -> None:
        rows = self._rows(step)
        if self.watch is None:
            if not rows:
                return
            buffer = self._buffers()[0]
            around = surroundings(buffer.executor.environment, buffer.config.preset)
            self.watch = Watch(get_embedder(self._embedder), around)
        told: dict[str, float] = {}
        if windows := self.watch.take(rows):
            told = self.watch.told(windows[-1])
            for alarm in self.watch.alarms():
                self._say(f"{alarm.level}: {alarm.words}")
        if self.action.kind == RAISE:
            told["collapse/temperature"] = self._trainer.temperature
        for name, value in told.items():
            self._trainer._metrics["train"][name].append(value)

    def _rows(self, step: int) -> list[Row]:
        """Rows of the batches that were trained since the last time, and what came late of earlier ones."""
        pipelined = hasattr(self._trainer, "pipeline")
        micro = step * self._trainer.args.gradient_accumulation_steps
        # Our trainer names a batch by its index, the stock one by the step it was sampled at.
        last = micro // self._micro_steps - 1 if pipelined else step - 1
        rows: list[Row] = []
        for live in self._live:
            until = time.monotonic() + REPLAYED_SECONDS
            while last <= self._replayed and live.running(last) and time.monotonic() < until:
                time.sleep(0.02)
            rows += live.upto(last)
        late = [replace(row, step=last) for row in rows if row.step <= self._looked]
        rows = [row for row in rows if row.step > self._looked] + late
        self._looked = last
        return sorted(rows, key=lambda row: row.step)

    def _buffers(self) -> list[RewardBuffer]:
        if self._buffer is not None:
            return [self._buffer]
        dataset = self._trainer.train_dataset
        names = [field.name for field in fields(BufferConfig) if field.name in (dataset.column_names or ())]
        if any(name not in names for name in REQUIRED_COLUMNS):
            return []
        # `open_buffer` returns the one that the reward functions use, or will use.
        return [
            open_buffer(config) for config in dict.fromkeys(map(BufferConfig.of_row, dataset.select_columns(names)))
        ]

    # At every rank.

    @property
    def _micro_steps(self) -> int:
        """Forward passes that one generated batch feeds."""
        return int(self._trainer.args.steps_per_generation * self._trainer.num_iterations)

    def _do(self, done: Done) -> None:
        if done.temperature is not None:
            set_temperature(self._trainer, done.temperature)
        if done.advantage is not None:
            self._trainer._advantage = make_advantage(done.advantage, done.options, self._trainer.num_generations)

    def _refuse_impossible(self) -> None:
        action, trainer = self.action, self._trainer
        if action.kind == RAISE:
            fused_heads(trainer)
            if trainer.temperature >= action.ceiling:
                raise IdeatorError(
                    f"collapse_ceiling is {action.ceiling} and the temperature {trainer.temperature} already; expected "
                    "a higher ceiling."
                )
        if action.kind == SWITCH:
            if not hasattr(trainer, "_advantage"):
                raise IdeatorError(
                    f"{type(trainer).__name__} has one advantage only. Use IdeatorGRPOTrainer to switch it, or another "
                    "collapse_action than switch_advantage."
                )
            make_advantage(action.advantage, action.options, trainer.num_generations)
