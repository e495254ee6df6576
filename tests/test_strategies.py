import random
import re
from collections import Counter
from pathlib import Path

import pytest
from archives import archive, record

from ideator_rl.archive.random_past import RandomPast
from ideator_rl.errors import IdeatorError
from ideator_rl.registry import UnknownName
from ideator_rl.search.strategies import Puct, TopK, get_strategy, puct


def trees(prompts):
    return [tuple(parent.tree for parent in prompt) for prompt in prompts]


def test_top_k_draws_different_parents_from_the_best_elites_only():
    past = archive(*(record(f"t{i}", 1 + i / 100) for i in range(30)))
    drawn = trees(TopK(shown=2, elites=5).parents(past, 400, random.Random(0)))
    assert all(left != right for left, right in drawn)
    counts = Counter(tree for prompt in drawn for tree in prompt)
    assert set(counts) == {"t29", "t28", "t27", "t26", "t25"}
    assert all(120 < count < 200 for count in counts.values())  # 160 each on average, sd about 10


def test_parents_depend_on_the_random_numbers_only():
    past = archive(*(record(f"t{i}", 1 + i / 100) for i in range(30)))
    first, repeated, other_seed = (trees(TopK().parents(past, 8, random.Random(seed))) for seed in (1, 1, 2))
    assert first == repeated != other_seed


@pytest.mark.parametrize("strategy", [TopK(), Puct()])
def test_a_small_archive_gives_fewer_parents_or_none(strategy):
    assert trees(strategy.parents(archive(record("a")), 2, random.Random(0))) == [(), ()]
    assert trees(strategy.parents(archive(record("a", 0.1)), 2, random.Random(0))) == [("a",), ("a",)]


def test_the_puct_score_equals_values_computed_by_hand():
    assert puct(0.5, 0.3, 3, 8) == pytest.approx(0.5 + 0.3 * 3 / 4)
    assert puct(0.5, 0.3, 0, 0) == pytest.approx(0.8)


@pytest.mark.parametrize(("c", "chosen"), [(0, "a"), (1, "a"), (9, "a"), (10, "c"), (100, "c")])
def test_puct_chooses_the_best_score_computed_by_hand(c, chosen):
    # Qualities a 0.50, b 0.48, c 0.30: range 0.2, priors 3/6, 2/6, 1/6.  Three prompts showed a, two b, in vain: T = 5.
    #     c = 1    a 0.5 + 0.1 √6/4 = 0.561    b 0.48 + 0.0667 √6/3 = 0.534    c 0.3 + 0.0333 √6 = 0.382
    #     c = 9    a 1.051                     b 0.970                         c 1.035
    #     c = 10   a 1.112                     b 1.024                         c 1.116
    lineage = [("id-x", ("id-a",), 0), ("id-x", ("id-a",), 1), ("id-x", ("id-a",), 2)]
    lineage += [("id-x", ("id-b",), 3), ("id-x", ("id-b",), 4), ("id-y", ("id-b",), 4)]  # two of one prompt
    past = archive(record("a", 0.5), record("b", 0.48), record("c", 0.3), record("x"), record("y"), lineage=lineage)
    assert trees(Puct(shown=1, c=c).parents(past, 1, random.Random(0))) == [(chosen,)]


def test_puct_prefers_ideas_that_were_shown_less():
    lineage = [(f"id-x{step}", ("id-a",), step) for step in range(20)]  # twenty prompts with a, all in vain
    past = archive(record("a", 0.50), record("b", 0.49), record("z", 0.1), lineage=lineage)
    # range 0.4, T = 20: a 0.5 + 0.2·√21/21 = 0.544; b 0.49 + 0.1333·√21 = 1.101
    assert trees(Puct(shown=1).parents(past, 1, random.Random(0))) == [("b",)]
    assert trees(Puct(shown=1, c=0).parents(past, 1, random.Random(0))) == [("a",)]


