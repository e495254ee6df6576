"""The trajectories of a run as Parquet: one row a proposal, and one row an experiment, that `datasets` loads.

Guarantees: one row for each row of the journal, in its order, with its status, reward and metric; an experiment's facts
stand in both tables.  Texts are published without secrets.  Logs and error messages, which name folders of the machine
that ran them, are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.experiment import RERUN_REPLICATE, Experiment
from ideator_rl.publishing.published import Published
from ideator_rl.storage.journal_reader import Descent
from ideator_rl.storage.records import Rollout, Run

PROPOSALS, EXPERIMENTS = "trajectories", "experiments"
"""The tables, and the configurations of the dataset."""


@dataclass(frozen=True)
class Column:
    name: str
    kind: str
    """Of pyarrow; "strings" for a list of them."""
    meaning: str
    """With its unit."""


OF_PROPOSAL = (
    Column("step", "int64", "batch of proposals, from 0"),
    Column("position", "int64", "place in the batch, from 0"),
    Column("completion", "string", "what the ideator wrote, whole"),
    Column("thought", "string", "its free text before the idea; empty where no idea was found"),
    Column("idea", "string", "`[Experiment] … [Code Changes] … [End]`; empty where none was found"),
    Column("status", "string", "what came of it: succeeded, one of the idea's own failures, lost (ours) or running"),
    Column("metric", "float64", "the trusted evaluator's measurement, in the environment's unit; null without one"),
    Column("reward", "float64", "what the learner got; null where the outcome was lost or not known yet"),
    Column("parents", "strings", "ids of experiments whose ideas its prompt showed; empty where it showed none"),
)
OF_RECORD = (
    Column("kind", "string", "idea, baseline (nothing changed) or rerun (chosen before, run again)"),
    Column("idea", "string", "the idea that the record was made for first; empty for a baseline"),
    Column("status", "string", "outcome of the experiment"),
    Column("metric", "float64", "the trusted evaluator's measurement, in the environment's unit; null without one"),
)
OF_EXPERIMENT = (
    Column("experiment_id", "string", "content address; equal codebase, seed and setting have one id and ran once"),
    Column("metric_name", "string", "name of the metric"),
    Column("direction", "string", "min or max: which is better"),
    Column("patch", "string", "unified diff against the baseline; empty where none was made"),
    Column("error_kind", "string", "kind of the failure; empty for succeeded"),
    Column("environment", "string", "environment"),
    Column("preset", "string", "its scale"),
    Column("environment_sha256", "string", "digest of baseline, manifest, evaluator, data and budget"),
    Column("tree", "string", "SHA-256 of the patched codebase; empty where there is none"),
    Column("implementer", "string", "who made the patch of the idea"),
    Column("seed", "int64", "seed of the experiment"),
    Column("replicate", "int64", f"number among runs of one codebase; from {RERUN_REPLICATE} on a re-run"),
    Column("isolation", "string", "sandbox of the run"),
    Column("hardware", "string", "class of machine"),
    *(
        Column(f"seconds_{name}", "float64", meaning)
        for name, meaning in {
            "implement": "wall seconds until there was a patch",
            "queue": "wall seconds of waiting for a machine",
            "run": "wall seconds of running",
            "score": "wall seconds of scoring",
            "cpu": "CPU seconds of the run",
        }.items()
    ),
    *(
        Column(f"cost_{name}", "float64", meaning + "; belongs to the experiment: add up over different ids")
        for name, meaning in {
            "usd": "USD paid to the coder LLM",
            "prompt_tokens": "its prompt tokens",
            "completion_tokens": "its completion tokens",
        }.items()
    ),
    Column("finished", "float64", "Unix seconds, when the outcome was known"),
)
COLUMNS = {PROPOSALS: OF_PROPOSAL + OF_EXPERIMENT, EXPERIMENTS: OF_RECORD + OF_EXPERIMENT}


def write_trajectories(run: Run, folder: Path, published: Published) -> dict[str, int]:
    """Write both tables under `folder`; returns their numbers of rows."""
    parents = _parents(run.lineage)
    proposals = [_proposal(row, run.experiments.get(row.experiment_id), published.text) for row in run.rollouts]
    for row in proposals:
        row["parents"] = parents.get((row["experiment_id"], row["step"]), [])
    rows = {
        PROPOSALS: proposals,
        EXPERIMENTS: [_record(record, published.text) for record in run.experiments.values()],
    }
    for name, table in rows.items():
        _write(folder / "data" / f"{name}.parquet", table, COLUMNS[name])
    return {name: len(table) for name, table in rows.items()}


def _parents(lineage: list[Descent]) -> dict[tuple[str, int], list[str]]:
    """By experiment and step; a step may have led to one experiment from several prompts."""
    parents_of: dict[tuple[str, int], list[str]] = {}
    for child, parents, step in lineage:
        parents_of.setdefault((child, step), []).extend(parents)
    return {key: list(dict.fromkeys(parents)) for key, parents in parents_of.items()}


def _proposal(row: Rollout, record: Experiment | None, clean: Callable[[str], str]) -> dict[str, Any]:
    own = {
        "step": row.step,
        "position": row.position,
        "completion": clean(row.completion),
        "thought": clean(row.thought),
        "idea": clean(row.idea),
        "status": row.status,
        "metric": row.metric,
        "reward": row.reward,
    }
    return {**(_experiment(record, clean) if record else {"experiment_id": row.experiment_id}), **own}


def _record(record: Experiment, clean: Callable[[str], str]) -> dict[str, Any]:
    rerun = record.replicate >= RERUN_REPLICATE
    own = {
        "kind": "baseline" if record.is_baseline else "rerun" if rerun else "idea",
        "idea": clean(record.idea),
        "status": record.status,
        "metric": record.metric["value"] if record.metric else None,
    }
    return {**_experiment(record, clean), **own}


def _experiment(record: Experiment, clean: Callable[[str], str]) -> dict[str, Any]:
    metric = record.metric or {}
    return {
        "experiment_id": record.id,
        "metric_name": metric.get("name"),
        "direction": metric.get("direction"),
        "patch": clean(record.patch),
        "error_kind": record.error_kind,
        "environment": Path(record.environment).name,
        "environment_sha256": record.hashes.get("environment", ""),
        "finished": record.finished,
        **{name: getattr(record, name) for name in ("preset", "tree", "implementer", "seed", "replicate")},
        **{name: getattr(record, name) for name in ("isolation", "hardware")},
        **{f"seconds_{name}": value for name, value in record.seconds.items()},
        **{f"cost_{name}": value for name, value in record.cost.items()},
    }


def _write(path: Path, rows: list[dict[str, Any]], columns: tuple[Column, ...]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"strings": pa.list_(pa.string())}
    schema = pa.schema([(c.name, kinds.get(c.kind) or pa.type_for_alias(c.kind)) for c in columns])
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path)
