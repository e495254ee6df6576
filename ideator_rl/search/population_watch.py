"""A search's population while it goes on: figures after every epoch, and a line when it begins to collapse.

Figures stand in `search.jsonl` in the run's folder, a line a window.  Late outcomes count in the window that is open
when they come.  What goes wrong here is logged, and ends no search.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ideator_rl.diversity.embedding import Embedder
from ideator_rl.diversity.environment_context import surroundings
from ideator_rl.diversity.rows import LiveRows
from ideator_rl.diversity.watch import Watch
from ideator_rl.reward_buffer import RewardBuffer

FILE = "search.jsonl"

log = logging.getLogger(__name__)


class Population:
    def __init__(self, buffer: RewardBuffer, embedder: Embedder, folder: Path, say: Callable[[str], None]):
        around = surroundings(buffer.executor.environment, buffer.config.preset)
        self._watch, self._rows, self._say = Watch(embedder, around), LiveRows(buffer), say
        self._path = folder / FILE
        self._path.unlink(missing_ok=True)  # what an earlier sitting wrote is computed anew, in the first look

    def __call__(self, epoch: int) -> None:
        """Look at an epoch that is over."""
        try:
            if not (windows := self._watch.take(self._rows.upto(epoch))):
                return
            with open(self._path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(window)) + "\n" for window in windows)
            for alarm in self._watch.alarms():
                self._say(f"epoch {epoch + 1}, {alarm.level}: {alarm.words}")
        except Exception as error:
            log.warning("The figures of the search's population could not be had: %s", error)
