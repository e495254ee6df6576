"""Search strategies by name, made with a recipe's options, which are checked against what the strategy takes."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from ideator_rl.archive import parents
from ideator_rl.config import base
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

    A class that only picks parents (`top_k`, `puct`, a prompt strategy of anybody's) asks for ideas that improve on
    them; `free` among its options is then the share of questions without any.

    Raises:
        UnknownName: nothing is known by that name.
        IdeatorError: it does not take these options.
    """
    made, given = resolve("search_strategies", name, BUILT_IN), dict(options or {})
    if hasattr(made, "asks"):
        return _made(name, made, given)  # type: ignore[no-any-return]
    if not hasattr(made, "parents"):
        raise IdeatorError(f"The strategy {name} is {made!r}. Expected a class with the method `asks`, or `parents`.")
    share = {"free": given.pop("free")} if "free" in given else {}
    picker = _made(name, made, given)
    check_options(name, Reuse, share)
    return Reuse(picker, **share)


def check_options(name: str, made: Any, options: dict[str, Any]) -> None:
    """
    Raises:
        IdeatorError: the class is a dataclass and has no such field, or takes another type there.
    """
    if is_dataclass(made):
        base.check_options(made, options, f"The strategy {name} has")  # type: ignore[arg-type]


def _made(name: str, made: Any, options: dict[str, Any]) -> Any:
    check_options(name, made, options)
    try:
        return made(**options)
    except TypeError as error:
        raise IdeatorError(
            f"The strategy {name} cannot be made with {', '.join(options) or 'no options'}: {error}. Expected a class "
            "that takes these by name."
        ) from error
