"""The same edits in the other forms of models' answers: blocks, whole files, envelopes, mails.

Also without file names, with line numbers copied from a prompt, and with code left out.
"""

import random
import re
from collections.abc import Callable
from dataclasses import replace

from patch_damage import ODD, Damaged, Piece, count, in_turn, lines_of, once, pieces, tidy, whole_tree
from patch_edits import Case

from ideator_rl.patch import diff

NUMBERED = ("{} | {}", "{:>5} | {}", "{}| {}", "  {}: {}", "{}: {}", "{}\t{}", "{:>6}\t{}", "{:>4}→{}")
MARKS = ("...", "# ...", "# ... existing code ...", "# rest unchanged", "# ... (unchanged) ...", "# existing code")
MAIL = "From {:040x} Mon Sep 17 00:00:00 2001\nFrom: A B <a@b.c>\nDate: Mon, 1 Jan 2024 10:00:00 +0000\n"
Kind = Callable[[random.Random, Case], Damaged | None]


def block(path: str, old: list[str], new: list[str]) -> str:
    return "\n".join([path, "<<<<<<< SEARCH", *old, "=======", *new, ">>>>>>> REPLACE", "", ""])


def _expressible(case: Case, hunks: list[Piece]) -> bool:
    """Whether blocks can express an edit: no line looks like their marks, no file is empty, none is deleted."""
    odd = any(ODD.match(text) for piece in hunks for _, text in piece.rows)
    return bool(hunks) and not odd and all(piece.old for piece in hunks) and whole_tree(case)


def _blocks(around: int, change: Callable[[list[str], list[str]], tuple[list[str], list[str]]], key=str, fits=bool):
    """SEARCH/REPLACE blocks with `change` applied to both sides; `fits(piece)`: whether that can be undone."""

    def damage(rng: random.Random, case: Case) -> Damaged | None:
        hunks = pieces(case, around)
        if not _expressible(case, hunks) or not all(map(_tidy, hunks)):
            return None
        patch = "".join(block(piece.path, *change(piece.old, piece.new)) for piece in hunks)
        good = in_turn(case, hunks) and once(case, hunks, key) and all(map(fits, hunks))
        return Damaged(case.base, patch, case.target, good, "blocks")

    return damage


def _stripped_blocks(rng: random.Random, case: Case) -> Damaged | None:
    """Both sides stripped as texts; each hunk begins and ends with a line that both sides have."""
    hunks = pieces(case)
    if not all(piece.rows[i][0] == " " and piece.rows[i][1].strip() for piece in hunks for i in (0, -1)):
        return None
    return _blocks(3, _stripped, str.strip)(rng, case)


def _margin(lines: list[str]) -> int:
    return min((len(text) - len(text.lstrip()) for text in lines if text.strip()), default=0)


