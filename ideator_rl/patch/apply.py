"""Parsed file edits applied to a tree in memory: which file is meant, and what becomes of it.

All diff hunks of a file are placed in the file as it was, so that none matches lines another has added;
SEARCH/REPLACE blocks follow one another, as in aider.  Context lines stay as they stand in the file.  Each file is
named by one part of the patch only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby

from ideator_rl.patch.edit import FileEdit, Hunk, PatchError
from ideator_rl.patch.find import Lines, Place, places, shown
from ideator_rl.patch.paths import Tree, existing, meant, moved, plain
from ideator_rl.patch.settle import fits, located
from ideator_rl.patch.whole import check_not_copied, created, join, replaced, split


def apply_edits(tree: Tree, edits: list[FileEdit]) -> Tree:
    """Apply every edit to a copy of the tree, mail by mail if they come from a series.

    Raises:
        PatchError: as `patch.apply_patch`.
    """
    for _, mail in groupby(edits, key=lambda edit: edit.stage):
        tree = _applied(tree, list(mail))
    return tree


def _applied(tree: Tree, edits: list[FileEdit]) -> Tree:
    changes: dict[str, str | None] = {}
    log = _Log()
    for edit in _merged(tree, edits, log):
        for path, text in _changes(tree, edit, log):
            if path in changes:
                raise PatchError(f"{path}: named by two parts of the patch; say once what becomes of it")
            changes[path] = text
    log.check()
    result = {path: text for path, text in tree.items() if path not in changes}
    return result | {path: text for path, text in changes.items() if text is not None}


@dataclass
class _Log:
    """What resolving paths and placing hunks has told about the patch as a whole."""

    shifts: dict[str, str] = field(default_factory=dict)
    """Paths as the patch says them -> the files that these were taken for."""
    mended: str = ""
    """A hunk whose indentation may be written in other units."""
    blind: str = ""
    """A hunk that adds indented lines, and whose own lines show nothing about indentation."""

    def note(self, path: str, hunk: Hunk, place: Place) -> None:
        indented = [any(text[:1] in (" ", "\t") and text.strip() for text in side) for side in (hunk.old, hunk.added)]
        if place.units:
            self.mended = f"{path}, {hunk.label}"
        elif indented == [False, True]:
            self.blind = f"{path}, {hunk.label}"

    def check(self) -> None:
        if self.mended and self.blind:
            raise PatchError(
                f"{self.blind}: the indentation of its added lines is not certain, because that of {self.mended} "
                "differs from the file's; write both as the file is indented"
            )


def _merged(tree: Tree, edits: list[FileEdit], log: _Log) -> list[FileEdit]:
    """Edits of one file under repeated headers become one, and paths are those of the tree."""
    merged: list[FileEdit] = []
    known: dict[tuple[str, str], FileEdit] = {}
    for edit in edits:
        if edit.action == "edit" and not _is_creation(tree, edit):
            path = _owner(tree, edit) if edit.nameless else meant(tree, edit)
            said = path if edit.nameless else plain(tree, edit, edit.name)
            if said not in tree:
                log.shifts[said] = path
            edit = FileEdit(path, path, "edit", edit.style, list(edit.hunks), plain=True)
        key = (edit.name, edit.style + edit.action)
        if edit.action == "edit" and key in known:
            known[key].hunks += edit.hunks
        elif known.get(key) != edit:
            merged.append(edit)
            known[key] = edit
    return merged


def _owner(tree: Tree, edit: FileEdit) -> str:
    """The one file in which hunks that name none have a place, all of them.

    Raises:
        PatchError: there is none, or several.
    """
    fitting = []
    for path, text in tree.items():
        file = Lines(path, split(text)[0])
        if all(fits(file, hunk) for hunk in edit.hunks):
            fitting.append(path)
    if len(fitting) == 1:
        return fitting[0]
    some = f"fits {', '.join(fitting[:6])}" if fitting else "fits no file of the codebase"
    what = edit.hunks[0].label + (f" and {len(edit.hunks) - 1} more" if len(edit.hunks) > 1 else "")
    raise PatchError(
        f"{what}: no file is named above (--- a/path and +++ b/path, or a path before SEARCH), and the change {some}. "
        f"Looked for:\n{shown(edit.hunks[0].old)}"
    )


def _is_creation(tree: Tree, edit: FileEdit) -> bool:
    """A change of nothing, at line 0 or with an empty SEARCH, to a file that is not there."""
    if len(edit.hunks) != 1 or edit.hunks[0].old or edit.new is None:
        return False
    return (edit.style == "blocks" or edit.hunks[0].start == 0) and plain(tree, edit, edit.new) not in tree


def _changes(tree: Tree, edit: FileEdit, log: _Log) -> list[tuple[str, str | None]]:
    """(path, new text or None where it goes) for each file that an edit touches."""
    path = edit.name
    if edit.action == "whole":
        path = plain(tree, edit, path)
        if path in tree:
            return [(path, replaced(path, tree[path], edit.hunks[0].new))]
        namesakes = [other for other in tree if other.rsplit("/", 1)[-1] == path.rsplit("/", 1)[-1]]
        check_not_copied(path, edit.hunks[0].new, {other: tree[other] for other in namesakes})
    if edit.action in ("create", "whole") or (edit.action == "edit" and _is_creation(tree, edit)):
        path = _new_path(tree, edit, log)
        if path in tree:
            raise PatchError(f"{path}: the patch creates this file, but it stands there already; write a change to it")
        return [(path, created(path, edit))]
    if edit.action != "edit":
        return _moved(tree, edit, log)
    change = _patched if edit.style == "diff" else _searched
    return [(path, change(path, tree[path], edit.hunks, log))]


def _new_path(tree: Tree, edit: FileEdit, log: _Log) -> str:
    path = plain(tree, edit, edit.name)
    return moved(tree, path, log.shifts) if log.shifts else path


def _moved(tree: Tree, edit: FileEdit, log: _Log) -> list[tuple[str, str | None]]:
    """A deletion, rename or copy.  Without hunks to check the file by, its path must be exact."""
    assert edit.old is not None
    old = plain(tree, edit, edit.old)
    old = existing(tree, old, certain=not edit.hunks)
    text = _patched(old, tree[old], edit.hunks, log) if edit.hunks else tree[old]
    if edit.action == "delete":
        if edit.hunks and text.strip():
            raise PatchError(
                f"{old}: the patch deletes this file, but leaves {len(split(text)[0])} of its lines; remove every line"
            )
        return [(old, None)]
    new = _new_path(tree, edit, log)
    if new in tree:
        raise PatchError(f"{new}: {old} cannot become this file, because it stands there already")
    return [(new, text), (old, None)] if edit.action == "rename" else [(new, text)]


def _patched(path: str, text: str, hunks: list[Hunk], log: _Log) -> str:
    lines, newline = split(text)
    if not lines and len(hunks) == 1 and not hunks[0].old:
        return join(hunks[0].new, not hunks[0].new_cut)
    placed = located(Lines(path, lines), hunks)
    once = {(hunk.lines, place.at): (hunk, place) for hunk, place in placed}
    for hunk, place in once.values():
        log.note(path, hunk, place)
        if hunk.old_cut != hunk.new_cut and place.at + len(hunk.old) == len(lines):
            newline = not hunk.new_cut
    return join(_with(path, lines, list(once.values())), newline)


def _with(path: str, lines: list[str], placed: list[tuple[Hunk, Place]]) -> list[str]:
    """The lines with every hunk at its place.

    Raises:
        PatchError: two hunks remove the same line, or add lines at the same point.
    """
    removed: dict[int, Hunk] = {}
    inserted: dict[int, tuple[Hunk, list[str]]] = {}
    for hunk, place in placed:
        at, added = place.at, iter(place.added)
        for mark, _ in hunk.lines:
            owner = hunk
            if mark == "+":
                owner, fresh = inserted.setdefault(at, (hunk, []))
                fresh.append(next(added))
            elif mark == "-":
                owner = removed.setdefault(at, hunk)
            if owner is not hunk:
                raise PatchError(
                    f"{path}: {owner.label} and {hunk.label} both change line {at + 1}; make them one hunk"
                )
            at += mark != "+"
    out: list[str] = []
    for index in range(len(lines) + 1):
        out += inserted[index][1] if index in inserted else []
        out += lines[index : index + 1] if index not in removed else []
    return out


def _searched(path: str, text: str, hunks: list[Hunk], log: _Log) -> str:
    """SEARCH/REPLACE blocks, each applied to what the blocks before it have made of the text."""
    base = Lines(path, split(text)[0])
    lines, newline = split(text)
    for hunk in hunks:
        if not hunk.old and lines:
            raise PatchError(f"{path}, {hunk.label}: SEARCH is empty, but the file has {len(lines)} lines; copy some")
        if not hunk.old:
            lines, newline = hunk.new, True
            continue
        now = Lines(path, lines, numbered=lines == base.lines)
        if lines != base.lines and len(places(now, hunk)) > 1 and len(places(base, hunk)) == 1:
            raise PatchError(
                f"{path}, {hunk.label}: a block before it has added the same lines again; put this one first"
            )
        base.search(hunk)
        placed = located(now, [hunk])
        for part, place in placed:
            log.note(path, part, place)
        lines = _with(path, lines, placed)
    return join(lines, newline)
