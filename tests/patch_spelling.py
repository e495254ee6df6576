"""Copies of code that are spelled otherwise than the file, by seed: the same tokens, another text.

Eight files of installed packages, fixed before any result was looked at.  A damage changes the lines that a patch
copies; whether the damaged patch still has one meaning is decided here, from the file's text alone and never by the
library: the copied code, without blanks, comments, commas and kinds of quotes, is in the file once.
"""

import ast
import functools
import hashlib
import html
import importlib.util
import io
import random
import re
import tokenize
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from patch_answers import block
from patch_damage import ODD, Damaged, Piece, count, lines_of, pieces
from patch_edits import OPERATIONS, Case

from ideator_rl.patch import Tree

FILES = (
    "transformers/models/llama/modeling_llama.py", "torch/optim/adam.py", "torch/nn/modules/transformer.py",
    "trl/trainer/grpo_trainer.py", "networkx/classes/graph.py", "jinja2/environment.py", "yaml/scanner.py",
    "accelerate/utils/modeling.py",
)  # fmt: skip

Row = tuple[str, str]
Change = Callable[[random.Random, list[Row], "Comments"], list[Row] | None]
"""A damage: the rows of a hunk, damaged; None where it does not apply."""


class Comments:
    """Which lines of a file and of its edited version are comments, and which end with one."""

    def __init__(self, *texts: str) -> None:
        self.whole: set[str] = set()
        self.code_before: dict[str, str] = {}
        """Line -> its code, for lines that end with a comment."""
        self.swapped: dict[str, str] = {}
        """Lines with simple strings (not those of a docstring, whose quotes are prose) -> with the other quotes."""
        for text in texts:
            lines = lines_of(text)
            for token in tokenize.generate_tokens(io.StringIO(text).readline):
                if token.type == tokenize.STRING and re.fullmatch(r"([\"'])[^\"'\\{}]*\1", token.string):
                    line, other = lines[token.start[0] - 1], "'" if token.string[0] == '"' else '"'
                    before = self.swapped.get(line, line)
                    at, end = token.start[1], token.end[1] - 1
                    self.swapped[line] = before[:at] + other + before[at + 1 : end] + other + before[end + 1 :]
                if token.type == tokenize.COMMENT:
                    line, code = lines[token.start[0] - 1], lines[token.start[0] - 1][: token.start[1]].rstrip()
                    self.code_before[line] = code
                    if not code:
                        self.whole.add(line)


@functools.cache
def _text(path: str) -> str:
    spec = importlib.util.find_spec(path.split("/")[0])
    assert spec is not None and spec.origin is not None, f"{path} is not installed"
    return Path(spec.origin).parent.parent.joinpath(path).read_text()


def edit(rng: random.Random) -> Case:
    """One of the files, and a version with one to three edits that still compiles."""
    path = rng.choice(FILES)
    while True:
        lines = lines_of(_text(path))
        for _ in range(rng.choice((1, 1, 2, 3))):
            lines = rng.choice(OPERATIONS)(rng, lines)
        case = Case({path: _text(path)}, {path: "\n".join(lines) + "\n"})
        if case.base != case.target and _parsed(case.target[path]) is not None:
            return case


def _parsed(text: str) -> str | None:
    try:
        return ast.dump(ast.parse(text))
    except (SyntaxError, ValueError):
        return None


def same_code(first: Tree | None, second: Tree | None) -> bool:
    """Whether two trees hold the same files up to blanks at line ends, or up to what the compiler ignores."""
    if first is None or second is None or first.keys() != second.keys():
        return False
    for path, text in first.items():
        ends_alike = [line.rstrip() for line in lines_of(text)] == [line.rstrip() for line in lines_of(second[path])]
        if not ends_alike and (_parsed(text) is None or _parsed(text) != _parsed(second[path])):
            return False
    return True


def _squeezed(text: str) -> str:
    return re.sub(r"[\s,\\]", "", re.sub(r"#.*", "", text)).replace("'", '"')


