"""The scheduler where something fails: an outage, a fault of one experiment, an engine that says nothing."""

import asyncio
import dataclasses
import subprocess
import threading
import time

import pytest
from conftest import run
from scripted import idea
from scripted_fleet import (
    ScriptedEngine,
    attempt,
    claim,
    entry,
    json_of,
    outcome,
    outcomes,
    result,
    success,
)
from test_backends import WithoutBaseClass

from ideator_rl.executor import attempt_policy, breaker, bucket_watch, record_store
from ideator_rl.executor.backends import JobState
from ideator_rl.executor.backends.local import LocalBackend
from ideator_rl.executor.backends.one_by_one import adapted
from ideator_rl.executor.backends.watched import WatchedBucket
from ideator_rl.executor.retry import Retry
from ideator_rl.executor.scheduler import Lost, Scheduler
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import BucketError, open_bucket


@pytest.fixture
def bucket(tmp_path):
    return open_bucket(f"memory://{tmp_path}")


class Faulty:
    """A bucket whose reads can be made to fail; the rest is a memory bucket's."""

    def __init__(self, bucket, fault=None):
        self.bucket, self.fault, self.url, self.remote = bucket, fault, bucket.url, False

    def get(self, key):
        if self.fault and (error := self.fault(key)):
            raise error
        return self.bucket.get(key)

    def get_many(self, keys):
        return {key: raw for key in keys if (raw := self.get(key)) is not None}

    def list(self, prefix):
        if self.fault and (error := self.fault(prefix)):
            raise error
        return self.bucket.list(prefix)

    def __getattr__(self, name):
        return getattr(self.bucket, name)


def test_a_fault_of_one_experiment_does_not_fail_another(bucket):
    bucket.create("experiments/a/result.json", b"no json")
    attempt(bucket, "a")
    engine = ScriptedEngine(bucket, ["works"] * 9)
    play = engine.play
    engine.play = lambda job, step: play(job, step) if job.id != "b" else [][0]
    first, second, third = run(outcomes(Scheduler(bucket, engine), "abc"))
    assert isinstance(first, Lost) and isinstance(second, Lost) and "IndexError" in str(second)
    assert third.status == "succeeded"


def test_a_damaged_specification_loses_an_experiment_for_all_that_wait(bucket):
    bucket.put("experiments/a/spec.json", b"no specification")

    async def scenario():
        starter, waiter = (
            Scheduler(bucket, ScriptedEngine(bucket, ["unclaimed"] * 9)),
            Scheduler(bucket, WatchedBucket()),
        )
        futures = [result(scheduler, entry("a")) for scheduler in (waiter, starter)]
        values = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 10)
        starter.close()
        waiter.close()
        return values

    assert all(isinstance(value, Lost) and "spec.json" in str(value) for value in run(scenario()))


@pytest.mark.parametrize("error", [BucketError("away"), OSError(28, "full"), PermissionError(13, "no")])
def test_an_outage_is_waited_out_and_uses_up_no_attempt(bucket, monkeypatch, error):
    monkeypatch.setattr("ideator_rl.executor.retry.FIRST_WAIT", 0.05)
    end = time.monotonic() + 0.5
    faulty = Faulty(bucket, lambda key: error if time.monotonic() < end else None)
    engine = ScriptedEngine(bucket, ["works"] * 2)
    records = run(outcomes(Scheduler(faulty, engine, max_attempts=1), "ab"))
    assert [record.status for record in records] == ["succeeded"] * 2 and time.monotonic() > end


def test_an_outage_beyond_the_limit_loses_what_waits(bucket):
    faulty = Faulty(bucket, lambda key: BucketError("away"))
    [lost] = run(outcomes(Scheduler(faulty, ScriptedEngine(bucket, []), retry=Retry(bucket.url, 0.2)), "a"))
    assert isinstance(lost, Lost) and "away" in str(lost)


def test_an_outage_of_one_object_beyond_the_limit_loses_only_that_experiment(bucket, monkeypatch):
    monkeypatch.setattr("ideator_rl.executor.retry.FIRST_WAIT", 0.05)
    faulty = Faulty(bucket, lambda key: PermissionError(13, "not yours") if "/a/" in key else None)
    scheduler = Scheduler(faulty, ScriptedEngine(bucket, ["works"] * 2), retry=Retry(bucket.url, 0.3))
    lost, good = run(outcomes(scheduler, "ab"))
    assert isinstance(lost, Lost) and "not yours" in str(lost) and good.status == "succeeded"


def test_no_call_of_bucket_or_backend_is_made_in_an_event_loop(bucket):
    threads = set()

    class Noting(ScriptedEngine):
        def submit(self, jobs):
            threads.add(threading.current_thread().name)
            return super().submit(jobs)

    faulty = Faulty(bucket, lambda key: threads.add(threading.current_thread().name))
    run(outcomes(Scheduler(faulty, Noting(bucket, ["works"] * 9)), "abc"))
    assert threads == {"scheduler"}


