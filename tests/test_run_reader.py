import sqlite3

import pytest
from recorded import baseline, journal, record, text

from ideator_rl.report.summary import summary
from ideator_rl.storage.idea_context import Base, InheritedPatch
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_reader import NoRun, read_run


def test_a_run_is_read_by_step_with_success_and_metric_apart(tmp_path):
    steps = [
        [record("a", value=4.0), record("b", value=2.0), record("c", "failed"), record("d", "lost")],
        [record("e", value=1.0), record("b", value=2.0), None],
    ]
    run = read_run(journal(tmp_path, steps, [baseline(0, 3.0), baseline(1, 5.0)]))
    first, second = run.by_step()
    assert (first.proposed, first.succeeded, first.failed, first.lost, first.running) == (4, 2, 1, 1, 0)
    assert first.success == pytest.approx(2 / 3) and first.mean == 3.0 and first.best == 2.0 and first.distinct == 3
    assert first.reward == pytest.approx((0.25 + 0.5 + 0.0) / 3)
    assert second.running == 1 and second.success == 1.0 and second.best == 1.0
    assert run.baseline == 4.0 and [e.id for e in run.ranked] == ["e", "b", "a"]
    assert [e.id for e in run.ran] == ["a", "b", "c", "e"]
    assert run.rollouts[0].thought == "A thought." and run.rollouts[-1].status == "running"


def test_a_run_is_a_data_frame_with_one_row_per_proposal(tmp_path):
    steps = [[record("a", value=4.0), record("c", "failed")], [record("a", value=4.0), None]]
    frame = read_run(journal(tmp_path, steps)).frame()
    assert list(frame["step"]) == [0, 0, 1, 1] and list(frame["status"]) == [
        "succeeded",
        "failed",
        "succeeded",
        "running",
    ]
    assert frame["metric"].dropna().tolist() == [4.0, 4.0] and frame["patch"].isna().tolist() == [False] * 3 + [True]
    assert {"completion", "thought", "idea", "reward", "finished", "error", "seconds", "usd", "tree"} <= set(
        frame.columns
    )


def test_parents_of_all_experiments_are_found_in_one_pass_over_the_proposals(tmp_path):
    class Rollouts(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    run = read_run(journal(tmp_path, [[record(f"{i}", value=1.0 + i) for i in range(20)], [record("0", value=1.0)]]))
    run.rollouts = Rollouts(run.rollouts)
    run.inherited = {(0, 0): InheritedPatch(0, 0, "0", Base("tree", "", ("3",)), "")}
    assert [e.id for e in run.code_parents(run.experiments["0"])] == ["3"]
    assert not any(run.code_parents(run.experiments[f"{i}"]) for i in range(1, 20)) and run.rollouts.passes == 1


def test_a_maximised_metric_ranks_higher_values_first(tmp_path):
    steps = [[record("a", value=4.0), record("b", value=2.0)]]
    for one in steps[0]:
        one.metric["direction"] = "max"
    run = read_run(journal(tmp_path, steps))
    assert run.direction == "max" and run.ranked[0].id == "a" and run.by_step()[0].best == 4.0


def test_the_best_is_never_a_baseline_nor_an_implausible_score(tmp_path):
    steps = [[record("a", value=4.0), record("cheat", "invalid", value=0.001)]]
    run = read_run(journal(tmp_path, steps, [baseline(0, 3.0)]))
    assert [e.id for e in run.ranked] == ["a"] and run.by_step()[0].mean == 4.0


def test_a_run_is_readable_while_its_journal_is_open(tmp_path):
    book = Journal(tmp_path / "buffer.sqlite")
    book.propose(0, [text("x")])
    assert read_run(tmp_path).by_step()[0].running == 1
    book.close()


@pytest.mark.parametrize("name", ["with ?mark", "with #hash", "with %20percent"])
def test_a_folder_may_have_any_name(tmp_path, name):
    (tmp_path / name).mkdir()
    assert read_run(journal(tmp_path / name, [[record("a", value=1.0)]])).ranked[0].id == "a"


def test_a_folder_without_a_run_is_an_error_with_advice(tmp_path):
    with pytest.raises(NoRun, match="holds no run: expected the folder that a recipe names as output_dir"):
        read_run(tmp_path)


@pytest.mark.parametrize("broken", ["not a database at all" * 50, "", None])
def test_a_broken_journal_is_an_error_with_advice(tmp_path, broken):
    if broken is None:
        journal(tmp_path, [])
        with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
            db.execute("insert into experiments values ('x', '[]')")
    else:
        (tmp_path / "buffer.sqlite").write_text(broken)
    with pytest.raises(NoRun, match="cannot be read|is damaged: .* Restore the journal"):
        read_run(tmp_path)


def test_a_recipe_cut_short_by_a_kill_does_not_hide_the_records(tmp_path):
    journal(tmp_path, [[record("a", value=1.0)]])
    (tmp_path / "recipe.yaml").write_text("env: {nano")
    (tmp_path / "timings.json").write_text("")
    run = read_run(tmp_path)
    assert run.recipe == {} and run.timings == {} and run.ranked


def test_the_url_of_a_bucket_is_shown_without_its_password(tmp_path):
    journal(tmp_path, [])
    (tmp_path / "recipe.yaml").write_text("bucket: s3://key:secret@host/ideas\n")
    assert read_run(tmp_path).places == [("records", str(tmp_path / "buffer.sqlite")), ("bucket", "s3://host/ideas")]


def test_the_summary_shows_baseline_best_idea_steps_outcomes_and_paths(tmp_path):
    steps = [
        [record("a", value=4.0, patch="+lr = 3"), record("c", "failed"), record("d", "lost")],
        [record("e", value=1.5, patch="+wd = 7", isolation="none"), record("f", "timed_out")],
    ]
    words = summary(journal(tmp_path, steps, [baseline(0, 3.0), baseline(1, 5.0)]))
    assert "Baseline height: 4.0000 (3.0000 to 5.0000 over 2 seeds)" in words
    assert "Best idea height: 1.5000 (isolation: none), one run, seed 0" in words and "  +wd = 7" in words
    assert "   1      3         2      50%       4.0000       4.0000       0.1250" in words
    assert "5 proposed, 4 distinct experiments" in words and "1 timed_out" in words
    assert f"records: {tmp_path}/buffer.sqlite" in words


def test_the_summary_escapes_control_characters_of_ideas(tmp_path):
    one = record("a", value=4.0, idea="red \x1b[31m\x1b]0;title\x07 \u202eback \ud800", patch="+\x1b[2Jx\r+y")
    words = summary(journal(tmp_path, [[one]]))
    assert not set(words) & set("\x1b\x07\r\u202e\ud800") and "⟨U+202E⟩back" in words


def test_the_summary_cuts_a_long_idea(tmp_path):
    words = summary(journal(tmp_path, [[record("a", value=4.0, idea="x" * 1_000_000, patch="+" + "y" * 1_000_000)]]))
    assert len(words) < 20_000 and words.count("more characters are in the records") == 2


def test_the_summary_of_an_empty_run_is_explicit(tmp_path):
    words = summary(journal(tmp_path, []))
    assert "Baseline: none was run" in words and "Best idea: none succeeded" in words
