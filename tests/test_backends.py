"""Backends by name, and an executor that puts experiments in a bucket while a scheduler runs them."""

import asyncio
import errno
import json
import os
import time
from dataclasses import replace

import pytest
from conftest import run, until
from scripted import idea

from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.executor.backends import BUILT_IN, backend_class, local
from ideator_rl.executor.backends.local import LocalBackend
from ideator_rl.executor.backends.watched import WatchedBucket
from ideator_rl.executor.executor import Executor
from ideator_rl.executor.scheduler import Scheduler
from ideator_rl.files import NoFileLocks
from ideator_rl.registry import UnknownName
from ideator_rl.sandbox.program import COLD
from ideator_rl.storage.bucket import open_bucket


def test_a_backend_is_found_by_name_or_by_the_path_of_its_class():
    assert backend_class("local") is LocalBackend and backend_class("bucket") is WatchedBucket
    assert backend_class("test_backends.Recorded") is Recorded
    with pytest.raises(UnknownName, match="None of the backends is named 'slurmm'"):
        backend_class("slurmm")


class WithoutBaseClass:
    def __init__(self, bucket_url, slots, isolation):
        self.bucket_url = bucket_url

    def submit(self, id, resources):
        return False

    def active(self, id):
        return False


def test_a_class_without_the_base_class_gets_the_default_methods():
    bucket = open_bucket("memory://backends")
    backend = backend_class("test_backends.WithoutBaseClass").create(bucket, 1, "auto")
    assert backend.bucket_url == bucket.url and backend.starts
    assert backend.runner(None, None) is None and backend.refuse_if_too_large(Resources()) is None
    assert not backend.submit("a", Resources())


def test_doctor_lists_the_registered_backends(call, tmp_path):
    code, out, _ = call("doctor", "--bucket", f"file://{tmp_path}/bucket", "--json")
    assert set(BUILT_IN) <= set(json.loads(out)["backends"])


class Recorded(LocalBackend):
    """The local backend, with a list of its constructor arguments."""

    created: list[tuple[str, int, str]] = []

    def __init__(self, bucket_url, slots, isolation):
        self.created.append((bucket_url, slots, isolation))
        super().__init__(bucket_url, slots, isolation)


def test_an_executor_creates_the_backend_of_its_configuration(toy_config):
    executor = Executor(replace(toy_config, backend="test_backends.Recorded"))
    assert isinstance(executor.backend, Recorded)
    assert Recorded.created[-1] == (toy_config.bucket, 2, "auto")
    assert run(executor.execute(idea("Set x to 1.0."))).status == "succeeded"


def test_a_scheduler_runs_experiments_that_another_process_put_in_the_bucket(toy_config):
    """As on two machines: the executor starts nothing, a scheduler that watches the bucket does."""
    executor = Executor(replace(toy_config, backend="bucket"))

    async def scenario():
        task = asyncio.create_task(executor.execute(idea("Set x to 1.0.")))
        await until(lambda: len(executor.scheduler.without_record) == 1)
        await asyncio.sleep(0.3)
        assert not task.done()
        watcher = Scheduler(executor.bucket, LocalBackend(executor.bucket.url, slots=2))
        watcher.serve(lambda id, outcome: None)
        try:
            return await asyncio.wait_for(task, 120)
        finally:
            watcher.close()

    record = run(scenario())
    assert record.status == "succeeded" and len(record_store.attempts(executor.bucket, record.id)) == 1


class OfVersion010(WithoutBaseClass):
    """As a backend of 0.1.0 with a parent of its own."""

    def __init__(self, bucket_url, slots, isolation):
        super().__init__(bucket_url, slots, isolation)
        super(WithoutBaseClass, self).__init__()


def create_backend(bucket_url, slots, isolation):
    return WithoutBaseClass(bucket_url, slots, isolation)


def test_a_class_without_the_base_class_may_call_the_constructor_of_its_parent():
    bucket = open_bucket("memory://backends")
    assert backend_class("test_backends.OfVersion010").create(bucket, 1, "auto").bucket_url == bucket.url


def test_a_function_in_place_of_a_backend_class_is_refused():
    with pytest.raises(IdeatorError, match="test_backends.create_backend is <function .*Expected a class"):
        backend_class("test_backends.create_backend")


