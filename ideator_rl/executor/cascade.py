"""The cascade: an idea runs at a cheaper preset first, and at the run's own only if it passes there.

An idea passes if its experiment at the cheaper preset succeeds with a reward above `keep_above`, by the environment's
rule for that preset.  Both experiments are ordinary ones: content-addressed, stored in the bucket, run once.

An idea that does not pass is `not_promoted`, with the failure reward.  A reward of the cheaper preset would not do: its
scale may lie above that of the run's own, and an idea would then gain by not passing.  Its record has no `tree`, since
no codebase ran at the run's preset, and an id of its own that depends on both experiments and on `keep_above`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ideator_rl.config.base import read_config
from ideator_rl.config.reader import parse_json
from ideator_rl.config.shared import CascadeConfig, ExperimentSettings
from ideator_rl.environments.environment import Environment, Preset
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.attempt_policy import Lost
from ideator_rl.executor.backends import Backend
from ideator_rl.executor.backends.in_process import IN_PROCESS
from ideator_rl.executor.codebases import Codebase
from ideator_rl.executor.record_store import Spec
from ideator_rl.experiment import NOT_PROMOTED, SUCCEEDED, Experiment, cascade_id, experiment_id, hardware_class
from ideator_rl.patch import PatchError, Tree, diff, judge, tree_hash
from ideator_rl.patch.transfer import transfer
from ideator_rl.reward import RewardRule, reward_rule
from ideator_rl.sandbox.choose import with_image
from ideator_rl.sandbox.sandbox import BWRAP, Sandbox, is_weaker
from ideator_rl.text.display import number
from ideator_rl.text.redaction import beginning_of

BELOW = "below"
"""Kind of the error of an idea that ran at the cheaper preset and was not good enough."""
MAX_QUOTED = 300
"""Characters of an error at the cheaper preset that are quoted."""


@dataclass(frozen=True)
class Origin:
    """What all experiments of an executor have in common."""

    environment: str
    """Name or path, as a worker would load it."""
    seed: int


@dataclass(frozen=True)
class Stage:
    """One preset at which an executor runs codebases."""

    environment: Environment
    preset: Preset
    digest: str
    """Of the environment at this preset."""
    rule: RewardRule
    hardware: str
    isolation: str
    run_at_once: Callable[[Spec, Tree], Experiment] | None
    """What runs an experiment in this process; None where one is scheduled."""
    origin: Origin

    def at(self, name: str, backend: Backend, sandbox: Sandbox, rule: RewardRule, hardware: str) -> Stage:
        """The same for another preset, with its data prepared.

        Args:
            sandbox: as it was chosen, without an image.

        Raises:
            IdeatorError: there is no such preset, its data cannot be prepared, or the backend cannot run it.
        """
        environment = self.environment.at(name)
        preset = environment.preset(name)
        environment.data(name)
        backend.refuse_if_too_large(preset.resources)
        run_at_once = backend.runner(environment, preset)
        if run_at_once is not None:
            sandbox = IN_PROCESS
        elif backend.starts and environment.scorer:
            sandbox = with_image(sandbox, environment.preload)
        digest, isolation = environment.digest(name), sandbox.isolation
        return Stage(environment, preset, digest, rule, hardware, isolation, run_at_once, self.origin)

    def id(self, codebase: Codebase, replicate: int) -> str:
        """The id of an experiment here."""
        # The isolation is part of the id: a record of code that ran less sealed is never replayed as if it had been
        # sealed.
        hardware = self.hardware + ("" if self.isolation == BWRAP else self.isolation)
        seed = self.origin.seed
        return experiment_id(codebase.tree_hash, self.digest, self.preset.name, hardware, seed, replicate)

    def refuse_weaker(self, record: Experiment, bucket_url: str) -> None:
        """Raises: Lost where the record's run was less sealed than one here: an older worker does not compare."""
        if is_weaker(record.isolation, self.isolation):
            raise Lost(
                f"The record {record.id} in the bucket {bucket_url} ran at the isolation {record.isolation}, and this "
                f"run needs {self.isolation}. Remove experiments/{record.id} there, and use workers of this version."
            )

    def new_record(self, id: str, status: str, idea: str, implementer: str, created: float) -> Experiment:
        """The record of an idea that is not run here."""
        return Experiment(
            id=id,
            status=status,
            idea=idea,
            environment=self.environment.name,
            preset=self.preset.name,
            seed=self.origin.seed,
            created=created,
            finished=time.time(),
            implementer=implementer,
            hashes={"environment": self.digest},
            hardware=self.hardware,
        )

    def spec(self, codebase: Codebase, created: float, replicate: int) -> Spec:
        """What a worker needs to run an experiment here."""
        return Spec(
            id=self.id(codebase, replicate),
            environment=self.origin.environment,
            digest=self.digest,
            preset=self.preset.name,
            seed=self.origin.seed,
            replicate=replicate,
            tree=codebase.tree_hash,
            idea=codebase.idea,
            patch=codebase.patch,
            implementer=codebase.implementer,
            trusted=codebase.trusted,
            hardware=self.hardware,
            implement_seconds=codebase.seconds,
            created=created,
        )


