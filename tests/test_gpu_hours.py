"""GPU-hours of experiments: every run counts, and none is lost or counted twice when a run is resumed."""

import asyncio
import shutil
from contextlib import suppress
from dataclasses import replace

import pytest
import yaml
from conftest import run

from ideator_rl.environments.environment import load_environment
from ideator_rl.executor import record_store, trials
from ideator_rl.executor.executor import Executor
from ideator_rl.executor.record_store import Claim, Spec
from ideator_rl.executor.trials import Trials
from ideator_rl.experiment import Experiment
from ideator_rl.sandbox.sandbox import Sandbox
from ideator_rl.sandbox.sealed_run import RunResult
from ideator_rl.scoring.measurement import Measurement

HOUR = 3600.0


@pytest.fixture
def config(toy, tmp_path, toy_config):
    """The toy on two GPUs that this machine need not have: nothing here starts its experiments.

    A run takes up to an hour, and one that has to be confirmed 2.5 hours.
    """
    root = tmp_path / "gpus"
    shutil.copytree(toy, root)
    manifest = yaml.safe_load((root / "env.yaml").read_text())
    preset = manifest["presets"]["cpu"]
    preset["budget"] = {"clock": "wall", "seconds": HOUR, "startup_allowance": 0.0}
    preset["resources"] = {"gpus": 2}
    preset["suspicious"] = {"beyond": 5.0, "agree": 0.5, "control": 0.5}
    (root / "env.yaml").write_text(yaml.safe_dump(manifest))
    return replace(toy_config, environment=str(root), backend="bucket", max_gpu_hours=12.0)


class Session:
    """One process of a run, with its own ledger object."""

    def __init__(self, config):
        self.executor = Executor(config)
        self.ledger = self.executor.ledger

    async def start(self, replicate=0):
        """A task that waits for the baseline, once it is in the bucket's queue."""
        task, before = asyncio.create_task(self.executor.baseline(replicate)), len(self.queue())
        while len(self.queue()) == before:
            assert not task.done(), task.result()
            await asyncio.sleep(0.01)
        return task

    def queue(self):
        return self.executor.bucket.list("queue")

    def end(self, **seconds):
        """Store the records of what is in the queue, as workers do that outlive the process."""
        for id in self.queue():
            record = Spec.load(self.executor.bucket, id).new_record("failed", "toy", seconds=seconds)
            record_store.save_record(self.executor.bucket, record)


async def ended(task):
    with suppress(asyncio.CancelledError):
        task.cancel()
        await task


def test_an_interrupted_experiment_counts_in_full_until_its_record_is_replayed(config):
    async def interrupted():
        session = Session(config)
        await ended(await session.start())
        assert session.ledger.spent.gpu_hours == 5.0  # two GPUs for 2.5 hours
        session.end(gpu=3 * HOUR)
        resumed = Session(config)
        for _ in range(2):
            assert (await resumed.executor.baseline()).replayed and resumed.ledger.spent.gpu_hours == 3.0
        for executor in (session.executor, resumed.executor):
            executor.close()

    run(interrupted())


def test_an_experiment_that_a_resumed_run_waits_for_again_counts_once(config):
    async def resumed_twice():
        sessions = [Session(config) for _ in range(3)]
        for session in sessions[:2]:
            task = asyncio.create_task(session.executor.baseline())
            while not session.executor.scheduler.without_record:
                await asyncio.sleep(0.01)
            await ended(task)
        task = asyncio.create_task(sessions[2].executor.baseline())
        while not sessions[2].executor.scheduler.without_record:
            await asyncio.sleep(0.01)
        sessions[2].end(run=HOUR)
        await task
        assert sessions[2].ledger.spent.gpu_hours == 2.0  # of a record that names no GPU-hours
        for session in sessions:
            session.executor.close()

    run(resumed_twice())


def test_an_experiment_waits_for_room_and_is_not_queued_before(config):
    async def three():
        session = Session(config)
        tasks = [await session.start(replicate) for replicate in range(2)]
        third = asyncio.create_task(session.executor.baseline(2))
        await asyncio.sleep(0.2)
        assert len(session.queue()) == 2 and not third.done()
        session.end(gpu=HOUR)
        await asyncio.gather(*tasks)
        while not session.queue():
            await asyncio.sleep(0.01)
        session.end(gpu=HOUR)
        assert (await third).status == "failed" and session.ledger.spent.gpu_hours == pytest.approx(3.0)
        session.executor.close()

    run(three())


def test_every_run_of_an_experiment_counts(config, tmp_path, monkeypatch):
    """The first run is killed and repeated; its result is suspicious, confirmed, and compared with a control run."""
    environment = load_environment(config.environment)
    walls, values = iter([1.0, 10.0, 100.0, 1000.0]), iter([1.0, 1.0, 3.0])

    def sealed(self, workspace, seed, share):
        wall = next(walls)
        return RunResult("ok", "", "", 0.0, True, 0.0, wall, killed=wall == 1.0)

    monkeypatch.setattr(Trials, "_run_sealed", sealed)
    monkeypatch.setattr(Trials, "_measure", lambda *_: Measurement("succeeded", value=next(values)))
    monkeypatch.setattr(trials, "collect", lambda *_: None)
    empty = {"str": "", "int": 0, "float": 0.0, "bool": True}
    body = {name: empty[item.type] for name, item in Spec.__dataclass_fields__.items()}
    spec = Spec(**body | {"digest": environment.digest("cpu"), "preset": "cpu", "environment": config.environment})
    claim = Claim("", 0, "", "here", "here", 1, None, 0.0)
    tree = environment.baseline("cpu")
    record = Trials(spec, claim, environment, Sandbox("none"), tmp_path / "work").run(tree)
    assert (record.status, record.seconds["run"]) == ("succeeded", 10.0)
    assert record.seconds["gpu"] == 2222.0 and record.gpu_hours(2) == 2222 / HOUR
    assert Experiment("old", "failed", "", "toy", "cpu", seconds={"run": HOUR}).gpu_hours(2) == 2.0


def test_what_was_given_up_counts_by_whether_it_ran(config):
    async def given_up():
        session = Session(config)
        bucket, ledger = session.executor.bucket, session.ledger
        # Cancelled while it waited: nothing ran.
        task = await session.start()
        record_store.request_cancel(bucket, session.queue())
        assert (await task).status == "lost" and ledger.spent.gpu_hours == 0.0
        # Cancelled while it ran: what it may have taken counts.
        task = await session.start(replicate=1)
        [id] = session.queue()
        record_store.claim_attempt(bucket, id)
        record_store.end_attempt(bucket, id, 0, record_store.CANCELLED, "It was cancelled.")
        record_store.request_cancel(bucket, [id])
        assert (await task).status == "lost" and ledger.spent.gpu_hours == 5.0
        session.executor.close()

    run(given_up())


def test_an_experiment_that_outlives_the_patience_with_an_outage_is_paid_for_once(config, monkeypatch):
    async def outage():
        session = Session(replace(config, outage_patience=0.1))
        task = await session.start()
        [id] = session.queue()
        watch = session.executor.scheduler.dispatcher.watch
        monkeypatch.setattr(watch, "look", lambda: (_ for _ in ()).throw(OSError("away")))
        assert (await task).status == "lost" and session.ledger.spent.gpu_hours == 5.0
        session.end(gpu=3 * HOUR)
        session.executor.close()
        resumed = Session(config)
        assert (await resumed.executor.baseline()).replayed and resumed.ledger.spent.gpu_hours == 3.0
        resumed.executor.close()

    run(outage())
