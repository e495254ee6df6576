"""The cell of an experiment: which places of the codebase its patch touches, as a short text.

Equal cells are one kind of change: `train.py:dropout,schedule.factor` whatever the dropout rate and the schedule.  The
key is structural because words do not tell ideas apart: paraphrases of one idea were no nearer to each other than two
unrelated ideas with shared words.

Guarantees: a pure function of patch and baseline, the same on every machine; empty for no patch; at most `LONGEST`
characters.  Scopes are found by indentation, names by the shape of an assignment; a patch is never run or compiled.
Not guaranteed: that two ways to write one change share a cell, when they name their new variables differently.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache

from ideator_rl.patch.paths import Tree

LONGEST = 120

Scopes = tuple[tuple[int, str, bool], ...]
"""Open functions and classes, outermost first: indentation, name, whether the patch writes its header."""

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
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
        base: the codebase that the patch is for; without it, a function whose header is not in a hunk is not named.
    """
    touched: dict[str, set[str]] = {}
    for path, place in _places(patch, base or {}):
        touched.setdefault(path, set()).add(place)
    parts = [path + ":" + ",".join(sorted(places - {""})) for path, places in sorted(touched.items())]
    text = ";".join(part.removesuffix(":") for part in parts)
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 9]}#{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"


def _places(patch: str, base: Tree) -> Iterator[tuple[str, str]]:
    """(file, place) of every line that a patch takes away or adds, and (file, "") of every file."""
    lines, at, old, new = patch.split("\n"), 0, "", ""
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("--- "):
            old = _path(line)
        elif line.startswith("+++ "):
            new = _path(line)
            yield new or old, "" if old and new else "(new)" if new else "(deleted)"
        elif (header := _HUNK.match(line)) and (old or new):
            body, at = _body(lines, at, int(header[2] or 1), int(header[4] or 1))
            if old and new:
                start = _scopes(base[old])[max(0, int(header[1]) - 1)] if _holds(base, old, int(header[1])) else ()
                for side in "-+":
                    yield from ((new, place) for place in _side(body, side, start, new.endswith(_KEYED)))


def _body(lines: list[str], at: int, old: int, new: int) -> tuple[list[str], int]:
    """The lines of a hunk, by the counts in its header, and where the next begins: a taken line may begin like a
    file's header."""
    body: list[str] = []
    while at < len(lines) and (old > 0 or new > 0):
        mark = lines[at][:1] or " "
        old, new = old - (mark in " -"), new - (mark in " +")
        body.append(lines[at] or " ")
        at += 1
    return body, at


def _side(body: list[str], side: str, scopes: Scopes, keyed: bool) -> Iterator[str]:
    """The places of one side's changed lines."""
    for line in body:
        if line[0] not in (" ", side):
            continue
        code, changed = line[1:], line[0] == side
        scopes = _after(scopes, code, changed)
        if changed and code.strip() and not code.lstrip().startswith(_COMMENTS):
            yield from _named(code, scopes, keyed)


def _named(code: str, scopes: Scopes, keyed: bool) -> Iterator[str]:
    names: list[str] = []
    for _, name, written in scopes:
        names.append(name)
        if written:  # what stands inside is new too
            yield ".".join(names)
            return
    found = (_KEY if keyed else _ASSIGNED).match(code)
    for name in re.split(r"[ \t]*,[ \t]*", found[1]) if found else [""]:
        yield ".".join([*names, name] if name else names)


def _after(scopes: Scopes, code: str, changed: bool) -> Scopes:
    """The open scopes after a line."""
    if not code.strip() or code.lstrip()[0] in "#)]}":
        return scopes
    indent = len(code) - len(code.lstrip())
    scopes = tuple(scope for scope in scopes if scope[0] < indent)
    header = _HEADER.match(code)
    return (*scopes, (indent, header[1], changed)) if header else scopes


@lru_cache(maxsize=256)
def _scopes(text: str) -> tuple[Scopes, ...]:
    """The open scopes before every line of a file, and at its end."""
    found: list[Scopes] = [()]
    for line in text.split("\n"):
        found.append(_after(found[-1], line, False))
    return tuple(found)


def _holds(base: Tree, path: str, line: int) -> bool:
    return path in base and line <= base[path].count("\n") + 1


def _path(header: str) -> str:
    """The file that a `---` or `+++` line names; empty for none."""
    name = header[4:].split("\t")[0].strip().strip('"')
    return "" if name == "/dev/null" else re.sub(r"^[ab]/", "", name)
