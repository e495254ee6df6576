"""Damage that models do to patches, by seed, and whether the damaged patch still has one meaning.

Each kind returns a `Damaged`, or None where it does not apply to an edit.  Whether a damage is repairable is decided
here, from the base and the target alone and never by the library: the lines to look for occur once in the file, or a
right number determines their position, and no byte of the target was lost.
"""

import difflib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from patch_edits import Case

from ideator_rl.patch import Tree, diff

Key = Callable[[str], str]
HEADER = re.compile(r"^@@ -(\d+)(,\d+)? \+(\d+)(,\d+)? @@", re.M)
ODD = re.compile(r"[-+\\]|@@|diff |```|~~~|<<<<<<<|=======$|>>>>>>>|\*\*\* ")
"""Context that reads as something else without its mark, or in another form."""


@dataclass(frozen=True)
class Damaged:
    base: Tree
    patch: str
    meant: Tree | None
    """The intended tree; None if there is none, so that any acceptance is wrong."""
    repairable: bool = True
    """If False, a refusal is right, and so is `meant`."""
    form: str = "diff"
    """diff, blocks, whole or envelope."""


@dataclass(frozen=True)
class Piece:
    """One hunk: its rows are (mark, text)."""

    path: str
    at: int
    rows: tuple[tuple[str, str], ...]

    @property
    def old(self) -> list[str]:
        return [text for mark, text in self.rows if mark != "+"]

    @property
    def new(self) -> list[str]:
        return [text for mark, text in self.rows if mark != "-"]

    @property
    def touched(self) -> list[str]:
        return [text for mark, text in self.rows if mark != " "]


