"""The figures of a population against its records, from a finished journal and from one that is being written."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from recorded import record

from ideator_rl.diversity.embedding import Thresholds
from ideator_rl.diversity.environment_context import EnvironmentContext, context_of_run, environment_context
from ideator_rl.diversity.population import FIGURES, population
from ideator_rl.diversity.rows import LiveRows, rows_of_run
from ideator_rl.diversity.watch import DiversityWatch
from ideator_rl.diversity.window import sample_size
from ideator_rl.environments.environment import load_environment
from ideator_rl.patch import diff
from ideator_rl.patch.size import patch_size
from ideator_rl.search.population_watch import PopulationWatch
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_reader import Rollout, Run, read_run

PATCH = "--- a/train.py\n+++ b/train.py\n@@ -1,2 +1,2 @@\n-rate = 1\n+rate = {}\n other\n"


class ByLetter:
    """A scripted embedder: an idea's direction is its first letter."""

    name = "by letter"
    thresholds = Thresholds(0.9, 0.5)

    def embed(self, texts):
        alphabet = np.eye(26, dtype=np.float32)
        return np.stack([alphabet[ord(text[0].lower()) - ord("a")] if text else 0 * alphabet[0] for text in texts])


def text(experiment, thought=""):
    return f"{thought} [Experiment] {experiment} [Code Changes] rate = 1 [End]"


def written(folder, steps):
    """A run's journal from steps of (experiment, thought, record)."""
    journal = Journal(folder / "buffer.sqlite")
    for step, ideas in enumerate(steps):
        journal.propose(
            step, [text(experiment, thought) if experiment else thought for experiment, thought, _ in ideas]
        )
        for position, (_, _, outcome) in enumerate(ideas):
            if outcome is not None:
                journal.settle(step, position, outcome)
    return journal


def step_of(letters, ids, thought="think a lot", **more):
    """One idea for each letter; an id in capitals is a failure."""
    ideas = []
    for letter, id in zip(letters, ids, strict=True):
        status, value = ("failed", None) if id.isupper() else ("succeeded", float(ord(id)))
        ideas.append((f"{letter} {letter}b", thought, record(id, status, value, patch=PATCH.format(ord(id)), **more)))
    return ideas


@pytest.fixture
def two_steps(tmp_path):
    first = step_of("aaaabbcd", "abcdeefG")
    second = step_of("aaaaaaaa", "hhhhhhab", thought="hm")
    second[0] = ("", "no idea at all", record("m", "malformed", tree=""))
    written(tmp_path, [first, second]).close()
    return read_run(tmp_path)


def test_the_figures_of_a_window_equal_those_of_its_records(two_steps):
    first, second = population(two_steps, ByLetter())
    assert (first.step, first.last_step, first.ideas) == (0, 0, 8) and set(first.figures) == set(FIGURES)
    f, s = first.figures, second.figures
    assert f["success"] == 7 / 8 and f["malformed"] == 0 and s["malformed"] == 1 / 8
    metrics = [float(ord(id)) for id in "abcdeef"]
    assert f["metric_mean"] == pytest.approx(np.mean(metrics)) and f["metric_best"] == 97.0
    assert f["metric_spread"] == pytest.approx(np.std(metrics, ddof=1))
    assert f["reward_best"] == pytest.approx(1 / 97) and f["reward_mean"] == pytest.approx(
        sum(1 / m for m in metrics) / 8
    )
    assert f["reward_of_successes"] == pytest.approx(np.mean([1 / m for m in metrics]))
    assert f["best_so_far"] == s["best_so_far"] == 97.0 and s["metric_best"] == 97.0
    assert f["patch_lines"] == 2 and f["patch_files"] == 1
    assert f["thought_words"] == 3 and s["thought_words"] == 1, "of completions with an idea"
    assert f["token_entropy"] is None and f["beyond_bound"] is None and f["coverage"] is None


