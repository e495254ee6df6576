"""The size of a patch, in changed lines and files: a simple measure of an idea's complexity."""

from __future__ import annotations

import re

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


def patch_size(patch: str) -> tuple[int, int]:
    """The changed lines (removed and added) and the changed files of a unified diff, as records hold it.

    Hunks are read by the counts in their headers, because a changed line may look like a file header.
    """
    lines = files = old = new = 0
    for line in patch.split("\n"):
        if old > 0 or new > 0:
            mark = line[:1] or " "
            if mark != "\\":
                old, new = old - (mark in " -"), new - (mark in " +")
            lines += mark in "+-"
        elif header := _HUNK.match(line):
            old, new = int(header[1] or 1), int(header[2] or 1)
        else:
            files += line.startswith("+++ ")
    return lines, files
