"""Ideas that say what another said, and what other runs found: counted, kept out, or known from the start."""

import json
import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from archives import archive, record
from search_runs import Lines, configured, go, text
from test_search_engine import rows, specs

from ideator_rl.errors import IdeatorError
from ideator_rl.executor.store import Spec
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.search.imported_ideas import import_note, imported_records
from ideator_rl.search.near_duplicates import NearDuplicates
from ideator_rl.search.search_summary import read_search_summary

BY_FIRST = f"{__name__}.by_first"


class ByFirst:
    """Scripted: two descriptions are alike as far as their first edits have the same knob."""

    name = "by first edit"

    def embed(self, texts):
        out = np.zeros((len(texts), 20), np.float32)
        for at, each in enumerate(texts):
            if each.startswith("k"):
                out[at, int(each[1:3])] = 1
        return out


by_first = ByFirst()


def test_what_says_the_same_in_other_words_is_found_and_what_is_the_same_text_is_not():
    near = NearDuplicates(by_first, 0.9)
    texts = [text({1: 0}), text({2: 0}), text({1: 0}), text({1: 3}), "no idea"]
    assert near.add(texts, 0, 0) == {3: ((0, 0), 1.0)}
    assert near.add([text({2: 1}), text({5: 1}), "no idea"], 1, 4) == {0: ((0, 1), 1.0)}


def test_a_text_once_more_is_what_it_was_the_first_time():
    near = NearDuplicates(by_first, 0.9)
    assert near.add([text({1: 0}), text({1: 3}), text({1: 3}), text({1: 0})], 0, 0) == dict.fromkeys(
        (1, 2), ((0, 0), 1.0)
    )


