"""Runs side by side: groups of seeds, equal budgets, paired tests; by hand-worked cases."""

from statistics import stdev

import pytest
from recorded import baseline, journal, record
from report_page import Page, lab, page_of, words_of
from scipy.stats import t as student
from scipy.stats import wilcoxon

from ideator_rl.report.compare import compare
from ideator_rl.report.comparison_figures import comparison_figures
from ideator_rl.report.groups import different_keys, groups, seed_band
from ideator_rl.report.overview import overview
from ideator_rl.report.progress import best_so_far, by_count
from ideator_rl.report.run_view import run_view
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_reader import read_run


def test_runs_that_differ_only_in_seed_and_slots_are_one_group_with_a_band(tmp_path):
    runs = [lab(tmp_path / f"evo-seed{seed}", values, f"strategy: evolution\nseed: {seed}\nslots: {seed + 1}\n")
            for seed, values in enumerate([[3.0, 2.0, 1.0], [4.0, 4.0]])]  # fmt: skip
    best_of_n = lab(tmp_path / "bon", [3.5], "strategy: best_of_n\nseed: 0\n")
    evolution, single = groups([*runs, best_of_n])
    assert (
        evolution.name == "evo (2 seeds)"
        and evolution.members == runs
        and single.name == "bon"
        and evolution.seeds == [0, 1]
    )
    assert different_keys([evolution, single]) == {"strategy": ["evolution", "best_of_n"]}
    band = seed_band(evolution.members, lambda run: best_so_far(run, by_count(run)))
    assert (band.x, band.mean, band.low, band.high) == ([1, 2], [3.5, 3.0], [3.0, 2.0], [4.0, 4.0])


def test_group_names_are_unique_for_any_folder_names(tmp_path):
    def names(*runs):
        sections = [
            lab(tmp_path / folder, [3.0], f"strategy: {strategy}\nseed: {seed}\n")
            for seed, (folder, strategy) in enumerate(runs)
        ]
        return [group.name for group in groups(sections)]

    assert names(("run-0", "a"), ("run-1", "a"), ("b", "b")) == ["run (2 seeds)", "b"]
    assert names(("s0-a", "a"), ("s0-b", "b"), ("s1-a", "a"), ("s1-b", "b")) == ["a (2 seeds)", "b (2 seeds)"]
    assert names(("0", "a"), ("1", "a"), ("2", "b"), ("3", "b")) == ["0 and 1 more", "2 and 1 more"]


def test_more_groups_than_colours_get_dashed_lines(tmp_path):
    runs = [
        lab(tmp_path / f"{chr(97 + place)}", [4.0, 3.0 + place / 10], f"strategy: {place}\n") for place in range(12)
    ]
    figure = comparison_figures(compare(runs)[0])[0]
    assert len({*figure.legend}) == 13 and [page_text for _, page_text in figure.legend[7:9]] == ["h", "i, dashed"]
    assert "stroke-dasharray: 10" in figure.drawing


def test_a_run_that_has_only_begun_does_not_reduce_the_equal_budget(tmp_path):
    runs = [lab(tmp_path / name, [3.0, 2.0], f"strategy: {name}\n") for name in "ab"]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "recipe.yaml").write_text("strategy: c\n")
    begun = run_view("c", read_run(journal(tmp_path / "c", [[None]], [baseline(0, 4.0)])))
    [comparison] = compare([*runs, begun])
    assert comparison.experiments == 2 and [standing.view.name for standing in comparison.standings] == ["a", "b"]


def side_by_side(tmp_path, seeds, gap=0.5):
    """Two ways of searching under equal seeds: the first is better by `gap` plus a little more with each seed."""
    runs = []
    for seed in range(seeds):
        for way, shift in (("first", 0.0), ("second", gap + seed / 10)):
            values = [3.5 + shift, 3.0 + shift, 1.0][: 3 if way == "second" else 2]
            runs.append(lab(tmp_path / f"{way}-{seed}", values, f"strategy: {way}\nseed: {seed}\n"))
    return compare(runs)


def test_runs_are_compared_at_the_number_of_experiments_of_the_smallest(tmp_path):
    [comparison] = side_by_side(tmp_path, 3)
    assert comparison.experiments == 2, "the 1.0 that only the second reached, with a third experiment, does not count"
    best = {standing.view.name: standing.best for standing in comparison.standings}
    assert best == {"first-0": 3.0, "second-0": 3.5, "first-1": 3.0, "second-1": 3.6, "first-2": 3.0, "second-2": 3.7}
    [test] = comparison.tests
    assert test.pairs == 3 and test.p is None
    assert (
        "first (3 seeds) is 0.6000 better than second (3 seeds) on average, and better in 3 of 3 pairs" in test.verdict
    )
    sure = {standing.question: standing for _, standing in overview(comparison, [])}["How sure is the order?"]
    assert sure.more.endswith(
        "3 pairs are too few to test: even if all agreed, the sign test could not go below p = 0.25. It takes 6 to come below 0.05."
    )


def test_the_note_on_too_few_pairs_appears_once_for_many_groups(tmp_path):
    runs = [lab(tmp_path / f"{way}-{seed}", [3.0 + place], f"strategy: {way}\nseed: {seed}\n")
            for place, way in enumerate("abcd") for seed in range(2)]  # fmt: skip
    [comparison] = compare(runs)
    sure = {answer.question: answer for _, answer in overview(comparison, [])}["How sure is the order?"]
    assert len(comparison.tests) == 6 and sure.more.count("too few to test") == 1


