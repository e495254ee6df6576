"""Parsed file edits applied to a tree in memory: which file is meant, what becomes of it.

All diff hunks of a file are placed in the file as it was, so one hunk never matches lines that another has added;
SEARCH/REPLACE blocks follow one another, as in aider.  Context lines stay as they stand in the file.
A path that does not exist is read as another one only if that is the single file it can mean.
"""

from __future__ import annotations

import re

from ideator_rl.patch_find import Place, choose, places
from ideator_rl.patch_text import FileEdit, Hunk, PatchError

Tree = dict[str, str]
"""POSIX relative path -> UTF-8 text."""

_ELISION = re.compile(r"^\s*(?:#|//|\.\.\.).*(?:\.\.\.|…|unchanged|rest of|existing code|same as before|omitted)", re.I)


def apply_edits(tree: Tree, edits: list[FileEdit]) -> Tree:
    """Apply every edit to a copy of the tree.

    Raises:
        PatchError: as `patch.apply_patch`.
    """
    result = dict(tree)
    done: dict[str, str] = {}
    """Path -> what an edit before has made of it."""
    for edit in _merged(tree, edits):
        if edit.action in ("edit", "whole"):
            target, text = _edited(tree, result, edit)
        elif edit.action == "create":
            target, text = _created(tree, edit)
        else:
            target, text = _moved(tree, edit, result, done)
        if text is None:
            _claim(done, target, "deleted")
            del result[target]
        else:
            _claim(done, target, "edited" if edit.style == "blocks" and target in tree else "written")
            result[target] = text
    return result


def _claim(done: dict[str, str], path: str, what: str) -> None:
    before = done.setdefault(path, what)
    if before != what or (what != "edited" and f"{path}\0" in done):
        raise PatchError(f"{path}: {what} here and {before} by another part of the patch; say once what becomes of it")
    done[f"{path}\0"] = what


def _merged(tree: Tree, edits: list[FileEdit]) -> list[FileEdit]:
    """Diff edits of one file under repeated headers become one; every edit of a present file gets its real path."""
    merged: list[FileEdit] = []
    by_path: dict[str, FileEdit] = {}
    for edit in edits:
        if edit.action == "edit" and edit.style == "diff" and not _is_creation(tree, edit):
            path = _meant(tree, edit)
            if path in by_path:
                by_path[path].hunks += edit.hunks
                continue
            edit = by_path[path] = FileEdit(path, path, hunks=list(edit.hunks), plain=True)
        merged.append(edit)
    return merged


def _is_creation(tree: Tree, edit: FileEdit) -> bool:
    if edit.action != "edit" or len(edit.hunks) != 1 or edit.hunks[0].old or edit.new is None:
        return False
    return (edit.style == "blocks" or edit.hunks[0].start == 0) and _plain(tree, edit, edit.new) not in tree


def _edited(tree: Tree, result: Tree, edit: FileEdit) -> tuple[str, str]:
    if _is_creation(tree, edit) or (edit.action == "whole" and edit.name not in tree):
        return _created(tree, edit)
    if edit.action == "whole":
        return edit.name, _whole(tree, edit)
    path = _meant(tree, edit)
    if edit.style == "diff":
        return path, _patched(path, tree[path], edit.hunks)
    text = result.get(path)
    if text is None:
        raise PatchError(f"{path}: edited after another part of the patch deleted or moved it")
    for hunk in edit.hunks:
        text = _searched(path, tree[path], text, hunk)
    return path, text


def _whole(tree: Tree, edit: FileEdit) -> str:
    path, new = edit.name, edit.hunks[0].new
    gap = next((line for line in new if _ELISION.match(line) and line not in tree[path].split("\n")), None)
    if gap is not None:
        raise PatchError(f"{path}: a whole file may leave nothing out, but it holds {gap.strip()!r}; write every line or a diff")
    if 2 * len(new) < tree[path].count("\n"):
        raise PatchError(
            f"{path}: {len(new)} lines given as the whole file where {tree[path].count(chr(10))} stand; it may be an excerpt, "
            "so nothing was replaced. Write a unified diff or SEARCH/REPLACE blocks"
        )
    end = "\r\n" if tree[path].count("\r\n") == tree[path].count("\n") > 0 else "\n"
    return "".join(line.removesuffix("\r") + end for line in new)


def _created(tree: Tree, edit: FileEdit) -> tuple[str, str]:
    assert edit.new is not None
    path = _plain(tree, edit, edit.new)
    if path in tree:
        raise PatchError(f"{path}: the patch creates this file, but it stands there already; write a change to it instead")
    stray = next((text for hunk in edit.hunks for mark, text in hunk.lines if mark != "+"), None)
    if stray is not None:
        raise PatchError(f"{path}: a new file has no lines before the change, but the patch looks for {stray[:160]!r}")
    lines = [text for hunk in edit.hunks for text in hunk.new]
    cut = bool(edit.hunks) and edit.hunks[-1].new_cut
    return path, "\n".join(lines) + ("" if cut or not lines else "\n")


