"""Writes a hunk's changes into lines of a file that are spelled otherwise: between lines, and within them."""

from __future__ import annotations

from difflib import SequenceMatcher

from ideator_rl.patch.comments import FileComments
from ideator_rl.patch.tokens import Token, tokenize

Marked = list[tuple[str, str]]
"""Lines with one of the marks " ", "-", "+"."""
Spellings = dict[tuple[str, ...], tuple[str, str]]
"""Tokens of a removed line -> the line as the hunk and as the file spells it."""

ALIKE = 0.6
"""Similarity from which on two lines of code are one that was changed."""


class UncertainChange(Exception):
    """A change of a line that the file does not have for certain."""


def token_keys(text: str) -> tuple[str, ...]:
    return tuple(token.key for token in tokenize([text]).tokens)


def paired(entries: Marked) -> Marked:
    """The lines of a hunk; where as many lines are added as removed, each removed one has its successor behind it."""
    out: Marked = []
    at = 0
    while at < len(entries):
        if entries[at][0] == " ":
            out.append(entries[at])
            at += 1
            continue
        middle = _end_of_mark(entries, at, "-")
        end = _end_of_mark(entries, middle, "+")
        removed, added = entries[at:middle], entries[middle:end]
        pairs = list(zip(removed, added, strict=False))
        if len(removed) == len(added) and all(_ratio(token_keys(a), token_keys(b)) > ALIKE for (_, a), (_, b) in pairs):
            out += [entry for pair in pairs for entry in pair]
        else:
            out += removed + added
        at = end
    return out


def _end_of_mark(entries: Marked, at: int, mark: str) -> int:
    while at < len(entries) and entries[at][0] == mark:
        at += 1
    return at


def _ratio(first: str | tuple[str, ...], second: str | tuple[str, ...]) -> float:
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def filled_gap(
    entries: Marked,
    lines: list[str],
    above: tuple[str, str] | None,
    below: str,
    removed: Spellings,
    comments: FileComments,
    in_string: bool,
) -> Marked:
    """The blank lines and comments between two lines of code, with the changes of the hunk's lines between the same.

    Args:
        entries, lines: what the hunk has there, and what the file has.
        above: the hunk's last line before, with its mark; None at its beginning.
        below: the file's next line of code; empty at the hunk's end.

    Raises:
        UncertainChange: the hunk has a comment that is not there, or adds to a string at an uncertain line.
    """
    line_of = _aligned([text for mark, text in entries if mark != "+"], lines, comments)
    # What replaces a line has the place of that line, whatever is left out below it.
    replaces = above is not None and above[0] != " "
    if in_string and not replaces and any(mark == "+" for mark, _ in entries) and len(lines) != len(line_of):
        raise UncertainChange
    out: Marked = []
    next_line = row = 0
    last_line = max(line_of.values(), default=-1)
    for index, (mark, text) in enumerate(entries):
        if mark == "+":
            # Before the comment that belongs to the code below, if the added lines go with that code.
            previous = entries[index - 1] if index else above
            if next_line > last_line and _goes_below(entries[index:], previous, below):
                end = _end_of_blanks(lines, next_line)
                out += [(" ", line) for line in lines[next_line:end]]
                next_line = end
            out.append((mark, _as_in_file(text, removed)))
            continue
        line = line_of.get(row)
        row += 1
        if line is None and text.strip(" \t#"):
            raise UncertainChange
        if line is not None:
            out += [(" ", skipped) for skipped in lines[next_line:line]]
            out.append((mark, lines[line]))
            next_line = line + 1
    return out + [(" ", line) for line in lines[next_line:]]


def _aligned(rows: list[str], lines: list[str], comments: FileComments) -> dict[int, int]:
    """For rows of a hunk the lines that they copy, in order: equal ones, and comments with a typo between these."""
    bare_rows, bare_lines = [text.strip() for text in rows], [line.strip() for line in lines]
    line_of: dict[int, int] = {}
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, bare_rows, bare_lines, autojunk=False).get_opcodes():
        if tag == "equal":
            line_of |= dict(zip(range(i1, i2), range(j1, j2), strict=True))
        next_line = j1
        for row in range(i1, i2) if tag == "replace" else ():
            for line in range(next_line, j2):
                if bare_rows[row] and bare_lines[line] and comments.is_copy(bare_rows[row], [bare_lines[line]]):
                    line_of[row], next_line = line, line + 1
                    break
    return line_of


def _goes_below(entries: Marked, above: tuple[str, str] | None, below: str) -> bool:
    """Whether added lines belong to the code right below them rather than to the line above: by their indentation."""
    if not below or any(mark != "+" for mark, _ in entries):
        return False
    if above is None:
        return True
    first = next((text for _, text in entries if text.strip()), "")
    return above[0] == " " and _indent(first) == _indent(below) != _indent(above[1])


def _end_of_blanks(lines: list[str], start: int) -> int:
    """The index after the last blank line."""
    return max((index + 1 for index in range(start, len(lines)) if not lines[index].strip()), default=start)


