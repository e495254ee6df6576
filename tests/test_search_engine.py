"""The search loop: flows, budgets, sessions, and its tables in the journal."""

import asyncio
import sqlite3
from collections import Counter
from dataclasses import replace

import pytest
from search_runs import Lines, RandomEdits, configured, go, rows, specs, text

from ideator_rl.errors import IdeatorError
from ideator_rl.executor.executor import Executor
from ideator_rl.experiment import Experiment
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.search.engine import SearchEngine
from ideator_rl.search.ideator import Answer, Ask
from ideator_rl.search.search_summary import read_search_summary
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.ledger import BudgetSpent
from ideator_rl.storage.search_journal import Origin, SearchJournal, read_search
from ideator_rl.text.thoughts import thoughts_from_field


def test_max_experiments_counts_distinct_codebases_exactly(tmp_path):
    twins = [text({at // 2: 1, 10: 2}) for at in range(60)]  # every codebase twice
    reason = go(configured(tmp_path, max_experiments=7), Lines(twins))
    assert reason.budget == "max_experiments" and len(specs(tmp_path)) == 7
    summary = read_search_summary(tmp_path)
    assert summary.charged == 7 and summary.ideas == len(rows(tmp_path)) >= 13 and summary.repeated == summary.ideas - 7
    assert summary.ended_by == "max_experiments" and summary.elsewhere == 0


class FewEdits(RandomEdits):
    """So few different ideas that most are repeats."""

    def idea(self, rng, parents):
        edits = {rng.randrange(2): rng.randrange(4)}
        for parent in parents:
            word = parent.idea.split("[Code Changes]")[0].split()[1]
            edits |= {int(word[1:3]): int(word[4])}
        return Answer(text(edits), parents)


def test_with_a_full_quorum_the_order_of_outcomes_changes_no_question(tmp_path, monkeypatch):
    execute, turn = Executor.execute, iter(range(1000))

    async def one_by_one(self, completion, replicate=0):
        record = await execute(self, completion, replicate)
        await asyncio.sleep(0.01 * (next(turn) % 5))
        return record

    async def all_at_once(self):
        if self._running:
            await asyncio.wait(self._running)

    monkeypatch.setattr(Executor, "execute", one_by_one)
    ideas = []
    for way in ("one by one", "all at once"):
        if way == "all at once":
            monkeypatch.setattr(SearchEngine, "_wait", all_at_once)
        config = configured(
            tmp_path / way,
            max_experiments=18,
            batch=1,
            asks_at_once=16,
            strategy="evolution",
            epoch_size=16,
            patience=1000,
        )
        assert go(config, FewEdits()).budget == "max_experiments" and len(specs(tmp_path / way)) == 18
        ideas.append(rows(tmp_path / way, "step, position, idea"))
    assert ideas[0] == ideas[1]


def test_max_ideas_max_epochs_and_max_seconds_end_a_search(tmp_path):
    assert go(configured(tmp_path / "a", max_ideas=10), RandomEdits()).budget == "max_ideas"
    assert len(rows(tmp_path / "a")) == 10
    assert go(configured(tmp_path / "b", max_epochs=2), RandomEdits()).budget == "max_epochs"
    assert Counter(step for step, *_ in rows(tmp_path / "b")) == {0: 8, 1: 8}
    reason = go(configured(tmp_path / "c", max_seconds=0.3, max_ideas=10**6), RandomEdits())
    assert reason.budget == "max_seconds" and {row[2] for row in rows(tmp_path / "c")} <= {"succeeded", "failed"}


def test_max_seconds_counts_over_all_sessions(tmp_path):
    config = configured(tmp_path, max_ideas=8)
    go(config, RandomEdits())
    with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
        db.execute("update sittings set started = started - 100")
    assert go(replace(config, max_ideas=100, max_seconds=60.0), RandomEdits()).budget == "max_seconds"
    assert len(rows(tmp_path)) == 8 and read_search_summary(tmp_path).seconds > 100


class Paid(RandomEdits):
    """Costs one USD a question, and refuses as a ledger does."""

    async def ideas(self, ask, archive):
        if len(self.asked) == 3:
            raise BudgetSpent("The run's cap of 3 USD leaves no room. Raise max_usd and go on with --resume.")
        return await super().ideas(ask, archive)


def test_a_spent_ideator_budget_ends_the_search_in_order(tmp_path):
    reason = go(configured(tmp_path, max_experiments=100), Paid())
    assert reason.budget == "max_usd" and "Raise max_usd" in reason.text and len(rows(tmp_path)) == 12


class Broken(RandomEdits):
    async def ideas(self, ask, archive):
        if self.asked:
            raise IdeatorError("The endpoint is gone. Start it, and resume.")
        return await super().ideas(ask, archive)


def test_an_ideator_error_ends_the_search_after_running_ideas_have_ended(tmp_path):
    with pytest.raises(IdeatorError, match="endpoint is gone"):
        go(configured(tmp_path, max_experiments=100), Broken())
    assert len(rows(tmp_path)) == 4 and "running" not in {row[2] for row in rows(tmp_path)}


def test_after_several_errors_the_search_still_waits_for_the_other_ideas(tmp_path, monkeypatch):
    execute, turn = Executor.execute, iter(range(100))

    async def failing(self, completion, replicate=0):
        turn_of_mine = next(turn)
        if turn_of_mine < 3:
            raise IdeatorError(f"The sandbox is gone, said idea {turn_of_mine}.")
        await asyncio.sleep(0.2)
        return await execute(self, completion, replicate)

    monkeypatch.setattr(Executor, "execute", failing)
    with pytest.raises(IdeatorError, match="said idea 0"):
        go(configured(tmp_path, max_experiments=100), RandomEdits())
    assert [row[2] for row in rows(tmp_path)].count("running") == 3


@pytest.mark.parametrize(
    ("texts", "cause"),
    [
        ([], "Their ideas: none"),
        ([text({1: 1})] * 400, "Their ideas: 20 known already"),
        (["no idea at all"] * 400, "malformed. The last message: This text holds no idea"),
        ([thoughts_from_field("So.", "reasoning_content", True)] * 400, "the answer's text came in reasoning_content"),
    ],
)
def test_an_ideator_without_new_ideas_runs_out_of_patience_and_the_cause_is_named(tmp_path, texts, cause):
    reason = go(configured(tmp_path, max_experiments=50, patience=5), Lines(texts))
    assert reason.budget == "patience" and cause in reason.text
    assert len(read_search_summary(tmp_path).kinds or {}) <= 1 and read_search_summary(tmp_path).asks <= 7


def test_a_session_that_was_killed_as_it_began_can_be_read(tmp_path):
    go(configured(tmp_path, max_ideas=8), RandomEdits())
    with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
        db.execute("delete from sittings")
    rows = read_search(tmp_path / "buffer.sqlite")
    assert rows.ended_by is None and rows.seconds == 0 and rows.ideas == 8


def test_all_questions_of_an_epoch_see_the_archive_of_its_start(tmp_path):
    histories = []

    class Recorder:
        def asks(self, history, count, rng):
            from ideator_rl.search.ideator import FREE, Ask

            histories.append((history.epoch, len(history.archive), len(history.ideas), dict(history.ideas_by_kind)))
            return [Ask(FREE, count)]

    go(configured(tmp_path, max_epochs=3), RandomEdits(), strategy=Recorder())
    assert [(epoch, ideas) for epoch, _, ideas, _ in histories] == [(e, n) for e in range(3) for n in (0, 4)]
    assert [asked for *_, asked in histories] == [{}, {"free": 4}] * 3
    archive_sizes = {epoch: {many for at, many, *_ in histories if at == epoch} for epoch in range(3)}
    assert archive_sizes[0] == {0} and len(archive_sizes[1]) == len(archive_sizes[2]) == 1
    assert 0 < max(archive_sizes[1]) < max(archive_sizes[2])


def test_a_quorum_starts_the_next_epoch_and_late_outcomes_count(tmp_path, monkeypatch):
    from ideator_rl.envs.landscape.implementer import TokenEdits

    honest, started = TokenEdits.implement, []

    async def implement(self, idea, base, environment, preset):
        started.append(idea)
        if len(started) == 1:  # the first idea has an outcome only once the second epoch has begun
            async with asyncio.timeout(20):
                while len(started) <= 8:
                    await asyncio.sleep(0.01)
        return await honest(self, idea, base, environment, preset)

    monkeypatch.setattr(TokenEdits, "implement", implement)
    lines = []
    go(configured(tmp_path, max_epochs=3, quorum=0.8), RandomEdits(), lines.append)
    assert "epoch 1: 8 ideas" in lines[0] and len(rows(tmp_path)) == 24
    assert {row[2] for row in rows(tmp_path)} <= {"succeeded", "failed"}


def test_a_steady_search_keeps_in_flight_ideas_running(tmp_path, monkeypatch):
    from ideator_rl.envs.landscape.implementer import TokenEdits

    honest, now, most = TokenEdits.implement, [0], [0]

    async def implement(self, idea, base, environment, preset):
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(0.02)
        now[0] -= 1
        return await honest(self, idea, base, environment, preset)

    monkeypatch.setattr(TokenEdits, "implement", implement)
    ideator = RandomEdits()
    go(configured(tmp_path, flow="steady", in_flight=6, max_experiments=30), ideator)
    assert most[0] == 6 and len(specs(tmp_path)) == 30
    assert Counter(step for step, *_ in rows(tmp_path)).most_common(1)[0][1] == 8
    assert max(ask.count for ask in ideator.asked) <= 4


def test_exploiting_ideas_have_parents_in_the_lineage_and_exploring_ideas_have_none(tmp_path):
    options = {"past": 3, "exploit_start": 0.5, "exploit_most": 0.5}
    go(configured(tmp_path, strategy="evolution", strategy_options=options, max_epochs=3), RandomEdits())
    with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
        children = {child for (child,) in db.execute("select child from lineage")}
        kinds = db.execute(
            "select kind, experiment_id, parents_json from rollouts join origins using (step, position) "
            "join asks on number = ask"
        ).fetchall()
    assert children == {id for kind, id, parents in kinds if parents != "[]"}
    assert all(parents == "[]" for kind, _, parents in kinds if kind != "exploit")
    assert read_search_summary(tmp_path).kinds["exploit"] == len(children) == 8


def test_a_search_extended_by_larger_budgets_equals_one_that_began_with_them(tmp_path):
    keys = {"strategy": "evolution", "strategy_options": {"parents": 2}}
    go(configured(tmp_path / "a", max_epochs=1, **keys), RandomEdits())
    assert go(configured(tmp_path / "a", max_epochs=2, **keys), RandomEdits()).budget == "max_epochs"
    go(configured(tmp_path / "a", max_epochs=4, **keys), RandomEdits())
    go(configured(tmp_path / "b", max_epochs=4, **keys), RandomEdits())
    assert rows(tmp_path / "a") == rows(tmp_path / "b") and specs(tmp_path / "a") == specs(tmp_path / "b")
    assert read_search_summary(tmp_path / "a").asks == read_search_summary(tmp_path / "b").asks


def test_a_search_with_a_spent_budget_ends_at_once_when_it_is_resumed(tmp_path):
    config = configured(tmp_path, max_experiments=8)
    go(config, RandomEdits())
    before, ideator = rows(tmp_path), RandomEdits()
    assert go(config, ideator).budget == "max_experiments"
    assert rows(tmp_path) == before and ideator.asked == []


def test_reruns_are_not_charged_when_the_search_is_extended(tmp_path):
    config = configured(tmp_path, max_experiments=6)
    go(config, RandomEdits())
    buffer = RewardBuffer(config.buffer())
    ids = [record.id for record in buffer.history if record.tree][:3]
    asyncio.run(asyncio.wait_for(_again(buffer, ids), 20))
    buffer.close()
    go(replace(config, max_experiments=8), RandomEdits())
    assert read_search_summary(tmp_path).charged == 8


async def _again(buffer, ids):
    for id in ids:
        await buffer.rerun(id, 100)


def test_an_ideator_remembers_the_completions_of_earlier_sessions(tmp_path):
    class Remembers(Lines):
        def remember(self, texts):
            self.remembered = texts

    texts = [text({1: 1}), "no idea at all", text({2: 2}), text({3: 3})]
    first, second = Remembers(texts[:3]), Remembers(texts[3:])
    go(configured(tmp_path, max_ideas=3), first)
    go(configured(tmp_path, max_ideas=4), second)
    assert first.remembered == [] and second.remembered == texts[:3]


def test_a_resumed_epoch_has_the_full_texts_of_its_completions(tmp_path):
    texts = [text({1: 1}), "no idea at all", text({2: 2})]
    go(configured(tmp_path, max_ideas=3), Lines(texts))
    buffer = RewardBuffer(configured(tmp_path).buffer())
    assert SearchJournal(buffer.journal).answers_of_step(0)[0] == texts
    buffer.close()


def test_ideas_lost_to_a_budget_are_run_after_the_budget_is_raised(tmp_path):
    config = configured(tmp_path, max_experiments=8)
    go(config, RandomEdits())
    with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
        db.execute("update rollouts set status='lost' where position < 3")
        db.execute(
            'update experiments set record_json = replace(record_json, \'"status": "succeeded"\', \'"status": "lost"\')'
        )
    go(replace(config, max_experiments=9), RandomEdits())
    assert "lost" not in {row[2] for row in rows(tmp_path)}


def test_lost_ideas_are_run_only_within_max_experiments(tmp_path):
    config = configured(tmp_path, max_ideas=8)
    go(config, RandomEdits())
    assert read_search_summary(tmp_path).charged == 8
    with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
        db.execute("update rollouts set status='lost' where position >= 2")
    reason = go(replace(config, max_ideas=None, max_experiments=5), RandomEdits())
    assert reason.budget == "max_experiments" and read_search_summary(tmp_path).charged == 5
    assert [row[2] == "lost" for row in rows(tmp_path)] == [False] * 5 + [True] * 3
    go(replace(config, max_experiments=50), RandomEdits())
    assert read_search_summary(tmp_path).charged == 8


def test_a_lost_idea_that_is_retried_has_no_experiment_and_no_descent_meanwhile(tmp_path):
    journal = Journal(tmp_path / "buffer.sqlite")
    search_journal = SearchJournal(journal)
    lost = Experiment("an id", "lost", "idea", "landscape", "t0", tree="a tree")
    origin = (0, Origin(("a parent",)))
    journal.propose(0, ["x"], note=search_journal.answers(0, {0: Ask("free", 1)}, [origin]))
    journal.settle(0, 0, lost)
    search_journal.retry_lost()
    assert search_journal.descents() == [] and [proposal.position for proposal in journal.unsettled(())] == [0]
    assert journal.read("select experiment_id from rollouts") == [(None,)]
    journal.close()


def test_surplus_answers_are_dropped(tmp_path):
    class Eager(RandomEdits):
        async def ideas(self, ask, archive):
            return await super().ideas(replace(ask, count=ask.count + 5), archive)

    go(configured(tmp_path, max_ideas=6), Eager())
    assert len(rows(tmp_path)) == 6


class Killed(BaseException):
    """A simulated kill of the process."""


class Mortal(RandomEdits):
    def __init__(self, answers):
        super().__init__()
        self.left = answers

    async def ideas(self, ask, archive):
        self.left -= 1
        if self.left < 0:
            raise Killed
        return await super().ideas(ask, archive)


@pytest.mark.parametrize("strategy", ["best_of_n", "evolution", "map_elites", "puct", "top_k"])
def test_a_search_killed_at_any_question_ends_as_an_untouched_one(tmp_path, strategy):
    options = {"start": 4} if strategy == "map_elites" else None
    keys = {"strategy": strategy, "strategy_options": options, "max_epochs": 3, "batch": 2, "patience": 1000}
    go(configured(tmp_path / "untouched", **keys), RandomEdits())
    for answers in (3, 1, 2, 5):
        with pytest.raises(Killed):
            go(configured(tmp_path / "run", **keys), Mortal(answers))
    go(configured(tmp_path / "run", **keys), RandomEdits())
    columns = "step, position, idea, experiment_id, status"
    assert rows(tmp_path / "run", columns) == rows(tmp_path / "untouched", columns)
    assert len(rows(tmp_path / "run")) == 24 and specs(tmp_path / "run") == specs(tmp_path / "untouched")


def test_a_completion_with_a_lone_surrogate_costs_only_itself(tmp_path):
    go(
        configured(tmp_path, max_ideas=3, near_duplicates="count", embedder="hashed"),
        Lines(["\ud800", text({1: 1}), ""]),
    )
    assert Counter(row[2] for row in rows(tmp_path))["malformed"] == 2
