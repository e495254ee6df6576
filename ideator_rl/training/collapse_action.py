"""What a run does by itself when its population collapses, and the file that says what it has done."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ideator_rl.diversity.alarms import COLLAPSE, SPAN, STOP, Alarm
from ideator_rl.errors import IdeatorError
from ideator_rl.files import write_atomic

FILE = "collapse.json"
REST = SPAN
"""Windows after something was done in which nothing more is done: it must have time to show."""
WARN, RAISE, SWITCH, HALT = "warn", "raise_temperature", "switch_advantage", "stop"
ACTIONS = (WARN, RAISE, SWITCH, HALT)


@dataclass(frozen=True)
class Action:
    """What to do at an alarm of `collapse.COLLAPSE`; of other kinds a run only warns.

    Raises:
        IdeatorError: an unknown action, or numbers that lead nowhere.
    """

    kind: str = WARN
    """warn, raise_temperature (at level warn or stop), switch_advantage (the same, once), stop (at level stop)."""
    factor: float = 1.2
    """What the temperature is multiplied by each time, and"""
    ceiling: float = 1.5
    """what it never exceeds."""
    advantage: str = "max_at_k"
    """What is switched to, with its"""
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ACTIONS:
            raise IdeatorError(f"collapse_action is {self.kind!r}; expected one of {', '.join(ACTIONS)}.")
        if self.kind == RAISE and not self.factor > 1:
            raise IdeatorError(f"collapse_factor is {self.factor}; expected a number above 1, such as 1.2.")

    def decide(self, active: Sequence[Alarm], temperature: float, before: Sequence[Done], now: Done) -> Done | None:
        """What is to be done, if anything.

        Args:
            active: alarms that hold.
            before: what was done in this run.
            now: when it is, to be filled in.
        """
        signs = [alarm for alarm in active if alarm.kind in COLLAPSE]
        if self.kind == HALT:
            signs = [alarm for alarm in signs if alarm.level == STOP]
        if not signs or self.kind == WARN or (before and now.window - before[-1].window < REST):
            return None
        now = Done(now.step, now.window, self.kind, signs[0].kind)
        if self.kind == RAISE:
            raised = min(temperature * self.factor, self.ceiling)
            return Done(**asdict(now) | {"temperature": raised}) if raised > temperature else None
        if self.kind == SWITCH:
            switched = any(each.advantage for each in before)
            return None if switched else Done(**asdict(now) | {"advantage": self.advantage, "options": self.options})
        return now


@dataclass(frozen=True)
class Done:
    """Something that was done."""

    step: int
    """Optimizer steps that had been taken."""
    window: int
    """Windows that had been seen."""
    action: str = ""
    cause: str = ""
    """Kind of the alarm."""
    temperature: float | None = None
    advantage: str | None = None
    options: dict[str, Any] | None = None

    @property
    def words(self) -> str:
        if self.temperature is not None:
            return f"the temperature is {self.temperature:.3g} from now on ({self.cause})"
        if self.advantage is not None:
            return f"the advantage is {self.advantage} from now on ({self.cause})"
        return f"training stops ({self.cause})"


class Deeds:
    """What was done in a run, in order, as its folder has it."""

    def __init__(self, folder: Path, fresh: bool):
        """Args:
        fresh: the run begins, and what the folder may hold is another's.

        Raises:
            IdeatorError: the file cannot be read.
        """
        self._path = folder / FILE
        self.done: list[Done] = []
        if fresh:
            self._path.unlink(missing_ok=True)
        elif self._path.is_file():
            try:
                self.done = [Done(**each) for each in json.loads(self._path.read_text(encoding="utf-8"))]
            except (OSError, ValueError, TypeError) as error:
                raise IdeatorError(
                    f"{self._path} cannot be read: {error}. It says what a run has done against a collapse; restore "
                    "it, or remove it to go on as the recipe says."
                ) from error

    def enter(self, done: Done) -> None:
        """On disk when this returns."""
        self.done.append(done)
        os.makedirs(self._path.parent, exist_ok=True)
        write_atomic(self._path, json.dumps([asdict(each) for each in self.done], indent=1).encode())
