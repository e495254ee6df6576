"""Grades of a generator's answers, where the experiment gains from good grades.

Covered: the evaluator draws every token itself from the logits of a scorer, and grades what it drew.  The model's side
never sees a grade, and cannot draw many answers and keep the best.

Not covered: code that computes instead of predicting (a calculator gives logits too).  Where ideas may change the
weights alone, set `scorer_code: baseline` in env.yaml: the unpatched baseline's code then answers with the experiment's
weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from ideator_rl.scoring.scoring import Scorer, ScorerFailed, ScoringRun

Tokens = list[int]


def graded(
    run: ScoringRun,
    prompts: Sequence[Tokens],
    grade: Callable[[int, Tokens], float],
    *,
    max_tokens: int,
    stop: int | None = None,
    temperature: float = 0.0,
    batch: int = 256,
    seed: int = 0,
    public: np.ndarray | None = None,
) -> float:
    """Mean grade of one answer to each prompt.

    Args:
        grade: from the number of a prompt and the tokens of its answer, `stop` left out, to a grade.
        max_tokens: tokens drawn at most for one answer.
        stop: the token that ends an answer.
        temperature: 0 draws the likeliest token, the lowest one of equals.
        batch: prompts a request.
        seed: of the draws; the same for every experiment.
        public: token ids that are not hidden, int (N,), for the scorer's warm-up; None draws from the whole vocabulary.

    Raises:
        ScorerFailed: the model cannot be loaded or run, or returned logits that are not finite or of another shape.
    """
    started = time.monotonic()
    # The same draws for every experiment: differences between grades are then the models'.
    rng = np.random.default_rng(seed)
    grades: list[float] = []
    tokens = 0
    with run.open_scorer(public=public) as scorer:
        for i in range(0, len(prompts), batch):
            answers = sample(scorer, prompts[i : i + batch], max_tokens, stop, temperature, rng)
            tokens += sum(map(len, answers))
            grades += [float(grade(i + row, answer)) for row, answer in enumerate(answers)]
        run.notes.update(
            {
                "answers": len(grades),
                "tokens": tokens,
                "bytes": scorer.received,
                "seconds_loading": scorer.seconds_loading,
                "seconds_scoring": time.monotonic() - started - scorer.seconds_loading,
            }
        )
    return float(np.mean(grades))


def sample(
    scorer: Scorer,
    prompts: Sequence[Tokens],
    max_tokens: int,
    stop: int | None = None,
    temperature: float = 0.0,
    rng: np.random.Generator | None = None,
) -> list[Tokens]:
    """One answer to each prompt, drawn here token by token; only the last position's logits are transferred.

    Raises:
        ScorerFailed: as `graded`.
    """
    rng = rng or np.random.default_rng(0)
    texts, answers = [list(prompt) for prompt in prompts], [Tokens() for _ in prompts]
    unfinished = set(range(len(texts)))
    scorer.warm_up(_warm_up_shapes(texts, max_tokens))
    for _ in range(max_tokens):
        for length, rows in _by_length(texts, unfinished).items():
            logits = scorer.logits(np.array([texts[row] for row in rows], np.int32), [length - 1])[:, 0]
            for row, token in zip(rows, _draw(logits, temperature, rng), strict=True):
                if token == stop:
                    unfinished.discard(row)
                else:
                    texts[row].append(token)
                    answers[row].append(token)
        if not unfinished:
            break
    return answers


def _warm_up_shapes(texts: list[Tokens], max_tokens: int) -> list[tuple[int, int]]:
    """Shapes for the warm-up (B, T): what is asked first, then other batches and lengths.

    Batches shrink as answers end, and texts grow: code that compiles for a shape has to see both change, and a batch of
    one, before its doors are shut.  No text is longer than one that is asked anyway.
    """
    if not texts:
        return []
    shortest, longest = min(map(len, texts)), max(map(len, texts))
    first = _by_length(texts, set(range(len(texts))))[shortest]
    grown = longest + (1 if max_tokens > 1 else 0)
    return [(len(first), shortest), (1, grown), (2, grown)]


def _by_length(texts: list[Tokens], unfinished: set[int]) -> dict[int, list[int]]:
    """Rows of equal length, which share a request: no text is padded, so that no model attends to padding."""
    groups: dict[int, list[int]] = {}
    for row in sorted(unfinished):
        groups.setdefault(len(texts[row]), []).append(row)
    return groups


def _draw(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> list[int]:
    """One token a row of logits (B, V)."""
    if not np.isfinite(logits).all():
        raise ScorerFailed("The model returned logits that are not finite; expected finite numbers.")
    if temperature > 0:
        # The Gumbel-max trick: the argmax of logits plus Gumbel noise is a draw from their softmax.
        noise = rng.gumbel(size=logits.shape)
        logits = logits / temperature + noise
    return [int(token) for token in logits.argmax(-1)]
