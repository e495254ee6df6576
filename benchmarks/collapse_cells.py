"""One cell of the collapse benchmark: a method on a landscape, run by the library's trainer or search, and read back.

Nothing is simulated but the landscape: RL is `ideator_rl.training.run.train` on a recipe, search is
`ideator_rl.search.engine.search_loop` on one; both score ideas through `RewardBuffer` with the backend `in_process`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from collapse_methods import BATCH, METHODS, ORACLE, SEARCH, Method, steps_of
from collapse_oracle import run_oracle
from collapse_records import read_cell

from ideator_rl.environments.environment import load_environment
from ideator_rl.envs.landscape.prior import prior
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.search.config import load_search
from ideator_rl.search.engine import search_loop
from ideator_rl.search.ideator import Subject
from ideator_rl.search.ideators import get_ideator
from ideator_rl.search.strategies import get_search_strategy
from ideator_rl.storage.bucket import MemoryBucket
from ideator_rl.storage.run_folder import MARK
from ideator_rl.training.progress import Progress

HERE = Path(__file__).parent


class Enough(Exception):
    """The budget of unique experiments is spent."""


class Stopping(Progress):
    """Prints nothing, and ends a run after the step in which its budget was spent."""

    def __init__(self, budget: int):
        super().__init__()
        self._budget = budget

    def say(self, *_: Any, **__: Any) -> None:
        pass

    def watch(self) -> None:
        pass

    def stepped(self, step: int) -> None:
        super().stepped(step)
        if self.buffer is not None and self.buffer.counts()["distinct"] >= self._budget:
            raise Enough


def run_cell(
    name: str, preset: str, budget: int, most: int, keys: dict[str, Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Run a method on a landscape; the result, with what it took.

    Args:
        budget: unique experiments.
        most: ideas after which it ends although it has not run so many.
        keys: of the recipe, in the place of the method's own.
    """
    method = METHODS[name]
    began, spent = time.monotonic(), time.process_time()
    landscape_seed = load_environment("landscape").preset(preset).settings["seed"]
    recipe_keys = {**method.keys, **(keys or {})}
    if method.kind == ORACLE:
        result = run_oracle(landscape_seed, budget, most, **recipe_keys, chance=seed)
    else:
        result = _run(method, {**recipe_keys, "preset": preset, "seed": seed}, landscape_seed, budget, most)
    return {
        "method": name,
        "landscape": preset,
        "budget": budget,
        "most_proposed": most,
        "seed": seed,
        "keys": keys or {},
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(time.process_time() - spent, 1),
        **result,
    }


def _run(method: Method, recipe_keys: dict[str, Any], landscape_seed: int, budget: int, most: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="collapse-") as folder:
        run, bucket = Path(folder) / "run", f"memory://{folder}"
        recipe_keys["bucket"] = bucket
        try:
            with quiet():
                if method.kind == SEARCH:
                    # A screen's samples are ideas too; those that are not run are no experiments.
                    most *= (recipe_keys.get("screen") or {}).get("over", 1)
                    _search(run, {**recipe_keys, "max_experiments": budget, "max_ideas": most})
                else:
                    _train(run, {**recipe_keys, "max_steps": steps_of(recipe_keys, most)}, budget)
        finally:
            MemoryBucket.forget(bucket)
        return read_cell(run, landscape_seed, budget)


def _train(run: Path, keys: dict[str, Any], budget: int) -> None:
    from ideator_rl.publishing.cards import model_card
    from ideator_rl.training.recipe.recipe import load_recipe
    from ideator_rl.training.run import train

    keys = {"model_name_or_path": str(prior()), "output_dir": str(run), **keys}
    recipe = load_recipe(str(HERE / "collapse.yaml"), words(keys))
    with contextlib.suppress(Enough):
        train(recipe, False, Stopping(budget), model_card)


def _search(run: Path, keys: dict[str, Any]) -> None:
    config = load_search(str(HERE / "collapse_search.yaml"), words({"output_dir": str(run), **keys}))
    options = {"model": str(prior()), "max_tokens": 40, "batch": BATCH, "cpu_threads": 1}
    run.mkdir(parents=True)
    (run / MARK).write_text(config.text(), encoding="utf-8")
    buffer = RewardBuffer(config.buffer())
    subject = Subject(buffer.executor.environment, config.preset)
    ideator = get_ideator(config.ideator, options, subject)
    strategy = get_search_strategy(config.strategy, config.strategy_options)

    async def work() -> None:
        for replicate in range(config.baseline_replicates):
            await buffer.baseline(replicate)
        await search_loop(config, buffer, ideator, strategy)

    try:
        asyncio.run(work())
    finally:
        ideator.close()
        buffer.close()


def words(keys: dict[str, Any]) -> list[str]:
    """Overrides for a recipe's command line."""
    return [word for key, value in keys.items() for word in (f"--{key}", json.dumps(value))]


@contextlib.contextmanager
def quiet() -> Any:
    """Libraries and summaries write to stdout; the benchmark's lines should be found again."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
