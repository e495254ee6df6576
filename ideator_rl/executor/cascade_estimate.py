"""What a cascade saves, estimated from the share of ideas that pass its cheaper preset."""

from __future__ import annotations

from ideator_rl.config.shared import CascadeConfig
from ideator_rl.environments.environment import Environment
from ideator_rl.executor.cascade import refuse_own_preset

SHARES = (0.1, 0.3, 0.5)
"""Estimated where the recipe expects no share."""
IDEAS = 100
"""The estimate is for so many where the number of ideas is not known."""


def cascade_lines(
    cascade: CascadeConfig | None, environment: Environment, preset: str, ideas: int | None = None
) -> list[str]:
    """Lines of a dry run; none without a cascade.

    Args:
        ideas: of the run, at most.

    Raises:
        IdeatorError: there is no such preset, or it is the run's own.
    """
    if cascade is None:
        return []
    refuse_own_preset(cascade, preset)
    count = ideas or IDEAS
    cheap, own = (environment.preset(name).hours(count) for name in (cascade.preset, preset))
    # What decides: GPU-hours, where there are any.
    unit = 0 if own[0] or cheap[0] else 1
    name, before, first = ("GPU-hours", "CPU-hours")[unit], own[unit], cheap[unit]
    lines = [
        f"cascade      each idea first at {cascade.preset}, and at {preset} if its reward there is over "
        f"{cascade.keep_above:g}: at most {first:.4g} {name} more for {count} ideas"
    ]
    for share in SHARES if cascade.pass_share is None else (cascade.pass_share,):
        after = first + share * before
        change = f"{abs(1 - after / before):.0%} {'less' if after <= before else 'more'}" if before else "no change"
        lines.append(
            f"             if {share:.0%} of {count} pass: {after:.4g} {name} instead of {before:.4g}, {change}"
        )
    if before and first < before:
        lines.append(f"             it saves nothing if over {1 - first / before:.0%} pass")
    elif before:
        lines.append(f"             it saves nothing: {cascade.preset} is not cheaper than {preset}")
    return lines
