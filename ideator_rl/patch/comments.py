"""Which comment of a file a hunk's comment is: the equal one, or the only one of which it can be a mistyped copy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import cached_property

from ideator_rl.patch.tokens import Tokens

_NUMBER = re.compile(r"\d+(?:\.\d+)*")
# Letters, and signs that are more than punctuation.
_WORD = re.compile(r"[^\W\d_]+|[^\w\s.,;:!?'\"`]")
MOST_EDITS = 2
"""Letters in which a mistyped word differs."""
ALIKE = 0.75
"""Similarity of a mistyped word, and of a whole comment that lost a word."""


class FileComments:
    """The comments of a file."""

    def __init__(self, lines: list[str], tokens: Tokens) -> None:
        self._lines = lines
        self._comments = {lines[number][column:].strip() for number, column in tokens.comments.items()}
        self._alike: dict[str, set[str]] = {}

    @cached_property
    def _words(self) -> set[str]:
        return {word.lower() for word in _WORD.findall("\n".join(self._lines))}

    def is_copy(self, comment: str, originals: Iterable[str]) -> bool:
        """Whether a comment is one of some of the file's, perhaps with a typo.

        A mistyped one must be like no other comment of the file: else it may belong to other code, which the hunk
        copied wrongly.  For the same reason a word of the file is no typo.
        """
        stripped = {original.strip() for original in originals}
        if comment in stripped:
            return True
        if comment in self._comments:
            return False
        if comment not in self._alike:
            self._alike[comment] = {other for other in self._comments if self._is_mistyped(comment, other)}
        alike = self._alike[comment]
        return len(alike) == 1 and alike <= stripped

    def _is_mistyped(self, comment: str, original: str) -> bool:
        if _NUMBER.findall(comment) != _NUMBER.findall(original):
            return False
        words, others = _WORD.findall(comment), _WORD.findall(original)
        lost = 0
        for tag, i1, i2, j1, j2 in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
            if tag == "insert":
                lost += j2 - j1
            elif tag != "equal":
                # What adds words is an invention.
                pairs = zip(words[i1:i2], others[j1:j2], strict=False)
                if i2 - i1 != j2 - j1 or not all(self._is_typo(*pair) for pair in pairs):
                    return False
        return lost == 0 or (lost == 1 and _ratio(comment, original) >= ALIKE)

    def _is_typo(self, word: str, other: str) -> bool:
        # The cheap tests are first: each comment of the file is compared.
        if abs(len(word) - len(other)) > MOST_EDITS or _ratio(word, other) < ALIKE:
            return False
        is_word_of_file = word.lower() != other.lower() and word.lower() in self._words
        return not is_word_of_file and _edits(word, other) <= MOST_EDITS


def _ratio(first: str, second: str) -> float:
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def _edits(first: str, second: str) -> int:
    """The edit distance: letters inserted, deleted or replaced."""
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            diagonal, row[j] = row[j], min(diagonal + (letter != other), row[j] + 1, row[j - 1] + 1)
    return row[-1]
