"""Near-duplicates, which are counted, rejected or penalised, and imported records of other runs."""

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
from ideator_rl.executor.record_store import Spec, load_records, save_record
from ideator_rl.experiment import FINAL_REPLICATE
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.search.imported_ideas import import_note, imported_records
from ideator_rl.search.near_duplicates import NearDuplicates
from ideator_rl.search.search_summary import read_search_summary
from ideator_rl.storage.bucket import open_bucket
from ideator_rl.storage.index import read_results

BY_FIRST = f"{__name__}.by_first"


class ByFirst:
    """Scripted: two descriptions are similar if their first edits have the same knob."""

    name = "by first edit"

    def embed(self, texts):
        out = np.zeros((len(texts), 20), np.float32)
        for row, description in enumerate(texts):
            if description.startswith("k"):
                out[row, int(description[1:3])] = 1
        return out


by_first = ByFirst()


def test_an_idea_in_other_words_is_a_duplicate_and_a_repeated_text_is_not():
    detector = NearDuplicates(by_first, 0.9)
    texts = [text({1: 0}), text({2: 0}), text({1: 0}), text({1: 3}), "no idea"]
    assert detector.add(texts, 0, 0) == {3: ((0, 0), 1.0)}
    assert detector.add([text({2: 1}), text({5: 1}), "no idea"], 1, 4) == {0: ((0, 1), 1.0)}


def test_a_repeated_text_gets_the_answer_of_its_first_time():
    detector = NearDuplicates(by_first, 0.9)
    assert detector.add([text({1: 0}), text({1: 3}), text({1: 3}), text({1: 0})], 0, 0) == dict.fromkeys(
        (1, 2), ((0, 0), 1.0)
    )


def test_a_look_for_duplicates_remembers_none_of_the_texts():
    detector = NearDuplicates(by_first, 0.9)
    detector.add([text({1: 0})], 0, 0)
    assert detector.duplicates_among([text({1: 1}), text({2: 0}), text({2: 1}), "no idea"]) == {0, 2}
    assert detector.add([text({2: 1}), text({1: 1})], 1, 0) == {1: ((0, 0), 1.0)}
    assert NearDuplicates(None, 0.9).duplicates_among([]) == set(), "an embedder need not take an empty list"


