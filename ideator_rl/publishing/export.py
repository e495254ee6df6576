"""Export of a run: the merged model with its card, and its trajectories as a dataset with a card of their own.

    OUT/model/     weights, config, tokenizer, generation config, README.md, recipe.yaml, charts
    OUT/dataset/   README.md, data/trajectories.parquet, data/experiments.parquet; without a model, recipe.yaml;
                   of a search, report.html and best/ (codebase/, best.patch, NOTE.txt)

Contract:
- OUT appears complete or not at all, and nothing is overwritten.  A push sends the same folders to the Hub.
- A finished run can be exported, and one that was interrupted after a checkpoint.  Nothing is trained or run.
- A search trains no model: its export is the dataset alone.  So is that of any run with `dataset_only`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ideator_rl.errors import IdeatorError
from ideator_rl.files import atomic_folder
from ideator_rl.publishing import hub
from ideator_rl.publishing.best import best_codebase, write_parts
from ideator_rl.publishing.cards import ExportedModel, dataset_card, model_card, public_recipe, public_settings
from ideator_rl.publishing.charts import charts_of_run
from ideator_rl.publishing.trajectories import write_trajectories
from ideator_rl.publishing.weights import newest_weights, weight_hashes, write_model
from ideator_rl.report.page import render_report
from ideator_rl.storage.idea_context import InheritedPatch
from ideator_rl.storage.run_folder import MARK
from ideator_rl.storage.run_reader import Run, read_run
from ideator_rl.text.redaction import Redactor
from ideator_rl.training.libraries import prepare_libraries
from ideator_rl.training.recipe.recipe import Recipe, parse_stored_recipe

REPORT, BEST = "report.html", "best"
"""Of a search, in the dataset's folder."""
DTYPES = ("float32", "bfloat16")


class ExportError(IdeatorError):
    """The run cannot be exported with these options."""


@dataclass(frozen=True)
class Options:
    dtype: str | None = None
    """One of DTYPES; None for the one it was trained in."""
    license: str | None = None
    """Identifier on the Hub, of model and dataset; None if none was stated."""
    model: str | None = None
    """Name of the model on the Hub, for the dataset's card."""
    dataset: str | None = None
    """Name of the dataset on the Hub, for the model's card."""
    dataset_only: bool = False
    """Leave the model out, as is done for a search."""
    report: Callable[[str], None] = lambda _: None
    """Called with a line of progress: a large model takes minutes."""


@dataclass(frozen=True)
class Exported:
    """The result of an export, as `--json` prints it."""

    model: str | None
    """Folder or URL; None where only the dataset was exported."""
    dataset: str
    """Folder or URL."""
    weights: str | None
    """Where the weights were taken from."""
    sha256: dict[str, str]
    """By file of weights."""
    rows: dict[str, int]
    """By table."""


def export_to_folder(run: Path, out: Path, options: Options) -> Exported:
    """Write the export to a new folder.

    Raises:
        IdeatorError: there is no run or it has no weights, or `out` is not empty.
    """
    _refuse_filled(out)
    try:
        with atomic_folder(out, overwrite=False) as scratch:
            exported = _write(run, scratch, options)
    except OSError:
        _refuse_filled(out)  # something appeared there meanwhile
        raise
    model = str(out / "model") if exported.model else None
    return replace(exported, model=model, dataset=str(out / "dataset"))