def _once(case: Case, hunks: list[Piece]) -> bool:
    """Whether the code of each hunk is in the file once, also after the hunks before it were applied."""
    text = case.base[hunks[0].path]
    lines = lines_of(text)
    whole, texts = _squeezed(text), [_squeezed("\n".join(piece.old)) for piece in hunks]
    grown = _squeezed("\n".join([*lines, *(line for piece in hunks for line in piece.new)]))
    return all(code and whole.count(code) == 1 for code in texts) and all(
        grown.count(code) <= 1 + sum(_squeezed("\n".join(piece.new)).count(code) for piece in hunks) for code in texts
    )


def _emit(rng: random.Random, case: Case, hunks: list[Piece], damaged: list[list[Row]]) -> tuple[str, str]:
    """The damaged hunks as SEARCH/REPLACE blocks or as a diff, and the name of the form."""
    path = hunks[0].path
    if rng.random() < 0.5 and not any(ODD.match(text) for rows in damaged for _, text in rows):
        sides = [([t for m, t in rows if m != "+"], [t for m, t in rows if m != "-"]) for rows in damaged]
        return "".join(block(path, old, new) for old, new in sides), "blocks"
    out, growth = [f"--- a/{path}\n+++ b/{path}\n"], 0
    shift, stale = rng.choice((0, 0, rng.randint(1, 40))), rng.random() < 0.3
    for piece, rows in zip(hunks, damaged, strict=True):
        counted = list(piece.rows) if stale else rows
        old, new = (sum(mark != other for mark, _ in counted) for other in "+-")
        start = piece.at + 1 + shift
        out.append(f"@@ -{start},{old} +{start + growth},{new} @@\n" + "".join(m + t + "\n" for m, t in rows))
        growth += len(piece.new) - len(piece.old)
    return "".join(out), "diff"


def _kind(change: Change, meant: bool = True) -> Callable[[random.Random, Case], Damaged | None]:
    """The damage `change` in each hunk to which it applies; None if it applies to none."""

    def damage(rng: random.Random, case: Case) -> Damaged | None:
        path = case.changed[0]
        hunks, comments = pieces(case), Comments(case.base[path], case.target[path])
        changed = [change(rng, list(piece.rows), comments) for piece in hunks]
        if all(rows is None for rows in changed):
            return None
        damaged = [rows or list(piece.rows) for rows, piece in zip(changed, hunks, strict=True)]
        if any(all(mark == " " for mark, _ in rows) for rows in damaged):
            return None
        patch, form = _emit(rng, case, hunks, damaged)
        return Damaged(case.base, patch, case.target if meant else None, meant and _once(case, hunks), form)

    return damage


def _drop(is_droppable: Callable[[str, Comments], bool]) -> Change:
    """One or all copied lines of a kind are left out."""

    def change(rng: random.Random, rows: list[Row], comments: Comments) -> list[Row] | None:
        at = [i for i, (mark, text) in enumerate(rows) if mark == " " and is_droppable(text, comments)]
        # At the edge of a hunk it would only be a shorter hunk.
        at = [i for i in at if 0 < i < len(rows) - 1]
        gone = set(at if rng.random() < 0.5 else at[:1])
        return [row for i, row in enumerate(rows) if i not in gone] if gone else None

    return change


def _inline(rng: random.Random, rows: list[Row], comments: Comments) -> list[Row] | None:
    """The comments at line ends are left out; those of changed lines only where both sides have the same."""
    tails = [{t[len(comments.code_before[t]) :] for m, t in rows if m == mark and t in comments.code_before}
             for mark in "-+"]  # fmt: skip
    kept = {t for m, t in rows if m != " " and t in comments.code_before
            and t[len(comments.code_before[t]) :] not in tails[0] & tails[1]}  # fmt: skip
    bare = [(m, comments.code_before[t]) if comments.code_before.get(t) and t not in kept else (m, t) for m, t in rows]
    return bare if bare != rows else None