def _indent(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _as_in_file(text: str, removed: Spellings) -> str:
    """An added line; one that was removed too has the spelling of the file, with the indentation of the hunk."""
    spelled = removed.get(token_keys(text)) if text.strip() else None
    if spelled is None or _comment(spelled[0]) != _comment(text) or _written([spelled[0]]) != _written([text]):
        return text
    return _indent(text) + spelled[1].lstrip()


def _comment(text: str) -> str:
    """The comment of a line, with the blanks before it."""
    at = tokenize([text]).comments.get(0)
    return "" if at is None else text[len(text[:at].rstrip()) :]


def _written(lines: list[str]) -> list[tuple[str, bool]]:
    """Each token as it is written, up to the kind of quotes, and whether a trailing comma follows."""
    return [(lines[t.line][t.start : t.end].replace('"', "'"), t.comma) for t in tokenize(lines).tokens]


def check_comments(old: list[str], code: list[str], comments: FileComments) -> None:
    """Check that each comment that a hunk copies with code is one of the file's, perhaps with a typo.

    Raises:
        UncertainChange: a comment is not in the file: then the line may be another one.
    """
    originals = [comment for comment in map(_comment, code) if comment]
    for comment in map(_comment, old):
        if comment and not comments.is_copy(comment.strip(), originals):
            raise UncertainChange


def changed_lines(code: list[str], old: list[str], new: list[str]) -> list[str]:
    """Lines of a file in which the tokens that differ between `old` and `new`, its copies in a hunk, are replaced.

    Where they cannot be replaced one by one, the hunk's new lines, with the file's comment.
    """
    comments = [[_comment(text) for text in side if _comment(text)] for side in (old, new)]
    if comments[0] == comments[1]:
        if (spliced := _spliced(code, old, new)) is not None:
            return spliced
        return [new[0] + _comment(code[0])] if len(code) == len(new) == 1 and not comments[1] else new
    if len(code) == len(old) == len(new) == 1:
        bare = [text[: len(text) - len(_comment(text))] for text in (code[0], old[0], new[0])]
        spliced = _spliced([bare[0]], [bare[1]], [bare[2]])
        return [(spliced or [bare[2]])[0] + _comment(new[0])]
    return new


def _spliced(code: list[str], old: list[str], new: list[str]) -> list[str] | None:
    """`changed_lines`, if each change is within one line of the file and of the hunk."""
    file_tokens, old_tokens, new_tokens = (tokenize(side).tokens for side in (code, old, new))
    old_keys, new_keys = ([token.key for token in tokens] for tokens in (old_tokens, new_tokens))
    if sum(t.statement for t in new_tokens) != sum(t.statement for t in file_tokens) or len(file_tokens) != len(
        old_keys
    ):
        return None
    if not new_tokens or not file_tokens:
        return None
    out = list(code)
    old_written, new_written = _written(old), _written(new)
    operations = SequenceMatcher(None, old_keys, new_keys, autojunk=False).get_opcodes()
    for tag, i1, i2, j1, j2 in reversed(operations):
        if tag == "equal":
            # Tokens that mean the same here may be a change that is meant, as a comma is; it must not get lost.
            if old_written[i1:i2] != new_written[j1:j2]:
                return None
            continue
        place = _span(file_tokens, i1, i2)
        text = _text(new, new_tokens, j1, j2, i1 < i2)
        if place is None or text is None:
            return None
        line, start, end = place
        out[line] = out[line][:start] + text + out[line][end:]
    # Another indentation of the whole line.
    shift = _indent(new[0]), _indent(old[0])
    if shift[0] != shift[1]:
        if len(out) > 1:
            return None
        out[0] = shift[0] + out[0].lstrip()
    # A line break of the file may no longer be within brackets.
    written = [(token.key, token.statement) for token in tokenize(out).tokens]
    return out if written == [(token.key, token.statement) for token in new_tokens] else None


def _span(tokens: list[Token], start: int, end: int) -> tuple[int, int, int] | None:
    """(line, first column, column after) of the tokens of a range; of an empty one, the column after the token before.

    A range at the end of a line begins right after the token before it, so that no blanks are left.
    """
    if start == end:
        return (tokens[start - 1].line, tokens[start - 1].end, tokens[start - 1].end) if start else None
    if tokens[start].line != tokens[end - 1].line:
        return None
    return tokens[start].line, tokens[start].start, tokens[end - 1].end


def _text(new: list[str], tokens: list[Token], start: int, end: int, replaces: bool) -> str | None:
    """The characters of a range of tokens, if it is in one line; of an insertion, with the blanks before it."""
    if start == end:
        return ""
    if tokens[start].line != tokens[end - 1].line:
        return None
    line, first = new[tokens[start].line], tokens[start].start
    if not replaces:
        if start == 0 or tokens[start - 1].line != tokens[start].line:
            return None
        first = tokens[start - 1].end
    return line[first : tokens[end - 1].end]
