"""Searches with a screen: what is run, what the journal keeps, and that a kill changes nothing."""

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from search_runs import RandomEdits, configured, go, rows, text

from ideator_rl.archive.archive import archive_of
from ideator_rl.config.base import ConfigError
from ideator_rl.environments.environment import load_environment
from ideator_rl.envs.landscape.implementer import TokenEdits
from ideator_rl.errors import IdeatorError
from ideator_rl.implementers.implementer import ImplementerUnavailable
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen import ScreenConfig
from ideator_rl.screen.predictors import TokensPredictor
from ideator_rl.screen.summary import read_screen_summary
from ideator_rl.search.config import SearchConfig
from ideator_rl.search.ideator import Answer, Ask, with_defaults
from ideator_rl.search.run import open_ideator
from ideator_rl.search.screening import SearchScreen
from ideator_rl.search.search_summary import read_search_summary
from ideator_rl.storage.journal_reader import JOURNAL, JournalReader
from ideator_rl.storage.search_journal import open_ideas
from ideator_rl.training.recipe.check_names import check_names
from ideator_rl.training.recipe.recipe import load_recipe


def screened(folder, screen=None, **keys):
    options = {"elites": 6, "parents": 1, "exploit_start": 1.0, "exploit_most": 1.0}
    screen = ScreenConfig(**{"over": 4, "after": 12, **(screen or {})})
    defaults = {"strategy": "evolution", "strategy_options": options, "epoch_size": 12, "max_experiments": 48}
    return configured(folder, screen=screen, **{**defaults, **keys})


def forecasts(folder, columns="step, number, position, completion, rank, executed, audited, mean, version"):
    with sqlite3.connect(folder / JOURNAL) as db:
        return db.execute(f"select {columns} from forecasts order by step, number").fetchall()


def journal(folder):
    """What a search did, without times."""
    columns = "step, number, position, completion, success, mean, sd, acquisition, rank, executed, audited, version"
    return rows(folder, "step, position, completion, experiment_id, status, reward"), forecasts(folder, columns)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screened")
    lines = []
    go(screened(folder), RandomEdits(), lines.append)
    return folder, lines


def test_a_screen_samples_more_ideas_than_it_runs(untouched):
    folder, lines = untouched
    pool = forecasts(folder)
    executed = {(step, position): completion for step, _, position, completion, _, ran, _, _, _ in pool if ran}
    run = {(step, position): completion for step, position, completion in rows(folder, "step, position, completion")}
    first = min(step for step, *_ in pool)
    assert first == 1, "the first epoch is not screened"
    assert executed == {key: value for key, value in run.items() if key[0] >= first}
    assert len(pool) == 4 * len(executed) and all(row[2] is None for row in pool if not row[5])
    assert all(row[7] is not None for row in pool if row[5]), "every executed idea has a forecast"
    assert f"of {len(pool) + 12} ideas" in lines[-1], "sampled ideas count as proposals"
    # Without the audited, the best of each round by acquisition are run.
    chosen = [row[4] for row in pool if row[5] and not row[6]]
    assert max(chosen) < 12 and read_search_summary(folder).charged == 48


def test_the_status_tells_what_the_screen_is_worth(untouched):
    summary = read_screen_summary(untouched[0] / JOURNAL)
    assert (summary.since, summary.samples_per_experiment) == (1, 4.0)
    line = read_search_summary(untouched[0]).lines()[-1]
    assert line.startswith("Screen: on since step 2 (tokens, fitted on ") and "4.0 sampled for each idea run" in line
    assert json.dumps(read_search_summary(untouched[0]).facts())


def test_a_run_without_a_screen_has_no_forecasts(tmp_path):
    go(configured(tmp_path, max_experiments=8), RandomEdits())
    assert read_screen_summary(tmp_path / JOURNAL) is None and read_search_summary(tmp_path).screen is None


def test_forecasts_are_made_before_the_outcomes(untouched):
    with sqlite3.connect(untouched[0] / JOURNAL) as db:
        pairs = db.execute("select f.created, r.finished from forecasts f join rollouts r using (step, position)")
        assert all(made < ended for made, ended in pairs)


class Stops(RandomEdits):
    """Fails before its n-th question: what the journal holds then is what a killed process leaves."""

    def __init__(self, questions):
        super().__init__()
        self.questions = questions

    async def ideas_many(self, asks, archive):
        if len(self.asked) + len(asks) > self.questions:
            raise IdeatorError("killed")
        return [await self.ideas(ask, archive) for ask in asks]


