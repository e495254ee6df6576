import random
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


def test_new_and_deleted_files_and_lines_that_look_like_headers_are_told_apart():
    new = {**{k: v for k, v in BASE.items() if k != "conf.yaml"}, "lib/new.py": "-- x\n++ y\n"}
    assert cell_of(diff(BASE, new), BASE) == "conf.yaml:(deleted);lib/new.py:(new)"
    before = {"a.sql": "-- one\nx = 1\n"}
    assert cell_of(diff(before, {"a.sql": "++ two\nx = 2\n"}), before) == "a.sql:x"


def test_a_long_cell_is_short_and_still_its_own():
    names = [f"setting_number_{i}" for i in range(30)]
    base = {"a.py": "".join(f"{name} = 0\n" for name in names)}
    one = cell_of(diff(base, {"a.py": base["a.py"].replace("= 0", "= 1")}), base)
    other = cell_of(diff(base, {"a.py": base["a.py"].replace("= 0", "= 1", 29)}), base)
    assert len(one) <= MAX_LENGTH and len(other) <= MAX_LENGTH and one != other


def test_quality_is_the_mean_of_the_successful_replicates_and_failures_have_none():
    known = archive(
        record("a", 0.2), record("a", 0.4, id="a2"), record("a", None, id="a3"), record("a", 0.2), record("b")
    )
    assert known.quality("a") == known.quality("a2") == pytest.approx(0.3)
    assert known.metric(record("a")) == pytest.approx((5 + 2.5) / 2)
    assert known.quality("b") is None and known.knows("b") and known.quality("nobody") is None
    assert len(known) == 4


def test_what_was_lost_is_not_known_until_it_is():
    records = [record("a", status="lost")]
    known = archive(*records)
    assert not known.knows("a") and len(known) == 0
    known.update([*records, record("b", 0.1), record("a", 0.2)])
    assert known.knows("a") and not known.knows("a", before=1) and known.knows("b", before=1)


def test_a_baseline_is_no_idea_and_neither_is_a_patch_written_by_hand():
    known = archive(record("a", 0.5, implementer="baseline"), record("b", 0.4, idea=""), record("c", 0.3))
    assert [e.tree for e in known.elites()] == ["c"] and known.knows("b") and not known.knows("a")


def test_elites_are_the_best_tree_of_each_cell_best_first():
    known = archive(
        record("a", 0.2, place="lr"), record("b", 0.5, place="lr"), record("c", 0.4, place="lr"),
        record("d", 0.3, place="wd"), record("e", 0.1), record("f"),
    )  # fmt: skip
    assert [e.tree for e in known.elites()] == ["b", "d", "e"] and [e.tree for e in known.elites(2)] == ["b", "d"]
    assert known.kth_best(1) == 0.5 and known.kth_best(3) == 0.1 and known.kth_best(4) is None
    assert known.span() == (0.1, 0.5) and archive().span() is None
    assert known.cell("a") == "train.py:lr"


def test_an_elite_that_was_luck_falls_when_it_is_run_again():
    records = [record("a", 0.9), record("b", 0.6)]
    known = archive(*records)
    assert known.elites(1)[0].tree == "a"
    known.update([*records, record("a", 0.1, id="a2")])
    assert known.elites(1)[0].tree == "b"


def test_updating_bit_by_bit_gives_the_same_as_all_at_once():
    rng = random.Random(1)
    records = [record(f"t{rng.randrange(40)}", rng.choice([None, 0.1, 0.2, 0.3]), id=f"i{i % 90}", place=f"p{i % 7}") for i in range(120)]  # fmt: skip
    descents = [(f"i{i}", (f"i{i // 2}",), i) for i in range(1, 90)]
    whole, piecewise = archive(*records, lineage=descents), Archive("min")
    for end in range(0, 121, 10):
        piecewise.update(records[:end], descents[: max(0, end - 30)])
    assert whole.elites() == piecewise.elites() and len(whole) == len(piecewise)
    for i in range(90):
        assert whole.lineage(f"i{i}") == piecewise.lineage(f"i{i}") and whole.expansions(
            f"i{i}"
        ) == piecewise.expansions(f"i{i}")


