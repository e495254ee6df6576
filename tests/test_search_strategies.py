"""The questions of each strategy, against cases computed by hand."""

import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from archives import archive, record

from ideator_rl.archive.baseline import Baseline
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.registry import UnknownName
from ideator_rl.search.descriptors import component, descriptor, kind, size
from ideator_rl.search.ideator import EXPLOIT, EXPLORE, FREE, Ask, Subject
from ideator_rl.search.strategies import History, get_search_strategy
from ideator_rl.search.strategies.best_of_n import BestOfN
from ideator_rl.search.strategies.evolution import Evolution
from ideator_rl.search.strategies.map_elites import MapElites


def past_archive(*records, baseline=None, lineage=()):
    result = archive(*records, lineage=lineage)
    result.baseline = Baseline(baseline, 1 / baseline, None) if baseline else None
    return result


def kinds(asks):
    return [(ask.kind, ask.count) for ask in asks]


def shown(ask):
    return {record.tree for record in ask.shown}


def questions_of_epoch(strategy, history_of, size, batch):
    """The questions of an epoch that is asked for batch by batch, as in the engine."""
    asks, ideas, ideas_by_kind = [], [], Counter()
    while len(ideas) < size:
        history = history_of(ideas=list(ideas), ideas_by_kind=dict(ideas_by_kind))
        for ask in strategy.asks(history, min(batch, size - len(ideas)), random.Random(len(ideas))):
            asks.append(ask)
            ideas_by_kind[ask.kind] += ask.count
            ideas += [f"idea {len(ideas) + n}" for n in range(ask.count)]
    assert len(ideas) == size
    return asks


def test_best_of_n_asks_freely_in_batches():
    assert BestOfN().asks(History(past_archive(), batch=10), 24, random.Random(0)) == [
        Ask(FREE, 10),
        Ask(FREE, 10),
        Ask(FREE, 4),
    ]


def test_the_shares_of_exploitation_are_those_of_the_paper():
    shares = [Evolution().share(epoch) for epoch in range(10)]
    assert shares == pytest.approx([0, 0.5, 0.6, 0.6, 0.7, 0.7, 0.8, 0.8, 0.8, 0.8])


@pytest.mark.parametrize(
    ("epoch", "exploits"), [(0, 0), (1, 40), (2, 48), (3, 48), (4, 56), (5, 56), (6, 64), (7, 64), (8, 64), (9, 64)]
)
def test_an_epoch_of_80_ideas_is_split_as_in_the_paper(epoch, exploits):
    past = past_archive(
        *(record(f"t{i}", 1 + i / 1000) for i in range(150)), record("worse", 0.5), record("broken"), baseline=0.9
    )

    def history(**more):
        return History(past, epoch, 80, 10, **more)

    asks = questions_of_epoch(Evolution(), history, 80, 10)
    counts = Counter()
    for ask in asks:
        counts[ask.kind] += ask.count
        assert ask.count <= 10
    rest = FREE if epoch == 0 else EXPLORE
    assert counts == Counter({EXPLOIT: exploits, rest: 80 - exploits}) - Counter()
    for ask in asks:
        if ask.kind == EXPLOIT:
            assert len(ask.shown) == 100 and ask.descends and "worse" not in shown(ask) and "broken" not in shown(ask)
        if ask.kind == EXPLORE:
            assert len(ask.shown) == 100 and not ask.descends
    if epoch:
        assert any("broken" in shown(ask) or "worse" in shown(ask) for ask in asks if ask.kind == EXPLORE)


def test_every_question_of_an_epoch_lists_the_ideas_before_it():
    asks = questions_of_epoch(Evolution(), lambda **more: History(past_archive(), 0, 30, 10, **more), 30, 10)
    assert [len(ask.avoid) for ask in asks] == [0, 10, 20] and asks[1].avoid[0] == "idea 0"
    silent = questions_of_epoch(
        Evolution(avoid_similar=False), lambda **more: History(past_archive(), 0, 30, 10, **more), 30, 10
    )
    assert all(ask.avoid == () for ask in silent)


