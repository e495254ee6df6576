"""Applies parsed file edits to a tree in memory: which file each edit means, and the text that it leads to.

All diff hunks of a file are placed in the file as it was, so that none matches lines that another has added.
SEARCH/REPLACE blocks are applied one after another, as in aider.  Context lines stay as they are in the file.  Each
file may be named by one part of the patch only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby

from ideator_rl.patch.edit import FileEdit, Hunk, PatchError
from ideator_rl.patch.find import FileLines, Position, find_positions, quote_lines
from ideator_rl.patch.locate import fits, has_entity, locate_hunks, respelled_places
from ideator_rl.patch.paths import Tree, existing_file, new_file_path, normal_path, target_file
from ideator_rl.patch.source import BYTE_ORDER_MARK, shown
from ideator_rl.patch.whole_file import check_not_copied, join_lines, new_file_text, replacement_text, split_lines

Protected = Callable[[str], PatchError | None]
"""From a path to the error for a patch that names it; None for a file that a patch may read and change."""


def apply_edits(tree: Tree, edits: list[FileEdit], protected: Protected = lambda path: None) -> Tree:
    """Apply every edit to a copy of the tree; those of a series of mails, mail by mail.

    A protected file is never read: else a copy, an error that quotes the closest lines, or the mere fact that a hunk
    fits would show its text.

    Raises:
        PatchError: as `patch.apply_patch`; or the error of a protected file.
    """
    for _, stage_edits in groupby(edits, key=lambda edit: edit.stage):
        tree = _apply_stage(tree, list(stage_edits), protected)
    return tree


def _apply_stage(tree: Tree, edits: list[FileEdit], protected: Protected) -> Tree:
    changes: dict[str, str | None] = {}
    evidence = _Evidence()
    open_tree = {path: text for path, text in tree.items() if protected(path) is None}
    for edit in _merge_by_file(tree, open_tree, edits, evidence):
        for path, text in _changes(tree, edit, evidence, protected):
            if path in changes:
                raise PatchError(f"{path}: named by two parts of the patch; write each file's change once")
            changes[path] = text
    evidence.check()
    result = {path: text for path, text in tree.items() if path not in changes}
    return result | {path: text for path, text in changes.items() if text is not None}


@dataclass
class _Evidence:
    """What the placed hunks and resolved paths show about the patch as a whole."""

    corrections: dict[str, str] = field(default_factory=dict)
    """Stated paths that do not exist -> the files that they were taken for."""
    other_unit: str = ""
    """A hunk that may be indented in another unit than the file."""
    unproven: str = ""
    """A hunk that adds indented lines, while its lines to look for prove nothing about the unit."""

    unescaped: str = ""
    """A hunk that fits only without HTML entities."""
    entity: str = ""
    """A hunk that adds an HTML entity, while its lines to look for fit as they are."""

    def note(self, path: str, hunk: Hunk, position: Position) -> None:
        old_indented, added_indented = (
            any(text[:1] in (" ", "\t") and text.strip() for text in side) for side in (hunk.old, hunk.added)
        )
        if hunk.unescaped:
            self.unescaped = f"{path}, {hunk.label}"
        elif has_entity(hunk):
            self.entity = f"{path}, {hunk.label}"
        if position.other_unit:
            self.other_unit = f"{path}, {hunk.label}"
        elif added_indented and not old_indented:
            self.unproven = f"{path}, {hunk.label}"

    def check(self) -> None:
        if self.unescaped and self.entity:
            raise PatchError(
                f"{self.entity}: whether the entity that it adds is meant is not certain, because {self.unescaped} has "
                "entities for characters of the file; write all of the patch without them"
            )
        if self.other_unit and self.unproven:
            raise PatchError(
                f"{self.unproven}: the indentation of its added lines is not certain, because that of "
                f"{self.other_unit} differs from the file's; write both as the file is indented"
            )


def _merge_by_file(tree: Tree, open_tree: Tree, edits: list[FileEdit], evidence: _Evidence) -> list[FileEdit]:
    """The edits with the paths of the tree; edits of one file under repeated headers become one.

    `open_tree` holds the files that an edit without a path may be for.
    """
    merged: list[FileEdit] = []
    edits_by_key: dict[tuple[str, str], FileEdit] = {}
    for edit in edits:
        if edit.action == "edit" and not _is_creation(tree, edit):
            path = _only_fitting_file(open_tree, edit) if edit.nameless else target_file(tree, edit)
            stated = path if edit.nameless else normal_path(tree, edit, edit.name)
            if stated not in tree:
                evidence.corrections[stated] = path
            edit = FileEdit(path, path, "edit", edit.style, list(edit.hunks), edit.old_blob, prefix_removed=True)
        # Hunks of one style are placed together; a repeated deletion or creation counts once.
        key = (edit.name, edit.style + edit.action)
        if edit.action == "edit" and key in edits_by_key:
            edits_by_key[key].hunks += edit.hunks
        elif edits_by_key.get(key) != edit:
            merged.append(edit)
            edits_by_key[key] = edit
    return merged


def _only_fitting_file(tree: Tree, edit: FileEdit) -> str:
    """The one file in which all hunks of an edit without a path have a position.

    Raises:
        PatchError: there is none, or several.
    """
    fitting = []
    for path, text in tree.items():
        file = FileLines(path, split_lines(text)[0])
        if all(fits(file, hunk) for hunk in edit.hunks):
            fitting.append(path)
    if len(fitting) == 1:
        return fitting[0]
    result = f"fits {', '.join(fitting[:6])}" if fitting else "fits no file of the codebase"
    labels = edit.hunks[0].label + (f" and {len(edit.hunks) - 1} more" if len(edit.hunks) > 1 else "")
    raise PatchError(
        f"{labels}: no file is named above (--- a/path and +++ b/path, or a path before SEARCH), and the change "
        f"{result}. Looked for:\n{quote_lines(edit.hunks[0].old)}"
    )


def _is_creation(tree: Tree, edit: FileEdit) -> bool:
    """Whether an edit has no lines to look for, at line 0 or with an empty SEARCH, and its file does not exist."""
    if len(edit.hunks) != 1 or edit.hunks[0].old or edit.new is None:
        return False
    return (edit.style == "blocks" or edit.hunks[0].start == 0) and normal_path(tree, edit, edit.new) not in tree


def _changes(tree: Tree, edit: FileEdit, evidence: _Evidence, protected: Protected) -> list[tuple[str, str | None]]:
    """(path, new text, or None for a deletion) for each file that an edit changes."""
    path = edit.name
    # A complete file replaces an existing one, or creates one that is no copy of another.
    if edit.action == "whole":
        path = normal_path(tree, edit, path)
        if path in tree:
            _refuse_protected(path, protected)
            mark, text = _split_mark(tree[path], edit.hunks)
            return [(path, mark + replacement_text(path, text, edit.hunks[0].new))]
        file_name = path.rsplit("/", 1)[-1]
        namesakes = {file: text for file, text in tree.items() if file.rsplit("/", 1)[-1] == file_name}
        namesakes = {file: text for file, text in namesakes.items() if protected(file) is None}
        check_not_copied(path, edit.hunks[0].new, namesakes)
    if edit.action in ("create", "whole") or (edit.action == "edit" and _is_creation(tree, edit)):
        path = _new_path(tree, edit, evidence)
        if path in tree:
            raise PatchError(f"{path}: the patch creates this file, but it exists already; write a change to it")
        return [(path, new_file_text(path, edit))]
    if edit.action != "edit":
        return _delete_or_move(tree, edit, evidence, protected)
    _refuse_protected(path, protected)
    if edit.style == "diff":
        return [(path, _apply_hunks(path, tree[path], edit, evidence))]
    mark, text = _split_mark(tree[path], edit.hunks)
    return [(path, mark + _apply_blocks(path, text, edit.hunks, evidence))]


def _split_mark(text: str, hunks: list[Hunk]) -> tuple[str, str]:
    """A byte order mark and the text after it, as prompts show it; no mark where the patch holds one itself."""
    if text.startswith(BYTE_ORDER_MARK) and not any(BYTE_ORDER_MARK in line for h in hunks for _, line in h.lines):
        return BYTE_ORDER_MARK, shown(text)
    return "", text


def _refuse_protected(path: str, protected: Protected) -> None:
    if error := protected(path):
        raise error


def _new_path(tree: Tree, edit: FileEdit, evidence: _Evidence) -> str:
    path = normal_path(tree, edit, edit.name)
    return new_file_path(tree, path, evidence.corrections) if evidence.corrections else path


def _delete_or_move(
    tree: Tree, edit: FileEdit, evidence: _Evidence, protected: Protected
) -> list[tuple[str, str | None]]:
    """The changes of a deletion, rename or copy.  Without hunks to check the file by, its path must be exact."""
    assert edit.old is not None
    old = existing_file(tree, normal_path(tree, edit, edit.old), exact=not edit.hunks)
    _refuse_protected(old, protected)
    text = _apply_hunks(old, tree[old], edit, evidence) if edit.hunks else tree[old]
    if edit.action == "delete":
        if edit.hunks and text.strip():
            count = len(split_lines(text)[0])
            raise PatchError(f"{old}: the patch deletes this file, but leaves {count} of its lines; remove every line")
        return [(old, None)]
    new = _new_path(tree, edit, evidence)
    if new in tree:
        raise PatchError(f"{new}: {old} cannot become this file, because it exists already")
    return [(new, text), (old, None)] if edit.action == "rename" else [(new, text)]


def _apply_hunks(path: str, text: str, edit: FileEdit, evidence: _Evidence) -> str:
    """Diff hunks, all placed in the text as it was."""
    hunks, (byte_order_mark, rest) = edit.hunks, _split_mark(text, edit.hunks)
    lines, newline = split_lines(rest)
    if not text and len(hunks) == 1 and not hunks[0].old:
        return join_lines(hunks[0].new, not hunks[0].new_unterminated)
    is_stated_blob = bool(edit.old_blob) and _blob_name(text).startswith(edit.old_blob)
    placed = locate_hunks(FileLines(path, lines, is_stated_blob=is_stated_blob), hunks)
    # A model may repeat a hunk: the same lines at the same position count once.
    distinct = {(hunk.lines, position.at): (hunk, position) for hunk, position in placed}
    for hunk, position in distinct.values():
        evidence.note(path, hunk, position)
        if hunk.old_unterminated != hunk.new_unterminated and position.at + len(hunk.old) == len(lines):
            newline = not hunk.new_unterminated
    return byte_order_mark + join_lines(_splice(path, lines, list(distinct.values())), newline)


def _blob_name(text: str) -> str:
    """git's name of a file's text."""
    data = text.encode("utf-8", "replace")
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _splice(path: str, lines: list[str], placed: list[tuple[Hunk, Position]]) -> list[str]:
    """The lines with every hunk applied at its position.

    Raises:
        PatchError: two hunks remove the same line, or add lines at the same point.
    """
    removed_by: dict[int, Hunk] = {}
    inserted: dict[int, tuple[Hunk, list[str]]] = {}
    for hunk, position in placed:
        at, added = position.at, iter(position.added)
        for mark, _ in hunk.lines:
            owner = hunk
            if mark == "+":
                owner, new_lines = inserted.setdefault(at, (hunk, []))
                new_lines.append(next(added))
            elif mark == "-":
                owner = removed_by.setdefault(at, hunk)
            if owner is not hunk:
                raise PatchError(
                    f"{path}: {owner.label} and {hunk.label} both change line {at + 1}; make them one hunk"
                )
            at += mark != "+"
    # Added lines come before the line at their index, so that there is one more index than lines.
    out: list[str] = []
    for index in range(len(lines) + 1):
        out += inserted[index][1] if index in inserted else []
        out += lines[index : index + 1] if index not in removed_by else []
    return out


def _apply_blocks(path: str, text: str, hunks: list[Hunk], evidence: _Evidence) -> str:
    """SEARCH/REPLACE blocks, each applied to the result of those before it."""
    base = FileLines(path, split_lines(text)[0])
    lines, newline = split_lines(text)
    for hunk in hunks:
        if not hunk.old and lines:
            raise PatchError(f"{path}, {hunk.label}: SEARCH is empty, but the file has {len(lines)} lines; copy some")
        if not hunk.old:
            lines, newline = hunk.new, True
            continue
        current = FileLines(path, lines, numbered=lines == base.lines)
        # The model saw the file as it was, where the block had one position: it cannot mean the lines added since.
        if lines != base.lines and len(find_positions(current, hunk)) > 1 and len(find_positions(base, hunk)) == 1:
            raise PatchError(
                f"{path}, {hunk.label}: a block before it has added the same lines again; put this one first"
            )
        base.count_search(hunk)
        placed = locate_hunks(current, [hunk])
        # Also of code that is spelled otherwise the model meant the one place that it saw.
        if lines != base.lines and any(piece.respelled for piece, _ in placed) and respelled_places(base, hunk) != 1:
            raise PatchError(
                f"{path}, {hunk.label}: after the blocks before it, it fits a place that it did not fit before; copy "
                "the lines exactly as they are"
            )
        for piece, position in placed:
            evidence.note(path, piece, position)
        lines = _splice(path, lines, placed)
    return join_lines(lines, newline)
