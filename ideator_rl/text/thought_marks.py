"""Marks of thoughts in a text: where they are, and whether they are marks or only words about them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

STEMS = (
    "think", "thought", "reason", "reflect", "scratchpad", "monolog", "deliberat", "ponder", "rationale", "analysis",
    "brainstorm", "draft",
)  # fmt: skip
"""A tag or a field of a message is named after thoughts if a word of its name starts with one of these."""
_WORDS, _NO_WORDS = ("cot", "plan", "planning"), ("no", "off")
"""Whole words with the same effect, and words that undo it."""
_EDGE_WORDS = ("begin", "start", "end", "of")
_QUOTES = '"`'

_MARK = re.compile(
    # Gemma's channels and the tokens of MedGemma are no tags.
    r"(?P<opening><\|channel>thought\b|<unused94>thought\b)|(?P<closing><channel\|>|<unused95>)"
    r"|(?P<bracket>[<\[◁]|&lt;)\|?(?P<slash>/?)\s?(?P<name>[A-Za-z][\w:.-]{1,40})(?P<more>\s[^<>\[\]\n]{0,200})?"
    r"\|?(?:[>\]▷]|&gt;)"
)
_CLOSING_TAG = re.compile(r".*[<\[◁]\|?/\s?([A-Za-z][\w:.-]{1,40})\|?[>\]▷]")
_SPECIAL = re.compile(r"(?:[\s\u200b\u2060\ufeff]|<\|[^|>\n]*\|>|[*>#_])*")
"""What may precede an opening mark on its line: blanks, special tokens and marks of Markdown."""
_SENTENCE_END = re.compile(r"[.!?…][ \t]*$")
_CONTINUES = re.compile(r"[.,;:!?)]|[ \t]+\(?[a-z]+(?=[\s,.;:)]|$)(?!\.\w)")
"""What follows a mark that a sentence mentions; a path after it is no sentence."""
CONTEXT = 300
"""Characters of a line before a mark that are looked at."""


@dataclass(frozen=True)
class Mark:
    start: int
    end: int
    name: str
    """The words of the tag without begin, start, end and of, in lower case."""
    closing: bool
    in_brackets: bool = False


def names_thoughts(name: str) -> bool:
    """Whether a tag or a field of a message is named after thoughts."""
    words = _words(name)
    return any(word.startswith(STEMS) or word in _WORDS for word in words) and not any(w in _NO_WORDS for w in words)


def marks_in(text: str) -> Iterator[Mark]:
    for match in _MARK.finditer(text):
        if match["name"] is None:
            yield Mark(*match.span(), "channel", match["closing"] is not None)
        elif names_thoughts(match["name"]) and not (match["more"] or "").endswith("/"):
            words = _words(match["name"])
            name = "_".join(word for word in words if word not in _EDGE_WORDS)
            yield Mark(*match.span(), name, bool(match["slash"]) or "end" in words, match["bracket"] == "[")


def unquoted(text: str, marks: Iterator[Mark]) -> Iterator[Mark]:
    """The marks that are not in quotes or in a code span of their line."""
    counted = line_end = -1
    counts: dict[str, int] = {}
    last: dict[str, int] = {}
    for mark in marks:
        # Quotes are counted once per line, however many marks it has.
        if mark.start >= line_end:
            counted = text.rfind("\n", 0, mark.start) + 1
            line_end = text.find("\n", mark.end)
            line_end = line_end if line_end >= 0 else len(text)
            counts = dict.fromkeys(_QUOTES, 0)
            last = {quote: text.rfind(quote, counted, line_end) for quote in _QUOTES}
        for quote in _QUOTES:
            counts[quote] += text.count(quote, counted, mark.start)
        counted = mark.start
        around = text[mark.start - 1 : mark.start] + text[mark.end : mark.end + 1]
        in_quotes = any(counts[quote] % 2 and last[quote] >= mark.end for quote in _QUOTES)
        if not in_quotes and around not in ("''", '""', "``"):
            yield mark


def _line_before(text: str, mark: Mark) -> str:
    """The end of the line before a mark."""
    return text[max(0, mark.start - CONTEXT) : mark.start].rpartition("\n")[2]


def begins(text: str, mark: Mark, thoughts_end: int) -> bool:
    """Whether a mark begins a line, or follows a whole sentence or other thoughts."""
    before = _line_before(text, mark)
    if _SENTENCE_END.search(before) or (thoughts_end and not text[thoughts_end : mark.start].strip()):
        return True
    return len(before) < CONTEXT and _SPECIAL.fullmatch(before) is not None


def is_mentioned(text: str, mark: Mark) -> bool:
    """Whether a sentence goes on after a mark in its middle: it is then about marks."""
    before = _line_before(text, mark)
    in_sentence = before[-1:] in (" ", "\t", "(") and before.strip() and not _SENTENCE_END.search(before)
    return bool(in_sentence and _CONTINUES.match(text, mark.end))


def after_thoughts(line: str) -> str:
    """The part of a line after the last mark that ends thoughts."""
    closing = _CLOSING_TAG.match(line)
    return line[closing.end() :] if closing and names_thoughts(closing[1]) else line


def _words(name: str) -> list[str]:
    """The words of a name such as `seed:think`, `begin_of_thought` or `antThinking`, in lower case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("_", " ").replace(":", " ").split()


class Closings:
    """Closing marks by name and position."""

    def __init__(self, marks: Sequence[Mark]):
        self._by_name: dict[str, list[Mark]] = {}
        self._orphans: list[Mark] = []
        """Those without an opening mark of their name."""
        open_marks: Counter[str] = Counter()
        for mark in marks:
            if not mark.closing:
                open_marks[mark.name] += 1
                continue
            self._by_name.setdefault(mark.name, []).append(mark)
            if open_marks[mark.name]:
                open_marks[mark.name] -= 1
            else:
                self._orphans.append(mark)

    def after(self, opening: Mark) -> int | None:
        """The end of the first closing mark of the same name, else of the first that closes no other thoughts."""
        for marks in (self._by_name.get(opening.name, []), self._orphans):
            index = bisect_right(marks, opening.start, key=lambda mark: mark.start)
            if index < len(marks):
                return marks[index].end
        return None
