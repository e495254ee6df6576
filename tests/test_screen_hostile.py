"""A screen against bad forecasts, hostile texts, and rewards that are far from all others."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from test_screen import idea, outcomes

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.registry import PluginError
from ideator_rl.screen import Candidate, Forecast, PredictorContext, ScreenConfig, Seen, load_predictor
from ideator_rl.screen.acquisition import ranking
from ideator_rl.screen.features import MOST_TOKENS, tokens_of
from ideator_rl.screen.outliers import pulled_in
from ideator_rl.screen.predictors import VectorPredictor
from ideator_rl.screen.screen import Pool, Screen, checked_forecast

ONES = np.ones(3)


@pytest.mark.parametrize(
    ("forecast", "message"),
    [
        (Forecast(ONES, np.array([0.5, np.nan, 0.5]), ONES), "mean nan for 1 of 3 candidates.*-1e\\+100 to 1e\\+100"),
        (Forecast(ONES, ONES * np.inf, ONES), "mean inf for 3 of 3"),
        (Forecast(ONES, ONES * 1e200, ONES), "mean 1e\\+200"),
        (Forecast(ONES * 1.5, ONES, ONES), "success 1.5 for 3 of 3 candidates. Expected numbers from 0 to 1"),
        (Forecast(-ONES, ONES, ONES), "success -1"),
        (Forecast(ONES, ONES, -ONES), "sd -1.0"),
        (Forecast(ONES, ONES, ONES, math.nan), "noise nan"),
        (Forecast(ONES, ONES, ONES, None), "noise None"),
        (Forecast(ONES * 1j, ONES, ONES), "success 1j"),
        (Forecast(np.array(["0.5"] * 3), ONES, ONES), "success 0.5 for 3"),
        (Forecast(ONES, ONES, np.ones(4)), r"\(3,\), \(3,\), \(4,\) for 3 candidates"),
        (Forecast(ONES, ONES, 1.0), r"\(3,\), \(3,\), \(\) for 3"),
        ((ONES, ONES, ONES), "tuple. Expected an ideator_rl.screen.Forecast"),
        (None, "NoneType. Expected"),
    ],
)
def test_a_forecast_that_cannot_be_ranked_is_refused(forecast, message):
    with pytest.raises(PluginError, match=f"The predictor 'x' returned .*{message}"):
        checked_forecast(forecast, 3, "The predictor 'x'")


def test_lists_and_whole_numbers_are_a_forecast():
    forecast = checked_forecast(Forecast([0, 1], [0.5, 2], np.zeros(2, np.float32), 0), 2, "x")
    assert forecast.success.tolist() == [0.0, 1.0] and forecast.mean.dtype == np.float64


class Careless:
    """Empties the list that it is given."""

    def fit(self, seen):
        seen.clear()

    def predict(self, candidates):
        count = len(candidates)
        return Forecast(np.full(count, 0.5), np.arange(count, dtype=float), np.ones(count))


def pool(count, seed=3):
    rng = random.Random(seed)
    return Pool([str(number) for number in range(count)], [Candidate(idea(rng)[0]) for _ in range(count)])


def test_a_predictor_cannot_change_the_outcomes():
    seen = outcomes(40)
    screen = Screen(ScreenConfig(audit=0.0), Careless(), after=8)
    picks = screen.choose(pool(8), 2, seen, 0.5, None, random.Random(0))
    assert len(seen) == 40 and picks.rows[0].version.endswith(":40") and picks.indices == [6, 7]


def test_improvements_too_small_for_a_float_still_have_an_order():
    """After many outcomes the doubt is a thousandth, and the best reward 0.3 above what is expected."""
    forecast = Forecast(np.array([0.5, 0.9, 0.9, 0.0]), np.array([0.1, 0.1, 0.2, 0.9]), np.full(4, 1e-3))
    scores = ranking("success_ei", forecast, 0.5)
    assert np.argsort(-scores).tolist()[:3] == [2, 1, 0] and scores[3] == -np.inf
    assert np.argsort(-ranking("ei", forecast, 0.5), kind="stable").tolist() == [3, 2, 0, 1]


class Precise:
    def fit(self, seen):
        pass

    def predict(self, candidates):
        means = np.linspace(0.1, 0.2, len(candidates))
        return Forecast(np.full(len(candidates), 0.9), means, np.full(len(candidates), 1e-3))


def test_a_screen_without_hope_of_improvement_still_runs_the_best_forecasts():
    screen = Screen(ScreenConfig(audit=0.0), Precise(), after=8)
    picks = screen.choose(pool(16), 4, outcomes(40), 0.9, None, random.Random(0))
    assert picks.indices == [12, 13, 14, 15]


@pytest.mark.parametrize("outlier", [5.0, 1e30, 1.7e308, -1e9])
def test_one_outlier_does_not_decide_the_fit(outlier):
    seen = outcomes(200)
    first = next(number for number, item in enumerate(seen) if item.succeeded)
    spoilt = [*seen[:first], replace(seen[first], reward=outlier), *seen[first + 1 :]]
    candidates = pool(64).candidates
    forecasts = []
    for rows in (seen, spoilt):
        predictor = load_predictor("tokens")
        predictor.fit(rows)
        forecasts.append(predictor.predict(candidates).mean)
    assert np.corrcoef(*forecasts)[0, 1] > 0.75
    # Nor is it the bar: the bar is a reward that others may improve on.
    best = max(item.reward for item in spoilt if item.succeeded)
    picks = Screen(ScreenConfig(), load_predictor("tokens"), after=8).choose(
        pool(64), 8, spoilt, best, None, random.Random(0)
    )
    assert all(0.5 < row.best < 2.0 and math.isfinite(row.acquisition) for row in picks.rows)


def test_one_enormous_reward_among_few_makes_no_forecast_that_is_refused():
    """Of fewer than eight rewards none is an outlier."""
    seen = [
        Seen(f"[Experiment] {i} [Code Changes] c [End]", id=str(i), status=SUCCEEDED, reward=0.1 * i) for i in range(5)
    ]
    seen.append(replace(seen[0], id="huge", reward=1e300))
    predictor = load_predictor("tokens", PredictorContext())
    predictor.fit(seen)
    forecast = checked_forecast(predictor.predict([Candidate(item.idea) for item in seen]), len(seen), "The predictor")
    assert np.isfinite(forecast.mean).all() and np.isfinite(forecast.sd).all()


def test_texts_of_ideas_that_were_not_run_are_not_kept():
    predictor = Far(PredictorContext())
    seen = [
        Seen(f"[Experiment] {i} [Code Changes] c [End]", id=str(i), status=SUCCEEDED, reward=0.1 * i) for i in range(9)
    ]
    predictor.fit(seen)
    predictor.predict([Candidate(f"[Experiment] pool {i} [Code Changes] c [End]") for i in range(50)])
    assert len(predictor._texts) == 59
    predictor.fit(seen)
    assert len(predictor._texts) == len(predictor._vectors) == 9


def test_only_what_is_far_from_all_others_is_pulled_in():
    rewards = np.random.default_rng(0).normal(3.0, 0.1, 500)
    assert np.array_equal(pulled_in(rewards), rewards)
    assert pulled_in([*rewards, 1e9]).max() < 4.8 and pulled_in([*rewards, -1e9]).min() > 1.5
    # Breakthroughs keep their order: the first ones of a search are far above all others.
    with_jumps = pulled_in([*rewards, 5.0, 7.0, 6.0])
    assert with_jumps[-3:].argsort().tolist() == [0, 2, 1] and with_jumps[-3] > with_jumps[:-3].max()
    assert pulled_in([0.0] * 40 + [7.0]).max() == 7.0, "most are equal: there is no scale"
    assert pulled_in([1.0, 1e9]).tolist() == [1.0, 1e9], "too few"


LINES = ["a" * 300_000, "1" * 300_000 + "x", "1." * 150_000, "1e" * 150_000, "a" + " " * 300_000 + "b", "-+" * 150_000]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_hostile_line_is_read_in_no_time(line):
    """A pattern that tries every start and every end of a word would take hours."""
    patch = f"--- a/t.py\n+++ b/t.py\n@@ -1,1 +1,1 @@\n-x = 1\n+{line}\n"
    assert "t.py" in " ".join(tokens_of(Candidate("[Experiment] a [Code Changes] b [End]", patch)))
    assert tokens_of(Candidate(f"[Experiment] {line} [Code Changes] b [End]"))


def test_an_idea_of_a_million_words_has_a_bounded_number_of_tokens():
    words = " ".join(f"w{number}" for number in range(100_000))
    tokens = tokens_of(Candidate(f"[Experiment] {words} [Code Changes] b [End]"))
    assert len(tokens) == MOST_TOKENS and "word: w0" in tokens


@pytest.mark.parametrize("text", ["\x1b[2J\x00\u202e", "", "\ud800", "[Experiment] " * 50])
def test_texts_that_are_no_ideas_have_a_forecast(text):
    predictor = load_predictor("tokens")
    predictor.fit([Seen(text, id=str(number), status=SUCCEEDED, reward=0.1 * number) for number in range(9)])
    checked_forecast(predictor.predict([Candidate(text), Candidate(f"{text} more")]), 2, "tokens")


def rank_of_last(predictor, seen, candidates):
    """How many candidates rank above the last one."""
    predictor.fit(seen)
    best = max(item.reward for item in seen)
    scores = ranking("success_ei", predictor.predict(candidates), best)
    return int((scores[:-1] > scores[-1]).sum())


def sentences(count, seed):
    """Ideas of 8 to 14 words, whose reward is the sum of what their words bring."""
    rng, ideas = random.Random(seed), []
    worth = {f"w{number}": random.Random(number).gauss(0, 0.03) for number in range(150)}
    for number in range(count):
        words = rng.choices(list(worth), k=rng.randint(8, 14))
        text = f"[Experiment] {' '.join(words)} [Code Changes] x [End]"
        reward = sum(worth[word] for word in words) + rng.gauss(0, 0.01)
        ideas.append(Seen(text, id=f"{number:02d}", status=SUCCEEDED, reward=reward))
    return ideas


@pytest.mark.parametrize("count", [20, 60, 2000])
@pytest.mark.parametrize("name", ["tokens", "embedding"])
def test_nonsense_of_any_length_is_not_preferred(name, count):
    """A length far from that of all outcomes leaves a linear fit in doubt, and doubt is worth a trial."""
    nonsense = Candidate(f"[Experiment] {' '.join(f'x{k}y' for k in range(count))} [Code Changes] x [End]")
    for seed in range(4):
        predictor = load_predictor(name, PredictorContext(embedder="hashed"))
        assert rank_of_last(predictor, sentences(64, seed), [*sentences(63, seed + 100), nonsense]) >= 8


def test_a_text_of_all_known_words_is_not_preferred():
    known = Candidate(f"[Experiment] {' '.join(f'w{number}' for number in range(150))} [Code Changes] x [End]")
    ranks = [
        rank_of_last(load_predictor("tokens"), sentences(64, seed), [*sentences(63, seed + 100), known])
        for seed in range(8)
    ]
    assert np.median(ranks) >= 8


class Far(VectorPredictor):
    """As hidden states are read; a text of one kind has states unlike all others."""

    is_standardised = True

    def text_of(self, candidate):
        return candidate.idea

    def vectors_of(self, texts):
        return np.stack([np.random.default_rng(len(text)).normal(size=8) + 1e4 * ("far" in text) for text in texts])


def test_a_vector_unlike_all_others_is_not_preferred():
    candidates = [*pool(63).candidates, Candidate("[Experiment] far [Code Changes] x [End]")]
    assert rank_of_last(Far(PredictorContext()), outcomes(64), candidates) >= 8
