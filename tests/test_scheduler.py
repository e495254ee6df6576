import asyncio
import json
import os
import threading
import time

import pytest
from conftest import run
from scripted import idea

from ideator_rl.environments.environment import Resources
from ideator_rl.executor import record_store, scheduler
from ideator_rl.executor.backends import Backend
from ideator_rl.executor.backends.local import LocalBackend
from ideator_rl.executor.backends.watched import WatchedBucket
from ideator_rl.executor.retry import Retry
from ideator_rl.executor.scheduler import Lost, Scheduler
from ideator_rl.experiment import Experiment
from ideator_rl.storage.bucket import BucketError, open_bucket


def success(id):
    return Experiment(id, "succeeded", "", "toy", "cpu", metric={"name": "m", "value": 1.0, "direction": "min"})


class ScriptedBackend(Backend):
    """Plays a fleet: each submission takes the next step of a script."""

    def __init__(self, bucket, script, room=10):
        self.bucket, self.script, self.room, self.submitted = bucket, iter(script), room, []

    def submit(self, id, resources):
        if len(self.submitted) >= self.room:
            return False
        self.submitted.append(id)
        if next(self.script) == "works":
            record_store.save_record(self.bucket, success(id))
        else:
            number = record_store.count_attempts(self.bucket, id)
            body = {"host": "far", "place": "far", "pid": 1, "start": "0", "time": 0.0}
            self.bucket.create(f"experiments/{id}/attempts/{number}/claim.json", json.dumps(body).encode())
            record_store.abandon_attempt(self.bucket, id, number, "node on fire")
        return True

    def active(self, id):
        return False


@pytest.fixture
def bucket(tmp_path):
    return open_bucket(f"memory://{tmp_path}")


def test_an_experiment_is_tried_again_after_a_lost_attempt(bucket):
    backend = ScriptedBackend(bucket, ["dies", "dies", "works"])

    async def scenario():
        return await Scheduler(bucket, backend).result("a", Resources())

    assert run(scenario()).status == "succeeded"
    assert backend.submitted == ["a"] * 3


def test_after_its_last_attempt_an_experiment_is_lost_with_the_last_reason(bucket):
    async def scenario():
        await Scheduler(bucket, ScriptedBackend(bucket, ["dies"] * 9), max_attempts=2).result("a", Resources())

    with pytest.raises(Lost, match="node on fire"):
        run(scenario())
    assert record_store.count_attempts(bucket, "a") == 2


def test_equal_ids_share_one_future_and_an_experiment_waits_for_a_full_backend(bucket):
    backend = ScriptedBackend(bucket, ["works"] * 9, room=1)

    async def scenario():
        scheduler = Scheduler(bucket, backend)
        first, same, second = (scheduler.result(id, Resources()) for id in ("a", "a", "b"))
        assert first is same
        await first
        assert not second.done() and scheduler.without_record == ["b"]
        backend.room = 2
        return await second

    assert run(scenario()).id == "b"


def test_an_experiment_that_another_process_runs_is_not_started_again(bucket, monkeypatch, caplog):
    monkeypatch.setattr(scheduler, "ELSEWHERE_SECONDS", 0.0)
    backend = ScriptedBackend(bucket, [])
    record_store.claim_attempt(bucket, "a")

    async def scenario():
        future = Scheduler(bucket, backend).result("a", Resources())
        await asyncio.sleep(0.3)
        record_store.save_record(bucket, Experiment("a", "failed", "", "toy", "cpu"))
        return await future

    assert run(scenario()).status == "failed" and backend.submitted == []
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"Process {os.getpid()} of this machine has run the experiment a for another run for 0 s;")