def _typo(rng: random.Random, rows: list[Row], comments: Comments) -> list[Row] | None:
    """Two letters of a copied comment change places, or a word is missing."""
    at = [i for i, (mark, text) in enumerate(rows) if mark == " " and text in comments.code_before]
    if not at:
        return None
    index = rng.choice(at)
    text = rows[index][1]
    code = comments.code_before[text]
    words = text[len(code) :].split(" ")
    long_words = [i for i, word in enumerate(words) if len(word) > 3 and len(set(word)) > 2]
    if not long_words:
        return None
    word = rng.choice(long_words)
    words[word] = words[word][0] + words[word][2] + words[word][1] + words[word][3:] if rng.random() < 0.6 else ""
    typo = code + " ".join(words)
    return [*rows[:index], (" ", typo), *rows[index + 1 :]] if typo != text else None


def _quotes(rng: random.Random, rows: list[Row], comments: Comments) -> list[Row] | None:
    """Every simple string of the hunk in quotes of the other kind, those of added lines too."""
    swapped = [(m, comments.swapped.get(t, t)) for m, t in rows]
    return swapped if any(a != b for a, b in zip(swapped, rows, strict=True) if a[0] != "+") else None


def _call_rows(rows: list[Row]) -> list[tuple[int, int]]:
    """Ranges of context rows that hold one bracketed call each, over several rows."""
    ranges = []
    for first, (mark, text) in enumerate(rows):
        depth = 0
        for last in range(first, len(rows)):
            if rows[last][0] != " " or re.search(r"#|\"\"\"|'''|\\$", rows[last][1]) or not rows[last][1].strip():
                break
            bare = re.sub(r"\"[^\"]*\"|'[^']*'", "", rows[last][1])
            depth += sum(bare.count(c) for c in "([{") - sum(bare.count(c) for c in ")]}")
            if depth <= 0:
                if depth == 0 and last > first and mark == " " and text.rstrip().endswith(("(", "[", "{", ",")):
                    ranges.append((first, last))
                break
    return ranges


def _rewrapped(rng: random.Random, rows: list[Row], comments: Comments) -> list[Row] | None:
    """A call of several lines in one; else a call of one line in several."""
    if ranges := _call_rows(rows):
        first, last = rng.choice(ranges)
        joined = " ".join([rows[first][1].rstrip(), *(text.strip() for _, text in rows[first + 1 : last + 1])])
        joined = re.sub(r",? ([)\]}])", r"\1", re.sub(r"([(\[{]) ", r"\1", joined))
        return [*rows[:first], (" ", joined), *rows[last + 1 :]]
    single = r"(\s*)([\w., =]*\w\()([\w., =\[\]*]+, [\w., =\[\]*]+)(\)[\w.:]*)"
    calls = [(i, m) for i, (mark, text) in enumerate(rows) if mark == " " and (m := re.fullmatch(single, text))]
    if not calls:
        return None
    index, call = rng.choice(calls)
    lines = [call[1] + call[2], f"{call[1]}    {call[3]},", call[1] + call[4]]
    return [*rows[:index], *((" ", line) for line in lines), *rows[index + 1 :]]


def _entities(rng: random.Random, rows: list[Row], comments: Comments) -> list[Row] | None:
    quote = rng.random() < 0.3
    escaped = [(mark, html.escape(text, quote=quote)) for mark, text in rows]
    return escaped if any(a != b for a, b in zip(escaped, rows, strict=True) if a[0] != "+") else None


def _trailing_comma(rng: random.Random, rows: list[Row], comments: Comments) -> list[Row] | None:
    """The comma before a closing bracket on the next line is left out, or added."""
    at = [
        i
        for i, (mark, text) in enumerate(rows[:-1])
        if mark == " "
        and text not in comments.code_before
        and rows[i + 1][0] == " "
        and re.match(r"\s*[)\]}]", rows[i + 1][1])
        # After a single element in plain parentheses it would make a tuple.
        and re.search(r",$|\w\($|(?<![\w)\]])\[$|\{$", rows[i - 1][1] if i else "")
        and re.search(r"[\w\"')\]],?$", text)
    ]
    if not at:
        return None
    index = rng.choice(at)
    text = rows[index][1]
    return [*rows[:index], (" ", text[:-1] if text.endswith(",") else text + ","), *rows[index + 1 :]]


