"""Follows the diversity of a run while it goes on: rows in, windows and alarms out.

    watch = DiversityWatch(get_embedder(), environment_context(environment, preset))
    live = LiveRows(buffer)
    …                                            # after every step, or every epoch of a search
    if windows := watch.update(live.new_rows(step)):
        log(watch.metrics(windows[-1]))          # {"diversity/vendi": 12.3, "collapse/alarm": 0.0, …}
        for alarm in watch.new_alarms:
            say(f"{alarm.level}: {alarm.text}")

A step costs the embedding of its new descriptions and one matrix product with earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from ideator_rl.diversity import alarms as collapse
from ideator_rl.diversity.alarms import Alarm
from ideator_rl.diversity.embedding import Embedder
from ideator_rl.diversity.environment_context import EnvironmentContext
from ideator_rl.diversity.rows import Row
from ideator_rl.diversity.window import FEW, JOINED, EarlierWindows, Window, sample_size, window_figures


class DiversityWatch:
    """Args:
    embedder: makes the vectors of descriptions.
    context: of the environment; the default has not even the metric's direction.
    sample: ideas at which diversity is compared; None to take it from the first window.
    """

    def __init__(self, embedder: Embedder, context: EnvironmentContext | None = None, *, sample: int | None = None):
        self.embedder, self.context, self.sample = embedder, context or EnvironmentContext(), sample
        self.windows: list[Window] = []
        self._earlier = EarlierWindows()
        self._waiting_rows: list[Row] = []
        """Rows since the last window."""
        self._levels: dict[str, str] = {}
        """Level by kind, of the alarms that hold in the last window."""
        self.new_alarms: list[Alarm] = []
        """The alarms that began, or whose level rose, with the last window."""

    def add(self, rows: Sequence[Row]) -> None:
        """Add the rows of one more step, or of several; every row once, steps ascending."""
        self._waiting_rows += rows

    def update(self, rows: Sequence[Row]) -> list[Window]:
        """Add rows step by step; returns the windows that close: many at the first call of a resumed run."""
        closed = []
        for _, step_rows in groupby(rows, key=lambda row: row.step):
            self.add(list(step_rows))
            if (window := self.close_window()) is not None:
                closed.append(window)
        return closed

    def close_window(self, least: int | None = None) -> Window | None:
        """Close a window over the rows since the last one; None if they are too few, and then they stay.

        Args:
            least: ideas that suffice; None for `FEW` of one step, or `JOINED` of several.
        """
        rows = self._waiting_rows
        if least is None:
            least = FEW if len({row.step for row in rows}) <= 1 else JOINED
        if not rows or len(rows) < least:
            return None
        self._waiting_rows = []
        self.sample = self.sample or sample_size(len(rows))
        figures = window_figures(rows, self._earlier, self.embedder, self.context, self.sample)
        window = Window(rows[0].step, max(row.step for row in rows), len(rows), figures)
        # The index compares with the run's start, which this window may still belong to.
        start, vendi = collapse.start_of([*self.windows, window]), figures["vendi"]
        if start and vendi is not None:
            window = replace(window, figures=figures | {"collapse_index": 1 - vendi / start})
        self.windows.append(window)
        alarms = self.active_alarms()
        self.new_alarms = [
            alarm
            for alarm in alarms
            if collapse.LEVELS[alarm.level] > collapse.LEVELS[self._levels.get(alarm.kind, "")]
        ]
        self._levels = {alarm.kind: alarm.level for alarm in alarms}
        return window

    def active_alarms(self) -> list[Alarm]:
        """The alarms that hold in the last window."""
        return collapse.active(self.windows)

    def metrics(self, window: Window) -> dict[str, float]:
        """A window for a tracker, with the level of the worst sign of a collapse: 0, 1 (warn) or 2 (stop)."""
        figures = {f"diversity/{name}": value for name, value in window.figures.items() if value is not None}
        worst = max((collapse.LEVELS[self._levels.get(kind, "")] for kind in collapse.COLLAPSE), default=0)
        return figures | {"collapse/alarm": float(worst)}
