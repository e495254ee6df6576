"""Kill -9 a run that samples ahead, at one rank or two, with a sampler that never repeats itself: nothing is lost."""

import json
import os
import random
import signal
import socket
import sqlite3
import time
from collections import Counter
from pathlib import Path

import late_rewards
import pytest
from test_kill import Zygote

from ideator_rl.executor import record_store
from ideator_rl.storage.bucket import open_bucket
from ideator_rl.training.batch_closing import TrainBatch

STEPS, GROUPS, GROUP = 12, 2, 4
SETTINGS = [
    "--preset", "slow", "--max_steps", str(STEPS), "--num_generations", str(GROUP), "--slots", "4", "--sft_steps", "40",
    "--temperature", "1.5", "--report_to", "none",
]  # fmt: skip


@pytest.fixture(scope="module")
def zygote():
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture(scope="module")
def warm(zygote, tmp_path_factory):
    """A folder with the warmed-up ideator, so that the sessions of a run are spent on RL."""
    folder = tmp_path_factory.mktemp("warm") / "run"
    pids = start(zygote, folder, 1, ["--max_steps", "1"])
    assert [zygote.ask(wait=pid) for pid in pids] == [0], Path(f"{folder}.log").read_text()[-3000:]
    return folder


def start(zygote, folder, world, overrides, scramble=True):
    """Start every rank of a run; returns their pids."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    tests = Path(__file__).parent
    argv = ["--config", str(tests / "toy_recipe.yaml"), "--output_dir", str(folder), "--env", str(tests / "toy_env")]
    batch = ["--per_device_train_batch_size", str(GROUPS * GROUP // world)]
    pids = []
    for rank in range(world):
        env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        request = {"argv": [*argv, *SETTINGS, *batch, *overrides], "log": f"{folder}.log", "scramble": scramble}
        pids.append(zygote.ask(**request, env=env if world > 1 else {}))
    return pids


def run_through_kills(zygote, folder, world, overrides, kills, rng):
    """Kill the run at random moments, then let it end; returns how many kills hit a live process."""
    resume, hits = [], 0
    for kill in range(1, kills + 1):
        pids = start(zygote, folder, world, [*overrides, *resume])
        until = time.monotonic() + rng.uniform(0.3, 1.5 + world)
        while time.monotonic() < until and last_saved_step(folder) < STEPS * kill // (kills + 1):
            time.sleep(0.02)  # on a fast machine the run would end before the last kill
        for pid in rng.sample(pids, len(pids)):  # the launcher ends the others a little later
            os.kill(pid, signal.SIGKILL)
            time.sleep(rng.choice([0.0, 0.05, 0.5]))
        codes = [zygote.ask(wait=pid) for pid in pids]
        assert world > 1 or set(codes) <= {-signal.SIGKILL, 0}, (
            codes
        )  # of two ranks, one may end because the other has gone
        hits += -signal.SIGKILL in codes
        resume = ["--resume"]
    pids = start(zygote, folder, world, [*overrides, *resume])
    assert [zygote.ask(wait=pid) for pid in pids] == [0] * world, Path(f"{folder}.log").read_text()[-4000:]
    return hits


def last_saved_step(folder):
    """The last step that has a checkpoint."""
    return max((int(path.name.partition("-")[2]) for path in folder.glob("checkpoint-*")), default=0)


def check_balance(folder):
    """Every proposal has one outcome, every experiment one claim and one result, and every group is trained or dropped
    once.  Returns the trained groups."""
    with sqlite3.connect(folder / "buffer.sqlite") as db:
        rows = db.execute("select step, position, status, experiment_id from rollouts").fetchall()
    assert Counter(row[0] for row in rows) == {step: GROUPS * GROUP for step in range(STEPS)}
    assert all(status not in ("running", "lost") for _, _, status, _ in rows)
    bucket = open_bucket(f"file://{folder}/bucket")
    specs = [id for id in bucket.names("experiments") if bucket.get(f"experiments/{id}/spec.json")]
    claims = {id: len(record_store.attempts(bucket, id)) for id in specs}
    records = {id: record_store.load_record(bucket, id) for id in specs}
    assert set(claims.values()) == {1}, "an experiment was run twice"
    assert all(records.values()), "an experiment was orphaned"
    proposed = {id for _, _, _, id in rows}
    assert {id for id, record in records.items() if record.implementer != "baseline"} <= proposed, (
        "paid for and forgotten"
    )
    closings = [
        TrainBatch.from_json(json.loads(line)) for line in (folder / "rollouts/closings.jsonl").read_text().splitlines()
    ]
    assert [train_batch.index for train_batch in closings] == list(range(STEPS))
    trained = [(slot.batch, slot.group) for train_batch in closings for slot in train_batch.slots]
    ended = [*trained, *(group for train_batch in closings for group in train_batch.dropped), *closings[-1].deferred]
    assert sorted(ended) == [(step, group) for step in range(STEPS) for group in range(GROUPS)], (
        "a group was neither trained nor dropped, or twice"
    )
    return trained


def copy_warm_up(warm, folder):
    import shutil

    folder.mkdir(parents=True)
    for name in ("scratch", "warmup"):
        shutil.copytree(warm / name, folder / name)
    return folder


CASES = {  # max_staleness, ranks, further keys
    "in turn, two ranks": (0, 2, []),
    "one ahead, quorum": (1, 1, ["--quorum", "0.75"]),
    "two ahead, two ranks, quorum": (2, 2, ["--quorum", "0.75", "--save_steps", "3"]),
    "two ahead": (2, 1, ["--save_steps", "2"]),
    "one ahead, two ranks": (1, 2, []),
    "in turn, deadline": (0, 1, ["--deadline", "1.0", "--max_age", "2"]),
}
QUICK = ["one ahead, quorum", "two ahead, two ranks, quorum"]


def run_case(zygote, warm, tmp_path, name, kills):
    lag, world, more = CASES[name]
    seed = random.randrange(10**6)
    folder = copy_warm_up(warm, tmp_path / "run")
    try:
        hits = run_through_kills(
            zygote, folder, world, ["--max_staleness", str(lag), *more], kills, random.Random(seed)
        )
        assert check_balance(folder), "nothing was trained"
        assert hits >= kills - 1, f"only {hits} of {kills} kills hit a run that was alive"
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {name}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_killed_run_that_samples_ahead_runs_no_experiment_twice_and_forgets_none(zygote, warm, tmp_path, name):
    run_case(zygote, warm, tmp_path, name, kills=2)


@pytest.mark.slow
def test_ranks_wait_for_rewards_longer_than_the_timeout_of_their_process_group(zygote, warm, tmp_path):
    folder = copy_warm_up(warm, tmp_path / "run")
    overrides = ["--max_steps", "3", "--ddp_timeout", "4", "--reward_funcs", "late_rewards.late"]
    began = time.monotonic()
    pids = start(zygote, folder, 2, overrides)
    assert [zygote.ask(wait=pid) for pid in pids] == [0, 0], Path(f"{folder}.log").read_text()[-4000:]
    assert time.monotonic() - began > late_rewards.SECONDS
    assert (folder / "checkpoint-3").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CASES)
def test_thirty_kills_over_lags_and_ranks(zygote, warm, tmp_path, name):
    """Six kills a case, of which at least five hit a live process."""
    run_case(zygote, warm, tmp_path, name, kills=6)
