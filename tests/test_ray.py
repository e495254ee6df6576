"""The backend `ray` on a real cluster of this machine, where ray is installed."""

import asyncio
import importlib.util
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TOY, run

from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.backends.backend import (
    JOB_CANCELLED,
    JOB_FAILED,
    NODE_FAIL,
    OVER,
    RUNNING,
    WAITING,
    Job,
    backend_class,
    job_name,
)  # fmt: skip
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.storage.bucket import open_bucket

HAS_RAY = importlib.util.find_spec("ray") is not None
SLEEPER = "#!/bin/sh\nexec sleep 600\n"
SUBMIT = """
import json, os, signal, sys
from test_ray import backend, job, states_of
sleeper, names = sys.argv[1], json.loads(sys.argv[2])
ray = backend(python=sleeper)
assert set(ray.submit([job(name) for name in names]).values()) == {None}
states_of(ray, ["running", "running", "waiting"])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if not HAS_RAY:
        pytest.skip("ray is not installed: pip install ray")
    folder = tmp_path_factory.mktemp("ray")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    options = ["--node-ip-address=127.0.0.1", "--num-cpus=2", "--num-gpus=1", "--include-dashboard=false"]
    # A short path: sockets lie below it.
    head = subprocess.Popen(
        [*command, *options, f"--temp-dir=/tmp/ray-{os.getpid()}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline and head.poll() is None, "the cluster did not start"
            time.sleep(0.2)
    yield head
    head.send_signal(signal.SIGTERM)
    head.wait(60)


def backend(**settings):
    return backend_class("ray").create(open_bucket("memory://ray"), None, "auto", settings)


def job(name, **resources):
    return Job(
        name,
        name.split("-")[1],
        "memory://ray",
        "auto",
        Resources(**{"cpus": 1, "memory_gb": 0.4, "disk_gb": 0.1, **resources}),
        10,
    )


def names(*ids):
    return [job_name("memory://ray", id, 0) for id in ids]


def states_of(ray, expected, seconds=120):
    """Wait until the listing has these states."""
    deadline, states = time.monotonic() + seconds, []
    while states != expected:
        assert time.monotonic() < deadline, states
        time.sleep(0.2)
        states = sorted(state.state for state in (ray.listing() or {}).values())


def wait_for(ray, expected, seconds=120):
    """The listing, once the jobs have the expected states; a job that is over is listed once."""
    over, deadline = {}, time.monotonic() + seconds
    while True:
        states = ray.listing() or {}
        over |= {name: state for name, state in states.items() if state.state == OVER}
        result = {name: (state.state, state.reason) for name, state in (states | over).items()}
        if result == expected:
            return
        assert time.monotonic() < deadline, f"{result}, not {expected}"
        time.sleep(0.2)


def sleeper(tmp_path):
    path = tmp_path / "sleeper.sh"
    path.write_text(SLEEPER)
    path.chmod(0o755)
    return str(path)


@pytest.mark.slow
def test_fifty_experiments_run_on_a_cluster(cluster, toy_config):
    config = replace(toy_config, backend="ray", backend_config=json.dumps({"every": 0.5}), slots=None)
    buffer = RewardBuffer(config)

    async def all_baselines():
        return await asyncio.gather(*(buffer.baseline(number) for number in range(50)))

    start = time.monotonic()
    records = run(all_baselines())
    print(f"50 experiments in {time.monotonic() - start:.0f} s")
    assert [record.status for record in records] == ["succeeded"] * 50
    assert {record.attempt for record in records} == {0}
    buffer.close()


@pytest.mark.slow
def test_workers_on_a_cluster_get_the_credentials_of_an_object_store(cluster, toy_config, s3_url):
    buffer = RewardBuffer(replace(toy_config, backend="ray", bucket=s3_url, slots=None))

    async def all_baselines():
        return await asyncio.gather(*(buffer.baseline(number) for number in range(3)))

    assert [record.status for record in run(all_baselines())] == ["succeeded"] * 3
    buffer.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_scheduler_killed_at_twenty_moments_starts_nothing_twice(cluster, tmp_path):
    bucket, settings = f"file://{tmp_path}/bucket", tmp_path / "ray.yaml"
    settings.write_text("every: 1\n")
    cli = [sys.executable, "-m", "ideator_rl.cli"]
    ask = [*cli, "execute", str(TOY), "--baseline", "--replicates", "50", "--bucket", bucket, "--backend", "bucket"]
    serve = [*cli, "scheduler", "--bucket", bucket, "--backend", "ray", "--backend-config", str(settings)]
    moments = random.Random(3)
    with subprocess.Popen(ask, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as proposer:
        for _ in range(20):
            with subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as scheduler:
                time.sleep(4 + moments.uniform(0, 8))
                scheduler.kill()
        with subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as scheduler:
            assert proposer.wait(900) == 0
            scheduler.terminate()
    folder = tmp_path / "bucket/experiments"
    assert len(list(folder.glob("*/result.json"))) == len(list(folder.glob("*/attempts/*/claim.json"))) == 50


@pytest.mark.slow
def test_a_restarted_scheduler_finds_its_jobs_by_name_and_starts_none_twice(cluster, tmp_path):
    script, jobs = sleeper(tmp_path), names("a1", "a2", "a3")
    submitter = subprocess.run([sys.executable, "-c", SUBMIT, script, json.dumps(jobs)], cwd=Path(__file__).parent)
    assert submitter.returncode == -signal.SIGKILL
    ray = backend(python=script)
    # Two CPUs: the third waits.
    states_of(ray, [RUNNING, RUNNING, WAITING])
    assert ray.submit([job(name) for name in jobs]) == dict.fromkeys(jobs)
    assert len(ray.listing()) == 3
    ray.cancel(jobs)
    wait_for(ray, dict.fromkeys(jobs, (OVER, JOB_CANCELLED)))
    assert ray.listing() == {}


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_a_failed_job_with_a_log(cluster, tmp_path):
    python = tmp_path / "python.sh"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'ideator_rl'\" >&2\nexit 1\n")
    python.chmod(0o755)
    ray, (name,) = backend(python=str(python)), names("b1")
    ray.submit([job(name)])
    wait_for(ray, {name: (OVER, JOB_FAILED)})
    assert "No module named" in ray.log_tail(name)
    # The name is free again.
    ray = backend(python=str(tmp_path / "nothing"))
    assert ray.submit([job(name)]) == {name: None}
    wait_for(ray, {name: (OVER, JOB_FAILED)})
    assert "nothing" in ray.log_tail(name)


@pytest.mark.slow
def test_a_killed_actor_is_a_fault_of_its_node_and_its_worker_ends_too(cluster, tmp_path):
    script, (name,) = sleeper(tmp_path), names("c1")
    script = Path(script)
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    ray = backend(python=str(script))
    ray.submit([job(name, gpus=1)])
    wait_for(ray, {name: (RUNNING, "")})
    while not (tmp_path / "pid").exists():
        time.sleep(0.05)
    worker = int((tmp_path / "pid").read_text())
    actor = int(Path(f"/proc/{worker}/stat").read_text().split()[3])
    assert b"CUDA_VISIBLE_DEVICES=0" in Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    os.kill(actor, signal.SIGKILL)
    wait_for(ray, {name: (OVER, NODE_FAIL)})
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}/cmdline").exists() and Path(f"/proc/{worker}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the worker outlived its actor"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_head_that_hangs_changes_nothing(cluster, tmp_path):
    ray, (name,) = backend(python=sleeper(tmp_path), timeout=3), names("d1")
    ray.submit([job(name)])
    wait_for(ray, {name: (RUNNING, "")})
    command = ["pgrep", "-f", f"gcs_server.*{os.environ['RAY_ADDRESS'].rpartition(':')[2]}"]
    gcs = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])
    os.kill(gcs, signal.SIGSTOP)
    try:
        start = time.monotonic()
        assert ray.listing() is None and ray.listing() is None
        assert time.monotonic() - start < 8
    finally:
        os.kill(gcs, signal.SIGCONT)
    wait_for(ray, {name: (RUNNING, "")})
    ray.cancel([name])
    wait_for(ray, {name: (OVER, JOB_CANCELLED)})


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_the_package_the_backend_says_what_to_install():
    with pytest.raises(IdeatorError, match="pip install ray"):
        backend()
