"""The seam with a scripted engine: what is started, how often, and what an experiment's outcome is."""

import asyncio
import os
import time

import pytest
from conftest import run, until
from scripted_fleet import (
    ScriptedEngine,
    attempt,
    claim,
    entry,
    outcome,
    outcomes,
    outcomes_of,
    result,
    success,
)

from ideator_rl.executor import attempt_policy, breaker, dispatcher, jobs, pending, record_store
from ideator_rl.executor.backends import JobState
from ideator_rl.executor.backends.backend import job_name
from ideator_rl.executor.backends.watched import WatchedBucket
from ideator_rl.executor.scheduler import Lost, Scheduler
from ideator_rl.experiment import Experiment
from ideator_rl.storage.bucket import open_bucket


@pytest.fixture
def bucket(tmp_path):
    return open_bucket(f"memory://{tmp_path}")


def test_an_experiment_is_tried_again_after_attempts_that_failed(bucket):
    engine = ScriptedEngine(bucket, ["failed", "dead", "works"])
    assert outcome(bucket, engine).status == "succeeded"
    assert [name[-4:] for name in engine.names] == ["-a-0", "-a-1", "-a-2"] and len(set(engine.names)) == 3


def test_after_its_last_attempt_an_experiment_is_lost_with_the_last_reason_and_leaves_the_queue(bucket):
    engine = ScriptedEngine(bucket, ["failed"] * 9)
    lost = outcome(bucket, engine, max_attempts=2)
    assert isinstance(lost, Lost) and str(lost) == "reason 2" and len(engine.names) == 2
    assert bucket.list("queue") == {} and bucket.list("beats") == {}


def test_a_new_round_does_not_count_the_attempts_before_it(bucket):
    for _ in range(3):
        attempt(bucket, "a")
    engine = ScriptedEngine(bucket, ["failed", "failed", "works"])
    [record] = run(outcomes_of(Scheduler(bucket, engine), entry("a", from_attempt=3)))
    assert record.status == "succeeded" and engine.names[0].endswith("-a-3")


def test_twenty_preemptions_are_free_and_later_ones_count(bucket, monkeypatch):
    monkeypatch.setattr(dispatcher, "TICK_SECONDS", 0.005)
    engine = ScriptedEngine(bucket, ["preempted"] * 20 + ["works"])
    assert outcome(bucket, engine).status == "succeeded" and len(engine.names) == 21


def test_preemptions_beyond_twenty_lose_an_experiment_in_the_end(bucket, monkeypatch):
    monkeypatch.setattr(dispatcher, "TICK_SECONDS", 0.005)
    lost = outcome(bucket, ScriptedEngine(bucket, ["preempted"] * 99))
    assert isinstance(lost, Lost) and len(record_store.attempts(bucket, "a")) == 23


def test_jobs_that_the_engine_ends_before_they_claim_wait_longer_and_are_reported_once(bucket, monkeypatch, caplog):
    pauses, backoff = [], jobs.backoff
    monkeypatch.setattr(jobs, "backoff", lambda failures: pauses.append(failures) or backoff(1))
    scheduler = Scheduler(bucket, ScriptedEngine(bucket, ["ended early"] * 6 + ["works"]))
    [record] = run(outcomes(scheduler, ["a"]))
    assert record.status == "succeeded" and pauses == [1, 2, 3, 4, 5, 6]
    # It says nothing about how jobs are started: the breaker, which opens after five, stays closed.
    [line] = [record.getMessage() for record in caplog.records]
    assert "was ended before it began (node_fail)" in line and not scheduler.dispatcher.jobs.breaker.reason


def test_a_cancelled_attempt_is_not_repeated(bucket):
    engine = ScriptedEngine(bucket, ["cancelled", "works"])
    assert isinstance(outcome(bucket, engine), Lost) and len(engine.names) == 1


def test_starts_that_claim_nothing_open_the_breaker_and_lose_nothing(bucket, monkeypatch, caplog):
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 0.2)
    engine = ScriptedEngine(bucket, ["unclaimed"] * 9 + ["works"] * 8)
    records = run(outcomes(Scheduler(bucket, engine), "abcdefgh"))
    assert [record.status for record in records] == ["succeeded"] * 8
    lines = [record.getMessage() for record in caplog.records]
    line = next(line for line in lines if line.startswith("5 jobs"))
    assert "5 jobs ended before they claimed anything; the last said: ModuleNotFoundError: No module named" in line
    assert "submitted again" in lines[-1] and record_store.attempts(bucket, "a") == []


