"""What of a codebase is shown to a coder, within a budget of tokens.

Where everything fits, everything is shown.  Else, in this order, each file whole as long as it fits:

1. files that the command runs and files that the idea names; one too long for its share is shown in part;
2. files by how many imports away from the command's script they are, the shorter first;
3. files that no import leads to, the shorter first;
4. parts of the files that did not fit, in the same order.

An eighth of the budget is kept for the files of which nothing fits: they are listed with the lines of their classes
and functions, or by name, or counted.  Parts of a file are its head, then what shares the rarest words with the idea; a
mark stands where lines are left out and says which.

Guaranteed: the same text for the same arguments; at most `budget` tokens, as far as the estimate holds (three bytes
of UTF-8 a token: code has more), but for one line that counts the files left out.
Not guaranteed: that the idea's words lead to the right parts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ideator_rl.implementers.code_parts import Part, definitions, distances, lines_of, parts
from ideator_rl.patch import Tree

BYTES_PER_TOKEN = 3
"""Code has three to four bytes a token in common vocabularies; three errs on the safe side."""
LISTING_SHARE = 8
"""One part in so many of the budget is kept for the list of what is not shown."""
MAX_NAMES = 12
"""Classes and functions named in one mark, or for one file in the list."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True)
class Shown:
    """The text for the prompt, and which file went where."""

    text: str
    whole: tuple[str, ...]
    partly: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """How a codebase is looked at."""

    command: tuple[str, ...]
    """What runs the experiment: arguments that are files of the codebase are always shown."""
    idea: str
    numbered: bool = False
    """Whether each line carries its number, as `12 | text`."""


def tokens(text: str) -> int:
    """How many tokens a text has at most, by estimate."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def shown_files(base: Tree, view: View, budget: int) -> Shown:
    """Choose what of a codebase is shown in `budget` tokens."""
    blocks = {path: _whole(path, text, view) for path, text in base.items()}
    if sum(map(tokens, blocks.values())) <= budget:
        return Shown("".join(blocks[path] for path in sorted(base)), tuple(sorted(base)), (), ())
    certain, others = _ordered(base, view)
    listing = max(budget // LISTING_SHARE, tokens(_counted(len(base), 0)))
    left = max(0, budget - listing)
    chosen: dict[str, str] = {}
    for done, path in enumerate(sorted(certain, key=lambda path: (tokens(blocks[path]), path))):
        share = left // (len(certain) - done)
        block = blocks[path] if tokens(blocks[path]) <= share else _excerpt(path, base[path], view, share)
        if block:
            chosen[path] = block
            left -= tokens(block)
    for path in others:
        if tokens(blocks[path]) <= left:
            chosen[path] = blocks[path]
            left -= tokens(blocks[path])
    for path in others:
        if path not in chosen and (block := _excerpt(path, base[path], view, left)):
            chosen[path] = block
            left -= tokens(block)
    rest = [path for path in (*certain, *others) if path not in chosen]
    text = "".join(chosen[path] for path in sorted(chosen)) + _listing(base, rest, left + listing)
    partly = tuple(sorted(path for path in chosen if chosen[path] != blocks[path]))
    return Shown(text, tuple(sorted(chosen.keys() - set(partly))), partly, tuple(rest))


def _ordered(base: Tree, view: View) -> tuple[list[str], list[str]]:
    """The files that are shown in any case, and the others, the nearest first."""
    run = [path for path in base if path in view.command or _module(path) in view.command]
    named = [path for path in base if _names(view.idea, path, base)]
    certain = list(dict.fromkeys((*run, *named)))
    away = distances(base, run)
    others = [path for path in base if path not in certain]
    return certain, sorted(others, key=lambda path: (away.get(path, len(base)), len(base[path]), path))


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__main__").replace("/", ".")


def _names(idea: str, path: str, base: Tree) -> bool:
    """Whether an idea names a file: by its path, or by its name where no other file has it."""
    name = path.rpartition("/")[2]
    unique = sum(other.rpartition("/")[2] == name for other in base) == 1
    return any(
        re.search(rf"(?<![\w./-]){re.escape(word)}(?![\w-])", idea) for word in {path, *([name] if unique else [])}
    )


def _whole(path: str, text: str, view: View) -> str:
    lines = lines_of(text)
    return _block(path, _body(lines, Part(1, len(lines)), view), f' lines="{len(lines)}"')


def _block(path: str, body: str, about: str) -> str:
    return f'<file path="{path}"{about}>\n{body}</file>\n'


def _body(lines: list[str], part: Part, view: View) -> str:
    chosen = lines[part.first - 1 : part.last]
    if not view.numbered:
        return "".join(f"{line}\n" for line in chosen)
    width = len(str(len(lines)))
    return "".join(f"{number:>{width}} | {line}\n" for number, line in enumerate(chosen, part.first))


def _excerpt(path: str, text: str, view: View, budget: int) -> str:
    """The file's head and the parts that are most related to the idea; empty if not even one part fits."""
    lines, all_parts = lines_of(text), parts(path, text)
    chosen: set[Part] = set()
    found, left = "", budget
    for part in _related(lines, all_parts, view.idea):
        size = tokens(_body(lines, part, view))
        if size > left:
            continue
        body = "".join(_with_marks(lines, all_parts, chosen | {part}, view))
        block = _block(path, body, f' lines="{len(lines)}" shown="in part"')
        if tokens(block) <= budget:
            chosen.add(part)
            found, left = block, left - size
    return found


