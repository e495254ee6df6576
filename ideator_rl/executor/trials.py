"""The trials of one claimed experiment: run it, have it measured, and run it again where one result is not enough.

- A result beyond the preset's `suspicious.beyond` counts only after a second run, under another seed and measured on
  the second hidden split, agrees with it; the worse of the two is then the metric.  Otherwise it is `invalid`.
- With `suspicious.control`, a third run with a part of the budget must also be worse: what needs no training was in the
  code.
- A fault that is not the idea's raises.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from ideator_rl.environments.environment import Environment, Preset
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.checkpoints import checkpoint_folder, set_aside, time_to_target
from ideator_rl.executor.machine import MachineCheck, MachineFault
from ideator_rl.executor.record_store import Claim, Spec
from ideator_rl.executor.run_variables import filled_command, run_variables
from ideator_rl.executor.share import visible_names
from ideator_rl.executor.workdirs import remove_folder
from ideator_rl.experiment import FAILED, FINAL_REPLICATE, INVALID, LOST, SUCCEEDED, TIMED_OUT, Experiment
from ideator_rl.patch import Tree, write_tree
from ideator_rl.sandbox.checkpoints import Checkpoint
from ideator_rl.sandbox.mounts import Mounts, allotted_gpus
from ideator_rl.sandbox.sandbox import WORKSPACE, Sandbox, experiment_uid
from ideator_rl.sandbox.sealed_run import Command, RunResult, run
from ideator_rl.sandbox.workspace import give_to, in_memory, sized_workspace
from ideator_rl.scoring.allowance import Address, Limits, ScoringCost, doubled, larger, limits, load_cost, store_cost
from ideator_rl.scoring.measurement import CONFIRM, FINAL, MAIN, Measurement, Subject, collect, measure

SEEDS_PER_REPLICATE = 1000
SECOND_SEED = 500
"""Added for the second run: no replicate has that seed."""
NEAR_TARGET = 0.05
"""Share of the target within which an experiment's time to it is measured, which takes several measurements."""


@dataclass(frozen=True)
class Trial:
    """One run and its measurement."""

    result: RunResult
    measurement: Measurement
    score_seconds: float


