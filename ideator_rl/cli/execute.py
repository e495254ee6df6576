"""`ideator-rl execute`: the baseline, ideas or a patch, run as experiments; one record each, in the order given."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeVar

import yaml

from ideator_rl.cli.output import bucket_url, emit, read_patch, read_text, say, show
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer

FIRST = ("id", "status", "metric", "reward", "error", "seconds", "patch", "log", "isolation")
"""The keys of a record that are promised to programs; more may follow."""
T = TypeVar("T")
PHASES = ("implement", "queue", "run", "score")
PROGRESS_SECONDS = 5.0


def main(args: argparse.Namespace) -> int:
    """Returns 0 when every experiment succeeded, 1 when one did not."""
    ideas, patch = _ideas(args), read_patch(args.diff) if args.diff else None
    bucket = bucket_url(args.bucket)
    buffer = open_buffer(
        BufferConfig(
            environment=args.environment,
            preset=args.preset,
            bucket=bucket,
            implementer=args.implementer,
            coder=_coder(args.coder),
            max_usd=args.max_usd,
            max_coder_tokens=args.max_coder_tokens,
            slots=args.slots,
            isolation=args.isolation,
            replicates=args.replicates,
            seed=args.seed,
            outage_patience=0.0,  # a person is waiting
        )
    )
    sandbox = buffer.executor.sandbox
    isolation = sandbox.level + (f" ({sandbox.reason})" if sandbox.reason else "")
    say(f"implementer: {buffer.executor.implementer.name}; isolation: {isolation}; bucket: {bucket}")
    try:
        return asyncio.run(_execute(buffer, ideas, patch, args.json))
    finally:
        buffer.close()


async def with_progress(buffer: RewardBuffer, work: Coroutine[Any, Any, T]) -> T:
    """Wait for work on a buffer, with lines about it on stderr."""
    progress = asyncio.create_task(_progress(buffer))
    try:
        return await work
    finally:
        progress.cancel()
        with suppress(asyncio.CancelledError):
            await progress


async def _execute(buffer: RewardBuffer, ideas: list[str] | None, patch: str | None, as_json: bool) -> int:
    async def work() -> bool:
        succeeded = True
        async for record in _records(buffer, ideas, patch):
            succeeded &= record.status == SUCCEEDED
            emit(as_object(record)) if as_json else _show(record)
        return succeeded

    return 0 if await with_progress(buffer, work()) else 1


async def _records(buffer: RewardBuffer, ideas: list[str] | None, patch: str | None) -> AsyncIterator[Experiment]:
    """Records in the order of what was asked for; all of it runs at once, as far as slots go."""
    replicates = buffer.config.replicates
    if ideas is not None:
        early: dict[int, Experiment] = {}
        following = 0
        async for index, record in buffer.as_completed([idea for idea in ideas for _ in range(replicates)]):
            early[index] = record
            while following in early:
                yield early.pop(following)
                following += 1
        return
    one = buffer.baseline if patch is None else lambda replicate: buffer.score_patch(patch, replicate)
    tasks = [asyncio.ensure_future(one(replicate)) for replicate in range(replicates)]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()


def as_object(record: Experiment) -> dict[str, Any]:
    """A record as the JSON object that programs are promised."""
    whole = asdict(record)
    whole["seconds"] = dict.fromkeys(PHASES, 0.0) | whole["seconds"]
    return {key: whole.pop(key) for key in FIRST} | whole


def _coder(name: str | None) -> str:
    """The settings in a YAML file, as JSON; empty for none."""
    if name is None:
        return ""
    try:
        settings = yaml.safe_load(read_text(name))
    except yaml.YAMLError as error:
        raise IdeatorError(f"{name} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise IdeatorError(f"{name} must be a mapping of settings, got {type(settings).__name__}.")
    return json.dumps(settings, sort_keys=True)


def _ideas(args: argparse.Namespace) -> list[str] | None:
    """The completions that were given; None for the baseline and for a patch."""
    if args.idea is not None:
        return [_readable(args.idea)]
    if args.ideas is None:
        return None
    lines = enumerate(read_text(args.ideas).split("\n"), 1)
    found = [_idea(line, f"{args.ideas}, line {number}") for number, line in lines if line.strip()]
    if not found:
        raise IdeatorError(f"{args.ideas} holds no idea. Expected JSON lines, each a text or an object with 'idea'.")
    return found


def _idea(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise IdeatorError(f"{where} is not JSON ({error}). Expected a text or an object with 'idea'.") from None
    idea = value.get("idea", value.get("completion")) if isinstance(value, dict) else value
    if not isinstance(idea, str):
        raise IdeatorError(f"{where} holds no idea. Expected a text in quotes or an object with 'idea'.")
    return _readable(idea)


def _readable(text: str) -> str:
    """The text without bytes or halves of characters that no file can hold."""
    return text.encode("utf-8", "replace").decode()


async def _progress(buffer: RewardBuffer) -> None:
    last = ""
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        counts = buffer.counts()
        line = f"{counts['running']} running, {counts['waiting']} waiting, {counts['done']} done"
        if line != last:
            say(line)
        last = line


def _show(record: Experiment) -> None:
    words = [record.status]
    if record.metric is not None:
        words.append(f"{record.metric['name']} {record.metric['value']:.4f}")
    if record.reward is not None:
        words.append(f"reward {record.reward:.4f}")
    if "run" in record.seconds:
        words.append(f"{record.seconds['run']:.1f} s")
    words.append(f"isolation {record.isolation}" if record.isolation else "not run")
    show("  ".join([*words, record.id]) + ("  (from the bucket)" if record.replayed else ""))
    if record.error is not None:
        show("  " + record.error["message"].replace("\n", "\n  "))
    if record.patch:
        show("  " + record.patch.rstrip("\n").replace("\n", "\n  "))
