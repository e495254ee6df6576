"""The evaluator's process: runs an environment's trusted evaluator on one artifact and writes its answer to a file.

The worker starts it as a process of its own, so that no code of an experiment shares memory with what measures it.

usage: python -m ideator_rl.scoring.evaluate CONFIG.json ANSWER.json
"""

from __future__ import annotations

import json
import math
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from ideator_rl.environments.data import load_trusted, trusted_line
from ideator_rl.environments.environment import Environment, Metric, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.sandbox.sandbox import Sandbox
from ideator_rl.scoring.allowance import ScorerLimit
from ideator_rl.scoring.scoring import (
    Implausible,
    OverAllowance,
    ScorerFailed,
    ScorerKilled,
    ScorerNotStarted,
    ScoringRun,
)

METRIC_DIGITS = 4
"""Significant digits of a metric for which a scorer ran."""
SECONDS_DIGITS = 1
"""Decimals of the seconds that scorers took."""


def run(config: dict[str, Any], sandbox: Sandbox, answer: Path) -> int:
    """The evaluator's process: evaluates, writes the answer to a file, and returns the exit status."""
    try:
        answer.write_text(json.dumps(evaluate(config, sandbox)))
    except IdeatorError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


def evaluate(config: dict[str, Any], sandbox: Sandbox) -> dict[str, Any]:
    """Run the environment's evaluator; the answer holds `metric`, `invalid` or `failed`, and the evaluator's notes.

    Args:
        sandbox: for its scorers.
    """
    environment = load_environment(config["environment"]).at(config["preset"])
    preset = environment.preset(config["preset"])
    data = environment.data(preset.name)
    run = ScoringRun(
        artifact=Path(config["artifact"]),
        private=data.private,
        public=data.public,
        preset=preset.name,
        seed=config["seed"],
        settings=preset.settings,
        vocab=preset.vocab,
        sandbox=sandbox,
        tree=Path(config["tree"]),
        scorer=environment.scorer,
        masked=data.masked,
        split=config.get("split", "main"),
        scoring=preset.scoring,
        preload=environment.preload,
        folders=environment.import_folders,
        limits=tuple(ScorerLimit(**limit) for limit in config["limits"]) if config.get("limits") else None,
    )
    answer = _call_evaluator(run, environment)
    if run.spent:
        run.notes["seconds_cpu"] = sum(scorer.loading + scorer.passes for scorer in run.spent)
        answer["scorers"] = [asdict(scorer) for scorer in run.spent]
    return (_rounded(answer) if run.spent else answer) | {"scoring": _rounded_seconds(run.notes)}


def _rounded(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without digits of the metric that a model can choose once it has read hidden data."""
    value = answer.get("metric")
    return answer if value is None else answer | {"metric": float(f"{value:.{METRIC_DIGITS}g}")}


def _rounded_seconds(notes: dict[str, Any]) -> dict[str, Any]:
    """The notes; a model can choose the digits of seconds too."""
    return {k: round(v, SECONDS_DIGITS) if k.startswith("seconds_") else v for k, v in notes.items()}


def _call_evaluator(run: ScoringRun, environment: Environment) -> dict[str, Any]:
    evaluator = _load_evaluator(environment.root / environment.evaluator)
    try:
        value = evaluator.evaluate(run)
        if value is None:
            return {"failed": f"evaluate(run) in {environment.evaluator} returned None; expected a number"}
        value = float(value)
    except Implausible as error:
        return {"invalid": str(error)}
    except ScorerFailed as error:
        over, killed = isinstance(error, OverAllowance), isinstance(error, ScorerKilled)
        return {"failed": str(error), "over_allowance": over, "killed": killed}
    except (MemoryError, ScorerNotStarted):
        raise  # of this machine: ours
    except ImportError as error:
        line = trusted_line(error, environment.root / environment.evaluator)
        raise IdeatorError(f"{type(error).__name__}: {error}{line}") from error
    except Exception as error:
        # The artifact is hostile: an error that it causes in the evaluator is the experiment's.
        # Only the kind of the error and a line of trusted code: its message could carry hidden data into the record.
        line = trusted_line(error, environment.root / environment.evaluator)
        return {"failed": f"what it left could not be scored: {type(error).__name__}{line}"}
    if reason := why_implausible(value, environment.metric):
        return {"invalid": reason, "metric": value if math.isfinite(value) else None}
    return {"metric": value}


def _load_evaluator(path: Path) -> ModuleType:
    """The evaluator's module.

    Raises:
        IdeatorError: it cannot be imported or has no `evaluate`: ours, whatever the experiment left.
    """
    try:
        module = load_trusted(path)
    except Exception as error:
        raise IdeatorError(f"{type(error).__name__}: {error}{trusted_line(error, path)}") from error
    if "evaluate" not in vars(module):
        raise IdeatorError(f"{path.name} has no function evaluate(run)")
    return module


def why_implausible(value: float, metric: Metric) -> str:
    """Why a value cannot be right; empty for one that is in the metric's plausible range."""
    low, high = metric.plausible
    if math.isfinite(value) and low <= value <= high:
        return ""
    return f"{metric.name} is {value:g}, outside the plausible range {low:g} to {high:g}"


if __name__ == "__main__":
    config = json.loads(Path(sys.argv[1]).read_text())
    sys.exit(run(config, Sandbox.from_json(config["sandbox"]), Path(sys.argv[2])))
