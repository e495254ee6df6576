"""What the report works out of a run: answers, curves, cost, lineage; by hand-worked cases."""

import re
from dataclasses import replace

import pytest
from recorded import baseline, journal, record, text
from report_page import Page, lab, page_of, words_of
from scipy.stats import norm

from ideator_rl.patch.size import patch_size
from ideator_rl.report.answers import Answer, answers, expected_largest, welch
from ideator_rl.report.changes import changes, describe_patch
from ideator_rl.report.collapse import diversity
from ideator_rl.report.compare import compare
from ideator_rl.report.failures import failure_kinds
from ideator_rl.report.lineage import MAX_EDGES, lineage_figure
from ideator_rl.report.overview import overview
from ideator_rl.report.progress import GPU, MINUTES, USD, best_so_far, by_cost, by_count, moving_mean, units
from ideator_rl.report.run_view import run_view
from ideator_rl.report.thought_figures import thought_figures
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_reader import read_run

ONE = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n x\n-lr = 1\n+lr = 3\n"


def answered(folder):
    """The answers about a run by question."""
    view = run_view("run", read_run(folder))
    return {answer.question: answer for answer in answers(view, Answer("Did the population collapse?", ""))}


def test_the_answers_show_the_best_its_change_and_the_gain_expected_from_luck(tmp_path):
    records = [
        record("a", value=3.5),
        record("b", value=3.0, patch=ONE, idea="[Experiment] More. [Code Changes] lr [End]"),
    ]
    run_answers = answered(journal(tmp_path, [[], records], [baseline(0, 3.9), baseline(1, 4.1)]))
    best = run_answers["What was the best idea?"]
    assert best.short == "height 3.0000, 1.0000 better than the baseline’s 4.0000." and best.tone == "good"
    assert best.more == "“More.”, proposed in step 2." and best.row.key == "b"
    assert run_answers["What did it change?"].short == "a.py: “lr = 1” became “lr = 3”."
    sure = run_answers["How sure are we?"]
    lucky = 0.2 / 2**0.5 * norm.ppf((2 - 0.375) / 2.25)
    assert sure.short == "Not sure: it ran once." and "best of 2 successes" in sure.more
    assert f"expected to look {lucky:.4f} better, from the noise of 2 baseline runs" in sure.more
    assert "looks 1.0000 better, more than that" in sure.more


def test_the_expected_largest_of_many_draws_is_close_to_its_exact_value():
    assert expected_largest(1) == 0 and expected_largest(2) == pytest.approx(0.5642, abs=0.03)
    assert expected_largest(10) == pytest.approx(1.5388, abs=0.01) and expected_largest(100) == pytest.approx(
        2.5076, abs=0.01
    )


def test_a_rerun_idea_is_judged_by_the_runs_it_was_not_chosen_for(tmp_path):
    again = [record(f"b{i}", value=value, tree="tree-b", replicate=100 + i) for i, value in enumerate((3.4, 3.2))]
    base = [record(f"base{i}", value=value, implementer="baseline", idea="", replicate=100 + i)
            for i, value in enumerate((4.2, 4.1))]  # fmt: skip
    run_answers = answered(journal(tmp_path, [[record("b", value=3.0)]], [baseline(0, 4.0), *again, *base]))
    sure = run_answers["How sure are we?"]
    assert "run again 2 times: 3.3000 ± 0.14, after 3.0000" in sure.more
    assert "a gain of 0.8500 ± 0.05 (standard error) on 2 runs of the baseline under the same seeds" in sure.more
    assert sure.short == "Fairly: the gain held when it was run again." and sure.tone == "good"


def test_failed_reruns_and_the_number_of_rerun_ideas_are_mentioned(tmp_path):
    records = [record("b", value=3.0), record("c", value=3.1)]
    again = [record("b0", value=3.2, tree="tree-b", replicate=100), record("c0", value=3.9, tree="tree-c", replicate=100),
             record("b1", "failed", tree="tree-b", replicate=101)]  # fmt: skip
    sure = answered(journal(tmp_path, [records], [baseline(0, 4.0), *again]))["How sure are we?"]
    assert "1 more of its re-runs failed, and are not in the mean." in sure.more
    assert "It leads 2 ideas that were run again: some luck is left in that." in sure.more


