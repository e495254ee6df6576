"""One part of benchmarks/overhead.py, in a process of its own: prints figures as one line of JSON.

Uses only what 0.1.0 has too, so that the interpreter of an older checkout can run it.

usage: PYTHON benchmarks/overhead_parts.py PART ENVIRONMENT FOLDER [START]
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import fields

from cpu_account import CpuAccount, cpu_account

from ideator_rl.experiment import Experiment
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer

Figures = dict[str, list[float]]
"""Values by label; the labels end in their unit."""
PHASES = ("queue", "run", "score")


def noop(buffer: RewardBuffer, account: CpuAccount) -> Figures:
    """No-op experiments, each when the one before has ended."""
    return _in_turn(buffer, account, [_edit(buffer, "x", 5 + number / 64) for number in range(20)])


def noops(buffer: RewardBuffer, account: CpuAccount) -> Figures:
    """No-op experiments, all requested at once, on two slots."""
    return _together(buffer, account, [_edit(buffer, "x", 5 + number / 64) for number in range(60)], "a second")


def nanogpt(buffer: RewardBuffer, account: CpuAccount) -> Figures:
    """The cpu preset of nanogpt with other learning rates, on two slots."""
    edits = [_edit(buffer, "learning_rate", 1e-3 + number * 7e-5) for number in range(1, 7)]
    return _together(buffer, account, edits, "a minute")


def packing(buffer: RewardBuffer, account: CpuAccount) -> Figures:
    """100 evaluations of a small task that imports numpy, on two slots."""
    return _together(buffer, account, [_edit(buffer, "shift", number / 128) for number in range(1, 101)], "a second")


PARTS: dict[str, tuple[Callable[[RewardBuffer, CpuAccount], Figures], int]] = {
    "noop": (noop, 1),
    "noops": (noops, 2),
    "nanogpt": (nanogpt, 2),
    "packing": (packing, 2),
}
"""Function and slots of each part."""


def main(part: str, environment: str, folder: str, start: str = "") -> Figures:
    """Run a part after one experiment that is not counted: processes that are started once are its cost."""
    function, slots = PARTS[part]
    options = {"start": start} if start and "start" in {field.name for field in fields(BufferConfig)} else {}
    with cpu_account() as account:
        config = BufferConfig(environment, "cpu", f"file://{folder}/bucket", run_dir=folder, slots=slots, **options)
        buffer = RewardBuffer(config)
        began = time.monotonic()
        # The unchanged baseline, which no edit repeats.
        _check(asyncio.run(buffer.baseline()))
        figures = {"first experiment, ms": [1000 * (time.monotonic() - began)]}
        figures |= function(buffer, account)
        buffer.close()
    return figures


def _in_turn(buffer: RewardBuffer, account: CpuAccount, patches: list[str]) -> Figures:
    walls, records, cpu = [], [], account.seconds()
    for patch in patches:
        began = time.monotonic()
        records.append(_check(asyncio.run(buffer.score_patch(patch))))
        walls.append(1000 * (time.monotonic() - began))
    cpu = account.seconds() - cpu
    return {"wall, ms": walls, "CPU each, ms": [1000 * cpu / len(patches)]} | _phases(records)


def _together(buffer: RewardBuffer, account: CpuAccount, patches: list[str], unit: str) -> Figures:
    """`unit` is "a second" or "a minute"."""

    async def score_all() -> list[Experiment]:
        return await asyncio.gather(*(buffer.score_patch(patch) for patch in patches))

    cpu, began = account.seconds(), time.monotonic()
    records = [_check(record) for record in asyncio.run(score_all())]
    wall, cpu = time.monotonic() - began, account.seconds() - cpu
    rate = len(patches) / wall * (60 if unit == "a minute" else 1)
    return {f"all {len(patches)}, s": [wall], unit: [rate], "CPU each, s": [cpu / len(patches)]} | _phases(records)


def _phases(records: list[Experiment]) -> Figures:
    """From the records: until claimed, the experiment itself, its measurement."""
    return {f"{phase}, ms": [1000 * record.seconds[phase] for record in records] for phase in PHASES}


def _check(record: Experiment) -> Experiment:
    if record.status != "succeeded" or record.replayed:
        raise SystemExit(f"{record.status}, replayed: {record.replayed}: {record.error}")
    return record


def _edit(buffer: RewardBuffer, name: str, value: float) -> str:
    """A patch that assigns another value in train.py."""
    line = next(line for line in buffer.executor.base["train.py"].splitlines() if line.startswith(f"{name} = "))
    return f"train.py\n<<<<<<< SEARCH\n{line}\n=======\n{name} = {value!r}\n>>>>>>> REPLACE\n"


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
