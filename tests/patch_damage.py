"""Seeded edits of real files, the patches for them, and the kinds of damage that models do to patches."""

import difflib
import heapq
import random
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from ideator_rl.patch import Tree, diff

BASE: Tree = {
    f"lib/{module.__name__}.py": Path(module.__file__ or "").read_text()
    for module in (difflib, heapq, textwrap, random)
}
HEADER = re.compile(r"^@@ -(\d+)(,\d+)? \+(\d+)(,\d+)? @@", re.M)


def edit(rng: random.Random, files: int = 2) -> Tree:
    """The base with a few lines changed, added or removed in some files, as a programmer would."""
    tree = dict(BASE)
    for path in rng.sample(sorted(tree), rng.randint(1, files)):
        lines = tree[path].split("\n")[:-1]
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(lines))
            blanks = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
            fresh = [
                f"{blanks}value_{rng.randrange(99)} = {rng.randrange(99)}",
                f"{blanks}if ready:",
                f"{blanks}    go()",
            ]
            size = rng.randint(0, 3)
            lines[at : at + rng.randint(0, 3)] = fresh[:size]
        tree[path] = "\n".join(lines) + "\n"
    return tree if tree != BASE else edit(rng, files)


def blocks(tree: Tree, around: int = 3, flat: bool = False) -> str:
    """The same change as SEARCH/REPLACE blocks with `around` lines of context; `flat` cuts off their indentation."""
    out = []
    for path in sorted(tree):
        old, new = BASE[path].split("\n"), tree[path].split("\n")
        for group in difflib.SequenceMatcher(None, old, new).get_grouped_opcodes(around):
            (_, i1, _, j1, _), (_, _, i2, _, j2) = group[0], group[-1]
            sides = [*old[i1:i2], "=======", *new[j1:j2]]
            margin = min((len(x) - len(x.lstrip()) for x in sides if x.strip() and x != "======="), default=0) * flat
            sides = [line if line == "=======" else line[margin:] for line in sides]
            out += [path, "<<<<<<< SEARCH", *sides, ">>>>>>> REPLACE", ""]
    return "\n".join(out)


def _lines(change: Callable[[str], str], patch: str) -> str:
    """`change` applied to the lines of hunks, their marks included."""
    heads = ("--- ", "+++ ", "@@", "diff ", "\\")
    return "\n".join(line if line.startswith(heads) or not line else change(line) for line in patch.split("\n"))


def _headers(rng: random.Random, patch: str, counts: bool, starts: bool) -> str:
    def damaged(found: re.Match[str]) -> str:
        shift, sides = rng.randint(-30, 30) * starts, [int(found[1]), int(found[3])]
        sizes = [int((found[i] or ",1")[1:]) + counts * rng.randint(-2, 2) for i in (2, 4)]
        (a, b), (c, d) = zip([max(1, side + shift) for side in sides], [max(0, size) for size in sizes], strict=True)
        return f"@@ -{a},{b} +{c},{d} @@"

    return HEADER.sub(damaged, patch)


def _tabbed(hunk: str) -> str:
    """Tabs for spaces, where a line that stands in the file shows it; elsewhere it could be what was meant."""
    if not re.search("^[ -]    +[^ ]", hunk, re.M):
        return hunk
    return re.sub("^([ +-])((?:    )+)", lambda found: found[1] + "\t" * (len(found[2]) // 4), hunk, flags=re.M)


def _bodies(change: Callable[[list[str]], list[str]], patch: str) -> str:
    """`change` applied to each side of each SEARCH/REPLACE block."""

    def side(found: re.Match[str]) -> str:
        return found[1] + "\n".join(change(found[2].split("\n"))) + found[3]

    patch = re.sub(r"(<<<<<<< SEARCH\n)(.*?)(\n=======\n)", side, patch, flags=re.S)
    return re.sub(r"(\n=======\n)(.*?)(\n>>>>>>> REPLACE)", side, patch, flags=re.S)


DAMAGE: dict[str, Callable[[random.Random, Tree], str]] = {
    "undamaged": lambda rng, tree: diff(BASE, tree),
    "wrong counts": lambda rng, tree: _headers(rng, diff(BASE, tree), True, False),
    "wrong line numbers": lambda rng, tree: _headers(rng, diff(BASE, tree), False, True),
    "wrong counts and numbers": lambda rng, tree: _headers(rng, diff(BASE, tree), True, True),
    "no numbers": lambda rng, tree: HEADER.sub("@@ @@", diff(BASE, tree)),
    "no prefixes": lambda rng, tree: re.sub(r"\b[ab]/lib/", "lib/", diff(BASE, tree)),
    "a prefix too much": lambda rng, tree: re.sub(r"\b([ab])/lib/", r"\1/repo/lib/", diff(BASE, tree)),
    "wrong folder": lambda rng, tree: diff(BASE, tree).replace("/lib/", "/src/"),
    "no git header": lambda rng, tree: re.sub(r"^diff .*\n", "", diff(BASE, tree), flags=re.M),
    "blanks added at line ends": lambda rng, tree: _lines(lambda x: x + " " * rng.randint(1, 2), diff(BASE, tree)),
    "blanks cut at line ends": lambda rng, tree: _lines(str.rstrip, diff(BASE, tree)),
    "CRLF": lambda rng, tree: diff(BASE, tree).replace("\n", "\r\n"),
    "CRLF in hunks": lambda rng, tree: _lines(lambda line: line + "\r", diff(BASE, tree)),
    "stripped text": lambda rng, tree: diff(BASE, tree).strip(),
    "empty context lines": lambda rng, tree: re.sub(r"^ $", "", diff(BASE, tree), flags=re.M),
    "indented hunks": lambda rng, tree: _lines(lambda line: line[0] + "    " + line[1:], diff(BASE, tree)),
    "a blank after each mark": lambda rng, tree: _lines(lambda line: line[0] + " " + line[1:], diff(BASE, tree)),
    "lost marks of context": lambda rng, tree: _lines(lambda line: line.removeprefix(" "), diff(BASE, tree)),
    "some lost marks": lambda rng, tree: _lines(
        lambda line: line.removeprefix(" ") if rng.random() < 0.2 else line, diff(BASE, tree)),
    "tabs": lambda rng, tree: "\n@@".join(map(_tabbed, diff(BASE, tree).split("\n@@"))),
    "fenced in prose": lambda rng, tree: f"I change this:\n```diff\n{diff(BASE, tree)}```\n- It is\n+ better.\n",
    "prose around": lambda rng, tree: f"I change this:\n\n{diff(BASE, tree)}\nIt is better.\n",
    "blocks": lambda rng, tree: blocks(tree),
    "short blocks": lambda rng, tree: blocks(tree, 1),
    "blocks without indentation": lambda rng, tree: blocks(tree, flat=True),
    "stripped blocks": lambda rng, tree: _bodies(lambda lines: "\n".join(lines).strip().split("\n"), blocks(tree)),
    "fenced blocks with CRLF": lambda rng, tree: f"```\n{blocks(tree)}```\n".replace("\n", "\r\n"),
}  # fmt: skip
