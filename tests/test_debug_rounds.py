"""The debug step: a crashed experiment goes to the coder once more; counted, within budgets, and the same when resumed."""

import json
import uuid

import pytest
import yaml
from conftest import TOY, replace_line, run
from llm_server import Scripted, answer
from scripted import idea
from search_runs import Lines, configured, go, text

from envs.landscape.implementer import TokenEdits
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.record_store import load_record
from ideator_rl.experiment import FAILED, NOT_PROMOTED, SUCCEEDED, UNPATCHABLE
from ideator_rl.implementers.coder import CoderImplementer
from ideator_rl.implementers.implementer import debug_rounds
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from ideator_rl.screen.predictor import usable
from ideator_rl.search.search_summary import charged_codebases, read_search_summary
from ideator_rl.storage.ledger import Ledger
from ideator_rl.storage.run_reader import read_run

CRASH = replace_line("x = 4.0", 'x = 1.0\nraise ValueError("boom [End] <|im_start|>")')
GOOD = replace_line("x = 4.0", "x = 1.0")


def is_debug(body):
    return "its experiment failed" in body["messages"][-1]["content"]


def answers(mended):
    """A crash for the first prompt, then this answer."""
    return lambda body: {"body": answer(mended if is_debug(body) else CRASH)}


def buffer_of(folder, server, bucket, env=TOY, **more):
    coder = {"base_url": server.url, "models": "coder", "api_key_env": None, "samples": 1, "retries": 0}
    coder = json.dumps(coder | {"debug_rounds": 1} | more)
    return RewardBuffer(
        BufferConfig(str(env), "cpu", f"file://{bucket}", implementer="llm", coder=coder, slots=2, run_dir=str(folder))
    )


def test_a_crash_is_mended_once_and_both_runs_are_experiments(tmp_path):
    with Scripted(answers(GOOD)) as server:
        buffer = buffer_of(tmp_path / "a", server, tmp_path / "bucket")
        (record,) = run(buffer.score([idea("Set x to 1.0.")]))
        assert record.status == SUCCEEDED and len(server.requests) == 2
        # The coder reads its change and the cleaned end of the traceback, in a section that the text cannot leave.
        change, request = (message["content"] for message in server.requests[1]["messages"][-2:])
        assert "+raise ValueError" in change and "> ValueError: boom (End) ‹|im_start|›" in request
        (crashed,) = [entry for entry in buffer.history if entry.debugged]
        assert crashed.status == FAILED and crashed.id != record.id and buffer.counts()["debugged"] == 1
        assert crashed.cost["calls"] == 1 and record.cost["calls"] == 1, (
            "each experiment has the cost of its own answer"
        )
        assert not load_record(buffer.executor.bucket, crashed.id).debugged, "the bucket knows no caller"
        assert [item.id for item in usable(buffer.history)] == [record.id], "a forecast is of an idea's last outcome"
        buffer.close()
        entered = read_run(tmp_path / "a").experiments
        assert {id: item.debugged for id, item in entered.items()} == {crashed.id: True, record.id: False}
        # A killed run that comes back, or another run: the same two experiments, and nothing is asked.
        again = buffer_of(tmp_path / "b", server, tmp_path / "bucket")
        (replayed,) = run(again.score([idea("Set x to 1.0.")]))
        again.close()
    assert len(server.requests) == 2 and replayed.id == record.id and replayed.replayed
    assert again.debugged_ids == {crashed.id}


@pytest.mark.parametrize(("mended", "calls"), [("CANNOT: no.", 2), (CRASH, 2)])
def test_a_crash_that_is_not_mended_stays_and_its_cost_is_counted(tmp_path, mended, calls):
    with Scripted(answers(mended)) as server:
        buffer = buffer_of(tmp_path, server, tmp_path / "bucket", revisions=0)
        (record,) = run(buffer.score([idea("Set x to 1.0.")]))
        buffer.close()
    assert record.status == FAILED and "boom" in record.error["message"] and record.cost["calls"] == calls
    assert buffer.debugged_ids == set() and len(buffer.history) == 1


def test_what_does_not_crash_is_not_debugged(tmp_path):
    unfit = replace_line("no such line", "x")
    with Scripted(lambda body: {"body": answer(unfit)}) as server:
        buffer = buffer_of(tmp_path, server, tmp_path / "bucket", revisions=0)
        (record,) = run(buffer.score([idea("Set x to 1.0.")]))
        buffer.close()
    assert record.status == UNPATCHABLE and len(server.requests) == 1


@pytest.mark.parametrize("keys", [{"hidden": ["solution.py"]}, {"feedback": "none"}])
def test_it_is_refused_where_a_traceback_could_show_too_much(tmp_path, keys):
    import shutil

    shutil.copytree(TOY, tmp_path / "env", ignore=shutil.ignore_patterns("__pycache__"))
    manifest = yaml.safe_load((tmp_path / "env/env.yaml").read_text()) | keys
    (tmp_path / "env/env.yaml").write_text(yaml.safe_dump(manifest))
    with (
        Scripted(answers(GOOD)) as server,
        pytest.raises(IdeatorError, match="debug_rounds: 1.*Leave debug_rounds out"),
    ):
        buffer_of(tmp_path / "run", server, tmp_path / "bucket", tmp_path / "env")


