"""The backend `in_process`: the environment's own function answers for a run, at once and in this process.

For testbeds whose codebases are data: nothing of a codebase is executed, imported or written to disk, so there is
nothing to seal.  Refused for every other case: an environment that does not say `in_process: true` in its env.yaml,
and a codebase that anybody but a trusted implementer wrote.

The function is `measured(tree, settings, replicate)` in the environment's evaluator: the metric as a number, or
`ScorerFailed`.  It must be quick, since it holds up whoever asks, and a function of its arguments alone: no attempt is
claimed, and two processes that share a bucket may both compute an outcome, of which the first is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ideator_rl.environments.data import load_trusted
from ideator_rl.environments.environment import Environment, Preset, Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.store import Spec
from ideator_rl.experiment import FAILED, INVALID, SUCCEEDED, Experiment
from ideator_rl.patch import Tree
from ideator_rl.scoring.evaluate import believable
from ideator_rl.scoring.scoring import Implausible, ScorerFailed

LEVEL = "in_process"
"""Isolation of its records."""
REASON = "codebases are data, and nothing of them is executed"

Runner = Callable[[Spec, Tree], Experiment]
"""The record of a spec and its codebase."""


class InProcessBackend:
    starts = True

    def __init__(self, bucket_url: str, slots: int | None = None, isolation: str = "auto"):
        del bucket_url, slots, isolation  # nothing is started, and nothing is there to seal

    def submit(self, id: str, resources: Resources) -> bool:
        raise IdeatorError("The backend in_process starts no attempts: it answers at once.")

    def active(self, id: str) -> bool:
        return False

    def refuse_if_too_large(self, resources: Resources) -> None:
        """What is not started needs no room."""

    def runner(self, environment: Environment, preset: Preset) -> Runner:
        """What runs this environment's experiments.

        Raises:
            IdeatorError: the environment does not say that its codebases are data, or has no function for it.
        """
        if not environment.in_process:
            raise IdeatorError(
                f"The environment {environment.name} cannot be run by the backend in_process: its codebases are code. "
                "Use `backend: local`. Only an environment whose codebases are data says `in_process: true`."
            )
        measured = getattr(load_trusted(environment.root / environment.evaluator), "measured", None)
        if measured is None:
            raise IdeatorError(
                f"{environment.root / environment.evaluator} has no function measured(tree, settings, replicate), "
                "which `in_process: true` in env.yaml promises."
            )

        def run(spec: Spec, tree: Tree) -> Experiment:
            if not spec.trusted:
                raise IdeatorError(
                    f"The backend in_process runs what a trusted implementer wrote, and this is from "
                    f"{spec.implementer}. Use another implementer, or `backend: local`."
                )
            started = time.monotonic()
            status, message = SUCCEEDED, ""
            value: float | None = None
            try:
                value = float(measured(tree, preset.settings, spec.replicate))
                if why := believable(value, environment.metric):
                    status, message = INVALID, why
                    value = value if math.isfinite(value) else None
            except ScorerFailed as error:
                status, message = FAILED, str(error)
            except Implausible as error:
                status, message = INVALID, str(error)
            seconds = {"implement": spec.implement_seconds, "run": time.monotonic() - started}
            return _record(spec, environment, status, value, message, seconds)

        return run


def _record(
    spec: Spec, environment: Environment, status: str, value: float | None, message: str, seconds: dict[str, float]
) -> Experiment:
    metric = environment.metric
    return Experiment(
        id=spec.id,
        status=status,
        idea=spec.idea,
        environment=environment.name,
        preset=spec.preset,
        seed=spec.seed,
        replicate=spec.replicate,
        metric=None if value is None else {"name": metric.name, "value": value, "direction": metric.direction},
        error={"kind": status, "message": message} if message else None,
        seconds=seconds,
        patch=spec.patch,
        isolation=LEVEL,
        implementer=spec.implementer,
        tree=spec.tree,
        created=spec.created,
        finished=time.time(),
        hashes={"environment": spec.digest, "tree": spec.tree},
        hardware=spec.hardware,
    )
