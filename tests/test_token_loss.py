"""Texts cut by the model's context, masked classes, and an audit of both directions and of the mean."""

from dataclasses import replace

import numpy as np
import pytest
from scored_models import LENGTH, VOCAB, run_of, text

from ideator_rl.environments.preset import ScoringLimits
from ideator_rl.evaluation import Audit, Implausible, ScorerFailed, losses, nats, step_loss, token_loss, windows_of
from ideator_rl.evaluation.audit import Gaps, draw
from ideator_rl.evaluation.windows import Windows

__all__ = ["run_of", "text"]  # fixtures
STRICT = Audit(tolerance=0.03, mean=0.004, min_rows=500)
CARRIES = """
    def model(tokens):
        return {logits}
    model.context, model.vocab = {context}, {vocab}
    return model"""


@pytest.fixture(scope="module")
def flat(text):
    """The text's tokens, int (4081,), and the honest loss of all but the first."""
    tokens = text[0].reshape(-1)
    return tokens, float(nats(text[1][None, tokens[:-1]], tokens[None, 1:]).mean())


def with_context(context, logits="honest(tokens)", vocab=0):
    return CARRIES.format(context=context, logits=logits, vocab=vocab)


def test_windows_predict_each_token_but_the_first_once():
    windows = windows_of(np.arange(13), 4)
    assert windows.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12]]
    assert windows_of(np.arange(12), 4)[-1].tolist() == [7, 8, 9, 10, 11]  # reaches back
    assert windows_of(np.arange(3), 99).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(("tokens", "context"), [(np.zeros(1), 4), (np.zeros((2, 9)), 4), (np.zeros(9), 0)])
def test_windows_of_what_is_no_text_are_refused(tokens, context):
    with pytest.raises(ValueError, match=r"expected \(N,\)"):
        windows_of(tokens, context)


@pytest.mark.parametrize("context", [16, 40, 100, 5000])
def test_the_same_tokens_count_whatever_context_a_model_carries(context, run_of, flat):
    tokens, honest = flat
    run = run_of(with_context(context))
    assert token_loss(run, tokens, 8, STRICT, context=16) == pytest.approx(honest, abs=1e-6)
    assert run.notes["tokens"] == run.notes["of_tokens"] == len(tokens) - 1
    assert run.notes["context"] == min(context, len(tokens) - 1) and run.notes["audit_rows"] >= 500


def test_a_model_without_a_context_gets_the_evaluators(run_of, flat):
    run = run_of("return honest")
    assert token_loss(run, flat[0], 8, STRICT, context=20) == pytest.approx(flat[1], abs=1e-6)
    assert run.notes["context"] == 20


@pytest.mark.parametrize("context", [65_537, 2**40, -1])
def test_a_context_out_of_range_fails(context, run_of, flat):
    with pytest.raises(ScorerFailed):
        token_loss(run_of(with_context(context)), flat[0], 8, STRICT)


def test_another_context_in_the_audit_fails(run_of, flat):
    body = """
        def model(tokens): return honest(tokens)
        model.context = 16 + int.from_bytes(os.urandom(4), "little") % 2000
        return model"""
    with pytest.raises(ScorerFailed, match="another context"):
        token_loss(run_of(body), flat[0], 8, STRICT)


WIDE = "np.concatenate([honest(tokens), np.full((*tokens.shape, 4), {filling}, np.float32)], -1)"


@pytest.mark.parametrize("filling", ["50.0", "np.nan", "-np.inf"])
def test_classes_beyond_the_evaluators_vocabulary_are_masked(filling, run_of, flat):
    run = run_of(with_context(16, WIDE.format(filling=filling), vocab=VOCAB + 4))
    assert token_loss(run, flat[0], 8, STRICT, vocab=VOCAB) == pytest.approx(flat[1], abs=1e-6)
    assert run.notes["bytes"] == 4 * (VOCAB + 4) * 255 * 16