@pytest.mark.parametrize("questions", [5, 14, 30])
def test_a_resumed_search_makes_the_same_picks(untouched, tmp_path, questions):
    with pytest.raises(IdeatorError, match="killed"):
        go(screened(tmp_path), Stops(questions))
    go(screened(tmp_path), RandomEdits())
    assert journal(tmp_path) == journal(untouched[0])


def test_known_and_unreadable_ideas_are_not_run(tmp_path):
    class Repeats(RandomEdits):
        async def ideas(self, ask, archive):
            known = [record.idea for record in archive.records()[:1]]
            return (await super().ideas(ask, archive))[:1] + known + ["no idea", text({0: 9})][: ask.count]

    go(screened(tmp_path), Repeats())
    screened_rows = f"step >= {forecasts(tmp_path)[0][0]}"
    ran = [row[3] for row in rows(tmp_path, where=screened_rows)]
    assert len(ran) > 20 and len(set(ran)) == len(ran), "no codebase is asked for twice"
    assert {status for (status,) in rows(tmp_path, "status", screened_rows)} <= {"succeeded", "failed"}
    dropped = [row for row in forecasts(tmp_path) if row[4] is None]
    assert dropped and not any(row[5] or row[7] is not None for row in dropped)


def test_a_dry_pool_ends_the_search(tmp_path):
    class Same(RandomEdits):
        async def ideas(self, ask, archive):
            texts = await super().ideas(ask, archive)
            return [record.idea for record in archive.records()[: ask.count]] if len(archive) > 14 else texts

    reason = go(screened(tmp_path, patience=5), Same())
    dropped = len(list(itertools.takewhile(lambda row: row[4] is None, reversed(forecasts(tmp_path)))))
    assert reason.budget == "patience" and f"{dropped} known or unusable" in reason.text


def test_sampled_ideas_use_up_the_budget_of_ideas(tmp_path):
    reason = go(screened(tmp_path, max_experiments=None, max_ideas=70), RandomEdits())
    assert reason.budget == "max_ideas"
    assert len(rows(tmp_path, where="step = 0")) + len(forecasts(tmp_path)) == 70


@pytest.mark.parametrize(
    ("screen", "message"),
    [
        ({"over": 0}, "screen.over"),
        ({"over": 1_000_000}, "screen.over: 1000000. Expected a whole number from 1 to 256"),
        ({"audit": 1.5}, "screen.audit"),
        ({"acquisition": "best"}, "success_ei or ei or ucb or mean"),
        ({"predictr": "tokens"}, "predictor"),
    ],
)
def test_wrong_keys_get_a_sentence(screen, message):
    from ideator_rl.config.base import read_config

    with pytest.raises(ConfigError, match=message):
        read_config(SearchConfig, {"env": "toy", "screen": screen}, "The recipe has")


SCRIPT = """
    import sys
    from pathlib import Path
    from search_runs import RandomEdits, go
    from test_screen_search import screened
    go(screened(Path(sys.argv[1]), max_experiments=90), RandomEdits())
    print("ended", flush=True)
"""


@pytest.mark.slow
def test_kill_nine_and_resume_make_the_same_picks(tmp_path):
    def start(folder):
        environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
        line = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder)]
        return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)

    def steps(folder):
        try:
            return len({row[0] for row in rows(folder)}) if (folder / JOURNAL).is_file() else 0
        except sqlite3.OperationalError:  # the file is there before its tables
            return 0

    reference, killed = tmp_path / "reference", tmp_path / "killed"
    assert "ended" in start(reference).communicate()[0]
    states = []
    for wanted in (2, 4, 6):
        process, deadline = start(killed), time.monotonic() + 300
        try:
            while time.monotonic() < deadline and process.poll() is None and steps(killed) < wanted:
                time.sleep(0.01)
            states.append(process.poll())
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    assert states.count(None) >= 2, "the searches were still running when they were killed"
    assert "ended" in start(killed).communicate()[0]
    assert journal(killed) == journal(reference)


