"""Recipe files: one flat YAML of keys and values, with `--key value` overrides; `--key.inner value` sets one value of a
mapping.

Returns values by the type of their key; ranges and unknown keys are checked by the configuration class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ideator_rl._imports import shipped_folder
from ideator_rl.config.base import ConfigError, use_words
from ideator_rl.config.reader import read_text
from ideator_rl.config.suggest import did_you_mean
from ideator_rl.config.yaml_reader import parse_words, parse_yaml, read_yaml
from ideator_rl.text.redaction import refuse_secrets


class RecipeError(ConfigError):
    """The recipe is not usable."""


def read_recipe(path: str, kind: Any, overrides: list[str] | None = None) -> dict[str, Any]:
    """Keys and values of a recipe file; those of the command line replace them.

    Args:
        path: a file, or the name of a shipped recipe: `quickstart`, `quickstart.yaml` or `recipes/quickstart.yaml`.
        kind: the configuration class, whose keys decide whether `no` or `007` is text.
        overrides: `--key value`, `--key=value`, or `--key` for true; `--key.inner value` for one value of a mapping.

    Raises:
        RecipeError: no such file, no mapping, a key twice, or overrides that are not `--key value`.
    """
    lead = f"The recipe {path}"
    values, words = parse_words(read_text(_find(path), lead, RecipeError), lead, RecipeError)
    if not isinstance(values, dict):
        raise RecipeError(f"{lead} must be a mapping of keys to values, got {type(values).__name__}.")
    arguments = _parse_overrides(overrides or [])
    overriding = {key: _parse_argument(key, text) for key, text in arguments.items()}
    # Settings belong to one backend: another one of the command line does not get them.
    if overriding.get("backend", values.get("backend")) != values.get("backend"):
        values.pop("backend_config", None)
    for key, value in overriding.items():
        _override(values, key, value)
    values = use_words(kind, values, words | arguments)
    refuse_secrets(values, f"{lead} has", RecipeError)
    return values


def read_saved(file: Path) -> dict[str, Any]:
    """The recipe that a run's folder stores.

    Raises:
        RecipeError: it is no mapping, so that a run cannot be compared with it.
    """
    name = f"The recipe {file} of the run"
    values = read_yaml(file, name, RecipeError)
    if not isinstance(values, dict):
        raise RecipeError(f"{name} is damaged: it is no mapping. Write the run's keys there again, or start a new run.")
    return values


def _find(path: str) -> Path:
    file, folder = Path(path), shipped_folder("recipes")
    # A path that exists and is no file, such as a pipe, gets its own message when it is read.
    try:
        if file.exists() and not (file.is_dir() and file.name == path):
            return file
    except (OSError, ValueError) as error:
        raise RecipeError(f"There is no recipe {path[:200]!r} ({error}). Give the path of a YAML file.") from None
    shipped = {recipe.stem: recipe for recipe in folder.glob("*.yaml")}
    name = file.name.removesuffix(".yaml")
    # Not for any path with this name: a misspelled folder must not run another recipe than the user's own.
    if name in shipped and str(file.parent) in (".", folder.name):
        return shipped[name]
    if file.exists():
        return file
    hint = did_you_mean(name, sorted(shipped))
    raise RecipeError(
        f"There is no recipe {path!r}. {hint} Give the path of a YAML file, or the name of a shipped recipe."
    )


def _parse_argument(key: str, text: str) -> Any:
    return parse_yaml(text, f"The value of --{key}, {text[:80]!r},", RecipeError)


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value, at any depth of mappings for a key with dots.

    Raises:
        RecipeError: what a part of the key names holds a value that is no mapping.
    """
    *parts, last = key.split(".")
    target = values
    for count, part in enumerate(parts, 1):
        inner = target.get(part)
        if inner is not None and not isinstance(inner, dict):
            name = ".".join(parts[:count])
            raise RecipeError(
                f"--{key}: expected {name} to be a mapping, got {inner!r}. Give --{name} a mapping first."
            )
        # A copy: YAML anchors may use one mapping for several keys.
        target[part] = target = dict(inner or {})
    target[last] = value


def _parse_overrides(arguments: list[str]) -> dict[str, str]:
    """The text of each key; the last one counts, as in argparse."""
    overrides: dict[str, str] = {}
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if not argument.startswith("--"):
            raise RecipeError(f"Did not expect {argument!r}. Overrides are --key value or --key=value.")
        key, equals, value = argument[2:].partition("=")
        if not equals:
            value = remaining.pop(0) if remaining and not remaining[0].startswith("--") else "true"
        key, dot, inner = key.partition(".")
        name = key.replace("-", "_") + dot + inner
        # Moved to the end: `--a.b 1 --a '{}' --a.b 2` sets 2.
        overrides.pop(name, None)
        overrides[name] = value
    return overrides
