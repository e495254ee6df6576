"""One attempt at one experiment: run it sealed, have it measured, and run it again if it is too good to be believed.

A result beyond the preset's `suspicious.beyond` counts only after a second run, under another seed and measured on the
second hidden split, agrees with it; the worse of the two is then the metric.  The record does not say more to the
learner than `invalid`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from ideator_rl.environments.environment import Preset, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import store as attempts
from ideator_rl.experiment import FAILED, INVALID, SUCCEEDED, TIMED_OUT, Experiment
from ideator_rl.patch import Tree, write_tree
from ideator_rl.sandbox.mounts import Mounts, allotted_gpus
from ideator_rl.sandbox.sandbox import NONE, WORKSPACE, Sandbox, choose, experiment_uid
from ideator_rl.sandbox.sealed_run import Command, Ended, run
from ideator_rl.scoring.measurement import CONFIRM, MAIN, Outcome, Subject, collect, measure
from ideator_rl.storage.bucket import Bucket

SEEDS_A_REPLICATE = 1000
SECOND_SEED = 500
"""Added for the second run: no replicate has that seed."""


@dataclass(frozen=True)
class Trial:
    """One run and its measurement."""

    ended: Ended
    outcome: Outcome
    score_seconds: float


class Supervisor:
    def __init__(self, bucket: Bucket, spec: attempts.Spec, number: int, isolation: str, home: Path):
        self.bucket, self.spec, self.number, self.home = bucket, spec, number, home
        self.environment = load_environment(spec.environment)
        self.preset: Preset = self.environment.preset(spec.preset)
        self.sandbox: Sandbox = choose(isolation, spec.trusted)
        self.claimed = time.time()
        self._next_beat = 0.0

    def work(self) -> Experiment:
        """Run and score; returns the record.

        Raises:
            IdeatorError: the environment here is not the one the experiment was made for, its codebase is gone, or
                the evaluator itself broke.
        """
        digest = self.environment.digest(self.preset.name)
        if digest != self.spec.digest:
            raise IdeatorError(
                f"The environment {self.spec.environment} on this worker differs from the proposer's "
                f"({digest[:12]} here, {self.spec.digest[:12]} there). Install the same version on both."
            )
        tree = attempts.load_tree(self.bucket, self.spec.tree)
        if tree is None:
            raise IdeatorError(f"The codebase {self.spec.tree[:12]} is not in the bucket {self.bucket.url}.")
        seed = self.spec.seed + SEEDS_A_REPLICATE * self.spec.replicate
        first = self._trial(tree, self.home / "first", seed, MAIN)
        record = self._record(first)
        if record.status == SUCCEEDED and record.metric is not None and self._suspicious(record.metric["value"]):
            self._confirm(record, self._trial(tree, self.home / "second", seed + SECOND_SEED, CONFIRM))
        return record

    def _suspicious(self, value: float) -> bool:
        bounds = self.preset.suspicious
        return bounds is not None and self.environment.metric.better(value, bounds.beyond)

    def _trial(self, tree: Tree, home: Path, seed: int, split: str) -> Trial:
        patched = self.environment.scorer_code == "patched"
        write_tree(tree, home / "run")
        write_tree(tree if patched else self.environment.baseline(self.preset.name), home / "score")
        home.chmod(0o711)
        ended = self._run(home / "run", seed)
        if not ended.kept:
            status = TIMED_OUT if ended.status == "timed_out" else FAILED
            return Trial(ended, Outcome(status, ended.message), 0.0)
        started = time.monotonic()
        fault = collect(home / "run" / "artifact", home / "artifact")
        if fault:
            return Trial(ended, Outcome(FAILED, fault), time.monotonic() - started)
        subject = Subject(self.environment, self.preset, self.sandbox, home, self.spec.seed, split, ended.startup)
        outcome = measure(subject, self._beat)
        return Trial(ended, outcome, time.monotonic() - started)

    def _run(self, workspace: Path, seed: int) -> Ended:
        data = self.environment.data(self.preset.name)
        (workspace / "artifact").mkdir()
        _own(workspace, experiment_uid(self.sandbox.level))
        inside = self.sandbox.place(workspace, WORKSPACE)
        variables = {
            "PATH": "/usr/bin:/bin",
            "HOME": inside,
            "USER": "experiment",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": str(self.preset.resources.cpus),
            "IDEATOR_DATA": self.sandbox.place(data.public, "/data"),
            "IDEATOR_ARTIFACT": inside + "/artifact",
            "IDEATOR_BUDGET_SECONDS": str(self.preset.budget.seconds),
            "IDEATOR_SEED": str(seed),
        }
        if gpus := allotted_gpus():
            # A sandbox shows the allotted devices alone, and CUDA counts what it sees from 0.
            seen = gpus if self.sandbox.level == NONE else [str(number) for number in range(len(gpus))]
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(seen)
        command = Command(self.environment.command, self.environment.preload, variables)
        network = self.preset.resources.network
        mounts = Mounts({workspace: WORKSPACE}, {data.public: "/data"}, data.masked, network)
        return run(self.sandbox, command, mounts, self.preset.budget, self.preset.resources, self._beat)

    def _beat(self) -> None:
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + attempts.BEAT_SECONDS
            attempts.beat(self.bucket, self.spec.id, self.number)

    def _confirm(self, record: Experiment, second: Trial) -> None:
        """Let the second trial decide whether the first counts."""
        metric, suspicious = self.environment.metric, self.preset.suspicious
        assert record.metric is not None and suspicious is not None
        first = record.metric["value"]
        record.seconds["confirm"] = second.ended.wall + second.score_seconds
        again = second.outcome.value if second.outcome.status == SUCCEEDED else None
        record.metric |= {"first": first, "second": again}
        if again is not None:
            record.metric["value"] = again if metric.better(first, again) else first
            if abs(first - again) <= suspicious.agree:
                return
        record.status = INVALID
        what = f"{again:.4g}" if again is not None else second.outcome.status
        record.error = {
            "kind": INVALID,
            "message": f"{metric.name} {first:.4g} did not repeat under another seed on other hidden data: {what}",
        }

    def _record(self, trial: Trial) -> Experiment:
        spec, metric, ended, outcome = self.spec, self.environment.metric, trial.ended, trial.outcome
        error = None if outcome.status == SUCCEEDED else {"kind": outcome.status, "message": outcome.message}
        measured = {"name": metric.name, "value": outcome.value, "direction": metric.direction}
        return Experiment(
            id=spec.id,
            status=outcome.status,
            idea=spec.idea,
            environment=self.environment.name,
            preset=spec.preset,
            seed=spec.seed,
            replicate=spec.replicate,
            metric=measured if outcome.value is not None else None,
            error=error,
            seconds={
                "implement": spec.implement_seconds,
                "queue": max(0.0, self.claimed - spec.created - spec.implement_seconds),
                "run": ended.wall,
                "score": trial.score_seconds,
                "cpu": ended.cpu,
                "startup": ended.startup,
            },
            patch=spec.patch,
            log=ended.log,
            isolation=self.sandbox.level,
            implementer=spec.implementer,
            tree=spec.tree,
            attempt=self.number,
            created=spec.created,
            scoring=outcome.notes,
            hashes={"environment": spec.digest, "tree": spec.tree},
            hardware=spec.hardware,
        )


def _own(folder: Path, uid: int) -> None:
    if uid != os.getuid():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, uid)