def test_lineage_knows_children_ancestors_and_prompts():
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
    known = archive(*records, lineage=lineage)
    assert [e.tree for e in known.children("id-a")] == ["c", "d"] and known.best_child("id-a").tree == "c"
    assert known.best_child("id-d") is None and [e.tree for e in known.parents("c")] == ["a", "b"]
    assert (
        known.lineage("a") == {"a", "c", "d", "e"}
        and known.lineage("c") == {"a", "b", "c", "e"}
        and known.descendants("c") == {"e"}
    )
    assert [known.expansions(tree) for tree in "abcde"] == [2, 2, 1, 0, 0] and known.prompts == 2


def test_a_circle_of_descent_ends():
    known = archive(record("a", 0.1), record("b", 0.2), lineage=[("id-b", ("id-a",), 0), ("id-a", ("id-b",), 1)])
    assert known.lineage("a") == known.lineage("b") == {"a", "b"} and known.expansions("a") == 2


def test_imitation_takes_the_best_of_each_cell_above_the_baseline_and_its_noise():
    known = archive(
        record("a", 0.5, place="p"), record("b", 0.6, place="p"), record("c", 0.42), record("d", 0.45), record("e")
    )
    assert [e.tree for e in elites_for_imitation(known)] == ["b"]  # above the elites' mean, 0.49
    known.baseline = Baseline(quality=0.4, metric=2.5, spread=0.03)
    assert [e.tree for e in elites_for_imitation(known)] == ["b", "d"]
    assert [e.tree for e in elites_for_imitation(known, limit=1)] == ["b"]
    assert elites_for_imitation(archive()) == []


def test_ten_thousand_records_are_quick():
    rng = random.Random(0)
    records = [record(f"t{i}", rng.random() if i % 3 else None, place=f"p{i % 500}") for i in range(10_000)]
    lineage = [(f"id-t{i}", (f"id-t{rng.randrange(i)}", f"id-t{rng.randrange(i)}"), i // 64) for i in range(1, 10_000)]
    started = time.process_time()
    known = Archive("min")
    for end in range(0, 10_001, 100):  # a run of a hundred batches
        known.update(records[:end], lineage[: max(0, end - 1)])
        known.elites(20), known.kth_best(20), known.span()
    spent = time.process_time() - started
    assert len(known.elites()) == 500 and spent < 15, spent


def test_the_journal_keeps_the_order_of_knowing_and_what_was_known_at_a_proposal(tmp_path):
    journal = Journal(tmp_path / "buffer.sqlite")
    for id, status, reward in [("a", "succeeded", float("nan")), ("b", "lost", None), ("c", "failed", 0.0),
                               ("a", "succeeded", 2.0), ("b", "succeeded", 3.0), ("c", "lost", None)]:  # fmt: skip
        journal.record(Experiment(id, status, 'say "status": "lost"', "toy", "cpu", reward=reward))
    assert [(e.id, e.reward) for e in journal.experiments()] == [("a", 2.0), ("c", 0.0), ("b", 3.0)]
    assert journal.mark(7, 3) == 3 and journal.mark(7, 5) == 3 and journal.mark(8, 5) == 5
    journal.descend("b", ("a", "c"), 7)
    journal.descend("b", ("a", "c"), 7)
    journal.close()
    assert Journal(tmp_path / "buffer.sqlite").lineage() == [("b", ("a", "c"), 7)]


def test_a_resumed_run_knows_the_same_and_finds_the_words_that_led_to_an_idea(toy_buffer, tmp_path, monkeypatch):
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
    assert (
        after.baseline.quality == pytest.approx(1 / again.baselines[0].metric["value"])
        and after.baseline.spread is None
    )
    again.close()


def test_the_noise_of_a_run_is_what_env_check_measured_on_the_scale_of_rewards(toy_buffer, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert baseline_of(toy_buffer) is None
    store_noise(load_environment(toy_buffer.config.environment), "cpu", [2.0, 4.0])
    known = baseline_of(toy_buffer)
    assert known.quality == pytest.approx((0.5 + 0.25) / 2) and known.metric == 3.0
    assert known.spread == pytest.approx(0.25 / 2**0.5)
