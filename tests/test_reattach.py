"""Outcomes that arrive when no caller waits any more: after a quorum, after a crash, many at once."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import run
from scripted import idea

from ideator_rl.executor import record_store
from ideator_rl.experiment import Experiment
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.storage.journal import Journal, JournalError

HERE = Path(__file__).parent


@pytest.fixture
def config(toy_config, monkeypatch):
    monkeypatch.setenv("IDEATOR_FLEET", json.dumps({"median": 0.4, "sigma": 0.4, "lost": 0.0, "stragglers": 0.0}))
    return replace(
        toy_config,
        implementer="scripted.ScriptedImplementer",
        backend="benchmarks.fleet.SimulatedFleet",
        slots=16,
    )


def ideas(count, first=0):
    return [idea(f"x = {first + number}.25") for number in range(count)]


def rows(config):
    with sqlite3.connect(config.run_dir + "/buffer.sqlite") as db:
        return db.execute(
            "select step, position, status, experiment_id from rollouts order by step, position"
        ).fetchall()


def proposed(config):
    """Whether all twelve ideas are in the journal of the other process."""
    with contextlib.suppress(sqlite3.OperationalError):  # it has no tables yet
        return len(rows(config)) == 12
    return False


def claims(buffer):
    bucket = buffer.executor.bucket
    return [len(record_store.attempts(bucket, id)) for id in bucket.names("experiments")]


async def quorum(buffer, completions, enough, step=0):
    """Take the first few and stop waiting."""
    taken = []
    async for index, record in buffer.as_completed(completions, step=step):
        taken.append((index, record))
        if len(taken) == enough:
            break
    return taken


def test_late_outcomes_reach_the_journal_after_the_caller_stopped_waiting(config, monkeypatch):
    # Far apart, so that a busy machine takes no more than a few at a time.
    monkeypatch.setenv("IDEATOR_FLEET", json.dumps({"median": 2.0, "sigma": 0.6, "lost": 0.0, "stragglers": 0.0}))
    buffer = RewardBuffer(config)

    async def scenario():
        taken = await quorum(buffer, ideas(8), 3)
        left = buffer.outstanding  # two may have come in one tick
        assert len(taken) == 3 and 1 <= left <= 5 and await buffer.drain(0.0) == left
        assert {row[2] for row in rows(config)} == {"running", "succeeded"}
        assert await buffer.drain(60) == 0

    run(scenario())
    assert [row[2] for row in rows(config)] == ["succeeded"] * 8 and len(buffer.history) == 8
    assert {row[3] for row in rows(config)} == {record.id for record in buffer.history}
    counts = buffer.counts()
    assert counts["proposed"] == counts["done"] == counts["distinct"] == 8 and counts["running"] == 0
    buffer.close()


def test_cancelling_a_wait_leaves_the_experiments_running(config):
    buffer = RewardBuffer(config)

    async def scenario():
        waiting = asyncio.create_task(buffer.score(ideas(4), step=2))
        await asyncio.sleep(0.1)
        waiting.cancel()
        return await buffer.drain(20)

    assert run(scenario()) == 0 and [row[2] for row in rows(config)] == ["succeeded"] * 4
    buffer.close()


def test_rows_of_a_dead_process_are_settled_except_for_steps_that_are_proposed_again(config):
    # This backend starts no attempt, whose claim would be live for as long as this process.
    first = RewardBuffer(replace(config, backend="bucket"))

    async def stop_early(completions, step):
        await quorum(first, completions, 1, step)
        await asyncio.sleep(0.05)  # the experiments reach the bucket; the loop ends before they have a record

    run(stop_early([*ideas(4), "no idea"], step=3))
    run(stop_early([*ideas(4, first=10), "no idea"], step=4))
    first.close()
    before = rows(config)
    left = [row[:2] for row in before if row[2] == "running"]
    assert {row[0] for row in left} == {3, 4}
    buffer = RewardBuffer(config)
    history_before = len(buffer.history)

    async def scenario():
        taken = buffer.reattach({4})
        assert taken == buffer.outstanding == sum(step == 3 for step, _ in left)
        assert buffer.reattach({4}) == 0
        assert await buffer.drain(20) == 0
        return taken

    taken = run(scenario())
    after = rows(config)
    assert [row[:2] for row in after] == [row[:2] for row in before]
    assert {row[2] for row in after if row[0] == 3} <= {"succeeded", "malformed"}
    assert [row for row in after if row[0] == 4] == [row for row in before if row[0] == 4]
    assert len(buffer.history) - history_before == taken
    records = run(buffer.score(ideas(4), step=3))
    assert all(record.replayed for record in records)
    buffer.close()


def test_a_late_outcome_does_not_overwrite_a_row_of_another_completion(config):
    first = RewardBuffer(replace(config, backend="bucket"))
    run(quorum(first, ["no idea", *ideas(1)], 1, step=0))
    first.close()
    buffer = RewardBuffer(config)

    async def scenario():
        assert buffer.reattach() == 1
        waiting = asyncio.create_task(buffer.score(["no idea", idea("x = 40.5")], step=0))
        records = await waiting
        assert await buffer.drain(20) == 0
        return records

    records = run(scenario())
    assert [row[3] for row in rows(config)] == [record.id for record in records]
    assert len(buffer.history) == 4 and len({record.id for record in buffer.history}) == 3
    buffer.close()


def test_replicates_are_kept_across_a_crash(config):
    config = replace(config, replicates=2)
    first = RewardBuffer(replace(config, backend="bucket"))
    run(quorum(first, ["no idea", *ideas(1), *ideas(1)], 1))
    first.close()
    buffer = RewardBuffer(config)

    async def scenario():
        assert buffer.reattach() == 2
        await buffer.drain(20)

    run(scenario())
    late = [record for record in buffer.history if record.tree]
    assert sorted(record.replicate for record in late) == [0, 1] and len({record.id for record in late}) == 2
    buffer.close()


PROPOSER = """
import asyncio, sys
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from scripted import idea
buffer = RewardBuffer(BufferConfig(*sys.argv[1:4], run_dir=sys.argv[4], implementer="scripted.ScriptedImplementer", backend="bucket"))
async def propose(step):
    await buffer.score([idea(f"x = {step}.{position}") for position in range(4)], step=step)