def _two(rng: random.Random, rows: list[Row], comments: Comments) -> list[Row] | None:
    """Two kinds of damage in one hunk."""
    for change in rng.sample(list(CHANGES.values()), 2):
        changed = change(rng, rows, comments)
        if changed is None:
            return None
        rows = changed
    return rows


def _bare_insertion(index_line: bool) -> Callable[[random.Random, Case], Damaged | None]:
    """Lines added by `git diff -U0`; without the line `index`, their number is all that places them."""

    def damage(rng: random.Random, case: Case) -> Damaged | None:
        path, at = case.changed[0], rng.randrange(5, len(lines_of(case.base[case.changed[0]])))
        lines = lines_of(case.base[path])
        while lines[at - 1].strip() or not lines[at].strip():
            at = (at + 1) % len(lines)
        added = [f"# note {rng.randrange(99)}", *(f"note_{i} = {i}" for i in range(rng.randint(0, 3)))]
        target = "\n".join([*lines[:at], *added, *lines[at:]]) + "\n"
        blobs = [text.encode() for text in (case.base[path], target)]
        names = [hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()[:9] for blob in blobs]
        # Names of other files prove nothing, nor does a patch without them.
        names = names if index_line else [name[::-1] for name in names]
        has_names = index_line or rng.random() < 0.5
        head = f"diff --git a/{path} b/{path}\nindex {names[0]}..{names[1]} 100644\n" if has_names else ""
        header = f"@@ -{at},0 +{at + 1},{len(added)} @@ {lines[0][:20]}\n"
        patch = f"{head}--- a/{path}\n+++ b/{path}\n{header}" + "".join(f"+{line}\n" for line in added)
        return Damaged(case.base, patch, {path: target} if index_line else None, index_line)

    return damage


def _no_context(rng: random.Random, case: Case) -> Damaged | None:
    """`diff -U0`: hunks with removed lines at their stated numbers, and one that only adds."""
    hunks = pieces(case, 0)
    if not any(piece.old for piece in hunks) or all(piece.old for piece in hunks):
        return None
    out, growth, path = [], 0, hunks[0].path
    for piece in hunks:
        old, new = piece.at + bool(piece.old), piece.at + growth + bool(piece.new)
        out.append(
            f"@@ -{old},{len(piece.old)} +{new},{len(piece.new)} @@\n" + "".join(m + t + "\n" for m, t in piece.rows)
        )
        growth += len(piece.new) - len(piece.old)
    long = all(any(len(text.strip()) > 3 for text in piece.old) for piece in hunks if piece.old)
    return Damaged(case.base, f"--- a/{path}\n+++ b/{path}\n" + "".join(out), case.target, long)


CHANGES: dict[str, Change] = {
    "blank line left out": _drop(lambda text, _: not text.strip()),
    "comment left out": _drop(lambda text, comments: text in comments.whole),
    "comment at a line end left out": _inline,
    "typo in a copied comment": _typo,
    "quotes swapped": _quotes,
    "call rewrapped": _rewrapped,
    "entities": _entities,
    "trailing comma": _trailing_comma,
}

SPELLINGS: dict[str, Callable[[random.Random, Case], Damaged | None]] = {
    **{name: _kind(change) for name, change in CHANGES.items()},
    "two of these": _kind(_two),
    "-U0 insertion by git": _bare_insertion(True),
    "-U0 insertion among other hunks": _no_context,
}


def _misspelled(rng: random.Random, rows: list[Row], comments: Comments) -> list[Row] | None:
    """The rows with a damage that the search must see through."""
    for change in rng.sample(list(CHANGES.values()), len(CHANGES)):
        if change is not _entities and (changed := change(rng, rows, comments)) is not None:
            return changed
    return None


