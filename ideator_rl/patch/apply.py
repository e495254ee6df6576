"""Parsed file edits applied to a tree in memory: which file is meant, and what becomes of it.

All diff hunks of a file are placed in the file as it was, so that none matches lines another has added;
SEARCH/REPLACE blocks follow one another, as in aider.  Context lines stay as they stand in the file.  Each file is
named by one part of the patch only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ideator_rl.patch.edit import FileEdit, Hunk, PatchError
from ideator_rl.patch.find import Lines, Place, choose, places
from ideator_rl.patch.paths import Tree, existing, meant, plain

_ELISION = re.compile(r"\s*(?:#|//|\.\.\.).*(?:\.\.\.|…|unchanged|rest of|existing code|same as before|omitted)", re.I)


def apply_edits(tree: Tree, edits: list[FileEdit]) -> Tree:
    """Apply every edit to a copy of the tree.

    Raises:
        PatchError: as `patch.apply_patch`.
    """
    changes: dict[str, str | None] = {}
    log = _Log()
    for edit in _merged(tree, edits):
        for path, text in _changes(tree, edit, log):
            if path in changes:
                raise PatchError(f"{path}: named by two parts of the patch; say once what becomes of it")
            changes[path] = text
    log.check()
    result = {path: text for path, text in tree.items() if path not in changes}
    return result | {path: text for path, text in changes.items() if text is not None}


@dataclass
class _Log:
    """What placing the hunks has told about the patch as a whole."""

    mended: str = ""
    """A hunk whose indentation drifted."""
    blind: str = ""
    """A hunk that adds indented lines, and whose own lines show nothing about indentation."""

    def note(self, path: str, hunk: Hunk, place: Place) -> None:
        indented = [any(text[:1] in (" ", "\t") and text.strip() for text in side) for side in (hunk.old, hunk.added)]
        if place.mended:
            self.mended = f"{path}, {hunk.label}"
        elif indented == [False, True]:
            self.blind = f"{path}, {hunk.label}"

    def check(self) -> None:
        if self.mended and self.blind:
            raise PatchError(
                f"{self.blind}: the indentation of its added lines is not certain, because that of {self.mended} "
                "differs from the file's; write both as the file is indented"
            )


def _merged(tree: Tree, edits: list[FileEdit]) -> list[FileEdit]:
    """Edits of one file under repeated headers become one, and paths are those of the tree."""
    merged: list[FileEdit] = []
    known: dict[tuple[str, str], FileEdit] = {}
    for edit in edits:
        if edit.action == "edit" and not _is_creation(tree, edit):
            path = meant(tree, edit)
            edit = FileEdit(path, path, "edit", edit.style, list(edit.hunks), plain=True)
        key = (edit.name, edit.style + edit.action)
        if edit.action == "edit" and key in known:
            known[key].hunks += edit.hunks
        elif known.get(key) != edit:
            merged.append(edit)
            known[key] = edit
    return merged


def _is_creation(tree: Tree, edit: FileEdit) -> bool:
    """A change of nothing, at line 0 or with an empty SEARCH, to a file that is not there."""
    if len(edit.hunks) != 1 or edit.hunks[0].old or edit.new is None:
        return False
    return (edit.style == "blocks" or edit.hunks[0].start == 0) and plain(tree, edit, edit.new) not in tree


def _changes(tree: Tree, edit: FileEdit, log: _Log) -> list[tuple[str, str | None]]:
    """(path, new text or None where it goes) for each file that an edit touches."""
    if edit.action == "whole" and edit.name in tree:
        return [(edit.name, _whole(tree[edit.name], edit))]
    if edit.action in ("create", "whole") or (edit.action == "edit" and _is_creation(tree, edit)):
        return [_created(tree, edit)]
    if edit.action != "edit":
        return _moved(tree, edit, log)
    path = edit.name
    if edit.style == "diff":
        return [(path, _patched(path, tree[path], edit.hunks, log))]
    return [(path, _searched(path, tree[path], edit.hunks, log))]


def _whole(text: str, edit: FileEdit) -> str:
    """A whole file in place of one that stands there; an excerpt is refused."""
    old, new = _split(text)[0], edit.hunks[0].new
    gap = next((line for line in new if _ELISION.match(line) and line not in old), None)
    if gap is not None:
        raise PatchError(
            f"{edit.name}: a whole file may leave nothing out, but it holds {gap.strip()!r}; write every line or a diff"
        )
    solid = [line.strip() for line in old if line.strip()]
    fresh = {line.strip() for line in new}
    if solid and (2 * len(new) < len(old) or not {solid[0], solid[-1]} <= fresh):
        raise PatchError(
            f"{edit.name}: {len(new)} lines given for a file of {len(old)}, without its first, its last or most "
            "lines; that may be an excerpt, so nothing was replaced. Write a unified diff or SEARCH/REPLACE blocks"
        )
    crlf = bool(old) and all(line.endswith("\r") for line in old)
    return "".join(line.removesuffix("\r") + "\r\n" if crlf else line + "\n" for line in new)


def _created(tree: Tree, edit: FileEdit) -> tuple[str, str]:
    path = plain(tree, edit, edit.name)
    if path in tree:
        raise PatchError(f"{path}: the patch creates this file, but it stands there already; write a change to it")
    stray = next((text for hunk in edit.hunks for mark, text in hunk.lines if mark != "+"), None)
    if stray is not None:
        raise PatchError(f"{path}: a new file holds nothing yet, but the patch looks for {stray[:160]!r} in it")
    cut = bool(edit.hunks) and edit.hunks[-1].new_cut
    return path, _join([text for hunk in edit.hunks for text in hunk.new], not cut)


def _moved(tree: Tree, edit: FileEdit, log: _Log) -> list[tuple[str, str | None]]:
    """A deletion, rename or copy.  Without hunks to check the file by, its path must be exact."""
    assert edit.old is not None
    old = plain(tree, edit, edit.old)
    old = existing(tree, old, certain=not edit.hunks)
    text = _patched(old, tree[old], edit.hunks, log) if edit.hunks else tree[old]
    if edit.action == "delete":
        if edit.hunks and text.strip():
            raise PatchError(
                f"{old}: the patch deletes this file, but leaves {len(_split(text)[0])} of its lines; remove every line"
            )
        return [(old, None)]
    assert edit.new is not None
    new = plain(tree, edit, edit.new)
    if new in tree:
        raise PatchError(f"{new}: {old} cannot become this file, because it stands there already")
    return [(new, text), (old, None)] if edit.action == "rename" else [(new, text)]


def _split(text: str) -> tuple[list[str], bool]:
    """Lines, and whether the last one ends with a newline."""
    lines = text.split("\n")
    if lines[-1] == "":
        return lines[:-1], True
    return lines, False


def _join(lines: list[str], newline: bool) -> str:
    return "\n".join(lines) + ("\n" if lines and newline else "")


def _patched(path: str, text: str, hunks: list[Hunk], log: _Log) -> str:
    lines, newline = _split(text)
    if not lines and len(hunks) == 1 and not hunks[0].old:
        return _join(hunks[0].new, not hunks[0].new_cut)
    spots = choose(Lines(path, lines), hunks)
    once = {(hunk.lines, place.at): (hunk, place) for hunk, place in zip(hunks, spots, strict=True)}
    for hunk, place in once.values():
        log.note(path, hunk, place)
        if hunk.old_cut != hunk.new_cut and place.at + len(hunk.old) == len(lines):
            newline = not hunk.new_cut
    return _join(_replaced(path, lines, list(once.values())), newline)


def _replaced(path: str, lines: list[str], placed: list[tuple[Hunk, Place]]) -> list[str]:
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
    base = Lines(path, _split(text)[0])
    lines, newline = _split(text)
    for hunk in hunks:
        if not hunk.old and lines:
            raise PatchError(f"{path}, {hunk.label}: SEARCH is empty, but the file has {len(lines)} lines; copy some")
        if not hunk.old:
            lines, newline = hunk.new, True
            continue
        now = Lines(path, lines)
        if lines != base.lines and len(places(now, hunk)) > 1 and len(places(base, hunk)) == 1:
            raise PatchError(
                f"{path}, {hunk.label}: a block before it has added the same lines again; put this one first"
            )
        base.search(hunk)
        (place,) = choose(now, [hunk])
        log.note(path, hunk, place)
        lines = _replaced(path, lines, [(hunk, place)])
    return _join(lines, newline)
