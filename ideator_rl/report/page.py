"""The report of one run or several: one HTML file that holds everything and loads nothing from elsewhere.

Guarantees: the file is whole or absent; its numbers are those of the records; every experiment is in it.  Ideas,
patches and logs are untrusted: they are escaped, or are inert data that our script shows as text; characters that act
are shown as code points.  The page's policy lets no script run but that one, by its hash, and lets it make no markup
from text (trusted types).  A long text is clipped, the page shows by how much, and the records hold all of it.  Works
on a run that is still under way, empty, or without a success.  Without scripts, all but the table of experiments and
their pages can be read.

Does not judge by the best of many tries: it marks what ran only once.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ideator_rl.diversity.population import FIGURES
from ideator_rl.errors import IdeatorError
from ideator_rl.files import write_atomic
from ideator_rl.report import payload
from ideator_rl.report.answers import Answer, answers
from ideator_rl.report.collapse import Diversity, diversity
from ideator_rl.report.compare import Comparison, compare
from ideator_rl.report.comparison_figures import comparison_figures
from ideator_rl.report.failures import FailureKind, failure_kinds
from ideator_rl.report.figures import STATUSES, Figure, costs, course
from ideator_rl.report.lineage import lineage_figure
from ideator_rl.report.overview import overview
from ideator_rl.report.pareto import pareto_figures
from ideator_rl.report.patch_lines import coloured
from ideator_rl.report.run_view import Row, RunView, run_labels, run_view
from ideator_rl.report.screen_figures import screen_figures
from ideator_rl.report.thought_figures import thought_figures
from ideator_rl.storage.run_reader import Run, read_run
from ideator_rl.text.display import clip, number, share, spread, visible, with_error

FACTS = ("model_name_or_path", "scratch_model", "sft_steps", "max_steps", "num_generations", "learning_rate",
         "temperature", "replicates", "seed")  # fmt: skip
"""Keys of a recipe that are shown first; the whole recipe is below."""
SCRIPTS = ("texts.js", "table.js", "scatter.js", "family.js", "patch.js", "idea.js", "start.js", "place.js")
"""Joined in this order into the page's one script."""
LIVE_SCRIPT = "live.js"
"""The last part, of a page that follows its run: no other page asks for anything."""
BEST, BEST_OF_MANY = 10, 3
"""Ideas that are shown without a click: of a single run, and of each of several."""
BEST_IDEA, BEST_PATCH = 2_000, 4_000
"""Characters of such an idea, and of its patch."""


class ReportError(IdeatorError):
    """The report cannot be written."""


@dataclass(frozen=True)
class RunPanel:
    """What the template shows of one run."""

    view: RunView
    answers: list[tuple[RunView, Answer]]
    figures: list[tuple[str, list[Figure]]]
    """Charts under headings; the first heading is always open."""
    diversity: Diversity
    failures: list[FailureKind]
    lineage: Figure | None
    notes: Sequence[str]


@dataclass(frozen=True)
class ComparisonPanel:
    """What the template shows of runs that measured the same thing."""

    comparison: Comparison
    answers: list[tuple[RunView | None, Answer]]
    figures: list[Figure]


@dataclass(frozen=True)
class Live:
    """How a page follows a run that goes on."""

    mode: str
    """`reload`: the page loads itself again; `poll`: it asks its server first whether anything is new."""
    seconds: float
    """Between two looks."""
    version: str = ""
    """What the server answers while this page is the newest."""


def write_report(
    run_dirs: Sequence[Path],
    out: Path,
    embedder: str | None = None,
    notes: Callable[[Path], Sequence[str]] | None = None,
    live: Live | None = None,
) -> None:
    """Write the report of these runs, one after another, to `out`.

    Args:
        embedder: what makes vectors of descriptions (`get_embedder`), so that runs can be compared; None for each
            run's own, else `auto`.
        notes: returns further lines about a run, by its folder.
        live: makes a page that follows the run; None for one that stays as it is.

    Raises:
        NoRun: a folder holds no run.
        EmbedderError: the embedder cannot be had.
        ReportError: no folder was given, or `out` cannot be written.
    """
    page = render_report(read_runs(run_dirs), embedder, notes, live)
    try:
        write_atomic(out, page)
    except OSError as error:
        raise ReportError(
            f"The report cannot be written to {out}: {error.strerror or error}. Give a file in a folder that this user "
            "may write, on a disk with room."
        ) from error