def test_ideas_that_still_run_are_not_picked_again(untouched, monkeypatch):
    """With a quorum, an epoch begins before all outcomes are in, and the best of its pool are those that run."""
    folder, _ = untouched
    texts = [text for (text,) in rows(folder, "completion", "step = 1")]
    samples = [(0, Ask("free", 1), Answer(text, ())) for text in texts]
    buffer = RewardBuffer(screened(folder).buffer())
    try:
        screen = SearchScreen(screened(folder), buffer, with_defaults(RandomEdits()))
        # As a quorum leaves it: no outcome of the second epoch is in the archive.
        archive = archive_of(buffer, 12, 1)
        before = asyncio.run(screen._pool(samples, archive, 1, 0))
        assert len(before.fresh) == len(texts) == 12, "nothing of them is known by then"
        after = asyncio.run(screen._pool(samples, archive, 2, 0))
        assert not after.fresh
        # The gate sees what that archive holds, whatever has arrived since.
        outcomes, threads = [], []
        monkeypatch.setattr("ideator_rl.search.screening.lift_of", outcomes.append)
        fit = TokensPredictor.fit
        monkeypatch.setattr(
            TokensPredictor, "fit", lambda *args: (threads.append(threading.current_thread()), fit(*args))
        )
        for known in (archive, archive_of(buffer)):
            asyncio.run(screen.choose(samples, screen.outcomes(known, 2), known, 0, 2, 2))
        assert [len(rows) for rows in outcomes] == [0, 12]
        assert len(threads) == 2 and threading.main_thread() not in threads, "a slow fit stops no experiment"
    finally:
        buffer.close()


def test_a_lost_idea_may_be_proposed_again(untouched, tmp_path):
    copy = shutil.copy(untouched[0] / JOURNAL, tmp_path / JOURNAL)
    with sqlite3.connect(copy) as db:
        db.execute("update rollouts set status = 'lost' where step = 0 and position = 1")
        db.execute("update rollouts set status = 'running', experiment_id = null where step = 1 and position = 3")
    ids = [id for step, id in rows(tmp_path, "step, experiment_id") if step < 2 and id]
    lost, known = rows(tmp_path, "experiment_id", "step = 0 and position = 1")[0][0], rows(tmp_path, "completion")
    with JournalReader(copy) as journal:
        running = open_ideas(journal, 2, [id for id in ids if id != lost])
        assert [(text,) for text, base in running if base is None] == rows(
            tmp_path, "completion", "step = 1 and position = 3"
        )
        assert len(open_ideas(journal, 2, [])) == 23 and len(known) == 48
        assert open_ideas(journal, 0, []) == []


class Coder(TokenEdits):
    """Is paid for each patch, and records for which ideas."""

    paid: ClassVar[list[str]] = []

    @classmethod
    def estimate(cls, settings, ideas, environment, preset):
        return f"{ideas} USD"

    async def implement(self, idea, base, environment, preset):
        self.paid.append(idea.text)
        return await super().implement(idea, base, environment, preset)


class Unpriced:
    """A plugin that a model may write code for, and that does not estimate what it costs."""

    name, trusted = "unpriced", False

    def version(self, environment):
        return self.name

    async def implement(self, idea, base, environment, preset):
        raise AssertionError("a preview is for implementers that cost nothing")


def test_a_coder_is_paid_for_the_ideas_that_are_run_alone(tmp_path):
    Coder.paid.clear()
    keys = {"implementer": f"{__name__}.Coder", "max_experiments": 24, "epoch_size": 8}
    go(screened(tmp_path, {"after": 8}, **keys), RandomEdits())
    assert len(forecasts(tmp_path)) > 60 and len(Coder.paid) == len(set(Coder.paid)) == 24
    assert set(Coder.paid) == {idea for (idea,) in rows(tmp_path, "idea")}


def test_a_plugin_without_an_estimate_is_taken_for_paid(tmp_path, toy):
    keys = {"env": str(toy), "preset": "cpu", "backend": "local"}
    for implementer, is_free in ((f"{__name__}.Unpriced", False), ("rules", True), ("direct", True)):
        buffer = RewardBuffer(configured(tmp_path / implementer, implementer=implementer, **keys).buffer())
        try:
            assert buffer.executor.previews is is_free
        finally:
            buffer.close()