@pytest.mark.parametrize(("vocab", "carried"), [(VOCAB, VOCAB - 1), (VOCAB, 1 << 19), (None, VOCAB + 4)])
def test_a_vocabulary_out_of_range_fails(vocab, carried, run_of, flat):
    run = run_of(with_context(16, WIDE.format(filling="0"), vocab=carried))
    with pytest.raises(ScorerFailed, match="vocab outside"):
        token_loss(run, flat[0], 8, STRICT, vocab=vocab)


def test_a_window_larger_than_a_slot_comes_in_parts_and_is_computed_once(run_of, text):
    body = """
        asked = []
        WIDE = np.zeros((1, 1, 5000), np.float32)
        def model(tokens):
            asked.append(len(tokens))
            if len(asked) > 44: raise ValueError  # 41 windows, and three shapes of the warm-up
            out = np.full((*tokens.shape, 5000), -30, np.float32)
            out[..., :V] = honest(tokens)
            return out
        model.context, model.vocab = 100, 5000
        return model"""
    # 52 positions fit in 1 MiB.
    run = replace(run_of(body), scoring=ScoringLimits(slot_mb=1))
    tokens = text[0].reshape(-1)
    never = Audit(tolerance=0.01, below=-1.0)
    honest = float(nats(text[1][None, tokens[:-1]], tokens[None, 1:]).mean())
    assert token_loss(run, tokens, 8, never, vocab=VOCAB) == pytest.approx(honest, abs=1e-6)


def test_a_model_that_takes_positions_computes_only_those(run_of, text):
    body = """
        def model(tokens, positions=None):
            assert positions is not None
            return honest(tokens[:, positions])
        return model"""
    run = run_of(body)
    positions = np.sort(np.random.default_rng(0).choice(LENGTH, 5, replace=False))
    expected = nats(text[1][text[0][:, :-1]], text[0][:, 1:])[:, positions].mean()
    assert token_loss(run, text[0], 64, Audit(tolerance=0.01), positions=5) == pytest.approx(float(expected), abs=1e-6)


LEAKS = {
    "a hundredth of a nat, everywhere": "ahead(tokens, 0.02)",
    "the first token of the next window of the batch": """(lambda out: [
        out.__setitem__((slice(None, -1), -1), out[:-1, -1] + 9.0 * (tokens[1:, :1] == np.arange(V))), out][1]
        )(honest(tokens).copy())""",
    "worse in the full pass than in the audit": "honest(tokens) * (0.8 if tokens.shape[1] == 16 else 1.0)",
}


@pytest.mark.parametrize("leak", LEAKS)
def test_the_audit_finds(leak, run_of, flat):
    with pytest.raises(Implausible, match="saw only what precedes"):
        token_loss(run_of(with_context(16, LEAKS[leak])), flat[0], 64, STRICT)


def test_a_leak_at_one_position_of_128_is_found(run_of, flat):
    leak = "(lambda out, leaks: [out.__setitem__((slice(None), 40), out[:, 40] + leaks), out][1])"
    leak += "(honest(tokens).copy(), 9.0 * (tokens[:, 41:42] == np.arange(V))) if tokens.shape[1] == 128"
    with pytest.raises(Implausible, match="saw only what precedes"):
        token_loss(run_of(with_context(128, f"{leak} else honest(tokens)")), flat[0], 64, STRICT)


@pytest.mark.parametrize(
    ("count", "length", "least"), [(512, 64, 0), (256, 128, 504), (128, 257, 504), (40, 128, 500), (2000, 1024, 2000)]
)
def test_all_positions_are_audited_where_the_rows_allow_it(count, length, least):
    windows = Windows(np.zeros((count, length + 1), np.int32), np.arange(length))
    for cuts in draw(windows, Audit(tolerance=0.01, min_rows=least)):
        assert [cut.index for cut in cuts] == list(range(length))
        rows = [len(cut.rows) for cut in cuts]
        assert max(rows) - min(rows) <= 1 and sum(rows) == max(least, 504)


