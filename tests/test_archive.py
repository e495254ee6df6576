import random
import sqlite3
import time

import pytest
from archives import archive, patch, record
from conftest import run
from scripted import idea

from ideator_rl.archive.archive import Archive, archive_of, elites_for_imitation
from ideator_rl.archive.baseline import Baseline, baseline_of
from ideator_rl.environments.environment import load_environment
from ideator_rl.environments.noise import store_noise
from ideator_rl.experiment import Experiment
from ideator_rl.patch import diff
from ideator_rl.patch.cells import MAX_LENGTH, cell_of
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.storage.journal import Journal

BASE = {
    "train.py": "import os\n\nrate = 0.1\nwidth = 4\n\n\nclass Net:\n    def forward(self, x):\n        h = x * 2\n        return h\n\n\n"
    "def train(\n    steps,\n):\n    a = 1\n    b = 2\n    c = 3\n    d = 4\n    step(a)\n",
    "conf.yaml": "rate: 1\nmodel:\n  width: 2\n",
}


def edited(old, new, path="train.py"):
    assert BASE[path].count(old) == 1
    return diff(BASE, {**BASE, path: BASE[path].replace(old, new)})


@pytest.mark.parametrize(
    ("old", "new", "path", "cell"),
    [
        ("rate = 0.1", "rate = 0.3", "train.py", "train.py:rate"),
        ("rate = 0.1\nwidth = 4", "rate = 9\nwidth = 9", "train.py", "train.py:rate,width"),
        ("h = x * 2", "h = x * 3", "train.py", "train.py:Net.forward.h"),
        ("return h", "return -h", "train.py", "train.py:Net.forward"),
        ("step(a)", "step(a)\n    clip(a)", "train.py", "train.py:train"),
        ("    d = 4", "    d = 4\n    e, f = 1, 2", "train.py", "train.py:train.e,train.f"),
        ("import os", "import os\n\n\nclass Lion:\n    beta = 1\n\n    def step(self):\n        self.m = 0", "train.py", "train.py:Lion"),
        ("import os", "import os  # nothing", "train.py", "train.py"),
        ("  width: 2", "  width: 3", "conf.yaml", "conf.yaml:width"),
    ],
)  # fmt: skip
def test_a_cell_names_the_files_functions_and_settings_that_a_patch_touches(old, new, path, cell):
    assert cell_of(edited(old, new, path), BASE) == cell


def test_a_cell_does_not_depend_on_the_values_and_is_empty_without_a_patch():
    assert cell_of(edited("rate = 0.1", "rate = 7"), BASE) == cell_of(edited("rate = 0.1", "rate = 8"), BASE)
    assert cell_of("", BASE) == "" and cell_of("no diff at all", BASE) == ""
    assert cell_of(patch("x")) == "train.py:x"


def test_a_cell_distinguishes_new_and_deleted_files_and_lines_that_look_like_headers():
    new = {**{k: v for k, v in BASE.items() if k != "conf.yaml"}, "lib/new.py": "-- x\n++ y\n"}
    assert cell_of(diff(BASE, new), BASE) == "conf.yaml:(deleted);lib/new.py:(new)"
    before = {"a.sql": "-- one\nx = 1\n"}
    assert cell_of(diff(before, {"a.sql": "++ two\nx = 2\n"}), before) == "a.sql:x"


def test_a_long_cell_is_shortened_and_stays_unique():
    names = [f"setting_number_{i}" for i in range(30)]
    base = {"a.py": "".join(f"{name} = 0\n" for name in names)}
    all_changed = cell_of(diff(base, {"a.py": base["a.py"].replace("= 0", "= 1")}), base)
    one_fewer = cell_of(diff(base, {"a.py": base["a.py"].replace("= 0", "= 1", 29)}), base)
    assert len(all_changed) <= MAX_LENGTH and len(one_fewer) <= MAX_LENGTH and all_changed != one_fewer


def test_quality_is_the_mean_of_the_successful_replicates_and_failures_have_none():
    past = archive(
        record("a", 0.2), record("a", 0.4, id="a2"), record("a", None, id="a3"), record("a", 0.2), record("b")
    )
    assert past.quality("a") == past.quality("a2") == pytest.approx(0.3)
    assert past.metric(record("a")) == pytest.approx((5 + 2.5) / 2)
    assert past.quality("b") is None and past.knows("b") and past.quality("unknown") is None
    assert len(past) == 4


