"""Selects the files of a codebase that a coder or an ideator reads, within a budget of tokens.

If all files fit, all are shown.  Otherwise, in this order:

1. the essential files: those that the idea names and those that the command runs;
2. the optional ones, each whole or not at all, by import distance from the command's files, the shorter first;
3. the names of the rest, then a count of those whose name does not fit (`NAMES_SHARE` of the budget is reserved).

A coder cannot edit a file that it never sees, so an essential file is shown at least in part.  If it is too long for
its share, it is cut after the last line that fits, and a mark names the missing lines.

Guaranteed: the same text for the same arguments; at most `budget` tokens by the estimate of `tokens` (three bytes of
UTF-8 a token: code has more), plus one line that counts the files left out.
"""

from __future__ import annotations

import re
from collections import Counter

from ideator_rl.patch import Tree
from ideator_rl.patch.import_graph import import_distances
from ideator_rl.patch.source import shown
from ideator_rl.text.special_tokens import without_special_tokens

BYTES_PER_TOKEN = 3
"""Code has three to four bytes a token in common vocabularies; three errs on the safe side."""
FILES_TOKENS = 16_000
"""The budget where a prompt sets none."""
NAMES_SHARE = 8
"""One part in so many of the budget is reserved for the names of files that are not shown."""


def tokens(text: str) -> int:
    """An upper estimate of a text's tokens."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def shown_files(base: Tree, command: tuple[str, ...], idea: str, budget: int, numbered: bool = False) -> str:
    """The files of a codebase, as far as they fit, as one text of `budget` tokens.

    Args:
        command: what runs the experiment; an argument that is a file or a module of the codebase makes it essential.
        idea: its text; a file that it names is essential.
        numbered: whether each line carries its number, as `12 | text`.
    """
    base = {path: shown(text) for path, text in base.items()}
    blocks = {path: _block(path, text, numbered) for path, text in base.items()}
    sizes = {path: tokens(block) for path, block in blocks.items()}
    everything = "".join(blocks[path] for path in sorted(base))
    # Of the whole text: the sizes of the files are rounded up, each for itself.
    if tokens(everything) <= budget:
        return everything
    # Not everything fits: the names of the rest get a share, then the essential files, then the optional ones.
    names_budget = max(budget // NAMES_SHARE, tokens(_count_line(len(base), 0)))
    left = max(0, budget - names_budget)
    essential, optional = _order(base, command, idea)
    chosen: dict[str, str] = {}
    # The shortest first, each with an equal share of what is left: a long file gets what the short ones do not need.
    for index, path in enumerate(sorted(essential, key=lambda path: (sizes[path], path))):
        share = left // (len(essential) - index)
        block = blocks[path] if sizes[path] <= share else _cut_block(path, base[path], numbered, share)
        if block:
            chosen[path] = block
            left -= tokens(block)
    for path in optional:
        if sizes[path] <= left:
            chosen[path] = blocks[path]
            left -= sizes[path]
    rest = [path for path in (*essential, *optional) if path not in chosen]
    return "".join(chosen[path] for path in sorted(chosen)) + _names(base, rest, left + names_budget)


def without_foreign_tokens(tree: Tree, baseline: Tree) -> Tree:
    """The codebase as a prompt may show it: without special tokens of chat templates in what the baseline lacks.

    A model wrote those lines and paths, and a server reads such a token anywhere in a message.  Lines of the baseline
    stay, since an edit must repeat them letter by letter.
    """
    safe: Tree = {}
    for path, text in tree.items():
        own = baseline.get(path, "")
        if text != own:
            trusted = set(own.split("\n"))
            lines = text.split("\n")
            text = "\n".join(line if line in trusted else without_special_tokens(line) for line in lines)
        safe[path if path in baseline else without_special_tokens(path)] = text
    return safe


def _order(base: Tree, command: tuple[str, ...], idea: str) -> tuple[list[str], list[str]]:
    """The essential files, and the optional ones in the order in which they are tried."""
    modules = {path: path.removesuffix(".py").removesuffix("/__main__").replace("/", ".") for path in base}
    roots = [path for path in base if path in command or modules[path] in command]
    file_names = Counter(path.rpartition("/")[2] for path in base)
    mentioned = [path for path in base if _is_named(path, idea, file_names)]
    essential = list(dict.fromkeys((*mentioned, *roots)))
    distances = import_distances(base, roots)
    optional = [path for path in base if path not in essential]
    return essential, sorted(optional, key=lambda path: (distances.get(path, len(base)), len(base[path]), path))


def _is_named(path: str, idea: str, file_names: Counter[str]) -> bool:
    """Whether an idea names a file: by its path, or by its file name where only one file has that name."""
    file_name = path.rpartition("/")[2]
    spellings = {path, file_name} if file_names[file_name] == 1 else {path}
    return any(re.search(rf"(?<![\w./-]){re.escape(spelling)}(?![\w-])", idea) for spelling in spellings)


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def _block(path: str, text: str, numbered: bool, line_count: int | None = None) -> str:
    """A file as the prompt holds it: all its lines, or the first `line_count` ones and a mark for the rest."""
    lines = _lines(text)
    width = len(str(len(lines)))
    printed = [f"{number:>{width}} | {line}" for number, line in enumerate(lines, 1)] if numbered else lines
    about = f'lines="{len(lines)}"'
    if line_count is not None:
        about += ' shown="in part"'
        printed = [*printed[:line_count], f"[lines {line_count + 1} to {len(lines)} are not shown here]"]
    return f'<file path="{path}" {about}>\n' + "".join(f"{line}\n" for line in printed) + "</file>\n"


def _cut_block(path: str, text: str, numbered: bool, budget: int) -> str:
    """The beginning of a file, as many lines as fit; empty if not even one fits."""
    fitting, too_many = 0, len(_lines(text))
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if tokens(_block(path, text, numbered, middle)) <= budget:
            fitting = middle
        else:
            too_many = middle
    return _block(path, text, numbered, fitting) if fitting else ""


def _names(base: Tree, rest: list[str], budget: int) -> str:
    """The names of the files that are not shown, as many as fit, below a line that counts those without a name."""
    if not rest:
        return ""
    left = budget - tokens(_count_line(len(rest), 0))
    listing: list[str] = []
    for path in rest:
        line = f"{path} ({len(_lines(base[path]))} lines)\n"
        if tokens(line) > left:
            break
        listing.append(line)
        left -= tokens(line)
    return _count_line(len(rest), len(listing)) + "".join(listing)


def _count_line(count: int, listed: int) -> str:
    unlisted = f"; {count - listed} of them are not named" if listed < count else ""
    return f"Files that are there too, but do not fit in here{unlisted}:\n"