class Trials:
    """Runs and measures one claimed experiment inside `workdir`."""

    def __init__(self, spec: Spec, claim: Claim, environment: Environment, sandbox: Sandbox, workdir: Path):
        self.spec, self.claim, self.workdir = spec, claim, workdir
        self.environment = environment
        self.preset: Preset = self.environment.preset(spec.preset)
        self.sandbox = sandbox
        self._baseline_measured = False
        """In this attempt, so that its cost is no question of another day's load."""
        self._run_seconds = 0.0
        """Wall seconds of all runs of this attempt."""

    def run(self, tree: Tree) -> Experiment:
        """Run a codebase and have it measured; returns the record, with all of the log that was kept.

        Raises:
            IdeatorError: the environment here is not the one the experiment was made for, or the evaluator itself
                broke.
        """
        digest = self.environment.digest(self.preset.name)
        if digest != self.spec.digest:
            raise IdeatorError(
                f"The environment {self.spec.environment} on this worker differs from the proposer's "
                f"({digest[:12]} here, {self.spec.digest[:12]} there). Install the same version on both."
            )
        seed = self.spec.seed + SEEDS_PER_REPLICATE * self.spec.replicate
        final = self.spec.replicate >= FINAL_REPLICATE
        first = self._run_trial(tree, self.workdir / "first", seed, FINAL if final else MAIN)
        record = self._record(first)
        # Too good to be taken from one run: luck with the seed or with the hidden data would not repeat.  On the final
        # split, further seeds are the confirmation.
        value = record.metric["value"] if record.status == SUCCEEDED and record.metric is not None else None
        if not final and value is not None and self._is_suspicious(value):
            self._confirm(record, self._run_trial(tree, self.workdir / "second", seed + SECOND_SEED, CONFIRM))
            # The same seed and hidden data as the second run: only the budget differs.
            if record.status == SUCCEEDED and (share := self._control_share()):
                trial = self._run_trial(tree, self.workdir / "control", seed + SECOND_SEED, CONFIRM, share)
                self._compare_control(record, trial)
        if gpus := self.preset.resources.gpus:
            record.seconds["gpu"] = gpus * self._run_seconds
        return record

    def _control_share(self) -> float | None:
        return self.preset.suspicious.control if self.preset.suspicious else None

    def _is_suspicious(self, value: float) -> bool:
        bounds = self.preset.suspicious
        return bounds is not None and self.environment.metric.better(value, bounds.beyond)

    def _run_trial(self, tree: Tree, folder: Path, seed: int, split: str, share: float = 1.0) -> Trial:
        """Run and measure once.  `share`: of the budget.

        Raises:
            MachineFault: it failed, and the machine lacked something meanwhile.
        """
        # Two copies: the run may change its own; the scorer's is unpatched where ideas may change the weights alone.
        patched = self.environment.scorer_code == "patched"
        write_tree(tree if patched else self.environment.baseline(self.preset.name), folder / "score")
        folder.chmod(0o711)
        resources, data = self.preset.resources, self.environment.data(self.preset.name)
        machine = MachineCheck(folder, resources, data, in_memory(resources))
        result, fault = self._run_and_collect(tree, folder / "run", folder / "artifact", seed, share)
        if result.killed:
            # By the machine, or by itself: only a second run tells.  One that kills itself gets no third.
            machine.raise_fault()
            remove_folder(folder / "run")
            result, fault = self._run_and_collect(tree, folder / "rerun", folder / "artifact", seed, share)
        if result.status == LOST:
            raise MachineFault(result.message)
        started = time.monotonic()
        if fault is None:
            is_baseline = tree == self.environment.baseline(self.preset.name)
            # Scorers read the last weights alone: the artifact is copied into memory for each.
            aside = set_aside(folder, result.checkpoints)
            measurement = self._measure(folder, split, is_baseline)
            if measurement.status == SUCCEEDED and self._wants_time(measurement.value, split, share):
                measurement = self._with_time_to_target(measurement, result, aside, folder, split, is_baseline)
        else:
            # A limit that it broke is feedback in our words; of a crash, its log has more.
            text = "" if result.crashed or result.status == TIMED_OUT else fault
            measurement = Measurement(TIMED_OUT if result.status == TIMED_OUT else FAILED, fault, text=text)
        if measurement.status in (FAILED, TIMED_OUT):
            machine.raise_fault()
        return Trial(result, measurement, time.monotonic() - started)

    def _run_and_collect(
        self, tree: Tree, workspace: Path, artifact: Path, seed: int, share: float
    ) -> tuple[RunResult, str | None]:
        """Run once and copy what it left; returns also why there is nothing to measure, None if there is."""
        with sized_workspace(workspace, self.preset.resources):
            write_tree(tree, workspace)
            result = self._run_sealed(workspace, seed, share)
            self._run_seconds += result.wall
            if not result.artifact_complete:
                return result, result.message
            return result, collect(workspace / "artifact", artifact, self.preset.resources.artifact_bytes)

    def _wants_time(self, value: float | None, split: str, share: float) -> bool:
        """Whether to measure the time to the target: on the final split, and near the target, which takes long."""
        target, metric = self.preset.target, self.environment.metric
        if target is None or value is None or split == CONFIRM or share < 1.0:
            return False
        margin = NEAR_TARGET * abs(target)
        return split == FINAL or metric.better(value, target + (margin if metric.direction == "min" else -margin))

    def _with_time_to_target(
        self,
        measurement: Measurement,
        result: RunResult,
        aside: list[Checkpoint],
        folder: Path,
        split: str,
        is_baseline: bool,
    ) -> Measurement:
        """The measurement with `loss_final` and `seconds_to_target` in its notes."""
        assert self.preset.target is not None
        final = measurement if split == FINAL else self._measure(folder, FINAL, is_baseline)
        seconds = None
        if final.status == SUCCEEDED and final.value is not None:
            seconds = time_to_target(
                self.environment.metric,
                self.preset.target,
                aside,
                lambda name: self._measure(checkpoint_folder(folder, name), FINAL, is_baseline).value,
                (final.value, result.spent),
            )
        # A tenth of a second: an experiment chooses when it writes.
        notes = {
            "loss_final": final.value if final.status == SUCCEEDED else None,
            "seconds_to_target": None if seconds is None else round(seconds, 1),
            "seconds_compilation": None if result.compiled is None else round(result.compiled, 1),
        }
        return replace(measurement, notes=measurement.notes | notes)

    def _measure(self, folder: Path, split: str, is_baseline: bool) -> Measurement:
        """Measure an artifact, within limits that follow from what the baseline's measurement costs on this machine."""
        address = Address(self.environment.name, self.preset.name, self.spec.digest, self.environment.preload)
        cost = load_cost(address)
        seconds = self.preset.scoring.seconds
        # The baseline is the environment's own: it is measured without them, and they follow from it.
        bounds = Limits(None, seconds) if is_baseline else limits(cost, self.preset.budget, seconds)
        if split == FINAL:
            # The longest split: its scorers have the same seconds a token, its evaluator has other wall seconds.
            bounds = replace(bounds, wall=max(bounds.wall, seconds))
        visible = visible_names([int(number) for number in allotted_gpus()])
        subject = Subject(self.environment, self.preset, self.sandbox, folder, self.spec.seed, split, bounds, visible)
        measurement = measure(subject)
        if is_baseline and measurement.cost is not None and split != FINAL:
            # CPU seconds as first measured; wall seconds when the machine was least busy.
            fresh = measurement.cost
            if cost is None or fresh.wall < cost.wall:
                store_cost(address, replace(cost or fresh, wall=fresh.wall))
        if measurement.over_allowance and not is_baseline and not self._baseline_measured:
            return self._judge_again(subject, measurement, address)
        return measurement

    def _judge_again(self, subject: Subject, exceeded: Measurement, address: Address) -> Measurement:
        """Measure the baseline now and judge by that what exceeded assumed limits, or those of an earlier cost."""
        stored = load_cost(address)
        if stored is not None:
            # The machine may be busier than when the baseline was measured.  That explains a factor of two, not more.
            subject = replace(subject.with_another_audit(), limits=doubled(subject.limits))
            if exceeded.over_wall:
                return exceeded
            measurement = measure(subject)
            if measurement.status != SUCCEEDED:
                # Not believed, it is judged: only a success is a question of the limits.
                return measurement if measurement.status == INVALID else exceeded
        # The first experiment that needs the true limits pays for a run of the baseline; at most one an attempt.
        self._baseline_measured = True
        fresh = self._measure_baseline(subject.workdir.with_name(subject.workdir.name + "-baseline"))
        cost = larger(stored, fresh) if stored is not None else fresh
        store_cost(address, cost)
        return measure(replace(subject.with_another_audit(), limits=limits(cost, self.preset.budget)))

    def _measure_baseline(self, folder: Path) -> ScoringCost:
        """Run and measure the baseline; returns what its measurement took.

        Raises:
            IdeatorError: it did not succeed.
        """
        trial = self._run_trial(self.environment.baseline(self.preset.name), folder, self.spec.seed, MAIN)
        if trial.measurement.status != SUCCEEDED:
            reason = trial.measurement.message or trial.measurement.status
            raise IdeatorError(f"The baseline of {self.environment.name} was to be measured and failed: {reason}")
        assert trial.measurement.cost is not None
        return trial.measurement.cost

    def _run_sealed(self, workspace: Path, seed: int, share: float) -> RunResult:
        budget = replace(self.preset.budget, seconds=share * self.preset.budget.seconds)
        data = self.environment.data(self.preset.name)
        (workspace / "artifact").mkdir()
        give_to(experiment_uid(self.sandbox.level), workspace)
        inside = self.sandbox.visible_path(workspace, WORKSPACE)
        variables = run_variables(
            self.environment,
            self.preset,
            self.sandbox.level,
            (inside, self.sandbox.visible_path(data.public, "/data")),
            budget.seconds,
            seed,
        )
        environment, resources = self.environment, self.preset.resources
        command = Command(
            filled_command(environment.command, variables),
            environment.preload,
            variables,
            environment.import_folders,
            self.preset.ranks,
        )
        mounts = Mounts(
            {workspace: WORKSPACE},
            {data.public: "/data"},
            data.masked,
            resources.network,
            shm_bytes=resources.shm_bytes,
            tmp_bytes=resources.tmp_bytes,
        )
        checkpoints = self.preset.target is not None
        return run(self.sandbox, command, mounts, budget, resources, checkpoints)

    def _confirm(self, record: Experiment, second: Trial) -> None:
        """Let the second trial decide whether the first counts."""
        metric, suspicious = self.environment.metric, self.preset.suspicious
        assert record.metric is not None and suspicious is not None
        first_value = record.metric["value"]
        record.seconds["confirm"] = second.result.wall + second.score_seconds
        second_value = second.measurement.value if second.measurement.status == SUCCEEDED else None
        record.metric |= {"first": first_value, "second": second_value}
        if second_value is not None:
            # The worse of the two is the metric, so that a lucky run gains nothing.
            if metric.better(first_value, second_value):
                record.metric["value"] = second_value
                record.secondary, record.text = second.measurement.secondary, second.measurement.text
            if abs(first_value - second_value) <= suspicious.agree:
                return
        record.status = INVALID
        outcome = f"{second_value:.4g}" if second_value is not None else second.measurement.status
        record.error = {
            "kind": INVALID,
            "message": f"{metric.name} {first_value:.4g} did not repeat under another seed on other hidden data: "
            f"{outcome}",
        }

    def _compare_control(self, record: Experiment, control: Trial) -> None:
        """Refuse a result that a part of the budget reaches as well."""
        metric, suspicious = self.environment.metric, self.preset.suspicious
        assert record.metric is not None and suspicious is not None and suspicious.control is not None
        record.seconds["confirm"] += control.result.wall + control.score_seconds
        value = control.measurement.value if control.measurement.status == SUCCEEDED else None
        record.metric["control"] = value
        # Without a result, the short budget was not enough: that is what the control is to show.
        second = record.metric["second"]
        if value is None or (metric.better(second, value) and abs(second - value) > suspicious.agree):
            return
        record.status = INVALID
        record.error = {
            "kind": INVALID,
            "message": f"{metric.name} {second:.4g} does not come from training: {value:.4g} with "
            f"{suspicious.control:.0%} of the budget",
        }

    def _record(self, trial: Trial) -> Experiment:
        metric, result, measurement = self.environment.metric, trial.result, trial.measurement
        error = {"kind": measurement.status, "message": measurement.message}
        return self.spec.new_record(
            measurement.status,
            self.environment.name,
            metric=metric.facts(measurement.value) if measurement.value is not None else None,
            error=None if measurement.status == SUCCEEDED else error,
            seconds={
                "implement": self.spec.implement_seconds,
                "queue": max(0.0, self.claim.time - self.spec.created - self.spec.implement_seconds),
                "run": result.wall,
                "score": trial.score_seconds,
                "cpu": result.cpu,
                "startup": result.startup,
            },
            log=result.log,
            isolation=self.sandbox.isolation,
            start=result.start,
            attempt=self.claim.number,
            scoring=measurement.notes,
            secondary=measurement.secondary,
            text=measurement.text,
        )
