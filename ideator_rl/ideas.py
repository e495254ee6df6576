"""An idea: what the ideator writes, in the form of Si et al. (arXiv 2601.14525).

    <optional thought> [Experiment] what to try and why [Code Changes] what to change where [End]

`parse_idea` takes a whole completion.  The first complete set of sections is the idea; text before it is the
thought, text after `[End]` is dropped; marks inside SEARCH/REPLACE blocks and hunks of a diff are code.  A completion
without all three marks, in order and each followed by text, is malformed: no code is written for it and no GPU spent.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ideator_rl.errors import IdeatorError

EXPERIMENT, CHANGES, END = "[Experiment]", "[Code Changes]", "[End]"
FORM = f"{EXPERIMENT} … {CHANGES} … {END}"
MAX_CHARS = 131_072
"""Characters of experiment and code changes together; a longer idea is malformed."""

_TEXT = r"(?:(?!\[Experiment\]|\[Code Changes\]|\[End\]).)*"
_SECTIONS = re.compile(rf"\[Experiment\](?P<experiment>{_TEXT})\[Code Changes\](?P<changes>{_TEXT})\[End\]", re.S)
_MARK = re.compile(r"\[(?=(?:Experiment|Code Changes|End)\])")
_BLOCK, _BLOCK_END = re.compile(r"<{5,9} ?SEARCH\b"), re.compile(r">{5,9} ?REPLACE\b")


class MalformedIdea(IdeatorError):
    """The completion holds no idea in the expected form."""


@dataclass(frozen=True)
class Idea:
    """One idea.  Two ideas with the same `experiment` and `changes` are the same idea, whatever the thought."""

    experiment: str
    changes: str
    thought: str = ""

    @property
    def text(self) -> str:
        """The idea alone, in the form that the implementer reads."""
        return f"{EXPERIMENT} {self.experiment} {CHANGES} {self.changes} {END}"

    @property
    def key(self) -> str:
        """SHA-256 of `text`, hex."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


def parse_idea(completion: str) -> Idea:
    """Find the idea in a completion.

    Raises:
        MalformedIdea: a section mark is missing, out of order, or followed by nothing.
    """
    match = _SECTIONS.search(_marks_in_edits_hidden(completion)) or _SECTIONS.search(completion)
    if match is None:
        missing = [mark for mark in (EXPERIMENT, CHANGES, END) if mark not in completion]
        reason = f"no {' and no '.join(missing)}" if missing else "the section marks are repeated or out of order"
        raise MalformedIdea(
            f"This text holds no idea: {reason}. Expected the form {FORM}. It began: {_start(completion)}"
        )
    experiment, changes = (completion[slice(*match.span(name))].strip() for name in ("experiment", "changes"))
    if not experiment or not changes:
        empty = EXPERIMENT if not experiment else CHANGES
        raise MalformedIdea(f"This idea has nothing after {empty}. Expected the form {FORM} with text in each section.")
    if len(experiment) + len(changes) > MAX_CHARS:
        raise MalformedIdea(
            f"This idea has {len(experiment) + len(changes)} characters; at most {MAX_CHARS} are read. "
            "Write it shorter."
        )
    return Idea(experiment, changes, completion[: match.start()].strip())


def spans_of_ideas(text: str) -> list[tuple[int, int]]:
    """Start and end of each complete set of sections in a text that holds several ideas, in order."""
    matches = list(_SECTIONS.finditer(_marks_in_edits_hidden(text))) or list(_SECTIONS.finditer(text))
    return [match.span() for match in matches]


def unmarked(text: str) -> str:
    """The text without section marks, so that a quotation in a thought is no idea."""
    return _MARK.sub("(", text)


def _marks_in_edits_hidden(completion: str) -> str:
    """The text with the marks inside SEARCH/REPLACE blocks and hunks of a diff disabled, at equal positions."""
    lines, inside = completion.split("\n"), ""
    for index, line in enumerate(lines):
        if (inside == "hunk" and line[:1] not in tuple(" +-\\")) or (inside == "block" and _BLOCK_END.match(line)):
            inside = ""
        if not inside:
            inside = "block" if _BLOCK.match(line) else "hunk" if line.startswith("@@ ") else ""
        if inside:
            lines[index] = _MARK.sub("(", line)
    return "\n".join(lines)


def _start(text: str, length: int = 80) -> str:
    flat = " ".join(text.split())
    if not flat:
        return "(nothing)"
    return repr(flat if len(flat) <= length else flat[:length] + "…")