def _twins(rng: random.Random, case: Case) -> Damaged | None:
    """The file holds the place twice, and no number decides; the second one may be spelled otherwise too."""
    path, comments = case.changed[0], Comments(case.base[case.changed[0]], case.target[case.changed[0]])
    piece = pieces(case)[0]
    rows = _misspelled(rng, list(piece.rows), comments)
    if rows is None or not _squeezed("\n".join(piece.old)):
        return None
    lines = lines_of(case.base[path])
    twin = lines[max(0, piece.at - 2) : piece.at + len(piece.old) + 2]
    if "\n".join(twin).count('"""') % 2:
        return None
    if rng.random() < 0.5:
        twin = [comments.code_before.get(line, line) for line in twin if line.strip()]
    base = {path: "\n".join([*lines, "", "", *twin]) + "\n"}
    # Without a blank line at its end a copy is still exact.
    if count(lines_of(base[path]), [text for mark, text in rows if mark != "+"]):
        return None
    if rng.random() < 0.5 and not any(ODD.match(text) for _, text in rows):
        patch = block(path, [t for m, t in rows if m != "+"], [t for m, t in rows if m != "-"])
    else:
        patch = f"--- a/{path}\n+++ b/{path}\n@@ @@\n" + "".join(m + t + "\n" for m, t in rows)
    return Damaged(base, patch, None, False)


def _invention(rng: random.Random, rows: list[Row], comments: Comments) -> list[Row] | None:
    """A name or number in a copied line that the file does not have there."""
    changed = _misspelled(rng, rows, comments) or rows
    at = [
        i
        for i, (mark, text) in enumerate(changed)
        if mark != "+"
        and text not in comments.code_before
        and re.search(r"\b[a-z_]{4,}\b", text)
        and not re.search(r"[\"'#]", text)
    ]
    if not at:
        return None
    index = rng.choice(at)
    names = re.findall(r"\b[a-z_]{4,}\b", changed[index][1])
    name = rng.choice(names)
    mark, text = changed[index]
    return [*changed[:index], (mark, re.sub(rf"\b{name}\b", name + "_zq", text)), *changed[index + 1 :]]


def _exchanged(rng: random.Random, rows: list[Row], comments: Comments) -> list[Row] | None:
    """Two copied lines of code in the wrong order."""
    at = [i for i in range(len(rows) - 1) if rows[i][0] == rows[i + 1][0] == " "
          and all(_squeezed(rows[k][1]) for k in (i, i + 1)) and _squeezed(rows[i][1]) != _squeezed(rows[i + 1][1])]  # fmt: skip
    if not at:
        return None
    index = rng.choice(at)
    return [*rows[:index], rows[index + 1], rows[index], *rows[index + 2 :]]


def _invented_comment(rng: random.Random, rows: list[Row], comments: Comments) -> list[Row] | None:
    """A comment that the file does not have is to be removed."""
    at = rng.randrange(1, len(rows))
    return [*rows[:at], ("-", f"    # the old way to do this, number {rng.randrange(99)}"), *rows[at:]]


def _cut_off(rng: random.Random, case: Case) -> Damaged | None:
    """A misspelled patch that ends within a hunk, before its last change."""
    damaged = _kind(_misspelled)(rng, case)
    if damaged is None:
        return None
    # A diff is in a fence that is never closed, as a model would leave it.
    patch = "```diff\n" * (damaged.form == "diff") + damaged.patch
    first = patch.rfind("\n@@" if damaged.form == "diff" else "<<<<<<< SEARCH") + 15
    last = max(patch.rfind("\n+"), patch.rfind("\n-")) if damaged.form == "diff" else patch.rfind(">>>>>>> REPLACE")
    if first >= last:
        return None
    return replace(damaged, patch=patch[: rng.randint(first, last - 1)], meant=None, repairable=False)


REFUSED: dict[str, Callable[[random.Random, Case], Damaged | None]] = {
    "twins": _twins,
    "inventions": _kind(_invention, meant=False),
    "copied lines exchanged": _kind(_exchanged, meant=False),
    "a comment that is not there removed": _kind(_invented_comment, meant=False),
    "cut off": _cut_off,
    "-U0 insertion, number alone": _bare_insertion(False),
}
"""Patches that must be refused."""
