"""The six things one wants to know of a run, answered from its records in plain sentences.

What was the best idea, what did it change, how sure are we, what did it cost, did the population collapse, which
failures dominate.  Each answer has a short one, which can be read alone, and the caveats that go with it.
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
from ideator_rl.report.changes import in_words
from ideator_rl.report.payload import title
from ideator_rl.report.progress import experiment_seconds
from ideator_rl.report.sections import Row, Section
from ideator_rl.reward_buffer import BASELINE
from ideator_rl.storage.records import Run
from ideator_rl.text import dollars, duration, number, share, spread


@dataclass(frozen=True)
class Answer:
    question: str
    short: str
    more: str = ""
    row: Row | None = None
    """The experiment that it speaks of."""
    tone: str = ""
    """"good", "warn" or "bad"; the words say it too."""


def answers(section: Section, collapse: Answer) -> list[Answer]:
    """The six, in the order in which they are asked."""
    return [_best(section), _change(section), _sure(section), _cost(section), collapse, _failures(section)]


def _best(section: Section) -> Answer:
    question, best = "What was the best idea?", section.best
    if best is None:
        yet = " yet" if section.unfinished else ""
        return Answer(question, f"None: no idea succeeded{yet}.", tone="" if section.unfinished else "bad")
    row, values = section.row_of(best), section.run.values(best)
    where = f", proposed in step {row.steps[0]}" if row and row.steps else ""
    value = f"{section.run.metric} {number(mean(values))}"
    if len(values) > 1:
        value += f" ± {spread(stdev(values))} over {len(values)} runs"
    against = "; no baseline was run"
    if section.baseline and section.gain is not None:
        side = "better" if section.gain > 0 else "worse" if section.gain < 0 else "the same"
        against = f", {number(abs(section.gain))} {side} than the baseline’s {number(section.baseline.mean)}"
        if section.gain == 0:
            against = f", the same as the baseline’s {number(section.baseline.mean)}"
    tone = "good" if (section.gain or 0) > 0 else ""
    said = title(row) if row else ""
    return Answer(question, f"{value}{against}.", f"“{said}”{where}." if said else "", row, tone)


def _change(section: Section) -> Answer:
    question, best = "What did it change?", section.best
    if best is None:
        return Answer(question, "Nothing to show.")
    words = in_words(best.patch)
    if not words:
        return Answer(question, "Its record holds no lines of a patch.", row=section.row_of(best))
    places = f"Places it touches: {cell_of(best.patch)}." if " taken away in " in words else ""  # else all is quoted
    return Answer(question, f"{words}.", places, section.row_of(best))


def _sure(section: Section) -> Answer:
    """One that was run again after the search is judged by the runs that it was not chosen for."""
    question, best = "How sure are we?", section.best
    if best is None:
        return Answer(question, "There is nothing to be sure of.")
    if fresh := [e.metric["value"] for e in _reruns(section, best) if e.metric]:
        return _fresh(section, question, best, fresh)
    ran = len(section.run.values(best))
    short = "it ran once" if ran < 2 else f"it was chosen by the mean of its {ran} runs, and none came after"
    return Answer(question, f"Not sure: {short}.", _luck(section), tone="warn")


def _reruns(section: Section, best: Experiment) -> list[Experiment]:
    """Its successful runs after the search: those of the search chose it."""
    same = [e for e in section.run.experiments.values() if e.tree == best.tree and e.status == SUCCEEDED and e.tree]
    return [e for e in same if e.replicate >= RERUN_REPLICATE and e.id != best.id]


def _fresh(section: Section, question: str, best: Experiment, fresh: list[float]) -> Answer:
    """Judged by the runs it was not chosen for, beside the baseline's under the same seeds where there are some."""
    times = "once" if len(fresh) == 1 else f"{len(fresh)} times"
    shown = number(mean(fresh)) + (f" ± {spread(stdev(fresh))}" if len(fresh) > 1 else "")
    first = number(best.metric["value"] if best.metric else None)
    said = f"It was run again {times}: {shown}, after {first} in the run it was chosen for.{_beside(section, best)}"
    base, pairs = section.baseline_values, _pairs(section, best)
    if not base:
        return Answer(question, "Its value is repeated, its gain is not known.", f"{said} No baseline was run.")
    if len(pairs) > 1:
        gain, error, free = mean(pairs), stdev(pairs) / sqrt(len(pairs)), len(pairs) - 1.0
        beside = f"{len(pairs)} runs of the baseline under the same seeds"
    elif len(fresh) > 1 and len(base) > 1:
        gain = section.better(mean(fresh), mean(base))
        error, free = _welch(fresh, base)
        beside = f"{len(base)} runs of the baseline"
    else:
        left = section.better(mean(fresh), mean(base))
        more = f"{said} The gain that is left is {number(left)}; with so few runs it has no error bar."
        short = "A little: it was run again." if left > 0 else "Not sure: when it was run again, no gain was left."
        return Answer(question, short, more, tone="warn")
    within = float(t.ppf(0.975, free)) * error
    more = (
        f"{said} That is a gain of {number(gain)} ± {spread(error)} (standard error) on {beside}; its 95 % interval "
        f"(Student’s t) is ± {spread(within)}. The run that it was chosen for is left out, since the best of many is "
        "flattered by luck."
    )
    if gain > within:
        return Answer(question, "Fairly: the gain held when it was run again.", more, tone="good")
    return Answer(question, "Not sure: when run again, the 95 % interval of the gain includes none.", more, tone="warn")


