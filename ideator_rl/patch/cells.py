"""The cell of an experiment: the locations of the codebase that its patch changes, as a short text.

Equal cells are one kind of change: `train.py:dropout,schedule.factor` whatever the dropout rate and the schedule.  The
key is structural because words do not separate ideas: paraphrases of one idea were no closer to each other than two
unrelated ideas with shared words.

Guaranteed: a pure function of patch and baseline, the same on every machine; empty for no patch; at most `MAX_LENGTH`
characters.  Scopes follow from indentation, names from the form of an assignment; a patch is never run or compiled.
Not covered: two ways to write one change have different cells if they name their new variables differently.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from ideator_rl.patch.paths import Tree
from ideator_rl.patch.size import HUNK_HEADER, hunk_body

MAX_LENGTH = 120


class ChangedLine(NamedTuple):
    """A line that a patch removes or adds, at one of the locations that it changes."""

    path: str
    location: str
    """Open scopes and assigned name, joined by dots; empty, `(new)` or `(deleted)` for the file as a whole."""
    side: str
    """`-` or `+`; empty for the file as a whole."""
    code: str


Scopes = tuple[tuple[int, str, bool], ...]
"""Open functions and classes, outermost first: indentation, name, whether the patch writes its header."""

_HEADER = re.compile(r"[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+([A-Za-z_]\w*)")
_NAME = r"[A-Za-z_][\w.]*"
_ASSIGNED = re.compile(
    rf"[ \t]*({_NAME}(?:[ \t]*,[ \t]*{_NAME})*)[ \t]*(?::[^=]+)?(?:\*\*|//|<<|>>|[-+*/%&|^@])?=(?!=)"
)
_KEY = re.compile(r"""[ \t]*(?:-[ \t]+)?["']?([\w.-]+)["']?[ \t]*[:=]""")
_KEYED = (".yaml", ".yml", ".json", ".toml", ".ini", ".cfg")
"""Files whose lines are keys and values."""
_COMMENTS = ("#", '"""', "'''", "//")


def cell_of(patch: str, base: Tree | None = None) -> str:
    """The cell of a unified diff.

    Args:
        base: the codebase that the patch is for; without it, a function whose header is not in a hunk has no name.
    """
    locations_by_file: dict[str, set[str]] = {}
    for line in changed_lines(patch, base):
        locations_by_file.setdefault(line.path, set()).add(line.location)
    entries = [path + ":" + ",".join(sorted(names - {""})) for path, names in sorted(locations_by_file.items())]
    text = ";".join(entry.removesuffix(":") for entry in entries)
    if len(text) <= MAX_LENGTH:
        return text
    return f"{text[: MAX_LENGTH - 9]}#{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"


def changed_lines(patch: str, base: Tree | None = None) -> Iterator[ChangedLine]:
    """The lines that a unified diff removes or adds, each with its location, and an entry for each file.

    A line that assigns several names comes once for each.

    Args:
        base: as for `cell_of`.
    """
    lines, at, old, new = patch.split("\n"), 0, "", ""
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("--- "):
            old = _path(line)
        elif line.startswith("+++ "):
            new = _path(line)
            yield ChangedLine(new or old, "" if old and new else "(new)" if new else "(deleted)", "", "")
        elif (header := HUNK_HEADER.match(line)) and (old or new):
            body, at = hunk_body(lines, at, header)
            if old and new:
                scopes = _scopes_at(base or {}, old, int(header[1]))
                for side in "-+":
                    for location, code in _side(body, side, scopes, new.endswith(_KEYED)):
                        yield ChangedLine(new, location, side, code)


def _side(body: list[str], side: str, scopes: Scopes, keyed: bool) -> Iterator[tuple[str, str]]:
    """Location and code of the changed lines of one side, "-" or "+"."""
    for line in body:
        if line[0] not in (" ", side):
            continue
        code, changed = line[1:], line[0] == side
        scopes = _after(scopes, code, changed)
        if changed and code.strip() and not code.lstrip().startswith(_COMMENTS):
            yield from ((location, code) for location in _line_locations(code, scopes, keyed))


def _line_locations(code: str, scopes: Scopes, keyed: bool) -> Iterator[str]:
    """The open scopes and the assigned names of a line, joined by dots."""
    names: list[str] = []
    for _, name, is_new in scopes:
        names.append(name)
        if is_new:  # all of its body is new too, so the name of the scope is enough
            yield ".".join(names)
            return
    assignment = (_KEY if keyed else _ASSIGNED).match(code)
    for name in re.split(r"[ \t]*,[ \t]*", assignment[1]) if assignment else [""]:
        yield ".".join([*names, name] if name else names)


def _after(scopes: Scopes, code: str, changed: bool) -> Scopes:
    """The open scopes after a line."""
    if not code.strip() or code.lstrip()[0] in "#)]}":
        return scopes
    indent = len(code) - len(code.lstrip())
    scopes = tuple(scope for scope in scopes if scope[0] < indent)
    header = _HEADER.match(code)
    return (*scopes, (indent, header[1], changed)) if header else scopes


def _scopes_at(base: Tree, path: str, line: int) -> Scopes:
    """The open scopes before a line, counted from 1; none if the baseline does not have it."""
    if path not in base or line > base[path].count("\n") + 1:
        return ()
    return _scopes(base[path])[max(0, line - 1)]


@lru_cache(maxsize=256)
def _scopes(text: str) -> tuple[Scopes, ...]:
    """The open scopes before every line of a file, and at its end."""
    scopes: list[Scopes] = [()]
    for line in text.split("\n"):
        scopes.append(_after(scopes[-1], line, False))
    return tuple(scopes)


def _path(header: str) -> str:
    """The file that a `---` or `+++` line names; empty for /dev/null."""
    name = header[4:].split("\t")[0].strip().strip('"')
    return "" if name == "/dev/null" else re.sub(r"^[ab]/", "", name)