def test_while_the_breaker_is_open_nothing_is_submitted_and_then_one_job(bucket, monkeypatch):
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 2.0)
    monkeypatch.setattr(attempt_policy, "BACKOFF_SECONDS", (0.01,))
    engine = ScriptedEngine(bucket, ["refused"] * 99)

    async def scenario():
        scheduler = Scheduler(bucket, engine)
        futures = [result(scheduler, entry(id)) for id in "abcde"]
        await until(lambda: scheduler.dispatcher.jobs.breaker.reason)
        assert len(engine.names) == 5 and "invalid partition" in scheduler.dispatcher.jobs.breaker.reason
        await until(lambda: len(engine.names) > 5)
        await asyncio.sleep(0.3)
        assert len(engine.names) == 6 and not any(future.done() for future in futures)
        scheduler.close()

    run(scenario())


def test_an_engine_that_is_away_is_asked_rarely_and_its_jobs_are_not_over(bucket, monkeypatch):
    monkeypatch.setattr(jobs, "AWAY_SECONDS", 0.4)

    class Slow(ScriptedEngine):
        calls, every = 0, 0.05
        state = JobState("running")

        def play(self, job, step):
            return None

        def listing(self):
            self.calls += 1
            return None if self.away else {name: self.state for name in self.names}

    engine = Slow(bucket, ["works"] * 9)

    async def scenario():
        scheduler = Scheduler(bucket, engine)
        future = result(scheduler, entry("a"))
        await until(lambda: engine.submitted == ["a"] and scheduler.running_count == 1)
        engine.away, engine.calls = True, 0
        while not scheduler.dispatcher.jobs.away:  # what a listing of a moment ago allows may still be submitted
            await asyncio.sleep(0.01)
        later = result(scheduler, entry("b"))
        await asyncio.sleep(0.5)
        assert engine.calls <= 3 and engine.submitted == ["a"] and not future.done()
        engine.away = False
        await until(lambda: engine.submitted == ["a", "b"])
        assert not later.done()
        scheduler.close()

    run(scenario())


def test_a_job_that_still_waits_is_cancelled_when_another_process_has_the_record(bucket):
    class Waiting(ScriptedEngine):
        def play(self, job, step):
            return None

        def listing(self):
            return {name: JobState("waiting") for name in self.names}

    engine = Waiting(bucket, ["works"] * 9)

    async def scenario():
        scheduler = Scheduler(bucket, engine)
        futures = [result(scheduler, entry(id)) for id in "ab"]
        await asyncio.sleep(0.3)
        assert scheduler.running_count == 0
        for id in "ab":
            record_store.save_record(bucket, success(id))
        await asyncio.wait_for(asyncio.gather(*futures), 5)
        await asyncio.sleep(0.1)
        scheduler.close()

    run(scenario())
    assert sorted(name for names in engine.cancelled for name in names) == sorted(engine.names)
    assert len(engine.names) == 2 and len(engine.cancelled) <= 2


def test_a_cancelled_experiment_ends_its_job_and_is_lost(bucket):
    class Running(ScriptedEngine):
        def play(self, job, step):
            return None

        def listing(self):
            return {name: JobState("running") for name in self.names}

    engine = Running(bucket, ["works"] * 9)

    async def scenario():
        scheduler = Scheduler(bucket, engine)
        futures = [result(scheduler, entry(id)) for id in "ab"]
        await asyncio.sleep(0.3)
        record_store.request_cancel(bucket, "ab")
        values = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 5)
        await asyncio.sleep(0.1)
        scheduler.close()
        return values

    assert [str(value) for value in run(scenario())] == ["It was cancelled."] * 2
    assert [sorted(names) for names in engine.cancelled] == [sorted(engine.names)]


def test_equal_ids_share_one_future_and_an_experiment_waits_for_a_full_backend(bucket):
    engine = ScriptedEngine(bucket, ["works"] * 9, room=1)

    async def scenario():
        scheduler = Scheduler(bucket, engine)
        first, same, second = (result(scheduler, entry(id)) for id in ("a", "a", "b"))
        assert first is same
        await first
        assert not second.done() and scheduler.without_record == ["b"]
        engine.room = 2
        return await asyncio.wait_for(second, 5)

    assert run(scenario()).id == "b"


