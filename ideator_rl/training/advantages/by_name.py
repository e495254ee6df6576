"""From a name and options to an advantage; a wrong name or option is refused here, before a run starts.

An advantage of your own is a function `f(rewards_PG, facts, **options) -> advantages_PG`, named by its dotted path or
by an entry point of the group `ideator_rl.advantages`.  The recipe's `advantage_options` are its keyword arguments.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, create_model

from ideator_rl.config.base import Expected, Flag, Fraction, Integer, Positive, read_config
from ideator_rl.config.suggest import did_you_mean
from ideator_rl.registry import UnknownName, resolve
from ideator_rl.training.advantages.best_of_k import anneal, max_at_k
from ideator_rl.training.advantages.entropic import entropic
from ideator_rl.training.advantages.facts import Advantage, AdvantageError, Facts, present
from ideator_rl.training.advantages.group_mean import dr_grpo, grpo, loo
from ideator_rl.training.recipe.keys import AGGREGATION, TRL_SCALES

ADVANTAGES: dict[str, Callable[..., torch.Tensor]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "loo": loo,
    "max_at_k": max_at_k,
    "entropic": entropic,
    "anneal": anneal,
}
_OPTIONS: dict[str, Any] = {
    "k": Annotated[Integer, Field(ge=2), Expected("a whole number of at least 2 (k = 1 is the advantage 'loo')")],
    "center": Flag,
    "scale": Flag,
    "gamma": Annotated[Positive, Expected("a number of nats above 0")],
    "clip": Positive,
    "beta_max": Positive,
    "start": Annotated[Fraction, Expected("a share of the training, 0 to 1")],
    "end": Annotated[Fraction, Expected("a share of the training, 0 to 1")],
}
"""Type and range by option.  An option means the same in every advantage that has it."""


def make_advantage(name: str, options: dict[str, Any] | None = None, group_size: int | None = None) -> Advantage:
    """The advantage of this name with these options; an option that is None has its default.

    Args:
        group_size: completions a group, to refuse an option that it cannot fulfil; None if it is unknown.

    Raises:
        UnknownName: no built-in, no entry point, and no importable dotted path of this name.
        AdvantageError: an unknown option, one out of range, or a function that cannot be called with them.
    """
    options = {key: value for key, value in (options or {}).items() if value is not None}
    if group_size is not None and group_size < 2:
        raise AdvantageError(f"A group of {group_size} has nothing to compare a completion with; give it at least 2.")
    if name in ADVANTAGES:
        _check_options(name, options, group_size)
        function = ADVANTAGES[name]
    else:
        function = _import_own(name, options)
    return functools.partial(_checked, name, functools.partial(function, **options))


def _check_options(name: str, options: dict[str, Any], group_size: int | None) -> None:
    # The signature lists the options of an advantage; `_OPTIONS` has their types and ranges.
    parameters = inspect.signature(ADVANTAGES[name]).parameters.values()
    known_options = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    takes = {option: (_OPTIONS[option], None) for option in known_options}
    rules = ConfigDict(extra="forbid")
    model = create_model("AdvantageOptions", __config__=rules, **takes)  # type: ignore[call-overload]
    read_config(model, options, f"The advantage {name!r} has", AdvantageError)
    if group_size is not None and options.get("k", 0) > group_size:
        raise AdvantageError(
            f"The advantage {name!r} has k: {options['k']}, but a group has {group_size} completions; "
            "lower k or raise num_generations."
        )
    # Only `anneal` has these two; the defaults never clash.
    start, end = options.get("start", 0.0), options.get("end", 1.0)
    if start >= end:
        raise AdvantageError(f"The advantage {name!r} has start: {start} and end: {end}; start must come before end.")


def _import_own(name: str, options: dict[str, Any]) -> Callable[..., torch.Tensor]:
    """A function of the user, which must take the rewards, the facts, and the options."""
    try:
        function = resolve("advantages", name)
    except UnknownName as error:
        # A dotted path has an error of its own, which names what could not be imported.
        if "." in name:
            raise
        raise UnknownName(
            f"There is no advantage named {name!r}. {did_you_mean(name, ADVANTAGES)} "
            "A dotted path package.module.attribute works too."
        ) from error
    if not callable(function):
        raise AdvantageError(f"The advantage {name!r} is a {type(function).__name__}; expected a function.")
    try:
        # A call that cannot work is refused before any experiment is paid for.
        inspect.signature(function).bind(None, None, **options)
    except (TypeError, ValueError) as error:
        raise AdvantageError(
            f"The advantage {name!r} cannot be called as f(rewards_PG, facts{''.join(f', {k}=…' for k in options)}): "
            f"{error}."
        ) from error
    return function  # type: ignore[no-any-return]


def _checked(name: str, advantage: Advantage, rewards_PG: torch.Tensor, facts: Facts) -> torch.Tensor:
    """Call an advantage, built-in or the user's own, and check its contract.

    Raises:
        AdvantageError: shapes that do not fit, an infinite reward, or an advantage that is not a finite number.
    """
    for field, tensor in (("success_PG", facts.success_PG), ("cell_PG", facts.cell_PG)):
        if rewards_PG.ndim != 2 or tensor.shape != rewards_PG.shape:
            raise AdvantageError(
                f"Rewards of shape {tuple(rewards_PG.shape)} came with a {field} of shape {tuple(tensor.shape)}; "
                "expected one shape, groups by completions."
            )
    if torch.isinf(rewards_PG).any():
        raise AdvantageError("A reward is infinite; a reward function must return a finite number, or None.")
    values_PG = advantage(rewards_PG, facts)
    if not isinstance(values_PG, torch.Tensor) or values_PG.shape != rewards_PG.shape:
        got = tuple(values_PG.shape) if isinstance(values_PG, torch.Tensor) else type(values_PG).__name__
        raise AdvantageError(
            f"The advantage {name!r} returned {got}; expected a tensor of shape {tuple(rewards_PG.shape)}."
        )
    # Missing rows, and groups with nothing to compare, must not move the policy whatever the function returned.
    present_PG, count_P1 = present(rewards_PG)
    values_PG = values_PG.float().masked_fill(~present_PG | (count_P1 < 2), 0.0)
    if not torch.isfinite(values_PG).all():
        raise AdvantageError(f"The advantage {name!r} returned a value that is not finite for a row that has a reward.")
    return values_PG


def advantage_of_trl(args: Any) -> Advantage:
    """The advantage that the keys of TRL's GRPOConfig ask for.

    Raises:
        AdvantageError: there is no such advantage here.
    """
    if args.multi_objective_aggregation != AGGREGATION:
        raise AdvantageError(
            f"multi_objective_aggregation is {args.multi_objective_aggregation!r}; expected {AGGREGATION}: "
            "rewards are summed, then compared within their group."
        )
    scale = {True: "group", False: "none"}.get(args.scale_rewards, args.scale_rewards)
    if scale not in TRL_SCALES:
        raise AdvantageError(f"scale_rewards is {scale!r}; expected group or none, or an `advantage` in its place.")
    return make_advantage(TRL_SCALES[scale])