def test_a_leak_is_missed_as_rarely_as_stated():
    count, K, n, draws = 200, 1000, 504, 400
    windows = Windows(np.zeros((count, K + 1), np.int32), np.arange(K))
    pairs, positions, few = (np.zeros((count, K), bool) for _ in range(3))
    pairs[np.arange(400) % count, np.arange(400) * 7 % K] = True
    positions[:, [40, 700]] = True
    few[::4, 100:110] = True
    missed = np.zeros(3)
    for seed in range(draws):
        (cuts,) = draw(windows, Audit(tolerance=0.01, min_rows=n), [seed])
        assert sum(len(cut.rows) for cut in cuts) == n
        missed += [not any(leak[cut.rows, cut.index].any() for cut in cuts) for leak in (pairs, positions, few)]
    stated = np.exp([-(n - 1) * leak.mean() for leak in (pairs, positions, few)])
    # Three standard errors of a share of 400 draws; at one position, half of the draws miss it.
    assert (missed / draws <= stated + 3 * np.sqrt(stated / draws)).all()
    assert 0.15 < missed[1] / draws < 0.35


def test_a_leak_on_every_second_window_is_in_every_audit(flat):
    windows = Windows(windows_of(flat[0], 16), np.arange(16))
    for _ in range(20):
        (cuts,) = draw(windows, STRICT)
        audited = np.unique(np.concatenate([cut.rows for cut in cuts]))
        assert min(np.bincount(audited % 2)) > 10


def test_a_hundredth_of_a_nat_passes_an_audit_without_a_bound_of_the_mean(run_of, flat):
    """The test above would be of no use if any audit found that leak."""
    token_loss(run_of(with_context(16, LEAKS["a hundredth of a nat, everywhere"])), flat[0], 64, Audit(tolerance=0.1))


def test_the_final_split_is_audited_whatever_its_loss(run_of, flat):
    run = replace(run_of("return honest"), split="final")
    token_loss(run, flat[0], 8, Audit(tolerance=0.01, below=-1.0))
    assert run.notes["audit_gap"] == 0


@pytest.mark.parametrize("count", [2, 3, 20, 128, 200])
@pytest.mark.parametrize("repeated", [0, 100])
def test_no_target_of_an_audit_is_sent_before_it_is_asked(count, repeated):
    starts = np.arange(count) * 256
    starts[-1] -= repeated
    windows = Windows(np.zeros((count, 257), np.int32), np.arange(256), repeated)
    for _ in range(20):
        asked = draw(windows, Audit(tolerance=0.01, min_rows=100))
        # Of two windows, the last one may have few positions that count.
        assert sum(len(cut.rows) for cuts in asked for cut in cuts) >= (100 if count > 2 else 90)
        for cuts in asked:
            sent = np.zeros(count * 256 + 1, bool)
            assert cuts[-1].index == 255
            for cut, following in zip(cuts, [*cuts[1:], None], strict=True):
                # With more windows, the next request is sent before the answer to this one is here.
                requests = (cut, following) if following and count > 3 else (cut,)
                for start, end in ((start, start + r.index + 1) for r in requests for start in starts[r.rows]):
                    sent[start:end] = True
                assert not sent[starts[cut.rows] + cut.index + 1].any()
            assert count <= 3 or not any(
                np.intersect1d(a.rows, b.rows).size for a, b in zip(cuts, cuts[1:], strict=False)
            )


def test_every_window_but_those_next_to_an_end_is_audited():
    windows = Windows(np.zeros((512, 65), np.int32), np.arange(64))
    (cuts,) = draw(windows, Audit(tolerance=0.01))
    rows = np.concatenate([cut.rows for cut in cuts])
    assert len(rows) == len(np.unique(rows)) == 504


