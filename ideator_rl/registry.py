"""Names become things: a built-in name, a dotted path `package.module.attribute`, or an entry point of any package.

Groups: `ideator_rl.` and `rewards`, `environments`, `backends`, `implementers`, `ideators`, `strategies`,
`search_strategies`, `advantages` or `embedders`.  This is the only module of the core that reaches into `rewards/` and
`envs/`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError


class UnknownName(IdeatorError):
    """Nothing is registered under this name."""


def resolve(group: str, name: str, built_in: Mapping[str, str] | None = None) -> Any:
    """The object behind a name of a group (`rewards`, `backends`, …).

    Args:
        built_in: names of ours, with their dotted paths.

    Raises:
        UnknownName: no entry point and no importable dotted path; the nearest known name is given.
    """
    built_in = built_in or {}
    points = {point.name: point for point in entry_points(group=f"ideator_rl.{group}")}
    if name in points and name not in built_in:
        return points[name].load()
    if "." in (path := built_in.get(name, name)):
        return _dotted(group, path)
    known = sorted({*points, *built_in})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known) or 'none'}."
    raise UnknownName(f"There is no {group} named {name!r}. {hint} A dotted path package.module.attribute works too.")


def resolve_reward(name: str) -> Any:
    """A reward function by name or dotted path."""
    return resolve("rewards", name)


def _dotted(group: str, name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UnknownName(
            f"{name!r} ({group}) cannot be imported: {error}. Install its package, or add its folder to PYTHONPATH."
        ) from error
    except AttributeError as error:
        raise UnknownName(f"{name!r} ({group}): the module {module} has no {attribute!r}.") from error


def environment_folder(name_or_path: str) -> Path | None:
    """The folder of an environment: a path that holds an env.yaml, a built-in name, or an entry point."""
    path = Path(name_or_path).expanduser()
    if ("/" in name_or_path or name_or_path.startswith(".")) and path.is_dir():
        return path.resolve()
    built_in = _built_in_folder()
    if built_in is not None and (built_in / name_or_path / "env.yaml").is_file():
        return built_in / name_or_path
    for point in entry_points(group="ideator_rl.environments"):
        if point.name == name_or_path:
            return Path(str(point.load())).resolve()
    return None


def environment_names() -> list[str]:
    """Every environment that can be loaded by name."""
    built_in = _built_in_folder()
    folders = [p.parent.name for p in built_in.glob("*/env.yaml")] if built_in else []
    return sorted({*folders, *(point.name for point in entry_points(group="ideator_rl.environments"))})


def _built_in_folder() -> Path | None:
    spec = importlib.util.find_spec("envs")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
