"""Recipe files: one flat YAML of keys and values, with `--key value` overrides.

Returns plain values: types, ranges and unknown keys are checked by the configuration class.  A key given twice is
refused, since YAML would silently take the last one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ideator_rl._imports import shipped_folder
from ideator_rl.config.base import ConfigError


class RecipeError(ConfigError):
    """The recipe is not usable."""


def read_recipe(path: str, overrides: list[str] | None = None) -> dict[str, Any]:
    """Keys and values of a recipe file; those of the command line replace them.

    Args:
        path: a file, or the file name of a shipped recipe.
        overrides: `--key value`, `--key=value`, or `--key` for true.

    Raises:
        RecipeError: no such file, no mapping, a key twice, or overrides that are not `--key value`.
    """
    return {**_read(_find(path), path), **_parse_overrides(overrides or [])}


def _find(path: str) -> Path:
    if Path(path).is_file():
        return Path(path)
    folder = shipped_folder("recipes")
    if (folder / Path(path).name).is_file():
        return folder / Path(path).name
    names = sorted(file.name for file in folder.glob("*.yaml"))
    raise RecipeError(f"There is no recipe {path!r}. Give the path of a YAML file, or one of: {', '.join(names)}.")


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which YAML would silently take the last."""


def _construct_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if isinstance(key, list | dict | set):
            raise RecipeError(f"The recipe has the key {str(key)[:80]}. Expected a word as the key of a value.")
        if keys.count(key) > 1:
            raise RecipeError(f"The recipe has the key {key!r} twice. Keep one.")
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _read(file: Path, path: str) -> dict[str, Any]:
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} is not readable YAML: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"The recipe {path} must be a mapping of keys to values, got {type(raw).__name__}.")
    return {key: _parse_exponent(value) for key, value in raw.items()}


def _parse_exponent(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text; a number is meant."""
    try:
        return float(value) if isinstance(value, str) and "e" in value.lower() else value
    except ValueError:
        return value


def _parse_overrides(arguments: list[str]) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith("--"):
            raise RecipeError(f"Did not expect {argument!r}. Overrides are --key value or --key=value.")
        key, equals, value = argument[2:].partition("=")
        if not equals:
            value = remaining.pop(0) if remaining and not remaining[0].startswith("--") else "true"
        try:
            overrides[key.replace("-", "_")] = _parse_exponent(yaml.safe_load(value))
        except yaml.YAMLError:
            raise RecipeError(f"The value of --{key} is not readable YAML: {value!r}.") from None
    return overrides