def test_evolution_exploits_only_ideas_that_beat_the_baseline():
    past = past_archive(record("good", 0.5), record("poor", 0.3), record("broken"), baseline=0.4)
    exploit, explore = Evolution().asks(History(past, 1, 10, 10), 10, random.Random(0))
    assert kinds([exploit, explore]) == [(EXPLOIT, 5), (EXPLORE, 5)]
    assert shown(exploit) == {"good"} and shown(explore) == {"good", "poor", "broken"}
    worse = past_archive(record("poor", 0.3), record("broken"), baseline=0.4)
    assert kinds(Evolution().asks(History(worse, 1, 10, 10), 10, random.Random(0))) == [(EXPLORE, 10)]


def test_elites_restricts_the_parents_to_the_best():
    past = past_archive(*(record(f"t{i}", 1 + i / 100) for i in range(50)), baseline=0.9)
    best = [
        shown(Evolution(parents=2, elites=3, past=0).asks(History(past, 1, 10, 1), 1, random.Random(n))[0])
        for n in range(50)
    ]
    assert set().union(*best) == {"t47", "t48", "t49"} and all(len(parents) == 2 for parents in best)
    any_ = [shown(Evolution(parents=2).asks(History(past, 1, 10, 1), 1, random.Random(n))[0]) for n in range(50)]
    assert len(set().union(*any_)) > 30
    lone = Evolution(parents=2, past=0, exploit_start=0, exploit_step=0).asks(
        History(past, 1, 10, 1), 1, random.Random(0)
    )
    assert kinds(lone) == [(EXPLORE, 1)] and lone[0].shown == ()


def test_questions_depend_on_history_and_random_numbers_only():
    past = past_archive(*(record(f"t{i}", 1 + i / 100) for i in range(50)), record("broken"), baseline=0.9)
    for name in ("best_of_n", "evolution", "map_elites", "puct", "top_k"):
        strategy, history = get_search_strategy(name), History(past, 3, 20, 5)
        assert strategy.asks(history, 20, random.Random(4)) == strategy.asks(history, 20, random.Random(4))
        assert sum(ask.count for ask in strategy.asks(history, 20, random.Random(4))) == 20


def test_puct_exploits_the_parents_of_its_formula_and_asks_a_share_of_free_questions():
    lineage = [(f"id-x{step}", ("id-a",), step) for step in range(20)]  # twenty prompts with a, none with a success
    past = past_archive(record("a", 0.50), record("b", 0.49), record("z", 0.1), lineage=lineage)
    # range 0.4, T = 20: a 0.5 + 0.2·√21/21 = 0.544; b 0.49 + 0.1333·√21 = 1.101
    strategy = get_search_strategy("puct", {"shown": 1, "free": 0.25})
    asks = strategy.asks(History(past, 0, 8, 1), 4, random.Random(0))
    assert kinds(asks) == [(FREE, 1), (EXPLOIT, 1), (EXPLOIT, 1), (EXPLOIT, 1)] and shown(asks[1]) == {"b"}
    later = strategy.asks(History(past, 0, 8, 1, ideas=["one"], ideas_by_kind={FREE: 1}), 3, random.Random(0))
    assert kinds(later) == [(EXPLOIT, 1)] * 3


def test_puct_without_successes_asks_freely():
    asks = get_search_strategy("puct").asks(History(past_archive(record("a")), 0, 8, 4), 8, random.Random(0))
    assert {ask.kind for ask in asks} == {FREE} and sum(ask.count for ask in asks) == 8


def test_map_elites_draws_cells_uniformly_and_shows_the_best_of_each():
    crowd = [record(f"a{i}", 0.5 + i / 100, cell_name="lr") for i in range(9)]
    past = past_archive(*crowd, record("b", 0.3, cell_name="width"), record("broken"))
    strategy = MapElites(start=5, two=0, descriptors=("kind",))
    drawn = Counter(next(iter(shown(ask))) for ask in strategy.asks(History(past, 0, 400, 1), 400, random.Random(0)))
    assert set(drawn) == {"a8", "b"} and 150 < drawn["b"] < 250  # 200 each on average, sd 10


