"""Workers forked from a zygote: what they inherit, and what happens when it dies, hangs or refuses."""

import asyncio
import logging
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import experiment_runs_below, run, until
from scripted import idea

from ideator_rl.executor import start_worker
from ideator_rl.executor.executor import Executor
from ideator_rl.executor.start_worker import ZygoteClient, worker_variables
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.sandbox import NONE
from ideator_rl.training.baseline import BaselineRuns

pytestmark = pytest.mark.skipif(best_sandbox().level == NONE, reason=f"no sandbox works here: {best_sandbox().reason}")


def test_forked_and_cold_experiments_have_equal_results(toy_config):
    records = []
    for how in ("forked", "cold"):
        executor = Executor(replace(toy_config, bucket=f"{toy_config.bucket}-{how}", start=how))
        records.append(run(executor.execute(idea("Set x to 1.5."))))
        executor.close()
    assert [record.start for record in records] == ["forked", "cold"]
    assert records[0].id == records[1].id and records[0].metric == records[1].metric
    assert records[0].log == records[1].log and records[0].isolation == records[1].isolation


def test_after_the_death_of_the_zygote_experiments_go_on(toy_config, caplog):
    executor = Executor(toy_config)
    assert run(executor.execute(idea("Set x to 1.5."))).start == "forked"
    zygote = executor.backend._zygote
    os.kill(zygote.pid, 9)
    with caplog.at_level(logging.WARNING):
        records = [run(executor.execute(idea(f"Set x to {x}."))) for x in (2.5, 3.5)]
    assert [record.status for record in records] == ["succeeded", "succeeded"]
    assert [record.start for record in records] == ["cold", "forked"], "a new zygote serves the next one"
    assert sum("zygote ended" in line for line in caplog.messages) == 1
    executor.close()


def test_the_zygote_and_its_fork_servers_end_with_the_process_that_uses_them(toy_config):
    executor = Executor(toy_config)
    run(executor.execute(idea("Set x to 1.5.")))
    zygote = executor.backend._zygote
    children = [int(pid) for pid in Path(f"/proc/{zygote.pid}/task/{zygote.pid}/children").read_text().split()]
    assert children
    executor.close()
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}/exe") for pid in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{zygote.pid}")
    assert not any(os.path.exists(f"/proc/{pid}/exe") for pid in children)


def test_the_zygote_of_the_baseline_runs_ends_with_them(toy_buffer, monkeypatch):
    pids = []

    class Watched(ZygoteClient):
        def __init__(self, variables):
            super().__init__(variables)
            pids.append(self.pid)

    monkeypatch.setattr("ideator_rl.executor.backends.local.ZygoteClient", Watched)
    BaselineRuns(toy_buffer, 1).wait()
    assert len(pids) == 1 and not os.path.exists(f"/proc/{pids[0]}")


def test_a_worker_outlives_the_zygote(toy_config, tmp_path):
    executor = Executor(toy_config)
    slow = "train.py\n<<<<<<< SEARCH\nx = 4.0\n=======\nimport time\ntime.sleep(1.5)\nx = 1.0\n>>>>>>> REPLACE\n"

    async def scenario():
        task = asyncio.create_task(executor.execute_patch(slow))
        while not executor.backend._processes:
            await asyncio.sleep(0.02)
        [worker] = executor.backend._processes.values()
        await until(lambda: experiment_runs_below(worker.pid))
        executor.backend._zygote.close()
        executor.backend._zygote = None
        return await task

    record = run(scenario())
    assert (record.status, record.start, record.attempt) == ("succeeded", "forked", 0)


def test_a_zygote_inherits_the_allowed_variables_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a secret")
    client = ZygoteClient(worker_variables({}))
    # Empty for a moment, while the new process takes its program; for ever if it has ended.
    until = time.monotonic() + 30
    while not (variables := Path(f"/proc/{client.pid}/environ").read_bytes()) and time.monotonic() < until:
        time.sleep(0.01)
    client.close()
    assert b"a secret" not in variables and b"OMP_NUM_THREADS=1" in variables


def test_start_cold_starts_no_zygote(toy_config):
    executor = Executor(replace(toy_config, start="cold"))
    assert run(executor.execute(idea("Set x to 1.5."))).start == "cold"
    assert executor.backend._zygote is None


def test_a_zygote_that_does_not_react_is_killed_and_the_start_is_cold(toy_config, monkeypatch):
    monkeypatch.setattr(start_worker, "CLOSE_SECONDS", 0.5)
    executor = Executor(toy_config)
    run(executor.execute(idea("Set x to 1.5.")))
    zygote = executor.backend._zygote
    zygote._control.settimeout(0.5)
    os.kill(zygote.pid, signal.SIGSTOP)
    record = run(executor.execute(idea("Set x to 2.5.")))
    assert (record.status, record.start, record.attempt) == ("succeeded", "cold", 0)
    assert not os.path.exists(f"/proc/{zygote.pid}")
    executor.close()


def test_after_three_refusals_all_starts_are_cold(toy_config, caplog, monkeypatch):
    def refuse(*args):
        raise start_worker.ZygoteRefused("the zygote has 2 threads")

    monkeypatch.setattr(ZygoteClient, "fork_worker", refuse)
    executor = Executor(toy_config)
    with caplog.at_level(logging.WARNING):
        records = [run(executor.execute(idea(f"Set x to {x}.5."))) for x in range(5)]
    assert {record.start for record in records} == {"cold"} and executor.backend.start == "cold"
    assert sum("2 threads" in line for line in caplog.messages) == 3


def test_a_caller_that_ignores_the_end_of_children_can_fork(toy_config):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        executor = Executor(toy_config)
        assert {run(executor.execute(idea(f"Set x to {x}.5."))).start for x in range(3)} == {"forked"}
        executor.backend._zygote._control.close()
    finally:
        signal.signal(signal.SIGCHLD, before)
