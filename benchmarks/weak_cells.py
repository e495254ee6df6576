"""One cell of the comparison with a weak ideator: an arm under a seed, run by the library's search or trainer.

ideator_of   the warm-up of a seed, once, and how many of its answers can be run
run_cell     a run to its budget; one that was killed goes on
rerun_bests  the best of each arm of a seed, three more times, in turn about
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from collapse_cells import Enough, words
from weak_arms import ALL, LEAST_RUNNABLE, MOST_TOKENS, SEARCH, keys_of
from weak_figures import figures_in_budget

from ideator_rl.archive.archive import archive_of
from ideator_rl.environments.environment import load_environment
from ideator_rl.experiment import LOST, RERUN_REPLICATE, SUCCEEDED
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from ideator_rl.screen.pool import candidate_of
from ideator_rl.search.ideator import FREE, Ask, Subject
from ideator_rl.search.ideators import get_ideator
from ideator_rl.storage.run_reader import read_run
from ideator_rl.training.checkpoints import last_checkpoint
from ideator_rl.training.progress import Progress

ENVIRONMENT, PRESET = "nanogpt", "cpu"
SAMPLED, AGAIN = 128, 3
"""Answers of which the share that can be run is measured; further runs of a run's best."""


class Ending(Progress):
    """Ends a run of RL before the first batch after its budget was spent, when the last update is saved."""

    def __init__(self, budget: int):
        super().__init__()
        self._budget = budget

    def watch(self) -> None:
        pass

    def phase(self, name: str) -> AbstractContextManager[None]:
        if name == "generation" and self._spent() >= self._budget:
            raise Enough
        return super().phase(name)

    def _spent(self) -> int:
        """Distinct experiments of all sessions: the buffer's own count begins anew in a resumed run."""
        history = self.buffer.history if self.buffer is not None else []
        return len({record.id for record in history if record.tree and record.status != LOST})


def ideator_of(folder: Path, seed: int, sft_steps: int) -> Path:
    """An ideator with the warm-up of recipes/default.yaml, shortened; it is made once."""
    target = folder / f"ideator-{seed}-{sft_steps}"
    if not target.is_dir():
        line = ["-m", "ideator_rl.sft", "--config", "default.yaml", "--out", str(target), "--seed", str(seed)]
        line += ["--sft_steps", str(sft_steps), "--output_dir", str(folder / f"warmup-{seed}")]
        subprocess.run([sys.executable, *line], check=True)
    return target


def weak_ideator(folder: Path, seed: int, steps: Sequence[int]) -> dict[str, Any]:
    """The weak ideator of a seed: the first of these numbers of steps with enough answers that can be run, or the last.

    Returns:
        its line of the results; the model is `ideator_of` its seed and steps.
    """
    shares: dict[str, float] = {}
    for sft_steps in steps:
        shares[str(sft_steps)] = runnable_share(folder, ideator_of(folder, seed, sft_steps), seed)
        if shares[str(sft_steps)] >= LEAST_RUNNABLE:
            break
    chosen, share = list(shares.items())[-1]
    return {
        "kind": "ideator",
        "seed": seed,
        "sft_steps": int(chosen),
        "sampled": SAMPLED,
        "runnable": share,
        "tried": shares,
    }


def runnable_share(folder: Path, model: Path, seed: int) -> float:
    """The share of a model's answers to the prompt without past ideas that the rules can read and apply.

    Nothing is executed: of what is applied, 96 to 100 % succeeded in earlier runs.
    """
    keys = {"model": str(model), "cpu_threads": 1, "max_tokens": MOST_TOKENS}
    buffer = RewardBuffer(BufferConfig(ENVIRONMENT, PRESET, bucket_url(folder), run_dir=str(folder / "samples")))
    ideator = get_ideator("local", keys, Subject(load_environment(ENVIRONMENT), PRESET))

    async def work() -> list[bool]:
        texts = await ideator.ideas(Ask(FREE, SAMPLED, salt=f"weak:{seed}"), archive_of(buffer))
        return [(await candidate_of(buffer.executor, text))[0] is not None for text in texts]

    try:
        return sum(asyncio.run(work())) / SAMPLED
    finally:
        ideator.close()
        buffer.close()


