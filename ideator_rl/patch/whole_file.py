"""Whole files in an answer: a text that replaces an existing file, and the text of a new one.

Refused: excerpts, and files with left-out lines or line numbers where these cannot be undone for certain.
"""

from __future__ import annotations

import re

from ideator_rl.patch.edit import FileEdit, PatchError
from ideator_rl.patch.elision import fill_marks, is_mark, is_stub
from ideator_rl.patch.line_numbers import file_without_numbers
from ideator_rl.patch.rewrite import is_rewrite

COPY_SHARE = 0.3
"""Share of an existing file's lines in a new file, from which on the new one may have been meant to replace it."""


WHOLE_FILE = re.compile(r"(?:#|//|--|;|%) ?whole file\.?", re.I)
"""The first line of a file that is certainly complete; it is no part of the file."""


def split_lines(text: str) -> tuple[list[str], bool]:
    """The lines, and whether the last one ends with a newline."""
    lines = text.split("\n")
    if lines[-1] == "":
        return lines[:-1], True
    return lines, False


def join_lines(lines: list[str], newline: bool) -> str:
    return "\n".join(lines) + ("\n" if lines and newline else "")


def replacement_text(path: str, text: str, new: list[str]) -> str:
    """The text of an existing file that the lines `new` replace, with the file's own line ends.

    Raises:
        PatchError: `new` may be an excerpt, or leaves lines out.
    """
    marked = bool(new) and WHOLE_FILE.fullmatch(new[0].strip()) is not None
    if marked:
        new = new[1:]
    # Lines are compared without carriage returns, and get those of the file back at the end.
    (old, newline), crlf = split_lines(text), text.count("\r\n") == text.count("\n") > 0
    if crlf or ("\r" not in text and all(line.endswith("\r") for line in new)):
        old, new = [[line.removesuffix("\r") for line in lines] for lines in (old, new)]
    if file_without_numbers(old) is None:
        new = file_without_numbers(new) or new
    new = fill_marks(path, old, new)
    # Without the first or last line, or with less than half of the lines, it may be an excerpt.
    old_content = [line.strip() for line in old if line.strip()]
    new_content = {line.strip() for line in new}
    may_be_excerpt = 2 * len(new) < len(old) or not {*old_content[:1], *old_content[-1:]} <= new_content
    if old_content and may_be_excerpt and not marked and not is_rewrite(path, old, new):
        raise PatchError(
            f"{path}: {len(new)} lines given for a file of {len(old)}, without its first, its last or most "
            "lines; that may be an excerpt, so nothing was replaced. Write a unified diff or SEARCH/REPLACE blocks; "
            "or, if it is complete, `# whole file` as its first line"
        )
    return join_lines([line + "\r" * crlf for line in new], newline or not old)


def new_file_text(path: str, edit: FileEdit) -> str:
    """The text of a new file.

    Raises:
        PatchError: the edit looks for lines in it, leaves lines out, or numbers its lines.
    """
    context = next((text for hunk in edit.hunks for mark, text in hunk.lines if mark != "+"), None)
    if context is not None:
        raise PatchError(f"{path}: a new file holds nothing yet, but the patch looks for {context[:160]!r} in it")
    lines = [text for hunk in edit.hunks for text in hunk.new]
    if edit.action == "whole" and lines and WHOLE_FILE.fullmatch(lines[0].strip()):
        lines = lines[1:]
    if not all(hunk.counts_match for hunk in edit.hunks):
        _check_new_lines(path, lines)
    return join_lines(lines, not (edit.hunks and edit.hunks[-1].new_unterminated))


def _check_new_lines(path: str, lines: list[str]) -> None:
    mark = next((text for i, text in enumerate(lines) if is_mark(text) and not is_stub(lines, i)), None)
    if mark is not None:
        raise PatchError(f"{path}: a new file may leave nothing out, but it holds {mark.strip()!r}; write every line")
    if file_without_numbers(lines):
        raise PatchError(
            f"{path}: every line of this new file begins with its number; write lines without their numbers, or, "
            "if the numbers belong there, a git diff with exact counts"
        )


def check_not_copied(path: str, new: list[str], namesakes: dict[str, str]) -> None:
    """Refuse a whole file under a new path that resembles an existing file of the same name in another folder.

    Raises:
        PatchError: naming that file.
    """
    new_content = {line.strip() for line in new}
    for name, text in namesakes.items():
        content = [line.strip() for line in text.split("\n") if line.strip()]
        if content and sum(line in new_content for line in content) >= COPY_SHARE * len(content):
            raise PatchError(
                f"{path}: no such file, but {name} reads much like this one; write its path to replace it, or a git "
                "diff from /dev/null to add a second one"
            )