def test_replicates_that_chose_the_best_do_not_make_it_certain(tmp_path):
    records = [record(f"b{i}", value=value, tree="tree-b", replicate=i) for i, value in enumerate((3.0, 3.02, 3.01))]
    sure = answered(journal(tmp_path, [records], [baseline(i, 4.0 + i / 100) for i in range(3)]))["How sure are we?"]
    assert (
        sure.short == "Not sure: it was chosen by the mean of its 3 runs, and none came after." and sure.tone == "warn"
    )


def test_luck_is_computed_for_means_when_ideas_ran_several_times(tmp_path):
    records = [record(f"{name}{i}", value=value + i / 100, tree=f"tree-{name}", replicate=i)
            for name, value in (("a", 3.0), ("b", 3.5)) for i in range(4)]  # fmt: skip
    sure = answered(journal(tmp_path, [records], [baseline(0, 3.9), baseline(1, 4.1)]))["How sure are we?"]
    lucky = 0.2 / 2**0.5 / 4**0.5 * expected_largest(2)
    assert "best of 2 successes" in sure.more and f"expected to look {lucky:.4f} better" in sure.more


def test_texts_without_ideas_are_no_proof_that_nothing_collapsed(tmp_path):
    bad = [[record(f"{step}-{i}", "malformed", tree="") for i in range(8)] for step in range(6)]
    (tmp_path / "bad").mkdir()
    book = Journal(tmp_path / "bad" / "buffer.sqlite")
    for step, records in enumerate(bad):
        book.propose(step, ["no idea"] * 8)
        for i, answer in enumerate(records):
            book.settle(step, i, answer)
    book.close()
    answer = diversity(run_view("bad", read_run(tmp_path / "bad")), "hashed").answer
    assert (
        answer.short == "Too early to say: the alarms need 5 windows of 4 ideas, and there are 0." and not answer.tone
    )
    assert "Alarms of other kinds, listed below: 1." in answer.more, "no idea succeeded"


def test_too_few_windows_for_a_trend_are_mentioned(tmp_path):
    texts = ("warm the rate", "deeper network", "other tokens", "longer context", "clip the norm", "tie embeddings")
    steps = [[record(f"{step}-{i}", value=3.0 + i) for i in range(6)] for step in range(6)]
    book = Journal(tmp_path / "buffer.sqlite")
    for step, records in enumerate(steps):
        book.propose(step, [f"[Experiment] {text} {i} [Code Changes] {i} [End]" for i, text in enumerate(texts)] * 2)
        for i, experiment in enumerate([*records, *records]):
            book.settle(step, i, experiment)
    book.close()
    answer = diversity(run_view("run", read_run(tmp_path)), "hashed").answer
    assert answer.short == "No alarm of a collapse." and "judged from 10 windows on; here are 6." in answer.more


def test_runs_with_alarms_that_are_not_listed_are_counted(tmp_path):
    runs = [lab(tmp_path / name, [3.0], f"strategy: {name}\n") for name in "abcdef"]
    overview_answers = overview(compare(runs)[0], [(run, Answer("", "Yes.", tone="bad")) for run in runs])
    [collapse] = [answer for _, answer in overview_answers if answer.question == "Did a population collapse?"]
    assert (
        collapse.short == "There are alarms in 6 of 6 runs."
        and "And 2 more; each run has its own below." in collapse.more
    )


@pytest.mark.parametrize(("value", "short"), [(3.9, "A little: it was run again."), (4.2, "Not sure: when it was")])
def test_one_rerun_is_little_evidence_or_leaves_no_gain(tmp_path, value, short):
    again = record("b1", value=value, tree="tree-b", replicate=100)
    run_answers = answered(journal(tmp_path, [[record("b", value=3.0)]], [baseline(0, 4.0), again]))
    assert run_answers["How sure are we?"].short.startswith(short) and run_answers["How sure are we?"].tone == "warn"


def test_a_gain_whose_interval_includes_zero_is_not_sure(tmp_path):
    again = [record(f"b{i}", value=value, tree="tree-b", replicate=100 + i) for i, value in enumerate((4.4, 3.4))]
    run_answers = answered(journal(tmp_path, [[record("b", value=3.0)]], [baseline(0, 3.9), baseline(1, 4.1), *again]))
    sure = run_answers["How sure are we?"]
    assert "a gain of 0.1000 ± 0.51 (standard error) on 2 runs of the baseline; its 95 %" in sure.more
    assert sure.short == "Not sure: when run again, the 95 % interval of the gain includes zero."


