"""Groups of runs side by side at equal budget, and a paired test over their seeds.

Equal budget: as many distinct experiments as the run with the fewest has, and the total cost of the cheapest run.
Of two groups, runs of the same seed are a pair.  From `MIN_PAIRS` pairs on, Wilcoxon's signed-rank test and the sign
test (exact where there are no ties; scipy) give the probability of such a difference by chance, and Student's t gives
the interval of its mean: a percentile bootstrap of five pairs holds the true mean in some 83 % of cases, not in 95 %.
With fewer pairs nothing is tested; p < 0.05 takes six at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from statistics import mean, stdev

from scipy.stats import binomtest, t, wilcoxon

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.report.groups import Group, comparable, different_keys, groups
from ideator_rl.report.progress import best_so_far, by_cost, by_count, units
from ideator_rl.report.run_view import RunView
from ideator_rl.text.display import number, spread

MIN_PAIRS = 5
"""Fewer pairs are not tested: with four that all agree, the two-sided sign test gives p = 0.125."""


@dataclass(frozen=True)
class Standing:
    """A run at the budget that all runs had."""

    view: RunView
    group: Group
    best: float | None
    """After equally many experiments."""
    mean: float | None
    """Of the successes among them."""
    success: float | None
    at_cost: float | None
    """The best at equal cost."""


@dataclass(frozen=True)
class PairedTest:
    """Two groups over their pairs of seeds."""

    first: str
    second: str
    pairs: int
    p: float | None
    """Of Wilcoxon's signed-rank test; None where there are too few pairs."""
    verdict: str


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
    tests: list[PairedTest]
    keys: dict[str, list[str]]
    """The keys in which the recipes differ, with the value of each group."""

    @property
    def metric(self) -> str:
        return self.standings[0].view.run.metric

    @property
    def better(self) -> str:
        """`lower` or `higher`."""
        return "lower" if self.standings[0].view.run.direction == "min" else "higher"

    @property
    def single_seeds(self) -> bool:
        """No group has several seeds."""
        return all(len(group.members) < 2 for group in self.groups)

    def standings_of(self, group: Group) -> list[Standing]:
        return [standing for standing in self.standings if standing.group is group]


def compare(views: Sequence[RunView]) -> list[Comparison]:
    """One comparison for each setting that several runs share; a run that has only begun has no budget yet."""
    begun = [view for view in views if view.run.ran or not view.unfinished]
    return [_comparison(runs) for runs in comparable(begun) if len(runs) > 1]


def _comparison(views: list[RunView]) -> Comparison:
    all_groups = groups(views)
    # What a run did beyond the smallest budget would be an advantage of its size, not of its recipe.
    budget = min(len(view.run.ran) for view in views)
    unit = next(iter(units([view.run for view in views])), None)
    costs = [by_cost(view.run, unit) if unit else [] for view in views]
    cost = min(places[-1] for places in costs) if all(costs) else None
    group_of = {id(view): group for group in all_groups for view in group.members}
    standings = [
        _standing(view, group_of[id(view)], budget, places, cost) for view, places in zip(views, costs, strict=True)
    ]
    tests = [_test(first, second, standings) for first, second in combinations(all_groups, 2)]
    return Comparison(all_groups, standings, budget, unit, cost, tests, different_keys(all_groups))


def _standing(view: RunView, group: Group, budget: int, places: list[float], cost: float | None) -> Standing:
    run, in_budget = view.run, view.run.ran[:budget]
    values = [e.metric["value"] for e in in_budget if e.status == SUCCEEDED and e.metric]
    return Standing(
        view,
        group,
        best=best_so_far(run, by_count(run)).at(budget),
        mean=mean(values) if values else None,
        success=len(values) / len(in_budget) if in_budget else None,
        at_cost=best_so_far(run, places).at(cost) if cost is not None else None,
    )


def _test(first: Group, second: Group, standings: list[Standing]) -> PairedTest:
    """Positive gaps: the first is better.  A run without a success counts with its baseline: left out, its group would
    look better for its failures."""
    best = {
        id(standing.view): standing.view.run.baseline if standing.best is None else standing.best
        for standing in standings
    }
    without_success = {id(standing.view) for standing in standings if standing.best is None}
    first_by_seed, second_by_seed = (
        {view.run.recipe.get("seed"): view for view in group.members} for group in (first, second)
    )
    gaps, at_baseline = [], 0
    for seed, view in first_by_seed.items():
        partner = second_by_seed.get(seed)
        if seed is None or partner is None:
            continue
        values = best[id(view)], best[id(partner)]
        if values[0] is not None and values[1] is not None:  # with neither success nor baseline nothing was measured
            gaps.append(view.improvement(values[0], values[1]))
            at_baseline += bool({id(view), id(partner)} & without_success)
    p = _wilcoxon(gaps) if len(gaps) >= MIN_PAIRS and any(gaps) else None
    verdict = _verdict(first.name, second.name, gaps)
    if at_baseline:
        verdict += f" In {at_baseline} of {len(gaps)} a run without a success counts with its baseline."
    return PairedTest(first.name, second.name, len(gaps), p, verdict)


def _verdict(first: str, second: str, gaps: list[float]) -> str:
    count = len(gaps)
    if count == 0:
        return f"{first} and {second} have no seed in common, so they cannot be paired: the gap may be chance."
    wins, losses = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    pairs = "pairs of seeds" if count > 1 else "pair of seeds"
    if not wins and not losses:
        return f"{first} and {second} are equal in all {count} {pairs}."
    leader, loser, won = (first, second, wins) if mean(gaps) >= 0 else (second, first, losses)
    verdict = f"{leader} is {number(abs(mean(gaps)))} better than {loser} on average, and better in {won} of {count} "
    return f"{verdict}{pairs}." if count < MIN_PAIRS else f"{verdict}{pairs}. {test_results(gaps)}"


def too_few_pairs(count: int) -> str:
    """Why this number of pairs, fewer than `MIN_PAIRS`, is not tested."""
    return (
        f"{count} {'pairs are' if count > 1 else 'pair is'} too few to test: even if all agreed, the sign test could "
        f"not go below p = {min(1.0, 2 * 0.5**count):.3g}. It takes {MIN_PAIRS + 1} to come below 0.05."
    )


def test_results(gaps: Sequence[float]) -> str:
    """The two tests and the interval as a sentence, for at least `MIN_PAIRS` gaps of which some are not 0."""
    wins, losses = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    sign_p = float(binomtest(max(wins, losses), wins + losses).pvalue)
    sentence = f"Wilcoxon’s signed-rank test p = {_wilcoxon(gaps):.2g}, sign test p = {sign_p:.2g}"
    if stdev(gaps) > 0:
        center, half_width = abs(mean(gaps)), float(t.ppf(0.975, len(gaps) - 1)) * stdev(gaps) / sqrt(len(gaps))
        sentence += (
            f"; 95 % interval of the mean gap {number(center - half_width)} to {number(center + half_width)} "
            f"(Student’s t over pairs, deviation {spread(stdev(gaps))})"
        )
    return sentence + "."


def _wilcoxon(gaps: Sequence[float]) -> float:
    return float(wilcoxon(gaps).pvalue)
