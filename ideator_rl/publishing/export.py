"""Export of a run: the merged model with its card, and its trajectories as a dataset with a card of their own.

    OUT/model/     weights, config, tokenizer, generation config, README.md, recipe.yaml, charts
    OUT/dataset/   README.md, data/trajectories.parquet, data/experiments.parquet

Guarantees: OUT appears whole or not at all, and nothing is overwritten; what is pushed to the hub is the same folders.
Works on a finished run and on one that was interrupted after a checkpoint.  Nothing is trained or run.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.files import atomic_folder
from ideator_rl.publishing import card_story, hub
from ideator_rl.publishing.card import Story, model_card
from ideator_rl.publishing.card_drawings import drawings
from ideator_rl.publishing.dataset_card import dataset_card
from ideator_rl.publishing.merged import Source, hashes, newest, write_model
from ideator_rl.publishing.published import of_recipe
from ideator_rl.publishing.trajectories import write_trajectories
from ideator_rl.storage.records import Run, read_run
from ideator_rl.storage.run_folder import MARK
from ideator_rl.training.libraries import prepare_libraries
from ideator_rl.training.recipe.recipe import Recipe, parse_stored_recipe

DTYPES = ("float32", "bfloat16")


class ExportError(IdeatorError):
    """The run cannot be exported as asked."""


@dataclass(frozen=True)
class Options:
    dtype: str | None = None
    """One of DTYPES; None for the one it was trained in."""
    license: str | None = None
    """Identifier on the hub, of model and dataset; None where nobody has said."""
    model: str | None = None
    """Name of the model on the hub, for the dataset's card."""
    dataset: str | None = None
    """Name of the dataset on the hub, for the model's card."""
    tell: Callable[[str], None] = lambda _: None
    """Called with a line of progress: a large model takes minutes."""


@dataclass(frozen=True)
class Exported:
    """What came of an export, for a program to read."""

    model: str
    """Folder or URL."""
    dataset: str
    weights: str
    """Where the weights were taken from."""
    sha256: dict[str, str]
    rows: dict[str, int]

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def export_to_folder(run: Path, out: Path, options: Options) -> Exported:
    """Write the export to a new folder.

    Raises:
        IdeatorError: no run or no weights there, or `out` is taken.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ExportError(f"{out} exists and is not an empty folder. Give another --out; nothing is overwritten.")
    with atomic_folder(out.absolute()) as scratch:
        made = _write(run, scratch, options)
    return replace(made, model=str(out / "model"), dataset=str(out / "dataset"))


def export_to_hub(run: Path, model: str, dataset: str | None, private: bool, options: Options) -> Exported:
    """Write the export to a scratch folder inside the run's, and push it.

    Args:
        dataset: name of its repo; None for the model's with "-trajectories".

    Raises:
        IdeatorError: as `export_to_folder`; or the hub refuses, before the export is written where that can be known.
    """
    read_run(run)
    names = hub.full_names(model, dataset)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=run) as scratch:
        folder = Path(scratch)
        made = _write(run, folder, replace(options, model=names.model, dataset=names.dataset))
        options.tell(f"sending {names.dataset} and {names.model}")
        urls = hub.push(names, folder / "model", folder / "dataset", private)
    return replace(made, model=urls[0], dataset=urls[1])


def recipe_of(run: Run) -> Recipe:
    """The recipe that a run saved.  Not checked again: it ran, perhaps on more processes than export has.

    Raises:
        ExportError: there is none.
    """
    raw = run.recipe
    if not raw.get("env") or not raw.get("output_dir"):
        raise ExportError(
            f"{run.folder} holds no {MARK} of a training run, so there is no model to export. Expected the folder that "
            "a training recipe names as output_dir."
        )
    return parse_stored_recipe(raw, f"The recipe of {run.folder} has")


def _write(folder: Path, out: Path, options: Options) -> Exported:
    """Both folders under `out`."""
    prepare_libraries(None)
    run = read_run(folder)
    recipe = recipe_of(run)
    source = newest(folder, recipe.grpo.get("max_steps", -1))
    published = of_recipe(recipe)
    options.tell(f"writing the weights of {source.words}")
    write_model(source, folder, recipe, out / "model", options.dtype)
    _write_card(run, recipe, source, out / "model", options)
    rows = write_trajectories(run, out / "dataset", published)
    text = dataset_card(run, recipe, published, options.model, options.license)
    (out / "dataset" / "README.md").write_text(text, encoding="utf-8")
    return Exported(str(out / "model"), str(out / "dataset"), source.words, hashes(out / "model"), rows)


def _write_card(run: Run, recipe: Recipe, source: Source, model: Path, options: Options) -> None:
    published = of_recipe(recipe)
    charts = drawings(run)
    for name, (svg, _) in charts.items():
        (model / name).write_text(svg, encoding="utf-8")
    (model / MARK).write_text(published.recipe(recipe), encoding="utf-8")
    digest = hashlib.sha256((run.folder / MARK).read_bytes()).hexdigest()
    weights = source.words + (f", written as {options.dtype}" if options.dtype else "")
    text = "".join(
        (
            card_story.how_to_ask(recipe, _has_chat(model), published),
            card_story.results(run, [(name, caption) for name, (_, caption) in charts.items()], published),
            card_story.diversity(run),
            card_story.cost(run),
            card_story.provenance(run, hashes(model), weights, digest),
            card_story.limits(run, recipe, published),
        )
    )
    index = card_story.model_index(run, (options.model or "ideator").rpartition("/")[2])
    head = {
        "pipeline_tag": "text-generation",
        **({"license": options.license} if options.license else {}),
        **({"datasets": [options.dataset]} if options.dataset else {}),
        **({"model-index": index} if index else {}),
    }
    (model / "README.md").write_text(model_card(recipe, Story(text, head)), encoding="utf-8")


def _has_chat(model: Path) -> bool:
    from transformers import AutoTokenizer

    return bool(AutoTokenizer.from_pretrained(model).chat_template)
