import asyncio
import os
import shutil
import signal
import sqlite3
import time
from dataclasses import replace

import pytest
from conftest import replace_line, run, until
from scripted import idea

from ideator_rl.environments.environment import EnvironmentError_
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, _journal_path, open_buffer
from ideator_rl.storage.journal import JournalError


@pytest.fixture
def buffer(toy_config):
    buffer = open_buffer(replace(toy_config, implementer="scripted.ScriptedImplementer"))
    yield buffer
    buffer.close()


def rows(buffer):
    path = buffer.config.run_dir + "/buffer.sqlite"
    with sqlite3.connect(path) as db:
        return db.execute("select step, position, status, reward from rollouts order by step, position").fetchall()


def ran(buffer):
    """Ids and attempts of all experiments that a worker claimed."""
    bucket = buffer.executor.bucket
    count = {id: len(record_store.attempts(bucket, id)) for id in bucket.names("experiments")}
    return {id: number for id, number in count.items() if number}


def test_an_idea_becomes_a_metric_a_reward_and_a_record(buffer):
    [record] = run(buffer.score([idea("x = 1.0", "why not")], step=3))
    assert record.status == "succeeded" and record.error is None
    assert record.metric == {"name": "height", "value": pytest.approx(0.5 + 36 + 0.1), "direction": "min"}
    assert record.reward == pytest.approx(1 / 36.6)
    assert record.patch.startswith("diff --git a/train.py") and "+x = 1.0" in record.patch
    assert set(record.seconds) >= {"implement", "queue", "run", "score"} and record.implementer == "scripted"
    assert "wrote" in record.log and record.isolation in ("bwrap", "none")
    assert rows(buffer) == [(3, 0, "succeeded", pytest.approx(1 / 36.6))]


def test_every_kind_of_failure_is_a_status_with_a_message_and_the_failure_reward(buffer):
    ideas = [
        "no idea at all",
        idea("w = 1"),
        idea("x = 4.0"),
        idea("x = -30.0"),
        idea("x = 200.0"),
        idea("pause = 0\nwhile True: pass"),
        idea("pause = 0\nopen('/ideator.txt', 'w')"),
        idea("pause = 0\njson.dump = lambda *_: None"),
    ]
    records = run(buffer.score(ideas))
    statuses = [record.status for record in records]
    assert statuses == [
        "malformed", "unpatchable", "unpatchable", "failed", "invalid", "timed_out", "failed", "failed"
    ]  # fmt: skip
    assert all(record.reward == 0.0 and record.error["message"] for record in records)
    assert "off the bowl" in records[3].error["message"]
    assert len(ran(buffer)) == 5


def test_equal_codebases_share_one_run_and_an_equal_idea_is_not_implemented_again(buffer):
    records = run(buffer.score([idea("x = 1.0"), idea("x =  1.0", "another thought"), idea("x = 1.0")]))
    assert len({record.id for record in records}) == 1 and list(ran(buffer).values()) == [1]
    again = run(buffer.score([idea("x = 1.0")]))[0]
    assert again.replayed and again.metric == records[0].metric
    assert buffer.executor.implementer.asked == ["x = 1.0", "x =  1.0"]


def test_replicates_give_equal_ideas_separate_runs(toy_config):
    config = replace(toy_config, implementer="scripted.ScriptedImplementer", replicates=2)
    buffer = open_buffer(config)
    records = run(buffer.score([idea("x = 1.0")] * 3))
    assert [record.replicate for record in records] == [0, 1, 0]
    assert len({record.id for record in records}) == len(ran(buffer)) == 2
    buffer.close()


def test_a_hand_written_patch_is_judged_and_run_like_an_idea(toy_buffer):
    good = run(toy_buffer.score_patch(replace_line("x = 4.0", "x = 1.0")))
    assert good.status == "succeeded" and good.implementer == "diff"
    hostile = run(toy_buffer.score_patch("--- /dev/null\n+++ b/evaluator.txt\n@@ -0,0 +1 @@\n+x\n"))
    assert hostile.status == "rejected" and "evaluator.txt" in hostile.error["message"]
    assert run(toy_buffer.score_patch("")).status == "unpatchable"


def test_the_baseline_is_an_experiment_for_each_replicate(toy_buffer):
    first, second = run(toy_buffer.baseline()), run(toy_buffer.baseline(replicate=1))
    assert first.metric == second.metric and first.id != second.id and first.patch == ""


def test_a_step_that_is_proposed_again_replaces_its_rows_and_reuses_its_runs(buffer, toy_config):
    run(buffer.score([idea("x = 1.0"), idea("y = 1.0")], step=5))
    before = ran(buffer)
    buffer.close()
    resumed = RewardBuffer(buffer.config)
    run(resumed.score([idea("x = 1.0"), idea("y = 2.0")], step=5))
    assert len(rows(resumed)) == 2
    assert len(ran(resumed)) == len(before) + 1 and set(ran(resumed).values()) == {1}
    resumed.close()