def test_the_best_in_all_of_a_run_is_the_best_mean_and_an_empty_text_is_no_patch_by_hand(tmp_path):
    for name in ("one", "two"):
        lab(tmp_path / name, [3.0, 3.5])
        book = Journal(tmp_path / name / "buffer.sqlite")
        book.record(record("again", value=3.2, tree=f"tree-{name}-0", replicate=100))
        book.propose(1, [""])
        book.settle(1, 0, record("empty", "malformed", idea="", tree=""))
        book.close()
    page = Page(page_of(tmp_path / "one", tmp_path / "two"))
    assert page.text.count("3.1000 ± 0.14 (2 runs)") >= 2
    assert [standing["title"] for standing in page.experiments() if standing["status"] == "malformed"] == [
        "nothing was written"
    ] * 2


def test_equal_runs_and_a_best_equal_to_the_baseline_are_reported_as_equal(tmp_path):
    runs = [
        lab(tmp_path / name, [value, None, None], f"strategy: {name}\n")
        for name, value in zip("abc", (4.0, 4.0, 5.0), strict=True)
    ]
    answers = {answer.question: answer for _, answer in overview(compare(runs)[0], [])}
    leader = answers["Which was best at equal budget, 3 experiments each?"]
    assert (
        leader.short == "None alone: a and b are level at a best height of 4.0000." and leader.more == "Then c 5.0000."
    )
    assert answers["What was the best idea of all?"].short == "height 4.0000 in a, the same as its baseline."
    assert answers["What was the best idea of all?"].more == "“idea a-0”."
    assert answers["Which failures dominate?"].short == "a: 67% of 3 ideas failed; most common: failed (2)."


def test_enough_pairs_of_seeds_are_tested(tmp_path):
    [comparison] = side_by_side(tmp_path, 6)
    [test] = comparison.tests
    gaps = [0.5 + seed / 10 for seed in range(6)]
    assert test.pairs == 6 and test.p == pytest.approx(wilcoxon(gaps).pvalue) == pytest.approx(2 * 0.5**6)
    assert "Wilcoxon’s signed-rank test p = 0.031, sign test p = 0.031" in test.verdict
    within = student.ppf(0.975, 5) * stdev(gaps) / 6**0.5
    assert f"95 % interval of the mean gap {0.75 - within:.4f} to {0.75 + within:.4f} (Student’s t" in test.verdict


def test_one_small_p_among_many_tests_is_no_difference(tmp_path):
    runs = []
    for seed in range(6):
        for way, value in (("a", 3.0), ("b", 3.5 + seed / 10), ("c", 3.0 + (-1) ** seed * seed / 7)):
            runs.append(lab(tmp_path / f"{way}-{seed}", [value], f"strategy: {way}\nseed: {seed}\n"))
    [comparison], [pair] = compare(runs), compare([answer for answer in runs if not answer.name.startswith("c")])
    [alone] = pair.tests
    assert min(answer.p for answer in comparison.tests) == alone.p < 0.05
    [many] = [answer for _, answer in overview(comparison, []) if answer.question == "How sure is the order?"]
    [two] = [answer for _, answer in overview(pair, []) if answer.question == "How sure is the order?"]
    assert two.short == "A paired test finds a difference." and two.tone == "good"
    assert many.short == "A paired test finds no difference." and many.tone == "warn"
    assert many.more.endswith("With 3 tests the smallest p counts 3 times (Bonferroni).")


def test_the_page_shows_the_best_group_and_the_certainty_of_the_order(tmp_path):
    side_by_side(tmp_path, 2)
    page_text = words_of(page_of(*sorted(tmp_path.glob("*-?")), out=tmp_path / "page.html"))
    assert "first (2 seeds), with a best height of 3.0000 (mean; 3.0000 to 3.0000 over 2 seeds)." in page_text
    assert "How sure is the order?Not sure: too few pairs of seeds for a test." in page_text
    assert "strategyfirstsecond" in page_text.replace(" ", "")


def test_seeds_without_a_success_are_counted_next_to_the_mean(tmp_path):
    runs = [
        lab(tmp_path / f"{way}-{seed}", [value], f"strategy: {way}\nseed: {seed}\n")
        for way, values in (("a", (2.0, 2.5, None)), ("b", (3.0, None, None)))
        for seed, value in enumerate(values)
    ]
    leader = overview(compare(runs)[0], [])[0][1]
    assert "2.2500 (mean; 2.0000 to 2.5000 over 2 seeds, 1 of 3 seeds without a success)" in leader.short
    assert "b (3 seeds) 3.0000 (2 of 3 seeds without a success)" in leader.more


def test_a_run_without_a_success_counts_with_its_baseline_in_a_pair(tmp_path):
    runs = [
        lab(tmp_path / f"{way}-{seed}", [value], f"strategy: {way}\nseed: {seed}\n")
        for way, values in (("a", (3.0, 3.5, 2.0)), ("b", (3.5, 3.0, None)))
        for seed, value in enumerate(values)
    ]
    [test] = compare(runs)[0].tests
    gaps = (0.5, -0.5, 4.0 - 2.0)
    assert (
        test.pairs == 3
        and f"is {sum(gaps) / 3:.4f} better" in test.verdict
        and "better in 2 of 3 pairs" in test.verdict
    )
    assert "In 1 of 3 a run without a success counts with its baseline." in test.verdict


def test_runs_without_a_common_seed_are_not_paired(tmp_path):
    runs = [lab(tmp_path / name, [3.0], f"strategy: {name}\nseed: {seed}\n") for seed, name in enumerate(("a", "b"))]
    [comparison] = compare(runs)
    assert comparison.tests[0].pairs == 0 and "no seed in common" in comparison.tests[0].verdict