def _flat(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    margin = _margin(old + new)
    return [text[margin:] for text in old], [text[margin:] for text in new]


def _each_flat(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    return [text[_margin(old) :] for text in old], [text[_margin(new) :] for text in new]


def _stripped(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    return "\n".join(old).strip().split("\n"), "\n".join(new).strip().split("\n")


def _tidy(piece: Piece) -> bool:
    return tidy([piece]) and any(text.strip() for text in piece.old)


def _fenced_blocks(rng: random.Random, case: Case) -> Damaged | None:
    plain = ANSWERS["blocks"](rng, case)
    if plain is None:
        return None
    text = f"```python\n{plain.patch}```\n".replace("\n", "\r\n")
    return Damaged(case.base, text, case.target, plain.repairable, "blocks")


def _number(lines: list[str], form: str, start: int) -> list[str]:
    return [form.format(i, text) for i, text in enumerate(lines, start)]


def _plausible(piece: Piece) -> bool:
    """No line of the code itself begins like a numbered one."""
    return bool(piece.old) and not any(re.match(r"\s*\d+\s*[|:→\t]", text) for _, text in piece.rows)


def _numbered_blocks(both_sides: bool) -> Kind:
    """Numbers on both sides, or on SEARCH only.  They determine the position."""

    def damage(rng: random.Random, case: Case) -> Damaged | None:
        hunks = pieces(case, rng.randint(1, 3))
        if not _expressible(case, hunks) or not all(map(_plausible, hunks)):
            return None
        form, out, grown = rng.choice(NUMBERED), [], {path: 0 for path in case.changed}
        for piece in hunks:
            old = _number(piece.old, form, piece.at + 1)
            new = _number(piece.new, form, piece.at + 1) if both_sides else piece.new
            out.append(block(piece.path, old, new))
            grown[piece.path] += len(piece.new) - len(piece.old)
        return Damaged(case.base, "".join(out), case.target, in_turn(case, hunks), "blocks")

    return damage


def _numbered_diff(rng: random.Random, case: Case) -> Damaged | None:
    hunks, form = pieces(case), rng.choice(NUMBERED)
    if not whole_tree(case) or not all(map(_plausible, hunks)):
        return None
    out, path = [], ""
    for piece in hunks:
        if piece.path != path:
            path = piece.path
            out.append(f"--- a/{path}\n+++ b/{path}")
        at = [piece.at + 1, piece.at + 1]
        out.append(f"@@ -{at[0]},{len(piece.old)} +{at[1]},{len(piece.new)} @@")
        for mark, text in piece.rows:
            out.append(mark + form.format(at[mark == "+"], text))
            at = [at[0] + (mark != "+"), at[1] + (mark != "-")]
    return Damaged(case.base, "\n".join(out) + "\n", case.target, once(case, hunks))


def _whole(change: Callable[[random.Random, str, str], str]) -> Kind:
    def damage(rng: random.Random, case: Case) -> Damaged | None:
        texts = {path: case.target[path] for path in [*case.changed, *case.fresh]}
        no_deletion = all(path in case.target for path in case.base)
        if not no_deletion or any(line.startswith("```") for text in texts.values() for line in text.split("\n")):
            return None
        patch = "\n".join(change(rng, path, text) for path, text in texts.items())
        return Damaged(case.base, patch, case.target, all(_is_complete(case, path) for path in case.changed), "whole")

    return damage


def _is_complete(case: Case, path: str) -> bool:
    """Whether the new text is no excerpt: it has the first and last line of the old one, and half as many lines."""
    old, new = ([line for line in lines_of(tree[path]) if line.strip()] for tree in (case.base, case.target))
    return {old[0], old[-1]} <= set(new) and 2 * len(new) >= len(old) + 4


def _crlf_whole(rng: random.Random, case: Case) -> Damaged | None:
    plain = _whole(lambda _, path, text: f"{path}\n```\n{text}```\n")(rng, case)
    return replace(plain, patch=plain.patch.replace("\n", "\r\n")) if plain else None


def _numbered_whole(rng: random.Random, case: Case) -> Damaged | None:
    if not whole_tree(case):
        return None
    form = rng.choice(NUMBERED)
    lines = [line for path in case.changed for line in lines_of(case.base[path])]
    if any(re.match(r"\s*\d+\s*[|:→\t]", line) for line in lines):
        return None

    def numbered(_: random.Random, path: str, text: str) -> str:
        return f"{path}\n```\n" + "\n".join(_number(lines_of(text), form, 1)) + "\n```\n"

    return _whole(numbered)(rng, case)


def _runs(old: list[str], new: list[str], size: int) -> list[tuple[int, int]]:
    """(start in old, start in new) of every run of `size` lines that occurs once in each."""
    starts_by_run: dict[tuple[str, ...], list[int]] = {}
    for side, lines in enumerate((old, new)):
        for i in range(len(lines) - size + 1):
            starts_by_run.setdefault(tuple(lines[i : i + size]), []).append(i if side == 0 else -i - 1)
    pairs = [starts for starts in starts_by_run.values() if len(starts) == 2 and starts[0] >= 0 > starts[1]]
    return sorted((a, -b - 1) for a, b in pairs)


def _elided_whole(rng: random.Random, case: Case) -> Damaged | None:
    """One complete file without a run of unchanged lines; three lines on each side occur once in the file."""
    if len(case.changed) != 1 or not whole_tree(case):
        return None
    (path,) = case.changed
    old, new = lines_of(case.base[path]), lines_of(case.target[path])
    solid = [(i, j) for i, j in _runs(old, new, 3) if new[j].strip() and new[j + 2].strip()]
    spans = [
        (a[1] + 3, b[1])
        for a in solid
        for b in solid
        if b[1] - a[1] in range(9, 200) and b[0] - a[0] == b[1] - a[1] and old[a[0] : b[0]] == new[a[1] : b[1]]
    ]
    if not spans:
        return None
    start, end = rng.choice(spans)
    short = [*new[:start], rng.choice(("", "    ")) + rng.choice(MARKS), *new[end:]]
    patch = f"{path}\n```python\n" + "\n".join(short) + "\n```\n"
    return Damaged(case.base, patch, case.target, _is_complete(case, path), "whole")


def _left_out(rng: random.Random, piece: Piece) -> tuple[tuple[int, int], str] | None:
    """A run of context in a hunk, with two lines on each side that are not blank at its edge, and a mark for it."""
    rows = piece.rows
    runs = [
        (i, j)
        for i in range(2, len(rows))
        for j in range(i + 2, len(rows) - 1)
        if all(mark == " " for mark, _ in rows[i:j]) and rows[i - 1][1].strip() and rows[j][1].strip()
    ]
    if not runs:
        return None
    i, j = rng.choice(runs)
    depth = min((len(text) - len(text.lstrip()) for _, text in rows[i:j] if text.strip()), default=0)
    return (i, j), " " * rng.choice((0, depth)) + rng.choice(MARKS)


def _elided(as_diff: bool) -> Kind:
    """Context left out of one hunk, by the same mark on both sides; the lines around it occur once in the file."""

    def damage(rng: random.Random, case: Case) -> Damaged | None:
        hunks = pieces(case, 9)
        if len(hunks) != 1 or not _expressible(case, hunks) or not (run := _left_out(rng, hunks[0])):
            return None
        piece, ((i, j), mark) = hunks[0], run
        rows = (*piece.rows[:i], (" ", mark), *piece.rows[j:])
        sides = [[text for sign, text in side_rows if sign != "+"] for side_rows in (piece.rows[:i], piece.rows[j:])]
        good = all(count(lines_of(case.base[piece.path]), side) == 1 for side in sides)
        cut = Piece(piece.path, piece.at, rows)
        if not as_diff:
            return Damaged(case.base, block(cut.path, cut.old, cut.new), case.target, good, "blocks")
        body = "\n".join(sign + text for sign, text in rows)
        head = f"--- a/{cut.path}\n+++ b/{cut.path}\n@@ -{cut.at + 1},{len(cut.old)} +{cut.at + 1},{len(cut.new)} @@\n"
        return Damaged(case.base, head + body + "\n", case.target, good)

    return damage


def _envelope(rng: random.Random, case: Case) -> Damaged | None:
    out, hunks = ["*** Begin Patch"], pieces(case)
    for path in case.changed:
        out.append(f"*** Update File: {path}")
        for piece in (piece for piece in hunks if piece.path == path):
            out += ["@@", *(mark + text for mark, text in piece.rows)]
    for path in case.fresh:
        out += [f"*** Add File: {path}", *("+" + text for text in lines_of(case.target[path]))]
    out += [f"*** Delete File: {path}" for path in case.base if path not in case.target]
    patch = "\n".join([*out, "*** End Patch", ""])
    return Damaged(case.base, patch, case.target, once(case, hunks), "envelope")


def _no_header(form: str) -> Kind:
    """Hunks or a block of one file without a path; they fit in no other file."""

    def damage(rng: random.Random, case: Case) -> Damaged | None:
        hunks = pieces(case)
        if len(case.changed) != 1 or not _expressible(case, hunks):
            return None
        other_texts = [text for path, text in case.base.items() if path != case.changed[0]]
        fits_once = not any(all(count(lines_of(text), p.old, str.strip) for p in hunks) for text in other_texts)
        if form == "blocks":
            patch = "".join(block("", piece.old, piece.new) for piece in hunks)
            return Damaged(case.base, patch, case.target, fits_once and in_turn(case, hunks), form)
        patch = re.sub(r"(?m)^(?:diff|---|\+\+\+) .*\n", "", diff(case.base, case.target))
        return Damaged(case.base, patch, case.target, fits_once)

    return damage


def _half_header(rng: random.Random, case: Case) -> Damaged | None:
    side = rng.choice(("--- ", "+++ "))
    text = diff(case.base, case.target)
    patch = "\n".join(line for line in text.split("\n") if not line.startswith((side, "diff ")))
    return Damaged(case.base, patch, case.target) if whole_tree(case) else None


def _path_above(rng: random.Random, case: Case) -> Damaged | None:
    """The path above a fence, and only hunks in it."""
    if len(case.changed) != 1 or not whole_tree(case):
        return None
    hunks = re.sub(r"(?m)^(?:diff|---|\+\+\+) .*\n", "", diff(case.base, case.target))
    form = rng.choice(("**{}**\n```diff\n", "### `{}`\n\n```diff\n", "File: {}\n```\n", "```diff {}\n"))
    return Damaged(case.base, form.format(case.changed[0]) + hunks + "```\n", case.target)


def _mails(rng: random.Random, case: Case) -> Damaged | None:
    """A series of mails: each one changes the result of the one before it."""
    middle = dict(case.base)
    for piece in reversed(pieces(case)[: rng.randint(0, 3)]):
        lines = lines_of(middle[piece.path])
        lines[piece.at : piece.at + len(piece.old)] = piece.new
        middle[piece.path] = "\n".join(lines) + "\n"
    steps = [diff(case.base, middle), diff(middle, case.target)]
    mails = [
        MAIL.format(rng.getrandbits(160)) + f"Subject: [PATCH {i}/2] Change it\n\nWhy not.\n---\n x.py | 3 +-\n"
        f" 1 file changed, 2 insertions(+), 1 deletion(-)\n\n{step}-- \n2.43.0\n\n"
        for i, step in enumerate(steps, 1)
        if step
    ]
    return Damaged(case.base, "".join(mails), case.target)


def _padded(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    return [text + " " for text in old], new


ANSWERS: dict[str, Kind] = {
    "blocks": _blocks(3, lambda old, new: (old, new)),
    "blocks with one line of context": _blocks(1, lambda old, new: (old, new)),
    "blocks without indentation": _blocks(3, _flat, str.strip),
    "blocks, each side flattened": _blocks(3, _each_flat, str.strip, lambda p: _margin(p.old) == _margin(p.new)),
    "blocks stripped": _stripped_blocks,
    "blocks, blanks at ends of SEARCH": _blocks(3, _padded, str.rstrip),
    "blocks fenced, with CRLF": _fenced_blocks,
    "blocks without a file name": _no_header("blocks"),
    "hunks without a file header": _no_header("diff"),
    "half a file header": _half_header,
    "path above the fence only": _path_above,
    "numbered lines in blocks": _numbered_blocks(True),
    "numbered lines in SEARCH": _numbered_blocks(False),
    "numbered lines in a diff": _numbered_diff,
    "numbered lines in whole files": _numbered_whole,
    "context left out of blocks": _elided(False),
    "context left out of a diff": _elided(True),
    "code left out of a whole file": _elided_whole,
    "whole files": _whole(lambda rng, path, text: f"### `{path}`\n```python\n{text}```\n"),
    "whole files, path in the fence": _whole(lambda rng, path, text: f"```python {path}\n{text}```\n"),
    "whole files with CRLF": _crlf_whole,
    "envelope": _envelope,
    "mails": _mails,
}  # fmt: skip
