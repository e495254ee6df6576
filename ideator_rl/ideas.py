"""An idea: what the ideator writes, in the form of Si et al. (arXiv 2601.14525).

    <optional thought> [Experiment] what to try and why [Code Changes] what to change where [End]

`parse_idea` takes a whole completion.  The first complete set of sections after a model's marked thoughts
(`text.thoughts`) is the idea; all text before it is its thought, text after `[End]` is dropped.  Section marks inside
thoughts, SEARCH/REPLACE blocks and hunks of a diff are quotations.  A completion without all three marks, in order and
each followed by text, is malformed: no code is written for it and no GPU spent.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ideator_rl.errors import IdeatorError
from ideator_rl.text.code_spans import FENCE, Cover, Span, code_spans
from ideator_rl.text.display import shorten
from ideator_rl.text.thoughts import Thoughts, field_of_thoughts, split_thoughts

EXPERIMENT, CHANGES, END = "[Experiment]", "[Code Changes]", "[End]"
FORM = f"{EXPERIMENT} … {CHANGES} … {END}"
MAX_CHARS = 131_072
"""Characters of experiment and code changes together; a longer idea is malformed."""

_TEXT = r"(?:(?!\[Experiment\]|\[Code Changes\]|\[End\]).)*"
_SECTIONS = re.compile(rf"\[Experiment\](?P<experiment>{_TEXT})\[Code Changes\](?P<changes>{_TEXT})\[End\]", re.S)
_MARK = re.compile(r"\[(?=(?:Experiment|Code Changes|End)\])")


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
    thoughts = split_thoughts(completion)
    match = next(iter(_ideas_in(thoughts)), None)
    if match is None:
        raise MalformedIdea(_what_is_missing(thoughts))
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
    return [match.span() for match in _ideas_in(split_thoughts(text))]


def unmarked(text: str) -> str:
    """The text without section marks, at equal positions, so that a quotation in a thought is no idea."""
    return _MARK.sub("(", text)


def _ideas_in(thoughts: Thoughts) -> list[re.Match[str]]:
    """Every complete set of sections outside the thoughts, at its position in the text."""
    text = _unmarked_at(thoughts.text, [*thoughts.spans, *thoughts.mentions])
    edits = [span for span, kind in code_spans(text) if kind != FENCE]
    # An edit that is not closed swallows the sections after it: then edits are read like any other text.
    ideas = list(_SECTIONS.finditer(_unmarked_at(text, edits))) or list(_SECTIONS.finditer(text))
    # An idea before a place where the answer may begin is a draft, if there is one after it.
    in_idea = Cover(match.span() for match in ideas)
    starts = [at for at in thoughts.answer_starts if at not in in_idea and at <= ideas[-1].start()] if ideas else []
    return [match for match in ideas if match.start() >= max(starts, default=0)]


def _unmarked_at(text: str, spans: list[Span]) -> str:
    parts, at = [], 0
    for start, end in sorted(spans):
        parts += [text[at:start], unmarked(text[start:end])] if start >= at else []
        at = max(at, end)
    return "".join(parts) + text[at:]


def _what_is_missing(thoughts: Thoughts) -> str:
    """Why a text holds no idea, and what to do."""
    text = thoughts.answer
    if field := field_of_thoughts(thoughts.text):
        return (
            f"This text holds no idea: the answer's text came in {field}, as thoughts, and its content was empty. "
            f"Raise max_tokens, or let the model think less. It began: {_start(thoughts.text.partition(chr(10))[2])}"
        )
    if not thoughts.ended:
        return (
            f"This text holds no idea: the model's thoughts never end, so no {FORM} was reached. Allow longer answers "
            f"(max_tokens; in training max_completion_length). It began: {_start(thoughts.text)}"
        )
    missing = [mark for mark in (EXPERIMENT, CHANGES, END) if mark not in text]
    reason = f"no {' and no '.join(missing)}" if missing else "the section marks are repeated or out of order"
    after = " after the model's thoughts" if thoughts.spans else ""
    return f"This text holds no idea{after}: {reason}. Expected the form {FORM}. It began: {_start(text)}"


def _start(text: str, length: int = 80) -> str:
    return repr(shorten(text, length)) if text.strip() else "(nothing)"
