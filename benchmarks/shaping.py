"""The cost per step of the rewards that compare ideas: a batch against all ideas of earlier steps in the journal.

    python benchmarks/shaping.py [--batch 256] [--earlier 10000] [--embedder hashed]

The first call embeds all earlier ideas, as a resumed run does; the second shows the cost of a step.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from ideator_rl.environments.catalogue.catalogue import idea_corpus  # noqa: E402
from ideator_rl.environments.environment import load_environment  # noqa: E402
from ideator_rl.reward_buffer import BufferConfig, open_buffer  # noqa: E402
from ideator_rl.rewards.novelty import novelty_reward  # noqa: E402
from ideator_rl.rewards.similarity import similarity_penalty  # noqa: E402
from ideator_rl.storage.journal import Journal  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--earlier", type=int, default=10_000)
    parser.add_argument("--embedder", default="hashed")
    options = parser.parse_args()
    ideas = idea_corpus(load_environment("nanogpt"), options.earlier + 2 * options.batch, 0)
    with tempfile.TemporaryDirectory() as folder:
        config = BufferConfig(str(ROOT / "tests/toy_env"), "cpu", f"file://{folder}/bucket", run_dir=folder)
        steps = -(-options.earlier // options.batch)
        _propose(Path(folder) / "buffer.sqlite", ideas[: options.earlier], options.batch)
        buffer = open_buffer(config)
        columns = {key: value for key, value in asdict(config).items() if value not in (None, "")}
        columns |= {"novelty_embedder": options.embedder, "similarity_steps": steps}
        print(f"{options.batch} ideas against {options.earlier} of {steps} earlier steps, embedder {options.embedder}")
        for name, function in (("novelty", novelty_reward), ("similarity", similarity_penalty)):
            for call in range(2):
                batch = ideas[options.earlier + call * options.batch :][: options.batch]
                wall, cpu = _seconds(function, batch, columns, steps + call)
                print(f"{name:<11}call {call + 1}  {wall:.2f} s, {cpu:.2f} s of CPU time")
        buffer.close()


def _propose(journal: Path, ideas: list[str], batch: int) -> None:
    opened = Journal(journal)
    for step, start in enumerate(range(0, len(ideas), batch)):
        opened.propose(step, ideas[start : start + batch])
    opened.close()


def _seconds(function: Any, completions: list[str], columns: dict[str, Any], step: int) -> tuple[float, float]:
    rows = {key: [value] * len(completions) for key, value in columns.items()}
    since, before = time.perf_counter(), time.process_time()
    asyncio.run(function([""] * len(completions), completions, trainer_state=SimpleNamespace(global_step=step), **rows))
    return time.perf_counter() - since, time.process_time() - before


if __name__ == "__main__":
    main()