def _beside(section: Section, best: Experiment) -> str:
    """What the mean of its re-runs does not say: how many failed, and that it was picked among several."""
    later = [e for e in section.run.experiments.values() if e.replicate >= RERUN_REPLICATE]
    again = [e for e in later if e.implementer != BASELINE]
    failed = sum(e.tree == best.tree and e.status in OWN_FAILURES for e in again)
    others = len({e.tree for e in again if e.status == SUCCEEDED})
    words = f" {failed} more of its re-runs failed, and are not in the mean." if failed else ""
    return words + (f" It leads {others} ideas that were run again: some luck is left in that." if others > 1 else "")


def _welch(one: list[float], other: list[float]) -> tuple[float, float]:
    """Standard error of the difference of two means, and its degrees of freedom (Welch 1947)."""
    parts = [(stdev(some) ** 2 / len(some), len(some) - 1) for some in (one, other)]
    total = sum(part for part, _ in parts)
    return sqrt(total), total**2 / sum(part**2 / free for part, free in parts) if total else 1.0


def _pairs(section: Section, best: Experiment) -> list[float]:
    """Gains of its re-runs on the baseline's of the same seed and replicate."""
    known = {(e.seed, e.replicate): e.metric["value"] for e in section.run.baselines if e.metric}
    places = [(e, (e.seed, e.replicate)) for e in _reruns(section, best)]
    return [section.better(e.metric["value"], known[place]) for e, place in places if e.metric and place in known]


def _luck(section: Section) -> str:
    """How large a gain luck alone would show: the expected largest of n normal draws, by Blom's formula (1958), each of
    them a mean of as many runs as the best had."""
    count, runs = len(section.ranked), len(section.run.values(section.ranked[0]))
    chosen = f"It is the best of {count} successes, so luck flatters it. " if count > 1 else ""
    again = "`ideator-rl rerun` runs the best again with other seeds."
    if section.deviation is None or section.gain is None:
        known = "the noise of one run is not known" if section.baseline else "without a baseline no gain is known"
        return f"{chosen}{known[0].upper()}{known[1:]}. {again}"
    lucky = section.deviation / sqrt(runs) * luckiest(count)
    held = "more than" if section.gain > lucky else "no more than"
    return (
        f"{chosen}Were all of them no better than the baseline, the luckiest would be expected to look "
        f"{number(lucky)} better, from the noise of {len(section.baseline_values)} baseline runs; this one looks "
        f"{number(section.gain)} better, {held} that. {again}"
    )


def luckiest(count: int) -> float:
    """Expected largest of `count` standard normal draws (Blom 1958: Φ⁻¹((n − 3/8) / (n + 1/4)))."""
    return float(norm.ppf((count - 0.375) / (count + 0.25))) if count > 1 else 0.0


