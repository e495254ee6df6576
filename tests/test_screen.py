"""The screen's parts: predictors, features, acquisition, picks, and the figures that its gate and alarms depend on."""

import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from ideator_rl.experiment import FAILED, LOST, SUCCEEDED, Experiment
from ideator_rl.registry import PluginError, UnknownName
from ideator_rl.screen import Candidate, Forecast, PredictorContext, ScreenConfig, Seen, load_predictor
from ideator_rl.screen.acquisition import acquisition, log_expected_improvement
from ideator_rl.screen.alarms import screen_alarms
from ideator_rl.screen.features import tokens_of
from ideator_rl.screen.figures import WINDOW, coverage_of, lift_of, screen_steps
from ideator_rl.screen.learning import forecast_rewards
from ideator_rl.screen.pool import ScreenAlarms
from ideator_rl.screen.predictor import usable
from ideator_rl.screen.screen import Pool, Screen
from ideator_rl.storage.forecasts import ForecastOutcome, ForecastRow

WORDS = [f"edit{number}" for number in range(24)]
EFFECT = {word: random.Random(word).gauss(0, 0.03) for word in WORDS}
CHANCE = {word: random.Random(f"{word}!").uniform(0.6, 1.0) for word in WORDS}


def idea(rng):
    words = rng.sample(WORDS, rng.randint(2, 6))
    return f"[Experiment] {' '.join(words)} [Code Changes] x [End]", words


def outcomes(count, seed=0):
    """Ideas whose quality is the sum, and whose chance to run is the product, of what their words bring."""
    rng, seen = random.Random(seed), []
    for number in range(count):
        text, words = idea(rng)
        runs = rng.random() < np.prod([CHANCE[word] for word in words])
        reward = 0.5 + sum(EFFECT[word] for word in words) + rng.gauss(0, 0.005) if runs else 0.0
        seen.append(Seen(text, id=f"{number:05d}", status=SUCCEEDED if runs else FAILED, reward=reward))
    return seen


@pytest.mark.parametrize("best", [0.2, 0.5, 0.9])
def test_acquisition_equals_the_integral(best):
    forecast = Forecast(np.array([0.3, 0.9, 1.0]), np.array([0.5, 0.45, 0.6]), np.array([0.1, 0.02, 0.3]))

    def improvement(mean, sd):
        return quad(lambda q: (q - best) * norm.pdf(q, mean, sd), best, max(best, mean) + 12 * sd, points=[mean])[0]

    expected = np.array([improvement(*pair) for pair in zip(forecast.mean, forecast.sd, strict=True)])
    assert acquisition("ei", forecast, best) == pytest.approx(expected, rel=1e-6, abs=1e-15)
    assert acquisition("success_ei", forecast, best) == pytest.approx(forecast.success * expected, rel=1e-6, abs=1e-15)
    assert acquisition("ucb", forecast, best) == pytest.approx(forecast.mean + forecast.sd)
    reward = [quad(lambda q, m=m, s=s: q * norm.pdf(q, m, s), m - 9 * s, m + 9 * s)[0] for m, s in
              zip(forecast.mean, forecast.sd, strict=True)]  # fmt: skip
    expected = forecast.success * reward + (1 - forecast.success) * -1.0
    assert acquisition("mean", forecast, best, failure=-1.0) == pytest.approx(expected)


def test_noise_that_all_ideas_share_is_no_chance_of_improvement():
    quiet = Forecast(np.array([0.5]), np.array([0.4]), np.array([0.03]))
    noisy = replace(quiet, sd=np.array([0.05]), noise=0.04)
    assert acquisition("success_ei", noisy, 0.5) == pytest.approx(acquisition("success_ei", quiet, 0.5))
    assert acquisition("ucb", noisy, 0.5) == pytest.approx([0.43])


def test_hopeless_candidates_keep_their_order():
    logs = log_expected_improvement(np.array([0.0, 0.1, 0.2]), np.full(3, 1e-3), 0.9)
    assert np.isfinite(logs).all() and (np.diff(logs) > 0).all()
    exact = norm.logpdf(30.0) + np.log(1 / 30**2)  # the tail: φ(z) / z²
    assert log_expected_improvement(np.array([0.0]), np.array([1.0]), 30.0)[0] == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("name", ["tokens", "embedding"])
