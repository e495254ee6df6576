"""Whether the population of ideas of one run collapsed: figures by window, the alarms, and the answer in a sentence.

Figures and alarms are those of `diversity.population` and `diversity.alarms`; nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ideator_rl.diversity.alarms import COLLAPSE, PATIENCE, SPAN, START, STOP, Alarm, active, alarms
from ideator_rl.diversity.embedding import Embedder, EmbedderError, get_embedder
from ideator_rl.diversity.population import FIGURES, Window, population
from ideator_rl.diversity.window import sample_size
from ideator_rl.report.answers import Answer
from ideator_rl.report.charts import SHARES, YAxis, chart, series, variable
from ideator_rl.report.figures import Figure, numbers_figure, step_lines
from ideator_rl.report.idea_map import IdeaMap, idea_map
from ideator_rl.report.run_view import RunView
from ideator_rl.text.display import number, share

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
"""Heading, names of the figures, whether they are shares of one, and the remark."""


@dataclass(frozen=True)
class Diversity:
    """The diversity of one run's ideas."""

    figures: list[Figure]
    alarms: list[Alarm]
    answer: Answer
    windows: list[Window]
    embedder: str
    sample: int
    """Ideas n at which all windows are compared."""
    map: IdeaMap


def diversity(view: RunView, embedder: str | None = None) -> Diversity:
    """Figures, alarms and the answer for one run.

    Args:
        embedder: a name for `get_embedder`; None for the one in the recipe, else `auto`.

    Raises:
        EmbedderError: this embedder cannot be had; in place of a recipe's, hashed n-grams are used.
    """
    model = get_embedder(embedder) if embedder else _recipe_embedder(view)
    windows = population(view.run, model)
    run_alarms = alarms(windows)
    figures = [_figure(view, windows, *spec) for spec in CHARTS] if len(windows) > 1 else [_only_window(windows)]
    sample = sample_size(windows[0].ideas) if windows else 0
    answer = _answer(windows, run_alarms, model.name, sample)
    drawn = [figure for figure in figures if figure is not None]
    return Diversity(drawn, run_alarms, answer, windows, model.name, sample, idea_map(view.rows, model))


def _recipe_embedder(view: RunView) -> Embedder:
    recipe = view.run.recipe
    try:
        return get_embedder(str(recipe.get("diversity_embedder") or recipe.get("embedder") or "auto"))
    except EmbedderError:
        return get_embedder("hashed")


def _only_window(windows: Sequence[Window]) -> Figure | None:
    """The curves by window, of a run that has at most one window."""
    values = [(name, window.figures.get(name), percent) for window in windows
              for _, names, percent, _ in CHARTS for name in names]  # fmt: skip
    rows = [(FIGURES[name].title, share(value) if percent else number(value))
            for name, value, percent in values if value is not None]  # fmt: skip
    return numbers_figure("The only window in numbers", "Curves begin with the second window of ideas.", rows)


def _figure(
    view: RunView, windows: Sequence[Window], heading: str, names: Sequence[str], percent: bool, remark: str
) -> Figure | None:
    curves = [[window.figures.get(name) for window in windows] for name in names]
    values = [[value for value in curve if value is not None] for curve in curves]
    if not any(values):
        return None
    texts = [FIGURES[name].title for name in names]
    drawing = chart(
        f"{heading}, {view.name}",
        " ".join(f"{t}: {number(v[0])} to {number(v[-1])}." for t, v in zip(texts, values, strict=True) if v),
        step_lines([window.last_step for window in windows], curves),
        "step",
        SHARES if percent else YAxis(),
    )
    legend = [(variable(series(i)), text) for i, text in enumerate(texts) if values[i]]
    return Figure(heading, remark, legend, drawing)


def _answer(windows: Sequence[Window], run_alarms: Sequence[Alarm], embedder: str, sample: int) -> Answer:
    trend = _trend(windows, embedder, sample)
    collapse_alarms = [alarm for alarm in run_alarms if alarm.kind in COLLAPSE]
    if other_alarms := len(run_alarms) - len(collapse_alarms):
        trend += f" Alarms of other kinds, listed below: {other_alarms}."
    # An alarm that holds in the last window comes before one that began earlier and is over.
    active_alarms = [alarm for alarm in active(windows) if alarm.kind in COLLAPSE]
    if active_alarms:
        worst = next((alarm for alarm in active_alarms if alarm.level == STOP), active_alarms[0])
        short = "Yes." if worst.level == STOP else "It is on its way: there is an alarm."
        return Answer(QUESTION, short, f"{worst.text} {trend}", tone="bad" if worst.level == STOP else "warn")
    if collapse_alarms:
        last = collapse_alarms[-1]
        short = f"It was near: an alarm began in step {last.step + 1}, and holds no longer."
        return Answer(QUESTION, short, f"{last.text} {trend}", tone="warn")
    # No alarm is good news only where there were enough windows to raise one.
    judged = sum(window.figures.get("vendi") is not None for window in windows)
    if judged < START + PATIENCE:
        needed = f"{START + PATIENCE} windows of {sample or 'some'} ideas"
        return Answer(
            QUESTION,
            f"Too early to say: the alarms need {needed}, and there {'is' if judged == 1 else 'are'} {judged}.",
            trend,
        )
    if len(windows) < SPAN:
        trend += f" The trend of mean, best and thoughts is judged from {SPAN} windows on; here are {len(windows)}."
    return Answer(QUESTION, "No alarm of a collapse.", trend.strip(), tone="good")


def _trend(windows: Sequence[Window], embedder: str, sample: int) -> str:
    """First window against last."""
    changes = []
    for name, text, unit in (
        ("vendi", f"effective number of ideas (Vendi, of {sample})", lambda value: f"{value:.1f}"),
        ("largest_cluster", "largest cluster", share),
        ("thought_words", "thought", lambda value: f"{value:.1f} words"),
    ):
        values = [value for window in windows if (value := window.figures.get(name)) is not None]
        if len(values) > 1 and (values[0] or values[-1]):
            changes.append(f"{text} {unit(values[0])} → {unit(values[-1])}")
    if not changes:
        return ""
    line = ", ".join(changes)
    return f"{line[0].upper()}{line[1:]}, first window to last; by {embedder}."
