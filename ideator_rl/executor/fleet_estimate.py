"""What experiments take of a fleet: at once, in hours and in USD; and whether one of them fits there at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ideator_rl.config.fleet import Fleet, read_fleet
from ideator_rl.environments.preset import Preset
from ideator_rl.errors import IdeatorError


class DoesNotFit(IdeatorError):
    """An experiment needs more than the fleet has."""


def at_once(preset: Preset, fleet: Fleet) -> int:
    """How many experiments of a preset with GPUs run at the same time.

    Raises:
        DoesNotFit: none does.
    """
    needs, have = preset.resources, fleet
    node = min(have.gpus_per_node, have.gpus)
    for unit, needed, there in (
        ("GPUs", needs.gpus, node),
        ("CPU cores", needs.cpus, have.cpus_per_node),
        ("GB of memory", needs.memory_gb, have.memory_gb_per_node),
    ):
        if there is not None and needed > there:
            raise DoesNotFit(
                f"An experiment of the preset {preset.name} needs {needed:g} {unit} on one machine, and a machine of "
                f"`fleet` has {there:g}. Use larger machines, or another preset."
            )
    on_node = node // needs.gpus
    if have.cpus_per_node is not None:
        on_node = min(on_node, have.cpus_per_node // needs.cpus)
    if have.memory_gb_per_node is not None:
        on_node = min(on_node, int(have.memory_gb_per_node // needs.memory_gb))
    nodes, rest = divmod(have.gpus, have.gpus_per_node)
    return max(1, nodes * on_node + min(on_node, rest // needs.gpus))


def fleet_hours(preset: Preset, fleet: Fleet, batch: int, batches: int, more: int = 0) -> float:
    """Hours of all experiments at most, start-up included, where a batch waits for the one before.

    Args:
        batch: experiments of one batch.
        more: experiments beside the batches, such as those of the baseline.
    """
    slots = at_once(preset, fleet)
    rounds = batches * math.ceil(batch / slots) + math.ceil(more / slots)
    return rounds * (preset.budget.seconds + preset.budget.startup_allowance) / 3600


def refuse_misfits(
    preset: Preset, fleet: Mapping[str, Any] | None, max_gpu_hours: float | None, batch: int | None
) -> None:
    """Refuse a run that could not measure its first batch.

    Args:
        fleet: of the recipe.
        batch: experiments of one batch; None for a run without batches.

    Raises:
        DoesNotFit: no experiment fits the fleet, or `max_gpu_hours` ends the run within its first batch.
    """
    if not preset.resources.gpus:
        return
    machines = read_fleet(fleet)
    if machines is not None:
        at_once(preset, machines)
    # Before an experiment starts, the ledger reserves what it takes where it has to be confirmed.
    needed = max(preset.hours(batch or 1)[0], preset.max_gpu_hours)
    if max_gpu_hours is not None and needed > max_gpu_hours:
        experiments = f"first batch of {batch} experiments" if batch else "first experiment"
        raise DoesNotFit(
            f"max_gpu_hours is {max_gpu_hours:g}, and the {experiments} of the preset {preset.name} takes up to "
            f"{needed:.1f} GPU-hours. Raise it, or choose a smaller batch or preset."
        )


def hardware_line(
    preset: Preset, experiments: int, cheap: Preset | None = None, ideas: int | None = None, bound: str = "at most"
) -> str:
    """The line of a dry run about the hours of so many experiments.

    Args:
        cheap: the cheaper preset of a cascade, whose hours are included.
        ideas: each of which runs at the cheaper preset; None where their number is not known.
        bound: precedes the figures: `at most`, or `about` where a count is an estimate.
    """
    gpu_hours, cpu_hours = preset.hours(experiments)
    more = ", runs that confirm suspicious results not included" if preset.suspicious is not None else ""
    if cheap is not None and ideas is not None:
        gpu_hours, cpu_hours = gpu_hours + cheap.hours(ideas)[0], cpu_hours + cheap.hours(ideas)[1]
    elif cheap is not None:
        # What does not pass is no experiment, so that `max_experiments` does not limit its number.
        more = f" at {preset.name}{more}; those at {cheap.name} come on top, for a number of ideas that is not known"
    return f"hardware     {bound} {gpu_hours:.1f} GPU-hours and {cpu_hours:.1f} CPU-hours for experiments{more}"


def debug_note(per_idea: int) -> str:
    """What a dry run adds to the number of experiments where one idea may take several."""
    return f"; up to {per_idea} for an idea whose code crashes (debug_rounds)" if per_idea > 1 else ""


def fleet_lines(
    preset: Preset,
    fleet: Fleet | None,
    batch: int,
    batches: int,
    more: int = 0,
    cheap: Preset | None = None,
    bound: str = "at most",
) -> list[str]:
    """Lines of a dry run about GPUs, hours and USD; none for a preset without GPUs.

    Args:
        batch, more: as for `fleet_hours`.
        cheap: the cheaper preset of a cascade; what runs there is not in the figures, which say so.
        bound: precedes each figure: `at most`, or `about` where `batch` is an estimate.

    Raises:
        DoesNotFit: no experiment fits.
    """
    gpus = preset.resources.gpus
    if not gpus:
        return []
    if fleet is None:
        return [f"fleet        {gpus} GPUs an experiment; `fleet` in the recipe gives hours and USD"]
    slots, hours = at_once(preset, fleet), fleet_hours(preset, fleet, batch, batches, more)
    not_included = f"measuring{f', {cheap.name}' if cheap is not None else ''} and confirming"
    text = (
        f"fleet        {fleet.gpus} GPUs, {fleet.gpus_per_node} a machine: {slots} experiments of {gpus} GPUs at once; "
        f"{bound} {hours:,.1f} hours for {batches} batches, {not_included} not included"
    )
    lines = [text]
    if fleet.usd_per_gpu_hour is not None:
        price = fleet.usd_per_gpu_hour
        used = preset.hours(batch * batches + more)[0]
        lines.append(
            f"fleet cost   {bound} {used * price:,.0f} USD for the GPU-hours of experiments at {preset.name}; "
            f"{hours * fleet.gpus * price:,.0f} USD where all GPUs are paid all the time, at {price:g} USD an hour"
        )
    return lines
