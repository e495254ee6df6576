"""Lines that a model left out: `...`, `# ... existing code ...`, `// rest unchanged`.

In a hunk a mark means what stands in the file between the lines above and below it, if both sides hold the same
marks; in a whole file, what the present file holds between them.  Lines next to a mark must stand in the file, and
fit at one place only, or nothing is certain.  A mark on the new side alone would delete what it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ideator_rl.patch.edit import Hunk, PatchError, align

_COMMENT = re.compile(r"(?:#+|//+|--|;|%|/\*|<!--|\{/\*)\s*")
_CLOSED = re.compile(r"\s*(?:\*/\}?|-->)$")
_DOTS = re.compile(r"(?:\.{3,}|…)\s*")
_PROSE = re.compile(r"[a-z ,'-]+")
_LEFT_OUT = re.compile(r"\b(?:existing|rest|unchanged|remain\w*|omitted|same as)\b")
_TELLING = re.compile(
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
    """Whether a line says that lines are left out (a bare `...` may be Python's own)."""
    bare = text.strip()
    if not bare or len(bare) > MAX_MARK:
        return False
    comment = _COMMENT.match(bare)
    if not comment and bare[0] not in "[(<.…":
        return False
    bare = _CLOSED.sub("", bare[comment.end() :] if comment else bare)
    bare = _unwrapped(bare)
    dots = _DOTS.match(bare)
    words = _unwrapped(_DOTS.sub("", bare[dots.end() :] if dots else bare)).lower()
    if not words:
        return dots is not None
    if dots:
        return _TELLING.search(words) is not None and (comment is not None or _PROSE.fullmatch(words) is not None)
    if not comment:
        return False
    return _PHRASE.fullmatch(words) is not None or (bare.endswith(("...", "…")) and bool(_LEFT_OUT.search(words)))


def _unwrapped(text: str) -> str:
    text = text.strip()
    return text[1:-1].strip() if text[:1] + text[-1:] in ("[]", "()", "{}", "<>") else text


def parts(hunk: Hunk, standing: set[str]) -> list[Hunk] | None:
    """The hunk as one hunk for each stretch between its marks; None if it has none, or both sides' marks differ.

    `standing` holds the lines of the file, stripped: a mark that stands there counts only if there is no other.
    """
    marks = [text.strip() for text in hunk.old if is_mark(text)]
    marks = [mark for mark in marks if mark not in standing] or marks
    wanted = set(marks)
    if not wanted or [text.strip() for text in hunk.new if text.strip() in wanted] != marks:
        return None
    sides = [_stretches(side, wanted) for side in (hunk.old, hunk.new)]
    found = []
    for number, (old, new) in enumerate(zip(*sides, strict=True), 1):
        old, new = _trimmed(old, new)
        if old or new:
            label = f"{hunk.label}, part {number} of {len(marks) + 1} around what it leaves out"
            bare = replace(hunk, start=None, new_start=None, heading="", old_cut=False, new_cut=False, counted=False)
            found.append(replace(bare, lines=align(old, new), label=label))
    return found


def depths(hunk: Hunk) -> int:
    """The least indentation of a hunk's marks: nothing that they stand for is shallower."""
    return min(len(text) - len(text.lstrip()) for text in hunk.old if is_mark(text))


def _stretches(lines: list[str], marks: set[str]) -> list[list[str]]:
    out: list[list[str]] = [[]]
    for text in lines:
        if text.strip() in marks:
            out.append([])
        else:
            out[-1].append(text)
    return out


def _trimmed(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    """Without the blank lines that both sides hold at their ends: models put these around marks."""
    while old and new and not old[0].strip() and not new[0].strip():
        old, new = old[1:], new[1:]
    while old and new and not old[-1].strip() and not new[-1].strip():
        old, new = old[:-1], new[:-1]
    return old, new


def stray_mark(hunk: Hunk, standing: list[str]) -> str | None:
    """An added line that leaves lines out, which the lines looked for do not (`standing`: the file's lines, stripped).
    Not the file's own, nor the `...` of an empty body where nothing is removed."""
    new = [text for mark, text in hunk.lines if mark != "-"]
    marks = [mark for mark, _ in hunk.lines if mark != "-"]
    removes = len(new) - len(hunk.added) < len(hunk.old)
    for index, text in enumerate(new):
        if marks[index] != "+" or not is_mark(text) or _own(new, index, standing):
            continue
        if removes or "+" not in marks[index - 1 : index] or not is_stub(new, index):
            return text.strip()
    return None


def _own(new: Sequence[str], index: int, standing: list[str]) -> bool:
    """Whether a mark stands in the present file between the same two lines: it is the file's own."""
    around = [text.strip() for text in new[max(0, index - 1) : index + 2]]
    return len(around) == 3 and any(standing[i : i + 3] == around for i in range(len(standing)))


def is_stub(lines: Sequence[str], index: int) -> bool:
    """Python's own `...`: the only statement of a body, its header or docstring right above."""
    text = lines[index]
    if text.strip() != "..." or not index:
        return False
    above = lines[index - 1].rstrip()
    below = next((line for line in lines[index + 1 :] if line.strip()), "")
    depth = len(text) - len(text.lstrip())
    return above.endswith((":", '"""')) and depth > 0 and len(below) - len(below.lstrip()) < depth


def filled(path: str, old: list[str], new: list[str]) -> list[str]:
    """A whole file with the lines of the present one where its marks say so.

    Raises:
        PatchError: the lines next to a mark do not stand in the present file, or stand there more than once.
    """
    standing = [line.strip() for line in old]
    marks = [index for index, line in enumerate(new) if is_mark(line) and not _own(new, index, standing)]
    if own := next((new[index] for index in marks if new[index].strip() in standing), None):
        raise PatchError(_elided(path, own, "the file has such a line of its own, so that it could be either"))
    out: list[str] = []
    done = 0
    low = 0
    for index, mark in enumerate(marks):
        end = marks[index + 1] if index + 1 < len(marks) else len(new)
        above, below = _solid(new[done:mark], False), _solid(new[mark + 1 : end], True)
        start = _anchor(path, old, above, new[mark], False) if above else 0
        stop = _anchor(path, old, below, new[mark], True) if below else len(old)
        if not (above or below) or not low <= start < stop:
            raise PatchError(_elided(path, new[mark], "the lines next to it do not stand in the file in that order"))
        out += [*above, *old[start:stop]]
        done = mark + 1 + (end - mark - 1 - len(below))
        low = stop
    return out + new[done:]


def _solid(lines: list[str], top: bool) -> list[str]:
    """Without the blank lines next to the mark (at the top, or at the bottom)."""
    while lines and not lines[0 if top else -1].strip():
        lines = lines[1:] if top else lines[:-1]
    return lines


def _anchor(path: str, old: list[str], lines: list[str], mark: str, below: bool) -> int:
    """Where in the old file the lines next to a mark end (or begin, `below` it): as few as stand there once, two at
    least where there are two, because a changed line may stand elsewhere by chance."""
    solid = 0
    for size in range(1, len(lines) + 1):
        wanted = lines[:size] if below else lines[-size:]
        solid += bool((wanted[-1] if below else wanted[0]).strip())
        found = [i for i in range(len(old) - size + 1) if old[i : i + size] == wanted]
        if len(found) == 1 and (solid > 1 or size == len(lines)):
            return found[0] + (0 if below else size)
        if not found:
            break
    near = lines[0] if below else lines[-1]
    side = "below" if below else "above"
    raise PatchError(_elided(path, mark, f"the lines {side} it, from {near.strip()[:120]!r} on, do not say where"))


def _elided(path: str, mark: str, why: str) -> str:
    return (
        f"{path}: a whole file may leave nothing out unless the lines around are unique and unchanged, but it holds "
        f"{mark.strip()[:120]!r}, and {why}; write every line, or a diff"
    )
