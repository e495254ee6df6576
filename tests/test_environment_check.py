"""The search for hidden data: what it finds, what it must not take for a leak, and what it says."""

import io
import json
import random
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ideator_rl.checks import check as environment_check
from ideator_rl.checks import proofs as environment_proofs
from ideator_rl.checks import text_search as environment_search
from ideator_rl.environments.data import Data, DataSource
from ideator_rl.environments.environment import load_environment
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.sandbox.sandbox import BWRAP, NONE, Sandbox
from ideator_rl.scoring.allowance import ScorerSeconds, ScoringCost


@pytest.fixture
def search(monkeypatch, capsys):
    """The script that runs in the sandbox, over given files only and with small chunks."""

    def go(pieces, files):
        monkeypatch.setattr(environment_search, "CHUNK", 1000)
        monkeypatch.setattr(environment_search, "paths", lambda: map(str, files))
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps([piece.hex() for piece in pieces])))
        environment_search.main()
        return json.loads(capsys.readouterr().out)

    return go


def test_a_piece_is_found_at_every_offset_across_chunks_and_among_other_lengths(search, tmp_path):
    body = random.Random(1).randbytes(5000)
    (tmp_path / "body").write_bytes(body)
    (tmp_path / "none").write_bytes(random.Random(2).randbytes(5000))
    (tmp_path / "empty").write_bytes(b"")
    for length in (24, 100, 255):
        pieces = [body[start : start + length] for start in (0, 1, 700, 990, 1001, 5000 - length)] + [b"\0" * 40]
        answer = search(pieces, [tmp_path / name for name in ("body", "none", "empty", "gone")])
        assert answer["found"] == {str(number): [str(tmp_path / "body")] for number in range(6)}
        assert answer["files"] == 3 and answer["unreadable"] == 1


def test_the_walk_skips_special_files_and_lists_a_linked_file_once(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    real = environment_search.os.walk
    monkeypatch.setattr(environment_search.os, "walk", lambda top: real(tmp_path))
    assert len(list(environment_search.paths())) == 1


def test_pieces_are_the_same_at_every_call_and_none_is_plain(tmp_path):
    (tmp_path / "plain").write_bytes(b" " * 5000)
    assert environment_proofs.pieces(tmp_path, 8) == []
    (tmp_path / "small").write_bytes(bytes(range(30)))
    (tmp_path / "text").write_bytes(random.Random(0).randbytes(5000))
    pieces = environment_proofs.pieces(tmp_path, 8)
    assert len(pieces) == 8 and bytes(range(30)) in pieces and pieces == environment_proofs.pieces(tmp_path, 8)


@pytest.fixture
def verdict(toy, tmp_path, monkeypatch):
    """The checks of hidden data, for what the search is made to find."""
    (tmp_path / "private").mkdir()
    (tmp_path / "public").mkdir()
    environment = load_environment(toy)
    data = Data(tmp_path / "public", tmp_path / "private", ())
    monkeypatch.setattr(type(environment), "data", lambda self, preset: data)

    def go(found, level=BWRAP, isolation="auto"):
        monkeypatch.setattr(environment_proofs, "choose_sandbox", lambda *_, **__: Sandbox(level, "no reason"))
        answer = {"found": found, "files": 7, "bytes": 10**9, "unreadable": 0}
        monkeypatch.setattr(environment_proofs, "_search", lambda *_: answer)
        return {check.name: check for check in environment_proofs.hidden(environment, "cpu", isolation)}

    return go, tmp_path


def test_a_leak_a_blind_search_and_a_missing_sandbox_fail_with_messages_of_their_own(verdict):
    go, folder = verdict
    nothing = go({})["hidden data"]
    assert nothing.passed and nothing.warned and "writes nothing to its private folder" in nothing.words
    for name, seed in (("private/val", 1), ("public/train", 2)):
        (folder / name).write_bytes(random.Random(seed).randbytes(9000))
    seen = {str(number): ["/data/train"] for number in range(32, 36)}
    good = go(seen)
    assert (
        good["hidden data"].passed and good["search"].passed and "7 readable files, 1.0 GB" in good["hidden data"].words
    )
    leak = go({**seen, "3": ["/usr/share/val"]})["hidden data"]
    assert not leak.passed and "1 of 32 pieces, in /usr/share/val" in leak.words
    assert not go({})["search"].passed
    assert not go(seen, NONE)["hidden data"].passed


def test_a_stated_share_of_hidden_pieces_in_the_public_folder_is_a_note_and_no_leak(verdict, monkeypatch):
    go, folder = verdict
    (folder / "private/val").write_bytes(random.Random(1).randbytes(9000))
    monkeypatch.setattr(DataSource, "shared", lambda self: 0.125)
    few = {str(number): ["/data/train/1.bin"] for number in range(4)}
    note = go(few)["hidden data"]
    assert note.passed and note.warned and "4 of 32 pieces are in the training data too" in note.words
    more = go(few | {"4": ["/data/train/2.bin"]})["hidden data"]
    assert not more.passed and "5 of 32 pieces, in /data/train/1.bin" in more.words
    elsewhere = go({"0": ["/usr/share/val", "/data/train/1.bin"]})["hidden data"]
    assert not elsewhere.passed and "in /usr/share/val. " in elsewhere.words
    monkeypatch.setattr(DataSource, "shared", lambda self: 0.0)
    assert not go({"0": ["/data/train/1.bin"]})["hidden data"].passed


def test_a_share_is_read_from_prepare_and_is_none_by_default(toy):
    source = load_environment(toy).data_source("cpu")
    assert source.shared() == 0.0
    assert load_environment("nanogpt").data_source("paper").shared() == 0.125


def test_files_of_the_public_folder_do_not_crowd_out_a_leak(capsys, monkeypatch):
    piece = bytes(range(64))
    found = [{"found": [(0, path)], "files": 1, "bytes": 1, "unreadable": 0} for path in
             (*(f"/data/{number}" for number in range(9)), "/usr/leak", "/database")]  # fmt: skip
    pool = SimpleNamespace(imap_unordered=lambda *_: found)
    context = SimpleNamespace(Pool=lambda *_: nullcontext(pool))
    monkeypatch.setattr(environment_search, "get_context", lambda _: context)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps([piece.hex()])))
    environment_search.main()
    assert json.loads(capsys.readouterr().out)["found"]["0"][:2] == ["/database", "/usr/leak"]


