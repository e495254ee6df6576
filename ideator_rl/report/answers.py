"""The six answers that a report begins with, worked out from the records of one run.

What was the best idea, what did it change, how sure are we, what did it cost, did the population collapse, which
failures dominate.  Each answer has a short sentence that can be read alone, and the caveats that go with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

from scipy.stats import norm, t

from ideator_rl.experiment import LOST, OWN_FAILURES, RERUN_REPLICATE, SUCCEEDED, Experiment
from ideator_rl.patch.cells import cell_of
from ideator_rl.report.changes import describe_patch
from ideator_rl.report.failures import main_line
from ideator_rl.report.payload import title
from ideator_rl.report.progress import experiment_seconds
from ideator_rl.report.run_view import Row, RunView
from ideator_rl.storage.run_reader import Run
from ideator_rl.text.display import dollars, duration, number, share, spread


@dataclass(frozen=True)
class Answer:
    """A question about a run, and its answer in sentences."""

    question: str
    short: str
    more: str = ""
    row: Row | None = None
    """The experiment that the answer is about."""
    tone: str = ""
    """`good`, `warn` or `bad`, for the colour of the answer; its text does not depend on it."""


def answers(view: RunView, collapse: Answer) -> list[Answer]:
    """The six, in the order of the page."""
    return [_best(view), _change(view), certainty(view, view.best), _cost(view), collapse, _failures(view)]


def _best(view: RunView) -> Answer:
    question, best = "What was the best idea?", view.best
    if best is None:
        yet = " yet" if view.unfinished else ""
        return Answer(question, f"None: no idea succeeded{yet}.", tone="" if view.unfinished else "bad")
    row, values = view.row_of(best), view.run.values(best)
    value = f"{view.run.metric} {number(mean(values))}"
    if len(values) > 1:
        value += f" ± {spread(stdev(values))} over {len(values)} runs"
    against = "; no baseline was run"
    if view.baseline and view.gain is not None:
        baseline = f"the baseline’s {number(view.baseline.mean)}"
        side = f"{number(abs(view.gain))} {'better' if view.gain > 0 else 'worse'} than"
        against = f", {side if view.gain else 'the same as'} {baseline}"
    step = f", proposed in step {row.steps[0]}" if row and row.steps else ""
    quote = f"“{title(row)}”{step}." if row else ""
    return Answer(question, f"{value}{against}.", quote, row, "good" if (view.gain or 0) > 0 else "")


def _change(view: RunView) -> Answer:
    question, best = "What did it change?", view.best
    if best is None:
        return Answer(question, "Nothing to show.")
    description = describe_patch(best.patch)
    if not description:
        return Answer(question, "Its record holds no lines of a patch.", row=view.row_of(best))
    # A description that only counts lines needs the places; one that quotes every line does not.
    places = f"Places it touches: {cell_of(best.patch)}." if " taken away in " in description else ""
    return Answer(question, f"{description}.", f"{places} {_shoulders(view, best)}".strip(), view.row_of(best))


def _shoulders(view: RunView, best: Experiment) -> str:
    """On which past ideas an idea builds: its parents, and how many ideas are before it in all."""
    parents: dict[str, list[str]] = {}
    for child, ids in view.run.origins:
        parents.setdefault(child, []).extend(id for id in ids if id in view.run.experiments)
    direct = [row for id in dict.fromkeys(parents.get(best.id, [])) if (row := view.row_of(view.run.experiments[id]))]
    if not direct:
        return "It was not shown a past idea." if parents else ""
    ancestors, pending = set[str](), [best.id]
    while pending:
        new = [id for id in parents.get(pending.pop(), []) if id not in ancestors]
        ancestors.update(new)
        pending += new
    values = [f"experiment {row.number} ({number(row.record.metric['value'])})" if row.record and row.record.metric
              else f"experiment {row.number} ({row.status})" for row in direct[:3]]  # fmt: skip
    more = f" and {len(direct) - 3} more" if len(direct) > 3 else ""
    shown = f"Its prompt showed {', '.join(values)}{more}; ideas before it in all: {len(ancestors)}."
    bases = " and ".join(f"experiment {row.number}" for row in view.code_parents(view.row_of(best)))
    return f"It builds on the code of {bases}. {shown}" if bases else shown


def certainty(view: RunView, best: Experiment | None) -> Answer:
    """How sure the value of one of the run's successful ideas is.

    An idea that was run again after the search is judged by the runs that it was not chosen for.
    """
    question = "How sure are we?"
    if best is None:
        return Answer(question, "There is nothing to be sure of.")
    if values := [e.metric["value"] for e in _reruns(view, best) if e.metric]:
        return _certainty_by_reruns(view, question, best, values)
    runs = len(view.run.values(best))
    reason = "it ran once" if runs < 2 else f"it was chosen by the mean of its {runs} runs, and none came after"
    return Answer(question, f"Not sure: {reason}.", _luck(view, best), tone="warn")


def _reruns(view: RunView, best: Experiment) -> list[Experiment]:
    """Its successful runs after the search: those of the search chose it."""
    runs = [e for e in view.run.experiments.values() if e.tree and e.tree == best.tree and e.status == SUCCEEDED]
    return [e for e in runs if e.replicate >= RERUN_REPLICATE and e.id != best.id]


def _certainty_by_reruns(view: RunView, question: str, best: Experiment, values: list[float]) -> Answer:
    """Compared with the baseline's runs under the same seeds where there are at least two, else with all of them."""
    times = "once" if len(values) == 1 else f"{len(values)} times"
    repeated = number(mean(values)) + (f" ± {spread(stdev(values))}" if len(values) > 1 else "")
    chosen_for = number(best.metric["value"] if best.metric else None)
    story = f"It was run again {times}: {repeated}, after {chosen_for} in the run it was chosen for."
    story += _rerun_caveats(view, best)
    # The best case is pairs of runs under equal seeds, then two samples, and at worst one run on either side.
    baseline, gains = view.baseline_values, _paired_gains(view, best)
    if not baseline:
        return Answer(question, "Its value is repeated, its gain is not known.", f"{story} No baseline was run.")
    if len(gains) > 1:
        gain, error, freedom = mean(gains), stdev(gains) / sqrt(len(gains)), len(gains) - 1.0
        reference = f"{len(gains)} runs of the baseline under the same seeds"
    elif len(values) > 1 and len(baseline) > 1:
        gain = view.improvement(mean(values), mean(baseline))
        error, freedom = welch(values, baseline)
        reference = f"{len(baseline)} runs of the baseline"
    else:
        # One run on either side has no spread, and a gain without an error bar proves little.
        gain = view.improvement(mean(values), mean(baseline))
        more = f"{story} The gain that is left is {number(gain)}; with so few runs it has no error bar."
        short = "A little: it was run again." if gain > 0 else "Not sure: when it was run again, no gain was left."
        return Answer(question, short, more, tone="warn")
    half_width = float(t.ppf(0.975, freedom)) * error
    more = (
        f"{story} That is a gain of {number(gain)} ± {spread(error)} (standard error) on {reference}; its 95 % "
        f"interval (Student’s t) is ± {spread(half_width)}. The run that it was chosen for is left out, since "
        "the best of many is flattered by luck."
    )
    if gain > half_width:
        return Answer(question, "Fairly: the gain held when it was run again.", more, tone="good")
    return Answer(question, "Not sure: when run again, the 95 % interval of the gain includes zero.", more, tone="warn")


