"""Strategies and ideators of users: a faulty one ends the search in order."""

from collections import Counter

import pytest
from search_runs import RandomEdits, configured, go, rows, text

from ideator_rl.errors import IdeatorError
from ideator_rl.search.ideator import Ask
from ideator_rl.search.run import run_search
from ideator_rl.search.search_summary import read_search_summary


class Scripted:
    """A strategy that returns scripted questions, or fails."""

    def __init__(self, asks):
        self._asks = asks

    def asks(self, history, count, rng):
        return self._asks(history)


@pytest.mark.parametrize(
    ("asks", "message"),
    [
        (lambda history: [], "returned no question where 4 ideas were wanted"),
        (lambda history: [Ask("free", 0), Ask("free", -3)], "returned no question where 4 ideas were wanted"),
        (lambda history: None, "The strategy best_of_n failed: TypeError"),
        (lambda history: 1 / 0, "The strategy best_of_n failed: ZeroDivisionError"),
        (lambda history: ["free"], "returned free. Expected an Ask"),
        (lambda history: [Ask("free", 2.5)], "Expected an Ask"),
        (lambda history: [Ask(None, 2)], "Expected an Ask"),
        (lambda history: [Ask("exploit", 2, ("an id",))], "Expected an Ask"),
        (lambda history: [Ask("exploit", 2, None)], "Expected an Ask"),
    ],
)
def test_a_strategy_that_fails_or_asks_no_question_is_an_error_with_its_name(tmp_path, asks, message):
    with pytest.raises(IdeatorError, match=message):
        go(configured(tmp_path, max_ideas=6), RandomEdits(), strategy=Scripted(asks))


def test_a_strategy_may_be_a_generator_and_change_its_history(tmp_path):
    def asks(history):
        assert isinstance(history.ideas, tuple)
        history.ideas_by_kind.clear()
        return (Ask("free", 2) for _ in range(2))

    go(configured(tmp_path, max_ideas=12), RandomEdits(), strategy=Scripted(asks))
    assert Counter(step for step, *_ in rows(tmp_path)) == {0: 8, 1: 4} and read_search_summary(tmp_path).kinds == {
        "free": 12
    }


def test_questions_beyond_the_room_are_not_asked(tmp_path):
    ideator = RandomEdits()
    wanted = [Ask("free", 3)] * 100
    reason = go(configured(tmp_path, max_ideas=10, patience=3), ideator, strategy=Scripted(lambda history: wanted))
    assert reason.budget == "max_ideas" and [ask.count for ask in ideator.asked] == [3, 1, 3, 1, 2]


class Odd(RandomEdits):
    """Returns a scripted answer, or fails, from its second question on."""

    name = "odd"

    def __init__(self, answer):
        super().__init__()
        self._answer = answer

    async def ideas(self, ask, archive):
        return self._answer() if self.asked else await super().ideas(ask, archive)


class OddMany(Odd):
    async def ideas_many(self, asks, archive):
        return self._answer() if self.asked else [await super(Odd, self).ideas(ask, archive) for ask in asks]


def fails(error):
    raise error


@pytest.mark.parametrize(
    ("ideator", "message"),
    [
        (Odd(lambda: None), "The ideator odd returned NoneType. Expected a list of texts"),
        (Odd(lambda: text({1: 1})), "returned str. Expected"),
        (Odd(lambda: [text({1: 1}), None]), "a list with NoneType in it. Expected texts"),
        (Odd(lambda: fails(KeyError("x"))), r"The ideator odd failed: KeyError\('x'\). Correct it"),
        (Odd(lambda: fails(TimeoutError())), r"The ideator odd failed: TimeoutError\(\)"),
        (OddMany(lambda: [["x"], ["y"]]), "odd returned 2 answers to 1 questions"),
        (OddMany(lambda: None), "odd returned NoneType to 1 questions"),
        (OddMany(lambda: fails(KeyError("x"))), "The ideator odd failed"),
    ],
)
def test_a_faulty_ideator_ends_the_search_after_running_ideas_have_ended(tmp_path, ideator, message):
    with pytest.raises(IdeatorError, match=message):
        go(configured(tmp_path, max_experiments=100), ideator)
    assert len(rows(tmp_path)) == 4 and "running" not in {row[2] for row in rows(tmp_path)}


class Faulty(RandomEdits):
    """An ideator whose method of this name is wrong."""

    def __init__(self, method):
        super().__init__()
        setattr(self, method, getattr(self, f"wrong_{method}"))

    @classmethod
    def from_settings(cls, settings, subject, ledger):
        return cls(**settings)

    def wrong_check(self):
        return [1 / 0]

    async def wrong_probe(self):
        raise KeyError("no such field")


@pytest.mark.parametrize(
    ("method", "message"), [("check", "ZeroDivisionError"), ("probe", "KeyError.*test_search_own")]
)
def test_an_ideator_that_fails_before_the_start_leaves_the_folder_free(tmp_path, method, message):
    options = {"ideator": "test_search_own.Faulty", "ideator_options": {"method": method}}
    with pytest.raises(IdeatorError, match=message):
        run_search(configured(tmp_path, max_ideas=2, **options))
    assert not (tmp_path / "recipe.yaml").exists()