def test_all_windows_are_compared_at_one_n(two_steps):
    first, second = population(two_steps, ByLetter())
    f, s = first.figures, second.figures
    assert sample_size(8) == 4
    # 7 different codebases among 8: two of four drawn are the same one with probability C(6,2)/C(8,4).
    assert f["distinct_trees"] * 4 == pytest.approx(4 - 15 / 70)
    assert f["clusters"] == pytest.approx(sum(1 - missed / 70 for missed in (1, 15, 35, 35)))
    assert f["largest_cluster"] == 0.5 and s["largest_cluster"] == 1.0
    shares = np.array([4, 2, 1, 1]) / 8
    assert f["cluster_entropy"] == pytest.approx(-(shares * np.log(shares)).sum() + 3 / 16)
    assert s["vendi"] == pytest.approx(1.0) and 1.5 < f["vendi"] < 4
    assert s["collapse_index"] == pytest.approx(1 - 1 / np.mean([f["vendi"], 1.0]))
    same = 6 + 1  # pairs of equal direction, of 28
    assert f["distance"] == pytest.approx(1 - same / 28) and s["distance"] == pytest.approx(0.0)
    assert s["distinct_1"] == pytest.approx(2 / 8), "a and ab, of eight words in four descriptions"


def test_duplicates_are_counted_against_earlier_windows_only(two_steps):
    first, second = population(two_steps, ByLetter())
    assert first.figures["past_duplicates"] is None and first.figures["known_trees"] == 0
    assert second.figures["past_duplicates"] == second.figures["past_duplicates_succeeded"] == 1.0
    assert second.figures["known_trees"] == pytest.approx(2 / 7), "a and b, of seven with a codebase"
    assert (first.figures["new_cells"], second.figures["new_cells"]) == (1, 0)


def test_parent_copies_are_a_share_of_the_ideas_that_were_shown_parents(tmp_path):
    journal = written(tmp_path, [step_of("aaaaaaaa", "abcdefgh"), step_of("aaaaaaaa", "aijkbcde")])
    for child in "aijk":
        journal.descend(child, ("a", "b"), 1)
    journal.close()
    _, second = population(read_run(tmp_path), ByLetter())
    assert second.figures["parent_copies"] == 1 / 4


def test_small_steps_are_joined_to_one_window(tmp_path):
    steps = [step_of("abcdef", "abcdef")] * 7
    written(tmp_path, steps).close()
    run = read_run(tmp_path)
    windows = population(run, ByLetter())
    assert [(w.step, w.last_step, w.ideas) for w in windows] == [(0, 2, 18), (3, 5, 18), (6, 6, 6)]
    by_ten = population(run, ByLetter(), per_window=10, sample=4)
    assert [w.ideas for w in by_ten] == [10, 10, 10, 10, 2]
    assert by_ten[0].figures["vendi"] is not None and by_ten[-1].figures["vendi"] is None, (
        "two ideas have none at n = 4"
    )


def test_ideas_without_an_outcome_and_lost_ideas_are_not_counted(tmp_path):
    ideas = step_of("aaaaaaaaaa", "abcdefghij")
    ideas[0], ideas[1] = (*ideas[0][:2], None), (*ideas[1][:2], record("l", "lost"))
    written(tmp_path, [ideas]).close()
    (window,) = population(read_run(tmp_path), ByLetter())
    assert window.ideas == 8 and window.figures["success"] == 1.0


def test_the_newest_checkpoint_gives_the_token_entropy(two_steps):
    for step, values in ((1, [1.5]), (2, [1.5, 1.1])):
        (two_steps.folder / f"checkpoint-{step}").mkdir()
        logs = [{"step": at + 1, "entropy": value} for at, value in enumerate(values)] + [{"step": 2, "loss": 0.1}]
        (two_steps.folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"log_history": logs}))
    assert [w.figures["token_entropy"] for w in population(two_steps, ByLetter())] == [1.5, 1.1]
    (two_steps.folder / "checkpoint-2" / "trainer_state.json").write_text("{")
    assert [w.figures["token_entropy"] for w in population(two_steps, ByLetter())] == [None, None]


def test_an_empty_run_has_no_windows(tmp_path):
    assert population(Run(tmp_path, {}, [], {}), ByLetter()) == []


