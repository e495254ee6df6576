"""The trajectories of a run as Parquet: one row a proposal, and one row an experiment, that `datasets` loads.

Contract:
- One row for each row of the journal, in its order, with its status, reward and metric.
- The facts of an experiment are in both tables.
- Texts are published without secrets.  Logs and error messages are left out: they name folders of the machine.
- Feedback is as an ideator sees it, at the level of the run's environment.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.environments.feedback import feedback_level, feedback_of
from ideator_rl.experiment import RERUN_REPLICATE, Experiment
from ideator_rl.storage.run_reader import Run
from ideator_rl.text.redaction import Redactor

PROPOSALS, EXPERIMENTS = "trajectories", "experiments"
"""The tables, and the configurations of the dataset."""


@dataclass(frozen=True)
class Column:
    name: str
    kind: str
    """A type of pyarrow, or "strings" for a list of strings."""
    meaning: str
    """With its unit."""


PROPOSAL_COLUMNS = (
    Column("step", "int64", "batch of proposals, from 0"),
    Column("position", "int64", "position in the batch, from 0"),
    Column("completion", "string", "all that the ideator wrote"),
    Column("thought", "string", "its free text before the idea; empty where no idea was found"),
    Column("idea", "string", "`[Experiment] … [Code Changes] … [End]`; empty where none was found"),
    Column(
        "status",
        "string",
        "outcome: succeeded, one of the idea's own failures, lost (a fault of the system) or running",
    ),
    Column("metric", "float64", "the trusted evaluator's measurement, in the environment's unit; null without one"),
    Column("reward", "float64", "reward of the learner; null where the outcome was lost or is still open"),
    Column("parents", "strings", "ids of experiments whose ideas its prompt showed; empty where it showed none"),
    Column("prompt", "string", "the whole text that asked for the idea; empty where the run did not keep it"),
    Column("code_parents", "strings", "ids of experiments whose code it changes; empty where it changes the baseline"),
    Column("patch_to_parent", "string", "unified diff against that code; empty where it changes the baseline"),
)
RECORD_COLUMNS = (
    Column("kind", "string", "idea, baseline (nothing changed) or rerun (chosen before, run again)"),
    Column("idea", "string", "the idea that first led to the experiment; empty for a baseline"),
    Column("status", "string", "outcome of the experiment"),
    Column("metric", "float64", "the trusted evaluator's measurement, in the environment's unit; null without one"),
)
EXPERIMENT_COLUMNS = (
    Column("experiment_id", "string", "content address; equal codebase, seed and setting have one id and ran once"),
    Column("metric_name", "string", "name of the metric"),
    Column("direction", "string", "min or max: which is better"),
    Column("patch", "string", "unified diff against the baseline; empty where there is none"),
    Column("error_kind", "string", "kind of the failure; empty for succeeded"),
    Column("environment", "string", "environment"),
    Column("preset", "string", "its scale"),
    Column("environment_sha256", "string", "digest of baseline, manifest, evaluator, data and budget"),
    Column("tree", "string", "SHA-256 of the patched codebase; empty where there is none"),
    Column("implementer", "string", "implementer that turned the idea into a patch"),
    Column("seed", "int64", "seed of the experiment"),
    Column("replicate", "int64", f"number among runs of one codebase; from {RERUN_REPLICATE} on a re-run"),
    Column("isolation", "string", "sandbox of the run"),
    Column("hardware", "string", "class of machine"),
    *(
        Column(f"seconds_{name}", "float64", meaning)
        for name, meaning in {
            "implement": "wall seconds until there was a patch",
            "queue": "wall seconds in the queue for a machine",
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
    Column("finished", "float64", "Unix seconds of the outcome"),
    Column(
        "secondary", "string", "further numbers of the evaluator, a JSON object by name; empty where there are none"
    ),
    Column("feedback", "string", "what ideators were shown of the outcome besides: quoted, untrusted; empty for none"),
)
COLUMNS = {PROPOSALS: PROPOSAL_COLUMNS + EXPERIMENT_COLUMNS, EXPERIMENTS: RECORD_COLUMNS + EXPERIMENT_COLUMNS}


def write_trajectories(run: Run, folder: Path, redactor: Redactor) -> dict[str, int]:
    """Write both tables under `folder`; returns their numbers of rows."""
    # A step may have led to one experiment from several prompts, each with parents of its own.
    parents_by_proposal: dict[tuple[str, int], list[str]] = {}
    for child, parents, step in run.lineage:
        parents_by_proposal.setdefault((child, step), []).extend(parents)

    redact, level = redactor.text, feedback_level(str(run.recipe.get("env") or ""))
    proposals = []
    for row in run.rollouts:
        record = run.experiments.get(row.experiment_id)
        shown = parents_by_proposal.get((row.experiment_id, row.step), [])
        inherited = run.inherited.get((row.step, row.position))
        has_base = inherited is not None and bool(inherited.base.tree)
        proposals.append(
            (_experiment_facts(record, redact, level) if record else {"experiment_id": row.experiment_id})
            | {name: getattr(row, name) for name in ("step", "position", "status", "metric", "reward")}
            | {name: redact(getattr(row, name)) for name in ("completion", "thought", "idea")}
            | {"parents": list(dict.fromkeys(shown))}
            | {"prompt": redact(run.prompts.get((row.step, row.rank, row.position), ""))}
            | {"code_parents": list(inherited.base.parents) if inherited and has_base else []}
            | {"patch_to_parent": redact(inherited.patch) if inherited and has_base else ""}
        )
    experiments = [
        _experiment_facts(record, redact, level)
        | {"kind": kind_of(record), "idea": redact(record.idea), "status": record.status}
        | {"metric": record.metric["value"] if record.metric else None}
        for record in run.experiments.values()
    ]
    rows_by_table = {PROPOSALS: proposals, EXPERIMENTS: experiments}
    for table, rows in rows_by_table.items():
        _write(folder / "data" / f"{table}.parquet", rows, COLUMNS[table])
    return {table: len(rows) for table, rows in rows_by_table.items()}


def kind_of(record: Experiment) -> str:
    """ "baseline", "rerun" or "idea"."""
    if record.is_baseline:
        return "baseline"
    return "rerun" if record.replicate >= RERUN_REPLICATE else "idea"


def _experiment_facts(record: Experiment, redact: Callable[[str], str], level: str) -> dict[str, Any]:
    metric = record.metric or {}
    same_names = ("preset", "tree", "implementer", "seed", "replicate", "isolation", "hardware", "finished")
    return {
        "experiment_id": record.id,
        "metric_name": metric.get("name"),
        "direction": metric.get("direction"),
        "patch": redact(record.patch),
        "error_kind": record.error_kind,
        "secondary": json.dumps(record.secondary, sort_keys=True) if record.secondary else "",
        "feedback": redact(feedback_of(record, level)),
        "environment": Path(record.environment).name,
        "environment_sha256": record.hashes.get("environment", ""),
        **{name: getattr(record, name) for name in same_names},
        **{f"seconds_{name}": value for name, value in record.seconds.items()},
        **{f"cost_{name}": value for name, value in record.cost.items()},
    }


def _write(path: Path, rows: list[dict[str, Any]], columns: tuple[Column, ...]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    types = {"strings": pa.list_(pa.string())}
    schema = pa.schema([(c.name, types.get(c.kind) or pa.type_for_alias(c.kind)) for c in columns])
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path)
