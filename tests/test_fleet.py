"""The simulated fleet: its ledger balances through kills and outages, and it refuses a bucket with measured results."""

import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import TOY, run
from scripted import idea

from benchmarks.fleet import SimulatedFleet, read_ledger
from benchmarks.fleet_floor import Floor, Nature
from benchmarks.fleet_outage import Outage
from benchmarks.fleet_whole import IDEAS, WITHOUT_SCREEN
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.executor.executor import Executor, ExecutorConfig
from ideator_rl.experiment import Experiment
from ideator_rl.storage.bucket import BucketError, open_bucket
from ideator_rl.training.recipe.recipe import load_recipe

ROOT = Path(__file__).parent.parent


def test_the_quickstart_on_a_fleet_runs_every_idea_that_the_benchmark_counts():
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml", WITHOUT_SCREEN)
    assert recipe.ours.screen is None
    assert recipe.generation_batch * recipe.grpo["max_steps"] == IDEAS


def executor(bucket, **more):
    settings = {"implementer": "benchmarks.fleet.HashedIdeas", "backend": "benchmarks.fleet.SimulatedFleet"} | more
    return Executor(ExecutorConfig(str(TOY), "cpu", bucket, **settings))


async def execute(executor, count):
    return await asyncio.gather(*(executor.execute(idea(f"change number {number}")) for number in range(count)))


def test_fates_repeat_after_a_restart_and_follow_the_configured_shares_and_median():
    nature = Nature(median=2.0, sigma=0.8, stragglers=0.05, factor=10.0, lost=0.05, seed=3)
    fates = [nature.fate(f"{number}", 0) for number in range(8000)]
    assert fates == [nature.fate(f"{number}", 0) for number in range(8000)]
    assert Nature(seed=4).fate("1", 0) != Nature(seed=3).fate("1", 0)
    assert 0.04 < sum(not succeeds for _, succeeds in fates) / 8000 < 0.06
    assert statistics.median(seconds for seconds, _ in fates) == pytest.approx(2.0, rel=0.06)
    usual = [Nature(2.0, 0.8, 0.0, 10.0, 0.05, 3).fate(f"{number}", 0)[0] for number in range(8000)]
    slow = [seconds / before for (seconds, _), before in zip(fates, usual, strict=True) if seconds > before]
    assert 0.04 < len(slow) / 8000 < 0.06 and all(ratio == pytest.approx(10.0) for ratio in slow)


@pytest.mark.parametrize("bucket", ["memory://fleet-{}", "file://{}/bucket"])
def test_slots_are_respected_and_the_ledger_balances_with_lost_attempts(tmp_path, monkeypatch, bucket):
    ledger = tmp_path / "ledger.jsonl"
    settings = {"median": 0.3, "sigma": 0.5, "lost": 0.2, "stragglers": 0.0, "ledger": str(ledger)}
    monkeypatch.setenv("IDEATOR_FLEET", json.dumps(settings))
    maker = executor(bucket.format(tmp_path), slots=8)
    most = []
    start = maker.backend.submit
    maker.backend.submit = lambda *words: (start(*words), most.append(len(maker.backend.floor.running)))[0]
    began = time.monotonic()
    records = run(execute(maker, 40))
    wall = time.monotonic() - began
    statuses = Counter(record.status for record in records)
    paid = read_ledger(ledger)
    assert max(most) == 8 and len({record.tree for record in records}) == 40 and set(statuses) == {"succeeded", "lost"}
    for record in records:
        expected = {"gave up": 3} if record.status == "lost" else {"succeeded": 1}
        assert paid[record.id].outcomes == expected and paid[record.id].starts == sum(expected.values())
        assert len(record_store.attempts(maker.bucket, record.id)) == paid[record.id].starts
    total = sum(cost.seconds for cost in paid.values())
    assert total == pytest.approx(maker.backend.floor.slot_seconds) and wall >= total / 8
    assert 0.2 < maker.backend.utilisation() <= 1.0
    assert all(record.isolation == "simulated" for record in records if record.status == "succeeded")


def test_unknown_settings_raise_with_the_allowed_names(monkeypatch):
    monkeypatch.setenv("IDEATOR_FLEET", '{"medium": 1}')
    with pytest.raises(IdeatorError, match="medium; expected .*median"):
        SimulatedFleet("memory://settings")


def test_a_bucket_with_measured_results_is_refused():
    bucket = open_bucket("memory://measured")
    record_store.save_record(bucket, Experiment("a", "failed", "", "toy", "cpu", tree="t", isolation="bwrap"))
    with pytest.raises(IdeatorError, match="were measured, such as a"):
        Floor(bucket, 1, Nature())