def test_a_tick_costs_two_listings_however_many_experiments_wait(bucket):
    calls = []
    faulty = Faulty(bucket, lambda key: calls.append(key))
    engine = ScriptedEngine(bucket, [], room=0)

    async def scenario():
        scheduler = Scheduler(faulty, engine)
        scheduler._start_or_wake = lambda: None
        futures = [result(scheduler, entry(str(number))) for number in range(256)]
        scheduler.tick()
        time.sleep(0.2)
        scheduler.tick()  # it reads the entries, which are new in the queue
        calls.clear()
        for _ in range(3):
            scheduler.dispatcher._next_look = 0.0
            scheduler.tick()
        assert sorted(calls) == ["beats"] * 3 + ["queue"] * 3 and not any(future.done() for future in futures)

    run(scenario())


def test_two_event_loops_may_wait_at_once_and_one_outlives_the_other(bucket):
    engine = ScriptedEngine(bucket, ["works"] * 9, room=0)
    scheduler, results = Scheduler(bucket, engine), []
    started = threading.Event()

    async def second():
        futures = [result(scheduler, entry(id)) for id in "ab"]
        started.set()
        results.extend(await asyncio.wait_for(asyncio.gather(*futures), 10))

    async def first():
        future = result(scheduler, entry("a"))
        thread = threading.Thread(target=asyncio.run, args=(second(),))
        thread.start()
        await asyncio.to_thread(started.wait)
        engine.room = 1
        assert (await asyncio.wait_for(future, 10)).id == "a"
        return thread

    thread = run(first())
    engine.room = 2
    thread.join(10)
    assert [record.id for record in results] == ["a", "b"] and engine.submitted == ["a", "b"]


def test_the_thread_ends_when_nothing_waits_and_a_later_request_starts_it_again(bucket, monkeypatch):
    monkeypatch.setattr("ideator_rl.executor.scheduler.LINGER_SECONDS", 0.1)
    scheduler = Scheduler(bucket, ScriptedEngine(bucket, ["works"] * 9))

    async def scenario(id):
        await asyncio.wait_for(result(scheduler, entry(id)), 5)
        deadline = time.monotonic() + 5
        while scheduler._thread is not None and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert scheduler._thread is None

    run(scenario("a"))
    run(scenario("b"))


class OldBackend(WithoutBaseClass):
    """As a plugin of 0.1.0: one attempt a call."""

    def __init__(self, bucket):
        self.bucket, self.ids = bucket, []

    def submit(self, id, resources):
        self.ids.append(id)
        record_store.save_record(self.bucket, success(id))
        return True


def test_a_backend_of_0_1_0_is_served_with_a_warning(bucket):
    backend = OldBackend(bucket)
    with pytest.warns(DeprecationWarning, match="submit\\(jobs\\)"):
        scheduler = Scheduler(bucket, backend)
    assert [record.id for record in run(outcomes(scheduler, "ab"))] == ["a", "b"] and backend.ids == ["a", "b"]
    engine = ScriptedEngine(bucket, [])
    assert adapted(engine) is engine


def test_a_scheduler_of_its_own_runs_the_experiments_that_a_dead_executor_left(toy_config):
    """An executor proposes and dies; another scheduler runs each of its experiments once."""
    from ideator_rl.executor.executor import Executor

    executor = Executor(toy_config)
    executor.scheduler.tick = lambda: None

    async def propose():
        tasks = [asyncio.create_task(executor.execute(idea(f"Set x to {i}.0."))) for i in (1, 2)]
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()

    run(propose())
    ends = {}
    scheduler = Scheduler(executor.bucket, LocalBackend(executor.bucket.url, slots=2))
    scheduler.serve(ends.__setitem__)
    deadline = time.monotonic() + 30
    while len(ends) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    scheduler.close()
    assert [record.status for record in ends.values()] == ["succeeded", "succeeded"]


def test_an_entry_without_a_specification_is_taken_out_of_the_queue_and_opens_no_breaker(bucket):
    record_store.enqueue(bucket, entry("a"))
    ends = {}
    scheduler = Scheduler(bucket, ScriptedEngine(bucket, ["unclaimed"] * 9))
    scheduler.serve(ends.__setitem__)
    deadline = time.monotonic() + 5
    while not ends and time.monotonic() < deadline:
        time.sleep(0.01)
    scheduler.close()
    assert "no specification" in str(ends["a"]) and bucket.list("queue") == {}