def test_puct_values_an_idea_by_its_best_child():
    past = archive(
        record("a", 0.3), record("b", 0.2), record("c", 0.9, cell_name="b"), record("d", 0.1),
        lineage=[("id-c", ("id-d",), 0)],
    )  # fmt: skip  # c is the elite of b's cell and the child of d
    assert trees(Puct(shown=1, c=0).parents(past, 2, random.Random(0))) == [
        ("c",),
        ("a",),
    ]  # d is in c's lineage: blocked
    past = archive(record("a", 0.3), record("c", 0.9), record("d", 0.1), lineage=[("id-c", ("id-d",), 0)])
    assert trees(Puct(shown=1, c=0, elites=3).parents(past, 1, random.Random(0))) == [("c",)]  # a tie: the better idea


def test_puct_takes_a_lineage_once_a_batch_until_all_are_used():
    # a and its line are far better than the lonely y and z.
    past = archive(
        record("a", 0.9), record("b", 0.8), record("c", 0.7), record("y", 0.2), record("z", 0.1),
        lineage=[("id-b", ("id-a",), 0), ("id-c", ("id-b",), 1)],
    )  # fmt: skip
    chosen = trees(Puct(shown=1, c=0).parents(past, 6, random.Random(0)))
    assert [tree for (tree,) in chosen[:3]] == ["a", "y", "z"] and [tree for (tree,) in chosen[3:]] == ["a", "y", "z"]
    pairs = trees(Puct(shown=2, c=0).parents(past, 3, random.Random(0)))
    assert pairs[0] == ("a", "y") and all(len(set(pair)) == 2 for pair in pairs)


def test_siblings_are_not_in_one_lineage():
    past = archive(
        record("a", 0.1), record("b", 0.8), record("c", 0.7), lineage=[("id-b", ("id-a",), 0), ("id-c", ("id-a",), 0)]
    )
    assert trees(Puct(shown=2, c=0).parents(past, 1, random.Random(0))) == [("b", "c")]


def test_the_random_past_draws_codebases_uniformly_failures_included():
    past = archive(
        record("a", 0.9), record("a", 0.9, id="a2"), record("a", 0.9, id="a3"), record("b", 0.1), record("c"),
        record("", status="unpatchable", id="d"), record("", status="malformed", id="e"),
        record("f", status="lost"), record("", status="malformed", id="g", idea=""),
    )  # fmt: skip
    drawn = RandomPast(shown=2).parents(past, 400, random.Random(0))
    counts = Counter(parent.tree or parent.id for prompt in drawn for parent in prompt)
    assert set(counts) == {"a", "b", "c", "d"} and all(160 < count < 240 for count in counts.values())
    assert all(left.id != right.id for left, right in drawn)
    assert drawn == get_strategy("random", shown=2, elites=3).parents(past, 400, random.Random(0))
    assert RandomPast(9).parents(archive(), 2, random.Random(0)) == [(), ()]


class Worst:
    """A prompt strategy of a user."""

    def __init__(self, shown, elites):
        self.shown = shown

    def parents(self, archive, count, rng):
        return [tuple(archive.elites()[-self.shown :])] * count


def test_a_strategy_is_resolved_by_name_or_dotted_path_and_a_wrong_one_is_refused():
    assert get_strategy("top_k", shown=3, elites=7) == TopK(3, 7) and get_strategy("puct", shown=1) == Puct(1)
    own = get_strategy("test_strategies.Worst", shown=1, elites=3)
    assert trees(own.parents(archive(record("a", 0.1), record("b", 0.2)), 1, random.Random(0))) == [("a",)]
    with pytest.raises(UnknownName, match="None of the strategies is named 'topk'"):
        get_strategy("topk")
    with pytest.raises(IdeatorError, match="top_k cannot be created with size"):
        get_strategy("top_k", size=3)


def test_the_strategy_in_the_docs_shows_the_newest_elites(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / "docs" / "reference" / "archive.md").read_text()
    (tmp_path / "my_strategies.py").write_text(re.search(r"```python\n(.*?)```", text, re.S)[1])
    monkeypatch.syspath_prepend(tmp_path)
    past = archive(*(record(f"t{i}", 0.1 * (i + 1), finished=float(9 - i)) for i in range(4)))
    chosen = get_strategy("my_strategies.Newest", shown=2, elites=3).parents(past, 2, random.Random(0))
    assert [[parent.id for parent in parents] for parents in chosen] == [["id-t2", "id-t1"]] * 2
    assert get_strategy("my_strategies.Newest", shown=2, elites=3).parents(archive(), 1, random.Random(0)) == [()]
