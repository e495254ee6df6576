"""A watch over a run while it goes: rows in, windows and alarms out.  For the trainer's callback and for searches.

    watch = Watch(get_embedder(), surroundings(environment, preset))
    live = LiveRows(buffer)
    …                                       # after every step, or every round of asking
    if windows := watch.take(live.upto(step)):
        log(watch.told(windows[-1]))        # {"diversity/vendi": 12.3, "collapse/alarm": 0.0, …}
        for alarm in watch.alarms():        # what begins, or rises, with the last window
            say(f"{alarm.level}: {alarm.words}")

A step costs the embedding of its new descriptions and one product with those of the past; nothing is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from ideator_rl.diversity import alarms as collapse
from ideator_rl.diversity.alarms import Alarm
from ideator_rl.diversity.embedding import Embedder
from ideator_rl.diversity.environment_context import Surroundings
from ideator_rl.diversity.rows import Row
from ideator_rl.diversity.window import FEW, JOINED, Past, Window, figures_of, sample_of


class Watch:
    """Args:
    embedder: what makes vectors of descriptions.
    around: what is known of the environment; the default knows nothing, not even the metric's direction.
    sample: ideas at which diversity is compared; None to take it from the first window.
    """

    def __init__(self, embedder: Embedder, around: Surroundings | None = None, *, sample: int | None = None):
        self.embedder, self.around, self.sample = embedder, around or Surroundings(), sample
        self.windows: list[Window] = []
        self._past = Past()
        self._noted: list[Row] = []
        self._told: dict[str, str] = {}
        self._new: list[Alarm] = []

    def note(self, rows: Sequence[Row]) -> None:
        """Rows of one more step, or of several; every row once, steps ascending."""
        self._noted += rows

    def take(self, rows: Sequence[Row]) -> list[Window]:
        """Note rows step by step; the windows that close: many at the first look at a run that goes on again."""
        closed = []
        for _, of_one_step in groupby(rows, key=lambda row: row.step):
            self.note(list(of_one_step))
            if (window := self.window()) is not None:
                closed.append(window)
        return closed

    def window(self, least: int | None = None) -> Window | None:
        """Close a window over what was noted since the last one; None while that is too little, and then it is kept.

        Args:
            least: ideas that suffice; None for `FEW` of one step, or `JOINED` of several.
        """
        rows = self._noted
        if least is None:
            least = FEW if len({row.step for row in rows}) <= 1 else JOINED
        if not rows or len(rows) < least:
            return None
        self._noted = []
        self.sample = self.sample or sample_of(len(rows))
        figures = figures_of(rows, self._past, self.embedder, self.around, self.sample)
        window = Window(rows[0].step, max(row.step for row in rows), len(rows), figures)
        start, vendi = collapse.start_of([*self.windows, window]), figures["vendi"]
        if start and vendi is not None:
            window = replace(window, figures=figures | {"collapse_index": 1 - vendi / start})
        self.windows.append(window)
        now = self.active()
        self._new = [each for each in now if collapse.LEVELS[each.level] > self._level(each.kind)]
        self._told = {each.kind: each.level for each in now}
        return window

    def alarms(self) -> list[Alarm]:
        """What begins, or rises, with the last window."""
        return self._new

    def active(self) -> list[Alarm]:
        """What holds in the last window."""
        return collapse.active(self.windows)

    def told(self, window: Window) -> dict[str, float]:
        """A window for a tracker, and how bad the worst sign of a collapse is: 0, 1 (warn) or 2 (stop)."""
        figures = {f"diversity/{name}": value for name, value in window.figures.items() if value is not None}
        worst = max((collapse.LEVELS[self._told.get(kind, "")] for kind in collapse.COLLAPSE), default=0)
        return figures | {"collapse/alarm": float(worst)}

    def _level(self, kind: str) -> int:
        return collapse.LEVELS[self._told.get(kind, "")]
