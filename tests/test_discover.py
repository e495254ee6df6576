"""A scheduler of its own: what it takes from the queue of a bucket, at which cost, and what it leaves."""

import json
import time
from contextlib import contextmanager

import pytest
from scripted_fleet import ScriptedEngine, attempt

from ideator_rl.environments.environment import load_environment
from ideator_rl.executor import record_store
from ideator_rl.executor.scheduler import Scheduler
from ideator_rl.experiment import Experiment
from ideator_rl.storage.bucket import BucketError, open_bucket


@pytest.fixture
def bucket(tmp_path):
    return open_bucket(f"file://{tmp_path}/b")


class Counted:
    """A bucket that counts what is read and listed."""

    def __init__(self, bucket):
        self.bucket, self.url, self.calls = bucket, bucket.url, []

    def get(self, key):
        self.calls.append(key)
        return self.bucket.get(key)

    def get_many(self, keys):
        self.calls += keys
        return self.bucket.get_many(keys)

    def list(self, prefix):
        self.calls.append(prefix)
        return self.bucket.list(prefix)

    def __getattr__(self, name):
        return getattr(self.bucket, name)


def put(bucket, id, toy):
    """Another process requests an experiment."""
    record_store.request_run(bucket, toy_spec(id, toy), load_environment(str(toy)).preset("cpu"))


def toy_spec(id, toy):
    empty = {"str": "", "int": 0, "float": 0.0, "bool": True}
    body = {name: empty[item.type] for name, item in record_store.Spec.__dataclass_fields__.items()}
    return record_store.Spec(**body | {"id": id, "created": time.time(), "preset": "cpu", "environment": str(toy)})


@contextmanager
def serving(bucket, engine, **more):
    """A scheduler that serves a bucket; the value is the outcomes so far, by id."""
    scheduler, ends = Scheduler(bucket, engine, **more), {}
    scheduler.serve(ends.__setitem__)
    try:
        yield ends
    finally:
        scheduler.close()


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_what_is_new_is_read_however_many_experiments_have_ended(bucket, toy):
    bucket = Counted(bucket)
    for number in range(60):
        put(bucket, f"old{number}", toy)
        record_store.save_record(bucket, Experiment(f"old{number}", "failed", "", "toy", "cpu"))
    bucket.calls.clear()
    with serving(bucket, ScriptedEngine(bucket, ["works"])) as ends:
        wait_for(lambda: len(bucket.calls) > 4)
        assert set(bucket.calls) == {"queue", "beats"}
        record_store.request_run(bucket.bucket, toy_spec("new", toy), load_environment(str(toy)).preset("cpu"))
        wait_for(lambda: "new" in ends)
        reads = [key for key in bucket.calls if key not in ("queue", "beats")]
        assert len(reads) <= 6 and not any("old" in key for key in reads)


def test_an_experiment_that_has_a_record_leaves_the_queue_and_is_not_started(bucket, toy):
    put(bucket, "a", toy)
    entry = bucket.get("queue/a")
    record_store.save_record(bucket, Experiment("a", "failed", "", "toy", "cpu"))
    bucket.put("queue/a", entry)  # as its worker was killed after the record
    engine = ScriptedEngine(bucket, [])
    with serving(bucket, engine) as ends:
        wait_for(lambda: bucket.list("queue") == {})
        assert engine.names == [] and ends == {}


def test_one_that_was_lost_is_tried_again_when_it_is_requested_anew(bucket, toy):
    put(bucket, "a", toy)
    engine = ScriptedEngine(bucket, ["failed", "failed", "works"])
    with serving(bucket, engine, max_attempts=2) as ends:
        wait_for(lambda: "a" in ends)
        assert str(ends.pop("a")) == "reason 2" and bucket.list("queue") == {}
        time.sleep(0.3)
        assert ends == {} and len(engine.names) == 2
        put(bucket, "a", toy)
        wait_for(lambda: "a" in ends)
        assert ends["a"].status == "succeeded" and engine.submitted == ["a"] * 3


def test_a_damaged_entry_is_skipped_with_a_line_and_the_others_run(bucket, toy, caplog):
    bucket.put("queue/a", b"no entry")
    put(bucket, "b", toy)
    with serving(bucket, ScriptedEngine(bucket, ["works"])) as ends:
        wait_for(lambda: "b" in ends)
        assert list(ends) == ["b"] and "queue/a" in caplog.text


def test_a_scheduler_needs_no_environment(bucket, toy):
    put(bucket, "a", toy)
    entry = json.loads(bucket.get("queue/a")) | {"environment": "nowhere"}
    bucket.put("queue/a", json.dumps(entry).encode())
    with serving(bucket, ScriptedEngine(bucket, ["works"])) as ends:
        wait_for(lambda: "a" in ends)


def test_declared_hardware_is_left_to_a_scheduler_that_has_it(bucket, toy):
    preset = load_environment(str(toy)).preset("cpu")
    record_store.request_run(bucket, toy_spec("a", toy), preset, hardware="H100")
    put(bucket, "b", toy)
    with serving(bucket, ScriptedEngine(bucket, ["works"] * 2), hardware="a100") as ends:
        wait_for(lambda: "b" in ends)
        time.sleep(0.3)
        assert list(ends) == ["b"]
    with serving(bucket, ScriptedEngine(bucket, ["works"] * 2), hardware="h100") as ends:
        wait_for(lambda: "a" in ends)


def test_during_an_outage_nothing_is_taken_and_nothing_is_lost(bucket, toy, monkeypatch):
    monkeypatch.setattr("ideator_rl.executor.retry.FIRST_WAIT", 0.05)

    class Away(Counted):
        away = True

        def list(self, prefix):
            if self.away:
                raise BucketError("away")
            return super().list(prefix)

    put(bucket, "a", toy)
    away = Away(bucket)
    with serving(away, ScriptedEngine(bucket, ["works"])) as ends:
        time.sleep(0.3)
        assert ends == {}
        away.away = False
        wait_for(lambda: "a" in ends)


def test_three_schedulers_at_once_count_the_attempts_of_all(bucket, toy):
    for number in range(12):
        put(bucket, f"{number}", toy)
    engines = [ScriptedEngine(bucket, ["failed", "works"] * 40) for _ in range(3)]
    with serving(bucket, engines[0]) as a, serving(bucket, engines[1]) as b, serving(bucket, engines[2]) as c:
        wait_for(lambda: bucket.list("queue") == {}, 20)
    outcomes = a | b | c
    assert {getattr(outcome, "status", "lost") for outcome in outcomes.values()} <= {"succeeded", "lost"}
    for number in range(12):
        assert record_store.has_record(bucket, f"{number}") or len(record_store.attempts(bucket, f"{number}")) >= 3


def test_the_command_prints_each_end_and_ends_when_nothing_waits(tmp_path, toy, call):
    bucket = open_bucket(f"file://{tmp_path}/b")
    put(bucket, "a", toy)  # its codebase is missing: each attempt fails
    for _ in range(2):
        attempt(bucket, "a")
    code, out, err = call("scheduler", "--bucket", bucket.url, "--once", "--json", "--slots", "1", "--start", "cold")
    assert code == 1 and "by local with 1 slots" in err
    line = json.loads(out)
    assert line["id"] == "a" and line["status"] == "lost" and "is not in the bucket" in line["error"]


def test_the_command_refuses_a_backend_that_starts_nothing(tmp_path, call):
    code, _, err = call("scheduler", "--bucket", f"file://{tmp_path}/b", "--backend", "bucket", "--once")
    assert code == 2 and "The backend bucket starts no experiments" in err
