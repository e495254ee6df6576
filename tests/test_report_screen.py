"""What the report shows of a screen: nothing without forecasts, and figures that are those of the journal."""

import random
import re
from collections import Counter
from dataclasses import fields, replace

import pytest
from recorded import baseline, journal, record, text
from report_page import Page, page_of, words_of

import ideator_rl.report.screen_figures as screen_module
from ideator_rl.experiment import NEAR_DUPLICATE
from ideator_rl.publishing.tracked import RunSource
from ideator_rl.report.run_view import run_view
from ideator_rl.report.screen_figures import screen_figures
from ideator_rl.screen.figures import lift_of
from ideator_rl.storage.forecasts import SCHEMA, ForecastRow, write_forecasts
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_reader import read_run

PANEL = "Forecasts and screen"


def forecast(number, position, chance=0.5, mean=0.4, audited=False, sd=0.1):
    values = {"number": number, "position": position, "completion": text(f"sample {number}"), "success": chance,
              "mean": mean, "sd": sd, "acquisition": chance * mean, "rank": number, "executed": position is not None,
              "audited": audited, "preferred": not audited, "version": "tokens:8", "best": 0.5,
              "is_open": True}  # fmt: skip
    return ForecastRow(**{field.name: values[field.name] for field in fields(ForecastRow)})


def screened(folder, steps):
    """A run of steps; each is a list of (record or None for an idea that was not run, forecast fields)."""
    folder.mkdir(exist_ok=True)
    run_journal = Journal(folder / "buffer.sqlite")
    run_journal.record(baseline(0, 4.0))
    run_journal.write(lambda db: db.execute(SCHEMA))
    for step, ideas in enumerate(steps):
        executed = [experiment for experiment, _ in ideas if experiment is not None]
        places = iter(range(len(executed)))
        rows = [
            forecast(number, None if experiment is None else next(places), **fields)
            for number, (experiment, fields) in enumerate(ideas)
        ]
        texts = [rows[i].completion for i, (experiment, _) in enumerate(ideas) if experiment is not None]
        run_journal.propose(step, texts, note=lambda db, first, rows=rows, step=step: write_forecasts(db, step, rows))
        run_journal.settle_all([(step, place, experiment) for place, experiment in enumerate(executed)])
    run_journal.close()
    return folder


def figures_of(folder):
    return {figure.heading: figure for figure in screen_figures(run_view("run", read_run(folder)))}


@pytest.fixture
def two_steps(tmp_path):
    """Twelve ideas run of twenty: eight successes of reward 1/value, four failures; and samples that were not run."""
    first = [(record(f"a{i}", value=2.0), {"chance": 0.95, "mean": 0.5}) for i in range(6)]
    first += [(None, {}) for _ in range(6)]
    second = [(record(f"b{i}", value=5.0), {"chance": 0.95, "mean": 0.4}) for i in range(2)]
    second += [(record(f"c{i}", "failed"), {"chance": 0.25}) for i in range(3)]
    second += [(record("d", "failed"), {"chance": 0.97}), (None, {}), (None, {})]
    return screened(tmp_path, [first, second])


def test_a_run_without_forecasts_shows_nothing_of_a_screen(tmp_path):
    journal(tmp_path, [[record("a", value=3.0)] * 2], [baseline(0, 4.0)])
    assert read_run(tmp_path).forecasts == []
    assert PANEL not in words_of(page_of(tmp_path))


def test_success_is_shown_against_its_forecast_by_bins(two_steps):
    figure = figures_of(two_steps)["Success against its forecast"]
    # Eight of nine forecasts around 0.95 succeeded, none of the three at 0.25.
    assert "0.25: 0.00 of 3; 0.95: 0.89 of 9." in figure.drawing
    # 8 × 4 pairs of a success and a failure; the failure at 0.97 is above all successes.
    assert "12 ideas" in figure.remark and f"{24 / 32:.0%} in the right order" in figure.remark.replace("\u00a0", " ")


def test_rewards_are_shown_against_their_forecast_where_there_are_enough(two_steps, tmp_path):
    assert "Reward against its forecast" not in figures_of(two_steps)  # eight successes are too few
    ideas = [(record(f"e{i}", value=value), {"mean": mean}) for i, (value, mean) in enumerate(
        [(2.0, 0.5)] * 6 + [(2.5, 0.45)] * 3 + [(5.0, 0.4)] * 3)]  # fmt: skip
    figure = figures_of(screened(tmp_path / "more", [ideas]))["Reward against its forecast"]
    # Within 0.128: those of 0.5 and of 0.4 against 0.45, not those of 0.2 against 0.4.
    assert "holds 75" in figure.remark and "of 12" in figure.remark
    assert "100" in figure.remark.partition("one fit,")[2]


