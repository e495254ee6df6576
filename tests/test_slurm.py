"""A real Slurm on this machine: its commands, its states, its absence.  Each test is one figure of docs/performance.md."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import slurm_cluster
from conftest import TOY, replace_line
from slurm_cluster import SlurmCluster

from ideator_rl.executor import record_store
from ideator_rl.executor.backends.backend import job_prefix
from ideator_rl.storage.bucket import Bucket, open_bucket

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=f"this machine has no {slurm_cluster.missing()}"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two cores, offered as four: the tests are not about the speed of experiments."""
    started = SlurmCluster(tmp_path_factory.mktemp("slurm"), cpus=4)
    yield started
    started.close()


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return open_bucket((tmp_path / "bucket").as_uri())


@pytest.fixture
def start(cluster, bucket, tmp_path, monkeypatch):
    """Start a command of ideator-rl with the backend slurm; `settings` go into its configuration."""
    for name, value in cluster.variables.items():
        monkeypatch.setenv(name, value)
    processes = []

    def go(*words: object, backend: str = "slurm", **settings: object) -> subprocess.Popen[str]:
        config = tmp_path / f"engine{len(processes)}.yaml"
        config.write_text(json.dumps({"every": 1, "logs": str(tmp_path / "logs"), **settings}))
        options = ["--backend", backend, "--backend-config", config]
        argv = [sys.executable, "-m", "ideator_rl.cli", *words, *options]
        process = subprocess.Popen(
            [str(word) for word in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield go
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The calls of Slurm's commands so far, each as its program, its exit status and the second of its end."""
    folder, log = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    log.touch()
    for name in ("sbatch", "squeue", "scancel", "sinfo"):
        line = f'{shutil.which(name)} "$@"; status=$?; echo {name} $status $(date +%s) >>{log}; exit $status\n'
        (folder / name).write_text(f"#!/bin/sh\n{line}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return lambda: [line.split() for line in log.read_text().splitlines()]


def baselines(bucket: Bucket, count: int, seed: int = 0) -> list[object]:
    """The words of `execute` for experiments that differ in their seed alone."""
    words = ["execute", TOY, "--preset", "cpu", "--baseline", "--bucket", bucket.url]
    return [*words, "--replicates", count, "--seed", seed]


def jobs(cluster: SlurmCluster, bucket: Bucket) -> Counter[str]:
    """How many jobs of each name there were for a bucket."""
    names = cluster.command("squeue", "--me", "-h", "-t", "all", "-o", "%j").split()
    return Counter(name for name in names if name.startswith(job_prefix(bucket.url)))


def statuses(process: subprocess.Popen[str]) -> Counter[str]:
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    return Counter(line.split()[0] for line in out.splitlines())


@pytest.mark.parametrize("backend", ["slurm", "command"])
def test_fifty_of_fifty_experiments_run_each_in_one_job(start, cluster, bucket, backend, record_property):
    shipped = {} if backend == "slurm" else _shipped()
    began = time.monotonic()
    assert statuses(start(*baselines(bucket, 50), backend=backend, **shipped)) == {"succeeded": 50}
    record_property("seconds", round(time.monotonic() - began, 1))
    assert set(jobs(cluster, bucket).values()) == {1} and len(jobs(cluster, bucket)) == 50


def test_jobs_reach_an_object_store_and_no_key_is_in_a_command(start, cluster, s3_url):
    bucket = open_bucket(s3_url)
    assert statuses(start(*baselines(bucket, 8))) == {"succeeded": 8}
    assert len(jobs(cluster, bucket)) == 8
    for name in jobs(cluster, bucket):
        id = cluster.command("squeue", "--me", "-h", "-t", "all", "-n", name, "-o", "%A").strip()
        shown = cluster.command("scontrol", "show", "job", id) + cluster.command(
            "scontrol", "write", "batch_script", id, "-"
        )
        assert name in shown and "secretkey1" not in shown


def _shipped() -> dict[str, object]:
    from ideator_rl.config.backend_config import read_backend_config

    return read_backend_config("slurm") | {"every": 1}


def test_a_submitter_killed_at_twenty_moments_submits_each_job_once(start, cluster, bucket):
    moments = random.Random(15)
    for seed in range(20):
        process = start(*baselines(bucket, 3, seed * 100))
        assert process.stderr.readline().startswith("implementer:")
        time.sleep(moments.uniform(0.0, 1.5))
        process.kill()
        process.communicate()
        # The next one takes the rest on, as a scheduler does after a restart.
        assert statuses(start(*baselines(bucket, 3, seed * 100))) == {"succeeded": 3}
    assert set(jobs(cluster, bucket).values()) == {1} and len(jobs(cluster, bucket)) == 60


def test_a_job_that_is_cancelled_by_slurm_ends_its_attempt_with_a_reason(start, cluster, bucket, tmp_path):
    (tmp_path / "patch").write_text(replace_line("time.sleep(pause)", "time.sleep(9)"))
    words = ["--diff", tmp_path / "patch", "--replicates", 4, "--bucket", bucket.url]
    start("execute", TOY, "--preset", "slow", *words)
    ids = _wait_for_claims(bucket, 4)
    cluster.command("scancel", "--me", "--state=running")
    deadline = time.monotonic() + 2.0
    while not all(record_store.attempts(bucket, id)[0].end for id in ids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert {record_store.attempts(bucket, id)[0].end.kind for id in ids} == {record_store.PREEMPTED}


def test_cancel_from_another_process_ends_running_and_waiting_jobs(start, cluster, bucket, calls):
    process = start("execute", TOY, "--preset", "slow", "--baseline", "--replicates", 12, "--bucket", bucket.url)
    _wait_for_claims(bucket, 4)
    process.kill()
    process.communicate()
    before = len(calls())
    out, err = start("cancel", bucket.url, "--json").communicate(timeout=60)
    assert [name for name, *_ in calls()[before:]] == ["squeue", "scancel"]
    assert len(json.loads(out)["experiments"]) >= 8, err
    time.sleep(3)
    states = cluster.command("squeue", "--me", "-h", "-t", "pending,running", "-o", "%j")
    assert job_prefix(bucket.url) not in states


def test_an_interpreter_without_the_library_loses_nothing_and_is_named(start, cluster, bucket):
    process = start(*baselines(bucket, 20), python="/usr/bin/python3")
    lines: list[str] = []
    deadline = time.monotonic() + 120
    while not any("No module named" in line for line in lines):
        assert time.monotonic() < deadline, lines
        lines.append(process.stderr.readline())
    process.kill()
    assert process.communicate()[0].count("lost") == 0
    assert sum(jobs(cluster, bucket).values()) <= 20
    assert statuses(start(*baselines(bucket, 20))) == {"succeeded": 20}


def test_two_minutes_without_slurmctld_lose_nothing(start, cluster, bucket, calls):
    process = start(*baselines(bucket, 30))
    _wait_for_claims(bucket, 4)
    cluster.stop_controller()
    time.sleep(120)
    cluster.start_controller()
    assert statuses(process) == {"succeeded": 30}
    assert set(jobs(cluster, bucket).values()) == {1} and len(jobs(cluster, bucket)) == 30
    failed = [int(second) for _, status, second in calls() if status != "0"]
    assert failed and all(later - earlier >= 30 for earlier, later in itertools.pairwise(failed))


def _wait_for_claims(bucket: Bucket, count: int) -> list[str]:
    """Ids of the first experiments that are claimed."""
    deadline = time.monotonic() + 90
    while True:
        ids = [id for id in bucket.list("experiments") if record_store.attempts(bucket, id)]
        if len(ids) >= count:
            return ids[:count]
        assert time.monotonic() < deadline
        time.sleep(0.1)
