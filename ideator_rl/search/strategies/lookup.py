"""Search strategies by name, created with a recipe's options."""

from __future__ import annotations

from dataclasses import is_dataclass
from inspect import isclass
from typing import Any

from ideator_rl.archive import parents
from ideator_rl.config.base import check_options
from ideator_rl.errors import IdeatorError
from ideator_rl.registry import resolve
from ideator_rl.search.strategies.reuse import Reuse
from ideator_rl.search.strategies.strategy import SearchStrategy

BUILT_IN = {
    "best_of_n": "ideator_rl.search.strategies.best_of_n.BestOfN",
    "evolution": "ideator_rl.search.strategies.evolution.Evolution",
    "map_elites": "ideator_rl.search.strategies.map_elites.MapElites",
    **parents.BUILT_IN,
}


def get_search_strategy(name: str, options: dict[str, Any] | None = None) -> SearchStrategy:
    """A strategy by name, entry point of the group `ideator_rl.search_strategies`, or dotted path of a class.

    A class that only picks parents (`top_k`, `puct`, any prompt strategy) is wrapped in `Reuse`, which asks for ideas
    that improve on these parents; the option `free` is then the share of questions without parents.

    Raises:
        UnknownName: no strategy has this name.
        IdeatorError: the strategy does not take these options.
    """
    kind, options = resolve("search_strategies", name, BUILT_IN), dict(options or {})
    if isclass(kind) and issubclass(kind, SearchStrategy):
        return _create(name, kind, options)  # type: ignore[no-any-return]
    if not isclass(kind) or not issubclass(kind, parents.Strategy):
        raise IdeatorError(f"The strategy {name} is {kind!r}. Expected a class with the method `asks`, or `parents`.")
    # `free` belongs to the wrapper, all other options to the picker.
    share = {"free": options.pop("free")} if "free" in options else {}
    picker = _create(name, kind, options)
    _check_options(name, Reuse, share)
    return Reuse(picker, **share)


def _create(name: str, kind: Any, options: dict[str, Any]) -> Any:
    _check_options(name, kind, options)
    return parents.create(name, kind, options)


def _check_options(name: str, kind: Any, options: dict[str, Any]) -> None:
    if is_dataclass(kind):
        check_options(kind, options, f"The strategy {name} has")  # type: ignore[arg-type]
