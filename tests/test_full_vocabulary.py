"""Honest and hostile models at the vocabulary of GPT-2: a full pass of 8,192 tokens, and an audit of 504."""

import numpy as np
import pytest
from scored_models import run_of

from ideator_rl.evaluation import Audit, Implausible, ScorerFailed, step_loss, token_loss

__all__ = ["run_of", "text"]  # fixtures
pytestmark = pytest.mark.slow
USED, PADDED, CONTEXT, TOKENS = 50_257, 50_304, 64, 8_193
AUDIT = Audit(tolerance=0.03, mean=0.004, min_rows=500)
HEAD = """
V, T = 50_304, 64
base = -np.log(np.arange(1.0, V + 1)).astype(np.float32)  # the text's own frequencies, but for what precedes

def honest(tokens):
    out = np.empty((*tokens.shape, V), np.float32)
    out[:] = base
    # A token repeats itself more often than chance has it.
    np.put_along_axis(out, tokens[..., None], base[tokens][..., None] + 3, -1)
    return out

def add(out, rows, places, ids, amount):
    out[rows, places, ids] += amount
    return out

def ahead(tokens, amount, where=True):
    rows, places = np.nonzero(np.broadcast_to(where, tokens[:, 1:].shape))
    return add(honest(tokens), rows, places, tokens[rows, places + 1], amount)
"""
CARRIED = "\nmodel.context, model.vocab = T, V\nreturn model"
HONEST = {
    "a table": "model = lambda tokens: honest(tokens)",
    "in half precision": "model = lambda tokens: honest(tokens).astype(np.float16)",
    "rounded otherwise in other batches": """
def model(tokens):
    noise = np.random.default_rng(tokens.shape[0] * tokens.shape[1]).normal(0, 0.01, V)
    return honest(tokens) + noise.astype(np.float32)""",
}
LEAKS = {
    "0.01 nats everywhere": "model = lambda tokens: ahead(tokens, 0.011)",
    "0.09 nats everywhere": "model = lambda tokens: ahead(tokens, 0.1)",
    "0.06 nats, all on one position in a hundred": """
model = lambda tokens: ahead(tokens, 7, tokens[:, :-1].astype(np.int64) * 2654435761 % 2**32 < 2**32 // 100)""",
    "the next window's first token from the batch": """
def model(tokens):
    rows = np.arange(len(tokens) - 1)
    return add(honest(tokens), rows, -1, tokens[1:, 0], 7)""",
    "training on what it is asked about": """
counts = np.zeros(V, np.float32)
def model(tokens):
    np.add.at(counts, tokens.ravel(), 0.05)
    return honest(tokens) + np.log1p(counts)""",
    "a memory of earlier requests": """
seen = {}
def model(tokens):
    # Whoever sends a beginning after its whole window gets the next token from here.
    out = honest(tokens)
    for row, ids in enumerate(tokens):
        if tokens.shape[1] == T:
            out[row, np.arange(T - 1), ids[1:]] += 1
            seen.update({ids[:i].tobytes(): ids[i] for i in range(1, T)})
        elif (token := seen.get(ids.tobytes())) is not None:
            out[row, -1, token] += 1
    return out""",
}
BROKEN = {
    "fewer classes": "model = lambda tokens: honest(tokens)[..., :50_000]",
    "one position too few": "model = lambda tokens: honest(tokens)[:, 1:]",
    "rows and positions as one axis": "model = lambda tokens: honest(tokens).reshape(-1, V)",
    "one NaN among 3.2 million": """
def model(tokens):
    out = honest(tokens)
    out[0, -1, 50_256] = np.nan
    return out""",
    "an infinity": "model = lambda tokens: np.where(np.arange(V) == 7, np.inf, honest(tokens)).astype(np.float32)",
    "probability 0": "model = lambda tokens: np.where(np.arange(V) == 7, -np.inf, honest(tokens)).astype(np.float32)",
}


@pytest.fixture(scope="module")
def text():
    """Tokens, int (8193,), that follow Zipf's law and repeat themselves; and no table."""
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1.0, USED + 1)
    tokens = rng.choice(USED, TOKENS, p=chances / chances.sum()).astype(np.int32)
    for i in np.nonzero(rng.random(TOKENS) < 0.2)[0][1:]:
        tokens[i] = tokens[i - 1]
    return tokens, np.zeros(1)


def loss_of(run_of, text, body):
    run = run_of(HEAD + body + CARRIED)
    return token_loss(run, text[0], 8, AUDIT, vocab=USED, context=CONTEXT, public=text[0] % 7), run


@pytest.mark.parametrize("kind", HONEST)
def test_an_honest_model_passes(kind, run_of, text):
    loss, run = loss_of(run_of, text, HONEST[kind])
    assert 6 < loss < 9 and run.notes["audit_rows"] >= 500 and abs(run.notes["audit_mean"]) <= 0.002


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_found(kind, run_of, text):
    with pytest.raises(Implausible):
        loss_of(run_of, text, LEAKS[kind])


@pytest.mark.parametrize("kind", BROKEN)
def test_a_model_without_usable_logits_fails(kind, run_of, text):
    with pytest.raises(ScorerFailed):
        loss_of(run_of, text, BROKEN[kind])


ACROSS_ROWS = "add(ahead(tokens, 7), np.arange(len(tokens) - 1), -1, tokens[1:, 0], 7 * (tokens.shape[1] == T))"


def test_one_token_at_a_time_gives_the_same_loss_and_a_leak_nothing(run_of, text):
    whole, run = loss_of(run_of, (text[0][:1025],), HONEST["a table"])
    # In one batch, 15 targets are the first tokens of the rows below, and are not scored.
    honest = step_loss(run, text[0][:1025], 16, vocab=USED, context=CONTEXT)
    assert honest == pytest.approx(whole, abs=0.1) and run.notes["tokens"] == 1009
    code = (run.tree / "model.py").read_text()
    (run.tree / "model.py").write_text(code.replace("honest(tokens)\n", f"{ACROSS_ROWS}\n"))
    assert step_loss(run, text[0][:1025], 16, vocab=USED, context=CONTEXT) == pytest.approx(honest, abs=1e-5)
