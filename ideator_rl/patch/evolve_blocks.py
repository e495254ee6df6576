"""Editable ranges of a file: what is between the comments EVOLVE-BLOCK-START and EVOLVE-BLOCK-END.

The marks are those of OpenEvolve and ShinkaEvolve; a mark counts wherever it is in its line.  A file without a complete
pair of marks has no ranges, and all of it may change.
"""

from __future__ import annotations

from itertools import takewhile

START, END = "EVOLVE-BLOCK-START", "EVOLVE-BLOCK-END"


def fixed_parts(text: str) -> list[str]:
    """The parts of a text outside its blocks, the lines with marks included; one part more than there are blocks."""
    parts, part, block = list[str](), list[str](), list[str]()
    is_inside = False
    for line in text.splitlines(keepends=True):
        if is_inside and END in line:
            # The block is complete: the part before it ends with its first mark.
            parts.append("".join(part))
            part, block, is_inside = [line], [], False
        elif is_inside:
            block.append(line)
        else:
            part.append(line)
            is_inside = START in line
    # A last mark without its end opens no block.
    return [*parts, "".join(part + block)]


def change_outside(before: str, after: str | None) -> str:
    """Why a file may not become another: a sentence without the file's name; empty if only its blocks differ.

    Args:
        after: None for a file that is deleted.
    """
    parts = fixed_parts(before)
    if len(parts) == 1:
        return ""
    if after is None:
        return "has EVOLVE-BLOCK marks, so it may not be deleted"
    first, *between, last = parts
    if not after.startswith(first):
        return _at(1 + _equal_lines(first.splitlines(), after.splitlines()))
    position = len(first)
    # Each part in its order, at the first place where it occurs: the blocks may hold anything.
    for part in between:
        place = after.find(part, position)
        if place < 0:
            return _at(1 + before[: before.index(part)].count("\n"))
        position = place + len(part)
    if not after[position:].endswith(last):
        equal = _equal_lines(last.splitlines()[::-1], after.splitlines()[::-1])
        return _at(len(before.splitlines()) - equal)
    return ""


def change_inside(text: str, line: str) -> str:
    """The text with one line more at the beginning of its first block; for a text without blocks, the line alone."""
    first, *others = fixed_parts(text)
    return f"{first}{line}\n{text[len(first) :]}" if others else f"{line}\n"


def _at(line: int) -> str:
    return (
        f"differs at line {line} of the baseline, outside of the EVOLVE-BLOCK marks; change only what is between them"
    )


def _equal_lines(lines: list[str], others: list[str]) -> int:
    """How many lines are equal before the first that differs."""
    pairs = zip(lines, others, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
