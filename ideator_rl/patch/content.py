"""How much a tree holds beyond a baseline, in compressed bytes: what tells code from data, such as weights.

Code compresses to a fifth, trained weights do not, in whatever form they are written: base85, digits, long names,
comments, invisible characters.  So the whole text counts, not literals alone: a script can read its own source.

Guaranteed: an upper bound.  The count is the length of an encoding from which, with the baseline, the texts of all
changed files could be restored, so no way of writing hides data from it.  It compares with the baseline and not with
a parent, so that generations of patches cannot add up.
Not covered: the choice of which files to delete, at most one bit for each.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from itertools import chain

from ideator_rl.patch.paths import Tree

_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 22}]
_MAX_CONTEXT = 1 << 20
"""Bytes of the baseline that the compressor may refer to: half a second of work."""


def new_content(base: Tree, tree: Tree, enough: int) -> int:
    """Bytes of content that `tree` has and `base` has not, compressed; not compressed if they are at most `enough`."""
    changed = [path for path in sorted(tree) if tree[path] != base.get(path)]
    encoded = b"".join(_encoded(base, tree, changed))
    # Nearly every patch ends here, so that judging one costs no compression.
    if len(encoded) <= enough:
        return len(encoded)
    # The files as they were come first: a renamed variable or another indentation is then a short reference.
    context = "\n".join(base[path] for path in changed if path in base).encode("utf-8", "replace")[-_MAX_CONTEXT:]
    return _compressed(context + encoded) - _compressed(context)


def _encoded(base: Tree, tree: Tree, changed: list[str]) -> Iterator[bytes]:
    """The changed files, with each run of lines of the baseline replaced by its position and length."""
    base_lines = list(chain.from_iterable(text.split("\n") for text in base.values()))
    first_index: dict[str, int] = {}
    for index, line in enumerate(base_lines):
        first_index.setdefault(line, index)
    for path in changed:
        yield b"" if path in base else path.encode("utf-8", "replace") + b"\n"
        start = end = -1  # the run of base lines that the last lines of the file repeat; none if start is -1
        for line in tree[path].split("\n"):
            if start >= 0 and end < len(base_lines) and base_lines[end] == line:
                end += 1
                continue
            yield _reference(start, end)
            start = first_index.get(line, -1)
            end = start + 1
            if start < 0:
                yield line.encode("utf-8", "replace") + b"\n"
        yield _reference(start, end)


def _reference(start: int, end: int) -> bytes:
    """A run of base lines in seven bytes; no byte for no run."""
    return b"" if start < 0 else b"\0" + start.to_bytes(3, "big") + (end - start).to_bytes(3, "big")


def _compressed(data: bytes) -> int:
    return len(lzma.compress(data, lzma.FORMAT_RAW, filters=_FILTERS))