def read_cascade(text: str, preset: str) -> CascadeConfig | None:
    """The cascade of an executor's configuration, as JSON; None for the empty text.

    Raises:
        IdeatorError: it is not usable, or names the run's own preset.
    """
    if not text:
        return None
    cascade = read_config(CascadeConfig, parse_json(text, "The cascade", IdeatorError), "The cascade has")
    refuse_own_preset(cascade, preset)
    return cascade


def open_cascade(
    text: str, stage: Stage, settings: ExperimentSettings, backend: Backend, sandbox: Sandbox
) -> Cascade | None:
    """The cascade before a stage; None for the empty text.

    Args:
        text: its configuration, as JSON.
        sandbox: as it was chosen, without an image.

    Raises:
        IdeatorError: it is not usable, or the backend cannot run its preset.
    """
    cascade = read_cascade(text, stage.preset.name)
    if cascade is None:
        return None
    preset = stage.environment.preset(cascade.preset)
    rule = reward_rule(stage.environment, preset.name, settings.reward_transform)
    backend.refuse_other_hardware(settings.hardware, preset.resources)
    hardware = hardware_class(preset.resources.gpus, settings.hardware)
    cheap = stage.at(preset.name, backend, sandbox, rule, hardware)
    return Cascade(cascade, cheap, stage.environment.baseline(stage.preset.name))


def refuse_own_preset(cascade: CascadeConfig, preset: str) -> None:
    """Raises: IdeatorError where a cascade would run each idea twice at one preset."""
    if cascade.preset == preset:
        raise IdeatorError(f"The cascade's preset is {preset!r}, which is the run's own. Name a cheaper one.")


class Cascade:
    """The cheaper preset of an executor, and what an idea's outcome there means.

    Args:
        stage: the cheaper preset.
        own_base: the baseline of the run's own preset.
    """

    def __init__(self, config: CascadeConfig, stage: Stage, own_base: Tree):
        self.config, self.stage, self._own_base = config, stage, own_base
        self._base = stage.environment.baseline(stage.preset.name)

    def codebase(self, codebase: Codebase) -> Codebase:
        """The same change of the cheaper preset's baseline.

        Raises:
            PatchError: it does not apply there, or breaks a rule there.
        """
        tree = transfer(self._own_base, codebase.tree, self._base)
        judge(self._base, tree, self.stage.environment.rules)
        return replace(codebase, tree=tree, tree_hash=tree_hash(tree), patch=diff(self._base, tree))

    def passes(self, cheap: Experiment) -> bool:
        return cheap.status == SUCCEEDED and cheap.reward is not None and cheap.reward > self.config.keep_above

    def facts(self, cheap: Experiment) -> dict[str, Any]:
        """What a record stores of the experiment at the cheaper preset."""
        return {
            "preset": self.config.preset,
            "keep_above": self.config.keep_above,
            "id": cheap.id,
            "status": cheap.status,
            "metric": cheap.metric,
            "reward": cheap.reward,
        }

    def promoted(self, record: Experiment, cheap: Experiment) -> Experiment:
        """The record of an idea that passed, with both results and the time that both took."""
        seconds = record.seconds | _seconds(cheap)
        if gpu := record.seconds.get("gpu", 0.0) + cheap.seconds.get("gpu", 0.0):
            seconds["gpu"] = gpu
        return replace(record, cascade=self.facts(cheap), seconds=seconds)

    def not_promoted(self, record: Experiment, cheap: Experiment, id: str) -> Experiment:
        """The record of an idea that did not pass.

        Args:
            record: a new one, of the run's own preset.
            id: of the experiment that it would have been there.
        """
        kept = {name: cheap.seconds[name] for name in ("implement", "queue", "gpu", "cpu") if name in cheap.seconds}
        return replace(
            record,
            id=cascade_id(id, cheap.id, self.config.keep_above),
            log=cheap.log,
            text=cheap.text,
            isolation=cheap.isolation,
            attempt=cheap.attempt,
            seconds=kept | _seconds(cheap),
            error=self._error(cheap),
            cascade=self.facts(cheap),
            replayed=cheap.replayed,
        )

    def _error(self, cheap: Experiment) -> dict[str, str]:
        where = f"at the preset {self.config.preset}"
        if cheap.status == SUCCEEDED:
            reward = "none" if cheap.reward is None else number(cheap.reward)
            return {"kind": BELOW, "message": f"its reward {where} is {reward}; over {self.config.keep_above:g} passes"}
        message = beginning_of((cheap.error or {}).get("message", ""), MAX_QUOTED)
        return {"kind": cheap.status, "message": f"{cheap.status} {where}: {message}"}


def unfit_patch(error: PatchError, record: Experiment, preset: str) -> Experiment:
    """The record of an idea whose patch does not lead to a codebase of the cheaper preset."""
    message = beginning_of(f"its patch does not fit the preset {preset}: {error}", 3 * MAX_QUOTED)
    return replace(record, status=NOT_PROMOTED, error={"kind": error.kind, "message": message})


def _seconds(cheap: Experiment) -> dict[str, float]:
    return {"cascade": cheap.seconds.get("run", 0.0) + cheap.seconds.get("score", 0.0)}
