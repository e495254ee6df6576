"""How the collapse benchmark counts and tests: scores, areas and intervals by hand."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import collapse_oracle  # noqa: E402
from collapse_cells import HERE, words  # noqa: E402
from collapse_methods import FORECAST, METHODS, TUNED  # noqa: E402
from collapse_records import BASE, Curve, figures, vectors_of  # noqa: E402
from collapse_table import holm, interval, slope, table  # noqa: E402

from ideator_rl.envs.landscape.certificate import certificate, certified_landscape  # noqa: E402
from ideator_rl.envs.landscape.landscape import spell  # noqa: E402
from ideator_rl.search.config import load_search  # noqa: E402
from ideator_rl.storage.run_reader import Rollout  # noqa: E402

LANDSCAPE = certified_landscape(0)


def row(edits, metric, step=0, position=0, thought="hm hm "):
    text = f"{thought}</think> [Experiment] {spell(edits)} [Code Changes] apply [End]"
    status = "failed" if metric is None else "succeeded"
    return Rollout(step, position, text, "", "", spell(edits), status, metric or 0.0, metric)


def test_the_score_is_of_the_best_observed_idea_and_counts_new_codebases_only():
    curve, simple, complex_idea = Curve(LANDSCAPE), [(0, 1)], [(5, 1)]
    worth = {
        name: (LANDSCAPE.quality(edits) - BASE) / (certificate(LANDSCAPE).optimum - BASE)
        for name, edits in (("simple", simple), ("complex_idea", complex_idea))
    }
    assert curve.add(row(simple, None)) and not curve.add(row(simple, 0.9))
    assert curve.score == 0.0
    malformed = Rollout(0, 2, "nothing", "", "", "x", "malformed", 0.0, None)
    assert not curve.add(malformed)
    assert curve.add(row(complex_idea, 0.6)) and curve.score == pytest.approx(worth["complex_idea"])
    assert curve.add(row([(0, 1), (5, 1)], 0.5)) and curve.score == pytest.approx(worth["complex_idea"])
    assert curve.scores == [0.0, worth["complex_idea"], worth["complex_idea"]] and curve.proposed == [1, 4, 5]


def test_a_step_is_described_at_a_fixed_number_of_ideas():
    same = [row([(0, 1)], 0.52, position=at) for at in range(60)]
    assert figures(same) | {"mean_of_successes": None} == {
        "step": 0, "mean": 0.52, "success": 1.0, "mean_of_successes": None, "best": 0.52, "thought": 2.0, "edits": 1.0,
        "simple": 1.0, "distinct": round(1 / 32, 4), "vendi": 1.0, "largest": 1.0,
    }  # fmt: skip
    spread = [row([(at % 20, at // 20)], None, position=at) for at in range(60)]
    described = figures(spread)
    assert (
        described["distinct"] == 1.0 and described["vendi"] == pytest.approx(32, abs=0.1) and described["best"] is None
    )
    assert described["largest"] == pytest.approx(1 / 60, abs=1e-4) and described["mean"] == 0.0
    assert figures(spread[:20])["vendi"] is None
    assert vectors_of([[(0, 1), (2, 3)]])[0].tolist().count(pytest.approx(0.5**0.5)) == 2


def test_p_values_are_corrected_by_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_an_interval_equals_student_s_t_and_is_a_point_for_constants():
    half = 3.182 * (0.05 / 3) ** 0.5 / 2  # Student's t of three degrees of freedom, from a table
    assert interval([0.1, 0.2, 0.3, 0.4]) == pytest.approx((0.25 - half, 0.25 + half), abs=1e-4)
    assert interval([0.3] * 8) == pytest.approx((0.3, 0.3))


def test_too_few_landscapes_have_a_mean_without_interval_or_test():
    step = dict.fromkeys(("mean", "success", "simple", "thought", "distinct", "largest", "vendi", "best"), 0.5)
    common = {"executed": 9, "proposed": 9, "seconds": 1, "cpu_seconds": 1, "steps": [{"step": 0, **step}]}
    cells = [
        {"method": name, "landscape": f"s{at}", "budget": 2048, "score": score + 0.01 * at, "auc": score, **common}
        for at in range(8)
        for name, score in (("default", 0.5), ("grpo", 0.1))
    ]
    text = table(cells, [])
    assert "| GRPO, one prompt | 8 | 0.135 (0.1" in text and "| default − grpo | score | 0.400 (0.400 to 0.400)" in text
    text = table([cell for cell in cells if cell["landscape"] in ("s0", "s1")], [])
    assert "| GRPO, one prompt | 2 | 0.105 | 0.100 |" in text and " to 0." not in text and "Wilcoxon" not in text


def test_a_slope_is_the_change_over_the_run():
    cell = {"steps": [{"step": step, "best": 0.5 + 0.01 * step} for step in range(0, 11, 2)]}
    assert slope(cell) == pytest.approx(0.1)
    assert slope({"steps": cell["steps"][:2]}) is None


def test_the_oracle_runs_every_idea_once_and_sees_executed_ideas_only(monkeypatch):
    executed_edits = []

    class Recording:
        def outcome(self, edits):
            executed_edits.append(tuple(edits))
            return LANDSCAPE.outcome(edits)

    monkeypatch.setattr(collapse_oracle, "certified_landscape", lambda seed: Recording())
    monkeypatch.setattr(collapse_oracle, "Curve", lambda _: Curve(LANDSCAPE))
    result = collapse_oracle.run_oracle(0, 300, 450, elites=4)
    assert len(executed_edits) == len(set(executed_edits)) == result["executed"] == result["proposed"] == 300
    assert all(edits == tuple(sorted(dict(edits).items())) and 1 <= len(edits) <= 10 for edits in executed_edits)
    successes = [
        (LANDSCAPE.outcome(edits).metric, edits) for edits in executed_edits if LANDSCAPE.outcome(edits).succeeded
    ]
    best = max(successes)[1]
    assert result["score"] == round((LANDSCAPE.quality(best) - BASE) / (certificate(LANDSCAPE).optimum - BASE), 4)
    assert collapse_oracle.run_oracle(0, 300, 450, elites=4) == result


def test_the_arms_with_a_screen_differ_from_evolution_in_the_screen_alone(tmp_path):
    keys = {name: {**METHODS[name].keys, **TUNED[name]} for name in ("evolution", *FORECAST)}
    configs = {
        name: load_search(str(HERE / "collapse_search.yaml"), words({"output_dir": str(tmp_path), **own}))
        for name, own in keys.items()
    }
    assert [configs[name].screen.over for name in FORECAST] == [4, 8]
    assert all(replace(configs[name], screen=None) == configs["evolution"] for name in FORECAST)