def _related(lines: list[str], all_parts: tuple[Part, ...], idea: str) -> list[Part]:
    """The first part, then the others by the words that they share with the idea, a rare word counting for more."""
    wanted = _words(idea)
    shared = {part: wanted & _words("\n".join(lines[part.first - 1 : part.last])) for part in all_parts}
    spread = Counter(word for words in shared.values() for word in words)
    score = {part: sum(1 / spread[word] for word in words) for part, words in shared.items()}
    return [*all_parts[:1], *sorted(all_parts[1:], key=lambda part: (-score[part], part.first))]


@lru_cache(maxsize=4096)
def _words(text: str) -> frozenset[str]:
    """The words in a text, those inside of names too, of three letters or more."""
    return frozenset(word.lower() for word in _WORD.findall(text) if len(word) >= 3)


def _with_marks(lines: list[str], all_parts: tuple[Part, ...], chosen: set[Part], view: View) -> Iterator[str]:
    gap: list[Part] = []
    for part in all_parts:
        if part in chosen:
            yield _mark(gap)
            yield _body(lines, part, view)
            gap = []
        else:
            gap.append(part)
    yield _mark(gap)


def _mark(gap: list[Part]) -> str:
    if not gap:
        return ""
    names = list(dict.fromkeys(part.name for part in gap if part.name))
    holds = f", with {', '.join(_few(names))}," if names else ""
    return f"[lines {gap[0].first} to {gap[-1].last}{holds} are not shown here]\n"


def _few(names: list[str]) -> list[str]:
    return names if len(names) <= MAX_NAMES else [*names[:MAX_NAMES], f"{len(names) - MAX_NAMES} more"]


def _listing(base: Tree, rest: list[str], budget: int) -> str:
    """The files that are not shown: first all names, then for the nearest ones what stands in them."""
    if not rest:
        return ""
    lines: list[str] = []
    left = budget - tokens(_counted(len(rest), 0))
    for path in rest:
        line = f"{path} ({len(lines_of(base[path]))} lines)\n"
        if tokens(line) > left:
            break
        lines.append(line)
        left -= tokens(line)
    for index, path in enumerate(rest[: len(lines)]):
        inside = [f"{part.name} {part.first}-{part.last}" for part in definitions(path, base[path])]
        held = "; ".join(_few(inside))
        longer = f"{lines[index][:-1]}: {held}\n"
        if held and tokens(longer) - tokens(lines[index]) <= left:
            left -= tokens(longer) - tokens(lines[index])
            lines[index] = longer
    return _counted(len(rest), len(lines)) + "".join(lines)


def _counted(count: int, named: int) -> str:
    more = f"; {count - named} of them are not named" if named < count else ""
    return f"Files that are there too, but do not fit in here{more}:\n"
