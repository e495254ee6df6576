"""Several runs in short: the same questions, asked of all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from ideator_rl.experiment import OWN_FAILURES, SUCCEEDED
from ideator_rl.report.answers import Answer, busy
from ideator_rl.report.changes import in_words
from ideator_rl.report.compare import PAIRS, Comparison, Standing, too_few
from ideator_rl.report.groups import Group
from ideator_rl.report.payload import title
from ideator_rl.report.sections import Section
from ideator_rl.text import dollars, duration, number, share


def overview(found: Comparison, collapsed: Sequence[tuple[Section, Answer]]) -> list[tuple[Section | None, Answer]]:
    """The answers, each with the run whose experiment it speaks of."""
    sections = [one.section for one in found.standings]
    return [
        (None, _leader(found)),
        (None, _sure(found)),
        *_best(sections),
        (None, _cost(sections)),
        (None, _collapse(found, collapsed)),
        (None, _failures(found)),
    ]


def _leader(found: Comparison) -> Answer:
    question = f"Which was best at equal budget, {found.experiments} experiments each?"
    known = [(group, values) for group in found.groups if (values := _bests(found, group))]
    if not known:
        return Answer(question, "None: no idea succeeded within it.")
    sign = 1 if found.better == "lower" else -1
    ranked = sorted(known, key=lambda item: sign * mean(item[1]))
    if len(found.groups) == 1:
        alone = f"All runs are of one recipe. Their best {found.metric}: {_value(*ranked[0])}."
        return Answer(f"How good was it over its seeds, at {found.experiments} experiments each?", alone)
    if len(ranked) == 1:
        return Answer(question, f"{ranked[0][0].name}: no other had a success.")
    said = [f"{group.name} {_value(group, values)}" for group, values in ranked]
    level = [group.name for group, values in ranked if mean(values) == mean(ranked[0][1])]
    short = f"{ranked[0][0].name}, with a best {found.metric} of {_value(*ranked[0])}."
    if len(level) > 1:
        short = f"None alone: {' and '.join(level)} are level at a best {found.metric} of {number(mean(ranked[0][1]))}."
    return Answer(question, short, f"Then {'; '.join(said[len(level) :])}." if len(level) < len(said) else "")


def _value(group: Group, values: Sequence[float]) -> str:
    """Of the members that had a success, and how many had none: a mean without them flatters."""
    without = len(group.members) - len(values)
    missing = f"{without} of {len(group.members)} seeds without a success" if without else ""
    if len(values) == 1:
        return number(values[0]) + (f" ({missing})" if missing else "")
    said = f"mean; {number(min(values))} to {number(max(values))} over {len(values)} seeds"
    return f"{number(mean(values))} ({said}{f', {missing}' if missing else ''})"


def _bests(found: Comparison, group: Group) -> list[float]:
    return [one.best for one in standings(found, group) if one.best is not None]


def standings(found: Comparison, group: Group) -> list[Standing]:
    return [one for one in found.standings if one.group is group]


def _sure(found: Comparison) -> Answer:
    question = "How sure is the order?"
    if found.alone:
        return Answer(question, "Not sure: one run each, so a gap may be chance.",
                      "Runs of one recipe that differ in their seed only are put together and tested in pairs.",
                      tone="warn")  # fmt: skip
    words = [one.words for one in found.tests]
    if not words:
        return Answer(question, "There is one recipe here, under several seeds: nothing to compare.")
    known = [one.p for one in found.tests if one.p is not None]
    significant = bool(known) and min(known) * len(known) < 0.05
    short = "A paired test finds a difference." if significant else "A paired test finds no difference."
    if len(known) > 1:
        words.append(f"With {len(known)} tests the smallest p counts {len(known)} times (Bonferroni).")
    if few := [one.pairs for one in found.tests if 0 < one.pairs < PAIRS]:
        words.append(too_few(max(few)))  # once, however many groups there are
    if not known:
        short = "Not sure: too few pairs of seeds for a test."
    return Answer(question, short, " ".join(words), tone="good" if significant else "warn")


def _best(sections: Sequence[Section]) -> list[tuple[Section | None, Answer]]:
    with_best = [section for section in sections if section.best]
    if not with_best:
        return []
    sign = 1 if with_best[0].run.direction == "min" else -1
    section = min(with_best, key=lambda one: sign * mean(one.run.values(one.ranked[0])))
    best, row = section.ranked[0], section.row_of(section.ranked[0])
    value = f"{section.run.metric} {number(mean(section.run.values(best)))} in {section.name}"
    gain = ""
    if section.gain is not None:
        side = f"{number(abs(section.gain))} {'better' if section.gain > 0 else 'worse'} than"
        gain = f", {side if section.gain else 'the same as'} its baseline"
    change = in_words(best.patch)
    said = [f"“{title(row)}”"] if row else []
    more = " ".join(f"{words}." for words in [*said, change] if words)
    return [(section, Answer("What was the best idea of all?", f"{value}{gain}.", more, row))]


def _cost(sections: Sequence[Section]) -> Answer:
    """An experiment that several runs have from one bucket ran once."""
    places = [str(section.run.recipe.get("bucket") or section.run.folder) for section in sections]
    held = [section.run.experiments for section in sections]
    once = {(place, id): record for place, records in zip(places, held, strict=True) for id, record in records.items()}
    ran = len({(place, e.id) for place, section in zip(places, sections, strict=True) for e in section.run.ran})
    usd = sum(section.run.spent.get("usd", 0.0) for section in sections)
    hours = sum(section.run.spent.get("gpu_hours", 0.0) for section in sections)
    parts = ([dollars(usd)] if usd else []) + ([f"{hours:.3g} GPU-hours"] if hours else [])
    proposed, several = sum(len(section.run.rollouts) for section in sections), sum(map(len, held)) - len(once)
    shared = f" Had again from a bucket that runs share, and counted once: {several} results." if several else ""
    return Answer("What did they cost together?",
                  " and ".join([*parts, f"{duration(busy(once.values()))} of experiments"]) + ".",
                  f"{proposed} ideas proposed, {ran} distinct experiments run.{shared}")  # fmt: skip


def _collapse(found: Comparison, collapsed: Sequence[tuple[Section, Answer]]) -> Answer:
    question = "Did a population collapse?"
    mine = {id(one.section) for one in found.standings}
    mine_all = [(section, answer) for section, answer in collapsed if id(section) in mine]
    alarmed = [(section, answer) for section, answer in mine_all if answer.tone in ("warn", "bad")]
    early = sum(not answer.tone for _, answer in mine_all)
    if not alarmed:
        if early:
            return Answer(question, f"No alarm so far; too early to say for {early} of {len(mine_all)} runs.")
        return Answer(question, "No alarm in any of them.", tone="good")
    said = " ".join(f"{section.name}: {answer.short}" for section, answer in alarmed[:4])
    said += f" And {len(alarmed) - 4} more; each run has its own below." if len(alarmed) > 4 else ""
    short = f"There are alarms in {len(alarmed)} of {len(found.standings)} runs."
    return Answer(question, short, said, tone="warn")


def _failures(found: Comparison) -> Answer:
    said = []
    for group in found.groups:
        counts = [section.counts for section in group.members]
        failed = {status: sum(one[status] for one in counts) for status in OWN_FAILURES}
        known = sum(failed.values()) + sum(one[SUCCEEDED] for one in counts)
        if not known:
            continue
        top = max(failed, key=lambda status: failed[status])
        most = f"; most common: {top} ({failed[top]})"
        if not failed[top]:
            said.append(f"{group.name}: none of {known} failed.")
            continue
        said.append(f"{group.name}: {share(sum(failed.values()) / known)} of {known} ideas failed{most}.")
    return Answer("Which failures dominate?", said[0] if said else "No outcome is known yet.", " ".join(said[1:]))
