"""The cards of an export: Markdown pages with the Hub's metadata, filled from a run's records.

Contract:
- The prose is in `model_card.md.j2` and `dataset_card.md.j2`.  This module computes their values.
- Every number comes from the run's records.  The value by which the best idea was selected is never called its mean.
- Text that a model wrote is a value of the template, never a part of it: neither Jinja nor YAML interprets it.  On the
  page it is inside a code fence that it cannot end.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from keyword import iskeyword
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from ideator_rl.config.yaml_reader import parse_yaml
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import RERUN_REPLICATE, SUCCEEDED, Experiment
from ideator_rl.publishing.trajectories import COLUMNS, EXPERIMENTS, PROPOSALS, kind_of
from ideator_rl.storage.ledger import UNITS
from ideator_rl.storage.run_folder import MARK
from ideator_rl.storage.run_reader import Run, Step
from ideator_rl.text.display import number, share, visible
from ideator_rl.text.redaction import Redactor
from ideator_rl.training.models import hub_name
from ideator_rl.training.recipe.recipe import Recipe

MAX_STEPS = 40
"""Rows of the table by step; a longer run shows steps at equal distances."""
MAX_CHARACTERS = 6_000
"""Of an idea or a patch in a card."""


@dataclass(frozen=True)
class ExportedModel:
    """What an export adds to the card of a model."""

    run: Run
    weights: str
    """Where the weights were taken from."""
    sha256: dict[str, str]
    """By file of weights."""
    has_chat_template: bool
    charts: dict[str, str] = field(default_factory=dict)
    """Captions by file."""
    license: str | None = None
    model: str = "ideator"
    """Name on the Hub."""
    dataset: str | None = None
    """Name of its trajectories on the Hub."""


def model_card(recipe: Recipe, exported: ExportedModel | None = None) -> str:
    """The card of a trained ideator: what the recipe says, and for an export what its run measured."""
    redactor = Redactor(recipe.ours.as_mapping())
    metadata = ModelCardData(
        base_model=hub_name(recipe.ours.model_name_or_path),
        library_name="transformers",
        tags=["ideator_rl", "grpo", "trl"],
    )
    values = {
        **_common_values(recipe.ours.as_mapping(), redactor),
        "ours": recipe.ours,
        "grpo": recipe.grpo,
        "base": redactor.settings(recipe.ours.model_name_or_path),
        "trl": version("trl"),
        "transformers": version("transformers"),
        "recipe": public_recipe(recipe, redactor),
    }
    if exported is not None:
        metadata.pipeline_tag = "text-generation"
        metadata.license = exported.license
        metadata.datasets = [exported.dataset] if exported.dataset else None
        if results := _eval_results(exported.run):
            metadata.model_name = exported.model.rpartition("/")[2]
            metadata.eval_results = results
        values |= {"exported": exported, "prompt": _training_prompt(recipe, redactor), "seed": recipe.seed}
        values["template_arguments"] = redactor.text(_as_keywords(recipe.template_arguments))
        values |= _result_values(exported.run, redactor) | _provenance_values(exported.run)
    card: Any = ModelCard.from_template(metadata, str(Path(__file__).with_name("model_card.md.j2")), **values)
    return f"{card}\n"


def dataset_card(run: Run, model: str | None, license: str | None) -> str:
    """The card of a run's trajectories.

    Args:
        model: name of the trained model on the Hub, if it has one.
    """
    metadata = DatasetCardData(
        license=license or "unknown",
        task_categories=["text-generation"],
        tags=["ideator_rl", "research-ideas", "reinforcement-learning"],
        configs=[
            {"config_name": table, "data_files": [{"split": "train", "path": f"data/{table}.parquet"}]}
            for table in (PROPOSALS, EXPERIMENTS)
        ],
    )
    metadata["configs"][0]["default"] = True
    card: Any = DatasetCard.from_template(
        metadata,
        str(Path(__file__).with_name("dataset_card.md.j2")),
        **_common_values(run.recipe, Redactor(run.recipe)),
        **_metric_values(run),
        recipe=run.recipe,
        is_search=run.is_search,
        model=model,
        license_text=license or "unknown; none was stated",
        kinds=dict(Counter(kind_of(record) for record in run.experiments.values())),
        proposals=PROPOSALS,
        experiments=EXPERIMENTS,
        columns=COLUMNS,
    )
    return f"{card}\n"


def public_recipe(recipe: Recipe, redactor: Redactor) -> str:
    """The resolved recipe as YAML, without secrets and without the folders of this machine."""
    return public_settings(parse_yaml(recipe.text(), "The recipe"), redactor)


def public_settings(settings: dict[str, Any], redactor: Redactor) -> str:
    """The same for the settings of any saved recipe."""
    return yaml.safe_dump(redactor.settings(settings), sort_keys=False, allow_unicode=True)


def fenced(text: str, language: str = "") -> str:
    """A code block that nothing in the text ends."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _common_values(recipe: dict[str, Any], redactor: Redactor) -> dict[str, Any]:
    environment = redactor.text(Path(str(recipe.get("env", ""))).name)
    functions = {"fenced": fenced, "number": number, "share": share, "measured": _measured}
    return {"environment": environment, "ideator_rl": version("ideator-rl"), **functions}


def _metric_values(run: Run) -> dict[str, Any]:
    statuses = Counter(row.status for row in run.rollouts)
    better = "lower" if run.direction == "min" else "higher"
    return {"metric": run.metric, "better": better, "statuses": statuses.most_common()}


