"""Groups of runs side by side at equal budget, and a paired test over their seeds.

Equal budget: as many distinct experiments as the run with the fewest has, and as much cost as the cheapest run came to.
Of a pair of groups, runs of the same seed are a pair.  From `PAIRS` pairs on, Wilcoxon's signed-rank test and the sign
test (exact where there are no ties; scipy) say how likely such a difference is by chance, and Student's t gives the
interval of its mean: a percentile bootstrap of five pairs holds the true mean in some 83 % of cases, not in 95 %.  With
fewer pairs nothing is tested; p < 0.05 takes six at least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import sqrt
from statistics import mean, stdev

from scipy.stats import binomtest, t, wilcoxon

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.report import charts, drawings
from ideator_rl.report.figures import Figure
from ideator_rl.report.groups import Group, band, comparable, differing, groups
from ideator_rl.report.progress import LAST, best_so_far, by_cost, by_count, moving_mean, units
from ideator_rl.report.sections import Section
from ideator_rl.storage.records import Run
from ideator_rl.text import number, spread

PAIRS = 5
"""Fewer pairs are not tested: with four that all agree, the two-sided sign test gives p = 0.125."""


@dataclass(frozen=True)
class Standing:
    """A run at the budget that all of them had."""

    section: Section
    group: Group
    best: float | None
    """After equally many experiments."""
    mean: float | None
    """Of the successes among them."""
    success: float | None
    at_cost: float | None
    """The best at equal cost."""


@dataclass(frozen=True)
class Test:
    """Two groups over their pairs of seeds."""

    first: str
    second: str
    pairs: int
    p: float | None
    """Of Wilcoxon's signed-rank test; None where there are too few pairs."""
    words: str


@dataclass(frozen=True)
class Comparison:
    """Runs that measured the same thing."""

    groups: list[Group]
    standings: list[Standing]
    experiments: int
    """The equal budget."""
    unit: str | None
    cost: float | None
    """The equal cost, in its unit."""
    tests: list[Test]
    keys: dict[str, list[str]]
    """What the recipes differ in, by group."""

    @property
    def metric(self) -> str:
        return self.standings[0].section.run.metric

    @property
    def better(self) -> str:
        return "lower" if self.standings[0].section.run.direction == "min" else "higher"

    @property
    def alone(self) -> bool:
        """No group has several seeds."""
        return all(len(group.members) < 2 for group in self.groups)


def compare(sections: Sequence[Section]) -> list[Comparison]:
    """One comparison for each setting that several runs share; one that has only begun has no budget yet, and waits."""
    begun = [section for section in sections if section.run.ran or not section.unfinished]
    return [_comparison(some) for some in comparable(begun) if len(some) > 1]


def _comparison(sections: list[Section]) -> Comparison:
    found = groups(sections)
    budget = min(len(section.run.ran) for section in sections)
    runs = [section.run for section in sections]
    unit = next(iter(units(runs)), None)
    costs = [by_cost(run, unit) if unit else [] for run in runs]
    cost = min((paid[-1] for paid in costs if paid), default=None) if all(costs) else None
    of = {id(section): group for group in found for section in group.members}
    standings = [
        _standing(section, of[id(section)], budget, paid, cost) for section, paid in zip(sections, costs, strict=True)
    ]
    tests = [_test(first, second, standings) for first, second in combinations(found, 2)]
    return Comparison(found, standings, budget, unit, cost, tests, differing(found))


def _standing(section: Section, group: Group, budget: int, paid: list[float], cost: float | None) -> Standing:
    run, among = section.run, section.run.ran[:budget]
    values = [e.metric["value"] for e in among if e.status == SUCCEEDED and e.metric]
    return Standing(
        section,
        group,
        best=best_so_far(run, by_count(run)).at(budget),
        mean=mean(values) if values else None,
        success=len(values) / len(among) if among else None,
        at_cost=best_so_far(run, paid).at(cost) if cost is not None else None,
    )


def _test(first: Group, second: Group, standings: list[Standing]) -> Test:
    """Positive differences: the first is better.  A run without a success has its baseline and no more: left out, a
    group would be the better for its failures."""
    best = {id(one.section): one.best if one.best is not None else one.section.run.baseline for one in standings}
    empty = {id(one.section) for one in standings if one.best is None}
    by_seed = [{section.run.recipe.get("seed"): section for section in group.members} for group in (first, second)]
    seeds = [seed for seed in by_seed[0] if seed is not None and seed in by_seed[1]]
    gaps, at_baseline = [], 0
    for seed in seeds:
        one, other = by_seed[0][seed], by_seed[1][seed]
        mine, others = best[id(one)], best[id(other)]
        if mine is not None and others is not None:  # a run with neither success nor baseline measured nothing
            gaps.append(one.better(mine, others))
            at_baseline += bool({id(one), id(other)} & empty)
    p = _wilcoxon(gaps) if len(gaps) >= PAIRS and any(gaps) else None
    words = _verdict(first.name, second.name, gaps)
    if at_baseline:
        words += f" In {at_baseline} of {len(gaps)} a run without a success stands at its baseline."
    return Test(first.name, second.name, len(gaps), p, words)