def test_an_attempt_claimed_during_an_outage_is_recognised_by_its_claimer(tmp_path, monkeypatch):
    bucket = open_bucket(f"file://{tmp_path}/b")
    spec = {name: "" for name in record_store.Spec.__dataclass_fields__} | {"id": "a", "environment": str(TOY)}
    spec |= {"seed": 0, "replicate": 0, "trusted": True}
    bucket.create("experiments/a/spec.json", json.dumps(spec | {"created": 0.0, "implement_seconds": 0.0}).encode())
    floor = Floor(bucket, 2, Nature(median=0.01))

    def half_done(*words):
        assert claim(*words).number == 0
        raise BucketError("the answer was lost")

    claim = record_store.claim_attempt
    monkeypatch.setattr(record_store, "claim_attempt", half_done)
    with pytest.raises(BucketError):
        floor.start("a")
    monkeypatch.undo()
    assert floor.start("a") and not floor.start("a") and len(record_store.attempts(bucket, "a")) == 1
    assert not Floor(bucket, 2, Nature()).start("a")


def test_an_outage_hides_the_bucket_from_every_process_and_the_next_process_ends_a_killed_outage(tmp_path):
    bucket = open_bucket(str(tmp_path / "b"))
    bucket.create("x", b"1")
    outage = Outage(tmp_path / "b")
    outage.begin()
    outage.begin()
    with pytest.raises(BucketError):
        bucket.get("x")
    with pytest.raises(BucketError):
        open_bucket(str(tmp_path / "b"))
    Outage(tmp_path / "b")
    assert bucket.get("x") == b"1" and [path.name for path in tmp_path.iterdir()] == ["b"]
    outage.end()
    assert bucket.get("x") == b"1"
    (tmp_path / "b.away").mkdir()
    with pytest.raises(IdeatorError, match="in the way"):
        outage.begin()


def start_fleet(bucket, *words):
    command = [sys.executable, "-m", "benchmarks.fleet", "--bucket", bucket, "--slots", "6", "--median", "0.3"]
    fleet = subprocess.Popen(
        [*command, "--sigma", "0.6", "--lost", "0.1", "--seed", "1", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert b"SIMULATED" in fleet.stdout.readline()
    return fleet


@pytest.mark.slow
def test_the_ledger_of_a_fleet_balances_through_kills_and_outages(tmp_path, monkeypatch):
    monkeypatch.setattr("ideator_rl.executor.retry.FIRST_WAIT", 0.1)
    bucket = f"file://{tmp_path}/bucket"
    outages = ("--outage-every", "0.8", "--outage-seconds", "0.4")
    maker = executor(bucket, backend="bucket")
    fleet, kills = start_fleet(bucket, *outages), 0

    async def scenario():
        nonlocal fleet, kills
        task = asyncio.create_task(execute(maker, 40))
        for _ in range(3):
            await asyncio.sleep(random.uniform(0.5, 1.5))
            fleet.send_signal(signal.SIGKILL)
            fleet.wait()
            kills += 1
            fleet = await asyncio.to_thread(start_fleet, bucket, *outages)
        return await asyncio.wait_for(task, 90)

    try:
        records = run(scenario())
    finally:
        fleet.terminate()
        assert fleet.wait() == 0
    assert (tmp_path / "bucket").is_dir() and not (tmp_path / "bucket.away").exists()
    paid = read_ledger(tmp_path / "bucket.ledger.jsonl")
    assert {record.id for record in records} >= set(paid) and len(paid) == 40
    for record in records:
        cost = paid[record.id]
        claimed = len(record_store.attempts(maker.bucket, record.id))
        ends = sum(cost.outcomes.values())
        # A kill between the claim and the line of the ledger leaves a claim that nothing was paid for.
        assert cost.starts == ends and cost.starts <= claimed <= cost.starts + kills
        if record.status == "succeeded":
            assert cost.outcomes["succeeded"] + cost.outcomes["killed"] >= 1 and cost.outcomes["succeeded"] <= 1
            assert cost.outcomes["gave up"] == 0
        else:
            assert record.status == "lost" and claimed >= 3
    assert sum(cost.outcomes["killed"] for cost in paid.values()) <= kills * 6
    assert sum(record.status == "lost" for record in records) <= 15


def test_an_experiment_that_the_fleet_gave_up_is_tried_again_when_proposed_again(tmp_path):
    bucket = f"file://{tmp_path}/bucket"
    fleet = start_fleet(bucket, "--lost", "1.0", "--median", "0.05")
    try:
        for rounds in (1, 2):
            [record] = run(execute(executor(bucket, backend="bucket"), 1))
            assert record.status == "lost" and "simulated" in record.error["message"]
            assert len(record_store.attempts(open_bucket(bucket), record.id)) == 3 * rounds
    finally:
        fleet.terminate()
        fleet.wait()
