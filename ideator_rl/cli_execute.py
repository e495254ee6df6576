"""The commands `execute` and `patch`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ideator_rl.environment import load_environment
from ideator_rl.environment_data import cache_root
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.patch import PatchError, apply_patch, diff, judge, read_tree, write_tree
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer


def execute(options: argparse.Namespace) -> int:
    """Returns 0 when every experiment succeeded, else 1."""
    texts = _ideas(options.ideas) if options.ideas else [options.idea]
    patch = _read_patch(options.diff) if options.diff else ""
    bucket = options.bucket or (cache_root() / "bucket").as_uri()
    config = BufferConfig(
        environment=options.environment,
        preset=options.preset,
        bucket=bucket,
        implementer=options.implementer,
        slots=options.slots,
        isolation=options.isolation,
        seed=options.seed,
        replicates=options.replicates,
    )
    buffer = RewardBuffer(config)
    sandbox = buffer.executor.sandbox
    if sandbox.reason:
        print(f"isolation: {sandbox.level} ({sandbox.reason})", file=sys.stderr)
    print(f"implementer: {buffer.executor.implementer.name}; bucket: {bucket}", file=sys.stderr)
    try:
        if options.baseline:
            works = [buffer.baseline(replicate) for replicate in range(options.replicates)]
        elif options.diff:
            works = [buffer.score_patch(patch, replicate) for replicate in range(options.replicates)]
        else:
            return asyncio.run(
                _score(buffer, [text for text in texts for _ in range(options.replicates)], options.json)
            )
        return asyncio.run(_each(works, options.json))
    finally:
        buffer.close()


async def _score(buffer: RewardBuffer, texts: list[str], as_json: bool) -> int:
    good = True
    async for _, record in buffer.as_completed(texts):
        good &= _print(record, as_json)
    return 0 if good else 1


async def _each(works: list[Coroutine[Any, Any, Experiment]], as_json: bool) -> int:
    good = True
    for next_done in asyncio.as_completed(works):
        good &= _print(await next_done, as_json)
    return 0 if good else 1


def _print(record: Experiment, as_json: bool) -> bool:
    """Print one record as soon as it is known; whether it succeeded."""
    if as_json:
        print(json.dumps(asdict(record), ensure_ascii=False), flush=True)
        return record.status == SUCCEEDED
    value = f"  {record.metric['name']} {record.metric['value']:.4f}" if record.metric else ""
    reward = "none (masked)" if record.reward is None else f"{record.reward:.4f}"
    print(f"{record.id}  {record.status}{value}  reward {reward}{'  (replayed)' if record.replayed else ''}")
    if record.error:
        print(f"  {record.error['message']}")
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in record.seconds.items())
    print(f"  isolation {record.isolation or '-'}; {seconds or 'not run'}")
    print("\n".join("  " + line for line in record.patch.splitlines()), flush=True)
    return record.status == SUCCEEDED


def _ideas(path: Path) -> list[str]:
    texts = []
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row if isinstance(row, str) else row.get("idea", row.get("completion"))
        except (ValueError, AttributeError):
            text = None
        if not isinstance(text, str):
            raise IdeatorError(
                f"{path}, line {number}: expected a JSON text, or an object with the key 'idea' or 'completion'."
            )
        texts.append(text)
    if not texts:
        raise IdeatorError(f"{path} holds no ideas. Expected one JSON text or object a line.")
    return texts


def patch(options: argparse.Namespace) -> int:
    """Returns 0 when the patched codebase was written, 1 when the patch was refused."""
    if options.out.exists():
        raise IdeatorError(f"{options.out} exists already. Give a folder that does not, nothing is overwritten.")
    if not options.base.is_dir():
        raise IdeatorError(f"{options.base} is not a folder. Give the codebase that the patch was written for.")
    base, text = read_tree(options.base), _read_patch(options.diff)
    answer: dict[str, Any] = {"status": "applied", "error": None, "patch": "", "out": str(options.out)}
    try:
        tree = apply_patch(base, text)
        if options.env:
            judge(base, tree, load_environment(options.env).rules)
        write_tree(tree, options.out)
        answer["patch"] = diff(base, tree)
    except PatchError as error:
        answer |= {"status": error.kind, "error": {"kind": error.kind, "message": str(error)}, "out": None}
    if options.json:
        print(json.dumps(answer, ensure_ascii=False))
    elif answer["error"]:
        print(f"ideator-rl: {answer['error']['message']}", file=sys.stderr)
    else:
        print(answer["patch"], end="")
    return 1 if answer["error"] else 0


def _read_patch(path: Path) -> str:
    text = _read_text(path)
    if not text.strip():
        raise IdeatorError(f"The patch {path} is empty. Expected a unified diff or SEARCH/REPLACE blocks.")
    return text


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise IdeatorError(f"{path} is not text: a byte in it is not UTF-8. Binary patches are not taken.") from None
    except OSError as error:
        raise IdeatorError(f"{path} cannot be read: {error.strerror}.") from error
