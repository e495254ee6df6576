"""Secrets that a cut goes through: of a log, an evaluator's words, what an engine printed, or a server's answer."""

import json
from dataclasses import replace

import pytest
from llm_server import Scripted
from test_llm import ask

from ideator_rl.environments.feedback import READ_CHARS, feedback_of
from ideator_rl.executor import record_store
from ideator_rl.executor.backends.command import LOG_BYTES
from ideator_rl.executor.cascade import unfit_patch
from ideator_rl.executor.record_store import LOG_TAIL_BYTES, MAX_RECORD_BYTES, load_log, load_records, save_record
from ideator_rl.experiment import Experiment
from ideator_rl.llm import LLMUnavailable
from ideator_rl.llm.faults import MAX_QUOTED, MAX_READ
from ideator_rl.patch import PatchError
from ideator_rl.sandbox import sealed_run
from ideator_rl.storage.bucket import open_bucket
from ideator_rl.text.redaction import beginning_of, end_of, without_tokens

TOKEN = "hf_" + "Q" * 40


def failed(log):
    return Experiment("e", "failed", "idea", "toy", "cpu", error={"kind": "failed", "message": "m"}, log=log)


@pytest.mark.parametrize("cut", range(0, len(TOKEN) + 4, 3))
def test_no_part_of_a_secret_is_left_at_a_cut(cut, tmp_path):
    after = "word\n" * 3_000
    log = f"before {TOKEN} " + after[: READ_CHARS - cut]
    assert "Q" not in feedback_of(failed(log), "text")
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    save_record(bucket, failed(f"before {TOKEN} " + ("word " * 3_000)[: LOG_TAIL_BYTES - 2 - cut]))
    [(_, stored)] = load_records(bucket, ["e"])
    assert "Q" not in without_tokens(stored.log) and "word" in stored.log and len(stored.log) <= LOG_TAIL_BYTES
    for length in range(len(log) - len(TOKEN) - 2, len(log)):
        assert "Q" not in without_tokens(end_of(log, length))
    for length in range(4, len(TOKEN) + 9):
        assert "Q" not in without_tokens(beginning_of(log, length))


@pytest.mark.parametrize("shift", range(0, len(TOKEN) + 2, 3))
def test_a_run_that_prints_much_leaves_no_half_of_a_secret(shift, monkeypatch):
    head_bytes = tail_bytes = 2_000
    monkeypatch.setattr(sealed_run, "LOG_HEAD", head_bytes)
    monkeypatch.setattr(sealed_run, "LOG_TAIL", tail_bytes)
    log = sealed_run._Log()
    head = "w " * (head_bytes // 2)
    log.add((head[: head_bytes - shift] + TOKEN + " ").encode() + b"x " * (tail_bytes + 9))
    log.add((f"{TOKEN} " + "y " * tail_bytes)[: tail_bytes + shift].encode())
    text = log.text()
    assert "bytes left out" in text and "Q" not in without_tokens(text)
    count = int(text.partition("… ")[2].partition(" ")[0])
    assert len(text) - len(f"\n… {count} bytes left out …\n") + count == log.total


@pytest.mark.parametrize("shift", range(0, len(TOKEN) + 2, 5))
def test_what_a_bucket_keeps_of_long_texts_has_no_half_of_a_secret(shift, tmp_path, monkeypatch):
    monkeypatch.setattr(record_store, "MAX_LOG_BYTES", 20_000)
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    # The shortened record has 2000 characters of each text; the stored log about 10,000 bytes from each end.
    text = "w " * (1_000 - shift // 2) + TOKEN + " w" * MAX_RECORD_BYTES
    log = "w " * (4_990 - shift // 2) + TOKEN + " w" * 30_000
    save_record(bucket, replace(failed(log), text=text, error={"kind": "failed", "message": text}))
    whole = load_log(bucket, failed(log))
    short = json.loads(bucket.get("experiments/e/result.json"))
    assert "bytes left out" in whole and len(whole) > 19_000 and len(short["text"]) > 1_900
    for shown in (whole, short["text"], short["error"]["message"]):
        assert "Q" not in without_tokens(shown) and "w" in shown


@pytest.mark.parametrize("shift", range(0, len(TOKEN) + 2, 5))
def test_the_message_of_a_crash_has_no_half_of_a_secret(shift):
    line = "w " * ((sealed_run.MAX_LAST_LINE - shift) // 2) + TOKEN
    shown = sealed_run._last_line(f"before\n{line}\n\n")
    assert shown.startswith("w w") and "Q" not in without_tokens(shown)
    assert sealed_run._last_line(" \n") == "it printed nothing"


@pytest.mark.parametrize("shift", range(0, len(TOKEN) + 2, 5))
def test_the_message_of_a_patch_that_fits_no_cheaper_preset_has_no_half_of_a_secret(shift):
    error = PatchError("w " * ((900 - shift) // 2 - 21) + TOKEN + " w" * 99)
    message = unfit_patch(error, failed(""), "cpu").error["message"]
    assert "w w" in message and "Q" not in without_tokens(message)


@pytest.mark.parametrize("limit", [MAX_QUOTED, MAX_READ])
@pytest.mark.parametrize("form", ["page", "one word", "error", "stream"])
def test_a_fault_of_a_server_that_repeats_the_key_has_no_half_of_it(form, limit, monkeypatch):
    monkeypatch.setenv("MY_KEY", TOKEN)
    steps = []
    for shift in range(0, len(TOKEN) + 3, 6):
        text = "w " * ((limit - shift) // 2) + TOKEN + " w" * 9
        text = text.replace(" ", ",") if form == "one word" else text
        body = {"error": {"message": text}} if form == "error" else text.encode()
        stream = {"body": b"data: " + text.encode() + b"\n\n", "headers": {"Content-Type": "text/event-stream"}}
        steps.append(stream if form == "stream" else {"body": body})
    with Scripted(*steps) as server:
        for _ in steps:
            with pytest.raises(LLMUnavailable) as caught:
                ask(server, api_key_env="MY_KEY", retries=0)
            message = str(caught.value)
            assert "Q" not in message and message.count("w") > 90 and len(message) < MAX_QUOTED + 500


def test_whole_words_are_kept_and_a_word_without_end_is_shortened():
    assert end_of("one two", 7) == "one two" and end_of("one two", 3) == "two" and end_of("one two", 2) == ""
    assert beginning_of("one two", 3) == "one" and beginning_of("one two", 5) == "one "
    assert end_of("x" * 5_000, 1_000) == "x" * 488 and end_of("word", 0) == ""
    assert end_of("", -1) == "" and beginning_of("", -1) == "" and end_of("word", -1) == ""
    assert LOG_BYTES > 512, "an engine's log still shows something after the cut"