def test_jobs_from_before_the_breaker_opened_do_not_keep_it_open(bucket, monkeypatch):
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(attempt_policy, "BACKOFF_SECONDS", (0.01,))
    engine = ScriptedEngine(bucket, ["long"] + ["refused"] * 5 + ["works"] * 5)
    play = engine.play
    engine.play = lambda job, step: None if step == "long" else play(job, step)
    listing = engine.listing
    engine.listing = lambda: listing() | {engine.names[0]: JobState("running")} if engine.names else {}

    async def scenario():
        scheduler = Scheduler(bucket, engine)
        futures = [result(scheduler, entry(id)) for id in "abcdef"]
        records = await asyncio.wait_for(asyncio.gather(*futures[1:]), 5)
        scheduler.close()
        return records

    assert len(run(scenario())) == 5


def test_a_log_that_the_engine_cannot_show_costs_no_experiment(bucket):
    engine = ScriptedEngine(bucket, ["unclaimed", "works"])
    engine.log_tail = lambda name: [][0]
    assert outcome(bucket, engine).status == "succeeded"


def test_an_attempt_is_not_judged_while_its_record_cannot_be_read(bucket, monkeypatch):
    """Else a process that has published and ended would be taken for dead."""
    faults = [BucketError("503")]
    faulty = Faulty(bucket, lambda key: faults.pop() if faults and key.endswith("result.json") else None)
    attempt(bucket, "a")
    gone = dataclasses.replace(claim(bucket, "a"), place=process_tree.host_identity())
    bucket.put("experiments/a/attempts/1/claim.json", json_of(gone))
    bucket.create("experiments/a/result.json", success("a").to_json().encode())
    assert outcome(faulty, ScriptedEngine(bucket, []), max_attempts=2).status == "succeeded"
    assert record_store.attempts(bucket, "a")[-1].end is None


def test_a_record_that_is_stored_while_an_attempt_is_judged_counts(bucket):
    gone = dataclasses.replace(claim(bucket, "a"), place=process_tree.host_identity())
    bucket.put("experiments/a/attempts/0/claim.json", json_of(gone))
    scheduler = Scheduler(bucket, ScriptedEngine(bucket, []), max_attempts=1)
    alive = scheduler.dispatcher.watch.alive

    def publish_and_end(id, claim=None):
        bucket.create("experiments/a/result.json", success("a").to_json().encode())
        return alive(id, claim)

    scheduler.dispatcher.watch.alive = publish_and_end
    [record] = run(outcomes(scheduler, ["a"]))
    assert record.status == "succeeded" and record_store.attempts(bucket, "a")[0].end is None


def test_a_scheduler_with_a_slow_pace_sees_dead_attempts_too(bucket, monkeypatch):
    monkeypatch.setattr(bucket_watch, "MAX_LOOK_GAP_SECONDS", 0.05)
    monkeypatch.setattr(record_store, "LEASE_SECONDS", 0.3)
    claim(bucket, "a")
    assert outcome(bucket, ScriptedEngine(bucket, ["works"]), every=0.1).status == "succeeded"


def test_what_is_requested_while_the_thread_is_closing_is_served(bucket, monkeypatch):
    monkeypatch.setattr("ideator_rl.executor.scheduler.CLOSE_SECONDS", 0.05)
    engine = ScriptedEngine(bucket, ["works"] * 2)
    inside, go_on = threading.Event(), threading.Event()
    play = engine.play
    engine.play = lambda job, step: (inside.set(), go_on.wait(5), play(job, step))[2]

    async def scenario():
        scheduler = Scheduler(bucket, engine)
        first = result(scheduler, entry("a"))
        await asyncio.to_thread(inside.wait, 5)
        scheduler.close()  # the thread is in a call of the engine for longer than this waits
        second = result(scheduler, entry("b"))
        go_on.set()
        return await asyncio.wait_for(asyncio.gather(first, second), 5)

    assert [record.status for record in run(scenario())] == ["succeeded"] * 2


def test_a_claim_for_a_process_that_was_gone_is_dead(bucket):
    process = subprocess.Popen(["true"])
    process.wait()
    assert not record_store.claim_attempt(bucket, "a", pid=process.pid).process_alive


@pytest.mark.parametrize("start", ["forked", "cold"])
def test_a_local_worker_that_claims_nothing_is_named_by_its_last_words(tmp_path, toy, start, monkeypatch, caplog):
    """As with credentials that the store refuses."""
    monkeypatch.setattr(breaker, "UNCLAIMED_IN_A_ROW", 1)
    bucket = open_bucket(f"file://{tmp_path}/b")
    backend = LocalBackend(bucket.url, slots=1)
    backend.start = start

    async def scenario():
        scheduler = Scheduler(bucket, backend)
        # Of a bucket that the worker cannot open.
        monkeypatch.setattr(scheduler.dispatcher.jobs, "_bucket_url", "file:///")
        future = result(scheduler, entry("a"))
        deadline = time.monotonic() + 20
        while not scheduler.dispatcher.jobs.breaker.reason and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert not future.done()
        scheduler.close()
        return scheduler.dispatcher.jobs.breaker.reason

    assert "the last said: " in (words := run(scenario())) and "is the root of the file system" in words
    backend.close()