def test_a_watch_of_a_growing_run_has_the_figures_of_its_records(tmp_path):
    steps = [step_of("aaaabbcd", "abcdeefG"), step_of("aaabbbcd", "hhijklmn"), step_of("aaaaaabc", "abhijopq")]
    journal = Journal(tmp_path / "buffer.sqlite")
    buffer = SimpleNamespace(journal=SimpleNamespace(path=tmp_path / "buffer.sqlite"), history=[], lineage=[])
    live, watch = LiveRows(buffer), DiversityWatch(ByLetter(), EnvironmentContext("min"))
    for step, ideas in enumerate(steps):
        journal.propose(step, [text(experiment, thought) for experiment, thought, _ in ideas])
        for position, (_, _, outcome) in enumerate(ideas):
            buffer.history.append(outcome)
            journal.settle(step, position, outcome)
        watch.add(live.new_rows(step))
        assert watch.close_window().step == step
    journal.close()
    assert watch.windows == population(read_run(tmp_path), ByLetter())
    metrics = watch.metrics(watch.windows[-1])
    assert metrics["diversity/vendi"] == watch.windows[-1].figures["vendi"] and metrics["collapse/alarm"] == 0
    assert "diversity/token_entropy" not in metrics


def test_a_resumed_search_has_a_window_for_every_earlier_epoch(tmp_path, toy):
    steps = [step_of("aaaabbcd", "abcdeefG"), step_of("aaabbbcd", "hhijklmn"), step_of("aaaaaabc", "abhijopq")]
    written(tmp_path, steps).close()
    buffer = SimpleNamespace(
        journal=SimpleNamespace(path=tmp_path / "buffer.sqlite"),
        history=[outcome for ideas in steps for _, _, outcome in ideas],
        lineage=[],
        executor=SimpleNamespace(environment=load_environment(str(toy))),
        config=SimpleNamespace(preset="cpu"),
    )
    PopulationWatch(buffer, ByLetter(), tmp_path, print)(2)
    windows = [json.loads(line) for line in (tmp_path / "search.jsonl").read_text().splitlines()]
    expected = population(read_run(tmp_path), ByLetter())
    assert [window["step"] for window in windows] == [0, 1, 2]
    assert [window["figures"]["vendi"] for window in windows] == [window.figures["vendi"] for window in expected]


def test_late_rows_are_returned_once_after_their_outcome(tmp_path):
    journal = Journal(tmp_path / "buffer.sqlite")
    buffer = SimpleNamespace(
        journal=SimpleNamespace(path=tmp_path / "buffer.sqlite"), history=[record("a"), record("b")], lineage=[]
    )
    live = LiveRows(buffer)
    for step in range(3):
        journal.propose(step, [text("a"), text("b")])
        journal.settle(step, 0, record("a", value=1.0))
    assert [row.step for row in live.new_rows(1)] == [0, 1] and live.count_running(1) == 2
    journal.settle(0, 1, record("b", value=2.0))
    assert [(row.step, row.tree) for row in live.new_rows(2)] == [(0, "tree-b"), (2, "tree-a")]
    journal.settle(1, 1, record("l", "lost"))
    journal.settle(2, 1, record("b", value=2.0))
    assert [(row.step, row.tree) for row in live.new_rows(2)] == [(2, "tree-b")]
    assert live.new_rows(9) == [] and live.last_step() == 2
    assert LiveRows(buffer, since=time.time() + 60).new_rows(2) == [], "earlier proposals belong to another run"
    journal.close()


def test_a_watch_returns_an_alarm_only_where_it_begins(tmp_path):
    watch, new_alarms = DiversityWatch(ByLetter()), []
    for step in range(5):
        written(tmp_path / str(step), [step_of("aaaaaaaa", "abcdefgh")]).close()
        watch.add(rows_of_run(read_run(tmp_path / str(step))))
        assert watch.close_window() is not None
        new_alarms.append([(alarm.kind, alarm.level) for alarm in watch.new_alarms])
    assert new_alarms == [[], [], [("largest_cluster", "stop")], [], []]
    assert watch.metrics(watch.windows[-1])["collapse/alarm"] == 2


