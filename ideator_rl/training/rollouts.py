"""Sampled batches and their store: a batch is on disk before its experiments are submitted.

    <run>/rollouts/000012/batch.json          prompts (one a group), completions, token ids; written by rank 0
    <run>/rollouts/000012/rank0.safetensors   that rank's tensors: ids, masks, log-probs of sampling time, random state
    <run>/rollouts/000012/examples.json       ideas that are imitated with the batch; written by rank 0
    <run>/rollouts/closings.jsonl             a `TrainBatch` a line: what was trained, with its rewards; rank 0

Guarantees: a file appears whole or not at all and is fsynced.  A batch counts as stored when every rank's part is
there, so a run that is killed at any moment resumes with the batch as it was sampled, whatever the sampler.  Log-probs
are those of the training forward at sampling time.  Batches that no checkpoint needs any more are removed.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ideator_rl.config.reader import parse_json, read_json
from ideator_rl.errors import IdeatorError
from ideator_rl.files import write_atomic
from ideator_rl.training.batch_closing import TrainBatch

FOLDER, CLOSINGS = "rollouts", "closings.jsonl"
NARROW = {torch.int64: torch.int32}
"""Token ids and masks fit in half their width on disk."""
TAIL_BYTES = 4096
"""Bytes read at a time to find the end of the last complete line."""
_UID = re.compile(r'\{"uid": "([^"]*)"')


@dataclass
class Batch:
    """P groups of G completions; `tensors` are this rank's rows, all other fields are of the whole batch."""

    index: int
    policy_version: int
    """Batches that the weights it was sampled from had been trained on."""
    groups: list[dict[str, Any]]
    """One dataset row a group: the prompt, and the reward functions' columns."""
    completions: list[Any]
    """P·G texts or message lists, group after group."""
    ids: list[list[int]]
    """Token ids of the completions."""
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    random_state: dict[str, Any] | None = None
    """Of this rank, right after sampling."""
    uid: str = ""
    """Of this sampling: parts of two samplings of one index are never taken for one batch."""
    group_size: int = 0

    def __post_init__(self) -> None:
        self.group_size = self.group_size or len(self.completions) // len(self.groups)

    def columns(self) -> dict[str, list[Any]]:
        """The dataset's columns but the prompt, one value a completion."""
        names = [name for name in self.groups[0] if name not in ("prompt", "completion", "completion_ids")]
        return {name: [row[name] for row in self.groups for _ in range(self.group_size)] for name in names}

    def prompts(self) -> list[Any]:
        """The prompt of every completion."""
        return [row["prompt"] for row in self.groups for _ in range(self.group_size)]


