"""The implementer `llm` through the executor and the command line, against a scripted server of chat completions."""

import asyncio
import json
from dataclasses import replace

import pytest
import yaml
from conftest import TOY, execute, replace_line, run
from llm_server import Scripted, answer
from scripted import idea

from ideator_rl.executor.executor import Executor, ExecutorConfig

GOOD = replace_line("x = 4.0", "x = 1.0")
UNFIT = replace_line("x = 99.0", "x = 1.0")
FORGED = "evaluator.py\n```python\ndef evaluate(run):\n    return 0.0\n```\n"


def settings(server, **more):
    return {"base_url": server.url, "models": "coder", "api_key_env": None, "samples": 2, "retries": 0} | more


def executor(tmp_path, server, bucket="bucket", **more):
    coder = json.dumps(settings(server, **{key: more.pop(key) for key in list(more) if key in KEYS}))
    config = ExecutorConfig(str(TOY), "cpu", f"file://{tmp_path}/{bucket}", implementer="llm", coder=coder, slots=2)
    return Executor(replace(config, **more))


KEYS = ("samples", "revisions", "record", "replay", "prices", "max_tokens", "context_tokens", "models", "edit_format")


def by_revision(first, revised=GOOD):
    """A step with one answer for the first prompt and another for revisions."""
    return lambda body: {"body": answer(revised if len(body["messages"]) > 2 else first)}


@pytest.mark.parametrize(
    ("step", "status", "message"),
    [
        (by_revision(GOOD), "succeeded", None),
        (by_revision(UNFIT), "succeeded", None),
        (by_revision(UNFIT, UNFIT), "unpatchable", "x = 99.0"),
        (by_revision(FORGED, FORGED), "rejected", "protected"),
        ({"body": answer(GOOD, "length")}, "unpatchable", "cut off"),
        ({"body": answer("")}, "unpatchable", "held no text"),
        ({"body": answer(None, finish="tool_calls", tool_calls=[{"id": "1"}])}, "unpatchable", "reason 'tool_calls'"),
        ({"body": answer("", refusal="I cannot help with that.")}, "unpatchable", "I cannot help with that."),
        ({"body": answer("CANNOT: there is no y.")}, "unpatchable", "there is no y"),
        ({"status": 503, "body": {"error": {"message": "overloaded"}}}, "lost", "overloaded"),
        ({"status": 400, "body": {"error": {"message": "maximum context length is 10"}}}, "lost", "maximum context"),
        ({"drop": True}, "lost", "no answer"),
    ],
)
def test_the_answer_of_the_endpoint_determines_the_status_of_the_record(tmp_path, step, status, message):
    with Scripted(step) as server:
        record = run(executor(tmp_path, server).execute(idea("Set x to 1.0.")))
    assert record.status == status and (message is None or message in record.error["message"])
    if status == "succeeded":
        assert "+x = 1.0" in record.patch and record.implementer == "llm" and record.isolation
        assert record.cost["calls"] >= 1 and record.cost["completion_tokens"] == 5 * record.cost["calls"]
    assert record.reward is None if status == "lost" else record.reward is not None


def test_an_equal_idea_is_implemented_once(tmp_path):
    with Scripted(by_revision(GOOD)) as server:
        first = run(executor(tmp_path, server, samples=1).execute(idea("Set x to 1.0.")))
        again = run(executor(tmp_path, server, samples=1).execute(idea("Set x to 1.0.")))
    assert len(server.requests) == 1 and again.replayed and again.cost == {} and first.tree == again.tree


def test_a_spent_cap_makes_the_idea_lost_with_the_kind_budget(tmp_path):
    with Scripted(by_revision(GOOD)) as server:
        prices = {"coder": {"prompt": 1.0, "completion": 1.0}}
        maker = executor(tmp_path, server, prices=prices, max_usd=0.001, max_tokens=2_000)
        record = run(maker.execute(idea("Set x to 1.0.")))
    assert record.status == "lost" and record.error["kind"] == "budget" and not server.requests


def test_drafts_wait_for_one_another_under_a_cap_on_tokens(tmp_path):
    with Scripted(by_revision(GOOD)) as server:
        maker = executor(tmp_path, server, samples=6, max_coder_tokens=12_000, max_tokens=1_000)
        record = run(maker.execute(idea("Set x to 1.0.")))
    assert record.status == "succeeded" and maker.ledger.spent.tokens <= 12_000


def varied(body):
    """Delayed answers that differ by the draft's seed: some fit at once, some after a revision, some never."""
    fate = body["seed"] % 3
    fits = fate == 0 or (fate == 1 and len(body["messages"]) > 2)
    text = replace_line("x = 4.0", f"x = {1 + body['seed'] % 997 / 1000}") if fits else UNFIT
    return {"body": answer(text), "delay": body["seed"] % 7 / 200}


def test_a_run_is_replayed_byte_for_byte_without_an_endpoint(tmp_path):
    ideas = [idea(f"Set x to 1.{number}.") for number in range(8)]

    async def all_of(maker):
        return await asyncio.gather(*map(maker.execute, ideas))

    with Scripted(varied) as server:
        first = run(all_of(executor(tmp_path, server, samples=4, record=f"{tmp_path}/calls.jsonl")))
    assert sum(record.status == "succeeded" for record in first) >= 6 and len({record.tree for record in first}) >= 6
    again = run(all_of(executor(tmp_path, server, "other", samples=4, replay=f"{tmp_path}/calls.jsonl")))
    same = ("id", "status", "patch", "tree", "metric", "reward", "cost", "error")
    assert [[getattr(r, key) for key in same] for r in again] == [[getattr(r, key) for key in same] for r in first]


def test_a_shortened_prompt_is_replayed_too(tmp_path):
    def picky(body):
        size = sum(len(message["content"]) for message in body["messages"])
        too_long = {"status": 400, "body": {"error": {"message": "maximum context length is 1500 tokens"}}}
        return too_long if size > SHORT else {"body": answer(GOOD)}

    with Scripted({"body": answer("CANNOT: no.")}) as server:
        run(executor(tmp_path, server, "probe", samples=1).execute(idea("Set x to 1.0.")))
    SHORT = sum(len(message["content"]) for message in server.requests[0]["messages"]) - 1
    with Scripted(picky) as server:
        first = run(
            executor(tmp_path, server, samples=1, record=f"{tmp_path}/calls.jsonl").execute(idea("Set x to 1.0."))
        )
    again = run(
        executor(tmp_path, server, "other", samples=1, replay=f"{tmp_path}/calls.jsonl").execute(idea("Set x to 1.0."))
    )
    assert len(server.requests) == 2 and first.status == again.status == "succeeded" and first.tree == again.tree


def test_execute_reads_the_coder_settings_from_a_file(call, tmp_path):
    with Scripted(by_revision(UNFIT)) as server:
        (tmp_path / "coder.yaml").write_text(yaml.safe_dump(settings(server)))
        options = ("--implementer", "llm", "--coder", f"{tmp_path}/coder.yaml", "--idea", idea("Set x to 1.0."))
        code, out, err = execute(call, tmp_path, *options)
    record = json.loads(out)
    assert code == 0 and record["status"] == "succeeded" and record["cost"]["calls"] >= 2