def test_two_batches_of_one_step_do_not_overwrite_each_other(buffer):
    async def both():
        await asyncio.gather(buffer.score([idea("x = 1.0")], step=0), buffer.score([idea("y = 1.0")], step=0))

    run(both())
    assert [row[:3] for row in rows(buffer)] == [(0, 0, "succeeded"), (0, 1, "succeeded")]


def test_a_killed_worker_is_tried_again_and_pays_once_more_only_for_what_was_lost(toy_config):
    buffer = open_buffer(replace(toy_config, preset="slow", implementer="scripted.ScriptedImplementer"))

    async def scenario():
        task = asyncio.create_task(buffer.score([idea("x = 1.0")]))
        bucket = buffer.executor.bucket

        def running():
            attempts = [record_store.running_attempt(bucket, id) for id in bucket.names("experiments")]
            return [attempt.claim.pid for attempt in attempts if attempt is not None]

        await until(lambda: running() or task.done())
        os.kill(running()[0], signal.SIGKILL)
        return await task

    [record] = run(scenario())
    assert record.status == "succeeded" and record.attempt == 1
    assert list(ran(buffer).values()) == [2]
    buffer.close()


def test_our_own_fault_is_lost_not_failed_and_a_later_run_tries_again(toy, tmp_path, toy_config):
    shutil.copytree(toy, tmp_path / "env", ignore=shutil.ignore_patterns("__pycache__"))
    evaluator = (tmp_path / "env/evaluator.py").read_text()
    (tmp_path / "env/evaluator.py").write_text(
        evaluator.replace("    text =", "    if (run.private.parents[9:] or run.artifact) and __import__('os').path.exists("
                          f"'{tmp_path}/broken'):\n        raise MemoryError('disk gone')\n    text =")
    )  # fmt: skip
    (tmp_path / "broken").write_text("")
    config = replace(toy_config, environment=str(tmp_path / "env"), implementer="scripted.ScriptedImplementer")
    buffer = open_buffer(config)
    [record] = run(buffer.score([idea("x = 1.0")]))
    assert record.status == "lost" and record.reward is None and "disk gone" in record.error["message"]
    (tmp_path / "broken").unlink()
    [record] = run(buffer.score([idea("x = 1.0")]))
    assert record.status == "succeeded"
    buffer.close()