def test_a_lost_experiment_is_not_in_the_archive_until_it_has_an_outcome():
    records = [record("a", status="lost")]
    past = archive(*records)
    assert not past.knows("a") and len(past) == 0
    past.update([*records, record("b", 0.1), record("a", 0.2)])
    assert past.knows("a") and not past.knows("a", before=1) and past.knows("b", before=1)


def test_baselines_and_patches_written_by_hand_are_no_elites():
    past = archive(record("a", 0.5, implementer="baseline"), record("b", 0.4, idea=""), record("c", 0.3))
    assert [e.tree for e in past.elites()] == ["c"] and past.knows("b") and not past.knows("a")


def test_elites_are_the_best_codebase_of_each_cell_best_first():
    past = archive(
        record("a", 0.2, cell_name="lr"), record("b", 0.5, cell_name="lr"), record("c", 0.4, cell_name="lr"),
        record("d", 0.3, cell_name="wd"), record("e", 0.1), record("f"),
    )  # fmt: skip
    assert [e.tree for e in past.elites()] == ["b", "d", "e"] and [e.tree for e in past.elites(2)] == ["b", "d"]
    assert past.kth_best(1) == 0.5 and past.kth_best(3) == 0.1 and past.kth_best(4) is None
    assert past.span() == (0.1, 0.5) and archive().span() is None
    assert past.cell("a") == "train.py:lr"


def test_a_lucky_elite_loses_its_rank_when_a_second_run_is_worse():
    records = [record("a", 0.9), record("b", 0.6)]
    past = archive(*records)
    assert past.elites(1)[0].tree == "a"
    past.update([*records, record("a", 0.1, id="a2")])
    assert past.elites(1)[0].tree == "b"


def test_incremental_updates_give_the_same_archive_as_one_update():
    rng = random.Random(1)
    records = [record(f"t{rng.randrange(40)}", rng.choice([None, 0.1, 0.2, 0.3]), id=f"i{i % 90}", cell_name=f"p{i % 7}") for i in range(120)]  # fmt: skip
    descents = [(f"i{i}", (f"i{i // 2}",), i) for i in range(1, 90)]
    at_once, piecewise = archive(*records, lineage=descents), Archive("min")
    for end in range(0, 121, 10):
        piecewise.update(records[:end], descents[: max(0, end - 30)])
    assert at_once.elites() == piecewise.elites() and len(at_once) == len(piecewise)
    for i in range(90):
        assert at_once.lineage(f"i{i}") == piecewise.lineage(f"i{i}") and at_once.expansions(
            f"i{i}"
        ) == piecewise.expansions(f"i{i}")


def test_the_lineage_has_children_ancestors_and_prompts():
    #      a   b        one prompt showed a and b: c, d; one showed c: e, and a copy of c
    #       \ /
    #       c d
    #       |
    #       e
    records = [record("a", 0.1), record("b", 0.2), record("c", 0.3), record("d"), record("e", 0.25)]
    lineage = [
        ("id-c", ("id-a", "id-b"), 1),
        ("id-d", ("id-a", "id-b"), 1),
        ("id-e", ("id-c",), 2),
        ("id-c", ("id-c",), 2),
    ]
    past = archive(*records, lineage=lineage)
    assert [e.tree for e in past.children("id-a")] == ["c", "d"] and past.best_child("id-a").tree == "c"
    assert past.best_child("id-d") is None and [e.tree for e in past.parents("c")] == ["a", "b"]
    assert (
        past.lineage("a") == {"a", "c", "d", "e"}
        and past.lineage("c") == {"a", "b", "c", "e"}
        and past.descendants("c") == {"e"}
    )
    assert [past.expansions(tree) for tree in "abcde"] == [2, 2, 1, 0, 0] and past.prompts == 2


def test_a_cycle_in_the_lineage_terminates():
    past = archive(record("a", 0.1), record("b", 0.2), lineage=[("id-b", ("id-a",), 0), ("id-a", ("id-b",), 1)])
    assert past.lineage("a") == past.lineage("b") == {"a", "b"} and past.expansions("a") == 2


def test_imitation_takes_the_best_of_each_cell_above_the_baseline_and_its_noise():
    past = archive(
        record("a", 0.5, cell_name="p"),
        record("b", 0.6, cell_name="p"),
        record("c", 0.42),
        record("d", 0.45),
        record("e"),
    )
    assert [e.tree for e in elites_for_imitation(past)] == ["b"]  # above the elites' mean, 0.49
    past.baseline = Baseline(quality=0.4, metric=2.5, spread=0.03)
    assert [e.tree for e in elites_for_imitation(past)] == ["b", "d"]
    assert [e.tree for e in elites_for_imitation(past, limit=1)] == ["b"]
    assert elites_for_imitation(archive()) == []


