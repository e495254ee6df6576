"""The worker: one detached supervisor process that runs one experiment, has it scored, and publishes the record.

Claim before spending; heartbeat while running; result created once.  The supervisor outlives whoever started it.  If
it is killed, its sandbox dies with it and the attempt counts as lost.  Whatever goes wrong that is not the idea's
fault ends the attempt with a reason and no result, so that it can be tried again.

usage: python -m ideator_rl.executor.worker '{"bucket": URL, "id": ID, "isolation": "auto"}'
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from ideator_rl.bucket import Bucket, open_bucket
from ideator_rl.environment import Preset, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import attempts, process_tree
from ideator_rl.executor.sandbox import WORKSPACE, Mounts, Sandbox, choose, experiment_uid
from ideator_rl.executor.sealed_run import Command, Ended, run
from ideator_rl.experiment import FAILED, INVALID, SUCCEEDED, TIMED_OUT, Experiment
from ideator_rl.patch import write_tree

MAX_ARTIFACT_BYTES = 256 << 20
MAX_ARTIFACT_FILES = 64
SCORE_SECONDS = 600.0
"""Wall seconds for the evaluator; longer is the experiment's fault (its model answers too slowly)."""


class Supervisor:
    """One attempt at one experiment."""

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
            IdeatorError: the environment here is not the one the experiment was made for, or its codebase is gone.
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
        write_tree(tree, self.home / "run")
        patched = self.environment.scorer_code == "patched"
        write_tree(tree if patched else self.environment.baseline(self.preset.name), self.home / "score")
        ended = self._run()
        record = self._record(ended)
        if not ended.kept:
            record.status = TIMED_OUT if ended.status == "timed_out" else FAILED
            record.error, record.metric = {"kind": record.status, "message": ended.message}, None
            return record
        return self._score(record)

    def _run(self) -> Ended:
        workspace, data = self.home / "run", self.environment.data(self.preset.name)
        (workspace / "artifact").mkdir()
        _own(workspace, experiment_uid(self.sandbox.level))
        inside = self.sandbox.place(workspace, WORKSPACE)
        variables = {
            "PATH": "/usr/bin:/bin",
            "HOME": inside,
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": str(self.preset.resources.cpus),
            "IDEATOR_DATA": self.sandbox.place(data.public, "/data"),
            "IDEATOR_ARTIFACT": inside + "/artifact",
            "IDEATOR_BUDGET_SECONDS": str(self.preset.budget.seconds),
            "IDEATOR_SEED": str(self.spec.seed + 1000 * self.spec.replicate),
        }
        if gpus := os.environ.get("IDEATOR_GPUS"):
            variables["CUDA_VISIBLE_DEVICES"] = gpus
        command = Command(self.environment.command, self.environment.preload, variables)
        mounts = Mounts({workspace: WORKSPACE}, {data.public: "/data"}, data.masked)
        return run(self.sandbox, command, mounts, self.preset.budget, self.preset.resources, self._beat)

    def _beat(self) -> None:
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + attempts.BEAT_SECONDS
            attempts.beat(self.bucket, self.spec.id, self.number)

    def _record(self, ended: Ended) -> Experiment:
        spec, metric = self.spec, self.environment.metric
        return Experiment(
            id=spec.id,
            status=SUCCEEDED,
            idea=spec.idea,
            environment=self.environment.name,
            preset=spec.preset,
            seed=spec.seed,
            replicate=spec.replicate,
            metric={"name": metric.name, "value": None, "direction": metric.direction},
            reward=self.environment.failure_reward,
            seconds={
                "implement": spec.implement_seconds,
                "queue": max(0.0, self.claimed - spec.created - spec.implement_seconds),
                "run": ended.wall,
                "score": 0.0,
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
            hashes={"environment": spec.digest, "tree": spec.tree},
            hardware=spec.hardware,
        )

    def _score(self, record: Experiment) -> Experiment:
        started = time.monotonic()
        fault = collect(self.home / "run" / "artifact", self.home / "artifact")
        answer = {"failed": fault} if fault else self._evaluate(record.seconds["startup"])
        record.seconds["score"] = time.monotonic() - started
        assert record.metric is not None
        record.metric["value"] = answer.get("metric")
        if "failed" in answer or "invalid" in answer:
            kind = FAILED if "failed" in answer else INVALID
            record.status, record.error = kind, {"kind": kind, "message": answer[kind]}
        else:
            record.reward = self.environment.reward(float(answer["metric"]))
        if answer.get("metric") is None:
            record.metric = None
        return record

    def _evaluate(self, startup: float) -> dict[str, Any]:
        """Have the trusted evaluator, in a process of its own, measure the artifact.

        Raises:
            IdeatorError: the evaluator itself broke: ours, not the idea's.
        """
        config, out = self.home / "score.json", self.home / "answer.json"
        config.write_text(
            json.dumps(
                {
                    "environment": str(self.environment.root),
                    "preset": self.preset.name,
                    "seed": self.spec.seed,
                    "artifact": str(self.home / "artifact"),
                    "tree": str(self.home / "score"),
                    "isolation": self.sandbox.level,
                }
            )
        )
        _readable(self.home / "score")
        # Two scorers import what the run did; training in them would be a budget of its own.
        allowed = 5.0 + 3 * startup + self.preset.budget.seconds if self.preset.budget.clock == "cpu" else None
        command = [sys.executable, "-P", "-m", "ideator_rl.executor.evaluate", str(config), str(out)]
        errors = self.home / "evaluator.log"
        with open(errors, "wb") as stderr:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
        deadline = time.monotonic() + SCORE_SECONDS
        try:
            while process.poll() is None:
                self._beat()
                if fault := self._scoring_fault(process.pid, allowed, deadline):
                    return {"failed": fault}
                time.sleep(0.02)
        finally:
            process_tree.end(os.getpid())
            process.wait()
        if process.returncode != 0 or not out.is_file():
            words = errors.read_text(errors="replace").strip().splitlines()
            raise IdeatorError(f"The evaluator of {self.environment.name} broke: {(words or ['no output'])[-1]}")
        return json.loads(out.read_text())

    def _scoring_fault(self, pid: int, allowed: float | None, deadline: float) -> str | None:
        """What limit the scoring breaks now: wall time, CPU seconds, or memory, over all its processes."""
        cpu, resident = process_tree.usage(process_tree.below(pid))
        if time.monotonic() > deadline:
            return f"scoring took over {SCORE_SECONDS:g} s"
        if allowed is not None and cpu > allowed:
            return f"scoring took over {allowed:.0f} CPU seconds"
        if resident > self.preset.resources.memory_gb * 1e9:
            return f"scoring took over {self.preset.resources.memory_gb:g} GB of memory"
        return None


def collect(source: Path, target: Path) -> str | None:
    """Copy an artifact out of the experiment's reach: small regular files only.  Returns what is wrong, if anything.

    Nothing of the experiment is alive any more; links and special files may still be there and are refused.
    """
    target.mkdir()
    try:
        return _collect(source, target)
    except OSError as error:
        return f"its artifact cannot be read: {error.strerror}"


def _collect(source: Path, target: Path) -> str | None:
    names = sorted(os.listdir(source)) if source.is_dir() and not source.is_symlink() else []
    if not names:
        return "it left nothing in the artifact folder (IDEATOR_ARTIFACT)"
    if len(names) > MAX_ARTIFACT_FILES:
        return f"it left {len(names)} files as artifact; at most {MAX_ARTIFACT_FILES} are taken"
    total = 0
    for name in names:
        info = (source / name).lstat()
        total += info.st_size
        if not stat.S_ISREG(info.st_mode):
            return f"its artifact holds {name!r}, which is not a regular file"
        if total > MAX_ARTIFACT_BYTES:
            return f"its artifact is over {MAX_ARTIFACT_BYTES >> 20} MiB"
        handle = os.open(source / name, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as reader, open(target / name, "xb") as writer:
            shutil.copyfileobj(reader, writer)
    _readable(target)
    return None


def _readable(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _own(folder: Path, uid: int) -> None:
    if uid != os.getuid():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, uid)


def cancel(bucket: Bucket, ids: list[str]) -> list[str]:
    """End the supervisors of these experiments that run in this boot of this machine; returns the ids ended.

    A pid is signalled only while its start time is the claimed one.  The experiments can be run again later.
    """
    ended = []
    for id in ids:
        held = attempts.running(bucket, id)
        if held is None or held["place"] != process_tree.place():
            continue
        if process_tree.start_time(held["pid"]) == held["start"]:
            os.kill(held["pid"], signal.SIGKILL)
            ended.append(id)
    return ended


def main(config: dict[str, Any]) -> int:
    """Returns 0 when a result stands in the bucket or somebody else is at it, 1 when the attempt was lost."""
    process_tree.become_subreaper()
    bucket = open_bucket(config["bucket"])
    spec = attempts.Spec.load(bucket, config["id"])
    number = attempts.claim(bucket, config["id"]) if spec is not None else None
    if spec is None or number is None:
        return 0
    home = None
    try:
        home = Path(tempfile.mkdtemp(prefix="ideator-"))
        home.chmod(0o711)
        record = Supervisor(bucket, spec, number, config.get("isolation", "auto"), home).work()
        record.finished = time.time()
        attempts.store_result(bucket, record)
        return 0
    except Exception as error:
        expected = isinstance(error, IdeatorError)
        attempts.give_up(bucket, spec.id, number, str(error) if expected else traceback.format_exc(limit=-3))
        return 1
    finally:
        if home is not None:
            _remove(home)


def _remove(home: Path) -> None:
    """Remove a folder that hostile code wrote into: deeper than Python recurses, or closed to its owner."""
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        if home.exists():
            subprocess.run([*command, str(home)], stderr=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
