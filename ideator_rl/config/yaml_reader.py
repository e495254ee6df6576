"""The reader of all YAML that people write: recipes, overrides, manifests, settings, catalogues.

A subset of YAML with the meaning that a reader expects: a key once, no tags, aliases only up to a size, and numbers as
in YAML 1.2: `1e-3` is a number; `007`, `12:30` and dates are text.  `yes`, `no`, `on` and `off` stay true and false, as
TRL's recipes use them; `parse_words` also gives the words as written, for keys that take text.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from ideator_rl.config.reader import MAX_DEPTH, MAX_DIGITS, ReadError, decode, quoted, read_text
from ideator_rl.errors import IdeatorError

MAX_NODES = 10_000
"""Keys and values of a file, those of every alias counted each time."""
MAX_CHARACTERS = 4 << 20
"""Characters of all keys and values, those of every alias counted each time."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""No path and no UTF-8 file can hold these, and quoted text may spell them."""
_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)


def read_yaml(path: Path | str, name: str = "", error: type[IdeatorError] = ReadError) -> Any:
    """The value in a YAML file.

    Args:
        name: how a message begins, such as `The recipe r.yaml`; the path by default.

    Raises:
        error: as `reader.read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path, name, error), name or str(path), error)


def parse_yaml(text: str | bytes, name: str, error: type[IdeatorError] = ReadError) -> Any:
    """The value in a YAML text; None for an empty one.

    Raises:
        error: no YAML, or more than this module's limits, with the line.
    """
    return parse_words(text, name, error)[0]


def parse_words(text: str | bytes, name: str, error: type[IdeatorError] = ReadError) -> tuple[Any, dict[str, str]]:
    """The value in a YAML text, and the words of its top level's unquoted values as written, by key.

    Raises:
        error: as `parse_yaml`.
    """
    text = decode(text, name, error) if isinstance(text, bytes) else text
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
    except _Refused as problem:
        raise error(f"{name}{_line(problem.node)} has {problem}") from None
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise error(f"{name} is not readable YAML: {place}{problem.problem or problem.context}. Correct it.") from None
    except (yaml.YAMLError, ValueError, OverflowError) as problem:
        raise error(f"{name} is not readable YAML: {' '.join(str(problem).split())[:200]}. Correct it.") from None
    finally:
        if loader is not None:
            loader.dispose()
    words: dict[str, str] = {}
    if isinstance(node, yaml.MappingNode):
        words = {
            key.value: item.value for key, item in node.value if isinstance(item, yaml.ScalarNode) and not item.style
        }
    return value, words


def dump_yaml(value: Any) -> str:
    """YAML that `parse_yaml` reads as the same value, in the order of its keys."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Refused(Exception):
    """Valid YAML that is not read here."""

    def __init__(self, message: str, node: Any):
        super().__init__(message)
        self.node = node


class _Loader(yaml.SafeLoader):
    """Counts what it composes: a file of a hundred bytes may stand for a billion values."""

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0
        self._nodes = 0
        self._characters = 0
        self._sizes: dict[str, tuple[int, int]] = {}
        """Nodes and characters of each anchor whose value is complete."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            # An anchor without a size is not complete: its value would hold itself.
            if event.anchor in self.anchors and event.anchor not in self._sizes:
                raise _Refused(f"the alias *{event.anchor} inside its own value. Write the value out.", event)
            self._count(*self._sizes.get(event.anchor or "", (0, 0)), event)
            return super().compose_node(parent, index)
        if getattr(event, "tag", None) not in (None, "!", *(_TAG + kind for kind in ("str", "int", "float", "bool"))):
            raise _Refused(f"the tag {quoted(event.tag)}. Write the value without it.", event)
        nodes, characters = self._nodes, self._characters
        text = event.value if isinstance(event, yaml.ScalarEvent) else ""
        if _UNSTORABLE.search(text):
            raise _Refused(f"{quoted(text)}. Expected text without NUL and without half a surrogate pair.", event)
        self._count(1, len(text), event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Refused(f"more than {MAX_DEPTH} levels of nesting. Expected fewer.", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._nodes - nodes, self._characters - characters
        return node

    def _count(self, nodes: int, characters: int, event: Any) -> None:
        self._nodes += nodes
        self._characters += characters
        if self._nodes > MAX_NODES:
            raise _Refused(f"more than {MAX_NODES} values, aliases expanded. Expected fewer.", event)
        if self._characters > MAX_CHARACTERS:
            raise _Refused(f"more than {MAX_CHARACTERS} characters, aliases expanded. Expected fewer.", event)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping by the words of its keys, so that `no: 1` has the key `no`."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused("a list or mapping as a key. Expected a word as the key of a value.", key)
            if key.value in lines and key.tag != _TAG + "merge":
                where = f" (lines {lines[key.value]} and {key.start_mark.line + 1})"
                raise _Refused(f"the key {quoted(key.value)} twice{where}. Keep one.", None)
            lines[key.value] = key.start_mark.line + 1
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}

    def construct_whole(self, node: Any) -> int:
        if len(node.value) > MAX_DIGITS:
            raise _Refused(f"a number of {len(node.value)} digits. Expected at most {MAX_DIGITS}.", node)
        if not _INTEGER.match(node.value):
            raise _Refused(f"{quoted(node.value)}. Expected a whole number.", node)
        return int(node.value, 0) if node.value.strip("+-")[:2] in ("0x", "0b") else int(node.value)

    def construct_decimal(self, node: Any) -> float:
        text = node.value.replace("_", "").lower()
        try:
            number = float(text.replace(".inf", "inf").replace(".nan", "nan")) if len(text) <= MAX_DIGITS else math.inf
        except ValueError:
            raise _Refused(f"{quoted(node.value)}. Expected a number.", node) from None
        if not math.isfinite(number):
            raise _Refused(f"{quoted(node.value)}. Expected a finite number of at most {MAX_DIGITS} digits.", node)
        return number


def _line(node: Any) -> str:
    return "" if node is None else f", line {node.start_mark.line + 1},"


def _resolvers(kept: dict[str, Any], plain: bool) -> dict[str, Any]:
    """Which unquoted words are no text, by first character: as in YAML 1.1 without its dates and base 60."""
    numbers = (_TAG + "int", _INTEGER), (_TAG + "float", _FLOAT)
    table = {
        first: [(tag, pattern) for tag, pattern in items if tag.removeprefix(_TAG) in ("bool", "null", "merge")]
        for first, items in kept.items()
    }
    # A writer also keeps YAML 1.1's own patterns: other programs read what it writes.
    if not plain:
        table = {first: list(items) for first, items in kept.items()}
    for first in "-+.0123456789":
        table[first] = [*table.get(first, []), *numbers]
    return table


_Loader.yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers, plain=True)
_Loader.add_constructor(_TAG + "int", _Loader.construct_whole)
_Loader.add_constructor(_TAG + "float", _Loader.construct_decimal)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would read as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers, plain=False)
