"""Patches without a certain meaning: damaged so that no result, or more than one, can be intended.

If `meant` is None, any acceptance is wrong; if it is a tree, that tree and a refusal are both right.
"""

import random
from collections.abc import Callable
from dataclasses import replace

from patch_answers import MARKS, NUMBERED, block
from patch_damage import ODD, Damaged, Piece, count, lines_of, pieces, whole_tree
from patch_edits import Case

from ideator_rl.patch import diff

Trap = Callable[[random.Random, Case], Damaged | None]


def _piece(rng: random.Random, case: Case, around: int = 3) -> Piece | None:
    """One hunk that every form can express, and whose lines are not all blank."""
    hunks = [piece for piece in pieces(case, around) if any(text.strip() for text in piece.old)]
    hunks = [piece for piece in hunks if not any(ODD.match(text) for _, text in piece.rows)]
    return rng.choice(hunks) if hunks else None


def _hunk(piece: Piece, header: str = "@@ @@", with_path: bool = True) -> str:
    head = f"--- a/{piece.path}\n+++ b/{piece.path}\n" if with_path else ""
    return head + header + "\n" + "\n".join(mark + text for mark, text in piece.rows) + "\n"


def _unnumbered(rng: random.Random, piece: Piece, mark: str = "") -> tuple[str, str]:
    """The hunk without any number, as a diff or a block, and the name of that form."""
    if rng.random() < 0.5:
        rows = ((" ", mark), *piece.rows) if mark else piece.rows
        return _hunk(replace(piece, rows=rows)), "diff"
    top = [mark] if mark else []
    return block(piece.path, top + piece.old, top + piece.new), "blocks"


def _doubled(rng: random.Random, case: Case, piece: Piece) -> Case:
    """The file with the lines around a hunk a second time, further below."""
    lines = lines_of(case.base[piece.path])
    extra = lines[max(0, piece.at - 4) : piece.at + len(piece.old) + 4]
    return Case({**case.base, piece.path: "\n".join([*lines, "", "", *extra]) + "\n"}, case.target)


def _equal_places(rng: random.Random, case: Case) -> Damaged | None:
    piece = _piece(rng, case)
    if piece is None:
        return None
    patch, form = _unnumbered(rng, piece)
    if form == "diff" and rng.random() < 0.5:
        at = rng.randint(1, 500)
        patch = _hunk(piece, f"@@ -{at},{len(piece.old)} +{at + rng.randint(1, 9)},{len(piece.new)} @@")
    return Damaged(_doubled(rng, case, piece).base, patch, None, False, form)


def _left_out_twice(rng: random.Random, case: Case) -> Damaged | None:
    """Lines left out above a change that fits at two positions below."""
    piece = _piece(rng, case)
    if piece is None:
        return None
    patch, form = _unnumbered(rng, piece, rng.choice(MARKS))
    return Damaged(_doubled(rng, case, piece).base, patch, None, False, form)


def _other_file(rng: random.Random, case: Case) -> Damaged | None:
    piece = _piece(rng, case)
    wrong_paths = sorted(case.base.keys() - {piece.path}) if piece else []
    if piece is None or not wrong_paths:
        return None
    wrong_path = rng.choice(wrong_paths)
    if count(lines_of(case.base[wrong_path]), piece.old, str.strip):
        return None
    patch, form = _unnumbered(rng, replace(piece, path=wrong_path))
    return Damaged(case.base, patch, None, False, form)


def _under_one_header(rng: random.Random, case: Case) -> Damaged | None:
    """The hunks of two files under the header of the first."""
    hunks = pieces(case)
    files = sorted({piece.path for piece in hunks})
    if len(files) < 2:
        return None
    second = next(piece for piece in hunks if piece.path == files[1])
    if count(lines_of(case.base[files[0]]), second.old, str.strip):
        return None
    first = next(piece for piece in hunks if piece.path == files[0])
    return Damaged(case.base, _hunk(first) + _hunk(second, with_path=False), None, False)


def _contradiction(rng: random.Random, case: Case) -> Damaged | None:
    piece = _piece(rng, case)
    if piece is None or not any(mark == "-" for mark, _ in piece.rows):
        return None
    rows = [(mark, text + "  # or not" if mark == "+" else text) for mark, text in piece.rows]
    rows += [("+", "contradiction = True")] if rows == list(piece.rows) else []
    contradicting = replace(piece, rows=tuple(rows))
    if rng.random() < 0.5:
        patch = _hunk(piece) + _hunk(contradicting, with_path=False)
        return Damaged(case.base, patch, None, False)
    patch = block(piece.path, piece.old, piece.new) + block(piece.path, piece.old, contradicting.new)
    # Both blocks apply if the lines to look for are still in the file after the first.
    both_apply = count(lines_of(case.base[piece.path]), piece.old, str.strip) > 1 or count(
        piece.new, piece.old, str.strip
    )
    return None if both_apply else Damaged(case.base, patch, None, False, "blocks")


