"""Marks for lines that a model left out: `...`, `# ... existing code ...`, `// rest unchanged`.

In a hunk a mark means the file's lines between those above and below it, if both sides hold the same marks; in a whole
file, the present file's lines between them.  Lines next to a mark must be in the file, and fit at one place only:
otherwise the meaning is not certain.  A mark on the new side alone would delete the lines that it means.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ideator_rl.patch.edit import Hunk, PatchError, align

_COMMENT = re.compile(r"(?:#+|//+|--|;|%|/\*|<!--|\{/\*)\s*")
_COMMENT_END = re.compile(r"\s*(?:\*/\}?|-->)$")
_DOTS = re.compile(r"(?:\.{3,}|…)\s*")
_PROSE = re.compile(r"[a-z ,'-]+")
_LEFT_OUT_WORD = re.compile(r"\b(?:existing|rest|unchanged|remain\w*|omitted|same as)\b")
_ELISION_WORD = re.compile(
    r"\b(?:existing|rest|unchanged|remain\w*|omitted|same|other|others|previous|before|as[- ]is|keep|original"
    r"|unmodified|continues?|code|skip\w*|snip\w*|above|elided|truncated)\b"
)
_PHRASE = re.compile(
    r"(?:the |all )?(?:rest|remainder)(?: of (?:the |this |my |your )?[\w.]+(?: [\w.]+)?)?"
    r"(?:,? (?:is|are|remains?|stays?|as|it|here|unchanged|the|same|omitted|before|continues|below|goes))*"
    r"|(?:(?:the|all|other|keep|existing|remaining|unchanged|original|previous) )+"
    r"(?:code|implementation|imports?|methods?|functions?|content|logic|lines?|body|class(?:es)?|definitions?)"
    r"(?: (?:here|unchanged|continues|goes here|omitted|(?:remains?|stays?|is|are|as) [\w ]+))?"
    r"|(?:code |lines? |everything )?(?:else )?(?:is |are |remains? |stays? )?"
    r"(?:unchanged|same as before|omitted(?: for brevity)?)(?: code| lines)?"
)
MAX_MARK = 120
"""Characters of the longest line that is read as a mark."""


def is_mark(text: str) -> bool:
    """Whether a line means that lines are left out (a bare `...` may be Python's own)."""
    bare = text.strip()
    if not bare or len(bare) > MAX_MARK:
        return False
    comment = _COMMENT.match(bare)
    if not comment and bare[0] not in "[(<.…":
        return False
    bare = _COMMENT_END.sub("", bare[comment.end() :] if comment else bare)
    bare = _without_brackets(bare)
    dots = _DOTS.match(bare)
    prose = _without_brackets(_DOTS.sub("", bare[dots.end() :] if dots else bare)).lower()
    if not prose:
        return dots is not None
    # With dots one word of elision is enough; without them the whole comment must be a phrase of it.
    if dots:
        in_text = comment is not None or _PROSE.fullmatch(prose) is not None
        return _ELISION_WORD.search(prose) is not None and in_text
    if not comment:
        return False
    return _PHRASE.fullmatch(prose) is not None or (bare.endswith(("...", "…")) and bool(_LEFT_OUT_WORD.search(prose)))


def _without_brackets(text: str) -> str:
    text = text.strip()
    return text[1:-1].strip() if text[:1] + text[-1:] in ("[]", "()", "{}", "<>") else text


def pieces_between_marks(hunk: Hunk, file_lines: set[str]) -> list[Hunk] | None:
    """The hunk as one hunk for each stretch between its marks; None without marks, or if the sides' marks differ.

    `file_lines` holds the lines of the file, stripped: a mark that is among them counts only if there is no other.
    """
    marks = [text.strip() for text in hunk.old if is_mark(text)]
    marks = [mark for mark in marks if mark not in file_lines] or marks
    distinct_marks = set(marks)
    if not marks or [text.strip() for text in hunk.new if text.strip() in distinct_marks] != marks:
        return None
    stretches = zip(_stretches(hunk.old, distinct_marks), _stretches(hunk.new, distinct_marks), strict=True)
    pieces = []
    for number, (old, new) in enumerate(stretches, 1):
        old, new = _without_blank_ends(old, new)
        if old or new:
            label = f"{hunk.label}, part {number} of {len(marks) + 1} around what it leaves out"
            # What the header states holds for the whole hunk only.
            pieces.append(Hunk(align(old, new), label, has_marks=hunk.has_marks, at_end=hunk.at_end))
    return pieces


def least_mark_indent(hunk: Hunk) -> int:
    """The least indentation of a hunk's marks: none of the lines that they mean has less."""
    return min(len(text) - len(text.lstrip()) for text in hunk.old if is_mark(text))


def _stretches(lines: list[str], marks: set[str]) -> list[list[str]]:
    stretches: list[list[str]] = [[]]
    for text in lines:
        if text.strip() in marks:
            stretches.append([])
        else:
            stretches[-1].append(text)
    return stretches


def _without_blank_ends(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    """Both sides without the blank lines that they share at their ends: models put these around marks."""
    while old and new and not old[0].strip() and not new[0].strip():
        old, new = old[1:], new[1:]
    while old and new and not old[-1].strip() and not new[-1].strip():
        old, new = old[:-1], new[:-1]
    return old, new


def stray_mark(hunk: Hunk, file_lines: list[str]) -> str | None:
    """An added mark that no line to look for matches (`file_lines`: the file's lines, stripped).

    Not counted: a mark that is the file's own, and the `...` of an empty body where nothing is removed.
    """
    new = [text for mark, text in hunk.lines if mark != "-"]
    diff_marks = [mark for mark, _ in hunk.lines if mark != "-"]
    removes = len(new) - len(hunk.added) < len(hunk.old)
    for index, text in enumerate(new):
        if diff_marks[index] != "+" or not is_mark(text) or _is_in_file(new, index, file_lines):
            continue
        if removes or "+" not in diff_marks[index - 1 : index] or not is_stub(new, index):
            return text.strip()
    return None


def _is_in_file(new: Sequence[str], index: int, file_lines: list[str]) -> bool:
    """Whether the file has this mark between the same two lines, so that it is the file's own."""
    around = [text.strip() for text in new[max(0, index - 1) : index + 2]]
    return len(around) == 3 and any(file_lines[i : i + 3] == around for i in range(len(file_lines)))


def is_stub(lines: Sequence[str], index: int) -> bool:
    """Whether a line is Python's own `...`: the only statement of a body, right below its header or docstring."""
    text = lines[index]
    if text.strip() != "..." or not index:
        return False
    line_above = lines[index - 1].rstrip()
    line_below = next((line for line in lines[index + 1 :] if line.strip()), "")
    indent = len(text) - len(text.lstrip())
    return line_above.endswith((":", '"""')) and indent > 0 and len(line_below) - len(line_below.lstrip()) < indent


def fill_marks(path: str, old: list[str], new: list[str]) -> list[str]:
    """A whole file in which the lines of the present one replace the marks.

    Raises:
        PatchError: the lines next to a mark are not in the present file, or more than once.
    """
    stripped = [line.strip() for line in old]
    marks = [index for index, line in enumerate(new) if is_mark(line) and not _is_in_file(new, index, stripped)]
    if own_mark := next((new[index] for index in marks if new[index].strip() in stripped), None):
        raise PatchError(_mark_error(path, own_mark, "the file has such a line of its own, so that it could be either"))
    out: list[str] = []
    next_new = next_old = 0  # the first lines of either file that are not in `out` yet
    for index, mark in enumerate(marks):
        end = marks[index + 1] if index + 1 < len(marks) else len(new)
        # The lines above and below the mark are looked up in the present file; its lines between them fill the gap.
        above = _without_blanks(new[next_new:mark], at_top=False)
        below = _without_blanks(new[mark + 1 : end], at_top=True)
        start = _anchor(path, old, above, new[mark], is_below=False) if above else 0
        stop = _anchor(path, old, below, new[mark], is_below=True) if below else len(old)
        if not (above or below) or not next_old <= start < stop:
            raise PatchError(_mark_error(path, new[mark], "the lines next to it are not in the file in that order"))
        out += [*above, *old[start:stop]]
        next_new = end - len(below)
        next_old = stop
    return out + new[next_new:]


def _without_blanks(lines: list[str], at_top: bool) -> list[str]:
    """The lines without blank ones at the top, or at the bottom."""
    while lines and not lines[0 if at_top else -1].strip():
        lines = lines[1:] if at_top else lines[:-1]
    return lines


def _anchor(path: str, old: list[str], lines: list[str], mark: str, is_below: bool) -> int:
    """The index in the old file where the lines next to a mark end; for lines below it, where they begin.

    As few lines as are in the file once, but at least two that are not blank where there are two: a single changed line
    may be elsewhere in the file by chance.
    """
    solid_lines = 0
    for size in range(1, len(lines) + 1):
        run = lines[:size] if is_below else lines[-size:]
        solid_lines += bool((run[-1] if is_below else run[0]).strip())
        starts = [i for i in range(len(old) - size + 1) if old[i : i + size] == run]
        if len(starts) == 1 and (solid_lines > 1 or size == len(lines)):
            return starts[0] + (0 if is_below else size)
        if not starts:
            break
    nearest = lines[0] if is_below else lines[-1]
    side = "below" if is_below else "above"
    why = f"the lines {side} it, from {nearest.strip()[:120]!r} on, do not determine its position"
    raise PatchError(_mark_error(path, mark, why))


def _mark_error(path: str, mark: str, why: str) -> str:
    return (
        f"{path}: a whole file may leave nothing out unless the lines around are unique and unchanged, but it holds "
        f"{mark.strip()[:120]!r}, and {why}; write every line, or a diff"
    )
