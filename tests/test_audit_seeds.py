"""What an audit asks is drawn by the seeds of its measurement; a repeated one must pass each of them."""

from dataclasses import replace

import numpy as np
import pytest
from scored_models import run_of, text

from ideator_rl.evaluation import Audit, Implausible, models, token_loss, windows_of
from ideator_rl.evaluation.audit import draw
from ideator_rl.evaluation.windows import Windows

__all__ = ["run_of", "text"]  # fixtures


def test_an_audit_is_drawn_by_the_seed_of_its_measurement(run_of, text, monkeypatch):
    asked = []
    monkeypatch.setattr(models, "draw", lambda *given: [asked.append(draw(*given)), asked[-1]][1])
    run = run_of("return honest")
    tokens = text[0].reshape(-1)[: 128 * 16 + 1]
    for seed in (2**127, 2**127, None, None):
        token_loss(replace(run, audit_seeds=(seed,), spent=[], notes={}), tokens, 64, Audit(tolerance=0.1), context=16)
    one, again, other, another = ([cut.rows.tolist() for (cuts,) in [draws] for cut in cuts] for draws in asked)
    assert one == again and other != again and other != another


def test_a_model_that_knows_one_audit_is_found_by_another(run_of, text):
    """As where it ended itself in the first measurement, and changed its leak before it was measured again."""
    audit, tokens = Audit(tolerance=0.1, lengths=2, rows=1), text[0].reshape(-1)[: 128 * 16 + 1]
    windows = Windows(windows_of(tokens, 16), np.arange(16))
    # Each audits the last position and another one.
    place = {seed: draw(windows, audit, [seed, 1])[0][0].index for seed in range(20)}
    known, other = 0, next(seed for seed in place if place[seed] != place[0])
    leak = f"np.where(np.arange(tokens.shape[1])[:, None] == {place[known]}, honest(tokens), ahead(tokens))"
    run = run_of(f"def model(tokens): return {leak}\nmodel.context = 16\nreturn model")
    again = replace(run, audit_seeds=(known, known), spent=[], notes={})
    token_loss(again, tokens, 64, audit)
    assert len(again.spent) == 2
    for seeds in ((known, other), (other, known)):
        with pytest.raises(Implausible):
            token_loss(replace(run, audit_seeds=seeds, spent=[], notes={}), tokens, 64, audit)
