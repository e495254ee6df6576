"""The diversity of a run, window by window, from its records alone, while it runs and after it ended.

Windows and figures: `window` and `figure_table`; docs/reference/diversity.md explains them.  10,000 ideas take under
10 s on one core once they are embedded (`python benchmarks/diversity.py`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from statistics import fmean
from typing import Any

from ideator_rl.config.reader import MAX_DATA_BYTES, parse_json, read_text
from ideator_rl.diversity.embedding import Embedder, get_embedder
from ideator_rl.diversity.environment_context import context_of_run
from ideator_rl.diversity.figure_table import FIGURES, FigureInfo
from ideator_rl.diversity.rows import rows_of_run
from ideator_rl.diversity.watch import DiversityWatch
from ideator_rl.diversity.window import Window
from ideator_rl.storage.run_reader import Run

__all__ = ["FIGURES", "FigureInfo", "Window", "population"]

LOG = "trainer_state.json"
"""The trainer's log in every checkpoint."""


def population(
    run: Run, embedder: Embedder | None = None, *, per_window: int | None = None, sample: int | None = None
) -> list[Window]:
    """Every window of a run, in order.

    Args:
        embedder: None for `get_embedder()`.
        per_window: ideas of a window, over any number of steps (the last window may have fewer); None for one window
            for each step, where steps of fewer than 8 ideas are joined to at least 16.
        sample: ideas n at which diversity is compared; None to take it from the first window (`sample_size`).
    """
    watch = DiversityWatch(embedder or get_embedder(), context_of_run(run), sample=sample)
    rows = rows_of_run(run)
    if per_window:
        groups = [rows[start : start + per_window] for start in range(0, len(rows), per_window)]
    else:
        groups = [list(step_rows) for _, step_rows in groupby(rows, key=lambda row: row.step)]
    # The watch joins small groups itself, so that a finished run has the windows that the running one had.
    for group in groups:
        watch.add(group)
        watch.close_window(1 if per_window else None)
    watch.close_window(1)  # the rows left at the end
    entropies = _entropies(run)
    return [_with_entropy(window, entropies) for window in watch.windows]


def _with_entropy(window: Window, entropies: dict[int, float]) -> Window:
    values = [entropies[step] for step in range(window.step, window.last_step + 1) if step in entropies]
    return replace(window, figures=window.figures | {"token_entropy": fmean(values)}) if values else window


def _entropies(run: Run) -> dict[int, float]:
    """Mean token entropy by step of the journal, from the newest checkpoint's log."""
    paths = {path.parent.name.removeprefix("checkpoint-"): path for path in run.folder.glob(f"checkpoint-*/{LOG}")}
    logs = {int(step): path for step, path in paths.items() if step.isdecimal()}
    if not logs:
        return {}
    try:
        text = read_text(logs[max(logs)], max_bytes=MAX_DATA_BYTES)
        history = parse_json(text, LOG, finite=False)["log_history"]
        history = [entry for entry in history if isinstance(entry, dict) and isinstance(entry.get("step"), int)]
    except (ValueError, LookupError, TypeError):
        return {}
    per_batch = _steps_per_batch(run.recipe)
    return {
        (int(entry["step"]) - 1) // per_batch: float(entry["entropy"])
        for entry in history
        if isinstance(entry.get("entropy"), (int, float)) and entry.get("step")
    }


def _steps_per_batch(recipe: dict[str, Any]) -> int:
    """Optimizer steps for one generated batch: the journal counts batches, the trainer's log counts steps."""
    accumulation = int(recipe.get("gradient_accumulation_steps") or 1)
    micro_batches = int(recipe.get("steps_per_generation") or accumulation)
    return max(1, micro_batches * int(recipe.get("num_iterations") or 1) // accumulation)
