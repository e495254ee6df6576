"""Outages of the bucket are waited out; only one beyond the limit loses experiments."""

import asyncio
import json
import logging
import random
import time
from dataclasses import replace

import pytest
from conftest import TOY, replace_line, run
from llm_server import Scripted, answer
from scripted import idea

from ideator_rl.executor import retry as module
from ideator_rl.executor.executor import Executor, ExecutorConfig
from ideator_rl.executor.retry import Backoff, RetriesExhausted, Retry
from ideator_rl.llm import client
from ideator_rl.storage.bucket import BucketError


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.1)


AWAY = BucketError("away.")


def until(moment, error=AWAY):
    """A function that fails until a moment of the monotonic clock."""

    def function():
        if time.monotonic() < moment:
            raise error
        return "done"

    return function


def test_many_callers_wait_out_one_outage_with_two_log_lines_and_a_free_event_loop(quick, caplog):
    caplog.set_level(logging.INFO)
    turns = []

    async def scenario():
        retry, end = Retry("file:///b", 5.0), time.monotonic() + 0.8
        waiting = [asyncio.create_task(retry.call(until(end, OSError(28, "full")))) for _ in range(50)]
        while not all(task.done() for task in waiting):
            await asyncio.sleep(0.01)
            turns.append(time.monotonic())
        return [task.result() for task in waiting]

    assert run(scenario()) == ["done"] * 50
    # Turns, and not the longest of them: a garbage collection of the whole suite's objects takes 0.3 s.
    assert len(turns) > 8
    assert [record.message.split(":")[0] for record in caplog.records] == ["The bucket file"] * 2
    assert "full" in caplog.records[0].message and "no call is waiting" in caplog.records[1].message


def test_the_calls_of_a_remote_bucket_run_together_and_leave_the_event_loop_free():
    async def scenario():
        retry = Retry("s3://b", 5.0, remote=True)
        calls = [asyncio.create_task(retry.call(lambda: time.sleep(0.8))) for _ in range(10)]
        began, turns = time.monotonic(), 0
        while not all(task.done() for task in calls):
            await asyncio.sleep(0.01)
            turns += 1
        return time.monotonic() - began, turns

    seconds, turns = run(scenario())
    assert seconds < 5 and turns > 8  # one after another they take 8 s


def test_an_outage_beyond_the_limit_raises_with_its_cause(quick):
    began = time.monotonic()
    with pytest.raises(RetriesExhausted, match="away"):
        run(Retry("file:///b", 0.3).call(until(began + 60)))
    assert 0.3 <= time.monotonic() - began < 20


def test_a_limit_of_zero_raises_at_the_first_failure_and_logs_nothing(caplog):
    calls = []

    def function():
        calls.append(1)
        raise PermissionError(13, "not yours")

    with pytest.raises(RetriesExhausted, match="not yours"):
        run(Retry("file:///b", 0.0).call(function))
    assert calls == [1] and not caplog.records


def test_an_error_that_is_no_outage_is_raised_at_once():
    with pytest.raises(KeyError):
        run(Retry("file:///b", 60).call(until(float("inf"), KeyError("bug"))))


def test_waits_double_up_to_a_minute_and_are_drawn_from_the_upper_half():
    random.seed(0)
    backoff = Backoff(Retry("x", 1e9))
    waits = [backoff.next_wait(BucketError("away")) for _ in range(12)]
    for wait, most in zip(waits, [1, 2, 4, 8, 16, 32, *[60] * 6], strict=True):
        assert most / 2 <= wait <= most
    assert len(set(waits[6:])) == 6
    backoff.finish()


@pytest.fixture
def fleet(monkeypatch, tmp_path):
    monkeypatch.setenv("IDEATOR_FLEET", json.dumps({"median": 0.3, "sigma": 0.3, "lost": 0.0}))
    return ExecutorConfig(
        str(TOY),
        "cpu",
        f"file://{tmp_path}/bucket",
        implementer="scripted.ScriptedImplementer",
        backend="benchmarks.fleet.SimulatedFleet",
        slots=8,
    )