def _training_prompt(recipe: Recipe, redactor: Redactor) -> str | None:
    """None if the environment is not on this machine."""
    try:
        return redactor.text(recipe.prompt(load_environment(recipe.ours.env)))
    except (IdeatorError, OSError):
        return None


def _as_keywords(arguments: dict[str, Any]) -> str:
    """The end of a call in Python with these arguments, such as `, enable_thinking=False`; empty for none."""
    if all(name.isidentifier() and not iskeyword(name) for name in arguments):
        return "".join(f", {name}={value!r}" for name, value in arguments.items())
    return f", **{arguments!r}"


def _result_values(run: Run, redactor: Redactor) -> dict[str, Any]:
    """Counts, steps, the best idea with the baseline, and how different the ideas were."""

    def untrusted(text: str) -> str:
        safe = visible(redactor.text(text))
        cut = len(safe) - MAX_CHARACTERS
        return safe[:MAX_CHARACTERS] + (f"\n… {cut} more characters" if cut > 0 else "")

    steps = run.by_step()
    # Rounded up, so that the table has at most MAX_STEPS rows and the last step.
    interval = -(-len(steps) // MAX_STEPS) or 1
    best = run.ranked[0] if run.ranked else None
    # Equal texts and equal records count as equal; the same idea in other words counts as different.
    texts = Counter(" ".join(row.idea.casefold().split()) for row in run.rollouts if row.idea)
    proposing: list[Step] = [step for step in steps if step.proposed]
    return {
        **_metric_values(run),
        "proposed": len(run.rollouts),
        "steps": [step for i, step in enumerate(steps) if i % interval == 0 or step is steps[-1]],
        "step_count": len(steps),
        "interval": interval,
        "baseline": [e.metric["value"] for e in run.baselines if e.metric],
        "best": best,
        "best_values": run.values(best) if best else [],
        "rerun_values": _rerun_values(run, best) if best else [],
        "best_idea": untrusted(best.idea) if best else "",
        "best_patch": untrusted(best.patch) if best else "",
        "record_count": len({row.experiment_id for row in run.rollouts if row.experiment_id}),
        "tree_count": len({record.tree for record in run.ran}),
        "text_count": len(texts),
        "most_frequent": max(texts.values()) / texts.total() if texts else None,
        "first_and_last": [proposing[0], proposing[-1]] if proposing else [],
    }


def _provenance_values(run: Run) -> dict[str, Any]:
    """What the run cost, and the hashes by which what is used can be compared with what was measured."""
    records = run.experiments.values()
    phases = sorted(((value, name) for name, value in run.timings.items() if name != "total"), reverse=True)
    return {
        "spent": [(value, UNITS.get(name, name)) for name, value in run.spent.items()],
        "experiment_seconds": sum(record.seconds.get("run", 0.0) for record in records),
        "total_seconds": run.timings.get("total"),
        "phases": ", ".join(f"{name} {value:.0f} s" for value, name in phases if value >= 0.5),
        "hardware": ", ".join(sorted({record.hardware for record in records} - {""})) or "unknown",
        "isolation": ", ".join(sorted({record.isolation for record in records} - {""})) or "none",
        "environment_sha256": sorted({record.hashes.get("environment", "") for record in records} - {""}),
        "recipe_sha256": hashlib.sha256((run.folder / MARK).read_bytes()).hexdigest(),
        "seed_count": len({record.seed for record in records if record.replicate < RERUN_REPLICATE}),
        "uses_rules": run.recipe.get("implementer", "rules") == "rules",
    }


def _eval_results(run: Run) -> list[EvalResult]:
    """The Hub's table of results: metrics of the best idea and of the baseline, and the last step's success rate."""
    # The Hub relates results to one dataset; a run of several environments or presets has none.
    settings = {(record.environment, record.preset) for record in run.experiments.values()}
    if len(settings) != 1:
        return []
    path, preset = settings.pop()
    environment = Path(path).name

    def result(metric: str, name: str, value: float) -> EvalResult:
        return EvalResult(
            task_type="text-generation",
            task_name="Research ideas",
            dataset_type=environment,
            dataset_name=f"environment {environment}, preset {preset}",
            metric_type=metric,
            metric_name=name,
            metric_value=value,
        )

    results = []
    if run.ranked:
        rerun_values = _rerun_values(run, run.ranked[0])
        values = rerun_values or run.values(run.ranked[0])
        chosen_for = "single run it was chosen for" if len(values) == 1 else "mean of the runs it was chosen for"
        meaning = "mean of re-runs" if rerun_values else chosen_for
        results.append(result(run.metric, f"{run.metric} of the best idea ({meaning})", mean(values)))
    if run.baseline is not None:
        results.append(result(run.metric, f"{run.metric} of the baseline", run.baseline))
    if rates := [step.success for step in run.by_step() if step.success is not None]:
        results.append(result("success_rate", "success rate of the last step", rates[-1]))
    return results


def _rerun_values(run: Run, record: Experiment) -> list[float]:
    """Metrics of a record's codebase when it was run again, after it had been selected."""
    return [
        e.metric["value"]
        for e in run.experiments.values()
        if e.tree == record.tree and e.replicate >= RERUN_REPLICATE and e.status == SUCCEEDED and e.metric
    ]


def _measured(values: list[float]) -> str:
    if len(values) < 2:
        return f"{number(values[0])} in one run"
    error = stdev(values) / len(values) ** 0.5
    return f"{number(mean(values))} ± {error:.2g} (mean and its standard error, {len(values)} runs)"