def run_cell(folder: Path, name: str, seed: int, budget: int, model: Path, slots: int | None = None) -> dict[str, Any]:
    """Run an arm to its budget of distinct experiments, and return its figures.

    Args:
        model: folder of the ideator.
        slots: experiments at a time; None for this process's share of the cores.
    """
    arm, began = ALL[name], time.monotonic()
    target = folder / f"{name}-{seed}-{budget}"
    keys = keys_of(arm, budget) | {"output_dir": str(target), "bucket": bucket_url(folder), "seed": seed}
    if slots:
        keys["slots"] = slots
    resume = (target / "recipe.yaml").is_file()
    if arm.kind == SEARCH:
        _search(keys, str(model), resume)
    else:
        _train(keys, str(model), budget, resume)
    run = read_run(target)
    # A frozen ideator runs as many of its answers at the end as at the start.
    checkpoint = None if arm.kind == SEARCH else last_checkpoint(target)
    return {
        "kind": "cell",
        "arm": name,
        "seed": seed,
        "budget": budget,
        "seconds": round(time.monotonic() - began),
        "resumed": resume,
        "updates": int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0,
        **figures_in_budget(run, budget),
        "runnable_after": runnable_share(folder, checkpoint, seed) if checkpoint else None,
    }


def rerun_bests(folder: Path, bests: dict[str, str], seed: int) -> list[dict[str, Any]]:
    """Run the best experiment of each arm again under three further seeds, and the baseline under the same.

    Replicate by replicate over all arms, so that a busy moment of the machine meets all of them.

    Args:
        bests: experiment id by arm.
    """
    config = BufferConfig(ENVIRONMENT, PRESET, bucket_url(folder), seed=seed, run_dir=str(folder / f"reruns-{seed}"))
    buffer = RewardBuffer(config)

    async def work() -> dict[str, list[float | None]]:
        values: dict[str, list[float | None]] = {name: [] for name in ("baseline", *bests)}
        for replicate in range(RERUN_REPLICATE, RERUN_REPLICATE + AGAIN):
            runs = [buffer.baseline(replicate), *(buffer.rerun(id, replicate) for id in bests.values())]
            for name, record in zip(values, await asyncio.gather(*runs), strict=True):
                succeeded = record.status == SUCCEEDED and record.metric
                values[name].append(round(float(record.metric["value"]), 4) if succeeded else None)
        return values

    try:
        values = asyncio.run(work())
    finally:
        buffer.close()
    baseline = values.pop("baseline")
    return [{"arm": name, "values": own, "baseline": baseline} for name, own in values.items()]


def bucket_url(folder: Path) -> str:
    """One bucket for all cells: what two runs have in common is executed once, and charged to both."""
    return (folder.absolute() / "bucket").as_uri()


def append(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _search(keys: dict[str, Any], model: str, resume: bool) -> None:
    from ideator_rl.search.config import load_search
    from ideator_rl.search.run import run_search

    keys["ideator_options"] = {"model": model, "cpu_threads": 1, "max_tokens": MOST_TOKENS}
    run_search(load_search("search_nanogpt_cpu.yaml", words(keys)), resume)


def _train(keys: dict[str, Any], model: str, budget: int, resume: bool) -> None:
    from ideator_rl.publishing.cards import model_card
    from ideator_rl.training.recipe.recipe import load_recipe
    from ideator_rl.training.run import train

    recipe = load_recipe("default.yaml", words({"model_name_or_path": model, **keys}))
    with contextlib.suppress(Enough):
        train(recipe, resume, Ending(budget), model_card)
