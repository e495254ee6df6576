"""Estimates what a search may cost; nothing is started.  An upper bound, where the budgets give one."""

from __future__ import annotations

import math

from ideator_rl.config.fleet import read_fleet
from ideator_rl.environments.environment import load_environment
from ideator_rl.executor.cascade_estimate import cascade_lines
from ideator_rl.executor.fleet_estimate import debug_note, fleet_lines, hardware_line, refuse_misfits
from ideator_rl.implementers.implementer import estimate_cost, writes_trusted_code
from ideator_rl.llm.probe import NOT_ASKED
from ideator_rl.sandbox.choose import choose_sandbox
from ideator_rl.screen.config import ScreenConfig
from ideator_rl.search.config import BUDGETS, EPOCHS, SearchConfig, refuse_endless
from ideator_rl.search.run import open_ideator
from ideator_rl.search.schedule import with_schedule
from ideator_rl.search.strategies import get_search_strategy


def dry_run(config: SearchConfig) -> str:
    """The estimate as text.

    Raises:
        IdeatorError: environment, sandbox, strategy or ideator are not usable, or do not take their options; or no
            budget would ever end the search.
    """
    config = with_schedule(config)
    environment = load_environment(config.env).at(config.preset)
    preset = environment.preset(config.preset)
    refuse_endless(config, environment)
    refuse_misfits(preset, config.fleet, config.max_gpu_hours, None)
    sandbox = choose_sandbox(config.isolation, trusted=writes_trusted_code(config.implementer))
    get_search_strategy(config.strategy, config.strategy_options)
    ideator = open_ideator(config, environment)
    ideator.close()
    ends = ", ".join(f"{name} {getattr(config, name):.15g}" for name in BUDGETS if getattr(config, name) is not None)
    ideas = _least(config.max_ideas, _ideas_of_epochs(config))
    bound = "at most"
    lines = [
        "Nothing was started. This search would be:",
        f"strategy     {config.strategy}, ideas from {ideator.name}, {_flow(config)}",
        f"ends by      {ends}, whichever is first",
    ]
    if config.screen is not None:
        first = config.screen.outcomes_before(config.max_experiments)
        lines.append(f"screen       {config.screen.over} ideas sampled for each that is run, after {first} outcomes")
        # `max_ideas` counts samples, epochs and experiments what is run of them.
        screened = _least(_ideas_run(config, config.screen, first), _ideas_of_epochs(config))
        if _least(config.max_experiments, screened) != _least(config.max_experiments, ideas):
            ideas, bound = screened, "about"
            lines[-1] += "; the figures below hold if a quarter of these succeed"
        if note := config.screen.never_ranks(config.max_experiments, config.max_ideas):
            lines.append(note)
    lines += cascade_lines(config.cascade, environment, config.preset, ideas)
    coded = _least(config.max_experiments, ideas)
    coder = estimate_cost(config.implementer, config.coder, coded or 0, environment, config.preset)
    per_idea = coder.experiments_per_idea if coder is not None else 1
    runs_of_ideas = ideas * per_idea if ideas is not None else None
    if (new_codebases := _least(config.max_experiments, runs_of_ideas)) is not None:
        cheap = environment.preset(config.cascade.preset) if config.cascade is not None else None
        runs = new_codebases + config.baseline_replicates
        lines += [
            f"experiments  {bound} {runs} of {environment.name} ({preset.name}), isolation {sandbox.level}"
            + debug_note(per_idea),
            hardware_line(preset, runs, cheap, runs_of_ideas, bound),
            *fleet_lines(preset, read_fleet(config.fleet), new_codebases, 1, config.baseline_replicates, cheap, bound),
        ]
        if coder is not None:
            lines.append(
                f"coder LLM    {coder.low.usd:,.2f} USD if every first draft is right, at most {coder.high.usd:,.2f}, "
                f"for {coded} ideas"
            )
    if config.probe and (config.ideator == "chat" or config.implementer == "llm"):
        lines.append(NOT_ASKED)
    return "\n".join(lines)


def _flow(config: SearchConfig) -> str:
    if config.flow == EPOCHS:
        return f"epochs of {config.epoch_size} ideas"
    return f"a steady flow, counted in epochs of {config.epoch_size} ideas"


def _ideas_run(config: SearchConfig, screen: ScreenConfig, first: int) -> int | None:
    """How many of `max_ideas` samples are run, if the screen chooses as soon as it may; None without that budget.

    Args:
        first: outcomes that the screen waits for.
    """
    if config.max_ideas is None:
        return None
    if config.flow == EPOCHS and config.epoch_size is not None:
        first = math.ceil(first / config.epoch_size) * config.epoch_size  # it begins with an epoch
    first = min(first, config.max_ideas)
    return first + math.ceil((config.max_ideas - first) / screen.over)


def _least(*counts: int | None) -> int | None:
    """The smallest limit; None where there is none."""
    return min((count for count in counts if count is not None), default=None)


def _ideas_of_epochs(config: SearchConfig) -> int | None:
    return None if config.max_epochs is None or config.epoch_size is None else config.max_epochs * config.epoch_size