def test_a_predictor_orders_unseen_ideas(name):
    predictor = load_predictor(name, PredictorContext(embedder="hashed"))
    predictor.fit(outcomes(400))
    rng = random.Random(99)
    ideas = [idea(rng) for _ in range(200)]
    forecast = predictor.predict([Candidate(text) for text, _ in ideas])
    quality = [0.5 + sum(EFFECT[word] for word in words) for _, words in ideas]
    chance = [np.prod([CHANCE[word] for word in words]) for _, words in ideas]
    assert np.corrcoef(forecast.mean, quality)[0, 1] > 0.75
    assert np.corrcoef(forecast.success, chance)[0, 1] > 0.6
    assert ((forecast.success > 0) & (forecast.success < 1)).all() and (forecast.sd > 0).all()


def test_a_fit_depends_on_the_outcomes_alone_and_not_on_lost_ones():
    seen = outcomes(80)
    lost = [replace(item, id=f"x{item.id}", status=LOST, reward=None) for item in seen[:30]]
    shuffled = random.Random(1).sample(seen + lost, len(seen + lost))
    candidates = [Candidate(idea(random.Random(number))[0]) for number in range(20)]
    fresh, used = load_predictor("tokens"), load_predictor("tokens")
    fresh.fit(seen)
    used.fit(outcomes(50, seed=7))  # forgotten by the next fit
    used.predict(candidates)
    used.fit(shuffled)
    first, second = fresh.predict(candidates), used.predict(candidates)
    for name in ("success", "mean", "sd"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["tokens", "embedding"])
def test_few_outcomes_give_cautious_forecasts(name, count):
    predictor = load_predictor(name, PredictorContext(embedder="hashed"))
    predictor.fit(outcomes(count))
    forecast = predictor.predict([Candidate("[Experiment] edit1 [Code Changes] x [End]")] * 3)
    assert np.isfinite([forecast.success, forecast.mean, forecast.sd]).all()
    assert ((forecast.success > 0.05) & (forecast.success < 0.95)).all()


def test_records_without_information_are_left_out():
    record = Experiment("a", SUCCEEDED, "idea", "env", "cpu", reward=1.0)
    lost = replace(record, id="b", status=LOST)
    baseline = replace(record, id="c", implementer="baseline", idea="")
    duplicate = replace(record, id="d", status="rejected", error={"kind": "near_duplicate", "message": ""})
    assert usable([record, lost, baseline, duplicate]) == [record]


PATCH = """diff --git a/train.py b/train.py
--- a/train.py
+++ b/train.py
@@ -1,4 +1,4 @@
 def main():
-    lr = 0.01
+    lr = 0.04
-    width = 64
+    width = grown(width, 2)
     run()
diff --git a/c.yaml b/c.yaml
--- a/c.yaml
+++ b/c.yaml
@@ -1 +1 @@
-decay: 0.2
+decay: 0.1
"""


def test_tokens_are_places_signs_ratios_and_calls():
    tokens = tokens_of(Candidate("[Experiment] raise lr [Code Changes] x [End]", PATCH))
    assert {"train.py:main.lr", "train.py:main.lr +", "train.py:main.lr × 2^2"} <= tokens
    assert {"c.yaml:decay", "c.yaml:decay -", "c.yaml:decay × 2^-1", "call: grown"} <= tokens
    assert not any(token.startswith("word:") for token in tokens), "with a patch, words are no features"
    assert {"word: raise", "word: lr"} <= tokens_of(Candidate("[Experiment] raise lr [Code Changes] x [End]"))
    odd = PATCH.replace("0.04", "1e999").replace("0.1", "-0")
    assert tokens_of(Candidate("", odd)), "numbers of any size are read"


def test_names_of_predictors():
    with pytest.raises(UnknownName, match="tokens"):
        load_predictor("token")
    with pytest.raises(PluginError, match="predict"):
        load_predictor("ideator_rl.screen.Candidate")
    assert isinstance(load_predictor(f"{__name__}.Noise"), Noise)