def _moved(tree: Tree, edit: FileEdit, result: Tree, done: dict[str, str]) -> tuple[str, str | None]:
    """A deletion, rename or copy: the target path and its text, None for a deletion."""
    assert edit.old is not None
    old = _existing(tree, _plain(tree, edit, edit.old))
    text = _patched(old, tree[old], edit.hunks) if edit.hunks else tree[old]
    if edit.action == "delete":
        if edit.hunks and text.strip():
            raise PatchError(
                f"{old}: the patch deletes this file but leaves {len(text.splitlines())} of its lines standing; "
                "remove every line, or write a change to /dev/null's other side"
            )
        return old, None
    assert edit.new is not None
    new = _plain(tree, edit, edit.new)
    if new in tree:
        raise PatchError(f"{new}: {old} cannot become this file, because it stands there already")
    if edit.action == "rename":
        _claim(done, old, "deleted")
        del result[old]
    return new, text


def _meant(tree: Tree, edit: FileEdit) -> str:
    """The present file that an edit is for."""
    names = [name for name in (edit.new, edit.old) if name is not None]
    plain = [_plain(tree, edit, name) for name in names]
    present = {name for name in plain if name in tree}
    if len(present) == 1 and len({_stem(name) for name in plain}) == 1:
        return present.pop()
    if len({_stem(name) for name in plain}) > 1:
        raise PatchError(
            f"the header names two files, {edit.old} and {edit.new}; name one, or say 'rename from' and 'rename to'"
        )
    if len(present) > 1:
        raise PatchError(f"the header names two files that both exist, {edit.old} and {edit.new}; name one")
    return _existing(tree, plain[0])


def _stem(path: str) -> str:
    return re.sub(r"\.(?:orig|old|bak|new|modified)$|~$", "", path)


def _plain(tree: Tree, edit: FileEdit, name: str) -> str:
    """A stated path from the root of the codebase; a/ and b/ go where they cannot be a folder's name."""
    if name.startswith("/") or ".." in name.split("/"):
        raise PatchError(f"{name!r}: leaves the codebase; write a path relative to its root", "rejected")
    if not edit.plain and name[:2] in ("a/", "b/") and name not in tree:
        folder = any(path.startswith(name[:2]) for path in tree)
        name = name if folder and name[2:] not in tree else name[2:]
    return re.sub(r"^(?:\./)+", "", name)


def _existing(tree: Tree, path: str) -> str:
    """The file that a path names: itself, the only one of that name, or the only one whose path ends alike."""
    if path in tree:
        return path
    parts = path.split("/")
    fits = [p for p in tree if _suffix(p.split("/"), parts) or _suffix(parts, p.split("/"))]
    fits = [p for p in fits if p.count("/")] or fits
    same = [p for p in tree if p.rsplit("/", 1)[-1] == parts[-1]]
    if len(same) == 1:
        return same[0]
    if len(fits) == 1 and (fits[0].count("/") and len(parts) > 1):
        return fits[0]
    what = f"it could be {', '.join(sorted(same)[:6])}" if same else f"the files are {', '.join(sorted(tree)[:12])}"
    raise PatchError(f"{path}: no such file; {what}. Write the path as it stands in the codebase")


def _suffix(parts: list[str], of: list[str]) -> bool:
    return len(parts) <= len(of) and of[-len(parts) :] == parts


def _split(text: str) -> tuple[list[str], bool]:
    """Lines, and whether the last one ends with a newline."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
        return lines, True
    return lines, False


def _join(lines: list[str], newline: bool) -> str:
    return "\n".join(lines) + ("\n" if lines and newline else "")


def _patched(path: str, text: str, hunks: list[Hunk]) -> str:
    lines, newline = _split(text)
    if not lines and all(not hunk.old for hunk in hunks) and len(hunks) == 1:
        return _join(hunks[0].new, not hunks[0].new_cut)
    spots = choose(path, lines, hunks)
    for hunk, place in zip(hunks, spots, strict=True):
        if hunk.old_cut != hunk.new_cut and place.at + len(hunk.old) == len(lines):
            newline = not hunk.new_cut
    return _join(_replaced(path, lines, hunks, spots), newline)


def _replaced(path: str, lines: list[str], hunks: list[Hunk], spots: list[Place]) -> list[str]:
    removed: dict[int, Hunk] = {}
    inserted: dict[int, tuple[Hunk, list[str]]] = {}
    for hunk, place in zip(hunks, spots, strict=True):
        at, added = place.at, iter(place.added)
        for mark, _ in hunk.lines:
            if mark == "+":
                owner, fresh = inserted.setdefault(at, (hunk, []))
                fresh.append(next(added))
                clash = owner
            else:
                clash = removed.setdefault(at, hunk) if mark == "-" else hunk
                at += 1
            if clash is not hunk:
                raise PatchError(
                    f"{path}: {clash.label} and {hunk.label} both change line {at}; write their change as one hunk"
                )
    out: list[str] = []
    for index in range(len(lines) + 1):
        out += inserted[index][1] if index in inserted else []
        if index < len(lines) and index not in removed:
            out.append(lines[index])
    return out


def _searched(path: str, base: str, text: str, hunk: Hunk) -> str:
    """One SEARCH/REPLACE block applied to a text that blocks before it may have changed."""
    lines, newline = _split(text)
    if not hunk.old:
        if lines:
            raise PatchError(f"{path}, {hunk.label}: SEARCH is empty, but the file has {len(lines)} lines; name some of them")
        return _join(hunk.new, True)
    if len(places(lines, hunk)) > 1 and text != base:
        original = _split(base)[0]
        if len(places(original, hunk)) == 1:
            raise PatchError(
                f"{path}, {hunk.label}: a block before it added the same lines again; put this block first, or make it longer"
            )
    return _join(_replaced(path, lines, [hunk], choose(path, lines, [hunk])), newline)
