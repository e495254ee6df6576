"""The population of a finished or living run, window by window, from its records alone.

Windows and figures are those of `window` and `figure_table`; docs/reference/diversity.md explains them.  10,000 ideas
take under 10 s on one core once they are embedded (`python benchmarks/diversity.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from statistics import fmean
from typing import Any

from ideator_rl.diversity.embedding import Embedder, get_embedder
from ideator_rl.diversity.environment_context import surroundings_of
from ideator_rl.diversity.figure_table import FIGURES, FigureInfo
from ideator_rl.diversity.rows import Row, rows_of
from ideator_rl.diversity.watch import Watch
from ideator_rl.diversity.window import Window
from ideator_rl.storage.records import Run

__all__ = ["FIGURES", "FigureInfo", "Window", "population"]

LOG = "trainer_state.json"
"""Where the trainer keeps its log, in every checkpoint."""


def population(
    run: Run, embedder: Embedder | None = None, *, per_window: int | None = None, sample: int | None = None
) -> list[Window]:
    """Every window of a run, in order.

    Args:
        embedder: None for `get_embedder()`.
        per_window: ideas of a window, whatever the steps (the last one may have fewer); None for one window a step,
            where steps of fewer than 8 ideas are joined to at least 16.
        sample: ideas n at which diversity is compared; None to take it from the first window (`sample_of`).
    """
    watch = Watch(embedder or get_embedder(), surroundings_of(run), sample=sample)
    for rows in _parts(rows_of(run), per_window):
        watch.note(rows)
        watch.window(1 if per_window else None)
    watch.window(1)  # what is left at the end
    entropies = _entropies(run)
    return [_with_entropy(window, entropies) for window in watch.windows]


def _parts(rows: Sequence[Row], per_window: int | None) -> Iterator[Sequence[Row]]:
    if per_window:
        yield from (rows[at : at + per_window] for at in range(0, len(rows), per_window))
    else:
        yield from (list(each) for _, each in groupby(rows, key=lambda row: row.step))


def _with_entropy(window: Window, entropies: dict[int, float]) -> Window:
    found = [entropies[step] for step in range(window.step, window.last_step + 1) if step in entropies]
    return replace(window, figures=window.figures | {"token_entropy": fmean(found)}) if found else window


def _entropies(run: Run) -> dict[int, float]:
    """Mean token entropy by step of the journal, as far as the newest checkpoint's log has it."""
    logs = sorted(run.folder.glob(f"checkpoint-*/{LOG}"), key=lambda path: _number(path.parent.name))
    if not logs:
        return {}
    try:
        history: list[dict[str, Any]] = json.loads(logs[-1].read_text(encoding="utf-8"))["log_history"]
    except (OSError, ValueError, KeyError):
        return {}
    per_batch = _steps_per_batch(run.recipe)
    found = {
        (int(each["step"]) - 1) // per_batch: float(each["entropy"])
        for each in history
        if isinstance(each.get("entropy"), (int, float)) and each.get("step")
    }
    return found


def _steps_per_batch(recipe: dict[str, Any]) -> int:
    """Optimizer steps that one generated batch feeds: the journal counts batches, the trainer's log steps."""
    accumulated = int(recipe.get("gradient_accumulation_steps") or 1)
    split = int(recipe.get("steps_per_generation") or accumulated)
    return max(1, split * int(recipe.get("num_iterations") or 1) // accumulated)


def _number(name: str) -> int:
    return int(found[0]) if (found := re.findall(r"\d+$", name)) else -1
