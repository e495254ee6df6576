"""The report of one run or several: one HTML file that holds everything and asks nobody for anything.

Guarantees: the file is whole or absent (written beside its place, then moved there); its numbers are those of the
records; every experiment is in it.  Ideas, patches and logs are untrusted: they are escaped or stand as inert data that
our script shows as text, characters that act are shown as code points, and the page's policy lets no script run but
that one, by its hash, and lets it make no markup from text (trusted types).  A long text is clipped, the page says by
how much, and the whole stands in the records.  Works on a run that is still under way, empty, or without a success.
Without scripts, all but the table of experiments and their pages can be read.

Charts: see `charts`.  Does not judge by the best of many tries: it says what was run once.
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
from ideator_rl.report import panels, sections
from ideator_rl.report.answers import Answer, answers
from ideator_rl.report.compare import Comparison, compare, comparison_figures
from ideator_rl.report.figures import STATUSES, Figure, run_figures
from ideator_rl.report.overview import overview
from ideator_rl.report.patch_lines import coloured
from ideator_rl.report.payload import payload
from ideator_rl.report.sections import Row, Section
from ideator_rl.report.watch import Watched, watch
from ideator_rl.storage.records import read_run
from ideator_rl.text import clip, number, share, spread, visible, with_error

FACTS = ("model_name_or_path", "scratch_model", "sft_steps", "max_steps", "num_generations", "learning_rate",
         "temperature", "replicates", "seed")  # fmt: skip
"""Keys of a recipe that are shown first; the whole recipe is below."""
SCRIPTS = ("texts.js", "table.js", "family.js", "idea.js", "start.js")
"""Joined in this order into the page's one script."""
BEST, BEST_OF_MANY, BEST_IDEA, BEST_PATCH = 10, 3, 2_000, 4_000
"""Ideas that are shown without a click, of one run and of each of several; bytes of the words and the patch of each."""


class ReportError(IdeatorError):
    """The report cannot be written."""


@dataclass(frozen=True)
class Part:
    """What the template shows of one run."""

    section: Section
    answers: list[tuple[Section, Answer]]
    figures: list[tuple[str, list[Figure]]]
    """Charts under headings; the first are always open."""
    watched: Watched
    failures: list[panels.Failure]
    lineage: Figure | None
    notes: Sequence[str]


@dataclass(frozen=True)
class SideBySide:
    """What the template shows of runs that measured the same thing."""

    found: Comparison
    answers: list[tuple[Section | None, Answer]]
    figures: list[Figure]


def write_report(
    run_dirs: Sequence[Path],
    out: Path,
    embedder: str | None = None,
    notes: Callable[[Path], Sequence[str]] | None = None,
) -> None:
    """Write the report of these runs, one after another, to `out`.

    Args:
        embedder: what makes vectors of descriptions (`get_embedder`), so that runs can be compared; each run's own, or
            `auto`, if not given.
        notes: what else is known of a run's folder, as lines for a person.

    Raises:
        NoRun: a folder holds no run.
        EmbedderError: the embedder that was given cannot be had.
        ReportError: nothing was given, or `out` cannot be written.
    """
    if not run_dirs:
        raise ReportError("No run was given. Name at least one folder that a recipe names as output_dir.")
    named: dict[Path, Path] = {}
    for folder in run_dirs:  # one that is named twice is one run, and no two seeds that agree
        named.setdefault(folder.resolve(), folder)
    runs = [read_run(folder) for folder in named.values()]
    found = [sections.section(name, run) for name, run in zip(sections.names(runs), runs, strict=True)]
    parts = [_part(section, embedder, notes(section.run.folder) if notes else ()) for section in found]
    _store(out, _render(parts))


def _part(section: Section, embedder: str | None, notes: Sequence[str]) -> Part:
    """The parts of one run's story; a chart that would be empty is left out."""
    course = run_figures(section.name, section.run, section.steps, section.baseline)
    found = watch(section, embedder)
    shown = [
        ("Course", course + panels.per_cost(section)),
        ("Diversity and collapse", found.figures),
        ("Thought and success", panels.thought(section)),
        ("Cost and waiting", panels.spending(section) + panels.waiting(section)),
    ]
    return Part(
        section,
        [(section, answer) for answer in answers(section, found.answer)],
        shown,
        found,
        panels.failures(section),
        panels.lineage(section),
        notes,
    )


def _side_by_side(found: Comparison, parts: list[Part]) -> SideBySide:
    collapsed = [(part.section, part.watched.answer) for part in parts]
    return SideBySide(found, overview(found, collapsed), comparison_figures(found))


def _render(parts: list[Part]) -> str:
    found = [part.section for part in parts]
    jinja = Environment(
        loader=PackageLoader("ideator_rl.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = {id(section): place for place, section in enumerate(found)}

    def address(section: Section, row: Row) -> str:
        return f"#idea={numbers[id(section)]}:{visible(row.key)}"

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
    jinja.filters |= {
        "number": number,
        "share": share,
        "spread": spread,
        "with_error": with_error,
        "address": address,
        "position": lambda section: numbers[id(section)] + 1,
    }
    script = "\n".join(_asset(name) for name in SCRIPTS)
    return jinja.get_template("page.html.j2").render(
        parts=parts,
        comparisons=[_side_by_side(one, parts) for one in compare(found)],
        data=payload(found),
        style=Markup(_asset("style.css")),
        script=Markup(script),
        policy=Markup(_policy(script)),
    )


def _finalize(value: Any) -> Any:
    """Every text that reaches the page goes through `visible`; markup of our own does not."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> str:
    return (files("ideator_rl.report") / "assets" / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """What the page may do: show itself, and run this one script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _store(out: Path, page: str) -> None:
    try:
        write_atomic(out, page)
    except OSError as error:
        raise ReportError(
            f"The report cannot be written to {out}: {error.strerror or error}. Give a file in a folder that this user "
            "may write, on a disk with room."
        ) from error