def _rerun_caveats(view: RunView, best: Experiment) -> str:
    """What the mean of its re-runs hides: how many failed, and that the idea was picked among several."""
    reruns = [e for e in view.run.experiments.values() if e.replicate >= RERUN_REPLICATE and not e.is_baseline]
    failed = sum(e.tree == best.tree and e.status in OWN_FAILURES for e in reruns)
    ideas = len({e.tree for e in reruns if e.status == SUCCEEDED})
    caveats = f" {failed} more of its re-runs failed, and are not in the mean." if failed else ""
    return caveats + (f" It leads {ideas} ideas that were run again: some luck is left in that." if ideas > 1 else "")


def welch(first: list[float], second: list[float]) -> tuple[float, float]:
    """Standard error of the difference of two means, and its degrees of freedom (Welch 1947)."""
    variances = [(stdev(sample) ** 2 / len(sample), len(sample) - 1) for sample in (first, second)]
    total = sum(variance for variance, _ in variances)
    if not total:
        return 0.0, 1.0
    return sqrt(total), total**2 / sum(variance**2 / freedom for variance, freedom in variances)


def _paired_gains(view: RunView, best: Experiment) -> list[float]:
    """Gains of its re-runs on the baseline's runs of the same seed and replicate."""
    baseline = {(e.seed, e.replicate): e.metric["value"] for e in view.run.baselines if e.metric}
    return [
        view.improvement(e.metric["value"], baseline[e.seed, e.replicate])
        for e in _reruns(view, best)
        if e.metric and (e.seed, e.replicate) in baseline
    ]


def _luck(view: RunView, best: Experiment) -> str:
    """How large a gain luck alone would show.

    It is the expected largest of n normal draws.  Each draw is a mean of as many runs as the idea had.
    """
    count, values = len(view.ranked), view.run.values(best)
    first = view.best is not None and view.best.id == best.id
    place = "the best" if first else "chosen by its value out"
    flattered = f"It is {place} of {count} successes, so luck flatters it. " if count > 1 else ""
    advice = "`ideator-rl rerun` runs the best again with other seeds."
    if view.baseline_stdev is None or view.baseline is None:
        reason = "The noise of one run is not known" if view.baseline else "Without a baseline no gain is known"
        return f"{flattered}{reason}. {advice}"
    gain = view.improvement(mean(values), view.baseline.mean)
    lucky_gain = view.baseline_stdev / sqrt(len(values)) * expected_largest(count)
    relation = "more than" if gain > lucky_gain else "no more than"
    return (
        f"{flattered}Were all of them no better than the baseline, the luckiest would be expected to look "
        f"{number(lucky_gain)} better, from the noise of {len(view.baseline_values)} baseline runs; this one looks "
        f"{number(gain)} better, {relation} that. {advice}"
    )