class Noise:
    """Forecasts that have nothing to do with the ideas."""

    def __init__(self, context):
        self.rng = np.random.default_rng(context.seed)

    def fit(self, seen):
        pass

    def predict(self, candidates):
        count = len(candidates)
        return Forecast(self.rng.random(count), self.rng.normal(0.5, 0.1, count), np.full(count, 0.02))


def rounds(predictor, count, config=None, room=16, over=8, seed=0):
    """Rounds of a screen on ideas of known quality; the rows with their outcomes, and the reward of all sampled ideas."""
    config = config or ScreenConfig()
    screen, rng = Screen(config, predictor, 32), random.Random(seed)
    seen, rows, everything = outcomes(64, seed=seed + 1), [], []
    for step in range(count):
        drawn = [idea(rng) for _ in range(room * over)]
        pool = Pool([text for text, _ in drawn], [Candidate(text) for text, _ in drawn])
        best = max(item.reward for item in seen)
        picks = screen.choose(pool, room, list(seen), best, lift_of(rows), random.Random(f"{seed} {step}"))
        assert len(picks.indices) == room
        for row, (text, words) in zip(picks.rows, drawn, strict=True):
            runs = rng.random() < np.prod([CHANCE[word] for word in words])
            reward = 0.5 + sum(EFFECT[word] for word in words) if runs else 0.0
            everything.append(reward)
            status = (SUCCEEDED if runs else FAILED) if row.executed else ""
            rows.append(ForecastOutcome(step, row, status, reward if status else None, 0.0))
            if row.executed:
                seen.append(Seen(text, id=f"s{step:04d}{row.number:04d}", status=status, reward=reward))
    return rows, everything


def test_a_good_predictor_keeps_its_gate_open_and_picks_better_ideas():
    rows, everything = rounds(load_predictor("tokens"), 8, ScreenConfig(audit=0.25))
    chosen = [row.reward for row in rows if row.status == SUCCEEDED and not row.forecast.audited]
    assert lift_of(rows).value > 2 and all(row.forecast.is_open for row in rows)
    assert np.mean(chosen) > np.mean([reward for reward in everything if reward]) + 0.05
    assert coverage_of(rows) > 0.5
    assert screen_alarms(screen_steps(rows), ScreenConfig()) == []


def test_noise_closes_the_gate_and_loses_no_more_than_chance():
    executed, everything, closed = [], [], []
    for seed in range(3):
        rows, rewards = rounds(Noise(PredictorContext(seed=seed)), 24, room=32, over=3, seed=seed)
        executed += [row.reward for row in rows if row.forecast.executed]
        everything += rewards
        closed += [row.forecast for row in rows if row.forecast.executed and not row.forecast.is_open]
    assert len(closed) > 0.1 * len(executed)
    assert all(row.audited for row in closed), "with a closed gate, every idea is drawn at random"
    error = np.std(everything) / len(executed) ** 0.5
    assert abs(np.mean(executed) - np.mean(everything)) < 3 * error


@pytest.mark.parametrize(("reward", "is_open"), [(0.52, True), (0.44, False), (None, False)])
def test_the_gate_closes_where_preferred_ideas_are_worse_than_random_ones(reward, is_open):
    """None: most preferred ideas fail, and the others are as good as random ones."""
    rng, rows = random.Random(0), []
    for row in [row for step in range(6) for row in scripted(step, [0.48] * 16)]:
        preferred = row.forecast.preferred
        fails = preferred and reward is None and rng.random() < 0.8
        value = (reward or 0.48) if preferred else 0.48
        rows.append(replace(row, status=FAILED if fails else SUCCEEDED, reward=value + rng.gauss(0, 0.02)))
    lift = lift_of(rows)
    assert (lift.value > 2) == is_open and (lift.high >= 2) == is_open
    pool = Pool([row.idea for row in outcomes(8)], list(outcomes(8)))
    screen = Screen(ScreenConfig(audit=0.0), load_predictor("tokens"), 1)
    picks = screen.choose(pool, 4, outcomes(40), 0.5, lift, random.Random(0))
    assert {row.is_open for row in picks.rows} == {is_open}
    assert sum(row.audited for row in picks.rows) == (0 if is_open else 4)


