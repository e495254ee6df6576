"""Whether the population of ideas collapsed: figures by window, the alarms, and the answer in a sentence.

Figures and alarms are those of `population` and `collapse`; nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ideator_rl.diversity.alarms import COLLAPSE, PATIENCE, SPAN, START, STOP, Alarm, active, alarms
from ideator_rl.diversity.embedding import Embedder, EmbedderError, get_embedder
from ideator_rl.diversity.population import FIGURES, Window, population
from ideator_rl.diversity.window import sample_of
from ideator_rl.report import charts
from ideator_rl.report.answers import Answer
from ideator_rl.report.figures import Figure
from ideator_rl.report.sections import Section
from ideator_rl.text import number, share

QUESTION = "Did the population collapse?"
CHARTS = (
    ("Effective number of ideas", ("vendi", "vendi_succeeded"), False,
     "Vendi score of equally many descriptions a window: 1 where all say the same. A fall is the collapse itself."),
    ("Crowding", ("largest_cluster", "past_duplicates"), True,
     "Warned of above 65 % in one cluster for three windows."),
    ("Distinct codebases", ("distinct_trees", "distinct_trees_succeeded"), True,
     "Among equally many ideas a window, so that windows compare."),
    ("New kinds of change", ("new_cells",), False,
     "Places in the code that no earlier window touched; it falls in any search, to nothing in one that is stuck."),
    ("Size of a change", ("patch_lines", "patch_files"), False,
     "A collapse goes towards small, simple changes."),
)  # fmt: skip


@dataclass(frozen=True)
class Watched:
    figures: list[Figure]
    alarms: list[Alarm]
    answer: Answer
    windows: list[Window]
    embedder: str
    sample: int
    """Ideas n at which all windows are compared."""


def watch(section: Section, embedder: str | None = None) -> Watched:
    """The population of one run.

    Args:
        embedder: a name for `get_embedder`; that of the recipe, else `auto`, if not given.

    Raises:
        EmbedderError: the one that was given cannot be had; for a recipe's, hashed n-grams stand in.
    """
    made = _embedder(section, embedder)
    windows = population(section.run, made)
    told = alarms(windows)
    figures = [_chart(section, windows, *one) for one in CHARTS] if windows else []
    shown = [figure for figure in figures if figure.drawing is not None]
    n = sample_of(windows[0].ideas) if windows else 0
    return Watched(shown, told, _answer(windows, told, made.name, n), windows, made.name, n)


def _embedder(section: Section, given: str | None) -> Embedder:
    if given:
        return get_embedder(given)
    try:
        return get_embedder(
            str(section.run.recipe.get("diversity_embedder") or section.run.recipe.get("embedder") or "auto")
        )
    except EmbedderError:
        return get_embedder("hashed")


def _chart(
    section: Section, windows: Sequence[Window], heading: str, names: Sequence[str], percent: bool, remark: str
) -> Figure:
    curves = [[window.figures.get(name) for window in windows] for name in names]
    ends = [(FIGURES[name].words, [value for value in curve if value is not None])
            for name, curve in zip(names, curves, strict=True)]  # fmt: skip
    words = " ".join(f"{what}: {number(known[0])} to {number(known[-1])}." for what, known in ends if known)
    steps = [window.last_step + 1 for window in windows]
    drawing = charts.by_step(steps, curves, f"{heading}, {section.name}", words, percent=percent)
    legend = [(charts.series(place), what) for place, (what, known) in enumerate(ends) if known]
    return Figure(heading, remark, legend, drawing)


def _answer(windows: Sequence[Window], told: Sequence[Alarm], embedder: str, n: int) -> Answer:
    facts = _facts(windows, embedder, n)
    mine = [alarm for alarm in told if alarm.kind in COLLAPSE]
    if others := len(told) - len(mine):
        facts += f" Alarms of other kinds, told below: {others}."
    holding = [alarm for alarm in active(windows) if alarm.kind in COLLAPSE]
    if holding:
        worst = next((alarm for alarm in holding if alarm.level == STOP), holding[0])
        short = "Yes." if worst.level == STOP else "It is on its way: there is an alarm."
        return Answer(QUESTION, short, f"{worst.words} {facts}", tone="bad" if worst.level == STOP else "warn")
    if mine:
        short = f"It was near: an alarm began in step {mine[-1].step + 1}, and holds no longer."
        return Answer(QUESTION, short, f"{mine[-1].words} {facts}", tone="warn")
    judged = sum(window.figures.get("vendi") is not None for window in windows)
    if judged < START + PATIENCE:
        least = f"{START + PATIENCE} windows of {n or 'some'} ideas"
        short = f"Too early to say: the alarms need {least}, and there are {judged}."
        return Answer(QUESTION, short, facts)
    if len(windows) < SPAN:
        facts += f" The trend of mean, best and thoughts is judged from {SPAN} windows on; here are {len(windows)}."
    return Answer(QUESTION, "No alarm of a collapse.", facts.strip(), tone="good")


def _facts(windows: Sequence[Window], embedder: str, n: int) -> str:
    """First window against last."""
    said = []
    for name, words, shown in (
        ("vendi", f"effective number of ideas (Vendi, of {n})", lambda value: f"{value:.1f}"),
        ("largest_cluster", "largest cluster", share),
        ("thought_words", "thought", lambda value: f"{value:.1f} words"),
    ):
        known = [value for window in windows if (value := window.figures.get(name)) is not None]
        if len(known) > 1 and (known[0] or known[-1]):
            said.append(f"{words} {shown(known[0])} → {shown(known[-1])}")
    if not said:
        return ""
    line = ", ".join(said)
    return f"{line[0].upper()}{line[1:]}, first window to last; by {embedder}."