def test_two_different_reruns_are_not_enough_evidence(tmp_path):
    again = [record(f"b{i}", value=value, tree="tree-b", replicate=100 + i) for i, value in enumerate((3.4, 3.7))]
    base = [record(f"base{i}", value=value, implementer="baseline", idea="", replicate=100 + i)
            for i, value in enumerate((4.2, 4.1))]  # fmt: skip
    run_answers = answered(journal(tmp_path, [[record("b", value=3.0)]], [baseline(0, 4.0), *again, *base]))
    sure = run_answers["How sure are we?"]
    assert "a gain of 0.6000 ± 0.2 (standard error)" in sure.more
    assert f"(Student’s t) is ± {12.7062 * 0.2:.2g}." in sure.more, "of two values, with one degree of freedom"
    assert sure.short.startswith("Not sure") and sure.tone == "warn"


def test_runs_of_unequal_number_and_spread_have_welch_s_degrees_of_freedom():
    error, free = welch([1.0, 3.0], [2.0, 2.0, 5.0])
    assert error == pytest.approx(2**0.5) and free == pytest.approx(4 / (1 / 1 + 1 / 2))


def test_cost_and_failures_are_those_of_the_records(tmp_path):
    boom = {"kind": "crash", "message": "Traceback\nout of memory"}
    records = [record("a", value=3.0, seconds={"run": 30.0, "score": 10.0, "confirm": 20.0}), record("b", "failed", error=boom),
            record("c", "failed", error=boom), record("d", "timed_out"), record("e", "lost")]  # fmt: skip
    (tmp_path / "ledger.json").write_text('{"usd": 1.5, "tokens": 20000.0, "gpu_hours": 0.25}')
    run_answers = answered(journal(tmp_path, [records]))
    assert run_answers["What did it cost?"].short == "1.50 USD and 0.25 GPU-hours and 60 s of experiments."
    assert "5 ideas proposed, 4 distinct experiments run. 15 s an experiment." in run_answers["What did it cost?"].more
    failures = run_answers["Which failures dominate?"]
    assert failures.short.startswith(
        "Failed: the experiment crashed or left no result: 2 of 3 failures; 75% of 4 ideas"
    )
    assert failures.more.startswith("2 times: “out of memory”. Then: 1 timed_out. 1 more were lost by our own fault")
    [crash, late, lost] = failure_kinds(run_view("run", read_run(tmp_path)))
    assert (crash.status, crash.kind, crash.count, crash.share) == ("failed", "crash", 2, 0.4)
    assert crash.message == "out of memory" and late.count == lost.count == 1


def test_a_refused_patch_is_named_by_its_reason_and_not_by_the_code_that_it_quotes(tmp_path):
    message = (
        "a.py, SEARCH block at line 2: these lines are not in the file:\n    | x = 1\nThe closest lines are:\n  14| y"
    )
    refused = record("a", "unpatchable", error={"kind": "", "message": message})
    run = journal(tmp_path, [[refused]])
    reason = "a.py, SEARCH block at line 2: these lines are not in the file: | x = 1"
    assert answered(run)["Which failures dominate?"].more.startswith(f"For example: “{reason}”.")
    assert [kind.message for kind in failure_kinds(run_view("run", read_run(tmp_path)))] == [reason]


def test_results_from_a_shared_bucket_are_mentioned_and_counted_once(tmp_path):
    runs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(f"bucket: file:///shared\nstrategy: {name}\n")
        own = record(name, value=3.0, seconds={"run": 20.0})
        base = replace(baseline(0, 4.0), seconds={"run": 9.0, "score": 1.0}, replayed=name == "two")
        runs.append(run_view(name, read_run(journal(tmp_path / name, [[own]], [base]))))
    alone = [next(answer for answer in answers(run, Answer("", "")) if "cost" in answer.question) for run in runs]
    assert [answer.short for answer in alone] == ["30 s of experiments."] * 2
    assert (
        "already" not in alone[0].more and "Results that were in the bucket already: 1, 10 s of that" in alone[1].more
    )
    together = {answer.question: answer for _, answer in overview(compare(runs)[0], [])}["What did they cost together?"]
    assert "2 ideas proposed, 2 distinct experiments run." in together.more
    assert together.short == "50 s of experiments." and "counted once: 1 results" in together.more


