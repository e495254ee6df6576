"""Edits as text: the tokens of an idea, and the lines of the listing file, which is the codebase."""

from __future__ import annotations

import re

from ideator_rl.envs.landscape.landscape import KNOBS, MOST_EDITS, VALUES, Edit

FILE = "edits.yaml"
_TOKEN = re.compile(r"k(\d\d)v(\d)")
_LINE = re.compile(r"k(\d\d): (\d)")


class NotAnIdea(ValueError):
    """The text is no list of edits; the message gives the reason."""


def read_idea(text: str) -> list[Edit]:
    """The edits of an idea such as `k01v2 k07v0`.

    Raises:
        NotAnIdea: a word is no edit, the knobs do not ascend, or there are no edits or too many.
    """
    edits = [_edit(word, _TOKEN) for word in text.split()]
    if not 1 <= len(edits) <= MOST_EDITS:
        raise NotAnIdea(f"The idea has {len(edits)} edits; expected 1 to {MOST_EDITS}.")
    for (knob, _), (next_knob, _) in zip(edits, edits[1:], strict=False):
        if next_knob <= knob:
            raise NotAnIdea(f"k{next_knob:02d} comes after k{knob:02d}; expected each knob once, ascending.")
    return edits


def read_listing(text: str) -> list[Edit]:
    """The edits in a listing file.

    Raises:
        NotAnIdea: a line is no setting, a knob is set twice, or there are too many settings.
    """
    lines = (line.strip() for line in text.split("\n"))
    edits = [_edit(line, _LINE) for line in lines if line and not line.startswith("#")]
    if len({knob for knob, _ in edits}) != len(edits) or len(edits) > MOST_EDITS:
        raise NotAnIdea(f"The listing has {len(edits)} settings; expected at most {MOST_EDITS}, each knob once.")
    return edits


def append_edits(base: str, edits: list[Edit]) -> str:
    """A listing file with these edits added at its end."""
    return base + "".join(f"k{knob:02d}: {value}\n" for knob, value in edits)


def _edit(word: str, form: re.Pattern[str]) -> Edit:
    match = form.fullmatch(word)
    knob, value = (int(match[1]), int(match[2])) if match else (KNOBS, VALUES)
    if knob >= KNOBS or value >= VALUES:
        raise NotAnIdea(f"{word[:40]!r} is no edit: expected k00v0 to k{KNOBS - 1}v{VALUES - 1}.")
    return knob, value
