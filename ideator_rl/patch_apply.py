"""Parsed file edits applied to a tree in memory: which file is meant, and what becomes of it.

All diff hunks of a file are placed in the file as it was, so that none matches lines another has added;
SEARCH/REPLACE blocks follow one another, as in aider.  Context lines stay as they stand in the file.  Each file is
named by one part of the patch only.  A path that does not exist is read as another only if no second one fits.
"""

from __future__ import annotations

import re

from ideator_rl.patch_edit import FileEdit, Hunk, PatchError
from ideator_rl.patch_find import Place, choose, places

Tree = dict[str, str]
"""POSIX relative path -> UTF-8 text."""

_ELISION = re.compile(
    r"\s*(?:#|//|\.\.\.).*(?:\.\.\.|…|unchanged|rest of|existing code|same as before|omitted)", re.I
)


def apply_edits(tree: Tree, edits: list[FileEdit]) -> Tree:
    """Apply every edit to a copy of the tree.

    Raises:
        PatchError: as `patch.apply_patch`.
    """
    changes: dict[str, str | None] = {}
    for edit in _merged(tree, edits):
        for path, text in _changes(tree, edit):
            if path in changes:
                raise PatchError(f"{path}: named by two parts of the patch; say once what becomes of it")
            changes[path] = text
    result = {path: text for path, text in tree.items() if path not in changes}
    return result | {path: text for path, text in changes.items() if text is not None}


def _merged(tree: Tree, edits: list[FileEdit]) -> list[FileEdit]:
    """Edits of one file under repeated headers become one, a hunk given twice counts once, and paths are real ones."""
    merged: list[FileEdit] = []
    known: dict[tuple[str, str], FileEdit] = {}
    for edit in edits:
        if edit.action == "edit" and not _is_creation(tree, edit):
            path = _meant(tree, edit)
            edit = FileEdit(path, path, "edit", edit.style, list(edit.hunks), plain=True)
        key = (edit.name, edit.style + edit.action)
        if edit.action == "edit" and key in known:
            same = {(hunk.lines, hunk.start) for hunk in known[key].hunks if hunk.start is not None}
            known[key].hunks += [hunk for hunk in edit.hunks if (hunk.lines, hunk.start) not in same]
        elif known.get(key) != edit:
            merged.append(edit)
            known[key] = edit
    return merged


def _is_creation(tree: Tree, edit: FileEdit) -> bool:
    """A change of nothing, at line 0 or with an empty SEARCH, to a file that is not there."""
    if len(edit.hunks) != 1 or edit.hunks[0].old or edit.new is None:
        return False
    return (edit.style == "blocks" or edit.hunks[0].start == 0) and _plain(tree, edit, edit.new) not in tree


def _changes(tree: Tree, edit: FileEdit) -> list[tuple[str, str | None]]:
    """(path, new text or None where it goes) for each file that an edit touches."""
    if edit.action == "whole" and edit.name in tree:
        return [(edit.name, _whole(tree[edit.name], edit))]
    if edit.action in ("create", "whole") or (edit.action == "edit" and _is_creation(tree, edit)):
        return [_created(tree, edit)]
    if edit.action != "edit":
        return _moved(tree, edit)
    path = edit.name
    if edit.style == "diff":
        return [(path, _patched(path, tree[path], edit.hunks))]
    text = tree[path]
    for hunk in edit.hunks:
        text = _searched(path, tree[path], text, hunk)
    return [(path, text)]


def _whole(text: str, edit: FileEdit) -> str:
    """A whole file in place of one that stands there; an excerpt is refused."""
    old, new = _split(text)[0], edit.hunks[0].new
    gap = next((line for line in new if _ELISION.match(line) and line not in old), None)
    if gap is not None:
        raise PatchError(
            f"{edit.name}: a whole file may leave nothing out, but it holds {gap.strip()!r}; write every line, or a diff"
        )
    solid = [line.strip() for line in old if line.strip()]
    fresh = {line.strip() for line in new}
    if solid and (2 * len(new) < len(old) or not {solid[0], solid[-1]} <= fresh):
        raise PatchError(
            f"{edit.name}: {len(new)} lines given for a file of {len(old)}, without its first or last line or most of the "
            "others; that may be an excerpt, so nothing was replaced. Write a unified diff or SEARCH/REPLACE blocks"
        )
    crlf = bool(old) and all(line.endswith("\r") for line in old)
    return "".join(line.removesuffix("\r") + "\r\n" if crlf else line + "\n" for line in new)


def _created(tree: Tree, edit: FileEdit) -> tuple[str, str]:
    path = _plain(tree, edit, edit.name)
    if path in tree:
        raise PatchError(
            f"{path}: the patch creates this file, but it stands there already; write a change to it"
        )
    stray = next((text for hunk in edit.hunks for mark, text in hunk.lines if mark != "+"), None)
    if stray is not None:
        raise PatchError(
            f"{path}: a new file holds nothing yet, but the patch looks for {stray[:160]!r} in it"
        )
    cut = bool(edit.hunks) and edit.hunks[-1].new_cut
    return path, _join([text for hunk in edit.hunks for text in hunk.new], not cut)