def test_with_isolation_none_the_check_passes_with_a_note(verdict):
    go, folder = verdict
    (folder / "private/val").write_bytes(random.Random(1).randbytes(9000))
    stamped = go({}, NONE, isolation=NONE)["hidden data"]
    assert stamped.passed and "unmasked, and not searched" in stamped.words
    assert "not masked" in go({}, NONE)["hidden data"].words


def test_a_protected_file_that_may_change_and_a_codebase_where_nothing_may_fail_the_rules(toy, monkeypatch):
    environment = load_environment(toy)
    rules = environment.rules
    assert environment_check._rules(environment, "cpu").passed
    shut = replace(environment, rules=replace(rules, editable=("*.txt",)))
    assert "no file of baseline/ may be changed" in environment_check._rules(shut, "cpu").words
    glob = replace(environment, rules=replace(rules, protected=("train*",)))
    monkeypatch.setattr(environment_proofs, "judge", lambda *_: None)
    assert "a patch may change train.py" in environment_check._rules(glob, "cpu").words


def test_a_run_that_is_not_found_again_or_gives_another_metric_fails_the_replay():
    first = Experiment("a", SUCCEEDED, "", "toy", "cpu", 0, metric={"value": 1.0}, reward=1.0)
    found = replace(first, replayed=True)
    replay = environment_check._replay
    assert replay([first], [found]).passed
    assert "not found again" in replay([first], [first]).words
    assert "another metric" in replay([first], [replace(found, metric={"value": 2.0})]).words


@pytest.fixture
def scored_baseline(toy, monkeypatch):
    """The checks of a baseline whose scorers took these seconds, and whose records have these notes."""

    def checks(cost, *notes):
        monkeypatch.setattr(environment_proofs, "load_cost", lambda *address: cost)
        metric = {"name": "loss", "value": 2.7, "direction": "min"}
        records = [Experiment("id", SUCCEEDED, "", "toy", "cpu", metric=metric, scoring=note) for note in notes]
        return list(environment_proofs.scoring(load_environment(str(toy)), "cpu", records))

    return checks


COST = ScoringCost((ScorerSeconds(0.1, 0.2, 100),), 2.0)


def test_the_check_states_what_scoring_costs_and_what_an_experiment_may_take(scored_baseline):
    (check,) = scored_baseline(COST, {"doors": "shut"})
    assert check.passed and not check.warned
    assert "0.30 CPU seconds in 1 scorers" in check.words and "50 s and 1.7 CPU seconds" in check.words
    (check,) = scored_baseline(COST, {"doors": "open: Device or resource busy"})
    assert check.passed and check.warned and "Device or resource busy" in check.words


def test_an_environment_without_scorers_has_no_such_check(scored_baseline):
    assert scored_baseline(ScoringCost((), 1.0), {}) == []


def test_a_baseline_that_was_not_audited_fails_the_check(scored_baseline):
    notes = {"doors": "shut", "of_tokens": 64}
    checks = scored_baseline(COST, notes | {"audit_gap": 0.0}, notes)
    assert [check.passed for check in checks] == [True, False] and "1 of 2 baselines" in checks[1].words
