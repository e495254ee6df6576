"""The backend `in_process`: the environment's own function computes the outcome, at once and in this process.

For testbeds whose codebases are data.  Nothing of a codebase is executed, imported or written to disk, so there is
nothing to seal.  Refused in every other case: an environment without `in_process: true` in its env.yaml, and a codebase
that a trusted implementer did not write.

The function is `measured(tree, settings, replicate)` in the environment's evaluator.  It returns the metric as a number
or raises `ScorerFailed`.  It must be quick, since the caller waits for it, and depend on its arguments alone: no
attempt is claimed, so two processes that share a bucket may both compute an outcome; the first one written is kept.
"""

from __future__ import annotations

import math
import time

from ideator_rl.environments.data import load_trusted
from ideator_rl.environments.environment import Environment, Preset
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.backends.backend import Backend, Job, Runner
from ideator_rl.executor.record_store import Spec
from ideator_rl.experiment import FAILED, INVALID, SUCCEEDED, Experiment
from ideator_rl.patch import Tree
from ideator_rl.sandbox.sandbox import Sandbox
from ideator_rl.scoring.result import MAX_TEXT, BadResult, Result, broken_requirement, read_result, why_implausible
from ideator_rl.scoring.scoring import Implausible, ScorerFailed

IN_PROCESS = Sandbox("in_process", "codebases are data, and nothing of them is executed")
"""What its records show as isolation."""


class InProcessBackend(Backend):
    starts = False

    def __init__(self, bucket_url: str, slots: int | None = None, isolation: str = "auto"):
        del bucket_url, slots, isolation  # no process is started, and there is nothing to seal

    def submit(self, jobs: list[Job]) -> dict[str, str | None]:
        raise IdeatorError("The backend in_process starts no attempts: it runs experiments at once.")

    def runner(self, environment: Environment, preset: Preset) -> Runner:
        """What runs this environment's experiments.

        Raises:
            IdeatorError: the environment does not declare that its codebases are data, or has no function for it.
        """
        if not environment.in_process:
            raise IdeatorError(
                f"The environment {environment.name} cannot be run by the backend in_process: its codebases are code. "
                "Use `backend: local`. Only an environment whose codebases are data has `in_process: true`."
            )
        measured = vars(load_trusted(environment.root / environment.evaluator)).get("measured")
        if measured is None:
            raise IdeatorError(
                f"{environment.root / environment.evaluator} has no function measured(tree, settings, replicate), "
                "which `in_process: true` in env.yaml promises."
            )

        def run(spec: Spec, tree: Tree) -> Experiment:
            if not spec.trusted:
                raise IdeatorError(
                    f"The backend in_process runs codebases of a trusted implementer, and this one is from "
                    f"{spec.implementer}, or builds on code that the bucket does not hold as that of one. Use another "
                    "implementer, inherit: none, or `backend: local`."
                )
            started = time.monotonic()
            status, message = SUCCEEDED, ""
            result, value = Result(math.nan), math.nan
            try:
                returned = measured(tree, preset.settings, spec.replicate)
                result = read_result(returned, environment.metric, measured, f"measured in {environment.evaluator}")
                value = result.value
                # An implausible number stays in the record, for inspection; an infinite one has no form in JSON.
                message = why_implausible(value, environment.metric) or broken_requirement(result, environment.metric)
                status = INVALID if message else SUCCEEDED
            except BadResult as error:
                status, message = FAILED, str(error)
            except ScorerFailed as error:
                status, message = FAILED, str(error)
                result = Result(math.nan, text=message[:MAX_TEXT])
            except Implausible as error:
                status, message = INVALID, str(error)
            metric = environment.metric
            return spec.new_record(
                status,
                environment.name,
                metric=metric.facts(value) if math.isfinite(value) else None,
                secondary=result.secondary,
                text=result.text,
                error={"kind": status, "message": message} if message else None,
                seconds={"implement": spec.implement_seconds, "run": time.monotonic() - started},
                isolation=IN_PROCESS.level,
                finished=time.time(),
            )

        return run