def _cost(section: Section) -> Answer:
    run, parts = section.run, []
    spent = run.spent
    if spent.get("usd"):
        parts.append(dollars(spent["usd"]))
    if spent.get("gpu_hours"):
        parts.append(f"{spent['gpu_hours']:.3g} GPU-hours")
    parts.append(f"{duration(busy(run.experiments.values()))} of experiments")
    tokens = f" {spent['tokens']:,.0f} tokens of the coder." if spent.get("tokens") else ""
    wall = run.timings.get("total") or _span(section)
    ran = len(run.ran)
    each = f" {duration(busy(run.ran) / ran)} an experiment." if ran else ""
    apart = ", re-runs apart" if any(e.replicate >= RERUN_REPLICATE for e in run.experiments.values()) else ""
    clock = f" {duration(wall)} on the clock{apart}." if wall else ""
    more = f"{len(run.rollouts)} ideas proposed, {ran} distinct experiments run.{each}{clock}"
    more += _known_before(run) + tokens
    return Answer("What did it cost?", " and ".join(parts) + ".", more)


def _known_before(run: Run) -> str:
    """What of it another run paid for, or this one before it was resumed."""
    known = [e for e in run.experiments.values() if e.replayed and busy([e])]
    if not known:
        return ""
    return f" Results that were in the bucket already: {len(known)}, {duration(busy(known))} of that time."


def busy(records: Iterable[Experiment]) -> float:
    """Seconds that experiments ran and were scored, one after another."""
    return sum(map(experiment_seconds, records))


def _span(section: Section) -> float:
    times = [time for row in section.run.rollouts for time in (row.created, row.finished) if time]
    return max(times) - min(times) if times else 0.0


def _failures(section: Section) -> Answer:
    """Among proposals, as they were trained on; a failure that was proposed twice counts twice."""
    question, counts = "Which failures dominate?", section.counts
    known = counts[SUCCEEDED] + sum(counts[status] for status in OWN_FAILURES)
    failed = known - counts[SUCCEEDED]
    lost = f" {counts[LOST]} more were lost by our own fault, and count as nothing." if counts[LOST] else ""
    if not known:
        return Answer(question, "No outcome is known yet." if section.unfinished else "No idea was run.", lost.strip())
    if not failed:
        return Answer(question, f"None: all {known} ideas with an outcome succeeded.", lost.strip(), tone="good")
    (status, most), *rest = Counter({one: counts[one] for one in OWN_FAILURES if counts[one]}).most_common()
    others = ", ".join(f"{count} {name}" for name, count in rest)
    short = f"{STATUS_WORDS[status]}: {most} of {failed} failures; {share(failed / known)} of {known} ideas failed."
    common = _common_error(section, status)
    more = f"{common[0]} {f'Then: {others}.' if others else ''}{lost}".strip()
    return Answer(question, short, more, common[1], "warn" if failed > known / 2 else "")


STATUS_WORDS = {
    "malformed": "Malformed: no idea in the text",
    "unpatchable": "Unpatchable: no patch could be made or applied",
    "rejected": "Rejected: the patch broke a rule of the environment",
    "failed": "Failed: the experiment crashed or left no result",
    "timed_out": "Timed out: over the budget",
    "invalid": "Invalid: scored, but implausible or caught cheating",
}


def _common_error(section: Section, status: str) -> tuple[str, Row | None]:
    """The message that most failures of a kind share, by its last line, and an experiment that has it."""
    seen: dict[str, list[Row]] = {}
    for row in section.rows:
        if row.status == status and row.record and row.record.error:
            lines = [line for line in row.record.error.get("message", "").splitlines() if line.strip()]
            said = " ".join(lines[-1].split())[:120] if lines else ""
            seen.setdefault(said, []).extend([row] * max(1, len(row.proposals)))
    if not seen:
        return "", None
    said, rows = max(seen.items(), key=lambda item: len(item[1]))
    if len(rows) < 2 or not said:
        return (f"For example: “{said}”." if said else ""), rows[0]
    return f"{len(rows)} times: “{said}”.", rows[0]
