"""One turn of benchmarks/peers.py, run by the interpreter of a peer's environment: prints figures as one line of JSON.

The evaluators of the peers are called directly, without an LLM.  Both start the program in one fresh Python process,
with no sandbox, no limit but a time-out, and nothing hidden from it.

usage: PYTHON benchmarks/peers_turn.py openevolve|shinka BASELINE FOLDER
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

IN_TURN, TOGETHER, SLOTS = 20, 60, 2
EVALUATE = """
import json, os, subprocess, sys, tempfile

def evaluate(program_path):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, program_path], env={"IDEATOR_ARTIFACT": folder}, check=True, timeout=60,
                       stdout=subprocess.DEVNULL)
        with open(os.path.join(folder, "point.json")) as file:
            point = json.load(file)
    height = 0.5 + (point["x"] - 1) ** 2 + (point["y"] + 2) ** 2 + 0.1 * (point["z"] - 3) ** 2
    return {"combined_score": -height}
"""
"""OpenEvolve's evaluator file: its `Evaluator` calls `evaluate` in a thread."""
COMMAND = """
import json, os, runpy, sys

program, folder = sys.argv[2], sys.argv[4]
os.environ["IDEATOR_ARTIFACT"] = folder
runpy.run_path(program, run_name="__main__")
with open(os.path.join(folder, "point.json")) as file:
    point = json.load(file)
height = 0.5 + (point["x"] - 1) ** 2 + (point["y"] + 2) ** 2 + 0.1 * (point["z"] - 3) ** 2
for name, content in (("metrics", {"combined_score": -height}), ("correct", {"correct": True, "error": None})):
    with open(os.path.join(folder, name + ".json"), "w") as file:
        json.dump(content, file)
"""
"""Shinka's evaluation command: `--program_path PROGRAM --results_dir FOLDER`, without its numpy wrapper."""


def openevolve(programs: list[str], folder: Path) -> tuple[list[float], float]:
    """`Evaluator.evaluate_program`; seconds of each in turn, and of all together."""
    from openevolve.config import EvaluatorConfig
    from openevolve.evaluator import Evaluator

    file = folder / "evaluate.py"
    file.write_text(EVALUATE)
    config = EvaluatorConfig(parallel_evaluations=SLOTS, cascade_evaluation=False, max_retries=0)
    evaluator = Evaluator(config, str(file))

    async def evaluate(program: str) -> None:
        metrics = await evaluator.evaluate_program(program)
        assert metrics["combined_score"] < 0, metrics

    async def all_together() -> None:
        slots = asyncio.Semaphore(SLOTS)

        async def evaluate_in_slot(program: str) -> None:
            async with slots:
                await evaluate(program)

        await asyncio.gather(*map(evaluate_in_slot, programs[IN_TURN:]))

    async def measure() -> tuple[list[float], float]:
        await evaluate(programs[0])
        seconds = []
        for program in programs[:IN_TURN]:
            began = time.monotonic()
            await evaluate(program)
            seconds.append(time.monotonic() - began)
        began = time.monotonic()
        await all_together()
        return seconds, time.monotonic() - began

    return asyncio.run(measure())


def shinka(programs: list[str], folder: Path) -> tuple[list[float], float]:
    """`JobScheduler.run`, which looks every 0.5 s whether the process has ended; as `openevolve`."""
    from shinka.launch import JobScheduler, LocalJobConfig

    command = folder / "evaluate.py"
    command.write_text(COMMAND)
    scheduler = JobScheduler("local", LocalJobConfig(eval_program_path=str(command)), max_workers=SLOTS)

    def evaluate(number: int) -> float:
        began = time.monotonic()
        program = folder / f"program{number}.py"
        program.write_text(programs[number])
        results, _ = scheduler.run(str(program), str(folder / f"results{number}"))
        assert results["correct"]["correct"] and results["metrics"]["combined_score"] < 0, results
        return time.monotonic() - began

    evaluate(0)
    seconds = [evaluate(number) for number in range(IN_TURN)]
    began = time.monotonic()
    with ThreadPoolExecutor(SLOTS) as slots:
        list(slots.map(evaluate, range(IN_TURN, len(programs))))
    return seconds, time.monotonic() - began


PEERS = {"openevolve": openevolve, "shinka": shinka}
DISTRIBUTIONS = {"openevolve": "openevolve", "shinka": "shinka-evolve"}


def main(name: str, baseline: str, folder: str) -> dict[str, object]:
    logging.disable(logging.CRITICAL)
    source = Path(baseline).read_text()
    programs = [source.replace("x = 0.0", f"x = {5 + number / 64}") for number in range(IN_TURN + TOGETHER)]
    seconds, together = PEERS[name](programs, Path(folder))
    figures = {"wall, ms": [1000 * value for value in seconds], "a second": [TOGETHER / together]}
    return {"version": version(DISTRIBUTIONS[name]), "figures": figures}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