def _refuse_filled(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ExportError(f"{out} exists and is not an empty folder. Give another --out; nothing is overwritten.")


def export_to_hub(run: Path, model: str, dataset: str | None, private: bool, options: Options) -> Exported:
    """Write the export to a scratch folder inside the run's, and push it.

    Args:
        model: name of the model's repository; of the dataset's where there is no model.
        dataset: name of its repository; None for the model's with "-trajectories".

    Raises:
        IdeatorError: as `export_to_folder`; or the Hub refuses, if possible before the export is written.
    """
    # The cheap refusals first: no run, no token, an invalid name.
    dataset_only = options.dataset_only or read_run(run).is_search
    names = hub.full_names(None if dataset_only else model, dataset or (model if dataset_only else None))
    # Inside the run, because weights may be too large for the disk of /tmp.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=run) as scratch:
        folder = Path(scratch)
        exported = _write(run, folder, replace(options, model=names.model, dataset=names.dataset))
        options.report(f"sending {' and '.join(filter(None, (names.dataset, names.model)))}")
        model_url, dataset_url = hub.push(names, folder / "model", folder / "dataset", private)
    return replace(exported, model=model_url, dataset=dataset_url)


def recipe_of(run: Run) -> Recipe:
    """The recipe that a run saved.  Batches are not checked again: the run may have had more processes.

    Raises:
        ExportError: there is none.
    """
    if not run.recipe.get("env") or not run.recipe.get("output_dir"):
        raise ExportError(
            f"{run.folder} holds no {MARK} of a training run, so there is no model to export. Expected the folder that "
            "a training recipe names as output_dir; or export the trajectories alone with --dataset-only."
        )
    return parse_stored_recipe(run.recipe, f"The recipe of {run.folder} has")


def _write(folder: Path, out: Path, options: Options) -> Exported:
    """Write the folders under `out`."""
    run = read_run(folder)
    if options.dataset_only or run.is_search:
        if options.dtype:
            raise ExportError("--dtype is about weights, and this export has none. Leave it out.")
        rows = _write_dataset(run, out / "dataset", options)
        # With a model, the recipe is in the model's folder.
        recipe_text = public_settings(run.recipe, Redactor(run.recipe))
        (out / "dataset" / MARK).write_text(recipe_text, encoding="utf-8")
        if run.is_search:
            _write_search(run, out / "dataset", options)
        return Exported(None, str(out / "dataset"), None, {}, rows)
    prepare_libraries(None)
    from transformers import AutoTokenizer

    recipe = recipe_of(run)
    redactor = Redactor(run.recipe)
    model, dataset = out / "model", out / "dataset"

    # The model first: its card states the hashes of the files that were written.
    source = newest_weights(folder, recipe.grpo.get("max_steps", -1))
    options.report(f"writing the weights of {source.description}")
    write_model(source, folder, recipe, model, options.dtype)
    charts = charts_of_run(run)
    for chart in charts:
        (model / chart.file).write_text(chart.svg, encoding="utf-8")
    (model / MARK).write_text(public_recipe(recipe, redactor), encoding="utf-8")
    hashes = weight_hashes(model)
    facts = ExportedModel(
        run=run,
        weights=source.description + (f", written as {options.dtype}" if options.dtype else ""),
        sha256=hashes,
        has_chat_template=bool(AutoTokenizer.from_pretrained(model).chat_template),
        charts={chart.file: chart.caption for chart in charts},
        license=options.license,
        model=options.model or "ideator",
        dataset=options.dataset,
    )
    (model / "README.md").write_text(model_card(recipe, facts), encoding="utf-8")

    return Exported(str(model), str(dataset), source.description, hashes, _write_dataset(run, dataset, options))


def _write_search(run: Run, dataset: Path, options: Options) -> None:
    """Write the report and the best codebase beside a search's trajectories, as far as there are any."""
    redactor = Redactor(run.recipe)
    public = published_run(run, redactor)
    (dataset / REPORT).write_text(render_report([public], published=True), encoding="utf-8")
    try:
        best = best_codebase(str(run.folder), run.folder)
    except IdeatorError as error:
        return options.report(f"without the best codebase: {error}")
    if best.environment is None:
        # Which files the environment hides is known to it alone.
        return options.report(f"without the best codebase: the environment {best.environment_name} is not here")
    (dataset / BEST).mkdir()
    write_parts(
        replace(best, target=run.folder.name, environment_name=best.record.environment), dataset / BEST, BEST, redactor
    )


def published_run(run: Run, redactor: Redactor) -> Run:
    """A run for readers of other machines: without secrets, logs, messages of errors, and full paths."""
    experiments = {
        id: replace(
            record,
            idea=redactor.text(record.idea),
            patch=redactor.text(record.patch),
            log="",
            text="",
            error={"kind": record.error_kind, "message": ""} if record.error else None,
        )
        for id, record in run.experiments.items()
    }
    rollouts = [
        replace(
            row,
            completion=redactor.text(row.completion),
            idea=redactor.text(row.idea),
            thought=redactor.text(row.thought),
        )
        for row in run.rollouts
    ]
    public = replace(run, recipe=redactor.settings(run.recipe), rollouts=rollouts, experiments=experiments)
    # Set here, since the copy would read them from the journal again, as they are there.
    public.prompts = {place: redactor.text(text) for place, text in run.prompts.items()}
    public.inherited = {place: _redacted(row, redactor) for place, row in run.inherited.items()}
    return public


def _redacted(row: InheritedPatch, redactor: Redactor) -> InheritedPatch:
    base = replace(row.base, patch=redactor.text(row.base.patch), problem=redactor.text(row.base.problem))
    return replace(row, base=base, patch=redactor.text(row.patch))


def _write_dataset(run: Run, dataset: Path, options: Options) -> dict[str, int]:
    """Write the trajectories with their card.  Returns the number of rows by table."""
    rows = write_trajectories(run, dataset, Redactor(run.recipe))
    (dataset / "README.md").write_text(dataset_card(run, options.model, options.license), encoding="utf-8")
    return rows