def read_runs(run_dirs: Sequence[Path]) -> list[Run]:
    """The runs in these folders, each once.

    Raises:
        NoRun: a folder holds no run.
        ReportError: no folder was given.
    """
    if not run_dirs:
        raise ReportError("No run was given. Name at least one folder that a recipe names as output_dir.")
    folders: dict[Path, Path] = {}
    for folder in run_dirs:  # a folder that is named twice is one run, and no two seeds that agree
        folders.setdefault(folder.resolve(), folder)
    return [read_run(folder) for folder in folders.values()]


def render_report(
    runs: Sequence[Run],
    embedder: str | None = None,
    notes: Callable[[Path], Sequence[str]] | None = None,
    live: Live | None = None,
    published: bool = False,
) -> str:
    """The page about these runs; arguments as for `write_report`.

    Args:
        published: leave out the folders of this machine.
    """
    panels = [
        _run_panel(run_view(name, run, published), embedder, notes(run.folder) if notes else ())
        for name, run in zip(run_labels(list(runs)), runs, strict=True)
    ]
    return _render(panels, live)


def _run_panel(view: RunView, embedder: str | None, notes: Sequence[str]) -> RunPanel:
    run_diversity = diversity(view, embedder)
    return RunPanel(
        view,
        answers=[(view, answer) for answer in answers(view, run_diversity.answer)],
        figures=[
            ("Course", course(view)),
            ("Several metrics", pareto_figures(view)),
            ("Diversity and collapse", run_diversity.figures),
            ("Forecasts and screen", screen_figures(view)),
            ("Thought and success", thought_figures(view)),
            ("Cost and waiting", costs(view)),
        ],
        diversity=run_diversity,
        failures=failure_kinds(view),
        lineage=lineage_figure(view),
        notes=notes,
    )


def _comparison_panel(comparison: Comparison, panels: list[RunPanel]) -> ComparisonPanel:
    collapses = [(panel.view, panel.diversity.answer) for panel in panels]
    return ComparisonPanel(comparison, overview(comparison, collapses), comparison_figures(comparison))


def _render(panels: list[RunPanel], live: Live | None) -> str:
    run_views = [panel.view for panel in panels]
    run_index = {id(view): index for index, view in enumerate(run_views)}

    def address(view: RunView, row: Row) -> str:
        """The link to an experiment's own page; `texts.js` reads it."""
        return f"#idea={run_index[id(view)]}:{visible(row.key)}"

    jinja = Environment(
        loader=PackageLoader("ideator_rl.report", ""), autoescape=True, undefined=StrictUndefined, finalize=_finalize,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    jinja.globals |= {
        "clip": clip,
        "coloured": coloured,
        "STATUSES": STATUSES,
        "FACTS": FACTS,
        "FIGURES": FIGURES,
        "BEST": BEST,
        "BEST_OF_MANY": BEST_OF_MANY,
        "BEST_IDEA": BEST_IDEA,
        "BEST_PATCH": BEST_PATCH,
    }
    jinja.filters |= {"number": number, "share": share, "spread": spread, "with_error": with_error, "address": address,
                      "position": lambda view: run_index[id(view)] + 1}  # fmt: skip
    # One script, so that the policy needs one hash.
    script = "\n".join(_asset(name) for name in (*SCRIPTS, *([LIVE_SCRIPT] if live else ())))
    return jinja.get_template("page.html.j2").render(
        panels=panels,
        comparisons=[_comparison_panel(comparison, panels) for comparison in compare(run_views)],
        table=payload.table(run_views, [panel.diversity.map for panel in panels]),
        texts=payload.packed_texts(run_views),
        prompts=payload.packed_prompts(run_views),
        style=Markup(_asset("style.css")),
        script=Markup(script),
        policy=Markup(_policy(script, live)),
        live=live,
    )


def _finalize(value: Any) -> Any:
    """Every text that reaches the page goes through `visible`; markup of our own does not."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> str:
    return (files("ideator_rl.report") / "assets" / name).read_text(encoding="utf-8")


def _policy(script: str, live: Live | None) -> str:
    """What the page may do: show itself, run this one script, and ask its own server where it has one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    connect = "connect-src 'self'; " if live and live.mode == "poll" else ""
    return (
        f"default-src 'none'; {connect}script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
