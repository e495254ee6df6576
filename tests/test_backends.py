"""Backends by name, and one scheduler that puts experiments in a bucket while another one runs them."""

import asyncio
from dataclasses import replace

import pytest
from conftest import run
from scripted import idea

from ideator_rl.executor import store as attempts
from ideator_rl.executor.backends import get_backend
from ideator_rl.executor.backends.local import LocalBackend
from ideator_rl.executor.backends.watched import WatchedBucket, want, wanted
from ideator_rl.executor.executor import Executor
from ideator_rl.executor.scheduler import Scheduler
from ideator_rl.registry import UnknownName


def test_a_backend_is_known_by_name_or_by_the_path_of_its_class():
    assert get_backend("local") is LocalBackend and get_backend("bucket") is WatchedBucket
    assert get_backend("test_backends.Recorded") is Recorded
    with pytest.raises(UnknownName, match="no backends named 'slurmm'"):
        get_backend("slurmm")


class Recorded(LocalBackend):
    """The local backend, noting what it was made with."""

    made: list[tuple[str, int, str]] = []

    def __init__(self, bucket_url, slots, isolation):
        self.made.append((bucket_url, slots, isolation))
        super().__init__(bucket_url, slots, isolation)


def test_an_executor_makes_the_backend_that_its_configuration_names(toy_config):
    executor = Executor(replace(toy_config, backend="test_backends.Recorded"))
    assert isinstance(executor.backend, Recorded)
    assert Recorded.made[-1] == (toy_config.bucket, 2, "auto")
    assert run(executor.execute(idea("Set x to 1.0."))).status == "succeeded"


def test_what_one_puts_in_the_bucket_another_runs(toy_config):
    """Two parts as on two machines: the executor starts nothing, a scheduler that watches the bucket does."""
    executor = Executor(replace(toy_config, backend="bucket"))

    async def scenario():
        task = asyncio.create_task(executor.execute(idea("Set x to 1.0.")))
        await asyncio.sleep(0.5)
        assert not task.done() and len(executor.scheduler.waiting) == 1
        watcher = Scheduler(executor.bucket, LocalBackend(executor.bucket.url, slots=2))
        assert len(watcher.discover()) == 1
        return await asyncio.wait_for(task, 20)

    record = run(scenario())
    assert record.status == "succeeded" and attempts.attempts(executor.bucket, record.id) == 1


def test_only_what_was_given_up_is_asked_for_again_and_each_time_anew(toy_config):
    bucket = Executor(toy_config).bucket
    want(bucket, "a")
    assert not wanted(bucket, "a") and bucket.names("experiments/a") == []
    number = attempts.claim(bucket, "a")
    attempts.give_up(bucket, "a", number, "no luck")
    assert not wanted(bucket, "a")
    want(bucket, "a")
    assert wanted(bucket, "a")
    attempts.give_up(bucket, "a", attempts.claim(bucket, "a"), "no luck")
    assert not wanted(bucket, "a")
