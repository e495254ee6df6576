"""The evaluator's library with real scorer processes: honest models of any kind pass, leaks are caught."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scored_models import LENGTH, VOCAB, run_of, text

from ideator_rl.environments.preset import Budget, ScoringLimits
from ideator_rl.evaluation import Audit, Implausible, ScorerFailed, audit, graded, models, nats, sample, token_loss
from ideator_rl.scoring import evaluate
from ideator_rl.scoring.allowance import ScoringCost, limits
from ideator_rl.scoring.scoring import Request

__all__ = ["run_of", "text"]  # fixtures
ALWAYS = Audit(tolerance=0.01)
HONEST = {
    "a table": "return honest",
    "float64 in Fortran's order": "return lambda tokens: np.asfortranarray(honest(tokens).astype(np.float64))",
    "numerics that hang on the batch": "return lambda t: honest(t) + 1e-6 * len(t) * np.arange(V, dtype=np.float32)",
    "a cache of what it computed before": """
        known = {}
        def cached(tokens):
            rows = [known.setdefault(row.tobytes(), honest(row[None])[0]) for row in tokens]
            return np.stack(rows)
        return cached""",
    "one row at a time": "return lambda tokens: np.concatenate([honest(row[None]) for row in tokens])",
    "a running state that is reset": """
        def stateful(tokens):
            state, out = np.zeros((len(tokens), V), np.float32), []
            for place in range(tokens.shape[1]):
                state = 0.9 * state + TABLE[tokens[:, place]]
                out.append(state)
            return np.stack(out, 1)
        return stateful""",
    "logits masked far down": "return lambda t: np.where(np.arange(V) < V - 1, honest(t), -1e30).astype(np.float32)",
}
LEAKS = {
    "looks at the next token": "return ahead",
    "looks ahead a little, everywhere": "return lambda tokens: ahead(tokens, 0.3)",
    "looks ahead at one place": """
        def once(tokens):
            out = honest(tokens).copy()
            if tokens.shape[1] > 9: out[:, 8] = ahead(tokens)[:, 8]
            return out
        return once""",
    "looks ahead in large batches only": "return lambda t: ahead(t) if len(t) > 8 else honest(t)",
    "looks ahead in whole windows only": "return lambda t: ahead(t) if t.shape[1] == 16 else honest(t)",
    "keeps what it saw for the next process": """
        places = ("/tmp/seen", "/dev/shm/seen", "/workspace/seen", "/artifact/seen")
        def remembers(tokens):
            out = honest(tokens).copy()
            for place in places:
                try:
                    seen = np.load(place + ".npy")
                except OSError:
                    continue
                for row, text in enumerate(tokens):
                    same = (seen[:, :len(text)] == text).all(1)
                    if same.any() and len(text) < seen.shape[1]:
                        out[row, -1, seen[same.argmax(), len(text)]] += 6
            if tokens.shape[1] == 16:
                for place in places:
                    try: np.save(place + ".npy", np.concatenate([tokens, np.load(place + ".npy")]))
                    except OSError:
                        try: np.save(place + ".npy", tokens)
                        except OSError: pass
                out = ahead(tokens)
            return out
        return remembers""",
}


@pytest.mark.parametrize("kind", HONEST)
def test_an_honest_model_gets_its_loss_without_a_false_alarm(kind, run_of, text):
    run = run_of(HONEST[kind])
    loss = token_loss(run, text[0], 64, ALWAYS)
    if kind == "a table":
        assert loss == pytest.approx(float(nats(text[1][text[0][:, :-1]], text[0][:, 1:]).mean()), abs=1e-6)
    assert run.notes["audit_gap"] < 1e-3 and run.notes["tokens"] == text[0][:, 1:].size
    assert run.notes["bytes"] == 4 * VOCAB * run.notes["tokens"] and run.notes["seconds_loading"] > 0


@pytest.mark.parametrize("kind", LEAKS)
def test_a_model_that_sees_beyond_the_preceding_tokens_is_caught(kind, run_of, text):
    with pytest.raises(Implausible, match="saw only what precedes"):
        token_loss(run_of(LEAKS[kind]), text[0], 64, ALWAYS)


def test_a_leak_through_overlapping_windows_is_caught(run_of, text):
    flat = text[0].reshape(-1)
    overlapping = np.stack([flat[i : i + LENGTH + 1] for i in range(0, len(flat) - LENGTH, 5)])
    neighbours = """
        def spies(tokens):
            out = honest(tokens).copy()
            if len(tokens) > 8:
                out[:-1, 4:-1] = ahead(tokens)[:-1, 4:-1]
                out[:-1, -1, tokens[1:, -5]] += 3
            return out
        return spies"""
    with pytest.raises(Implausible):
        token_loss(run_of(neighbours), overlapping, 64, ALWAYS)


def test_a_loss_above_the_threshold_is_not_audited(run_of, text):
    run = run_of("return lambda tokens: 0 * ahead(tokens)")
    assert token_loss(run, text[0], 64, Audit(tolerance=0.01, below=1.0)) == pytest.approx(np.log(VOCAB), abs=1e-6)
    assert "audit_gap" not in run.notes


def test_a_gap_that_is_no_number_fails_the_audit(run_of, text, monkeypatch):
    monkeypatch.setattr(models._Pass, "gaps", lambda *arguments: audit.Gaps(float("nan"), float("nan"), 1))
    with pytest.raises(Implausible):
        token_loss(run_of("return honest"), text[0], 64, ALWAYS)


@pytest.mark.parametrize(
    ("gap", "tolerance", "recorded"),
    [(0.0034567, 0.01, 0.003), (3e-7, 0.01, 0.0), (0.61234, 0.1, 0.61), (math.inf, 0.1, None), (0.12345, 0.0, 0.1235)],
)
def test_a_recorded_gap_has_no_digits_below_a_tenth_of_the_tolerance(gap, tolerance, recorded):
    assert audit.rounded(gap, tolerance) == recorded


def test_a_metric_from_a_scorer_is_recorded_with_four_digits_and_others_whole():
    assert evaluate._rounded({"metric": 2.7182818}) == {"metric": 2.718}
    assert evaluate._rounded({"metric": None, "invalid": "x"}) == {"metric": None, "invalid": "x"}
    assert evaluate._rounded_seconds({"seconds_audit": 1.2345, "bytes": 12345}) == {
        "seconds_audit": 1.2,
        "bytes": 12345,
    }


def test_a_subsample_scores_the_same_tokens_of_every_model(run_of, text):
    run = run_of("return honest")
    loss = token_loss(run, text[0], 64, ALWAYS, positions=5, seed=3)
    positions = np.sort(np.random.default_rng(3).choice(LENGTH, 5, replace=False))
    expected = nats(text[1][text[0][:, :-1]], text[0][:, 1:])[:, positions].mean()
    assert loss == pytest.approx(float(expected), abs=1e-6)
    assert run.notes["tokens"] == 5 * len(text[0]) and run.notes["of_tokens"] == LENGTH * len(text[0])
    assert run.notes["bytes"] == 4 * VOCAB * run.notes["tokens"]


def test_a_leak_is_caught_in_a_subsample_too(run_of, text):
    with pytest.raises(Implausible):
        token_loss(run_of("return ahead"), text[0], 64, ALWAYS, positions=5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return lambda tokens: honest(tokens)[:, :-1]", "ValueError"),
        ("return lambda tokens: honest(tokens) * np.nan", "not finite"),
        ("return lambda tokens: np.where(tokens[..., None] == 3, np.inf, honest(tokens))", "not finite"),
        ("return lambda tokens: [[object()]]", "could not be loaded or run"),
        ("raise KeyError('secret')", "KeyError"),
        ("os._exit(0)", "ended without an answer"),
    ],
)
def test_a_model_without_usable_logits_fails_and_its_own_text_is_not_passed_on(body, message, run_of, text):
    with pytest.raises(ScorerFailed, match=message) as raised:
        token_loss(run_of(body), text[0], 64, ALWAYS)
    assert "secret" not in str(raised.value)


def test_each_loss_belongs_to_one_softmax_while_the_logits_change(run_of, text):
    """A scorer that keeps writing to the shared memory can spoil its loss; it cannot get below an honest loss."""
    body = """
        import threading
        memory = __import__("mmap").mmap(int(__import__("sys").argv[3]), 0)
        view = np.frombuffer(memory, "<f4")
        def scribble():
            while True:
                view[:4 << 16] = 1e4
                view[:4 << 16] = -1e4
        threading.Thread(target=scribble, daemon=True).start()
        return honest"""
    try:
        loss = token_loss(run_of(body), text[0], 64, Audit(tolerance=0.01, below=-1e9))
    except ScorerFailed:
        return
    assert loss > 1.0 and np.isfinite(loss)


def test_the_shared_memory_cannot_be_shrunk_by_the_scorer(run_of, text):
    body = """
        def shrinks(tokens):
            try: os.ftruncate(int(__import__("sys").argv[3]), 4096)
            except OSError: return honest(tokens)
            return 0 * honest(tokens)
        return shrinks"""
    honest = float(nats(text[1][text[0][:, :-1]], text[0][:, 1:]).mean())
    assert token_loss(run_of(body), text[0], 64, ALWAYS) == pytest.approx(honest, abs=1e-6)


def test_a_request_whose_answer_does_not_fit_raises_value_error(run_of):
    run = replace(run_of("return honest"), scoring=ScoringLimits(slot_mb=1))
    with run.open_scorer() as scorer, pytest.raises(ValueError, match="at most 1048576 fit"):
        next(scorer.stream([Request(np.zeros((2048, 16), np.int32))]))


def test_answers_are_drawn_and_graded_by_the_evaluator(run_of):
    count_up = "return lambda t: 9.0 * (np.arange(V) == (t[..., None] + 1) % V).astype(np.float32)"
    run = run_of(count_up)
    prompts = [[1], [4, 5], [9]]
    with run.open_scorer() as scorer:
        assert sample(scorer, prompts, 4, stop=11) == [[2, 3, 4, 5], [6, 7, 8, 9], [10]]
    grade = graded(run, prompts, lambda number, answer: len(answer) == 4, max_tokens=4, stop=11)
    assert grade == pytest.approx(2 / 3) and run.notes["answers"] == 3 and run.notes["tokens"] == 9


def test_draws_at_a_temperature_follow_the_probabilities_and_repeat_with_their_seed(run_of):
    run = run_of("return lambda t: np.log(np.array([0.7, 0.3] + [1e-9] * 10)) * np.ones((*t.shape, 1))")

    def ones(seed):
        return graded(run, [[0]] * 200, lambda _, a: a[0] == 1, max_tokens=1, temperature=1.0, seed=seed)

    assert ones(1) == ones(1) and abs(ones(2) - 0.3) < 0.12


def test_a_generator_without_finite_logits_fails(run_of):
    with pytest.raises(ScorerFailed, match="not finite"):
        graded(run_of("return lambda t: honest(t) + np.nan"), [[1]], lambda *_: 1.0, max_tokens=2)


def test_an_audit_gap_has_no_room_for_digits_that_a_model_chooses():
    assert audit.rounded(2.0291929169125644e32, 0.004) == audit.MAX_GAP
    assert audit.rounded(-1e300, 0.004) == -audit.MAX_GAP
    assert audit.rounded(0.123456, 0.01) == 0.123 and audit.rounded(float("nan"), 0.004) is None


def test_an_honest_generator_that_answers_longer_than_the_baseline_is_not_stopped(run_of):
    run = run_of("""
        import time
        def model(tokens):
            end = time.process_time() + 3e-3 * tokens.size
            while time.process_time() < end: pass
            # It counts down from the prompt's last token.
            return 9.0 * (np.arange(V) == np.maximum(0, tokens[..., None] - 1)).astype(np.float32)
        return model""")

    def answer(run, start):
        return graded(run, [[start] * 5] * 4, lambda _, answer: len(answer), max_tokens=40, stop=0)

    assert answer(run, 1) == 0
    bounds = limits(ScoringCost(tuple(run.spent), 1.0), Budget("cpu", 10.0, 30.0)).scorers
    longer = replace(run, limits=bounds, spent=[])
    assert answer(longer, 11) == 10
    assert longer.spent[0].tokens > 5 * run.spent[0].tokens


def test_a_model_that_knows_only_the_tokens_of_its_training_data_is_warmed_up_on_those(run_of, text):
    body = """
        def model(tokens):
            if (tokens > 9).any(): raise KeyError
            return honest(tokens)
        return model"""
    tokens = text[0] % 10
    assert token_loss(run_of(body), tokens, 64, ALWAYS, public=np.arange(10)) > 0


def test_public_tokens_fewer_than_a_window_are_repeated(run_of, text):
    assert token_loss(run_of("return honest"), text[0], 64, ALWAYS, public=np.array([3])) > 0


def test_the_first_shortest_and_longest_shape_are_warmed_up_before_the_doors_are_shut(run_of):
    run = run_of("""
        opened = set()
        def model(tokens):
            # As a compiler that opens files for each of three shapes, and then has code for any.
            if len(opened) < 3 and tokens.shape not in opened:
                open(os.path.abspath(__file__)).close()
                opened.add(tokens.shape)
            return honest(tokens)
        return model""")
    with run.open_scorer() as scorer:
        requests = [Request(np.zeros((8, length), np.int32), [length - 1]) for length in (9, 4, 12, 2, 7)]
        assert [len(answer) for answer in scorer.stream(requests)] == [8] * 5
    assert run.notes["doors"] == "shut"


def test_a_scorer_that_ended_before_the_warm_up_has_no_state_of_doors(run_of, text):
    run = run_of("os._exit(0)")
    with pytest.raises(ScorerFailed):
        token_loss(run, text[0], 64, ALWAYS)
    assert "doors" not in run.notes