def test_discover_runs_the_experiments_that_a_dead_executor_left(toy_config):
    """An executor proposes and dies; another scheduler runs each of its experiments once."""
    from ideator_rl.executor.executor import Executor

    executor = Executor(toy_config)
    executor.scheduler.tick = lambda: None

    async def propose():
        tasks = [asyncio.create_task(executor.execute(idea(f"Set x to {i}.0."))) for i in (1, 2)]
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()

    async def serve():
        scheduler = Scheduler(executor.bucket, LocalBackend(executor.bucket.url, slots=2))
        records = await asyncio.gather(*scheduler.discover().values())
        assert scheduler.discover() == {}
        return records

    run(propose())
    assert [record.status for record in run(serve())] == ["succeeded", "succeeded"]


class Faulty:
    """A bucket whose reads of results can be counted and made to fail; the rest is a memory bucket's."""

    def __init__(self, bucket, fault=None):
        self.bucket, self.fault, self.reads, self.url = bucket, fault, 0, bucket.url

    def get(self, key):
        self.reads += 1
        if self.fault and (error := self.fault(key)):
            raise error
        return self.bucket.get(key)

    def __getattr__(self, name):
        return getattr(self.bucket, name)


async def outcomes(scheduler, ids):
    return await asyncio.gather(*(scheduler.result(id, Resources()) for id in ids), return_exceptions=True)


def test_a_fault_of_one_experiment_does_not_fail_another(bucket):
    bucket.create("experiments/a/result.json", b"no json")
    backend = ScriptedBackend(bucket, ["works"] * 9)
    start = backend.submit
    backend.submit = lambda id, resources: start(id, resources) if id != "b" else [][0]
    first, second, third = run(outcomes(Scheduler(bucket, backend), "abc"))
    assert isinstance(first, Lost) and isinstance(second, Lost) and "IndexError" in str(second)
    assert third.status == "succeeded" and backend.submitted == ["c"]


@pytest.mark.parametrize("error", [BucketError("away"), OSError(28, "full"), PermissionError(13, "no")])
def test_an_outage_is_waited_out_and_uses_up_no_attempt(bucket, monkeypatch, error):
    monkeypatch.setattr("ideator_rl.executor.retry.FIRST_WAIT", 0.05)
    end = time.monotonic() + 0.5
    faulty = Faulty(bucket, lambda key: error if time.monotonic() < end else None)
    backend = ScriptedBackend(bucket, ["works"] * 2)
    records = run(outcomes(Scheduler(faulty, backend, max_attempts=1), "ab"))
    assert [record.status for record in records] == ["succeeded"] * 2 and time.monotonic() > end


def test_an_outage_of_one_object_beyond_the_limit_loses_only_that_experiment(bucket, monkeypatch):
    monkeypatch.setattr("ideator_rl.executor.retry.FIRST_WAIT", 0.05)
    faulty = Faulty(bucket, lambda key: PermissionError(13, "not yours") if "/a/" in key else None)
    scheduler = Scheduler(faulty, ScriptedBackend(bucket, ["works"] * 2), retry=Retry(bucket.url, 0.3))
    lost, good = run(outcomes(scheduler, "ab"))
    assert isinstance(lost, Lost) and "not yours" in str(lost) and good.status == "succeeded"


def attempt(bucket, id, ended=True):
    """Another machine claims an attempt, and abandons it if `ended`."""
    number = record_store.count_attempts(bucket, id)
    body = {"host": "far", "place": "x", "pid": 1, "start": "1", "time": time.time()}
    bucket.create(f"experiments/{id}/attempts/{number}/claim.json", json.dumps(body).encode())
    if ended:
        record_store.abandon_attempt(bucket, id, number, f"reason {number}")


def test_where_the_backend_starts_nothing_attempts_that_ended_since_the_first_look_are_counted(bucket):
    for _ in range(3):
        attempt(bucket, "a")

    async def scenario():
        future = Scheduler(bucket, WatchedBucket(bucket), max_attempts=2).result("a", Resources())
        await asyncio.sleep(0.3)
        assert not future.done() and record_store.read_queue(bucket, ["a"])["a"].from_attempt == 3
        attempt(bucket, "a")
        await asyncio.sleep(1.3)
        assert not future.done()
        attempt(bucket, "a", ended=False)
        await asyncio.sleep(1.3)
        assert not future.done()
        record_store.abandon_attempt(bucket, "a", 4, "reason 4")
        with pytest.raises(Lost, match="reason 4"):
            await asyncio.wait_for(future, 3)

    run(scenario())