class RolloutStore:
    """One rank's view of `rollouts/` in a run's folder.  Rank 0 alone writes the files that all ranks share."""

    def __init__(self, run: Path, rank: int, world: int):
        self._root, self._rank, self._world = run / FOLDER, rank, world

    def write(self, batch: Batch) -> None:
        """Write this rank's part of a batch."""
        folder = self._folder(batch.index)
        if self._rank == 0:
            body = {"uid": batch.uid, "groups": batch.groups, "completions": batch.completions, "ids": batch.ids}
            write_atomic(folder / "batch.json", json.dumps(body).encode())
        tensors = {name: tensor.cpu() for name, tensor in batch.tensors.items()}
        # Ids and masks are most of the bytes; `types` restores the width when the batch is read.
        narrow = {name: t.to(NARROW.get(t.dtype, t.dtype)).contiguous() for name, t in tensors.items()}
        types = {name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items()}
        state = torch.frombuffer(bytearray(_pack(batch.random_state)), dtype=torch.uint8)
        facts = {"types": types, "born": batch.policy_version, "world": self._world, "uid": batch.uid}
        facts["group_size"] = batch.group_size
        write_atomic(self._part(batch.index), save({**narrow, "random_state": state}, {"facts": json.dumps(facts)}))

    def has(self, index: int) -> bool:
        """Whether this rank's part of a batch is there and belongs to the sampling of `batch.json`.

        A batch is used only if this holds at every rank.

        Raises:
            IdeatorError: the batch was written by another number of processes.
        """
        texts = self._folder(index) / "batch.json"
        if not texts.is_file():
            return False
        with _refuse_damage(texts), open(texts, encoding="utf-8") as file:
            uid = _UID.match(file.read(100))
        # Another number of ranks would have other rows each.
        # Rank 0's part names the number of processes for the ranks that were not there as well.
        rank_zero_part = self._folder(index) / "rank0.safetensors"
        world = int(_read_facts(rank_zero_part)["world"]) if rank_zero_part.is_file() else self._world
        if world != self._world:
            raise IdeatorError(
                f"This run was stored by {world} processes and {self._world} want to resume it. Start it with as "
                "many as before."
            )
        path = self._part(index)
        return path.is_file() and uid is not None and uid[1] == _read_facts(path)["uid"]

    def has_batches(self) -> bool:
        """Whether there is any batch, of whatever index and number of processes."""
        return any(self._root.glob("[0-9]" * 6))

    def read(self, index: int, device: torch.device) -> Batch:
        """A stored batch; its prompts and completions are read at rank 0 only.

        Raises:
            IdeatorError: a file is damaged.
        """
        with _refuse_damage(self._part(index)):
            data, facts = self._part(index).read_bytes(), _read_facts(self._part(index))
            stored = load(data)
            state = _unpack(stored.pop("random_state").numpy().tobytes())
        # In the order they had, which the file does not keep: TRL takes the number of rows from the first.
        tensors = {name: stored[name].to(getattr(torch, kind)).to(device) for name, kind in facts["types"].items()}
        batch = Batch(index, facts["born"], [], [], [], tensors, state, facts["uid"], facts["group_size"])
        if self._rank == 0:
            texts = self._folder(index) / "batch.json"
            with _refuse_damage(texts):
                body = read_json(texts, finite=False)
                batch.groups, batch.completions, batch.ids = body["groups"], body["completions"], body["ids"]
        return batch

    def forget(self, before: int) -> None:
        """Remove batches below an index."""
        self._remove(lambda index: index < before)

    def forget_after(self, last: int) -> None:
        """Remove batches above an index."""
        self._remove(lambda index: index > last)

    def _remove(self, is_removed: Callable[[int], bool]) -> None:
        # Every rank removes its own part; rank 0 also removes the texts, with the folder.
        for folder in self._root.glob("[0-9]" * 6):
            if is_removed(int(folder.name)):
                self._part(int(folder.name)).unlink(missing_ok=True)
                if self._rank == 0:
                    shutil.rmtree(folder, ignore_errors=True)

    def train_batches(self) -> list[TrainBatch]:
        """Every closed batch, in order, without its examples; an incomplete last line is left out.

        Raises:
            IdeatorError: the file is damaged.
        """
        try:
            lines = (self._root / CLOSINGS).read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        with _refuse_damage(self._root / CLOSINGS):
            return [TrainBatch.from_json(parse_json(line, "a line", finite=False)) for line in lines]

    def append(self, train_batch: TrainBatch) -> None:
        """Store how a batch was closed; on disk when this returns.

        Its examples are stored with the sampled batch, and are removed with it.
        """
        folder = self._folder(train_batch.index)
        folder.mkdir(parents=True, exist_ok=True)
        if train_batch.examples:
            write_atomic(folder / "examples.json", json.dumps(train_batch.examples).encode())
        # Only rank 0 appends, so there is one writer.
        with open(self._root / CLOSINGS, "a+b") as file:
            _remove_incomplete_line(file)
            file.write(_line(train_batch))
            file.flush()
            os.fsync(file.fileno())

    def examples(self, index: int) -> list[dict[str, Any]]:
        """The ideas that were imitated with a closed batch."""
        path = self._folder(index) / "examples.json"
        with _refuse_damage(path):
            examples: list[dict[str, Any]] = read_json(path, finite=False) if path.is_file() else []
        return examples

    def replace_train_batches(self, train_batches: Sequence[TrainBatch]) -> None:
        """Store these instead: the others belong to sampled batches that are gone, and cannot be trained again."""
        write_atomic(self._root / CLOSINGS, b"".join(map(_line, train_batches)))

    def _folder(self, index: int) -> Path:
        return self._root / f"{index:06d}"

    def _part(self, index: int) -> Path:
        return self._folder(index) / f"rank{self._rank}.safetensors"


def random_state() -> dict[str, Any]:
    """The state of every generator that sampling or shuffling may use in this process."""
    name, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Continue as if the batch had just been sampled, so that later batches do not repeat its random numbers."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _pack(state: dict[str, Any] | None) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _unpack(data: bytes) -> dict[str, Any] | None:
    state: dict[str, Any] | None = torch.load(io.BytesIO(data), weights_only=True)
    return state


def _read_facts(path: Path) -> dict[str, Any]:
    """The metadata of a rank's part; its tensors are not read."""
    with _refuse_damage(path), open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = parse_json(file.read(min(length, path.stat().st_size)), "its header")
        facts: dict[str, Any] = parse_json(header["__metadata__"]["facts"], "its header")
    return facts


@contextmanager
def _refuse_damage(path: Path) -> Iterator[None]:
    """
    Raises:
        IdeatorError: the file cannot be parsed, so it is not as it was written.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, SafetensorError, EOFError, OverflowError,
            UnpicklingError) as error:  # fmt: skip
        raise IdeatorError(
            f"{path} is damaged ({type(error).__name__}: {str(error)[:100]}). Move it away and resume: "
            "the run samples or decides again what the file held, and pays for no experiment twice."
        ) from error


def _line(train_batch: TrainBatch) -> bytes:
    return json.dumps({**train_batch.to_json(), "examples": []}).encode() + b"\n"


def _remove_incomplete_line(file: Any) -> None:
    """Truncate a file to its last complete line: a kill may have left the start of another one."""
    end = file.seek(0, os.SEEK_END)
    complete = end
    # Lines can be long, so the last line break is looked for in blocks from the end.
    while complete:
        start = max(0, complete - TAIL_BYTES)
        file.seek(start)
        line_end = file.read(complete - start).rfind(b"\n") + 1
        if line_end:
            complete = start + line_end
            break
        complete = start
    if complete != end:
        file.truncate(complete)
        file.seek(complete)
