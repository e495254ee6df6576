"""The evaluator's process: runs an environment's trusted evaluator on one artifact and writes its answer to a file.

The worker starts it as a process of its own, so that no code of an experiment shares memory with what measures it.

usage: python -m ideator_rl.scoring.evaluate ANSWER.json < CONFIG.json
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
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.sandbox.sandbox import Sandbox
from ideator_rl.scoring.allowance import ScorerLimit
from ideator_rl.scoring.exposure import repeats_private
from ideator_rl.scoring.result import MAX_TEXT, BadResult, broken_requirement, read_result, why_implausible
from ideator_rl.scoring.scoring import (
    Implausible,
    OverAllowance,
    ScorerFailed,
    ScorerKilled,
    ScorerNotStarted,
    ScoringRun,
)
from ideator_rl.text.display import encodable
from ideator_rl.text.redaction import beginning_of

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

    Where there are any, it holds `secondary` metrics and a `text` too.

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
        audit_seeds=tuple(config.get("audit_seeds", (None,))),
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
    rounded = {name: _significant(value) for name, value in answer.get("secondary", {}).items()}
    changes: dict[str, Any] = {"secondary": rounded} if rounded else {}
    if answer.get("metric") is not None:
        changes["metric"] = _significant(answer["metric"])
    return answer | changes


def _significant(value: float) -> float:
    return float(f"{value:.{METRIC_DIGITS}g}")


def _rounded_seconds(notes: dict[str, Any]) -> dict[str, Any]:
    """The notes; a model can choose the digits of seconds too."""
    return {k: round(v, SECONDS_DIGITS) if k.startswith("seconds_") else v for k, v in notes.items()}


def _call_evaluator(run: ScoringRun, environment: Environment) -> dict[str, Any]:
    evaluator = _load_evaluator(environment.root / environment.evaluator)
    try:
        returned = evaluator.evaluate(run)
        called = f"evaluate(run) in {environment.evaluator}"
        result = read_result(returned, environment.metric, evaluator.evaluate, called)
    except BadResult as error:
        return {"failed": str(error)}
    except Implausible as error:
        return {"invalid": str(error)}
    except ScorerFailed as error:
        over, killed = isinstance(error, OverAllowance), isinstance(error, ScorerKilled)
        text, _ = _text(error.text or str(error), run)
        return {"failed": str(error), "over_allowance": over, "killed": killed, "text": text}
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
    answer: dict[str, Any] = {"metric": result.value if math.isfinite(result.value) else None}
    answer |= {"secondary": result.secondary} if result.secondary else {}
    if result.text:
        answer["text"], reason = _text(result.text, run)
        run.notes.update({"text": f"left out: {reason}"} if reason else {})
    if reason := why_implausible(result.value, environment.metric) or broken_requirement(result, environment.metric):
        answer["invalid"] = reason
    return answer


def _text(text: str, run: ScoringRun) -> tuple[str, str]:
    """What of a text goes into the record as feedback, and why nothing does; one of them is empty."""
    text = beginning_of(encodable(text), MAX_TEXT)
    if run.exposure.hidden:
        return "", "a model had got hidden data"
    return ("", "it repeats private data") if repeats_private(text, run.private) else (text, "")


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


if __name__ == "__main__":
    # A line, not all: another process that was forked meanwhile may keep the pipe open.
    config = json.loads(sys.stdin.readline())
    sys.exit(run(config, Sandbox.from_json(config["sandbox"]), Path(sys.argv[1])))
