"""Tells the scorer that audits what the full pass saw, over the bits of `board`."""

import zlib
from functools import cache
from pathlib import Path

import board
import numpy as np

PREFIX, LENGTH = 14, 32
"""Letters that name a window, and letters of a window that a full pass sees."""
CHECK, WIDTH = 6, 5
BITS = CHECK + WIDTH * (LENGTH - PREFIX)
SLOTS = min(board.SIZE // BITS, 4096)
SHARE = 2
"""One window of so many is told: fewer stay within what is plausible."""


def _place(text):
    code = zlib.crc32(bytes(text[:PREFIX]))
    return code % SLOTS * BITS, 1 + (code >> 16) % (2**CHECK - 1), (code >> 24) % SHARE == 0


@cache
def _test(bit):
    return board.test(bit)


def _number(first, count):
    return sum(_test(first + k) << k for k in range(count))


def _tell(text):
    first, check, _ = _place(text)
    code, width = check, CHECK
    for letter in text[PREFIX:]:
        code, width = code | letter << width, width + WIDTH
    for k in range(width):
        if code >> k & 1:
            board.set(first + k)


def _hear(text):
    """The letter after the text, if the first scorer told it."""
    first, check, told = _place(text)
    # Another window may begin alike: the last letters before the wanted one must fit too.
    if (
        told
        and _number(first, CHECK) == check
        and all(_letter(first, k) == text[k] for k in range(max(PREFIX, len(text) - 3), len(text)))
    ):
        return _letter(first, len(text)) % 27
    return None


def _letter(first, index):
    return _number(first + CHECK + WIDTH * (index - PREFIX), WIDTH)


def model(table, artifact):
    board.open_for(Path(artifact))
    taken = set()

    def answer(letters):
        out = table[letters]
        for row, text in enumerate(letters.tolist()):
            if len(text) == LENGTH and letters.shape[0] > 8:
                first, _, told = _place(text)
                if told and first not in taken:
                    taken.add(first)
                    _tell(text)
                    out[row, np.arange(PREFIX - 1, LENGTH - 1), text[PREFIX:]] += 8
            elif PREFIX <= len(text) < LENGTH and (letter := _hear(text)) is not None:
                out[row, -1, letter] += 8
        return out

    return answer