def test_hundreds_of_ideas_are_remembered_in_order():
    detector = NearDuplicates(by_first, 0.9)
    assert detector.add([text({at % 10: at // 10 % 4, 15: at // 40 % 4, 16: at // 160}) for at in range(600)], 0, 0)
    assert detector.add([text({19: 0})], 1, 0) == {} and detector.add([text({19: 1})], 1, 1) == {0: ((1, 0), 1.0)}


TEXTS = [text({1: 0}), text({2: 0}), text({1: 1}), text({1: 2}), text({3: 0}), text({3: 1}), text({4: 0}), text({5: 0})]


def test_near_duplicates_are_counted_and_run_by_default(tmp_path):
    go(configured(tmp_path, max_ideas=8, near_duplicates="count", embedder=BY_FIRST), Lines(TEXTS))
    summary = read_search_summary(tmp_path)
    assert (summary.near, summary.rejected, summary.charged) == (3, 0, 8)
    assert "3 near-duplicates by meaning, 0 of them not run" in summary.lines()[-1]


def test_rejected_near_duplicates_are_recorded_and_not_run(tmp_path):
    go(configured(tmp_path, max_ideas=8, near_duplicates="reject", embedder=BY_FIRST), Lines(TEXTS))
    summary = read_search_summary(tmp_path)
    assert (summary.near, summary.rejected, summary.charged) == (3, 3, 5) and len(specs(tmp_path)) == 5
    assert [row[2] for row in rows(tmp_path)].count("rejected") == 3 and [row[2] for row in rows(tmp_path)][
        2
    ] == "rejected"
    with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
        records = [json.loads(raw) for (raw,) in db.execute("select record_json from experiments")]
    errors = [record["error"] for record in records if record["status"] == "rejected"]
    assert {error["kind"] for error in errors} == {"near_duplicate"}
    assert "the same as idea 1 of epoch 1 (similarity 1.00)" in errors[0]["message"]
    assert all(record["reward"] == 0.0 for record in records if record["status"] == "rejected")


def test_a_rejected_idea_is_rejected_again_when_it_is_repeated(tmp_path):
    texts = [text({1: 0}), text({1: 1}), text({1: 1}), text({2: 0})]
    go(configured(tmp_path, max_ideas=4, near_duplicates="reject", embedder=BY_FIRST), Lines(texts))
    assert read_search_summary(tmp_path).rejected == 2 and len(specs(tmp_path)) == 2


def test_a_resumed_search_remembers_earlier_ideas(tmp_path):
    config = configured(tmp_path, max_ideas=4, near_duplicates="reject", embedder=BY_FIRST)
    go(config, Lines(TEXTS[:4]))
    go(replace(config, max_ideas=6), Lines([text({2: 3}), text({9: 0})]))
    assert read_search_summary(tmp_path).rejected == 3 and len(specs(tmp_path)) == 3


def test_a_penalised_idea_ranks_lower_and_keeps_its_quality():
    past = archive(record("a", 0.5), record("b", 0.48), record("c", 0.3))
    past.penalise({"a"}, 0.5)  # the span is 0.2: 0.5 − 0.1 = 0.4
    assert [idea.tree for idea in past.elites()] == [idea.tree for idea in past.successes()] == ["b", "a", "c"]
    assert past.quality("a") == 0.5
    past.penalise({"a"}, 2.0)
    assert [idea.tree for idea in past.elites()] == ["b", "c", "a"]


def test_penalised_trees_are_the_same_in_every_session(tmp_path):
    penalised = []

    class Recorder:
        def asks(self, history, count, rng):
            from ideator_rl.search.ideator import FREE, Ask

            penalised.append(set(history.archive._penalised))
            return [Ask(FREE, count)]

    config = configured(tmp_path, max_ideas=8, batch=8, near_duplicates="penalise", embedder=BY_FIRST)
    go(config, Lines(TEXTS), strategy=Recorder())
    go(replace(config, max_ideas=9), Lines([text({7: 1})]), strategy=Recorder())
    buffer = RewardBuffer(config.buffer())
    expected = {r.tree for r in buffer.history if any(edit in r.idea for edit in ("k01v1", "k01v2", "k03v1"))}
    buffer.close()
    assert penalised[-1] == expected and len(expected) == 3


def test_imported_experiments_are_not_run_again_and_are_charged(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    go(configured(source, max_ideas=5), Lines(TEXTS))
    config = configured(target, max_ideas=8, archive_from=[str(source)])
    buffer = RewardBuffer(config.buffer())
    imported = imported_records(buffer, config.archive_from, target)
    assert len(imported) == 5 and {r.idea for r in imported} == {text.split("</think> ")[1] for text in TEXTS[:5]}
    assert all(r.reward is not None for r in imported)
    buffer.close()
    started = specs(target)
    assert len(started) == 5, "its codebases are copied with their results"
    go(config, Lines(TEXTS))
    summary = read_search_summary(target)
    assert (summary.charged, summary.elsewhere) == (8, 5)
    good = sum(r.status == "succeeded" for r in imported)
    assert (
        summary.elsewhere_succeeded == good
        and f"5 of them executed by other runs ({good} successes)" in summary.lines()[1]
    )


def test_a_bucket_is_a_source_and_a_resumed_search_keeps_its_first_import(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    config = configured(source, max_ideas=3)
    go(config, Lines(TEXTS))
    seeded = configured(target, max_ideas=3, archive_from=[f"file://{source}/bucket"])
    buffer = RewardBuffer(seeded.buffer())
    first = imported_records(buffer, seeded.archive_from, target)
    assert [Spec.load(buffer.executor.bucket, record.id).trusted for record in first] == [False] * 3
    go(replace(config, max_ideas=6), Lines(TEXTS[3:]))
    assert imported_records(buffer, seeded.archive_from, target) == first and len(first) == 3
    buffer.close()


def test_results_of_a_leaderboard_are_not_imported(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    go(configured(source, max_ideas=3), Lines(TEXTS))
    bucket = open_bucket(f"file://{source}/bucket")
    [best, *_] = (record for record in read_results(bucket, load_records) if not record.is_baseline)
    spec = Spec.load(bucket, best.id)
    # The same code on the hidden split, as `ideator-rl leaderboard` runs it.
    hidden = replace(best, id="hidden", replicate=FINAL_REPLICATE)
    replace(spec, id="hidden", replicate=FINAL_REPLICATE).save(bucket)
    save_record(bucket, hidden)
    buffer = RewardBuffer(configured(target).buffer())
    imported = imported_records(buffer, [f"file://{source}/bucket"], target)
    assert len(imported) == 3 and "hidden" not in {record.id for record in imported}
    buffer.close()


def test_imported_records_are_in_the_archive_before_the_first_question(tmp_path):
    source = tmp_path / "source"
    go(configured(source, max_ideas=5), Lines(TEXTS))
    config = configured(tmp_path / "other", max_ideas=4)
    buffer = RewardBuffer(config.buffer())
    buffer.imported = imported_records(buffer, [str(source)], tmp_path / "other")
    from ideator_rl.archive.archive import archive_of

    past = archive_of(buffer)
    buffer.close()
    assert len(past) == 5 and len(past.successes()) >= 1 and past.knows(buffer.imported[0])


@pytest.mark.parametrize("source", ["nowhere", "memory://empty"])
def test_an_empty_source_is_refused(tmp_path, source):
    buffer = RewardBuffer(configured(tmp_path, max_ideas=4).buffer())
    with pytest.raises(IdeatorError, match="neither a run nor a bucket|holds no ideas"):
        imported_records(buffer, [source], tmp_path)
    buffer.close()


def test_a_source_of_another_preset_is_refused_with_its_contents(tmp_path):
    source = tmp_path / "source"
    go(configured(source, max_ideas=3, preset="t1"), Lines(TEXTS))
    buffer = RewardBuffer(configured(tmp_path / "other", max_ideas=4).buffer())
    with pytest.raises(IdeatorError, match=r"holds no ideas of landscape/t0 .*3 of landscape/t1"):
        imported_records(buffer, [str(source)], tmp_path / "other")
    buffer.close()


def test_a_source_without_its_bucket_is_refused_with_the_reason(tmp_path):
    go(configured(tmp_path / "first", max_ideas=2), Lines(TEXTS))
    shutil.rmtree(tmp_path / "first" / "bucket")
    buffer = RewardBuffer(configured(tmp_path / "second").buffer())
    with pytest.raises(IdeatorError, match="names 3 experiments, but its bucket .* holds no result"):
        imported_records(buffer, [str(tmp_path / "first")], tmp_path / "second")
    buffer.close()


def test_imported_records_of_another_seed_are_announced_and_run_again(tmp_path):
    go(configured(tmp_path / "first", max_ideas=4), Lines(TEXTS))
    config = configured(tmp_path / "second", max_ideas=4, seed=1)
    buffer = RewardBuffer(config.buffer())
    imported = imported_records(buffer, [str(tmp_path / "first")], tmp_path / "second")
    buffer.close()
    assert import_note(imported, 0) == "4 records of other runs are known from the start"
    assert "; 4 of them have another seed" in import_note(imported, 1)
    go(config, Lines(TEXTS))
    assert read_search_summary(tmp_path / "second").elsewhere == 0


def test_a_run_that_is_no_search_has_no_summary(tmp_path):
    config = configured(tmp_path, max_ideas=3)
    RewardBuffer(config.buffer()).close()
    assert read_search_summary(tmp_path) is None