@pytest.fixture
def six_processors(monkeypatch, tmp_path):
    """Two runs share processors 4 to 9; nothing is started."""
    monkeypatch.setattr(local, "slots_folder", lambda: tmp_path / "slots")
    monkeypatch.setattr(local.share, "processors", lambda: [4, 5, 6, 7, 8, 9])
    monkeypatch.setattr(local.share, "cpu_share", lambda: 6)
    monkeypatch.setattr(local.share, "gpus", list)

    class Worker:
        def __init__(self, config, variables, slots):
            self.end, self.slots, self.ended = -1, [os.dup(slot) for slot in slots], False

        def running(self):
            return not self.ended

        def close(self):
            for slot in self.slots:
                os.close(slot)

    monkeypatch.setattr(local, "start_worker", Worker)

    def backend(slots):
        made = LocalBackend("file:///bucket", slots)
        made.start = COLD
        return made

    return backend


def test_runs_share_the_processors_and_each_keeps_its_own_number_of_slots(six_processors):
    one, two = six_processors(2), six_processors(None)
    assert [one.submit(id, Resources(1, 0, 1)) for id in "abc"] == [True, True, False]
    assert [two.submit(id, Resources(2, 0, 1)) for id in "def"] == [True, True, False]
    assert local.slots_in_use() == 6
    one._processes["a"].ended = True
    assert one.submit("c", Resources(1, 0, 1)) and not one.submit("g", Resources(1, 0, 1))


def test_more_slots_than_processors_are_taken_on_request(six_processors):
    one = six_processors(8)
    assert all(one.submit(str(number), Resources(1, 0, 1)) for number in range(8))
    assert not one.submit("8", Resources(1, 0, 1))


def test_a_run_that_waits_for_slots_of_other_runs_logs_for_which_and_how_long(six_processors, monkeypatch, caplog):
    one, two = six_processors(None), six_processors(None)
    assert all(one.submit(str(number), Resources(1, 0, 1)) for number in range(6))
    clock = [time.monotonic()]
    monkeypatch.setattr(local.time, "monotonic", lambda: clock[0])
    for seconds in (0, 5, 6, 100, 100, 100):
        clock[0] += seconds
        assert not two.submit("x", Resources(1, 0, 1))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and "Waiting for 11 s for CPU slots" in lines[0] and "Waiting for 311 s" in lines[1]
    assert f": 6 by process {os.getpid()} (bucket file:///bucket) for up to 0 s." in lines[0]


def test_a_run_whose_own_experiments_run_says_nothing(six_processors, caplog, monkeypatch):
    one, two = six_processors(5), six_processors(6)
    assert all(one.submit(str(number), Resources(1, 0, 1)) for number in range(5)) and two.submit(
        "x", Resources(1, 0, 1)
    )
    clock = [time.monotonic()]
    monkeypatch.setattr(local.time, "monotonic", lambda: clock[0])
    for _ in range(3):
        clock[0] += 100
        assert not two.submit("y", Resources(1, 0, 1))
    assert not caplog.records


def test_a_full_temporary_folder_costs_no_slot(six_processors, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    one = six_processors(6)
    monkeypatch.setattr(local.os, "pwrite", full)  # of the holder's name, for runs that wait
    assert one.submit("a", Resources(1, 0, 1)) and local.slots_in_use() == 1


def test_slots_that_cannot_be_opened_for_a_moment_lose_no_experiment(toy_config, monkeypatch):
    executor = Executor(toy_config)
    opened, faults = os.open, [errno.EMFILE, errno.ENOSPC]

    def failing(path, *more, **keys):
        if "ideator_rl-slots" in str(path) and faults:
            raise OSError(faults.pop(), "no slot now")
        return opened(path, *more, **keys)

    monkeypatch.setattr(local.os, "open", failing)
    assert run(executor.execute(idea("Set x to 1.0."))).status == "succeeded" and not faults
    executor.close()


def test_slots_are_free_again_after_a_start_that_failed(six_processors, monkeypatch):
    one, slots, descriptors = six_processors(6), local._open_slot, set(os.listdir("/proc/self/fd"))

    def too_many_files(name):
        if name == "cpu6":
            raise OSError(errno.EMFILE, "Too many open files")
        return slots(name)

    monkeypatch.setattr(local, "_open_slot", too_many_files)
    with pytest.raises(OSError, match="Too many open files"):
        one.submit("a", Resources(3, 0, 1))
    monkeypatch.setattr(local, "_open_slot", slots)
    monkeypatch.setattr(local, "best_sandbox", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.submit("a", Resources(3, 0, 1))
    assert local.slots_in_use() == 0 and set(os.listdir("/proc/self/fd")) == descriptors


def test_slots_on_a_file_system_without_locks_are_refused_before_the_first_experiment(six_processors, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(NoFileLocks, match="has no file locks .*Set TMPDIR"):
        six_processors(1).refuse_if_too_large(Resources(1, 0, 1))