def test_map_elites_samples_first_and_then_shows_one_or_two_elites():
    few = past_archive(record("a", 0.5), record("b", 0.4))
    assert kinds(MapElites(start=3).asks(History(few, 0, 8, 4), 8, random.Random(0))) == [(FREE, 4), (FREE, 4)]
    asks = MapElites(start=2, two=0.5).asks(History(few, 0, 200, 1), 200, random.Random(0))
    pairs = sum(len(ask.shown) == 2 for ask in asks)
    assert 70 < pairs < 130 and all(ask.kind == EXPLOIT for ask in asks)


def test_malformed_completions_are_not_shown_to_explore():
    past = past_archive(
        record("good", 0.5), record("", status="malformed", id="m", idea="no idea at all"), baseline=0.9
    )
    [ask] = Evolution().asks(History(past, 1, 10, 10), 10, random.Random(0))
    assert ask.kind == EXPLORE and [record.id for record in ask.shown] == ["id-good"]


def test_descriptors_are_kind_size_and_component():
    past = past_archive(record("a", 0.5, cell_name="lr"))
    idea = past.records()[0]
    assert (
        kind(idea, past, None) == "train.py:lr" == component(idea, past, None) and size(idea, past, None) == "up to 2"
    )
    assert descriptor(idea, past, None, ("size", "kind")) == ("up to 2", "train.py:lr")


def test_a_changed_line_that_looks_like_a_file_header_counts_in_the_size():
    patch = "--- a/x.sql\n+++ b/x.sql\n@@ -1,3 +0,0 @@\n" + "--- a comment\n" * 3
    assert size(replace(record("a"), patch=patch), past_archive(), None) == "up to 8"


def test_the_kind_of_an_idea_is_its_catalogue_families(toy):
    subject = Subject(load_environment(str(toy)), "cpu")
    idea = record("a", 0.5, idea="[Experiment] Move x to 1. [Code Changes] Set y to 2. [End]")
    assert kind(idea, past_archive(idea), subject) == "place"
    strange = record("b", 0.4, idea="[Experiment] Think. [Code Changes] Harder. [End]")
    assert kind(strange, past_archive(strange), subject) == "train.py:b"


@dataclass(frozen=True)
class Custom:
    """A strategy of a user."""

    word: str = "odd"

    def asks(self, history, count, rng):
        return [Ask(self.word, count)]


def test_an_own_strategy_is_named_by_its_dotted_path():
    strategy = get_search_strategy(f"{__name__}.Custom", {"word": "even"})
    assert strategy.asks(History(past_archive()), 3, random.Random(0)) == [Ask("even", 3)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("evolution", {"parent": 3}, "Did you mean 'parents'?"),
        ("evolution", {"parents": "many"}, "Expected a whole number"),
        ("evolution", {"parents": 0}, "at least 1"),
        ("evolution", {"exploit_start": 1.5}, "from 0 to 1"),
        ("map_elites", {"descriptors": ["colour"]}, "no descriptor 'colour'"),
        ("puct", {"free": 2.0}, "from 0 to 1"),
        ("puct", {"shwn": 2}, "Did you mean 'shown'?"),
        ("best_of_n", {"n": 5}, "Known: none"),
        (f"{__name__}.past_archive", {}, "Expected a class with the method"),
    ],
)
def test_unusable_options_are_refused_with_one_sentence(name, options, message):
    with pytest.raises(IdeatorError, match=message):
        get_search_strategy(name, options)


def test_an_unknown_strategy_is_refused_with_a_hint():
    with pytest.raises(UnknownName, match="dotted path"):
        get_search_strategy("evolutoin")


def test_the_strategy_in_the_docs_works():
    page = (Path(__file__).parent.parent / "docs" / "reference" / "search.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    namespace = {
        "dataclass": dataclass,
        "Ask": Ask,
        "EXPLOIT": EXPLOIT,
        "FREE": FREE,
        "History": History,
        "random": random,
    }
    exec(compile(code, "docs/reference/search.md", "exec"), namespace)
    asks = namespace["Greedy"]().asks(
        History(past_archive(record("a", 0.5), record("b", 0.6)), batch=4), 6, random.Random(0)
    )
    assert kinds(asks) == [(EXPLOIT, 4), (EXPLOIT, 2)] and shown(asks[0]) == {"b"}