def test_experiments_that_wait_long_are_checked_rarely_except_the_first_in_the_queue(bucket):
    class Full(Backend):
        room = False

        def active(self, id):
            return False

        def submit(self, id, resources):
            return self.room and not record_store.save_record(bucket, success(id))

    faulty, backend = Faulty(bucket), Full(bucket.url, None, "auto")

    async def scenario():
        scheduler = Scheduler(faulty, backend)
        future = scheduler.result("first", Resources())
        later = [scheduler.result(f"{number}", Resources()) for number in range(256)]
        scheduler.tick()
        for entry in scheduler._waiting.values():
            entry.since -= 600
            entry.next_record_check = entry.next_claim_check = 0.0
        scheduler.tick()
        faulty.reads = 0
        for _ in range(20):
            scheduler.tick()
        assert 20 <= faulty.reads <= 20 * 10
        record_store.save_record(bucket, success("first"))
        scheduler.tick()
        assert future.done() and not any(future.done() for future in later)

    run(scenario())


def test_two_event_loops_may_wait_at_once_and_the_clock_outlives_the_first(bucket):
    backend = ScriptedBackend(bucket, ["works"] * 9, room=0)
    scheduler, results = Scheduler(bucket, backend), []
    started = threading.Event()

    async def second():
        futures = [scheduler.result(id, Resources()) for id in "ab"]
        started.set()
        results.extend(await asyncio.wait_for(asyncio.gather(*futures), 10))

    async def first():
        future = scheduler.result("a", Resources())
        thread = threading.Thread(target=asyncio.run, args=(second(),))
        thread.start()
        await asyncio.to_thread(started.wait)
        backend.room = 1
        assert (await asyncio.wait_for(future, 10)).id == "a"
        return thread

    thread = run(first())
    backend.room = 2
    thread.join(10)
    assert [record.id for record in results] == ["a", "b"] and backend.submitted == ["a", "b"]


def test_discover_skips_experiments_it_cannot_run_and_takes_on_requested_retries(bucket, toy, caplog):
    def spec(id, **more):
        body = {name: "" for name in record_store.Spec.__dataclass_fields__} | {"id": id, "preset": "cpu"}
        body |= {"seed": 0, "replicate": 0, "trusted": True, "implement_seconds": 0.0, "created": 0.0} | more
        bucket.create(f"experiments/{id}/spec.json", json.dumps(body).encode())

    spec("a", environment="nowhere")
    spec("b", environment=str(toy), surplus=1)
    spec("c", environment=str(toy))
    backend = ScriptedBackend(bucket, ["dies", "dies", "works"])
    scheduler = Scheduler(bucket, backend, max_attempts=2)

    async def serve():
        [future] = scheduler.discover().values()
        with pytest.raises(Lost):
            await future
        assert scheduler.discover() == {}
        record_store.request_retry(bucket, "c")
        [future] = scheduler.discover().values()
        return await future

    assert run(serve()).status == "succeeded" and backend.submitted == ["c"] * 3
    assert sum("is skipped" in record.message for record in caplog.records) == 2


def test_discover_returns_nothing_during_an_outage(bucket, toy):
    class Away(Faulty):
        def names(self, prefix):
            if self.fault:
                raise BucketError("away")
            return self.bucket.names(prefix)

    away = Away(bucket, lambda key: BucketError("away"))
    scheduler = Scheduler(away, ScriptedBackend(bucket, []))

    async def serve():
        assert scheduler.discover() == scheduler.discover() == {}
        away.fault = None
        assert scheduler.discover() == {}

    run(serve())
