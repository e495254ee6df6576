"""Follows the diversity of a search while it runs: figures after every epoch, and a line when a collapse begins.

Appends one JSON line per window to `search.jsonl` in the run folder.  A late outcome counts in the window that is open
when it arrives.  An error here is logged and does not end the search.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ideator_rl.diversity.embedding import Embedder
from ideator_rl.diversity.environment_context import environment_context
from ideator_rl.diversity.rows import LiveRows
from ideator_rl.diversity.watch import DiversityWatch
from ideator_rl.reward_buffer import RewardBuffer

FILE = "search.jsonl"

log = logging.getLogger(__name__)


class PopulationWatch:
    def __init__(self, buffer: RewardBuffer, embedder: Embedder, folder: Path, say: Callable[[str], None]):
        context = environment_context(buffer.executor.environment, buffer.config.preset)
        self._watch, self._rows, self._say = DiversityWatch(embedder, context), LiveRows(buffer), say
        self._path = folder / FILE
        # The first call computes the windows of earlier sessions anew.
        self._path.unlink(missing_ok=True)

    def __call__(self, epoch: int) -> None:
        """Take in an epoch that has ended."""
        # Diversity figures are for people: a fault in them is not worth the search.
        try:
            if not (windows := self._watch.update(self._rows.new_rows(epoch))):
                return
            with open(self._path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(window)) + "\n" for window in windows)
            for alarm in self._watch.new_alarms:
                self._say(f"epoch {epoch + 1}, {alarm.level}: {alarm.text}")
        except Exception as error:
            log.warning("The diversity figures of the search could not be computed: %s", error)