def test_higher_priority_starts_first(bucket):
    engine = ScriptedEngine(bucket, ["works"] * 9)
    entries = [entry("a"), entry("b", priority=5), entry("c", priority=1)]
    scheduler = Scheduler(bucket, engine)
    scheduler._start_or_wake = lambda: None

    async def scenario():
        futures = [result(scheduler, each) for each in entries]
        scheduler.tick()
        scheduler.tick()
        await asyncio.wait_for(asyncio.gather(*futures), 5)

    run(scenario())
    assert engine.submitted == ["b", "c", "a"]


def test_an_experiment_that_another_process_runs_is_not_started_again(bucket, monkeypatch, caplog):
    monkeypatch.setattr(pending, "ELSEWHERE_SECONDS", 0.0)
    engine = ScriptedEngine(bucket, [])
    record_store.claim_attempt(bucket, "a")

    async def scenario():
        scheduler = Scheduler(bucket, engine)
        future = result(scheduler, entry("a"))
        await until(lambda: scheduler.running_count == 1 and caplog.records)
        record_store.save_record(bucket, Experiment("a", "failed", "", "toy", "cpu"))
        return await asyncio.wait_for(future, 5)

    assert run(scenario()).status == "failed" and engine.submitted == []
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"Process {os.getpid()} of this machine has run the experiment a for another run for 0 s;")


def test_a_dead_attempt_of_another_machine_is_ended_after_a_lease_without_a_new_heartbeat(bucket, monkeypatch):
    monkeypatch.setattr(record_store, "LEASE_SECONDS", 2.0)
    engine = ScriptedEngine(bucket, ["works"])
    body = claim(bucket, "a")

    async def scenario():
        scheduler = Scheduler(bucket, engine)
        future = result(scheduler, entry("a"))
        for _ in range(6):
            await asyncio.sleep(0.5)
            record_store.write_beat(bucket, body)
        assert engine.names == []
        died = time.monotonic()
        await asyncio.wait_for(future, 20)
        scheduler.close()
        return time.monotonic() - died

    assert 1.5 < run(scenario()) < 10
    [dead] = record_store.attempts(bucket, "a")
    assert dead.end.kind == record_store.DEAD


def test_a_dead_attempt_is_free_where_the_engine_lost_its_node(bucket, monkeypatch):
    """Also where another scheduler had submitted the job."""
    monkeypatch.setattr(record_store, "LEASE_SECONDS", 0.3)
    engine = ScriptedEngine(bucket, ["works"])
    engine.over[job_name(bucket.url, "a", 0)] = JobState("over", "node_fail")
    listing = engine.over
    engine.listing = lambda: {**listing, **engine.over}
    claim(bucket, "a")
    assert outcome(bucket, engine, max_attempts=1).status == "succeeded"
    [dead] = record_store.attempts(bucket, "a")
    assert dead.end.kind == record_store.PREEMPTED and dead.end.reason == "its job ended: node_fail"


def test_what_failed_on_another_host_is_tried_here_at_once(bucket, monkeypatch):
    monkeypatch.setattr(attempt_policy, "BACKOFF_SECONDS", (60.0,))
    engine = ScriptedEngine(bucket, ["failed", "works"])
    began = time.monotonic()
    assert outcome(bucket, engine).status == "succeeded" and time.monotonic() - began < 10


def test_a_process_that_starts_nothing_sees_what_others_gave_up_and_puts_back_what_is_missing(bucket):
    async def scenario():
        scheduler = Scheduler(bucket, WatchedBucket())
        future = result(scheduler, entry("a"))
        await asyncio.sleep(0.3)
        bucket.delete("queue/a")  # as after a power failure
        await until(lambda: "a" in bucket.list("queue"))
        assert not future.done()
        attempt(bucket, "a", reason="reason 0")
        await asyncio.sleep(0.3)
        assert not future.done()
        record_store.leave_queue(bucket, "a")
        with pytest.raises(Lost, match="reason 0"):
            await asyncio.wait_for(future, 5)
        scheduler.close()

    run(scenario())
