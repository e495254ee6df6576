"""Whole files: a text in place of one that stands there, and the text of a new one.

Refused are excerpts, and files that leave lines out or carry line numbers where that cannot be undone for certain.
"""

from __future__ import annotations

from ideator_rl.patch.edit import FileEdit, PatchError
from ideator_rl.patch.elision import filled, is_mark, is_stub
from ideator_rl.patch.numbers import unnumbered_file

ALIKE = 0.3
"""Share of a present file's lines in a new one, from which on the new one may have been meant to replace it."""


def split(text: str) -> tuple[list[str], bool]:
    """Lines, and whether the last one ends with a newline."""
    lines = text.split("\n")
    if lines[-1] == "":
        return lines[:-1], True
    return lines, False


def join(lines: list[str], newline: bool) -> str:
    return "\n".join(lines) + ("\n" if lines and newline else "")


def replaced(path: str, text: str, new: list[str]) -> str:
    """The text of a present file once `new` stands in its place, with its own line ends.

    Raises:
        PatchError: `new` may be an excerpt, or leaves lines out.
    """
    (old, newline), crlf = split(text), text.count("\r\n") == text.count("\n") > 0
    if crlf or ("\r" not in text and all(line.endswith("\r") for line in new)):
        old, new = [[line.removesuffix("\r") for line in lines] for lines in (old, new)]
    if unnumbered_file(old) is None:
        new = unnumbered_file(new) or new
    new = filled(path, old, new)
    solid = [line.strip() for line in old if line.strip()]
    fresh = {line.strip() for line in new}
    if solid and (2 * len(new) < len(old) or not {solid[0], solid[-1]} <= fresh):
        raise PatchError(
            f"{path}: {len(new)} lines given for a file of {len(old)}, without its first, its last or most "
            "lines; that may be an excerpt, so nothing was replaced. Write a unified diff or SEARCH/REPLACE blocks"
        )
    return join([line + "\r" * crlf for line in new], newline or not old)


def created(path: str, edit: FileEdit) -> str:
    """The text of a new file.

    Raises:
        PatchError: the edit looks for lines in it, or its lines cannot be meant as they stand.
    """
    stray = next((text for hunk in edit.hunks for mark, text in hunk.lines if mark != "+"), None)
    if stray is not None:
        raise PatchError(f"{path}: a new file holds nothing yet, but the patch looks for {stray[:160]!r} in it")
    lines = [text for hunk in edit.hunks for text in hunk.new]
    if not all(hunk.counted for hunk in edit.hunks):
        _check_new(path, lines)
    return join(lines, not (edit.hunks and edit.hunks[-1].new_cut))


def _check_new(path: str, lines: list[str]) -> None:
    gap = next((text for i, text in enumerate(lines) if is_mark(text) and not is_stub(lines, i)), None)
    if gap is not None:
        raise PatchError(f"{path}: a new file may leave nothing out, but it holds {gap.strip()!r}; write every line")
    if unnumbered_file(lines):
        raise PatchError(
            f"{path}: every line of this new file begins with its number; write lines without their numbers, or, "
            "if the numbers belong there, a git diff with exact counts"
        )


def check_not_copied(path: str, new: list[str], others: dict[str, str]) -> None:
    """Refuse a whole file under a new path that reads much like a present file of the same name in another folder.

    Raises:
        PatchError: naming that file.
    """
    fresh = {line.strip() for line in new}
    for name, text in others.items():
        solid = [line.strip() for line in text.split("\n") if line.strip()]
        if solid and sum(line in fresh for line in solid) >= ALIKE * len(solid):
            raise PatchError(
                f"{path}: no such file, but {name} reads much like this one; write its path to replace it, or a git "
                "diff from /dev/null to add a second one"
            )