def test_memory_of_many_ideas_is_kept_in_order():
    near = NearDuplicates(by_first, 0.9)
    assert near.add([text({at % 10: at // 10 % 4, 15: at // 40 % 4, 16: at // 160}) for at in range(600)], 0, 0)
    assert near.add([text({19: 0})], 1, 0) == {} and near.add([text({19: 1})], 1, 1) == {0: ((1, 0), 1.0)}


TEXTS = [text({1: 0}), text({2: 0}), text({1: 1}), text({1: 2}), text({3: 0}), text({3: 1}), text({4: 0}), text({5: 0})]


def test_near_duplicates_are_counted_and_run_by_default(tmp_path):
    go(configured(tmp_path, max_ideas=8, near_duplicates="count", embedder=BY_FIRST), Lines(TEXTS))
    told = read_search_summary(tmp_path)
    assert (told.near, told.rejected, told.charged) == (3, 0, 8)
    assert "3 near-duplicates by meaning, 0 of them not run" in told.lines()[-1]


def test_rejected_near_duplicates_are_recorded_and_not_run(tmp_path):
    go(configured(tmp_path, max_ideas=8, near_duplicates="reject", embedder=BY_FIRST), Lines(TEXTS))
    told = read_search_summary(tmp_path)
    assert (told.near, told.rejected, told.charged) == (3, 3, 5) and len(specs(tmp_path)) == 5
    assert [row[2] for row in rows(tmp_path)].count("rejected") == 3 and [row[2] for row in rows(tmp_path)][
        2
    ] == "rejected"
    with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
        found = [json.loads(raw) for (raw,) in db.execute("select record_json from experiments")]
    errors = [each["error"] for each in found if each["status"] == "rejected"]
    assert {error["kind"] for error in errors} == {"near_duplicate"}
    assert "the same as idea 1 of epoch 1 (similarity 1.00)" in errors[0]["message"]
    assert all(each["reward"] == 0.0 for each in found if each["status"] == "rejected")


def test_what_was_rejected_is_not_run_when_it_is_repeated(tmp_path):
    texts = [text({1: 0}), text({1: 1}), text({1: 1}), text({2: 0})]
    go(configured(tmp_path, max_ideas=4, near_duplicates="reject", embedder=BY_FIRST), Lines(texts))
    assert read_search_summary(tmp_path).rejected == 2 and len(specs(tmp_path)) == 2


def test_a_resumed_search_still_knows_what_was_said(tmp_path):
    config = configured(tmp_path, max_ideas=4, near_duplicates="reject", embedder=BY_FIRST)
    go(config, Lines(TEXTS[:4]))
    go(replace(config, max_ideas=6), Lines([text({2: 3}), text({9: 0})]))
    assert read_search_summary(tmp_path).rejected == 3 and len(specs(tmp_path)) == 3


def test_a_penalised_idea_ranks_lower_and_keeps_its_quality():
    known = archive(record("a", 0.5), record("b", 0.48), record("c", 0.3))
    known.penalise({"a"}, 0.5)  # the span is 0.2: 0.5 − 0.1 = 0.4
    assert [each.tree for each in known.elites()] == [each.tree for each in known.successes()] == ["b", "a", "c"]
    assert known.quality("a") == 0.5
    known.penalise({"a"}, 2.0)
    assert [each.tree for each in known.elites()] == ["b", "c", "a"]


def test_penalised_trees_are_those_that_a_near_duplicate_reached_first_in_every_sitting(tmp_path):
    seen = []

    class Looking:
        def asks(self, history, count, rng):
            from ideator_rl.search.ideator import FREE, Ask

            seen.append(set(history.archive._penalised))
            return [Ask(FREE, count)]

    config = configured(tmp_path, max_ideas=8, batch=8, near_duplicates="penalise", embedder=BY_FIRST)
    go(config, Lines(TEXTS), strategy=Looking())
    go(replace(config, max_ideas=9), Lines([text({7: 1})]), strategy=Looking())
    buffer = RewardBuffer(config.buffer())
    expected = {r.tree for r in buffer.history if any(edit in r.idea for edit in ("k01v1", "k01v2", "k03v1"))}
    buffer.close()
    assert seen[-1] == expected and len(expected) == 3


def test_what_another_run_found_is_known_and_not_run_again_and_charged_all_the_same(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    go(configured(one, max_ideas=5), Lines(TEXTS))
    config = configured(other, max_ideas=8, archive_from=[str(one)])
    buffer = RewardBuffer(config.buffer())
    found = imported_records(buffer, config.archive_from, other)
    assert len(found) == 5 and {r.idea for r in found} == {each.split("</think> ")[1] for each in TEXTS[:5]}
    assert all(r.reward is not None for r in found)
    buffer.close()
    started = specs(other)
    assert len(started) == 5, "its codebases are copied with their results"
    go(config, Lines(TEXTS))
    told = read_search_summary(other)
    assert (told.charged, told.elsewhere) == (8, 5)
    good = sum(r.status == "succeeded" for r in found)
    assert (
        told.elsewhere_succeeded == good and f"5 of them executed by other runs ({good} successes)" in told.lines()[1]
    )


def test_a_bucket_seeds_too_and_a_resumed_search_knows_what_it_began_with(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    config = configured(one, max_ideas=3)
    go(config, Lines(TEXTS))
    seeded = configured(other, max_ideas=3, archive_from=[f"file://{one}/bucket"])
    buffer = RewardBuffer(seeded.buffer())
    first = imported_records(buffer, seeded.archive_from, other)
    assert [Spec.load(buffer.executor.bucket, record.id).trusted for record in first] == [False] * 3
    go(replace(config, max_ideas=6), Lines(TEXTS[3:]))
    assert imported_records(buffer, seeded.archive_from, other) == first and len(first) == 3
    buffer.close()


def test_what_is_known_from_the_start_is_in_the_archive_before_the_first_question(tmp_path):
    one = tmp_path / "one"
    go(configured(one, max_ideas=5), Lines(TEXTS))
    config = configured(tmp_path / "other", max_ideas=4)
    buffer = RewardBuffer(config.buffer())
    buffer.imported = imported_records(buffer, [str(one)], tmp_path / "other")
    from ideator_rl.archive.archive import archive_of

    known = archive_of(buffer)
    buffer.close()
    assert len(known) == 5 and len(known.successes()) >= 1 and known.knows(buffer.imported[0])


@pytest.mark.parametrize("source", ["nowhere", "memory://empty"])
def test_a_source_that_holds_nothing_is_refused(tmp_path, source):
    buffer = RewardBuffer(configured(tmp_path, max_ideas=4).buffer())
    with pytest.raises(IdeatorError, match="neither a run nor a bucket|holds no ideas"):
        imported_records(buffer, [source], tmp_path)
    buffer.close()


def test_a_source_of_another_preset_or_environment_is_refused_with_what_it_holds(tmp_path):
    one = tmp_path / "one"
    go(configured(one, max_ideas=3, preset="t1"), Lines(TEXTS))
    buffer = RewardBuffer(configured(tmp_path / "other", max_ideas=4).buffer())
    with pytest.raises(IdeatorError, match=r"holds no ideas of landscape/t0 .*3 of landscape/t1"):
        imported_records(buffer, [str(one)], tmp_path / "other")
    buffer.close()


def test_a_source_whose_bucket_is_gone_is_refused_with_the_reason(tmp_path):
    go(configured(tmp_path / "first", max_ideas=2), Lines(TEXTS))
    shutil.rmtree(tmp_path / "first" / "bucket")
    buffer = RewardBuffer(configured(tmp_path / "second").buffer())
    with pytest.raises(IdeatorError, match="names 3 experiments, but its bucket .* holds no result"):
        imported_records(buffer, [str(tmp_path / "first")], tmp_path / "second")
    buffer.close()


def test_what_is_known_under_another_seed_is_told_and_is_another_experiment(tmp_path):
    go(configured(tmp_path / "first", max_ideas=4), Lines(TEXTS))
    config = configured(tmp_path / "second", max_ideas=4, seed=1)
    buffer = RewardBuffer(config.buffer())
    known = imported_records(buffer, [str(tmp_path / "first")], tmp_path / "second")
    buffer.close()
    assert import_note(known, 0) == "4 records of other runs are known from the start"
    assert "; 4 of them have another seed" in import_note(known, 1)
    go(config, Lines(TEXTS))
    assert read_search_summary(tmp_path / "second").elsewhere == 0


def test_figures_of_a_run_that_is_no_search_are_none(tmp_path):
    config = configured(tmp_path, max_ideas=3)
    RewardBuffer(config.buffer()).close()
    assert read_search_summary(tmp_path) is None
