import asyncio
import json

import pytest
from conftest import run
from scripted import idea

from ideator_rl.bucket import open_bucket
from ideator_rl.environment import Resources
from ideator_rl.executor import attempts
from ideator_rl.executor.backends.local import LocalBackend
from ideator_rl.executor.scheduler import Lost, Scheduler
from ideator_rl.experiment import Experiment


class ScriptedBackend:
    """Plays a fleet: each submission does what the script says next."""

    def __init__(self, bucket, script, room=10):
        self.bucket, self.script, self.room, self.submitted = bucket, iter(script), room, []

    def submit(self, id, resources):
        if len(self.submitted) >= self.room:
            return False
        self.submitted.append(id)
        if next(self.script) == "works":
            attempts.store_result(self.bucket, Experiment(id, "succeeded", "", "toy", "cpu"))
        else:
            number = attempts.attempts(self.bucket, id)
            path = f"experiments/{id}/attempts/{number}"
            self.bucket.create(f"{path}/claim.json", json.dumps({"place": "x", "time": 0}).encode())
            attempts.give_up(self.bucket, id, number, "node on fire")
        return True

    def active(self, id):
        return False


@pytest.fixture
def bucket(tmp_path):
    return open_bucket(f"memory://{tmp_path}")


def test_a_lost_attempt_is_tried_again_and_the_result_settles_it(bucket):
    backend = ScriptedBackend(bucket, ["dies", "dies", "works"])

    async def scenario():
        return await Scheduler(bucket, backend).result("a", Resources())

    assert run(scenario()).status == "succeeded"
    assert backend.submitted == ["a"] * 3


def test_after_its_tries_an_experiment_is_lost_with_the_last_reason(bucket):
    async def scenario():
        await Scheduler(bucket, ScriptedBackend(bucket, ["dies"] * 9), max_attempts=2).result("a", Resources())

    with pytest.raises(Lost, match="node on fire"):
        run(scenario())
    assert attempts.attempts(bucket, "a") == 2


def test_equal_ids_share_one_future_and_a_full_backend_is_asked_later(bucket):
    backend = ScriptedBackend(bucket, ["works"] * 9, room=1)

    async def scenario():
        scheduler = Scheduler(bucket, backend)
        first, same, other = (scheduler.result(id, Resources()) for id in ("a", "a", "b"))
        assert first is same
        await first
        assert not other.done() and scheduler.waiting == ["b"]
        backend.room = 2
        return await other

    assert run(scenario()).id == "b"


def test_what_somebody_else_is_running_is_waited_for_and_not_started(bucket):
    backend = ScriptedBackend(bucket, [])
    attempts.claim(bucket, "a")

    async def scenario():
        future = Scheduler(bucket, backend).result("a", Resources())
        await asyncio.sleep(0.3)
        attempts.store_result(bucket, Experiment("a", "failed", "", "toy", "cpu"))
        return await future

    assert run(scenario()).status == "failed" and backend.submitted == []


def test_a_scheduler_of_its_own_finds_the_codebases_in_the_bucket(toy_config):
    """An executor proposes and dies; a scheduler elsewhere runs what it left, once."""
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
        records = await asyncio.gather(*scheduler.discover())
        assert scheduler.discover() == []
        return records

    run(propose())
    assert [record.status for record in run(serve())] == ["succeeded", "succeeded"]