@pytest.mark.parametrize("count", [20, 128, 512])
def test_a_last_window_that_reaches_back_and_the_one_before_are_audited(count):
    windows = Windows(np.zeros((count, 65), np.int32), np.arange(64), repeated=40)
    scorers = np.zeros(count, int)
    for seed in range(20):
        audited = [np.unique(np.concatenate([cut.rows for cut in cuts])) for cuts in draw(windows, STRICT, [seed])]
        scorers += np.bincount(np.concatenate(audited), minlength=count)
    # With 512 windows, 504 rows leave some out.  Of the last one, the positions that count are a part.
    assert (scorers[:-1] >= (20 if count < 500 else 15)).all() and 1 < scorers[-1] <= 20


@pytest.mark.parametrize(("count", "length", "least"), [(128, 64, 0), (512, 64, 0), (256, 128, 504), (512, 1024, 2000)])
def test_two_scorers_of_many_windows_ask_together_what_one_would(count, length, least):
    windows = Windows(np.zeros((count, length + 1), np.int32), np.arange(length), repeated=40)
    audit = Audit(tolerance=0.01, min_rows=least)
    for seed in range(5):
        scorers = draw(windows, audit, [seed])
        rows_K = np.zeros(length, int)
        for cuts in scorers:
            np.add.at(rows_K, [cut.index for cut in cuts], [len(cut.rows) for cut in cuts])
        assert len(scorers) == 2 and rows_K.sum() == max(least, 504)
        assert rows_K.min() > 0 and rows_K.max() - rows_K.min() <= 1
        one, two = (sum(len(cut.rows) for cut in cuts) for cuts in scorers)
        assert abs(one - two) < 0.2 * rows_K.sum()


def test_positions_that_the_window_before_predicts_are_not_audited_twice():
    windows = Windows(np.zeros((5, 65), np.int32), np.arange(64), repeated=60)
    cuts = [cut for _ in range(20) for cuts in draw(windows, Audit(tolerance=0.01)) for cut in cuts]
    assert any(4 in cut.rows for cut in cuts) and all(cut.index >= 60 for cut in cuts if 4 in cut.rows)


def test_more_rows_than_the_windows_allow_are_refused():
    with pytest.raises(ValueError, match="allow fewer"):
        draw(Windows(np.zeros((200, 5), np.int32), np.arange(4)), Audit(tolerance=0.01, min_rows=1000))


@pytest.mark.parametrize(
    ("gaps", "sentence"),
    [
        ([[0.001, -0.001], [0.003]], ""),
        ([[0.0], [0.006], [0.006]], "rose by 0.004 nats"),
        ([[-0.006], [-0.006]], "fell by 0.006 nats"),
        ([[0.05], [-0.05]], "by 0.05 nats"),
        ([[np.nan], [0.0]], "over 10 nats"),
        ([[1e30], [0.0]], "over 10 nats"),
    ],
)
def test_gaps_are_judged_by_their_mean_and_by_their_worst_length(gaps, sentence):
    exceeded = Gaps.of([np.array(length) for length in gaps], 1).exceeded(Audit(tolerance=0.03, mean=0.0035))
    assert sentence in exceeded and bool(sentence) == bool(exceeded)


STEPS = {
    "that computes the whole beginning": "return honest",
    "with a cache": """
        def model(tokens): raise ValueError
        def steps(batch):
            def step(tokens):
                assert len(tokens) == batch
                return TABLE[tokens]
            return step
        model.steps = steps
        return model""",
}


@pytest.fixture(scope="module")
def honest_steps(text):
    """The honest loss of 240 windows in three batches; some last targets of the third begin the next window."""
    honest = nats(text[1][text[0][:, :-1]], text[0][:, 1:])
    ends = np.arange(2, len(honest) - 1, 3)
    honest[ends[text[0][ends, -1] == text[0][ends + 1, 0]], -1] = np.nan
    return float(np.nanmean(honest))


