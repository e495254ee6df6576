"""Searches that are killed at random moments, resumed, and compared with an untouched one."""

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
from ideator_rl.search.search_summary import read_search_summary
from ideator_rl.storage.bucket import open_bucket

HERE = Path(__file__).parent
RECIPE = """
env: {env}
preset: slow
slots: 2
strategy: evolution
strategy_options: {{elites: 4, parents: 4, past: 5}}
epoch_size: 5
quorum: 1.0
batch: 3
max_experiments: 14
embedder: hashed
"""


def start(folder, *arguments):
    recipe = folder.parent / "search.yaml"
    recipe.write_text(RECIPE.format(env=HERE / "toy_env"))
    line = [sys.executable, "-m", "ideator_rl.cli", "search", str(recipe), "--output_dir", str(folder), *arguments]
    with open(f"{folder}.log", "ab") as log:
        return subprocess.Popen(line, stdout=log, stderr=log, cwd=HERE.parent)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untouched") / "run"
    began = time.monotonic()
    assert start(folder).wait() == 0, Path(f"{folder}.log").read_text()
    return folder, time.monotonic() - began


def claims(folder):
    """Experiment id → how many attempts were claimed, for every codebase in the run's bucket."""
    bucket = open_bucket(f"file://{folder}/bucket")
    specs = [id for id in bucket.names("experiments") if bucket.get(f"experiments/{id}/spec.json")]
    return {id: len(record_store.attempts(bucket, id)) for id in specs}


def read(folder, query):
    with sqlite3.connect(folder / "buffer.sqlite") as db:
        return db.execute(query).fetchall()


def kill_and_resume(folder, length, kills, rng):
    arguments = []
    for _ in range(kills):
        process = start(folder, *arguments)
        time.sleep(rng.uniform(0.2, 0.7) * length)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        arguments = ["--resume"] if (folder / "recipe.yaml").is_file() else []
    assert start(folder, *arguments).wait() == 0, Path(f"{folder}.log").read_text()[-3000:]


def assert_same(folder, reference):
    """Journal, bucket and budgets equal those of an untouched search."""
    rows = "select step, position, completion, experiment_id, status, reward from rollouts order by step, position"
    assert read(folder, rows) == read(reference, rows)
    assert claims(folder) == claims(reference) and set(claims(folder).values()) == {1}, "an experiment ran twice"
    bucket = open_bucket(f"file://{folder}/bucket")
    assert all(bucket.get(f"experiments/{id}/result.json") for id in claims(folder))
    recorded = {id for (id,) in read(folder, "select id from experiments")}
    assert set(claims(folder)) <= recorded, "the bucket has runs that are not in the journal"
    origins = "select ask, step, position, parents_json from origins order by step, position"
    assert read(folder, origins) == read(reference, origins)
    assert set(read(folder, "select child, parents_json from lineage")) == set(
        read(reference, "select child, parents_json from lineage")
    )
    summary, expected = read_search_summary(folder), read_search_summary(reference)
    assert summary.charged == expected.charged == 14 and summary.ended_by == "max_experiments"
    assert (summary.asks, summary.kinds, summary.repeated) == (expected.asks, expected.kinds, expected.repeated)


@pytest.mark.slow
def test_a_search_killed_at_random_moments_ends_as_an_untouched_one(untouched, tmp_path):
    reference, length = untouched
    seed = random.randrange(10**6)
    print("seed", seed)
    kill_and_resume(tmp_path / "run", length, 3, random.Random(seed))
    assert_same(tmp_path / "run", reference)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ten_kills_change_no_result(untouched, tmp_path):
    reference, length = untouched
    seed = random.randrange(10**6)
    print("seed", seed)
    kill_and_resume(tmp_path / "run", length, 10, random.Random(seed))
    assert_same(tmp_path / "run", reference)
