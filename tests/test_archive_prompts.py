import json
import re
import shutil
from dataclasses import replace

import pytest
from archives import record
from conftest import run
from scripted import idea

from ideator_rl.archive.archive import archive_of
from ideator_rl.archive.baseline import Baseline
from ideator_rl.archive.prompts import ArchivePrompts, cut, outcome
from ideator_rl.archive.random_past import RandomPast
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.ideas import parse_idea
from ideator_rl.reward_buffer import open_buffer
from ideator_rl.search.strategies import Puct, TopK


@pytest.fixture
def filled_buffer(toy_buffer, tmp_path, monkeypatch):
    """A buffer with five successes, the best of height 1 / 0.5, and one failure."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # no noise was measured
    toy_buffer.history += [record(f"t{i}", 0.1 * (i + 1)) for i in range(5)] + [record("t5")]
    return toy_buffer


def prompts(buffer, **more):
    return ArchivePrompts(buffer, more.pop("strategy", TopK()), **more)


def test_all_prompts_are_free_before_the_first_success(toy_buffer):
    own = toy_buffer.executor.environment.prompt("cpu")
    toy_buffer.history.append(record("t5"))
    rows = prompts(toy_buffer, free=0.0).rows(0, 4)
    assert [row["parents"] for row in rows] == [[]] * 4 and {row["prompt"] for row in rows} == {own}


def test_rows_are_json_with_a_prompt_and_its_parents(filled_buffer):
    rows = prompts(filled_buffer).rows(0, 8)
    assert json.loads(json.dumps(rows)) == rows and {tuple(row) for row in rows} == {("prompt", "parents")}
    assert all(len(set(row["parents"])) in (0, 2) for row in rows)


@pytest.mark.parametrize(("groups", "free"), [(8, 0.25), (1, 0.25), (3, 0.25), (16, 0.1), (4, 0.0), (4, 1.0)])
def test_the_share_of_free_prompts_is_exact_over_batches(filled_buffer, groups, free):
    archive_prompts = prompts(filled_buffer, free=free)
    rows = [row for batch in range(40) for row in archive_prompts.rows(batch, groups)]
    assert sum(not row["parents"] for row in rows) == round(free * groups * 40)
    own = filled_buffer.executor.environment.prompt("cpu")
    assert all((row["prompt"] == own) == (not row["parents"]) for row in rows)


@pytest.mark.parametrize("strategy", [TopK(), Puct()])
def test_rows_depend_on_archive_batch_and_seed_only(filled_buffer, strategy):
    archive_prompts = prompts(filled_buffer, strategy=strategy, seed=3)
    assert archive_prompts.rows(5, 8) == prompts(filled_buffer, strategy=strategy, seed=3).rows(5, 8)
    if isinstance(strategy, TopK):
        assert archive_prompts.rows(5, 8) != archive_prompts.rows(6, 8) and archive_prompts.rows(5, 8) != prompts(
            filled_buffer, seed=4
        ).rows(5, 8)


def test_every_batch_has_new_prompts(filled_buffer):
    archive_prompts = prompts(filled_buffer, free=0.0, strategy=TopK(shown=1, elites=1))
    assert {row["parents"][0] for row in archive_prompts.rows(0, 4)} == {"id-t4"}
    filled_buffer.history.append(record("new", 0.9))
    assert {row["parents"][0] for row in archive_prompts.rows(1, 4)} == {"id-new"}


def test_a_prompt_shows_the_task_the_ideas_their_results_and_the_baseline(filled_buffer):
    filled_buffer.baselines.append(record("base", 0.25, implementer="baseline"))
    text = prompts(filled_buffer, free=0.0, strategy=Puct(shown=5, elites=5)).rows(0, 1)[0]["prompt"]
    assert text.startswith("Propose one experiment for the toy bowl.")
    assert "lower is better, and the baseline has 4." in text
    assert "Idea 1, height 2, better than the baseline:\n[Experiment] Try t4. [Code Changes] Set t4. [End]" in text
    assert "Idea 5, height 10, not better than the baseline:\n[Experiment] Try t0." in text
    assert text.endswith("Answer in the same form.")
    assert not any(field in text for field in ("{prompt}", "{ideas}", "{metric}"))


def test_a_failure_is_described_by_its_status_and_error_kind(filled_buffer):
    descriptions = {
        outcome(
            Experiment("x", status, "", "toy", "cpu", error={"kind": kind, "message": ""}), archive_of(filled_buffer)
        )
        for status, kind in (("failed", "failed"), ("timed_out", "timed_out"), ("rejected", "near_duplicate"))
    }
    assert descriptions == {"failed", "failed: timed out", "failed: rejected: near duplicate"}


def test_a_shown_failure_has_its_reason_in_the_prompt(filled_buffer):
    rows = prompts(filled_buffer, free=0.0, strategy=RandomPast(shown=6)).rows(0, 1)
    text = rows[0]["prompt"]
    assert ", failed:\n[Experiment] Try t5." in text and "height 2:\n[Experiment] Try t4." in text
    assert sorted(rows[0]["parents"]) == [f"id-t{i}" for i in range(6)]


def test_a_model_with_a_chat_template_gets_messages(filled_buffer):
    rows = prompts(filled_buffer, chat=True).rows(0, 4)
    assert all([set(message) for message in row["prompt"]] == [{"role", "content"}] for row in rows)


def test_an_idea_is_cut_to_its_length_and_keeps_its_form():
    long = f"[Experiment] {'why ' * 500}[Code Changes] {'do ' * 500}[End]"
    for most in (20, 100, 1000):
        parsed = parse_idea(cut(long, most))
        assert len(parsed.experiment) + len(parsed.changes) <= most
        assert parsed.experiment.endswith(" …") and parsed.changes.endswith(" …")
    assert parse_idea(cut(f"[Experiment] why [Code Changes] {'do ' * 500}[End]", 100)).experiment == "why"
    assert cut("no form at all", 8) == "no for …" and cut(idea("x = 1.0").strip(), 500) == idea("x = 1.0").strip()


def test_braces_in_an_idea_are_not_filled_in(filled_buffer):
    filled_buffer.history.append(
        record("bad", 2.0, idea="[Experiment] {task} {prompt} {ideas} [Code Changes] \\1 {baseline} [End]")
    )
    text = prompts(filled_buffer, free=0.0, strategy=TopK(shown=1, elites=1)).rows(0, 1)[0]["prompt"]
    assert "[Experiment] {task} {prompt} {ideas} [Code Changes] \\1 {baseline} [End]" in text


def test_an_environment_may_bring_its_own_template(toy, tmp_path, toy_config):
    shutil.copytree(toy, tmp_path / "env", ignore=shutil.ignore_patterns("__pycache__"))
    manifest = tmp_path / "env/env.yaml"
    manifest.write_text(manifest.read_text().replace("prompts: {", "prompts: {parents: prompts/parents.md, "))
    (tmp_path / "env/prompts/parents.md").write_text(
        "{task}\nBest so far:\n{ideas}\nBeat that, {direction}, {other}.\n"
    )
    buffer = open_buffer(replace(toy_config, environment=str(tmp_path / "env")))
    buffer.history.append(record("a", 0.5))
    [row] = prompts(buffer, free=0.0, strategy=TopK(shown=1)).rows(0, 1)
    text = row["prompt"]
    assert text.endswith("Set a. [End]\nBeat that, lower, {other}.")
    # The baseline runs at the same time: its metric may be in the prompt or not.
    assert re.search(r"Best so far:\nIdea 1, height 2(, better than the baseline)?:", text)
    buffer.close()


def test_without_a_baseline_a_result_is_only_a_number(filled_buffer):
    assert archive_of(filled_buffer).baseline is None
    text = prompts(filled_buffer).prompt([record("t0", 0.1)])
    assert "Idea 1, height 10:\n" in text and "baseline" not in text
    archive_of(filled_buffer).baseline = Baseline(0.5, 2.0, None)
    assert prompts(filled_buffer).prompt([]) == filled_buffer.executor.environment.prompt("cpu")


def test_a_share_of_free_prompts_above_one_is_refused(filled_buffer):
    with pytest.raises(IdeatorError, match="share of free prompts is 1.5; expected a number from 0 to 1"):
        prompts(filled_buffer, free=1.5)


def test_real_ideas_become_parents(toy_buffer):
    records = run(toy_buffer.score([idea("set x = 1.0"), idea("set y = 1.0"), "nothing"], step=0))
    rows = prompts(toy_buffer, free=0.5).rows(1, 4)
    with_parents = [row for row in rows if row["parents"]]
    assert len(with_parents) == 2 and all(set(row["parents"]) == {records[0].id, records[1].id} for row in with_parents)
    assert all(
        "set x = 1.0" in row["prompt"] and f"{records[0].metric['value']:.5g}" in row["prompt"] for row in with_parents
    )
