"""Published results and the leaderboard in a report, beside the run's own metric."""

import json

import yaml
from checkpointed import checkpointed
from recorded import baseline, journal, record
from report_page import page_of, words_of

from ideator_rl.report import write_report
from ideator_rl.search.leaderboard import Entry, Leaderboard
from ideator_rl.storage.run_folder import LEADERBOARD, saved_leaderboard


def run_of(tmp_path, **scoring):
    """A run of an environment with published results."""
    environment = checkpointed(tmp_path / "env")
    best, plain = record("a", value=3.1, scoring=scoring), baseline(0, 3.4)
    for result in (best, plain):
        result.metric["name"] = "val_loss"
    folder = journal(tmp_path, [[best]], [plain])
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"env": str(environment), "preset": "cpu"}))
    return folder


def test_published_results_are_a_table_and_lines(tmp_path):
    html = page_of(run_of(tmp_path))
    text = words_of(html)
    assert "Published results" in text and "record 1val loss3.288 H100https://example.org/1" in text
    assert "record 1seconds to target27008 H100" in text
    assert "record 1: 3.28" in text, "the chart's legend names the line"


def test_the_time_to_the_target_is_beside_the_metric(tmp_path):
    text = words_of(page_of(run_of(tmp_path, loss_final=3.2, seconds_to_target=812.5)))
    assert "on the final split 3.2000, target after 812.5 s" in text


def test_a_target_that_was_not_reached_is_mentioned(tmp_path):
    text = words_of(page_of(run_of(tmp_path, loss_final=3.4, seconds_to_target=None)))
    assert "on the final split 3.4000, target not reached" in text


def test_a_run_without_published_results_has_no_table(tmp_path):
    folder = run_of(tmp_path)
    (folder / "recipe.yaml").write_text("env: gone\n")
    assert "Published results" not in words_of(page_of(folder))


def test_the_leaderboard_of_a_run_is_in_its_report(tmp_path):
    folder = run_of(tmp_path)
    entries = [Entry("idea 1", "a", "", [3.1, 3.2, None], [900.0, 950.0, None], [50.0, 50.0, None])]
    Leaderboard("checkpointed", "cpu", "val_loss", "min", 3.28, "gpu-h100", entries).save(folder)
    text = words_of(page_of(folder))
    assert "target 3.28, gpu-h100" in text and "idea 13.15000.0712 of 3" in text


def test_a_damaged_leaderboard_is_left_out(tmp_path):
    folder = run_of(tmp_path)
    for damaged in ("[]", "{", json.dumps({"entries": [{"label": 3}]}), json.dumps({"entries": 7})):
        (folder / LEADERBOARD).write_text(damaged)
        assert saved_leaderboard(folder) is None
        write_report([folder], folder / "report.html")
