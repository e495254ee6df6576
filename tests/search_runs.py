"""Searches on the landscape testbed, in this process: an experiment takes a millisecond.  Ideators here are scripted."""

import asyncio
import json
import random
import sqlite3

from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.search.config import SearchConfig
from ideator_rl.search.engine import search_loop
from ideator_rl.search.ideator import Answer
from ideator_rl.search.strategies import get_search_strategy
from ideator_rl.storage.bucket import open_bucket


def text(edits):
    """An idea of the landscape: `{knob: value}`."""
    spelled = " ".join(f"k{knob:02d}v{value}" for knob, value in sorted(edits.items()))
    return f"hm </think> [Experiment] {spelled} [Code Changes] apply [End]"


class RandomEdits:
    """Answers with two random edits, added to those of the first parent; seeded by the question."""

    name = "random edits"

    def __init__(self):
        self.asked = []

    async def ideas(self, ask, archive):
        self.asked.append(ask)
        rng = random.Random(ask.salt)
        return [self.idea(rng, ask.shown[:1] if ask.descends else ()) for _ in range(ask.count)]

    def idea(self, rng, parents):
        edits = {knob: rng.randrange(4) for knob in rng.sample(range(20), 2)}
        for parent in parents:
            tokens = parent.idea.split("[Code Changes]")[0].split()[1:]
            edits |= {int(token[1:3]): int(token[4]) for token in tokens}
        return Answer(text(edits), parents)

    def close(self):
        pass


class Lines:
    """Answers with the next texts of a list; when it is empty, with none."""

    name = "lines"

    def __init__(self, texts):
        self.texts, self.asked = list(texts), []

    async def ideas(self, ask, archive):
        self.asked.append(ask)
        answers, self.texts = self.texts[: ask.count], self.texts[ask.count :]
        return answers

    def close(self):
        pass


def configured(folder, **keys):
    defaults = {
        "output_dir": str(folder),
        "env": "landscape",
        "preset": "t0",
        "bucket": f"file://{folder}/bucket",
        "implementer": "envs.landscape.implementer.TokenEdits",
        "backend": "in_process",
        "epoch_size": 8,
        "batch": 4,
        "quorum": 1.0,
        "near_duplicates": None,
        "strategy": "best_of_n",
    }
    return SearchConfig(**{**defaults, **keys})


def go(config, ideator, say=lambda text: None, strategy=None):
    """One session; returns its stop reason."""
    buffer = RewardBuffer(config.buffer())
    strategy = strategy or get_search_strategy(config.strategy, config.strategy_options)

    async def work():
        await buffer.baseline()
        return await search_loop(config, buffer, ideator, strategy, say)

    try:
        return asyncio.run(work())
    finally:
        buffer.close()


def rows(folder, columns="step, position, status, experiment_id", where="1"):
    with sqlite3.connect(folder / "buffer.sqlite") as db:
        return db.execute(f"select {columns} from rollouts where {where} order by step, position").fetchall()


def specs(folder):
    """Experiments of codebases in the bucket."""
    bucket = open_bucket(f"file://{folder}/bucket")
    ids = [id for id in bucket.names("experiments") if bucket.get(f"experiments/{id}/spec.json")]
    baseline = [id for id in ids if json.loads(bucket.get(f"experiments/{id}/spec.json"))["implementer"] == "baseline"]
    return set(ids) - set(baseline)
