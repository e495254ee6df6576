"""What a search may cost, before anything is started; an upper bound, as far as its budgets say one."""

from __future__ import annotations

from ideator_rl.environments.environment import load_environment
from ideator_rl.implementers.implementer import estimate_cost, writes_trusted_code
from ideator_rl.sandbox.choose import choose_sandbox
from ideator_rl.search.config import BUDGETS, EPOCHS, SearchConfig, refuse_endless
from ideator_rl.search.ideator import Subject
from ideator_rl.search.ideators import get_ideator
from ideator_rl.search.strategies import get_search_strategy


def dry_run(config: SearchConfig) -> str:
    """The estimate as text.

    Raises:
        IdeatorError: environment, sandbox, strategy or ideator are not usable, or do not take their options; nothing
            that the search does counts towards its budgets.
    """
    environment = load_environment(config.env)
    preset = environment.preset(config.preset)
    refuse_endless(config, environment)
    sandbox = choose_sandbox(config.isolation, trusted=writes_trusted_code(config.implementer))
    get_search_strategy(config.strategy, config.strategy_options)
    subject = Subject(environment, config.preset, config.prompts)
    ideator = get_ideator(config.ideator, config.ideator_options, subject)
    ideator.close()
    ends = ", ".join(f"{name} {getattr(config, name):.15g}" for name in BUDGETS if getattr(config, name) is not None)
    ideas = min((count for count in (config.max_ideas, _of_epochs(config)) if count is not None), default=None)
    lines = [
        "Nothing was started. This search would be:",
        f"strategy     {config.strategy}, ideas from {ideator.name}, {_flow(config)}",
        f"ends by      {ends}, whichever is first",
    ]
    most = min((count for count in (config.max_experiments, ideas) if count is not None), default=None)
    if most is not None:
        runs = most + config.baseline_replicates
        hours = runs * (preset.budget.seconds + preset.budget.startup_allowance) / 3600
        cpus = 1 if preset.budget.clock == "cpu" else preset.resources.cpus
        lines += [
            f"experiments  at most {runs} of {environment.name} ({preset.name}), isolation {sandbox.level}",
            f"hardware     at most {hours * preset.resources.gpus:.1f} GPU-hours and {hours * cpus:.1f} CPU-hours",
        ]
        asked = estimate_cost(config.implementer, config.coder, most, environment, config.preset)
        if asked is not None:
            low, high = asked.low, asked.high
            lines.append(
                f"coder LLM    {low.usd:,.2f} USD if every first draft is right, at most {high.usd:,.2f}, for as many "
                "ideas as experiments"
            )
    return "\n".join(lines)


def _flow(config: SearchConfig) -> str:
    if config.flow == EPOCHS:
        return f"epochs of {config.epoch_size} ideas"
    return f"a steady flow, counted in epochs of {config.epoch_size} ideas"


def _of_epochs(config: SearchConfig) -> int | None:
    return None if config.max_epochs is None else config.max_epochs * config.epoch_size
