"""Makes the change between two codebases in a third one, which differs from the first in a few lines.

For presets: the same code with other numbers in its settings file.  A unified diff would not do, since its lines of
context may hold such numbers.

Guaranteed: `transfer(base, tree, base) == tree`, and `transfer(base, base, other) == other`.
Where both change a line, the change from `base` to `tree` counts.
"""

from __future__ import annotations

from ideator_rl.patch.edit import PatchError
from ideator_rl.patch.merge import Change, line_changes
from ideator_rl.patch.paths import Tree


def transfer(base: Tree, tree: Tree, other: Tree) -> Tree:
    """The codebase `other` with the change from `base` to `tree`.

    Raises:
        PatchError: "unpatchable", a part of the change has no place there.
    """
    result = dict(other)
    for path in sorted(base.keys() | tree.keys()):
        before, after = base.get(path), tree.get(path)
        if before == after:
            continue
        if after is None:
            result.pop(path, None)
        elif before is None or other.get(path) in (before, None):
            # New, rewritten where the file is not, or the same file before.
            result[path] = after
        else:
            result[path] = _merged(path, before, after, other[path])
    return result


def _merged(path: str, before: str, after: str, other: str) -> str:
    lines = before.splitlines(keepends=True)
    ours, theirs = line_changes(lines, after), line_changes(lines, other)
    # Line by line, so that a change of one setting replaces none of its neighbours.
    single = [line for change in theirs for line in _split(change)]
    kept: list[Change] = []
    for change in single:
        touching = [own for own in ours if _overlap(own, change)]
        if any(not (own[0] <= change[0] and change[1] <= own[1]) for own in touching):
            raise PatchError(f"{path}: lines {change[0] + 1} to {change[1]} differ there, and the change needs a part")
        if not touching:
            kept.append(change)
    result, position = "", 0
    for start, end, new in sorted([*ours, *kept], key=lambda change: change[:2]):
        result += "".join(lines[position:start]) + "".join(new)
        position = end
    return result + "".join(lines[position:])


def _split(change: Change) -> list[Change]:
    start, end, new = change
    if end - start != len(new):
        return [change]
    return [(start + index, start + index + 1, [line]) for index, line in enumerate(new)]


def _overlap(first: Change, second: Change) -> bool:
    # Two insertions at one place overlap as well: their order would be chance.
    if first[0] == first[1] == second[0] == second[1]:
        return True
    return first[0] < second[1] and second[0] < first[1]
