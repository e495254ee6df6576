"""Whether words of a measurement may leave it: not after a model got hidden data, and not where they repeat such data.

Covered:
- from the first hidden token on, no text of a scorer or of the evaluator goes into the record as feedback
- a text that repeats `REPEATED` bytes in a row of the private data is left out

Not covered: a trusted evaluator that writes hidden data in another form, such as a label or a number.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PIECE = 32
"""Bytes of a piece of private data that is looked for."""
REPEATED = 2 * PIECE - 1
"""So many bytes in a row always hold one whole piece."""
MAX_SEARCHED = 32_000_000
"""Bytes of private data, of all files together: a tenth of a second."""


@dataclass
class Exposure:
    """Shared by the scorers of one measurement; the first that gets hidden tokens sets it, and nothing resets it."""

    hidden: bool = False
    """A model of the experiment, or one with its weights, got hidden data."""


def repeats_private(text: str, private: Path) -> bool:
    """Whether a text holds a piece of the private data as it is in the files, of which the first bytes are read."""
    body = text.encode("utf-8", "replace")
    windows = {body[i : i + PIECE] for i in range(len(body) - PIECE + 1)}
    left = MAX_SEARCHED if windows else 0
    for folder, _, names in os.walk(private):
        for name in sorted(names):
            with open(Path(folder) / name, "rb") as file:
                data = file.read(left)
            left -= len(data)
            if any(data[i : i + PIECE] in windows for i in range(0, len(data), PIECE)):
                return True
    return False
