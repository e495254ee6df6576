"""Whether the population of ideas collapsed: figures by window, the alarms, and the answer in a sentence."""

from __future__ import annotations

from dataclasses import dataclass

from ideator_rl.diagnostics.figures import Figure, share
from ideator_rl.diagnostics.report.answers import Answer
from ideator_rl.diagnostics.report.sections import Section

QUESTION = "Did the population collapse?"


@dataclass(frozen=True)
class Watched:
    figures: list[Figure]
    alarms: list[str]
    answer: Answer


def watch(section: Section) -> Watched:
    return Watched([], [], _by_trees(section))


def _by_trees(section: Section) -> Answer:
    """From distinct records alone."""
    steps = [(step.distinct, step.succeeded + step.failed) for step in section.steps if step.succeeded + step.failed]
    if len(steps) < 2:
        return Answer(QUESTION, "Too early to say.")
    first, last = steps[0], steps[-1]
    begun, ended = share(first[0] / first[1]), share(last[0] / last[1])
    return Answer(QUESTION, f"{begun} of the first step’s ideas were distinct, {ended} of the last’s.")
