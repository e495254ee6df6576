"""Merges what two trees changed of one base, line by line, where their changes do not meet."""

from __future__ import annotations

from difflib import SequenceMatcher

from ideator_rl.patch.paths import Tree

Change = tuple[int, int, list[str]]
"""First line of the base that is replaced, the line after the last, and the lines in their place."""


def merged_tree(base: Tree, first: Tree, second: Tree) -> Tree | None:
    """The base with the changes of both trees; None where they conflict, or where one holds all of the other.

    Changes conflict if they replace the same lines or lines next to each other in two ways, or if one deletes a file
    that the other changes.
    """
    tree: Tree = {}
    for path in sorted(base.keys() | first.keys() | second.keys()):
        texts = [version.get(path) for version in (base, first, second)]
        old, one, other = texts
        if one == other or other == old:
            text = one
        elif one == old:
            text = other
        elif old is None or one is None or other is None:
            return None
        else:
            text = _merged_text(old, one, other)
            if text is None:
                return None
        if text is not None:
            tree[path] = text
    return None if tree in (first, second) else tree


def _merged_text(base: str, first: str, second: str) -> str | None:
    lines = base.splitlines(keepends=True)
    changes = sorted([*line_changes(lines, first), *line_changes(lines, second)], key=lambda change: change[:2])
    out: list[str] = []
    position, last = 0, None
    for change in changes:
        start, end, new = change
        if change == last:  # both trees have it
            continue
        # Lines next to each other conflict too: which of two insertions comes first is not known.
        if last is not None and start <= position:
            return None
        out += [*lines[position:start], *new]
        position, last = end, change
    return "".join([*out, *lines[position:]])


def line_changes(lines: list[str], text: str) -> list[Change]:
    """What turns the lines of a base into a text, in their order."""
    new = text.splitlines(keepends=True)
    opcodes = SequenceMatcher(None, lines, new, autojunk=False).get_opcodes()
    return [(i1, i2, new[j1:j2]) for tag, i1, i2, j1, j2 in opcodes if tag != "equal"]