@pytest.mark.parametrize("kind", STEPS)
def test_one_token_at_a_time_gives_the_loss_of_a_model(kind, run_of, text, honest_steps):
    run = run_of(STEPS[kind])
    assert step_loss(run, text[0], 100) == pytest.approx(honest_steps, abs=1e-6)
    step_loss(run, text[0], 100, count=7)
    assert run.notes["tokens"] == 7 * LENGTH


def test_a_model_that_looks_ahead_gains_nothing_one_token_at_a_time(run_of, text, honest_steps):
    assert step_loss(run_of("return ahead"), text[0], 100) == pytest.approx(honest_steps, abs=1e-6)


@pytest.mark.parametrize(
    ("tokens", "batch", "scored"),
    [
        pytest.param(1025, 16, 1009, id="one batch: the windows' first tokens are targets of those before"),
        pytest.param(1026, 16, 1017, id="the last window reaches back over 63 targets"),
        pytest.param(66, 16, 65, id="two windows that overlap"),
        pytest.param(1025, 5, 1021, id="four batches"),
        pytest.param(1025, 1, 1024, id="one window after the other"),
        pytest.param(windows_of(np.arange(1025), 64), 16, 1009, id="windows that continue one another"),
        pytest.param(np.arange(16 * 65).reshape(16, 65), 16, 1024, id="windows with gaps between them"),
    ],
)
def test_no_target_is_scored_that_the_model_was_sent_before(tokens, batch, scored, run_of):
    body = """
        sent = set()
        def steps(batch):
            def step(tokens):
                sent.update(tokens.ravel().tolist())
                # The token i + 1 follows the token i.
                return np.array([9.0 * (token + 1 in sent) * (np.arange(1100) == token + 1) for token in tokens.ravel()])
            return step
        def model(tokens): raise ValueError
        model.steps, model.context, model.vocab = steps, 64, 1100
        return model"""
    run = run_of(body)
    loss = step_loss(
        run, tokens if np.ndim(tokens) else np.arange(tokens), batch, vocab=1100, public=np.zeros(100, int)
    )
    assert loss == pytest.approx(np.log(1100), abs=1e-5) and run.notes["tokens"] == scored


def test_torch_and_numpy_compute_the_same_losses():
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 20, (3, 7, 501)).astype(np.float32)
    logits[..., 490:] = np.inf
    targets = rng.integers(0, 490, (3, 7))
    numpy, torch = (nats(logits, targets, 490, device=device) for device in ("numpy", "cpu"))
    np.testing.assert_allclose(numpy, torch, rtol=1e-6, atol=1e-6)
    logits[1, 2, 3] = np.nan
    for device in ("numpy", "cpu"):
        with pytest.raises(ScorerFailed, match="not finite"):
            nats(logits, targets, 490, device=device)


@pytest.mark.parametrize(
    "kind",
    [
        "bfloat16",
        pytest.param("float32", marks=pytest.mark.slow),
        pytest.param("float32, needs a gradient", marks=pytest.mark.slow),
    ],
)
def test_tensors_are_scored_by_the_code_for_gpus(kind, run_of, flat, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(losses, "loss_device", lambda: "cpu")
    name, _, gradient = kind.partition(", ")
    body = f"""
        import torch
        table = torch.from_numpy(TABLE).to(torch.{name}).requires_grad_({bool(gradient)})
        return lambda tokens: table[torch.from_numpy(tokens.copy()).long()]"""
    run = replace(run_of(body), preload=("torch",))
    assert token_loss(run, flat[0], 8, STRICT, context=16) == pytest.approx(flat[1], abs=3e-3 if "b" in name else 1e-6)


def test_lengths_with_few_rows_are_averaged_with_their_neighbours():
    gaps = Gaps.of([np.array([0.1]), np.array([-0.1]), np.array([0.02]), np.array([0.04]), np.array([0.2])], 2)
    # 0.2 with 0.04, and the other three.
    assert gaps.worst == pytest.approx(0.12) and gaps.rows == 5