def lines_of(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def pieces(case: Case, around: int = 3) -> list[Piece]:
    """The hunks of every file that is in both trees and differs."""
    out = []
    for path in case.changed:
        old, new = lines_of(case.base[path]), lines_of(case.target[path])
        for group in difflib.SequenceMatcher(None, old, new).get_grouped_opcodes(around):
            rows: list[tuple[str, str]] = []
            for tag, i1, i2, j1, j2 in group:
                if tag == "equal":
                    rows += [(" ", text) for text in old[i1:i2]]
                else:
                    rows += [("-", text) for text in old[i1:i2]] + [("+", text) for text in new[j1:j2]]
            out.append(Piece(path, group[0][1], tuple(rows)))
    return out


def count(lines: list[str], wanted: list[str], key: Key = str) -> int:
    """The number of positions of the wanted lines; 0 if they are all blank."""
    have, want = [key(line) for line in lines], [key(line) for line in wanted]
    if not any(text.strip() for text in want):
        return 0
    return sum(have[i : i + len(want)] == want for i in range(len(have) - len(want) + 1) if have[i] == want[0])


def once(case: Case, hunks: list[Piece], key: Key = str) -> bool:
    """Whether the lines of every hunk occur once in its file."""
    return all(count(lines_of(case.base[piece.path]), piece.old, key) == 1 for piece in hunks)


def in_turn(case: Case, hunks: list[Piece], key: Key = str) -> bool:
    """Whether the lines of every hunk occur once in its file, and once after the hunks before it were applied."""
    texts = {path: lines_of(text) for path, text in case.base.items()}
    for piece in hunks:
        lines = texts[piece.path]
        if count(lines, piece.old, key) != 1:
            return False
        at = next(i for i in range(len(lines)) if lines[i : i + len(piece.old)] == piece.old)
        lines[at : at + len(piece.old)] = piece.new
    return once(case, hunks, key)


def tidy(hunks: list[Piece]) -> bool:
    """Whether no changed line ends with blanks."""
    return all(text == text.rstrip() for piece in hunks for text in piece.touched)


def whole_tree(case: Case) -> bool:
    """Whether the edit adds and removes no file."""
    return case.base.keys() == case.target.keys()


def on_hunks(change: Callable[[str], str], patch: str) -> str:
    """`change` applied to the lines of hunks, their marks included."""
    heads = ("--- ", "+++ ", "@@", "diff ", "\\")
    return "\n".join(line if line.startswith(heads) or not line else change(line) for line in patch.split("\n"))


def _headers(rng: random.Random, case: Case, counts: bool, starts: bool) -> Damaged:
    def damaged(header: re.Match[str]) -> str:
        shift, sides = rng.randint(-30, 30) * starts, [int(header[1]), int(header[3])]
        sizes = [int((header[i] or ",1")[1:]) + counts * rng.randint(-2, 2) for i in (2, 4)]
        start, size = [max(1, side + shift) for side in sides], [max(0, size) for size in sizes]
        return f"@@ -{start[0]},{size[0]} +{start[1]},{size[1]} @@"

    sections = re.split(r"(?m)^(?=diff --git )", diff(case.base, case.target))
    damage = [section if "/dev/null" in section else HEADER.sub(damaged, section) for section in sections]
    return Damaged(case.base, "".join(damage), case.target, not starts or once(case, pieces(case)))


def _shifted(rng: random.Random, case: Case) -> Damaged:
    """All numbers have the same offset, as in a file that changed meanwhile; an unambiguous hunk shows it."""
    off = rng.randint(1, 40)

    def damaged(header: re.Match[str]) -> str:
        if "0" in (header[1], header[3]):
            return header[0]
        return f"@@ -{int(header[1]) + off}{header[2] or ''} +{int(header[3]) + off}{header[4] or ''} @@"

    patch = HEADER.sub(damaged, diff(case.base, case.target))
    return Damaged(case.base, patch, case.target, once(case, pieces(case)))


def _no_numbers(rng: random.Random, case: Case) -> Damaged | None:
    patch = HEADER.sub(rng.choice(("@@ @@", "@@ ... @@", "@@")), diff(case.base, case.target))
    return Damaged(case.base, patch, case.target, once(case, pieces(case))) if whole_tree(case) else None


def _paths(change: Callable[[str, str], str], patch: str) -> str:
    """`change` (side, path) for each path behind a/ or b/ in the headers."""

    def header(line: str) -> str:
        if not line.startswith(("--- ", "+++ ", "diff --git ")):
            return line
        return re.sub(r"(?<=\s)([ab])/(\S+)", lambda path: change(path[1], path[2]), line)

    return "\n".join(header(line) for line in patch.split("\n"))


def _unique_names(case: Case) -> bool:
    names = [path.rsplit("/", 1)[-1] for path in case.base]
    return all(names.count(path.rsplit("/", 1)[-1]) == 1 for path in case.base if path not in case.target) and all(
        names.count(path.rsplit("/", 1)[-1]) == 1 for path in case.changed
    )


def _prefixed(rng: random.Random, case: Case) -> Damaged | None:
    """An extra folder before every path, also that of a deleted file."""
    if not case.changed:
        return None
    extra = rng.choice(("repo", "src", "workspace/project", "a"))
    patch = _paths(lambda side, path: f"{side}/{extra}/{path}", diff(case.base, case.target))
    inside = any(path.startswith(extra.split("/")[0] + "/") for path in case.base)
    repairable = _unique_names(case) and case.base.keys() <= case.target.keys() and not inside
    return Damaged(case.base, patch, case.target, repairable)


def _no_prefix(rng: random.Random, case: Case) -> Damaged:
    return Damaged(case.base, _paths(lambda _, path: path, diff(case.base, case.target)), case.target)


def _other_folder(rng: random.Random, case: Case) -> Damaged | None:
    """The right names in a missing folder, or in none."""
    if not whole_tree(case):
        return None
    folder = rng.choice(("", "core/", "lib/deep/"))
    patch = _paths(lambda side, path: f"{side}/{folder}{path.rsplit('/', 1)[-1]}", diff(case.base, case.target))
    return Damaged(case.base, patch, case.target, _unique_names(case))


def _blanks(change: Callable[[random.Random, str], str]) -> Callable[[random.Random, Case], Damaged | None]:
    """Changed line ends.  Not applied to edits whose own lines end with blanks, where the meaning is lost."""

    def damage(rng: random.Random, case: Case) -> Damaged | None:
        patch = on_hunks(lambda line: change(rng, line), diff(case.base, case.target))
        return Damaged(case.base, patch, case.target) if whole_tree(case) and tidy(pieces(case)) else None

    return damage


def _depths(lines: list[str]) -> set[int]:
    return {len(text) - len(text.lstrip()) for text in lines if text.strip()}


def _shift_shows(piece: Piece) -> bool:
    """Whether lines of two depths, or at the margin, prove a shift rather than another unit of indentation.

    Without them, no added line may have a depth of its own.
    """
    old = _depths(piece.old)
    return len(old) > 1 or old == {0} or (bool(old) and _depths(piece.touched) <= old)


def _indents(change: Callable[[str], str]) -> Callable[[random.Random, Case], Damaged | None]:
    """All lines of a hunk shifted by the same indentation; the numbers are right."""

    def damage(rng: random.Random, case: Case) -> Damaged | None:
        hunks = pieces(case)
        if not whole_tree(case) or not tidy(hunks):
            return None
        patch = on_hunks(change, diff(case.base, case.target))
        return Damaged(case.base, patch, case.target, all(map(_shift_shows, hunks)))

    return damage


def _tabs(rng: random.Random, case: Case) -> Damaged | None:
    """Tabs for four spaces; repairable if every hunk has a line of the file that proves it.

    Not applied where no hunk proves it: then the patch is a valid one for another tree.
    """

    def tabbed(text: str) -> str:
        return re.sub("^((?:    )+)", lambda blanks: "\t" * (len(blanks[1]) // 4), text)

    hunks = pieces(case)
    if not whole_tree(case) or not tidy(hunks) or any("\t" in text for text in case.base.values()):
        return None
    proven = [any(tabbed(text) != text and text.strip() for text in piece.old) for piece in hunks]
    if not any(proven):
        return None
    patch = on_hunks(lambda line: line[0] + tabbed(line[1:]), diff(case.base, case.target))
    return Damaged(case.base, patch, case.target, all(proven))


def _lost_marks(share: float) -> Callable[[random.Random, Case], Damaged | None]:
    def damage(rng: random.Random, case: Case) -> Damaged | None:
        hunks = pieces(case)
        odd = any(ODD.match(text) for piece in hunks for mark, text in piece.rows if mark == " ")
        patch = on_hunks(
            lambda line: line.removeprefix(" ") if rng.random() < share else line, diff(case.base, case.target)
        )
        return Damaged(case.base, patch, case.target, not odd) if whole_tree(case) else None

    return damage


def _around(text: str) -> Callable[[random.Random, Case], Damaged]:
    return lambda rng, case: Damaged(case.base, text.format(diff(case.base, case.target)), case.target)


def _crlf_base(rng: random.Random, case: Case) -> Damaged | None:
    """A codebase with CRLF, a patch without."""
    if not whole_tree(case):
        return None
    base, meant = [{p: text.replace("\n", "\r\n") for p, text in tree.items()} for tree in (case.base, case.target)]
    return Damaged(base, diff(case.base, case.target), meant)


def _no_last_newline(rng: random.Random, case: Case) -> Damaged | None:
    """Files that end without a newline, and a patch that does not state it."""
    if not whole_tree(case):
        return None
    base, meant = [{p: text.rstrip("\n") for p, text in tree.items()} for tree in (case.base, case.target)]
    patch = re.sub(r"(?m)^\\ No newline at end of file\n", "", diff(base, meant))
    return Damaged(base, patch, meant) if base != meant and patch else None


def _git(change: Callable[[str], str]) -> Callable[[random.Random, Case], Damaged]:
    return lambda rng, case: Damaged(case.base, change(diff(case.base, case.target)), case.target)


DIFFS: dict[str, Callable[[random.Random, Case], Damaged | None]] = {
    "undamaged git diff": _git(str),
    "no git header": _git(lambda patch: re.sub(r"(?m)^(?:diff|new|deleted) .*\n", "", patch)),
    "wrong hunk counts": lambda rng, case: _headers(rng, case, True, False),
    "wrong line numbers": lambda rng, case: _headers(rng, case, False, True),
    "wrong counts and numbers": lambda rng, case: _headers(rng, case, True, True),
    "numbers off by as much": _shifted,
    "no line numbers": _no_numbers,
    "a/ and b/ missing": _no_prefix,
    "a folder too much": _prefixed,
    "wrong folder, unique name": _other_folder,
    "blanks added at line ends": _blanks(lambda rng, line: line + " " * rng.randint(1, 2)),
    "blanks cut at line ends": _blanks(lambda rng, line: line.rstrip()),
    "empty context lines": _git(lambda patch: re.sub(r"(?m)^ $", "", patch)),
    "hunks indented": _indents(lambda line: line[0] + "    " + line[1:]),
    "a blank after each mark": _indents(lambda line: line[0] + " " + line[1:]),
    "tabs for spaces": _tabs,
    "marks of context lost": _lost_marks(1),
    "some marks of context lost": _lost_marks(0.2),
    "CRLF": _git(lambda patch: patch.replace("\n", "\r\n")),
    "CRLF in hunks only": _blanks(lambda rng, line: line + "\r"),
    "LF for a CRLF file": _crlf_base,
    "newline at the end lost": _no_last_newline,
    "patch text stripped": _git(str.strip),
    "fenced in prose": _around("I change this:\n```diff\n{}```\n- It is\n+ better.\n"),
    "prose around": _around("I change this:\n\n{}\nIt is better.\n"),
}  # fmt: skip