def _never_there(rng: random.Random, case: Case) -> Damaged | None:
    """A line to look for that the file never had."""
    piece = _piece(rng, case)
    if piece is None:
        return None
    at = rng.choice([i for i, (mark, text) in enumerate(piece.rows) if mark != "+" and text.strip()])
    mark, text = piece.rows[at]
    rows = (*piece.rows[:at], (mark, text + rng.choice((" + 1", "_x", ")", "  # new"))), *piece.rows[at + 1 :])
    wrong = replace(piece, rows=rows)
    if count(lines_of(case.base[piece.path]), wrong.old, str.strip):
        return None
    patch, form = _unnumbered(rng, wrong)
    if form == "diff" and rng.random() < 0.5:
        patch = _hunk(wrong, f"@@ -{piece.at + 1},{len(wrong.old)} +{piece.at + 1},{len(wrong.new)} @@")
    return Damaged(case.base, patch, None, False, form)


def _out_of_order(rng: random.Random, case: Case) -> Damaged | None:
    piece = _piece(rng, case)
    old_rows = [i for i, (mark, text) in enumerate(piece.rows) if mark != "+" and text.strip()] if piece else []
    if piece is None or len(old_rows) < 2:
        return None
    i, j = sorted(rng.sample(old_rows, 2))
    rows = list(piece.rows)
    rows[i], rows[j] = rows[j], rows[i]
    swapped = replace(piece, rows=tuple(rows))
    if count(lines_of(case.base[piece.path]), swapped.old, str.strip):
        return None
    patch, form = _unnumbered(rng, swapped)
    return Damaged(case.base, patch, None, False, form)


def _lost_plus(rng: random.Random, case: Case) -> Damaged | None:
    """An added line without its mark, in a hunk whose numbers are right."""
    piece = _piece(rng, case)
    added = [i for i, (mark, text) in enumerate(piece.rows) if mark == "+" and text.strip()] if piece else []
    if piece is None or not added:
        return None
    at = rng.choice(added)
    rows = [mark + text if i != at else text for i, (mark, text) in enumerate(piece.rows)]
    plain = [text for i, (mark, text) in enumerate(piece.rows) if mark != "+" or i == at]
    if count(lines_of(case.base[piece.path]), plain, str.strip):
        return None
    head = f"--- a/{piece.path}\n+++ b/{piece.path}\n@@ -{piece.at + 1},{len(piece.old)} +{piece.at + 1},{len(piece.new)} @@\n"
    return Damaged(case.base, head + "\n".join(rows) + "\n", None, False)


def _excerpt(rng: random.Random, case: Case) -> Damaged | None:
    """The changed lines and a few around, as if they were the whole file."""
    if len(case.changed) != 1 or not whole_tree(case):
        return None
    piece = pieces(case, 8)[0]
    if 2 * len(piece.new) >= len(lines_of(case.base[piece.path])) - 2:
        return None
    text = "\n".join(piece.new)
    return Damaged(case.base, f"{piece.path}\n```python\n{text}\n```\n", None, False, "whole")


def _left_out_of_new(rng: random.Random, case: Case) -> Damaged | None:
    """A mark on the new side alone, for two or more lines that the old side contains."""
    piece = _piece(rng, case, 6)
    if piece is None or len(piece.new) < 5:
        return None
    start = rng.randint(1, len(piece.new) - 4)
    end = rng.randint(start + 2, len(piece.new) - 1)
    blanks = piece.new[start][: len(piece.new[start]) - len(piece.new[start].lstrip())]
    new = [*piece.new[:start], blanks + rng.choice(MARKS), *piece.new[end:]]
    return Damaged(case.base, block(piece.path, piece.old, new), None, False, "blocks")


def _left_out_of_whole(rng: random.Random, case: Case) -> Damaged | None:
    """A mark in a whole file below a line that the file does not have."""
    if len(case.changed) != 1 or not whole_tree(case):
        return None
    (path,) = case.changed
    new, old_texts = lines_of(case.target[path]), {text.strip() for text in lines_of(case.base[path])}
    fresh = [i for i, text in enumerate(new[:-8]) if text.strip() and text.strip() not in old_texts]
    if not fresh:
        return None
    at = rng.choice(fresh)
    text = "\n".join([*new[: at + 1], rng.choice(MARKS), *new[at + rng.randint(4, 7) :]])
    return Damaged(case.base, f"{path}\n```\n{text}\n```\n", None, False, "whole")


