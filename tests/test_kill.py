"""Kill -9 at random moments, resume, and compare with an uninterrupted run."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ideator_rl.executor import record_store
from ideator_rl.storage.bucket import open_bucket

HERE = Path(__file__).parent
SETTINGS = ["--preset", "slow", "--max_steps", "4", "--per_device_train_batch_size", "6", "--num_generations", "6"]


class Zygote:
    def __init__(self):
        command = [sys.executable, str(HERE / "zygote.py")]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent
        )

    def ask(self, **request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, folder, *words):
        argv = ["--config", str(HERE / "toy_recipe.yaml"), "--output_dir", str(folder), "--env", str(HERE / "toy_env")]
        return self.ask(argv=[*argv, *SETTINGS, *words], log=f"{folder}.log")

    def close(self):
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="module")
def zygote():
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture(scope="module")
def uninterrupted(zygote, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    before = time.monotonic()
    assert zygote.ask(wait=zygote.start(folder)) == 0, Path(f"{folder}.log").read_text()
    return folder, time.monotonic() - before


def claims(folder):
    """Experiment id → how many attempts were claimed, for every codebase in the run's bucket."""
    bucket = open_bucket(f"file://{folder}/bucket")
    specs = [id for id in bucket.names("experiments") if bucket.get(f"experiments/{id}/spec.json")]
    return {id: len(record_store.attempts(bucket, id)) for id in specs}


def rollouts(folder):
    with sqlite3.connect(folder / "buffer.sqlite") as db:
        rows = "select step, position, completion, experiment_id, status, reward from rollouts order by step, position"
        return db.execute(rows).fetchall()


def kill_and_resume(zygote, folder, length, kills, seed, also_workers):
    """Returns how many workers were killed as well."""
    rng, workers, resume = random.Random(seed), 0, []
    for _ in range(kills):
        pid = zygote.start(folder, *resume)
        time.sleep(rng.uniform(0.1, length * 0.9))
        bucket = open_bucket(f"file://{folder}/bucket")
        running = [a for id in bucket.names("experiments") if (a := record_store.running_attempt(bucket, id))]
        os.kill(pid, signal.SIGKILL)
        if also_workers and running:
            victim = rng.choice(running)
            os.kill(victim.claim.pid, signal.SIGKILL)
            workers += 1
        assert zygote.ask(wait=pid) in (-signal.SIGKILL, 0)
        resume = ["--resume"]
    assert zygote.ask(wait=zygote.start(folder, "--resume")) == 0, Path(f"{folder}.log").read_text()[-3000:]
    return workers


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_experiments_of_an_uninterrupted_run(
    zygote, uninterrupted, tmp_path
):
    reference, length = uninterrupted
    folder = tmp_path / "run"
    kill_and_resume(zygote, folder, length, kills=3, seed=random.randrange(10**6), also_workers=False)
    assert claims(folder) == claims(reference)
    assert set(claims(folder).values()) == {1}
    assert rollouts(folder) == rollouts(reference)


@pytest.mark.slow
def test_ten_kills_of_trainer_and_workers_repeat_only_the_killed_experiments(zygote, uninterrupted, tmp_path):
    reference, length = uninterrupted
    folder = tmp_path / "run"
    seed = random.randrange(10**6)
    killed = kill_and_resume(zygote, folder, length, kills=10, seed=seed, also_workers=True)
    assert set(claims(folder)) == set(claims(reference)), f"seed {seed}"
    assert sum(claims(folder).values()) <= len(claims(reference)) + killed
    assert rollouts(folder) == rollouts(reference)
    bucket = open_bucket(f"file://{folder}/bucket")
    assert all(bucket.get(f"experiments/{id}/result.json") for id in claims(folder))