def test_curves_step_at_each_better_idea_and_the_mean_moves(tmp_path):
    run = lab(tmp_path / "run", [4.0, None, 3.0, 3.5, 2.0]).run
    best = best_so_far(run, by_count(run))
    assert (best.x, best.y, best.end) == ([1, 3, 5], [4.0, 3.0, 2.0], 5)
    assert [best.at(x) for x in (0.5, 1, 2.9, 4, 5, 6)] == [None, 4.0, 4.0, 3.0, 2.0, None]
    assert moving_mean(run, by_count(run)).y == [4.0, 3.5, 3.5, 3.125]


def test_the_cost_of_an_idea_that_never_ran_is_added_before_the_next_experiment(tmp_path):
    records = [record("a", value=3.0, cost={"usd": 1.0}), record("x", "unpatchable", tree="", cost={"usd": 2.0}),
            record("b", value=2.0, cost={"usd": 4.0}, seconds={"run": 90.0})]  # fmt: skip
    run = read_run(journal(tmp_path, [records]))
    assert units([run]) == [USD] and by_cost(run, USD) == [1.0, 7.0] and by_cost(run, MINUTES) == [0.0, 1.5]


def test_gpu_hours_of_baselines_and_reruns_do_not_count_for_the_search(tmp_path):
    extra = [
        replace(baseline(0, 4.0), seconds={"run": 30.0}),
        record("again", tree="tree-a", replicate=100, value=3.1, seconds={"run": 30.0}),
    ]
    records = [record("a", value=3.0, seconds={"run": 30.0}), record("b", value=2.0, seconds={"run": 30.0})]
    (tmp_path / "ledger.json").write_text('{"gpu_hours": 2.0}')
    run = read_run(journal(tmp_path, [records], extra))
    assert units([run]) == [GPU] and by_cost(run, GPU) == pytest.approx([0.5, 1.0])


def test_no_secret_of_a_recipe_is_on_a_page_at_any_depth(tmp_path):
    for way in ("one", "two"):
        lab(
            tmp_path / way,
            [3.0],
            f"strategy: {way}\nseed: 0\nhub_token: hidden-{way}-a\nmine: {{deep: [{{api_key: hidden-{way}-b}}]}}\n"
            f"endpoint: https://me:hidden-{way}-c@host/v1\n",
        )
    html = page_of(tmp_path / "one", tmp_path / "two", out=tmp_path / "page.html")
    assert not re.findall("hidden-[a-z-]*", html) and "host/v1" in html


def test_lineage_on_the_page_is_that_of_the_journal_and_a_copy_is_no_child(tmp_path):
    records = [
        [record("a", value=3.0), record("b", value=2.9)],
        [record("c", value=2.0), record("twin", value=3.0, tree="tree-a")],
    ]
    journal(tmp_path, records)
    book = Journal(tmp_path / "buffer.sqlite")
    book.descend("c", ("a", "b"), 1)
    book.descend("c", ("a",), 1)
    book.descend("twin", ("a",), 1)
    book.descend("c", ("elsewhere",), 1)
    book.close()
    html = page_of(tmp_path)
    rows = Page(html).experiments()
    parents = {row["key"]: [rows[parent]["key"] for parent in row["parents"]] for row in rows}
    assert parents == {"a": [], "b": [], "c": ["a", "b"], "twin": []}
    assert "Ancestors of the best: 2," in words_of(html)


def test_a_lineage_of_a_hundred_parents_an_idea_is_a_few_paths(tmp_path):
    ideas = [record(f"e{i:03}", value=3.0 - i / 200) for i in range(140)]
    journal(tmp_path, [[idea] for idea in ideas])
    book = Journal(tmp_path / "buffer.sqlite")
    edges = 0
    for i, idea in enumerate(ideas[1:], 1):
        parents = tuple(parent.id for parent in ideas[max(0, i - 100) : i])
        book.descend(idea.id, parents, i)
        edges += len(parents)
    book.close()
    figure = lineage_figure(run_view("run", read_run(tmp_path)))
    assert figure.drawing.count("<path") < 30
    # One line to each point: pale edges, those of the best, and dots.
    assert 2 * MAX_EDGES < len(re.findall(r"\bL ", figure.drawing)) < 2 * MAX_EDGES + 300
    assert f"Of {edges:,} lines, those nearest to the best ideas are drawn." in figure.remark
    assert "Ancestors of the best: 139," in figure.remark