def _two_files_fit(rng: random.Random, case: Case) -> Damaged | None:
    piece = _piece(rng, case)
    if piece is None:
        return None
    twin = piece.path.rsplit("/", 1)[-1].replace(".py", "_twin.py")
    base = {**case.base, twin: case.base[piece.path] + "\n\nTWIN = True\n"}
    if rng.random() < 0.5:
        return Damaged(base, _hunk(piece, with_path=False), None, False)
    return Damaged(base, block("", piece.old, piece.new), None, False, "blocks")


def _two_files_of_a_name(rng: random.Random, case: Case) -> Damaged | None:
    piece = _piece(rng, case)
    if piece is None:
        return None
    name = piece.path.rsplit("/", 1)[-1]
    base = {path: text for path, text in case.base.items() if path != piece.path}
    base |= {f"one/{name}": case.base[piece.path], f"two/{name}": case.base[piece.path]}
    patch, form = _unnumbered(rng, replace(piece, path=rng.choice((name, f"core/{name}"))))
    return Damaged(base, patch, None, False, form)


def _cut_off(rng: random.Random, case: Case) -> Damaged | None:
    """The answer ends within a fence, in the middle of a change."""
    piece = _piece(rng, case)
    if piece is None or len(piece.rows) < 4:
        return None
    cut = rng.randint(1, len(piece.rows) - 2)
    sizes = f"@@ -{piece.at + 1},{len(piece.old)} +{piece.at + 1},{len(piece.new)} @@"
    form = rng.choice(("diff", "blocks", "whole", "envelope"))
    body = [mark + text for mark, text in piece.rows[:cut]]
    heads = {
        "diff": ["```diff", f"--- a/{piece.path}", f"+++ b/{piece.path}", sizes, *body],
        "blocks": [piece.path, "<<<<<<< SEARCH", *piece.old, "=======", *piece.new[: len(piece.new) // 2]],
        "whole": [piece.path, "```python", *lines_of(case.target[piece.path])[:-3]],
        "envelope": ["*** Begin Patch", f"*** Update File: {piece.path}", "@@", *body],
    }
    return Damaged(case.base, "\n".join(heads[form]) + "\n", None, False, form)


def _numbers_on_new(rng: random.Random, case: Case) -> Damaged | None:
    piece = _piece(rng, case)
    if piece is None or len(piece.new) < 2:
        return None
    form = rng.choice(NUMBERED)
    new = [form.format(piece.at + 1 + i, text) for i, text in enumerate(piece.new)]
    return Damaged(case.base, block(piece.path, piece.old, new), None, False, "blocks")


def _whole_elsewhere(rng: random.Random, case: Case) -> Damaged | None:
    if len(case.changed) != 1 or not whole_tree(case):
        return None
    (path,) = case.changed
    patch = f"{rng.choice(('repo/', 'core/'))}{path}\n```\n{case.target[path]}```\n"
    return Damaged(case.base, patch, case.target, False, "whole")


def _new_file_elsewhere(rng: random.Random, case: Case) -> Damaged | None:
    """Lost folders, also that of a new file; only those of existing files can be restored."""
    if not case.fresh or not case.changed or not all("/" in path for path in case.target):
        return None
    bare = {path: path.rsplit("/", 1)[-1] for path in [*case.target, *case.base]}
    patch = diff(case.base, case.target)
    for path in sorted(bare, key=len, reverse=True):
        patch = patch.replace(f"a/{path}", f"a/{bare[path]}").replace(f"b/{path}", f"b/{bare[path]}")
    return Damaged(case.base, patch, case.target, False)


TRAPS: dict[str, Trap] = {
    "two equal places": _equal_places,
    "left-out lines, two equal places": _left_out_twice,
    "context of another file": _other_file,
    "two files under one header": _under_one_header,
    "contradictory hunks": _contradiction,
    "lines that never existed": _never_there,
    "lines out of order": _out_of_order,
    "mark of an added line lost": _lost_plus,
    "excerpt as a whole file": _excerpt,
    "left out on the new side only": _left_out_of_new,
    "left out next to a new line": _left_out_of_whole,
    "no name, two files fit": _two_files_fit,
    "a name that two files have": _two_files_of_a_name,
    "cut off": _cut_off,
    "numbers on new lines only": _numbers_on_new,
    "whole file in another folder": _whole_elsewhere,
    "new file, folders lost": _new_file_elsewhere,
}