@pytest.mark.parametrize("begins", [0.0, 0.01, 0.1, 0.3])
def test_an_outage_of_the_bucket_loses_no_idea_and_runs_none_twice(fleet, tmp_path, quick, begins):
    executor = Executor(fleet)

    async def scenario():
        texts = [idea(f"x = {number}.5") for number in range(6)] + ["no idea"]
        tasks = [asyncio.create_task(executor.execute(text)) for text in texts]
        await asyncio.sleep(begins)
        (tmp_path / "bucket").rename(tmp_path / "away")
        await asyncio.sleep(0.7)
        assert not any((tmp_path / "bucket").glob("*"))
        (tmp_path / "away").rename(tmp_path / "bucket")
        return await asyncio.gather(*tasks)

    records = run(scenario())
    assert [record.status for record in records] == ["succeeded"] * 6 + ["malformed"]
    assert len(executor.implementer.asked) == 6
    ids = executor.bucket.names("experiments")
    assert sum(len(executor.bucket.names(f"experiments/{id}/attempts")) for id in ids) == 6


def test_an_outage_beyond_the_limit_gives_lost_records_instead_of_errors(fleet, tmp_path, quick, monkeypatch):
    # No experiment ends before the outage.
    monkeypatch.setenv("IDEATOR_FLEET", json.dumps({"median": 60.0, "sigma": 0.1, "lost": 0.0}))
    executor = Executor(replace(fleet, outage_patience=0.3))

    async def scenario():
        tasks = [asyncio.create_task(executor.execute(text)) for text in (idea("x = 1.5"), idea("x = 2.5"))]
        await asyncio.sleep(0.05)
        (tmp_path / "bucket").rename(tmp_path / "away")
        return await asyncio.gather(*tasks, executor.execute(idea("x = 3.5")), executor.execute("no idea"))

    records = run(scenario())
    assert [record.status for record in records] == ["lost"] * 4
    assert all("No such file" in record.error["message"] and record.reward is None for record in records)
    assert not executor.scheduler.without_record


class Broken:
    """Scripted: one idea meets a bug of the implementer, any other is implemented."""

    name, trusted = "broken", True

    def version(self, environment):
        return self.name

    async def implement(self, idea, base, environment, preset):
        from scripted import ScriptedImplementer

        if idea.changes == "x = 13.0":
            raise ZeroDivisionError("a bug")
        return await ScriptedImplementer().implement(idea, base, environment, preset)


def test_a_bug_in_the_implementer_loses_only_the_idea_that_met_it(fleet):
    executor = Executor(replace(fleet, implementer="test_retry.Broken"))

    async def both():
        return await asyncio.gather(*(executor.execute(idea(text)) for text in ("x = 13.0", "x = 1.5")))

    lost, good = run(both())
    assert lost.status == "lost" and "ZeroDivisionError" in lost.error["message"] and good.status == "succeeded"


def test_an_idea_survives_a_short_outage_of_the_llm_endpoint_and_can_be_tried_again_after_a_long_one(
    fleet, monkeypatch
):
    monkeypatch.setattr(client, "BACKOFF", 0.05)
    down, requests = [True], []

    def step(body):
        requests.append(body)
        if down[0]:
            return {"status": 503, "body": {"error": {"message": "overloaded"}}}
        return {"body": answer(replace_line("x = 4.0", "x = 1.0"))}

    with Scripted(step) as server:
        settings = {"base_url": server.url, "models": "coder", "api_key_env": None, "samples": 1}

        def executor(retries):
            return Executor(replace(fleet, implementer="llm", coder=json.dumps(settings | {"retries": retries})))

        record = run(executor(1).execute(idea("Set x to 1.0.")))
        assert record.status == "lost" and "overloaded" in record.error["message"] and len(requests) == 2

        async def recovers(executor):
            task = asyncio.create_task(asyncio.wait_for(executor.execute(idea("Set x to 1.0.")), 20))
            again = asyncio.create_task(executor.execute(idea("Set x to 1.0.")))
            await asyncio.sleep(0.3)
            down[0] = False
            return await task, await again

        first, same = run(recovers(executor(12)))
    assert first.status == same.status == "succeeded" and first.id == same.id
    answered = [record for record in (first, same) if record.cost.get("calls")]
    assert len(answered) == 1 and answered[0].cost["calls"] == 1
