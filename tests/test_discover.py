"""How a scheduler of its own finds experiments: by the queue, and by listing the bucket now and then."""

import asyncio

import pytest
from conftest import run
from test_scheduler import ScriptedBackend

from ideator_rl.environments.environment import load_environment
from ideator_rl.executor import record_store
from ideator_rl.executor.scheduler import Scheduler
from ideator_rl.experiment import Experiment
from ideator_rl.storage.bucket import open_bucket


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
    return record_store.Spec(**body | {"id": id, "preset": "cpu", "environment": str(toy)})


def test_discover_reads_what_is_new_however_many_experiments_have_ended(bucket, toy):
    bucket = Counted(bucket)
    for number in range(300):
        put(bucket, f"old{number}", toy)
        record_store.save_record(bucket, Experiment(f"old{number}", "failed", "", "toy", "cpu"))
    scheduler = Scheduler(bucket, ScriptedBackend(bucket, ["works"]))

    async def serve():
        assert scheduler.discover() == {}
        scheduler._next_listing = float("inf")
        bucket.calls.clear()
        assert scheduler.discover() == {} and bucket.calls == ["queue"]
        put(bucket, "new", toy)
        [future] = scheduler.discover().values()
        assert len(bucket.calls) <= 5
        return await future

    assert run(serve()).id == "new"


def test_discover_finds_experiments_of_a_version_without_a_queue(bucket, toy):
    scheduler = Scheduler(bucket, ScriptedBackend(bucket, ["works"]))

    async def serve():
        assert scheduler.discover() == {}
        put(bucket, "new", toy)
        bucket.delete("queue/new")
        futures = {}
        while not futures:
            await asyncio.sleep(0.05)
            futures = scheduler.discover()
        return await futures["new"]

    assert asyncio.run(asyncio.wait_for(serve(), 10)).id == "new"


def test_the_queue_holds_an_experiment_until_it_has_a_record(bucket, toy):
    put(bucket, "a", toy)
    assert record_store.queued(bucket) == {"a": False}
    claim = record_store.claim_attempt(bucket, "a")
    record_store.end_attempt(bucket, "a", claim.number, record_store.FAILED, "lost")
    record_store.request_retry(bucket, "a")
    assert record_store.queued(bucket) == {"a": True}
    record_store.save_record(bucket, Experiment("a", "failed", "", "toy", "cpu", attempt=1))
    assert record_store.queued(bucket) == {}


def test_discover_removes_from_the_queue_what_has_a_record(bucket, toy):
    put(bucket, "a", toy)
    record_store.save_record(bucket, Experiment("a", "failed", "", "toy", "cpu"))
    bucket.put("queue/a", b"")
    scheduler = Scheduler(bucket, ScriptedBackend(bucket, []))
    assert scheduler.discover() == {} and record_store.queued(bucket) == {}


def test_discover_takes_on_an_experiment_whose_specification_appears_late(bucket, toy):
    bucket.put("queue/a", b"")
    scheduler = Scheduler(bucket, ScriptedBackend(bucket, ["works"]))

    async def serve():
        assert scheduler.discover() == {}
        put(bucket, "a", toy)
        [future] = scheduler.discover().values()
        return await future

    assert run(serve()).id == "a"
