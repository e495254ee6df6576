"""Names of plugins and what they refer to: a built-in name, a dotted path, or an entry point of an installed package.

Groups: `ideator_rl.` and `rewards`, `environments`, `backends`, `implementers`, `ideators`, `strategies`,
`search_strategies`, `advantages`, `embedders` or `predictors`.  Built-ins need no installed entry point, and no
`sys.path`: the folders `rewards/` and `envs/` of this distribution are reached through `_imports` only.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from ideator_rl._imports import PACKAGE, SHIPPED, import_own, is_shadowed, shipped_folder
from ideator_rl.config.suggest import did_you_mean
from ideator_rl.errors import IdeatorError


class UnknownName(IdeatorError):
    """No plugin is registered under this name."""


class PluginError(IdeatorError):
    """The code of a plugin raised an error, or is not what its group expects."""


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
        with plugin_code(f"The {group} {name!r}, an entry point of an installed package,"):
            return points[name].load()
    if "." in (path := built_in.get(name, name)):
        return _import_attribute(group, path)
    registered = registered_names(group, built_in)
    hint = did_you_mean(name, registered)
    raise UnknownName(
        f"None of the {group.replace('_', ' ')} is named {name!r}. {hint} "
        "A dotted path package.module.attribute works too."
    )


def registered_names(group: str, built_in: Mapping[str, str]) -> list[str]:
    """The names of a group, those of entry points included, sorted."""
    return sorted({*_entry_points(group), *built_in})


def resolve_reward(name: str) -> Any:
    """Return a reward function by name or dotted path.

    Raises:
        UnknownName: as `resolve`.
        PluginError: what has the name cannot be called as a reward function.
    """
    function = resolve("rewards", name, built_in_rewards())
    expected = (
        "Expected a function such as f(prompts, completions, **columns) that returns a reward for each completion"
    )
    if not callable(function) or inspect.isclass(function):
        raise PluginError(f"The reward {name!r} is {_kind(function)}. {expected}.")
    try:
        # As TRL calls it, with columns of the dataset in addition.
        inspect.signature(function).bind(prompts=None, completions=None, completion_ids=None, trainer_state=None)
    except (TypeError, ValueError) as error:
        raise PluginError(f"The reward {name!r} cannot be called as one: {error}. {expected}.") from None
    return function


def require_members(group: str, name: str, plugin: Any, *members: str) -> None:
    """
    Raises:
        PluginError: a plugin lacks a method of its group.  Nothing of the plugin is called.
    """
    if missing := [member for member in members if not callable(getattr(plugin, member, None))]:
        raise PluginError(
            f"{name!r} is {_kind(plugin)} without {' and '.join(missing)}. Expected a class for {group} with "
            f"{' and '.join(f'`{member}`' for member in members)}."
        )


@contextmanager
def plugin_code(subject: str) -> Iterator[None]:
    """Turns what the code of a plugin raises inside the block into one sentence with its file and line.

    Raises:
        PluginError: for any error but an `IdeatorError`, which is a sentence already.
    """
    try:
        yield
    except IdeatorError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{subject} failed: {error_line(error)}. Correct it there.") from error


def error_line(error: BaseException) -> str:
    """The kind and text of an error, and the file and line of the code that raised it."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if not frame.filename.startswith((sys.base_prefix, str(Path(__file__).parent)))]
    place = f" ({own[-1].filename}, line {own[-1].lineno}: {own[-1].line})" if own else ""
    return f"{type(error).__name__}: {text}{place}"


def _kind(plugin: Any) -> str:
    article = "the class" if inspect.isclass(plugin) else "of the type"
    return f"{article} {plugin.__name__ if inspect.isclass(plugin) else type(plugin).__name__}"


def built_in_rewards() -> dict[str, str]:
    """Names of the shipped reward functions, with their dotted paths."""
    table: dict[str, str] = importlib.import_module(f"{PACKAGE}.rewards").BUILT_IN
    return {name: f"{PACKAGE}.rewards.{path}" for name, path in table.items()}


def environment_folder(name_or_path: str) -> Path | None:
    """Return the folder of an environment: a path that holds an env.yaml, a built-in name, or an entry point."""
    path = Path(name_or_path).expanduser()
    if ("/" in name_or_path or name_or_path.startswith(".")) and path.is_dir():
        return path.resolve()
    if path.name == "env.yaml" and path.is_file():
        return path.resolve().parent
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
    top = module.partition(".")[0]
    _refuse_standard_library(group, path, top)
    try:
        with plugin_code(f"The import of {path!r} ({group})"):
            loaded = import_own(module)
    except PluginError as error:
        cause = error.__cause__
        # Whether the module is missing, or one that it imports: the first error's text names it.
        if not isinstance(cause, ModuleNotFoundError):
            raise
        _refuse_shadowed(group, path, top, error)
        raise UnknownName(
            f"{path!r} ({group}) cannot be imported: {cause}. Install its package, or add its folder to PYTHONPATH."
        ) from cause
    try:
        return getattr(loaded, attribute)
    except AttributeError as error:
        _refuse_shadowed(group, path, top, error)
        where = f" in {loaded.__file__}" if getattr(loaded, "__file__", None) else ""
        raise UnknownName(
            f"{path!r} ({group}): the module {module}{where} has no {attribute!r}. A library's module comes before one "
            "of the working directory."
        ) from error


def _refuse_standard_library(group: str, path: str, top: str) -> None:
    """Refuse `os.system` and the like: a module of the user that has such a name is found and taken.

    Raises:
        UnknownName: the name is of Python's own library.  Nothing is imported.
    """
    if top not in sys.stdlib_module_names:
        return
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    origin = (spec.origin or "") if spec is not None else ""
    library = Path(importlib.__file__).parents[1]
    if not origin.endswith(".py") or library in Path(origin).parents and "site-packages" not in origin:
        raise UnknownName(
            f"{path!r} is part of Python's own library, and none of {group}. Expected a name, or a dotted path "
            "package.module.attribute of yours."
        )


def _refuse_shadowed(group: str, path: str, top: str, error: Exception) -> None:
    """
    Raises:
        UnknownName: a module of the user hides one of the shipped folders.
    """
    if top in SHIPPED and is_shadowed(top):
        # The user's own `rewards.py` or `envs/` comes first on sys.path, and does not hold this module.
        raise UnknownName(
            f"{path!r} ({group}) cannot be imported: a module {top!r} of your own hides the one of ideator_rl. "
            f"Write {PACKAGE}.{path} for ours; for yours, check its path."
        ) from error
