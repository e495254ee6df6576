"""A screen over ideas that inherit code: each candidate is patched on its own base, in a search and in training."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from typing import ClassVar

import pytest
from search_runs import configured, go, text
from test_screen_search import forecasts, journal, screened

from ideator_rl.archive.archive import archive_of
from ideator_rl.archive.bases import COLUMN, Option
from ideator_rl.envs.landscape.implementer import TokenEdits
from ideator_rl.patch import apply_patch, tree_hash
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen import ScreenConfig
from ideator_rl.screen.pool import read_pool
from ideator_rl.search.ideator import Answer
from ideator_rl.search.screening import SearchScreen
from ideator_rl.storage.idea_context import Base, IdeaContext, inherited_patches
from ideator_rl.storage.journal_reader import JOURNAL, JournalReader
from ideator_rl.storage.run_reader import read_run
from ideator_rl.training.rollouts import Batch
from ideator_rl.training.screening import BatchScreen


class OneMore:
    """Answers with one random edit, to be added to the code of the parent."""

    name = "one more"

    async def ideas(self, ask, archive):
        rng = random.Random(ask.salt)
        parents = ask.shown[:1] if ask.descends else ()
        return [Answer(text({rng.randrange(20): rng.randrange(4)}), parents) for _ in range(ask.count)]


def inheriting(folder, **keys):
    return screened(folder, **{"inherit": "best_parent", "max_experiments": 40, **keys})


def bases_of(folder):
    with JournalReader(folder / JOURNAL) as reader:
        return [(row.step, row.position, row.base, row.patch) for row in inherited_patches(reader)]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder, patches = tmp_path_factory.mktemp("inheriting"), []
    original = SearchScreen._pool

    async def kept(self, samples, *args):
        pool = await original(self, samples, *args)
        patches.append((pool.candidates, [text.context.base if text.context else None for _, _, text in samples]))
        return pool

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchScreen, "_pool", kept)
        assert go(inheriting(folder), OneMore()).budget == "max_experiments"
    return folder, patches


def test_candidates_of_a_search_have_the_patch_to_the_baseline_of_code_made_on_their_base(searched):
    folder, rounds = searched
    finished = read_run(folder)
    buffer = RewardBuffer(configured(folder).buffer())
    baseline = buffer.executor.base
    buffer.close()
    on_parents = 0
    for candidates, bases in rounds:
        for candidate, base in zip(candidates, bases, strict=True):
            if candidate is not None and base is not None:
                on_parents += 1
                parent = finished.experiments[base.parents[0]]
                # The listing grows at its end: all lines of the parent are in the candidate's patch.
                added = [line for line in parent.patch.splitlines() if line.startswith("+k")]
                assert parent.tree == base.tree and added and set(added) < set(candidate.patch.splitlines())
    assert on_parents > 50, "most samples build on code"
    executed = {(step, position) for step, _, position, *_ in forecasts(folder) if position is not None}
    assert 10 < len(executed) < len(forecasts(folder)) / 2
    picked = [row for row in finished.rollouts if (row.step, row.position) in executed]
    trees = [finished.experiments[row.experiment_id].tree for row in picked]
    assert len(set(trees)) == len(executed), "what is known, on whichever base, is no candidate"
    for _, _, base, patch in bases_of(folder):
        assert patch and tree_hash(apply_patch(baseline, base.patch)) == base.tree


def pool_of(buffer, texts, bases, known=()):
    return asyncio.run(read_pool(texts, [()] * len(texts), archive_of(buffer), buffer, set(known), bases))


def score(buffer, completion, step, base=None):
    async def work():
        _, tasks = buffer.propose([completion], step, contexts={0: IdeaContext("", base)})
        return (await tasks[0])[1]

    return asyncio.run(work())


def test_one_text_on_two_codebases_is_two_candidates(tmp_path):
    buffer = RewardBuffer(configured(tmp_path).buffer())
    try:
        first, other = (score(buffer, text({knob: 1}), knob) for knob in (3, 7))
        on_first, on_other = (Base(record.tree, record.patch, (record.id,)) for record in (first, other))
        gone = Base("0" * 64, first.patch, (first.id,))
        both = score(buffer, text({5: 2}), 8, on_first)
        texts = [text({5: 2})] * 4 + [text({9: 1})]
        pool = pool_of(buffer, texts, [on_first, on_other, None, gone, gone])
        assert pool.fresh == [1, 2], "the first is known, and a base that no longer applies gives no code"
        assert "+k07: 1" in pool.candidates[1].patch and "+k07: 1" not in pool.candidates[2].patch
        assert "+k03: 1" in both.patch and "+k05: 2" in both.patch
    finally:
        buffer.close()


class Coder(TokenEdits):
    """Is paid, so that no patch is made before the choice."""

    paid: ClassVar[list[str]] = []

    @classmethod
    def estimate(cls, settings, ideas, environment, preset):
        return f"{ideas} USD"


def test_a_text_about_another_codebase_is_new_to_a_coder(tmp_path):
    buffer = RewardBuffer(configured(tmp_path, implementer=f"{__name__}.Coder").buffer())
    try:
        assert not buffer.executor.previews
        first = score(buffer, text({3: 1}), 0)
        base = Base(first.tree, first.patch, (first.id,))
        score(buffer, text({5: 2}), 1, base)
        pool = pool_of(buffer, [text({5: 2}), text({5: 2}), text({3: 1}), text({3: 1})], [base, None, base, None])
        assert pool.fresh == [1, 2] and {pool.candidates[index].patch for index in (1, 2)} == {""}
    finally:
        buffer.close()


def test_a_batch_of_training_is_screened_on_the_bases_of_its_rows(tmp_path):
    buffer = RewardBuffer(configured(tmp_path).buffer())
    try:
        rng = random.Random(0)
        asyncio.run(buffer.score([text({knob: rng.randrange(4)}) for knob in range(20)], step=0))
        parent = next(record for record in buffer.history if record.status == "succeeded")
        knob = int(parent.patch.split("+k")[1][:2])
        option = Option("", Base(parent.tree, parent.patch, (parent.id,))).to_json()
        groups = [{"prompt": "p", COLUMN: [option]}, {"prompt": "p", COLUMN: []}]
        others = [number for number in range(20) if number != knob]
        # Of the second group, on the baseline, every idea is known: each was an idea of the first batch.
        texts = [text({number: 1}) for number in others[:8]]
        known = [next(row.idea for row in buffer.history if f"k{number:02d}v" in row.idea) for number in others[:8]]
        sampled = Batch(1, 1, groups, [*texts, *known], [[0]] * 16)
        screen = BatchScreen(ScreenConfig(over=4, after=16), buffer, share=4)
        rows = screen.choose(sampled, asyncio.run).rows
        assert len(rows) == 4 and max(rows) < 8
        again = BatchScreen(ScreenConfig(over=4, after=16), buffer, share=4)
        assert again.choose(sampled, asyncio.run).rows == rows
    finally:
        buffer.close()


SCRIPT = """
    import sys
    from pathlib import Path
    from search_runs import go
    from test_screen_inherit import OneMore, inheriting
    go(inheriting(Path(sys.argv[1]), max_experiments=72), OneMore())
    print("ended", flush=True)
"""


@pytest.mark.slow
def test_kill_nine_and_resume_make_the_same_picks_on_the_same_bases(tmp_path):
    def start(folder):
        environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
        line = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder)]
        return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)

    def proposed(folder):
        try:
            with sqlite3.connect(f"file:{folder / JOURNAL}?mode=ro", uri=True) as db:
                return db.execute("select count(*) from rollouts").fetchone()[0]
        except sqlite3.OperationalError:  # no file yet, or no tables
            return 0

    reference, killed = tmp_path / "reference", tmp_path / "killed"
    assert "ended" in start(reference).communicate()[0]
    states = []
    for wanted in (14, 30, 50):
        process, deadline = start(killed), time.monotonic() + 300
        try:
            while time.monotonic() < deadline and process.poll() is None and proposed(killed) < wanted:
                time.sleep(0.01)
            states.append(process.poll())
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    assert states.count(None) >= 2, "the searches were still running when they were killed"
    assert "ended" in start(killed).communicate()[0]
    assert journal(killed) == journal(reference)
    assert bases_of(killed) == bases_of(reference) and len(bases_of(killed)) > 20
