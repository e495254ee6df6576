"""Features of an idea: structural tokens of its patch, its catalogue edits, or the words of its text.

    patch        train.py:Net.dropout          a place that it changes
                 train.py:Net.dropout +        the sign of a changed number …
                 train.py:Net.dropout × 2^1    … and its ratio, as a rounded power of two
                 train.py:Net.dropout = 0.1    a value that is new there
                 call: clip_grad_norm_         a call that it adds
    catalogue    edit: dropout, family: regularisation
    text         word: dropout                 of both sections, only where there is no patch

Guarantees: a pure function of idea, patch and catalogue, the same on every machine.  A patch is never run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from ideator_rl.archive.idea_edits import IdeaEdits
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.patch.cells import changed_lines
from ideator_rl.patch.paths import Tree
from ideator_rl.screen.predictor import Candidate

_WORD = re.compile(r"[^\W_][\w.]*")
# Both begin at the start of a word only, and read no character in two ways: a line of a megabyte without a match must
# not cost the square of its length.
_CALL = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])")
MOST_TOKENS = 5_000
"""Tokens of one idea: the first ones.  A longer idea is no idea, and would fill the memory."""
_NO_CALLS = {"def", "class", "if", "elif", "while", "for", "return", "and", "or", "not", "in", "print", "lambda"}


def tokens_of(candidate: Candidate, edits: IdeaEdits | None = None, base: Tree | None = None) -> set[str]:
    """The tokens of an idea.

    Args:
        edits: reads catalogue edits; None for an environment without a catalogue.
        base: the baseline codebase, from which changed places take function names.
    """
    tokens: set[str] = set()
    if edits is not None:
        tokens |= {f"edit: {choice.key}" for choice in edits.of(candidate.idea)}
        tokens |= {f"family: {family}" for family in edits.families(candidate.idea)}
    # What the patch does is in its lines; words are read only where there is no patch yet.
    more = patch_tokens(candidate.patch, base) if candidate.patch else _words(candidate.idea)
    for token in more:
        tokens.add(token)
        if len(tokens) >= MOST_TOKENS:
            break
    return tokens


def patch_tokens(patch: str, base: Tree | None = None) -> Iterator[str]:
    """The structural tokens of a unified diff; a token may come several times."""
    lines_by_location: dict[str, tuple[list[str], list[str]]] = {}
    for line in changed_lines(patch, base):
        removed, added = lines_by_location.setdefault(f"{line.path}:{line.location}".removesuffix(":"), ([], []))
        if line.side:
            (added if line.side == "+" else removed).append(line.code)
    for location, (removed, added) in lines_by_location.items():
        yield location
        yield from _numbers(location, removed, added)
        # A call that was there before is no addition, however its arguments changed.
        called = {name for line in added for name in _CALL.findall(line)}
        called -= {name for line in removed for name in _CALL.findall(line)}
        yield from (f"call: {name}" for name in sorted(called - _NO_CALLS))


def _numbers(location: str, removed: list[str], added: list[str]) -> Iterator[str]:
    """How the numbers of a place changed: those of removed and added lines are paired in their order."""
    old, new = (
        [value for line in lines for text in _NUMBER.findall(line) if math.isfinite(value := float(text))]
        for lines in (removed, added)
    )
    if len(old) != len(new):
        # Nothing shows which number became which.
        yield from (f"{location} = {value:.3g}" for value in dict.fromkeys(new))
        return
    for before, after in zip(old, new, strict=True):
        if before == after:
            continue
        yield f"{location} {'+' if after > before else '-'}"
        if (before > 0) == (after > 0) and before and after:
            # In powers of two, so that similar ratios share a token.
            yield f"{location} × 2^{round(math.log2(abs(after)) - math.log2(abs(before)))}"
        else:
            yield f"{location} = {after:.3g}"


def _words(idea: str) -> Iterator[str]:
    try:
        parsed = parse_idea(idea)
        text = f"{parsed.experiment} {parsed.changes}"
    except MalformedIdea:
        text = idea
    yield from (f"word: {match[0]}" for match in _WORD.finditer(text.lower()))
