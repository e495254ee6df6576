"""Recipe files: one flat YAML, `--key value` overrides, and keys and types that are checked before anything is done.

Guarantees: an unknown key is named with the nearest valid one, a value of a wrong type with the type that was expected,
a key that stands twice is refused.  What the keys mean is known to who reads the recipe: training, or a search.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ideator_rl._imports import shipped_folder
from ideator_rl.errors import IdeatorError

Types = tuple[str, ...]
"""Names of plain types that a key takes, such as ("int", "NoneType"); empty for a key that takes anything."""


class RecipeError(IdeatorError):
    """The recipe is not usable as it stands."""


def read_recipe(path: str, overrides: list[str] | None = None) -> dict[str, Any]:
    """A recipe file's keys and values, those of the command line over them.

    Raises:
        RecipeError: no such file, no mapping, a key twice, or overrides that are not `--key value`.
    """
    return {**_read(_find(path), path), **_overrides(overrides or [])}


def check_keys(raw: dict[str, Any], known: Mapping[str, Types], path: str, whose: str) -> None:
    """Hold a recipe against the keys there are; a single name is put in a list where one is expected, and a whole
    number becomes a float.

    Args:
        whose: which keys a recipe of this kind takes, for the error.

    Raises:
        RecipeError: an unknown key or a wrong type.
    """
    for key, value in raw.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else whose
            raise RecipeError(f"The recipe {path} has the unknown key {key!r}. {hint}")
        if isinstance(value, str) and "list" in known[key] and "str" not in known[key]:
            raw[key] = value = [value]  # one name where several may stand
        if not fits(value, known[key]):
            raise RecipeError(f"The recipe {path} has {key}: {value!r}. Expected {spelled(known[key])}.")
        if "float" in known[key] and type(value) is int:
            try:
                raw[key] = float(value)
            except OverflowError:
                raise RecipeError(f"The recipe {path} has a {key} that is too large. Expected a number.") from None


def keys_of(config: type) -> dict[str, Types]:
    """The keys of a dataclass, with the types they take."""
    return {key: _names_of(hint) for key, hint in typing.get_type_hints(config).items()}


def fits(value: Any, wanted: Types) -> bool:
    """Whether a value from YAML is of one of these types; a whole number serves as a float."""
    given = type(value).__name__
    return not wanted or given in wanted or (given == "int" and "float" in wanted)


def spelled(wanted: Types) -> str:
    """Types as a reader of YAML calls them."""
    words = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "NoneType": "null"}
    return " or ".join(words.get(name, {"dict": "a mapping", "list": "a list"}.get(name, name)) for name in wanted)


def _names_of(hint: Any) -> Types:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple((typing.get_origin(option) or option).__name__ for option in options)


def _find(path: str) -> Path:
    """The file itself, or one of the shipped recipes by its file name."""
    if Path(path).is_file():
        return Path(path)
    folder = shipped_folder("recipes")
    if (folder / Path(path).name).is_file():
        return folder / Path(path).name
    names = sorted(file.name for file in folder.glob("*.yaml"))
    raise RecipeError(f"There is no recipe {path!r}. Give the path of a YAML file, or one of: {', '.join(names)}.")


class _OnceLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which YAML would silently take the last."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if isinstance(key, list | dict | set):
            raise RecipeError(
                f"The recipe has the key {str(key)[:80]}. Expected a word; what stands for a value goes after it."
            )
        if keys.count(key) > 1:
            raise RecipeError(f"The key {key!r} stands twice in the recipe. Keep one.")
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


_OnceLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read(file: Path, path: str) -> dict[str, Any]:
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), _OnceLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} is not readable YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"The recipe {path} must be a mapping of keys to values, got {type(raw).__name__}.")
    return {key: _number(value) for key, value in raw.items()}


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text; everybody means the number."""
    try:
        return float(value) if isinstance(value, str) and "e" in value.lower() else value
    except ValueError:
        return value


def _overrides(words: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise RecipeError(f"Did not expect {word!r}. Overrides are --key value or --key=value.")
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        try:
            out[key.replace("-", "_")] = _number(yaml.safe_load(value))
        except yaml.YAMLError:
            raise RecipeError(f"The value of --{key} is not readable YAML: {value!r}.") from None
    return out
