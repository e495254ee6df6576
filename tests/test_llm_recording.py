"""Recordings of a code LLM's calls: replayed without a server, byte for byte; resumed without paying twice."""

import asyncio
import json
import subprocess
import sys

import pytest
from llm_server import Scripted, answer

from ideator_rl.llm import ChatClient, LLMSettings, LLMUnavailable, Reply
from ideator_rl.llm.recording import Recording, RecordingError
from ideator_rl.storage.ledger import Caps, Ledger

PRICES = {"m": {"prompt": 1000, "completion": 10_000}}
ODD = [
    {"body": answer("Grüße \u2028 \"x\"\n\t\r\n")},
    {"body": answer("", finish="length")},
    {"body": answer(None, refusal="No.")},
    {"body": answer("y", usage=None)},
]  # fmt: skip


def ask(url, ledger, salts="abcd", **settings):
    """Call once for each salt, one after another."""
    raw = {"base_url": url, "models": "m", "max_tokens": 100, "prices": PRICES, **settings}

    async def all_of_them():
        client = ChatClient(LLMSettings.from_mapping(raw), ledger)
        replies = [await client.complete([{"role": "user", "content": "Grüße"}], salt=salt) for salt in salts]
        await client.close()
        return replies

    return asyncio.run(all_of_them())


@pytest.fixture
def recorded(tmp_path):
    """A recording of four calls, and their replies."""
    file = tmp_path / "calls" / "journal.jsonl"
    with Scripted(*ODD) as server:
        replies = ask(server.url, Ledger(), record=str(file))
    return file, replies


def test_a_replay_needs_no_server_no_key_and_no_price_and_gives_the_same_replies(recorded, monkeypatch):
    file, replies = recorded
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    before, ledger = file.read_bytes(), Ledger(Caps(usd=0.001, tokens=1))
    again = ask("https://llm.example/v1", ledger, replay=str(file), prices={})
    assert repr(again) == repr(replies) and {reply.finish for reply in again} == {"stop", "length", "refused"}
    assert again[0].usd == 0.06 and ledger.spent.usd == ledger.spent.tokens == 0 and file.read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"salts": "e"}, {"temperature": 0}, {"max_tokens": 5}, {"extra_body": {"top_p": 1}}]
)
def test_a_call_that_differs_from_the_recorded_one_is_an_error(recorded, change):
    with pytest.raises(LLMUnavailable, match="has no answer for the call"):
        ask("http://127.0.0.1:1/v1", Ledger(), replay=str(recorded[0]), **change)


def test_a_resumed_run_pays_for_missing_calls_only(recorded):
    file, replies = recorded
    ledger = Ledger()
    with Scripted({"body": answer("New.")}) as server:
        again = ask(server.url, ledger, salts="abcde", record=str(file))
    assert again[:4] == replies and again[4].text == "New." and len(server.requests) == 1
    assert ledger.spent.tokens == 15 and len(file.read_bytes().splitlines()) == 5


def test_a_line_that_a_kill_cut_off_is_skipped_and_does_not_damage_the_next(recorded, caplog):
    file, replies = recorded
    file.write_bytes(file.read_bytes()[:-40])
    with Scripted({"body": answer("Again.")}) as server:
        again = ask(server.url, Ledger(), record=str(file))
    assert again[:3] == replies[:3] and again[3].text == "Again." and "1 damaged line" in caplog.text
    assert ask("http://127.0.0.1:1/v1", Ledger(), replay=str(file)) == again


def test_no_key_address_or_extra_body_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    file = tmp_path / "journal.jsonl"
    with Scripted() as server:
        url = server.url.replace("//", "//user:pass-secret@")
        ask(url, Ledger(), "a", record=str(file), api_key_env="MY_KEY", extra_body={"token": "body-secret"})
    row = json.loads(file.read_text())
    assert "secret" not in file.read_text() and "127.0.0.1" not in file.read_text()
    assert sorted(row) == ["key", "reply", "request"] and row["request"]["salt"] == "a"


def test_several_processes_append_whole_lines_to_one_file(tmp_path):
    file = tmp_path / "journal.jsonl"
    code = (
        "import sys; from pathlib import Path; from ideator_rl.llm.recording import Recording\n"
        "from ideator_rl.llm import Reply\n"
        "recording = Recording(Path(sys.argv[1]))\n"
        "for i in range(50): recording.add(sys.argv[2] + str(i), {'text': 'x' * 20_000}, Reply('y' * 5000, 'stop', 'm', 1, 1, 0.0, 0.0))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(file), name]) for name in "ab"]
    assert [process.wait(60) for process in processes] == [0, 0]
    recording = Recording(file)
    assert all(recording.get(f"{name}{i}") for name in "ab" for i in range(50))
    assert len(file.read_bytes().splitlines()) == 100


def test_of_two_answers_to_one_call_the_first_counts(tmp_path):
    recordings = [Recording(tmp_path / "j"), Recording(tmp_path / "j")]
    for recording, text in zip(recordings, ("first", "second"), strict=True):
        recording.add("k", {}, Reply(text, "stop", "m", 1, 1, 0.0, 0.0))
    assert Recording(tmp_path / "j").get("k").text == "first"


def test_a_missing_recording_is_an_error_and_no_file_is_created(tmp_path):
    with pytest.raises(RecordingError, match="does not exist"):
        ask("http://127.0.0.1:1/v1", Ledger(), replay=str(tmp_path / "no" / "j"))
    assert not (tmp_path / "no").exists()