def test_an_idea_that_is_proposed_again_does_not_come_from_its_children(tmp_path):
    first, child = record("first", value=3.0), record("child", value=2.0)
    journal(tmp_path, [[first], [child], [first]])
    book = Journal(tmp_path / "buffer.sqlite")
    book.descend("child", ("first",), 1)
    book.descend("first", ("child",), 2)
    book.close()
    html = page_of(tmp_path)
    rows = Page(html).experiments()
    assert {row["key"]: [rows[parent]["key"] for parent in row["parents"]] for row in rows} == {
        "first": [],
        "child": ["first"],
    }
    assert "Ancestors of the best: 1," in words_of(html)


def test_the_words_of_a_text_without_an_idea_do_not_count_as_thought(tmp_path):
    book = Journal(tmp_path / "buffer.sqlite")
    book.propose(0, ["why " * (9 if i % 2 else 2) + "[Experiment] x [Code Changes] y [End]" for i in range(12)])
    book.propose(1, ["words and no idea " * 99 for _ in range(12)])
    for i in range(12):
        book.settle(0, i, record(f"{i}", value=1.0) if i % 2 else record(f"{i}", "failed"))
        book.settle(1, i, record(f"m{i}", "malformed", tree=""))
    book.close()
    success, length = thought_figures(run_view("run", read_run(tmp_path)))
    assert "Rank correlation +1.00 (Spearman" in success.remark and "12 ideas" in success.remark
    assert "From 5.5 words in the first step to 5.5 in the last." in length.drawing


def test_thoughts_are_counted_in_words_before_the_idea(tmp_path):
    records = [record(f"{i}", "succeeded" if i % 2 else "failed", value=1.0 if i % 2 else None) for i in range(24)]
    book = Journal(tmp_path / "buffer.sqlite")
    book.propose(0, ["why " * (9 if i % 2 else 2) + "[Experiment] x [Code Changes] y [End]" for i in range(24)])
    for i, answer in enumerate(records):
        book.settle(0, i, answer)
    book.close()
    success, length = thought_figures(run_view("run", read_run(tmp_path)))
    assert "Rank correlation +1.00 (Spearman" in success.remark and "24 ideas" in success.remark
    assert "9 words: 100%" in success.drawing and "From 5.5 words" in length.drawing


@pytest.mark.parametrize("numbers", ["-1,N +1", "-1 +1,N", "-N +1", "-1 +N"])
def test_a_hunk_header_with_a_number_that_python_refuses_does_not_stop_a_report(numbers, tmp_path):
    # The text of an idea that could not be applied is its record's patch.
    patch = f"--- a/a.py\n+++ b/a.py\n@@ {numbers.replace('N', '9' * 5000)} @@\n-a\n+b"
    records = [record("a", "failed", patch=patch, idea=text(patch)), record("b", value=2.0, patch=patch)]
    assert len(page_of(journal(tmp_path, [records]))) > 1000
    assert patch_size(patch) == (0, 1)


def test_a_patch_is_described_in_one_sentence():
    two = ONE + "diff --git a/b.py b/b.py\n--- /dev/null\n+++ b/b.py\n@@ -0,0 +1,3 @@\n+one\n+--- two\n++++ three\n"
    assert [(file.path, len(file.added), len(file.removed)) for file in changes(two)] == [
        ("a.py", 1, 1),
        ("b.py", 3, 0),
    ]
    assert (
        describe_patch(two) == "4 lines added and 1 line taken away in a.py, b.py, among them “lr = 1” became “lr = 3”"
    )
    many = (
        "--- a/a.py\n+++ b/a.py\n@@ -1,5 +1,7 @@\n-lr = 1  # step\n+lr = 3  # step\n-    x = f(a)\n-    x = g(x)\n"
        "+    x = h(a)\n-wd = 0\n+wd = 1\n+wide = 2\n+def rotate(x):\n+    return x\n"
    )
    assert describe_patch(many) == (
        "6 lines added and 4 lines taken away in a.py, among them “lr = 1 # step” became “lr = 3 # step”; "
        "“wd = 0” became “wd = 1”"
    )
    added = "--- a/a.py\n+++ b/a.py\n@@ -1,1 +1,2 @@\n x\n+decay = 0.1\n"
    assert (
        describe_patch(added) == "a.py: added “decay = 0.1”"
        and describe_patch("") == ""
        and describe_patch("no patch") == ""
    )