def test_the_audit_is_an_unbiased_sample_of_the_pool():
    """Each idea of a pool is as likely to be audited as any other."""
    drawn = [idea(random.Random(number))[0] for number in range(24)]
    pool = Pool(drawn, [Candidate(text) if number % 3 else None for number, text in enumerate(drawn)])
    screen, seen = Screen(ScreenConfig(audit=0.3), Noise(PredictorContext()), 8), outcomes(40)
    counts, sizes = Counter(), []
    for number in range(1500):
        picks = screen.choose(pool, 4, seen, 0.6, None, random.Random(number))
        audited = [row.number for row in picks.rows if row.audited]
        counts.update(audited)
        sizes.append(len(audited))
        assert len(picks.indices) == 4 and not any(index % 3 == 0 for index in picks.indices)
    assert np.mean(sizes) == pytest.approx(1.2, abs=0.05), "the share is exact on average, whatever the room"
    expected = 1500 * 1.2 / 16
    assert set(counts) == set(pool.fresh)
    assert all(abs(count - expected) < 4.5 * expected**0.5 for count in counts.values())


def test_a_predictor_with_arrays_of_another_length_is_refused():
    class Short(Noise):
        def predict(self, candidates):
            return super().predict(candidates[1:])

    pool = Pool(["a", "b"], [Candidate("a"), Candidate("b")])
    with pytest.raises(PluginError, match="2 candidates"):
        Screen(ScreenConfig(), Short(PredictorContext()), 1).choose(pool, 1, outcomes(4), 0.5, None, random.Random(0))


@pytest.mark.parametrize(("acquisition", "floor"), [("success_ei", 0.0), ("mean", -0.2)])
def test_rewards_of_forecasts_are_shares_of_a_good_one(acquisition, floor):
    rng = random.Random(3)
    worth = [rng.choice([None, rng.random(), rng.random(), float("nan")]) for _ in range(40)]
    worth[7] = floor
    row = scripted(0, [0.5])[0].forecast
    rows = [replace(row, acquisition=value) for value in worth]
    numbers = [value for value in worth if value is not None and value == value]
    bar = sorted(numbers, reverse=True)[2]  # the third of twelve places
    expected = [
        0.0 if value is None or value != value else min(1.0, (value - floor) / (bar - floor)) for value in worth
    ]
    assert forecast_rewards(rows, acquisition, 12) == pytest.approx(expected)
    assert sum(reward == 1.0 for reward in expected) == 3
    # Where hardly anything can improve, what can is worth all.
    flat = [replace(row, acquisition=value) for value in (0.0, 0.0, 1e-300, 0.0)]
    assert forecast_rewards(flat, "ei", 8) == [0.0, 0.0, 1.0, 0.0]
    assert forecast_rewards([replace(row, acquisition=None)] * 2, "ei", 8) == [0.0, 0.0]


def test_ideas_that_are_worth_too_little_for_a_float_have_rewards_by_rank():
    row = replace(scripted(0, [0.5])[0].forecast, acquisition=0.0, success=0.9)
    rows = [replace(row, rank=rank) for rank in (5, 0, 3, 1, 4, 2)]
    rows += [replace(row, rank=6, success=0.0), replace(row, rank=None, acquisition=None)]
    # Two of eight places are the bar; without a chance of success an idea is worth nothing, nor is a known one.
    expected = [0.0, 1.0, 0.5, 1.0, 0.25, 0.75, 0.0, 0.0]
    assert forecast_rewards(rows, "success_ei", 8) == expected
    assert forecast_rewards(rows, "ei", 8)[6] == 0.0 < forecast_rewards(rows, "ei", 8)[0]


