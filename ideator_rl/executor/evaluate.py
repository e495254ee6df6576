"""The evaluator's process: runs an environment's trusted evaluator on one artifact and writes the metric down.

A process of its own, started by the worker, so that nothing of an experiment shares memory with what measures it.

usage: python -m ideator_rl.executor.evaluate CONFIG.json ANSWER.json
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from ideator_rl.environment import Environment, load_environment
from ideator_rl.environment_data import load_trusted
from ideator_rl.executor.sandbox import Sandbox
from ideator_rl.executor.scoring import Implausible, ScorerFailed, ScoringRun


def evaluate(config: dict[str, Any]) -> dict[str, Any]:
    """Run the environment's evaluator; the answer holds `metric`, `invalid` or `failed`."""
    environment = load_environment(config["environment"])
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
        sandbox=Sandbox(config["isolation"]),
        tree=Path(config["tree"]),
        scorer=environment.scorer,
        masked=data.masked,
    )
    try:
        value = float(load_trusted(environment.root / environment.evaluator).evaluate(run))
    except Implausible as error:
        return {"invalid": str(error)}
    except ScorerFailed as error:
        return {"failed": str(error)}
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # the artifact is hostile: what the evaluator stumbles over is the experiment's
        return {"failed": f"what it left could not be scored: {type(error).__name__}"}
    return _believable(value, environment)


def _believable(value: float, environment: Environment) -> dict[str, Any]:
    low, high = environment.metric.plausible
    if not math.isfinite(value) or not low <= value <= high:
        return {
            "invalid": f"{environment.metric.name} is {value:g}, outside the plausible range {low:g} to {high:g}",
            "metric": value if math.isfinite(value) else None,
        }
    return {"metric": value}


if __name__ == "__main__":
    answer = evaluate(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(answer))
