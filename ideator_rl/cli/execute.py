"""`ideator-rl execute`: run the baseline, ideas or a patch as experiments; one record each, in the order given."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from ideator_rl.cli.output import bucket_url, print_json, print_progress, print_text, read_patch, read_text
from ideator_rl.config.backend_config import backend_config_text
from ideator_rl.config.reader import parse_json
from ideator_rl.config.yaml_reader import parse_yaml
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import LOST, SUCCEEDED, Experiment
from ideator_rl.llm.probe import probe_all
from ideator_rl.progress import ProgressReporter
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer
from ideator_rl.text.display import encodable, number
from ideator_rl.text.redaction import refuse_secrets

PROMISED_KEYS = ("id", "status", "metric", "reward", "error", "seconds", "patch", "log", "isolation")
"""Keys of a printed record that programs may rely on, in this order; more may follow."""
MAX_LINES = 200
"""Lines of a patch that a person is shown."""
PHASES = ("implement", "queue", "run", "score")


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
            backend=args.backend,
            backend_config=backend_config_text(args.backend_config),
            hardware=args.hardware,
            slots=args.slots,
            isolation=args.isolation,
            start=args.start,
            replicates=args.replicates,
            seed=args.seed,
            outage_patience=0.0,  # a person waits for the result
        )
    )
    sandbox = buffer.executor.sandbox
    isolation = sandbox.isolation + (f" ({sandbox.reason})" if sandbox.reason else "")
    print_progress(f"implementer: {buffer.executor.implementer.name}; isolation: {isolation}; bucket: {bucket}")
    progress = ExperimentProgress(buffer)
    progress.watch()
    try:
        if ideas is not None and not args.no_probe:
            asyncio.run(_probe(buffer, ideas))
        return asyncio.run(_execute(buffer, ideas, patch, args.json, progress))
    finally:
        progress.end()
        buffer.close()


async def _probe(buffer: RewardBuffer, ideas: list[str]) -> None:
    """
    Raises:
        ProbeFailed: the implementer's service would not answer.
    """
    # Answers in the bucket cost nothing, and need no service.
    if not await buffer.executor.has_answers(ideas):
        await probe_all(buffer.executor.probe)


class ExperimentProgress(ProgressReporter):
    """The experiments of a command."""

    def __init__(self, buffer: RewardBuffer):
        super().__init__()
        self._buffer = buffer

    def parts(self) -> list[str]:
        counts = self._buffer.counts()
        return [f"{counts['done']} done", f"{counts['running']} running, {counts['waiting']} waiting"]


async def _execute(
    buffer: RewardBuffer, ideas: list[str] | None, patch: str | None, as_json: bool, progress: ExperimentProgress
) -> int:
    succeeded = True
    async for record in _records(buffer, ideas, patch):
        succeeded &= record.status == SUCCEEDED
        # Once the run has to stop, that is the reason of every further loss: it is printed once, at the end.
        stopped = buffer.executor.losses.stop is not None and record.status == LOST
        progress.hide()
        print_json(record_facts(record)) if as_json else _show(record, with_reason=not stopped)
    buffer.executor.losses.refuse()
    return 0 if succeeded else 1


async def _records(buffer: RewardBuffer, ideas: list[str] | None, patch: str | None) -> AsyncIterator[Experiment]:
    """Records in the order of the input; as many run at once as there are slots."""
    replicates = buffer.config.replicates
    if ideas is not None:
        early: dict[int, Experiment] = {}  # finished before an earlier idea of the input
        next_index = 0
        async for index, record in buffer.as_completed([idea for idea in ideas for _ in range(replicates)]):
            early[index] = record
            while next_index in early:
                yield early.pop(next_index)
                next_index += 1
        return
    # All replicates start at once; when one raises, the others are cancelled.
    score = buffer.baseline if patch is None else lambda replicate: buffer.score_patch(patch, replicate)
    tasks = [asyncio.ensure_future(score(replicate)) for replicate in range(replicates)]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()


def record_facts(record: Experiment) -> dict[str, Any]:
    """A record as the JSON object that `--json` prints."""
    fields = asdict(record)
    fields["seconds"] = dict.fromkeys(PHASES, 0.0) | fields["seconds"]
    return {key: fields.pop(key) for key in PROMISED_KEYS} | fields


def _coder(name: str | None) -> str:
    """The settings in a YAML file, as JSON; empty for none."""
    if name is None:
        return ""
    settings = parse_yaml(read_text(name), name, IdeatorError)
    if not isinstance(settings, dict):
        raise IdeatorError(f"{name} must be a mapping of settings, got {type(settings).__name__}.")
    refuse_secrets(settings, f"{name} has", IdeatorError)
    return json.dumps(settings, sort_keys=True)


def _ideas(args: argparse.Namespace) -> list[str] | None:
    """The completions of the command line; None for the baseline and for a patch."""
    if args.idea is not None:
        return [encodable(args.idea)]
    if args.ideas is None:
        return None
    lines = enumerate(read_text(args.ideas).split("\n"), 1)
    ideas = [_idea(line, f"{args.ideas}, line {number}") for number, line in lines if line.strip()]
    if not ideas:
        raise IdeatorError(f"{args.ideas} has no idea. Expected JSON lines, each a text or an object with 'idea'.")
    return ideas


def _idea(line: str, location: str) -> str:
    value = parse_json(line, location, IdeatorError)
    idea = value.get("idea", value.get("completion")) if isinstance(value, dict) else value
    if not isinstance(idea, str):
        raise IdeatorError(f"{location} has no idea. Expected a text in quotes or an object with 'idea'.")
    return encodable(idea)


def _show(record: Experiment, with_reason: bool) -> None:
    parts = [record.status]
    if record.metric is not None:
        parts.append(f"{record.metric['name']} {number(record.metric['value'])}")
    parts += [f"{name} {number(value)}" for name, value in record.secondary.items()]
    if record.reward is not None:
        parts.append(f"reward {number(record.reward)}")
    if "run" in record.seconds:
        parts.append(f"{record.seconds['run']:.1f} s")
    parts.append(f"isolation {record.isolation}" if record.isolation else "not run")
    print_text("  ".join([*parts, record.id]) + ("  (from the bucket)" if record.replayed else ""))
    if record.error is not None and with_reason:
        print_text("  " + record.error["message"].replace("\n", "\n  "))
    if record.text and record.text != (record.error or {}).get("message"):
        print_text("  " + record.text.replace("\n", "\n  "))
    if record.patch:
        print_text("\n".join("  " + line for line in shown_lines(record.patch)))


def shown_lines(patch: str) -> list[str]:
    """The lines of a patch, or of the answer that is none, for a person: a model may have written thousands."""
    lines = patch.rstrip("\n").split("\n")
    if len(lines) <= MAX_LINES:
        return lines
    return [*lines[:MAX_LINES], f"… and {len(lines) - MAX_LINES} more lines; --json prints all"]
