"""Several runs in short: the same questions as for one run, answered for all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from ideator_rl.experiment import OWN_FAILURES, SUCCEEDED, Experiment
from ideator_rl.report.answers import Answer, busy_seconds
from ideator_rl.report.changes import describe_patch
from ideator_rl.report.compare import MIN_PAIRS, Comparison, too_few_pairs
from ideator_rl.report.groups import Group
from ideator_rl.report.payload import title
from ideator_rl.report.run_view import RunView
from ideator_rl.text.display import dollars, duration, number, share

MAX_ALARMED = 4
"""Runs with an alarm that are named."""


def overview(
    comparison: Comparison, collapses: Sequence[tuple[RunView, Answer]]
) -> list[tuple[RunView | None, Answer]]:
    """The answers, each with the run whose experiment it is about.

    Args:
        collapses: of each run, whether its population collapsed.
    """
    views = [standing.view for standing in comparison.standings]
    return [
        (None, _leader(comparison)),
        (None, _certainty(comparison)),
        *_best(views),
        (None, _cost(views)),
        (None, _collapse(comparison, collapses)),
        (None, _failures(comparison)),
    ]


def _leader(comparison: Comparison) -> Answer:
    question = f"Which was best at equal budget, {comparison.experiments} experiments each?"
    best_values = [(group, values) for group in comparison.groups if (values := _best_values(comparison, group))]
    if not best_values:
        return Answer(question, "None: no idea succeeded within it.")
    # By the mean over the seeds that had a success; `_value` mentions those that had none.
    sign = 1 if comparison.better == "lower" else -1
    ranked = sorted(best_values, key=lambda item: sign * mean(item[1]))
    leader, values = ranked[0]
    if len(comparison.groups) == 1:
        short = f"All runs are of one recipe. Their best {comparison.metric}: {_value(leader, values)}."
        return Answer(f"How good was it over its seeds, at {comparison.experiments} experiments each?", short)
    if len(ranked) == 1:
        return Answer(question, f"{leader.name}: no other had a success.")
    level = [group.name for group, group_values in ranked if mean(group_values) == mean(values)]
    short = f"{leader.name}, with a best {comparison.metric} of {_value(leader, values)}."
    if len(level) > 1:
        names = " and ".join(level)
        short = f"None alone: {names} are level at a best {comparison.metric} of {number(mean(values))}."
    followers = [f"{group.name} {_value(group, group_values)}" for group, group_values in ranked[len(level) :]]
    return Answer(question, short, f"Then {'; '.join(followers)}." if followers else "")


def _value(group: Group, values: Sequence[float]) -> str:
    """Of the members that had a success, and how many had none: a mean without them flatters."""
    without = len(group.members) - len(values)
    missing = f"{without} of {len(group.members)} seeds without a success" if without else ""
    if len(values) == 1:
        return number(values[0]) + (f" ({missing})" if missing else "")
    details = f"mean; {number(min(values))} to {number(max(values))} over {len(values)} seeds"
    return f"{number(mean(values))} ({details}{f', {missing}' if missing else ''})"


def _best_values(comparison: Comparison, group: Group) -> list[float]:
    return [standing.best for standing in comparison.standings_of(group) if standing.best is not None]


def _certainty(comparison: Comparison) -> Answer:
    question = "How sure is the order?"
    if comparison.single_seeds:
        return Answer(question, "Not sure: one run each, so a gap may be chance.",
                      "Runs of one recipe that differ in their seed only are put together and tested in pairs.",
                      tone="warn")  # fmt: skip
    if not comparison.tests:
        return Answer(question, "There is one recipe here, under several seeds: nothing to compare.")
    details = [test.verdict for test in comparison.tests]
    p_values = [test.p for test in comparison.tests if test.p is not None]
    # Bonferroni: of many tests one small p is expected, so the smallest must be small enough for all of them.
    significant = bool(p_values) and min(p_values) * len(p_values) < 0.05
    short = "A paired test finds a difference." if significant else "A paired test finds no difference."
    if len(p_values) > 1:
        details.append(f"With {len(p_values)} tests the smallest p counts {len(p_values)} times (Bonferroni).")
    if untested := [test.pairs for test in comparison.tests if 0 < test.pairs < MIN_PAIRS]:
        details.append(too_few_pairs(max(untested)))  # once, however many groups there are
    if not p_values:
        short = "Not sure: too few pairs of seeds for a test."
    return Answer(question, short, " ".join(details), tone="good" if significant else "warn")


def _best(views: Sequence[RunView]) -> list[tuple[RunView | None, Answer]]:
    with_best = [view for view in views if view.best]
    if not with_best:
        return []
    sign = 1 if with_best[0].run.direction == "min" else -1
    view = min(with_best, key=lambda candidate: sign * mean(candidate.run.values(candidate.ranked[0])))
    best, row = view.ranked[0], view.row_of(view.ranked[0])
    value = f"{view.run.metric} {number(mean(view.run.values(best)))} in {view.name}"
    gain = ""
    if view.gain is not None:
        side = f"{number(abs(view.gain))} {'better' if view.gain > 0 else 'worse'} than"
        gain = f", {side if view.gain else 'the same as'} its baseline"
    details = [f"“{title(row)}”" if row else "", describe_patch(best.patch)]
    more = " ".join(f"{sentence}." for sentence in details if sentence)
    return [(view, Answer("What was the best idea of all?", f"{value}{gain}.", more, row))]


def _cost(views: Sequence[RunView]) -> Answer:
    """An experiment that several runs have from one bucket ran once, and counts once."""
    records: dict[tuple[str, str], Experiment] = {}
    ran: set[tuple[str, str]] = set()
    for view in views:
        bucket = str(view.run.recipe.get("bucket") or view.run.folder)
        records |= {(bucket, id): record for id, record in view.run.experiments.items()}
        ran |= {(bucket, record.id) for record in view.run.ran}
    usd = sum(view.run.spent.get("usd", 0.0) for view in views)
    hours = sum(view.run.spent.get("gpu_hours", 0.0) for view in views)
    paid = ([dollars(usd)] if usd else []) + ([f"{hours:.3g} GPU-hours"] if hours else [])
    paid.append(f"{duration(busy_seconds(records.values()))} of experiments")
    proposed = sum(len(view.run.rollouts) for view in views)
    more = f"{proposed} ideas proposed, {len(ran)} distinct experiments run."
    if shared := sum(len(view.run.experiments) for view in views) - len(records):
        more += f" Taken again from a bucket that runs share, and counted once: {shared} results."
    return Answer("What did they cost together?", " and ".join(paid) + ".", more)


def _collapse(comparison: Comparison, collapses: Sequence[tuple[RunView, Answer]]) -> Answer:
    question = "Did a population collapse?"
    compared = {id(standing.view) for standing in comparison.standings}
    run_answers = [(view, answer) for view, answer in collapses if id(view) in compared]
    alarmed = [(view, answer) for view, answer in run_answers if answer.tone in ("warn", "bad")]
    if not alarmed:
        if too_early := sum(not answer.tone for _, answer in run_answers):
            return Answer(question, f"No alarm so far; too early to say for {too_early} of {len(run_answers)} runs.")
        return Answer(question, "No alarm in any of them.", tone="good")
    details = " ".join(f"{view.name}: {answer.short}" for view, answer in alarmed[:MAX_ALARMED])
    if len(alarmed) > MAX_ALARMED:
        details += f" And {len(alarmed) - MAX_ALARMED} more; each run has its own below."
    short = f"There are alarms in {len(alarmed)} of {len(comparison.standings)} runs."
    return Answer(question, short, details, tone="warn")


def _failures(comparison: Comparison) -> Answer:
    sentences = []
    for group in comparison.groups:
        failed = {status: sum(view.counts[status] for view in group.members) for status in OWN_FAILURES}
        total = sum(failed.values()) + sum(view.counts[SUCCEEDED] for view in group.members)
        if not total:
            continue
        most = max(failed, key=lambda status: failed[status])
        if failed[most]:
            rate = f"{share(sum(failed.values()) / total)} of {total} ideas failed"
            sentences.append(f"{group.name}: {rate}; most common: {most} ({failed[most]}).")
        else:
            sentences.append(f"{group.name}: none of {total} failed.")
    short = sentences[0] if sentences else "No outcome is known yet."
    return Answer("Which failures dominate?", short, " ".join(sentences[1:]))
