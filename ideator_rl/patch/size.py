"""The size of a patch, in changed lines and files: a simple measure of an idea's complexity."""

from __future__ import annotations

import re

HUNK_HEADER = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
"""Start and count in the old file, start and count in the new one; a count of 1 may be missing.

A record may hold the text of any idea, and Python reads no number of more than 4,300 digits."""


def patch_size(patch: str) -> tuple[int, int]:
    """The changed lines (removed and added) and the changed files of a unified diff, as records hold it."""
    lines, at, changed, files = patch.split("\n"), 0, 0, 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if header := HUNK_HEADER.match(line):
            body, at = hunk_body(lines, at, header)
            changed += sum(text[0] in "+-" for text in body)
        else:
            files += line.startswith("+++ ")
    return changed, files


def hunk_body(lines: list[str], at: int, header: re.Match[str]) -> tuple[list[str], int]:
    """The lines of a hunk with their marks, by the counts in its header, and the index after them.

    Counts decide, because a changed line may look like a file header.
    """
    old, new = int(header[2] or 1), int(header[4] or 1)
    body: list[str] = []
    while at < len(lines) and (old > 0 or new > 0):
        mark = lines[at][:1] or " "
        old, new = old - (mark in " -"), new - (mark in " +")
        body.append(lines[at] or " ")
        at += 1
    return body, at