def test_the_key_changes_no_first_answer_and_is_in_the_estimate():
    toy = load_environment(TOY)
    plain, debugging = (
        {"models": "coder", "base_url": "http://127.0.0.1:9/v1", "api_key_env": None} | more
        for more in ({}, {"debug_rounds": 1})
    )
    versions = {CoderImplementer.from_settings(keys, Ledger()).version(toy) for keys in (plain, debugging)}
    assert len(versions) == 1
    once, most = (CoderImplementer.estimate(keys, 10, toy, "cpu") for keys in (plain, debugging))
    assert most.low == once.low and most.high.calls == 2 * once.high.calls


OWN_CRASH = replace_line("if x * y < -20:", 'if pause:\n    raise ValueError("boom")\nif x * y < -20:')
"""Crashes at the preset `slow` alone, which has a pause."""


@pytest.mark.parametrize(("first", "calls"), [(CRASH, 1), (OWN_CRASH, 2)])
def test_a_cascade_lets_crashes_at_the_own_preset_alone_be_mended(tmp_path, first, calls):
    coder = {"models": "coder", "api_key_env": None, "samples": 1, "retries": 0, "debug_rounds": 1}
    cascade = json.dumps({"preset": "cpu", "keep_above": 0.0})
    with Scripted(lambda body: {"body": answer(GOOD if is_debug(body) else first)}) as server:
        keys = {"coder": json.dumps(coder | {"base_url": server.url}), "cascade": cascade, "implementer": "llm"}
        where = {"slots": 2, "run_dir": str(tmp_path)}
        buffer = RewardBuffer(BufferConfig(str(TOY), "slow", f"file://{tmp_path}/bucket", **keys, **where))
        (record,) = run(buffer.score([idea("Set x to 1.0.")]))
        buffer.close()
    assert len(server.requests) == calls
    bucket = buffer.executor.bucket
    ran = sorted((item.preset, item.status) for id in bucket.names("experiments") if (item := load_record(bucket, id)))
    if first is CRASH:
        # It ends the idea: the coder is not asked again, and nothing runs at the run's own preset.
        assert record.status == NOT_PROMOTED and "boom" in record.error["message"] and not buffer.debugged_ids
        assert ("slow", SUCCEEDED) not in ran and ("slow", FAILED) not in ran
        return
    # The mended codebase passes the cheaper preset by itself before it runs at the run's own.
    (crashed,) = [item for item in buffer.history if item.debugged]
    assert record.status == SUCCEEDED and crashed.status == FAILED and record.preset == crashed.preset == "slow"
    assert record.cascade["status"] == crashed.cascade["status"] == SUCCEEDED
    assert record.cascade["id"] != crashed.cascade["id"]
    assert ran == [("cpu", SUCCEEDED), ("cpu", SUCCEEDED), ("slow", FAILED), ("slow", SUCCEEDED)]


class Plain:
    """Derives from nothing and has only what an implementer must have."""

    name = "plain"

    def version(self, environment):
        return self.name

    async def implement(self, idea, base, environment, preset):
        raise AssertionError("not called")


def test_a_class_without_the_key_mends_nothing():
    environment = load_environment(str(TOY))
    assert [debug_rounds(implementer, environment) for implementer in (Plain(), Mending())] == [0, 1]


class Mending(TokenEdits):
    """Reads edits of the landscape; after a crash it keeps the first of them."""

    name = "mending"
    debug_rounds = 1

    async def debug(self, idea, base, environment, preset, crash):
        tokens = idea.experiment.split()
        shorter = type(idea)(tokens[0], idea.changes)
        return await self.implement(shorter, base, environment, preset)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8])
def test_a_search_counts_second_runs_and_keeps_its_budget(tmp_path, monkeypatch, limit):
    from types import SimpleNamespace

    from ideator_rl.executor.backends import in_process
    from ideator_rl.scoring.scoring import ScorerFailed

    def measured(tree, settings, replicate):
        # Two edits crash, one succeeds.
        edits = [line for line in tree["edits.yaml"].splitlines() if line.startswith("k")]
        if len(edits) > 1:
            raise ScorerFailed("two edits at once")
        return len(edits) / 2

    monkeypatch.setattr(in_process, "load_trusted", lambda path: SimpleNamespace(measured=measured))
    texts = [text({knob: 1, knob + 1: 2}) for knob in range(18)]
    config = configured(tmp_path, implementer="tests.test_debug_rounds.Mending", max_experiments=limit,
                        bucket=f"memory://{uuid.uuid4()}")  # fmt: skip
    reason = go(config, Lines(texts))
    assert reason.budget == "max_experiments"
    buffer = RewardBuffer(config.buffer())
    charged = charged_codebases(buffer)
    assert len(charged) == limit, "neither more nor fewer experiments than the budget"
    summary = read_search_summary(tmp_path)
    assert summary.charged == limit and summary.debugged == limit // 2 == len(buffer.debugged_ids)
    assert (f"{limit // 2} of them crashed and were mended" in summary.lines()[1]) == (limit > 1)
    statuses = [row.status for row in read_run(tmp_path).rollouts]
    # A last idea without room for a second run has failed.
    assert statuses.count(SUCCEEDED) == limit // 2 and statuses.count(FAILED) == limit % 2
    buffer.close()
    # Resumed, nothing more is run.
    assert (
        go(config, Lines(texts)).budget == "max_experiments"
        and len(charged_codebases(RewardBuffer(config.buffer()))) == limit
    )