def test_forecasts_are_judged_by_ideas_drawn_at_random_where_there_are_enough(tmp_path):
    # Those that were chosen had forecasts that were too good.
    chosen = [(record(f"c{i}", value=5.0), {"mean": 0.5, "chance": 0.95}) for i in range(30)]
    drawn = [(record(f"d{i}", value=2.5), {"mean": 0.4, "chance": 0.95, "audited": True}) for i in range(12)]
    figures = figures_of(screened(tmp_path, [chosen + drawn]))
    assert "holds 100" in figures["Reward against its forecast"].remark.replace("\u00a0", " ")
    for heading in ("Reward against its forecast", "Success against its forecast"):
        assert "12 ideas drawn at random" in figures[heading].remark


def test_samples_per_experiment_are_counted_by_step(two_steps):
    remark = figures_of(two_steps)["Ideas sampled per experiment"].remark
    assert remark.startswith("20 sampled, 12 run.")


def test_the_lift_is_shown_with_the_gate_of_the_recipe(tmp_path):
    # Sixteen audited ideas of which eight are as good as the sixteen preferred ones, and eight are worse.
    values = [2.0, 4.0] * 8
    ideas = [(record(f"r{i}", value=value), {"audited": True}) for i, value in enumerate(values)]
    ideas += [(record(f"p{i}", value=2.0 + 0.1 * (i % 2)), {}) for i in range(16)]
    (screened(tmp_path, [ideas]) / "recipe.yaml").write_text("screen: {gate: 1.5}\n")
    figure = figures_of(tmp_path)["Lift by step"]
    lift = lift_of(read_run(tmp_path).forecasts, {0: (32, 16)})
    assert 1.5 < lift.value <= 2 and f"{lift.value:.2f} at the end." in figure.remark
    assert "in 0 of 1 steps" in figure.remark
    assert "gate: 1.5" in [text for _, text in figure.legend]


def test_trackers_get_the_figures_of_the_screen_by_step(two_steps):
    (two_steps / "recipe.yaml").write_text("ideator: catalogue\n")
    curves = RunSource(two_steps).group_news(Counter(), last=True).curves
    assert [point["screen/sampled_per_experiment"] for point in curves] == [12 / 6, 8 / 6]
    # Fewer than sixteen audited outcomes: no lift is better than a number that looks like one.
    assert "screen/lift" not in curves[-1]


def test_no_lift_is_shown_before_enough_audited_outcomes(two_steps):
    assert "Lift by step" not in figures_of(two_steps)


def test_of_many_forecasts_evenly_many_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(screen_module, "MAX_DOTS", 20)
    rng = random.Random(0)
    ideas = [(record(f"f{i}", value=rng.uniform(2, 5)), {"mean": rng.random()}) for i in range(60)]
    figure = figures_of(screened(tmp_path, [ideas]))["Reward against its forecast"]
    assert "of 60" in figure.remark and "20 of them are drawn" in figure.remark
    dots = next(path for path in re.findall(r'<path d="([^"]*)"', figure.drawing) if path.count("M") > 3)
    assert dots.count("M") == 20


def test_the_panel_is_part_of_a_page_that_closes_its_tags(two_steps):
    html = page_of(two_steps)
    assert PANEL in Page(html).text and "Success against its forecast" in words_of(html)


def test_near_duplicates_that_are_not_run_are_no_outcomes(tmp_path):
    """They have the reward of a failure, and would make the audit look bad."""
    duplicate = replace(record("a", "rejected"), error={"kind": NEAR_DUPLICATE, "message": ""})
    ideas = [(duplicate, {"audited": True}), (record("b", "rejected"), {"audited": True}), (record("c", value=2.0), {})]
    outcomes = read_run(screened(tmp_path / "run", [ideas])).forecasts
    expected = [("", "", None), ("rejected", "b", 0.0), ("succeeded", "c", 0.5)]
    assert [(row.status, row.experiment_id, row.reward) for row in outcomes] == expected