def test_ideas_with_a_zero_vector_are_left_out_of_diversity(tmp_path):
    class Silent(ByLetter):
        def embed(self, texts):
            return np.zeros((len(texts), 3), np.float32)

    written(tmp_path, [step_of("aaaaaaaa", "abcdefgh")]).close()
    (window,) = population(read_run(tmp_path), Silent())
    assert window.figures["vendi"] is None and window.figures["distinct_trees"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["nanogpt", "grpo_math"])
def test_every_catalogue_edit_is_found_in_its_own_patch(name):
    from ideator_rl.environments.catalogue.catalogue import environment_catalogue
    from ideator_rl.environments.catalogue.edits import Choice

    environment = load_environment(name)
    catalogue, base, context = (
        environment_catalogue(environment),
        environment.baseline("cpu"),
        environment_context(environment, "cpu"),
    )
    for key, edit in catalogue.edits.items():
        values = edit.parameter.sample if edit.parameter else (None,)
        tree = next(tree for value in values if (tree := catalogue.apply(base, [Choice(key, value)])) != base)
        assert context.edits_in(diff(base, tree)) == {key}
    assert (
        context.bound == environment.preset("cpu").suspicious.beyond if environment.preset("cpu").suspicious else True
    )
    assert context.edits_in("") == set()


def test_coverage_and_the_bound_come_from_the_environment(tmp_path):
    patches = [PATCH.replace("rate", name).format(4) for name in ("learning_rate", "batch", "batch", "unheard_of")]
    ideas = [(f"{'abcd'[at]} x", "", record("abcd"[at], value=3.0, patch=patch)) for at, patch in enumerate(patches)]
    ideas[0] = (*ideas[0][:2], record("a", value=1.0, patch=patches[0]))
    written(tmp_path, [ideas * 2]).close()
    (tmp_path / "recipe.yaml").write_text("env: nanogpt\npreset: cpu\n")
    run = read_run(tmp_path)
    edits = len(context_of_run(run).edits)
    (window,) = population(run, ByLetter(), sample=8)
    assert window.figures["coverage"] == window.figures["coverage_so_far"] == pytest.approx(2 / edits)
    assert window.figures["beyond_bound"] == 2
    (tmp_path / "recipe.yaml").write_text("env: no_such_place\n")
    assert population(read_run(tmp_path), ByLetter())[0].figures["coverage"] is None


def test_the_size_of_a_patch_is_counted_by_its_hunks():
    patch = "--- a/x\n+++ b/x\n@@ -1,3 +1,2 @@\n--- taken\n+++ put\n kept\n-gone\n\\ No newline at end of file\n--- /dev/null\n+++ b/y\n@@ -0,0 +1 @@\n+new\n"
    assert patch_size(patch) == (4, 2) and patch_size("") == (0, 0)


def test_the_patch_of_a_codebase_is_analysed_once_a_run(tmp_path):
    read = []

    class Counting(EnvironmentContext):
        def cell(self, patch):
            read.append(patch)
            return super().cell(patch)

    written(tmp_path, [step_of("aaaabbcd", "abcdeefG"), step_of("aaaabbcd", "abcdeefh")]).close()
    watch = DiversityWatch(ByLetter(), Counting())
    assert len(watch.update(rows_of_run(read_run(tmp_path)))) == 2
    assert len(read) == len(set(read)) == len(set("abcdefGh"))


def test_ten_thousand_ideas_take_seconds_without_embedding(tmp_path):
    steps, size, rng = 80, 125, np.random.default_rng(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    rollouts, experiments = [], {}
    for at in range(steps * size):
        id = f"e{at % 4000}"
        idea = text(
            f"{letters[at % 26]} number {at % 5000} of a kind of change that takes some twenty words to say here"
        )
        experiments[id] = record(id, value=1.0 + at, patch=PATCH.format(at))
        thought = "word " * int(rng.integers(0, 50))
        rollouts.append(Rollout(at // size, at % size, "", thought, idea, id, "succeeded", 1.0, 1.0 + at))
    since = time.process_time()
    windows = population(Run(tmp_path, {"env": "nanogpt"}, rollouts, experiments), ByLetter())
    assert len(windows) == steps and all(window.figures["vendi"] for window in windows)
    assert time.process_time() - since < 20  # the goal is 10 s on an idle core: benchmarks/diversity.py