def test_two_buffers_on_one_bucket_never_run_an_experiment_twice(toy_config, tmp_path):
    config = replace(toy_config, preset="slow", implementer="scripted.ScriptedImplementer")
    second = replace(config, run_dir=str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    buffers = [open_buffer(config), open_buffer(second)]

    async def both():
        ideas = [idea(f"x = {i}.0") for i in range(3)]
        return await asyncio.gather(*(buffer.score(ideas) for buffer in buffers))

    mine, theirs = run(both())
    assert [r.metric for r in mine] == [r.metric for r in theirs]
    assert set(ran(buffers[0]).values()) == {1}
    for buffer in buffers:
        buffer.close()


def test_the_slots_bound_how_many_run_at_once(toy_config):
    buffer = open_buffer(replace(toy_config, preset="slow", slots=1, implementer="scripted.ScriptedImplementer"))
    started = time.monotonic()
    records = run(buffer.score([idea(f"x = {i}.0") for i in range(3)]))
    assert all(record.status == "succeeded" for record in records)
    assert time.monotonic() - started > 3 * 0.4
    spans = sorted((r.finished - r.seconds["score"] - r.seconds["run"], r.finished) for r in records)
    assert all(spans[i][1] <= spans[i + 1][0] + 0.15 for i in range(2))
    buffer.close()


def test_the_counts_show_progress_and_the_best(buffer):
    assert buffer.counts()["best"] is None and open_buffer(buffer.config) is buffer
    run(buffer.score([idea("x = 1.0"), idea("x = 2.0"), idea("x = 2.0"), "nothing"]))
    counts = buffer.counts()
    assert counts["proposed"] == counts["done"] == 4 and counts["failed"] == 1 and counts["reused"] == 1
    assert counts["best"] == pytest.approx(36.6) and counts["distinct"] == 2 and counts["waiting"] == 0
    assert "+x = 1.0" in buffer.best.patch


def test_an_unknown_environment_is_an_error_before_any_file_is_written(toy_config, tmp_path):
    with pytest.raises(EnvironmentError_, match="There is no environment 'nanogtp'"):
        RewardBuffer(replace(toy_config, environment="nanogtp"))
    assert not (tmp_path / "bucket").exists()


def test_a_journal_that_cannot_grow_stops_the_run_with_advice(buffer):
    run(buffer.score([idea("x = 1.0")]))
    pages = buffer.journal._db.execute("pragma page_count").fetchone()[0]
    buffer.journal._db.execute(f"pragma max_page_count={pages}")
    with pytest.raises(JournalError, match="full.*Free space"):
        run(buffer.score([idea("y = 1.0", "thought " * 4000)]))
    assert len(rows(buffer)) == 1


def test_a_journal_that_cannot_be_created_is_an_error_with_advice(toy_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IdeatorError, match="Not a directory.*Free space on its disk, or check that this user may"):
        RewardBuffer(replace(toy_config, run_dir=str(tmp_path / "file")))


def test_cancelling_one_wait_does_not_harm_the_experiment(buffer):
    async def scenario():
        first = asyncio.create_task(buffer.executor.execute(idea("x = 1.0")))
        second = asyncio.create_task(buffer.executor.execute(idea("x = 1.0")))
        await asyncio.sleep(0.15)
        first.cancel()
        return await second, await buffer.executor.execute(idea("x = 1.0"))

    assert [record.status for record in run(scenario())] == ["succeeded", "succeeded"]


def test_half_a_surrogate_pair_is_only_a_bad_idea_and_the_journal_goes_on(buffer):
    [record] = run(buffer.score(["\ud800"]))
    assert record.status == "malformed"
    assert run(buffer.score_patch("\ud800")).status == "unpatchable"
    assert run(buffer.score([idea("x = 1.0")]))[0].status == "succeeded"


def test_different_failures_have_different_records(buffer):
    first, second = run(buffer.score_patch("nonsense one")), run(buffer.score_patch("nonsense two"))
    assert first.id != second.id and {first.status, second.status} == {"unpatchable"}


def test_a_patch_that_names_the_evaluator_is_rejected_in_every_spelling(toy_buffer):
    for name in ("evaluator.py", "envs/toy/evaluator.py", "lib/../evaluator.py"):
        patch = f"--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"
        record = run(toy_buffer.score_patch(patch))
        assert record.status == "rejected", (name, record.error)
    new = run(toy_buffer.score_patch("--- /dev/null\n+++ b/evaluator.py\n@@ -0,0 +1 @@\n+x = 1\n"))
    assert new.status == "rejected" and "evaluator.py" in new.error["message"]


def test_an_experiment_that_can_never_fit_is_an_error_at_once(toy, tmp_path, toy_config):
    shutil.copytree(toy, tmp_path / "env", ignore=shutil.ignore_patterns("__pycache__"))
    manifest = tmp_path / "env/env.yaml"
    manifest.write_text(manifest.read_text().replace("cpus: 1", "cpus: 9"))
    with pytest.raises(IdeatorError, match="needs 9 CPU slots and this machine offers 2"):
        RewardBuffer(replace(toy_config, environment=str(tmp_path / "env")))


def test_a_value_that_breaks_the_evaluator_is_the_experiments_failure_and_is_run_once(buffer):
    [record] = run(buffer.score([idea("x = 1e200")]))
    assert record.status in ("failed", "invalid") and list(ran(buffer).values()) == [1]


def test_a_buffer_still_has_its_attributes_of_0_1_0(buffer):
    with pytest.warns(DeprecationWarning, match="again is now rerun"):
        assert buffer.again == buffer.rerun
    with pytest.warns(DeprecationWarning):
        assert buffer.journal_path == buffer.journal.path and buffer.ideas() == []
    with pytest.raises(AttributeError, match="no attribute 'best_of_all'"):
        _ = buffer.best_of_all


@pytest.mark.parametrize(
    ("cap", "name"),
    [
        ({}, "9392829516b7f603"),
        ({"max_usd": 5}, "ecdeaf5cf7f58564"),
        ({"max_usd": 5.0}, "608b4fd93bd6d218"),
        ({"max_gpu_hours": 1}, "9cba048d224f0346"),
        ({"outage_patience": 600}, "3270a63c444ca432"),
    ],
)
def test_a_buffer_without_a_run_folder_finds_the_journal_that_0_1_0_wrote(cap, name):
    row = {"environment": "landscape", "preset": "smoke", "bucket": "file:///tmp/b", **cap}
    assert _journal_path(BufferConfig.of_row(row)).stem == name


def test_a_record_known_after_a_transaction_that_failed_is_appended_not_put_in_the_place_of_its_lost_one(buffer):
    first, second = run(buffer.score([idea("value: 1"), idea("value: 2")]))
    journal = buffer.journal
    lost = replace(first, id="late", status="lost")
    journal.record(lost)
    journal.record(replace(second, id="other"))

    def fails(db, position):
        raise KeyError

    with pytest.raises(KeyError):
        journal.propose(9, ["x"], refused={0: replace(first, id="late")}, note=fails)
    journal.record(replace(first, id="late"))
    assert [record.id for record in journal.experiments()][-2:] == ["other", "late"]