def expected_largest(count: int) -> float:
    """Expected largest of `count` standard normal draws (Blom 1958: Φ⁻¹((n − 3/8) / (n + 1/4)))."""
    return float(norm.ppf((count - 0.375) / (count + 0.25))) if count > 1 else 0.0


def _cost(view: RunView) -> Answer:
    run, paid = view.run, []
    if run.spent.get("usd"):
        paid.append(dollars(run.spent["usd"]))
    if run.spent.get("gpu_hours"):
        paid.append(f"{run.spent['gpu_hours']:.3g} GPU-hours")
    paid.append(f"{duration(busy_seconds(run.experiments.values()))} of experiments")
    more = [f"{len(run.rollouts)} ideas proposed, {len(run.ran)} distinct experiments run."]
    if run.ran:
        more.append(f"{duration(busy_seconds(run.ran) / len(run.ran))} an experiment.")
    if wall := run.timings.get("total") or _wall_seconds(view):
        reruns = any(e.replicate >= RERUN_REPLICATE for e in run.experiments.values())
        more.append(f"{duration(wall)} on the clock{', without re-runs' if reruns else ''}.")
    more += _replayed(run)
    if run.spent.get("tokens"):
        more.append(f"{run.spent['tokens']:,.0f} tokens of all LLM calls.")
    return Answer("What did it cost?", " and ".join(paid) + ".", " ".join(more))


def _replayed(run: Run) -> list[str]:
    """What another run paid for, or this run before it was resumed."""
    replayed = [e for e in run.experiments.values() if e.replayed and experiment_seconds(e)]
    if not replayed:
        return []
    seconds = duration(busy_seconds(replayed))
    return [f"Results that were in the bucket already: {len(replayed)}, {seconds} of that time."]


def busy_seconds(records: Iterable[Experiment]) -> float:
    """Seconds that experiments ran and were scored, one after another."""
    return sum(map(experiment_seconds, records))


def _wall_seconds(view: RunView) -> float:
    """From the first proposal to the last outcome."""
    times = [time for row in view.run.rollouts for time in (row.created, row.finished) if time]
    return max(times) - min(times) if times else 0.0


def _failures(view: RunView) -> Answer:
    """Counted by proposals, as they were trained on: a failure that was proposed twice counts twice."""
    question, counts = "Which failures dominate?", view.counts
    failed = sum(counts[status] for status in OWN_FAILURES)
    with_outcome = counts[SUCCEEDED] + failed
    lost = f"{counts[LOST]} more were lost by our own fault, and count as nothing." if counts[LOST] else ""
    if not with_outcome:
        return Answer(question, "No outcome is known yet." if view.unfinished else "No idea was run.", lost)
    if not failed:
        return Answer(question, f"None: all {with_outcome} ideas with an outcome succeeded.", lost, tone="good")
    # By status first, since a status has a known meaning; then by the message that most failures of it share.
    (status, most), *rest = Counter({name: counts[name] for name in OWN_FAILURES if counts[name]}).most_common()
    short = f"{STATUS_MEANING[status]}: {most} of {failed} failures; "
    short += f"{share(failed / with_outcome)} of {with_outcome} ideas failed."
    example, row = _common_error(view, status)
    more_statuses = f"Then: {', '.join(f'{count} {name}' for name, count in rest)}." if rest else ""
    more = " ".join(sentence for sentence in (example, more_statuses, lost) if sentence)
    return Answer(question, short, more, row, "warn" if failed > with_outcome / 2 else "")


STATUS_MEANING = {
    "malformed": "Malformed: no idea in the text",
    "unpatchable": "Unpatchable: no patch could be made or applied",
    "rejected": "Rejected: the patch broke a rule of the environment",
    "failed": "Failed: the experiment crashed or left no result",
    "timed_out": "Timed out: over the budget",
    "invalid": "Invalid: scored, but implausible or caught cheating",
    "not_promoted": "Not promoted: it did not pass the cheaper preset",
}


def _common_error(view: RunView, status: str) -> tuple[str, Row | None]:
    """The message that most failures of a status share, by the line with its reason, and an experiment that has it."""
    rows_by_message: dict[str, list[Row]] = {}
    for row in view.rows:
        if row.status == status and row.record and row.record.error:
            rows_by_message.setdefault(main_line(row, 120), []).extend([row] * max(1, len(row.proposals)))
    if not rows_by_message:
        return "", None
    message, rows = max(rows_by_message.items(), key=lambda item: len(item[1]))
    if not message:
        return "", rows[0]
    return f"For example: “{message}”." if len(rows) < 2 else f"{len(rows)} times: “{message}”.", rows[0]
