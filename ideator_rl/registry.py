"""Names of plugins and what they refer to: a built-in name, a dotted path, or an entry point of an installed package.

Groups: `ideator_rl.` and `rewards`, `environments`, `backends`, `implementers`, `ideators`, `strategies`,
`search_strategies`, `advantages` or `embedders`.  Built-ins need no installed entry point, and no `sys.path`: the
folders `rewards/` and `envs/` of this distribution are reached through `_imports` only.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from ideator_rl._imports import PACKAGE, SHIPPED, is_shadowed, shipped_folder
from ideator_rl.config.suggest import did_you_mean
from ideator_rl.errors import IdeatorError


class UnknownName(IdeatorError):
    """No plugin is registered under this name."""


def resolve(group: str, name: str, built_in: Mapping[str, str] | None = None) -> Any:
    """Return the object that a name of a group refers to.

    Args:
        group: `rewards`, `backends`, … without the prefix `ideator_rl.`.
        built_in: names of this library, with their dotted paths.  They come before entry points.

    Raises:
        UnknownName: no entry point has this name, and it is no importable dotted path.  The message gives the
            nearest registered name.
    """
    built_in = built_in or {}
    points = _entry_points(group)
    if name in points and name not in built_in:
        return points[name].load()
    if "." in (path := built_in.get(name, name)):
        return _import_attribute(group, path)
    registered = registered_names(group, built_in)
    hint = did_you_mean(name, registered)
    raise UnknownName(f"There is no {group} named {name!r}. {hint} A dotted path package.module.attribute works too.")


def registered_names(group: str, built_in: Mapping[str, str]) -> list[str]:
    """The names of a group, those of entry points included, sorted."""
    return sorted({*_entry_points(group), *built_in})


def resolve_reward(name: str) -> Any:
    """Return a reward function by name or dotted path.

    Raises:
        UnknownName: as `resolve`.
    """
    return resolve("rewards", name, built_in_rewards())


def built_in_rewards() -> dict[str, str]:
    """Names of the shipped reward functions, with their dotted paths."""
    table: dict[str, str] = importlib.import_module(f"{PACKAGE}.rewards").BUILT_IN
    return {name: f"{PACKAGE}.rewards.{path}" for name, path in table.items()}


def environment_folder(name_or_path: str) -> Path | None:
    """Return the folder of an environment: a path that holds an env.yaml, a built-in name, or an entry point."""
    path = Path(name_or_path).expanduser()
    if ("/" in name_or_path or name_or_path.startswith(".")) and path.is_dir():
        return path.resolve()
    built_in = shipped_folder("envs") / name_or_path
    if (built_in / "env.yaml").is_file():
        return built_in
    point = _entry_points("environments").get(name_or_path)
    return Path(str(point.load())).resolve() if point else None


def environment_names() -> list[str]:
    """Every environment that can be loaded by name."""
    built_in = (path.parent.name for path in shipped_folder("envs").glob("*/env.yaml"))
    return sorted({*built_in, *_entry_points("environments")})


def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"{PACKAGE}.{group}")}


def _import_attribute(group: str, path: str) -> Any:
    module, _, attribute = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        top = module.partition(".")[0]
        if top in SHIPPED and is_shadowed(top):
            # The user's own `rewards.py` or `envs/` comes first on sys.path, and does not hold this module.
            raise UnknownName(
                f"{path!r} ({group}) cannot be imported: a module {top!r} of your own hides the one of ideator_rl. "
                f"Write {PACKAGE}.{path} for ours; for yours, check its path."
            ) from error
        if isinstance(error, AttributeError):
            raise UnknownName(f"{path!r} ({group}): the module {module} has no {attribute!r}.") from error
        raise UnknownName(
            f"{path!r} ({group}) cannot be imported: {error}. Install its package, or add its folder to PYTHONPATH."
        ) from error