def test_a_screen_that_a_resumed_search_leaves_out_is_shown_as_off(untouched, tmp_path):
    copy = shutil.copytree(untouched[0], tmp_path / "run")
    assert read_screen_summary(copy / JOURNAL).ended is None
    lines = []
    sampled = len(forecasts(copy)) + 12
    config = replace(screened(copy, max_experiments=54), screen=None)
    go(config, RandomEdits(), lines.append)
    summary = read_screen_summary(copy / JOURNAL)
    assert summary.ended == 3 and summary.line().startswith("Screen: on from step 2 to 4, now off (tokens, fitted on ")
    assert f"of {sampled + 6} ideas" in lines[-1], "ideas that were sampled before still count"


def test_a_budget_that_ends_before_the_screen_begins_is_named():
    screen = ScreenConfig(after=100)
    assert screen.never_ranks(50, None) == (
        "The screen waits for 100 outcomes, and a budget ends the search after 50 ideas: nothing will be screened. "
        "Lower screen.after, or raise the budget."
    )
    assert "after 40 ideas" in ScreenConfig().never_ranks(None, 40)
    assert not any((screen.never_ranks(None, None), screen.never_ranks(200, None), ScreenConfig().never_ranks(8, 64)))


class ByFirstTwo:
    """Scripted: two descriptions are similar if their first two edits have the same knobs."""

    name = "by first edits"

    def embed(self, texts):
        out = np.zeros((len(texts), 400), np.float32)
        for row, description in enumerate(texts):
            knobs = [int(knob) for knob in re.findall(r"k(\d\d)", description)]
            out[row, knobs[0] * 20 + knobs[1]] = 1
        return out


by_first_two = ByFirstTwo()


@pytest.mark.parametrize("implementer", ["envs.landscape.implementer.TokenEdits", f"{__name__}.Coder"])
def test_a_screen_spends_no_place_on_near_duplicates_that_are_rejected(tmp_path, implementer):
    keys = {"near_duplicates": "reject", "near_duplicate_similarity": 0.9, "embedder": f"{__name__}.by_first_two"}
    go(screened(tmp_path, implementer=implementer, **keys), RandomEdits())
    pool = forecasts(tmp_path)
    assert rows(tmp_path, where="step = 0 and status = 'rejected'"), "the first epoch is not screened"
    statuses = {status for (status,) in rows(tmp_path, "status", f"step >= {pool[0][0]}")}
    assert statuses <= {"succeeded", "failed"} and sum(row[5] for row in pool) > 10
    # Different ideas, which are dropped all the same: an idea with the same knobs was run before.
    dropped = {row[3] for row in pool if row[4] is None}
    assert dropped - {completion for (completion,) in rows(tmp_path, "completion")}


class OddOnes(TokenEdits):
    """Fails at some ideas, as a plugin may: at one kind for good, at another until the idea is run."""

    async def implement(self, idea, tree, environment, preset):
        if "k00v1" in idea.text:
            raise KeyError("k00v1")
        if "k00v2" in idea.text:
            raise ImplementerUnavailable("busy")
        return await super().implement(idea, tree, environment, preset)


def test_an_implementer_that_fails_at_an_idea_of_a_pool_ends_no_search(tmp_path, caplog):
    go(screened(tmp_path, implementer=f"{__name__}.OddOnes"), RandomEdits())
    pool = forecasts(tmp_path)
    failing = [row for row in pool if "k00v1" in row[3]]
    unavailable = [row for row in pool if "k00v2" in row[3]]
    assert failing and unavailable and len(rows(tmp_path)) >= 48
    assert not any(row[5] for row in failing) and all(row[4] is None for row in failing), "they are left out"
    assert all(row[4] is not None for row in unavailable), "they may be run"
    assert "An idea is left out by a failure" in caplog.text


class OfBaseline(TokensPredictor):
    """Reads the baseline as it is created."""

    def __init__(self, context):
        super().__init__(context)
        self.baseline, self.seed = context.environment.baseline(context.preset), context.seed
        assert self.baseline


def test_a_predictor_may_read_the_environment_as_it_is_created(tmp_path):
    screen = {"predictor": f"{__name__}.OfBaseline"}
    config = screened(tmp_path, screen, env="nanogpt", preset="cpu", ideator="catalogue")
    open_ideator(config, load_environment(config.env).at(config.preset)).close()
    values = {"env": "nanogpt", "preset": "cpu", "screen": screen}
    check_names(load_recipe("default.yaml", [f"--{key}={json.dumps(value)}" for key, value in values.items()]))
