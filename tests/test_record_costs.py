"""The costs in a run's records add up to what its ledger says was paid."""

import json

import pytest
from conftest import TOY, replace_line, run
from llm_server import Scripted, answer
from scripted import idea

from ideator_rl.executor.scheduler import Lost, Scheduler
from ideator_rl.implementers.implementer import ImplementerUnavailable
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from ideator_rl.storage.run_reader import read_run

GOOD = replace_line("x = 4.0", "x = 1.0")
CRASH = replace_line("x = 4.0", 'x = 1.0\nraise ValueError("boom")')
IDEA = idea("Set x to 1.0.")


def buffer_of(folder, server, **more):
    settings = {"base_url": server.url, "models": "coder", "api_key_env": None, "samples": 1, "revisions": 0}
    coder = settings | {"retries": 0, "prices": {"coder": {"prompt": 1.0, "completion": 1.0}}} | more
    return RewardBuffer(
        BufferConfig(str(TOY), "cpu", f"file://{folder}/bucket", implementer="llm", coder=json.dumps(coder), slots=2,
                     run_dir=str(folder / "run"))
    )  # fmt: skip


def score(folder, server, *ideas, **more):
    """The records of these ideas, and the USD in the ledger."""
    buffer = buffer_of(folder, server, **more)
    records = run(buffer.score(list(ideas)))
    buffer.close()
    return records, buffer.executor.ledger.spent.usd


def entered(folder):
    return list(read_run(folder / "run").experiments.values())


def paid(folder):
    return pytest.approx(sum(record.cost.get("usd", 0.0) for record in entered(folder)))


@pytest.mark.parametrize("text", [GOOD, "CANNOT: there is no y."])
def test_an_idea_that_is_proposed_again_keeps_its_cost_in_the_journal(tmp_path, text):
    with Scripted({"body": answer(text)}) as server:
        score(tmp_path, server, IDEA, IDEA)
        _, usd = score(tmp_path, server, IDEA)
    (record,) = entered(tmp_path)
    assert usd > 0 and usd == paid(tmp_path) and not record.replayed and len(server.requests) == 1


def test_two_ideas_that_lead_to_one_experiment_have_both_costs(tmp_path):
    with Scripted({"body": answer(GOOD)}) as server:
        score(tmp_path, server, IDEA, idea("Let x be 1.0."))
        (record,), usd = score(tmp_path, server, idea("Put 1.0 into x."))
    assert len(entered(tmp_path)) == 1 and len(server.requests) == 3 and usd == paid(tmp_path)
    assert record.cost["calls"] == 1 and entered(tmp_path)[0].cost["calls"] == 3


def test_an_idea_that_was_lost_after_it_was_implemented_keeps_its_cost(tmp_path, monkeypatch):
    def lose(self, entry):
        raise Lost("its node died")

    with Scripted({"body": answer(GOOD)}) as server:
        with monkeypatch.context() as patch:
            patch.setattr(Scheduler, "result", lose)
            for _ in range(2):
                (lost,), usd = score(tmp_path, server, IDEA)
                assert lost.status == "lost" and usd == paid(tmp_path)
        (record,), usd = score(tmp_path, server, IDEA)
    assert record.status == "succeeded" and usd > 0 and usd == paid(tmp_path) and len(entered(tmp_path)) == 1


def test_a_crash_that_two_ideas_share_has_both_costs(tmp_path):
    def reply(body):
        return {"body": answer(GOOD if "its experiment failed" in body["messages"][-1]["content"] else CRASH)}

    with Scripted(reply) as server:
        score(tmp_path, server, IDEA, debug_rounds=1)
        _, usd = score(tmp_path, server, idea("Let x be 1.0."), debug_rounds=1)
    assert len(server.requests) == 4 and len(entered(tmp_path)) == 2 and usd == paid(tmp_path)


def test_a_crash_keeps_its_cost_where_the_coder_does_not_answer_again(tmp_path, monkeypatch):
    with Scripted({"body": answer(CRASH)}) as server:
        buffer = buffer_of(tmp_path, server, debug_rounds=1)

        async def unavailable(*subject):
            raise ImplementerUnavailable("its endpoint is down")

        monkeypatch.setattr(buffer.executor.implementer, "debug", unavailable)
        (record,) = run(buffer.score([IDEA]))
        buffer.close()
    assert record.status == "lost" and buffer.executor.ledger.spent.usd == paid(tmp_path)
