"""What waiting costs: seconds a step, and the use of paid experiments, of stock TRL and of this trainer.

    python benchmarks/pipeline.py [--steps 24] [--only NAME …] [--out FILE.json]

The real `GRPOTrainer` and `IdeatorGRPOTrainer` with a policy of 50 thousand parameters, the real executor and journal,
and a SIMULATED fleet: experiments take seconds drawn from a log-normal distribution with stragglers, some are lost
after three attempts, and nothing runs.  The policy writes noise; a wrapper puts it into the form of an idea, so that
every completion is an experiment of its own.  Times are of steps between the filling of the pipeline and its emptying.

The bound is max(g, fleet, (L + g) / (lag + 1)): g is generate and update, measured with rewards that are there at
once; fleet is the slot-seconds that a step's experiments took, divided by slots, measured in the same window; L is the
time until the quorum of one batch on an empty fleet, simulated.  With as many slots as experiments and lag 1 the last
term is left out.  The ideal is a simulation of clocks alone: what this lag and quorum could reach on this fleet if
nothing took time but experiments and g.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from tiny_policy import arguments, build, draw, save_policy  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from trl import GRPOTrainer  # noqa: E402

from benchmarks.fleet import VARIABLE, read_ledger  # noqa: E402
from benchmarks.fleet_floor import Nature  # noqa: E402
from benchmarks.pipeline_ideal import Fleet, ideal_seconds, quorum_seconds  # noqa: E402
from ideator_rl.archive.prompt_rows import prompt_rows  # noqa: E402
from ideator_rl.environments.environment import load_environment  # noqa: E402
from ideator_rl.experiment import LOST  # noqa: E402
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer  # noqa: E402
from ideator_rl.rewards.execution import execution_reward  # noqa: E402
from ideator_rl.training.batch_closing import TrainBatch  # noqa: E402
from ideator_rl.training.pipeline_config import PipelineConfig  # noqa: E402
from ideator_rl.training.trainer import IdeatorGRPOTrainer  # noqa: E402

TOY = str(ROOT / "tests" / "toy_env")
FILL = 4
"""Steps before the clock starts."""


FLEETS = {
    "as many slots as experiments": Fleet(64, 64, Nature(1.5, 0.6, 0.05, 4.0, 0.03, 1)),
    "a heavier tail": Fleet(64, 64, Nature(1.0, 1.0, 0.08, 8.0, 0.05, 2)),
    "twice the slots": Fleet(128, 64, Nature(1.5, 0.6, 0.05, 4.0, 0.03, 3)),
    "four times the slots": Fleet(256, 64, Nature(1.5, 0.6, 0.05, 4.0, 0.03, 4)),
    "half the slots": Fleet(64, 128, Nature(1.0, 0.6, 0.05, 4.0, 0.03, 5)),
}
VARIANTS: dict[str, PipelineConfig | None] = {
    "stock TRL": None,
    "lag 0": PipelineConfig(),
    "lag 0, quorum 0.9": PipelineConfig(0, 0.9),
    "lag 1": PipelineConfig(1),
    "lag 1, quorum 0.9": PipelineConfig(1, 0.9),
    "lag 1, quorum 0.8": PipelineConfig(1, 0.8),
    "lag 2": PipelineConfig(2),
    "lag 2, quorum 0.9": PipelineConfig(2, 0.9),
    "lag 2, quorum 0.8": PipelineConfig(2, 0.8),
}


@dataclass
class Result:
    fleet: str
    variant: str
    seconds: float
    """Wall clock a step."""
    generate_update: float
    fleet_seconds: float
    """Slot-seconds that a step took, over slots."""
    quorum_seconds: float
    bound: float
    ideal: float
    utilisation: float
    proposed: int
    trained: int
    archived_only: int
    lost: int
    neither: int
    """Experiments that were paid for, had a result, and are neither trained on nor archived."""


class _Clock(TrainerCallback):
    """The time of every step's end, and the fleet's slot-seconds by then."""

    def __init__(self, buffer: RewardBuffer | None = None) -> None:
        self._buffer = buffer
        self.ticks: list[tuple[float, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ticks.append((time.time(), _spent(self._buffer) if self._buffer is not None else 0.0))


def _spent(buffer: RewardBuffer) -> float:
    """Slot-seconds so far, of attempts under way too."""
    floor = buffer.executor.backend.floor  # type: ignore[attr-defined]
    now = time.time()
    return float(floor.slot_seconds + sum(now - attempt.started for attempt in list(floor.running.values())))


async def noise_as_ideas(completions: list[str], **given: Any) -> list[float | None]:
    """What stock TRL is given: all rewards at once, when the last is there."""
    return await execution_reward(completions=_ideas(completions, given["trainer_state"]), **given)


async def _as_completed(completions: list[str], **given: Any) -> Any:
    async for answer in execution_reward.as_completed(completions=_ideas(completions, given["trainer_state"]), **given):
        yield answer


noise_as_ideas.as_completed = _as_completed  # type: ignore[attr-defined]


def _ideas(texts: list[str], state: Any) -> list[str]:
    clean = [text.replace("[", "(").replace("]", ")") for text in texts]
    return [f"[Experiment] {t} [Code Changes] {state.global_step}.{row} {t} [End]" for row, t in enumerate(clean)]


async def at_once(completions: list[str], **_: Any) -> list[float]:
    return [draw(text) for text in completions]


def generate_and_update(fleet: Fleet, policy: str, steps: int = 12) -> float:
    """Median seconds of a step of stock TRL whose rewards are there at once."""
    clock = _Clock()
    rows = Dataset.from_list([{"prompt": "Propose an idea."}] * (fleet.batch // 16))
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(GRPOTrainer, policy, _arguments(folder, fleet, steps), at_once, rows)
        trainer.add_callback(clock)
        trainer.train()
    ends = [when for when, _ in clock.ticks]
    return statistics.median(after - before for before, after in zip(ends[1:], ends[2:], strict=False))


def _arguments(folder: str, fleet: Fleet, steps: int) -> Any:
    more = {"per_device_train_batch_size": fleet.batch, "num_generations": 16, "max_completion_length": 16}
    return arguments(folder, max_steps=steps, logging_steps=1000, learning_rate=1e-4, **more)


def measure(name: str, variant: str, policy: str, steps: int, g: float) -> Result:
    """One run of a trainer on a fleet."""
    fleet, pipeline = FLEETS[name], VARIANTS[variant]
    folder = Path(tempfile.mkdtemp(prefix="pipeline-"))
    os.environ[VARIABLE] = json.dumps({**asdict(fleet.nature), "ledger": str(folder / "ledger.jsonl")})
    config = BufferConfig(
        TOY, "cpu", f"memory://{folder.name}", implementer="benchmarks.fleet.HashedIdeas", slots=fleet.slots,
        backend="benchmarks.fleet.SimulatedFleet", run_dir=str(folder),
    )  # fmt: skip
    rows = Dataset.from_list(prompt_rows(load_environment(TOY), config, fleet.batch // 16))
    buffer = open_buffer(config)
    clock = _Clock(buffer)
    try:
        more = {} if pipeline is None else {"pipeline": pipeline}
        kind = GRPOTrainer if pipeline is None else IdeatorGRPOTrainer
        trainer = build(kind, policy, _arguments(str(folder), fleet, steps), noise_as_ideas, rows, **more)
        trainer.add_callback(clock)
        trainer.train()
        if pipeline is not None:
            trainer.reward_runner.run(buffer.drain(120))
        fates = _fates(folder, buffer, pipeline is None)
    finally:
        buffer.close()
        shutil.rmtree(folder, ignore_errors=True)
    lag, quorum = (0, 1.0) if pipeline is None else (pipeline.max_staleness, pipeline.quorum)
    (since, spent), (until, by_then) = clock.ticks[FILL - 1], clock.ticks[-1 - lag]
    count = len(clock.ticks) - FILL - lag
    work = (by_then - spent) / fleet.slots / count
    wait = quorum_seconds(fleet, quorum)
    terms = [g, work] if fleet.slots == fleet.batch and lag == 1 else [g, work, (wait + g) / (lag + 1)]
    ideal = ideal_seconds(fleet, lag, quorum, g)
    used = (by_then - spent) / fleet.slots / (until - since)
    return Result(name, variant, (until - since) / count, g, work, wait, max(terms), ideal, used, **fates)


def _fates(folder: Path, buffer: Any, stock: bool) -> dict[str, int]:
    """What became of every proposal, and of everything that was paid for."""
    import sqlite3

    with sqlite3.connect(folder / "buffer.sqlite") as db:
        rows = db.execute("select step, position, status, experiment_id from rollouts").fetchall()
    lost = sum(status == LOST for _, _, status, _ in rows)
    trained = len(rows) - lost
    if not stock:
        lines = (folder / "rollouts" / "closings.jsonl").read_text().splitlines()
        slots = [slot for line in lines for slot in TrainBatch.from_json(json.loads(line)).slots]
        trained = sum(outcome is not None and outcome.has_reward for slot in slots for outcome in slot.outcomes)
    archived = {record.id for record in buffer.history}
    paid = {id for id, entry in read_ledger(folder / "ledger.jsonl").items() if entry.outcomes["succeeded"]}
    counts = {"proposed": len(rows), "trained": trained, "archived_only": len(rows) - lost - trained, "lost": lost}
    return {**counts, "neither": len(paid - archived)}


def table(results: list[Result]) -> str:
    """Markdown."""
    header = "fleet, trainer, s a step, bound, over bound, ideal, use, proposed, trained, archived only, lost, neither"
    columns = header.split(", ")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for r in results:
        lines.append(
            f"| {r.fleet} | {r.variant} | {r.seconds:.2f} | {r.bound:.2f} | {r.seconds / r.bound:.2f} "
            f"| {r.ideal:.2f} | {r.utilisation:.0%} | {r.proposed} | {r.trained} | {r.archived_only} | {r.lost} "
            f"| {r.neither} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--only", nargs="*", default=[], help="fleets, by the start of their names")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("trl").setLevel(logging.ERROR)  # it warns of every row that was lost
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        policy = save_policy(Path(folder) / "policy")
        for name, fleet in FLEETS.items():
            if args.only and not name.startswith(tuple(args.only)):
                continue
            g = generate_and_update(fleet, policy)
            print(f"{name}: {fleet}; generate and update {g:.2f} s a step", file=sys.stderr, flush=True)
            for variant in args.variants:
                results.append(measure(name, variant, policy, args.steps, g))
                print(json.dumps(asdict(results[-1])), file=sys.stderr, flush=True)
    print(table(results))
    if args.out:
        args.out.write_text(json.dumps([asdict(result) for result in results], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