def scripted(step, rewards, forecast=0.5, sd=0.01, fresh=1.0, hits=True):
    """A step whose audited ideas have these rewards, and whose preferred ones are hits or not."""
    row = ForecastRow(0, 0, "", 1.0, forecast, sd, 0.0, 0, True, False, True, "x:1", 0.5, True)
    rows = [replace(row, audited=True, preferred=False) for _ in rewards] + [row] * 8
    stale = replace(row, success=None, mean=None, sd=None, executed=False, position=None, preferred=False)
    rows += [stale] * round(len(rows) * (1 / fresh - 1))
    results = [*rewards, *[0.9 if hits else 0.1] * 8]
    return [
        ForecastOutcome(
            step, row, SUCCEEDED if at < len(results) else "", results[at] if at < len(results) else None, 0
        )
        for at, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("screen_coverage", lambda n: scripted(n, [0.4] * 8)),
        ("screen_lift", lambda n: scripted(n, [0.505] * 8, hits=False)),
        ("screen_fresh", lambda n: scripted(n, [0.5] * 8, fresh=0.2)),
        ("screen_gaming", lambda n: scripted(n, [0.5 - 0.001 * n] * 8, forecast=0.5 + 0.004 * n, sd=0.1)),
    ],
)
def test_alarms_begin_once(kind, step):
    rows = [row for number in range(14) for row in step(number)]
    alarms = screen_alarms(screen_steps(rows), ScreenConfig())
    assert [alarm.kind for alarm in alarms] == [kind]
    assert alarms[0].level == "warn" and alarms[0].text.endswith(".")


def test_a_shown_lift_is_at_most_the_ratio_of_new_ideas_to_places():
    """Eight places and sixteen new ideas: those run at random improve at least half as much as the best eight."""
    rows = [row for number in range(8) for row in scripted(number, [0.4 + 0.01 * at for at in range(8)])]
    assert lift_of(rows).value > 2, "as the gate sees it"
    lift = screen_steps(rows)[-1].lift
    assert (lift.value, lift.high) == (2.0, 2.0)
    # Where every new idea is run, there is nothing that forecasts chose.
    everything = [replace(row, forecast=replace(row.forecast, preferred=True)) for row in rows]
    assert lift_of(everything) is not None and screen_steps(everything)[-1].lift is None


def test_coverage_reads_no_rows_before_its_window():
    rows = rounds(load_predictor("tokens"), 12, ScreenConfig(audit=0.5))[0]
    audited = [row for row in rows if row.status and row.forecast.audited]
    assert len(audited) > WINDOW and coverage_of(audited) == coverage_of([None, *audited[-WINDOW:]])


def test_right_forecasts_of_more_failures_are_no_gaming(monkeypatch):
    """A success is worth -3 and a failure -10: with fewer successes, p · μ alone rises."""
    rows = []
    for number in range(14):
        chance = 1 - min(number, 8) / 16
        successes = round(16 * chance)
        for outcome in scripted(number, [-3.0] * successes + [-10.0] * (16 - successes), forecast=-3.0):
            forecast = replace(outcome.forecast, success=chance, best=-3.0)
            rows.append(replace(outcome, forecast=forecast, status=FAILED if outcome.reward == -10.0 else SUCCEEDED))
    kinds = {alarm.kind for alarm in screen_alarms(screen_steps(rows), ScreenConfig())}
    assert kinds == {"screen_gaming"}, "without the reward of a failure"
    monkeypatch.setattr("ideator_rl.screen.pool.read_forecasts", lambda journal, **keys: rows)
    environment = SimpleNamespace(failure_reward=-10.0)
    buffer = SimpleNamespace(journal=None, executor=SimpleNamespace(environment=environment))
    assert ScreenAlarms(ScreenConfig(), buffer).new_alarms() == []
    for step in screen_steps(rows, failure=-10.0):
        assert step.forecast == pytest.approx(step.audited_mean)


def test_the_screen_waits_for_a_share_of_a_small_budget():
    assert ScreenConfig().outcomes_before(None) == 64
    assert ScreenConfig().outcomes_before(96) == 24
    assert ScreenConfig(after=5).outcomes_before(96) == 5
    screen = Screen(ScreenConfig(), load_predictor("tokens"), 24)
    assert not screen.ranks(outcomes(23)) and screen.ranks(outcomes(60))
    assert not screen.ranks([replace(item, status=FAILED, reward=0.0) for item in outcomes(60)])