async def main():
    print("proposing", flush=True)
    await asyncio.gather(*(propose(step) for step in range(3)))
asyncio.run(main())
"""


def test_a_killed_proposer_leaves_no_orphan_and_no_experiment_runs_twice(config, tmp_path):
    """Real processes: one that proposes and is killed, a fleet that goes on, and the next process, which resumes the rest."""
    arguments = [config.environment, config.preset, config.bucket, config.run_dir]
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE}"}
    fleet = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fleet", "--bucket", config.bucket, "--slots", "3", "--median", "0.3", "--sigma", "0.3", "--lost", "0", "--stragglers", "0"],
        env=environment, cwd=HERE.parent, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        proposer = subprocess.Popen(
            [sys.executable, "-c", PROPOSER, *arguments], env=environment, stdout=subprocess.PIPE
        )
        proposer.stdout.readline()
        deadline = time.monotonic() + 60
        while not proposed(config) and time.monotonic() < deadline:
            time.sleep(0.01)
        proposer.send_signal(signal.SIGKILL)
        proposer.wait()
        left = [row for row in rows(config) if row[2] == "running"]
        assert len(rows(config)) == 12 and left
        buffer = RewardBuffer(replace(config, backend="bucket"))

        async def scenario():
            assert buffer.reattach() == len(left)
            return await buffer.drain(30)

        assert run(scenario()) == 0
        assert [row[2] for row in rows(config)] == ["succeeded"] * 12 and claims(buffer) == [1] * 12
        buffer.close()
    finally:
        fleet.terminate()
        fleet.wait()


def test_outcomes_that_arrive_together_are_written_in_a_few_transactions(tmp_path):
    class CountingJournal(Journal):
        sizes: list[int] = []

        def settle_all(self, outcomes, patches=()):
            self.sizes.append(len(outcomes))
            super().settle_all(outcomes, patches)

    journal = CountingJournal(tmp_path / "buffer.sqlite")
    journal.propose(0, ["x"] * 256)

    async def enter(position):
        await journal.enter(0, position, Experiment(f"{position}", "failed", "", "toy", "cpu"))
        with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
            return db.execute("select status from rollouts where position=?", (position,)).fetchone()[0]

    async def all_at_once():
        return await asyncio.gather(*(enter(position) for position in range(256)))

    assert run(all_at_once()) == ["failed"] * 256
    assert sum(journal.sizes) == 256 and len(journal.sizes) <= 8
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        run(enter(0))


def test_an_outcome_that_no_awaiter_waits_for_is_written_when_the_journal_is_closed(tmp_path):
    journal = Journal(tmp_path / "buffer.sqlite")
    journal.propose(0, ["x"])

    async def enter_and_leave():
        asyncio.create_task(journal.enter(0, 0, Experiment("an id", "failed", "", "toy", "cpu")))
        await asyncio.sleep(0)

    run(enter_and_leave())
    journal.close()
    journal = Journal(tmp_path / "buffer.sqlite")
    assert journal.unsettled(()) == []
    journal.close()


def test_an_outcome_that_cannot_be_written_raises_where_it_is_awaited(tmp_path):
    journal = Journal(tmp_path / "buffer.sqlite")
    journal.propose(0, ["x"])
    journal._db.execute(f"pragma max_page_count={journal._db.execute('pragma page_count').fetchone()[0]}")
    with pytest.raises(JournalError, match="full"):
        run(journal.enter(0, 0, Experiment("an id", "failed", "a long idea" * 10_000, "toy", "cpu")))
    assert [proposal.position for proposal in journal.unsettled(())] == [0]
    journal.close()


def test_a_journal_of_an_earlier_version_can_be_opened_and_extended(tmp_path):
    with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
        db.execute(
            "create table rollouts (step integer, rank integer, position integer, completion text, thought text, "
            "idea text, experiment_id text, status text, reward real, metric real, created real, finished real, "
            "primary key (step, rank, position))"
        )
        db.execute("insert into rollouts (step, rank, position, completion, status) values (0, 0, 0, 'x', 'running')")
    journal = Journal(tmp_path / "buffer.sqlite")
    [left] = journal.unsettled(())
    assert (left.completion, left.replicate) == ("x", 0) and journal.propose(1, ["y"], [3]) == 0
    assert [proposal.replicate for proposal in journal.unsettled({0})] == [3]
    journal.close()