def test_ten_thousand_records_take_seconds():
    rng = random.Random(0)
    records = [record(f"t{i}", rng.random() if i % 3 else None, cell_name=f"p{i % 500}") for i in range(10_000)]
    lineage = [(f"id-t{i}", (f"id-t{rng.randrange(i)}", f"id-t{rng.randrange(i)}"), i // 64) for i in range(1, 10_000)]
    started = time.process_time()
    past = Archive("min")
    for end in range(0, 10_001, 100):  # a run of a hundred batches
        past.update(records[:end], lineage[: max(0, end - 1)])
        past.elites(20), past.kth_best(20), past.span()
    spent = time.process_time() - started
    assert len(past.elites()) == 500 and spent < 15, spent


def test_the_journal_keeps_the_order_of_outcomes_and_the_record_count_of_each_proposal(tmp_path):
    journal = Journal(tmp_path / "buffer.sqlite")
    for id, status, reward in [("a", "succeeded", float("nan")), ("b", "lost", None), ("c", "failed", 0.0),
                               ("a", "succeeded", 2.0), ("b", "succeeded", 3.0), ("c", "lost", None)]:  # fmt: skip
        metric = {"name": "m", "value": 1.0, "direction": "min"} if status == "succeeded" else None
        journal.record(Experiment(id, status, 'say "status": "lost"', "toy", "cpu", metric=metric, reward=reward))
    assert [(e.id, e.reward) for e in journal.experiments()] == [("a", 2.0), ("c", 0.0), ("b", 3.0)]
    assert journal.mark(7, ["x"], 3) == 3 and journal.mark(7, ["x"], 5) == 3 and journal.mark(8, ["x"], 5) == 5
    assert journal.mark(7, ["x", "y"], 6) == 6 and journal.mark(7, ["xy"], 7) == 7
    journal.descend("b", ("a", "c"), 7)
    journal.descend("b", ("a", "c"), 7)
    journal.close()
    assert Journal(tmp_path / "buffer.sqlite").lineage() == [("b", ("a", "c"), 7)]


def test_the_record_count_of_a_step_in_an_older_journal_goes_to_the_batch_that_is_resumed(tmp_path):
    path = tmp_path / "buffer.sqlite"
    db = sqlite3.connect(path)
    db.execute("create table marks (step integer primary key, known integer)")
    db.execute("insert into marks values (7, 3)")
    db.commit()
    db.close()
    for _ in range(2):
        journal = Journal(path)
        assert journal.mark(7, ["resumed"], 5) == 3 and journal.mark(7, ["sampled anew"], 5) == 5
        journal.close()


def test_a_resumed_run_has_the_same_archive_and_finds_the_completion_of_an_idea(toy_buffer, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    completions = [idea("set x = 1.0", "First thought."), idea("set x = 1.0", "Second thought."), "nothing"]
    run(toy_buffer.baseline())
    records = run(toy_buffer.score(completions, step=0))
    toy_buffer.descend_all([(records[0].id, ("p",), 0)])
    before = archive_of(toy_buffer)
    assert archive_of(toy_buffer) is before and len(before) == 2
    toy_buffer.close()
    again = RewardBuffer(toy_buffer.config)
    after = archive_of(again)
    assert len(after) == 2 and after.elites() and [e.id for e in after.elites()] == [e.id for e in before.elites()]
    assert after.knows(records[0]) and len(again.baselines) == 1 and after.expansions("p") == 1
    assert (
        again.journal.completion_of(records[0].id).startswith("First thought.")
        and again.journal.completion_of("unknown") is None
    )
    assert len(archive_of(again, count=1)) == 1 and len(archive_of(again, count=2)) == 2
    # As the step began: an idea of this step may have led to a known codebase, which adds a descent and no record.
    again.descend_all([(records[0].id, ("p",), 1)])
    assert archive_of(again).expansions("p") == 2 and archive_of(again, count=2, step=1).expansions("p") == 1
    assert (
        after.baseline.quality == pytest.approx(1 / again.baselines[0].metric["value"])
        and after.baseline.spread is None
    )
    again.close()


def test_the_spread_of_a_run_comes_from_env_check_as_rewards(toy_buffer, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert baseline_of(toy_buffer) is None
    store_noise(load_environment(toy_buffer.config.environment), "cpu", [2.0, 4.0])
    past = baseline_of(toy_buffer)
    assert past.quality == pytest.approx((0.5 + 0.25) / 2) and past.metric == 3.0
    assert past.spread == pytest.approx(0.25 / 2**0.5)