def _verdict(first: str, second: str, gaps: list[float]) -> str:
    count = len(gaps)
    if count == 0:
        return f"{first} and {second} have no seed in common, so they cannot be paired: the gap may be chance."
    wins = sum(gap > 0 for gap in gaps)
    losses = sum(gap < 0 for gap in gaps)
    leader, behind, won = (first, second, wins) if mean(gaps) >= 0 else (second, first, losses)
    said = f"{leader} is {number(abs(mean(gaps)))} better than {behind} on average, and better in {won} of {count} "
    said += "pairs of seeds" if count > 1 else "pair of seeds"
    if mean(gaps) == 0 and not wins and not losses:
        said = f"{first} and {second} are equal in all {count} pairs of seeds"
    if count < PAIRS or (not wins and not losses):
        return f"{said}."
    return f"{said}. {tested(gaps)}"


def too_few(count: int) -> str:
    """Why so many pairs, fewer than `PAIRS`, are not tested."""
    return (
        f"{count} {'pairs are' if count > 1 else 'pair is'} too few to test: even if all agreed, the sign test could "
        f"not go below p = {min(1.0, 2 * 0.5**count):.3g}. It takes {PAIRS + 1} to come below 0.05."
    )


def tested(gaps: Sequence[float]) -> str:
    """The two tests and the interval, in words, for at least `PAIRS` differences of which some are not 0."""
    wins, losses = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    ranks = _wilcoxon(gaps)
    signs = float(binomtest(max(wins, losses), wins + losses).pvalue)
    said = f"Wilcoxon’s signed-rank test p = {ranks:.2g}, sign test p = {signs:.2g}"
    if stdev(gaps) > 0:
        middle, within = abs(mean(gaps)), float(t.ppf(0.975, len(gaps) - 1)) * stdev(gaps) / sqrt(len(gaps))
        said += f"; 95 % interval of the mean gap {number(middle - within)} to {number(middle + within)} (Student’s t "
        said += f"over pairs, deviation {spread(stdev(gaps))})"
    return said + "."


def _wilcoxon(gaps: Sequence[float]) -> float:
    return float(wilcoxon(gaps).pvalue)


def comparison_figures(found: Comparison) -> list[Figure]:
    """Best so far and moving mean of each group, by experiments and by each cost that was paid."""
    runs = [one.section.run for one in found.standings]
    name = " and ".join(group.name for group in found.groups)
    baselines = [one for group in found.groups if (one := group.members[0].baseline)]
    strokes = [charts.stroke(place)[0] for place in range(len(found.groups))]
    legend = [
        (charts.series(place), f"{group.name}, {how}" if how else group.name)
        for place, (group, how) in enumerate(zip(found.groups, strokes, strict=True))
    ]
    legend += [("baseline", "baseline")] if baselines else []
    seeds = (
        "Line: mean over seeds; band: their range. "
        if not found.alone
        else "One line is one run, so a gap may be chance. "
    )
    axes: list[tuple[str, Callable[[Run], list[float]]]] = [("experiments run", by_count)]
    axes += [(unit, partial(by_cost, unit=unit)) for unit in units(runs)]
    made = []
    for axis, places in axes:
        for what, curve, stairs in (("Best", best_so_far, True), ("Mean", moving_mean, False)):
            heading = f"{what} {found.metric} {'so far' if stairs else 'of the last successes'}, by {axis}"
            bands = [band(group.members, lambda run, c=curve, p=places: c(run, p(run))) for group in found.groups]  # type: ignore[misc]
            words = " ".join(
                f"{group.name}: {number(one.mean[-1])} after {one.x[-1]:.3g}."
                for group, one in zip(found.groups, bands, strict=True)
                if one.x
            )
            drawing = drawings.bands(bands, baselines, axis, f"{heading}: {name}", words, stairs=stairs)
            more = "" if stairs else f"Over the last {LAST} successes. "
            made.append(Figure(heading, f"{found.better.capitalize()} is better. {seeds}{more}", legend, drawing))
    return [figure for figure in made if figure.drawing is not None]