def _moved(tree: Tree, edit: FileEdit) -> list[tuple[str, str | None]]:
    """A deletion, rename or copy.  Without hunks to check the file by, its path must be exact."""
    assert edit.old is not None
    old = _plain(tree, edit, edit.old)
    old = _existing(tree, old, certain=not edit.hunks)
    text = _patched(old, tree[old], edit.hunks) if edit.hunks else tree[old]
    if edit.action == "delete":
        if edit.hunks and text.strip():
            raise PatchError(
                f"{old}: the patch deletes this file, but leaves {len(_split(text)[0])} of its lines; remove every line"
            )
        return [(old, None)]
    assert edit.new is not None
    new = _plain(tree, edit, edit.new)
    if new in tree:
        raise PatchError(f"{new}: {old} cannot become this file, because it stands there already")
    return [(new, text), (old, None)] if edit.action == "rename" else [(new, text)]


def _meant(tree: Tree, edit: FileEdit) -> str:
    """The present file that an edit is for: the header's two names must agree on it."""
    names = list(dict.fromkeys(_plain(tree, edit, name) for name in (edit.new, edit.old) if name is not None))
    present = [name for name in names if name in tree]
    if len({_stem(name) for name in names}) > 1 or len(present) > 1:
        raise PatchError(
            f"the header names two files, {edit.old} and {edit.new}; name one, or say 'rename from' and 'rename to'"
        )
    return present[0] if present else _existing(tree, names[-1])


def _stem(path: str) -> str:
    """A file's name, without its folder and what backup copies are called."""
    return re.sub(r"\.(?:orig|old|bak|new|modified)$|~$", "", path.rsplit("/", 1)[-1])


def _plain(tree: Tree, edit: FileEdit, name: str) -> str:
    """A stated path from the root of the codebase; a/ and b/ go where they cannot be a folder's name."""
    if name.startswith("/") or ".." in name.split("/"):
        raise PatchError(f"{name!r}: leaves the codebase; write a path relative to its root", "rejected")
    if not edit.plain and edit.style == "diff" and name[:2] in ("a/", "b/") and name not in tree:
        folder = any(path.startswith(name[:2]) for path in tree)
        name = name if folder and name[2:] not in tree else name[2:]
    return re.sub(r"^(?:\./)+", "", name)


def _existing(tree: Tree, path: str, certain: bool = False) -> str:
    """The file that a path names: itself, else the only one of its name, else the only one whose path ends alike."""
    if path in tree:
        return path
    parts = path.split("/")
    same = sorted(p for p in tree if p.rsplit("/", 1)[-1] == parts[-1])
    if not certain and len(same) == 1:
        return same[0]
    alike = [p for p in same if _ends_alike(p.split("/"), parts)]
    if not certain and len(alike) == 1 and len(parts) > 1 and "/" in alike[0]:
        return alike[0]
    some = ", ".join(same[:6] or sorted(tree)[:12])
    what = f"it could be {some}" if same else f"the files are {some}"
    raise PatchError(f"{path}: no such file; {what}. Write the path as it stands in the codebase")


def _ends_alike(one: list[str], other: list[str]) -> bool:
    shorter = min(len(one), len(other))
    return one[-shorter:] == other[-shorter:]


def _split(text: str) -> tuple[list[str], bool]:
    """Lines, and whether the last one ends with a newline."""
    lines = text.split("\n")
    if lines[-1] == "":
        return lines[:-1], True
    return lines, False


def _join(lines: list[str], newline: bool) -> str:
    return "\n".join(lines) + ("\n" if lines and newline else "")


def _patched(path: str, text: str, hunks: list[Hunk]) -> str:
    lines, newline = _split(text)
    if not lines and len(hunks) == 1 and not hunks[0].old:
        return _join(hunks[0].new, not hunks[0].new_cut)
    spots = choose(path, lines, hunks)
    for hunk, place in zip(hunks, spots, strict=True):
        if hunk.old_cut != hunk.new_cut and place.at + len(hunk.old) == len(lines):
            newline = not hunk.new_cut
    return _join(_replaced(path, lines, hunks, spots), newline)


def _replaced(path: str, lines: list[str], hunks: list[Hunk], spots: list[Place]) -> list[str]:
    """The lines with every hunk at its place.

    Raises:
        PatchError: two hunks remove the same line, or add lines at the same point.
    """
    removed: dict[int, Hunk] = {}
    inserted: dict[int, tuple[Hunk, list[str]]] = {}
    for hunk, place in zip(hunks, spots, strict=True):
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


def _searched(path: str, base: str, text: str, hunk: Hunk) -> str:
    """One SEARCH/REPLACE block applied to a text that blocks before it may have changed."""
    lines, newline = _split(text)
    if not hunk.old:
        if lines:
            raise PatchError(
                f"{path}, {hunk.label}: SEARCH is empty, but the file has {len(lines)} lines; copy some"
            )
        return _join(hunk.new, True)
    if text != base and len(places(lines, hunk)) > 1 and len(places(_split(base)[0], hunk)) == 1:
        raise PatchError(
            f"{path}, {hunk.label}: a block before it has added the same lines again; put this one first"
        )
    return _join(_replaced(path, lines, [hunk], choose(path, lines, [hunk])), newline)
