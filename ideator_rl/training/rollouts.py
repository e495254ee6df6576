"""Generation batches and their journal: what was sampled is on disk before anything is submitted for it.

    <run>/rollouts/000012/batch.json          prompts (one a group), completions, token ids; first process
    <run>/rollouts/000012/rank0.safetensors   that rank's tensors: ids, masks, log-probs of sampling time, random state
    <run>/rollouts/closings.jsonl             what was trained in which batch, with the rewards it was trained on

Guarantees: a file appears whole or not at all and is fsynced; a batch counts as journaled when every rank's part is
there, so a run killed at any moment takes it up again as it was sampled, whatever the sampler.  Log-probs are those of
the training forward at sampling time.  Batches that no checkpoint could need any more are removed.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ideator_rl.errors import IdeatorError
from ideator_rl.files import write_atomic

FOLDER, CLOSINGS = "rollouts", "closings.jsonl"
NARROW = {torch.int64: torch.int32}
"""Token ids and masks fit in half their width on disk."""
TAIL = 4096
"""Bytes read at a time to find the end of the last whole line."""
_UID = re.compile(r'\{"uid": "([^"]*)"')


@dataclass
class Batch:
    """P groups of G completions; `tensors` are this rank's rows, all else is of the whole batch."""

    index: int
    born: int
    """The optimizer step whose weights it was sampled from."""
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
    """Of this sampling: the parts of two of one index are never taken for one batch."""
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


class RolloutJournal:
    """The journal of one rank in a run's folder."""

    def __init__(self, run: Path, rank: int, world: int):
        self._root, self._rank, self._world = run / FOLDER, rank, world

    def write(self, batch: Batch) -> None:
        """Put this rank's part of a batch on disk."""
        folder = self._folder(batch.index)
        if self._rank == 0:
            body = {"uid": batch.uid, "groups": batch.groups, "completions": batch.completions, "ids": batch.ids}
            write_atomic(folder / "batch.json", json.dumps(body).encode())
        tensors = {name: tensor.cpu() for name, tensor in batch.tensors.items()}
        narrow = {name: t.to(NARROW.get(t.dtype, t.dtype)).contiguous() for name, t in tensors.items()}
        types = {name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items()}
        state = torch.frombuffer(bytearray(_packed(batch.random_state)), dtype=torch.uint8)
        facts = {"types": types, "born": batch.born, "world": self._world, "uid": batch.uid}
        facts["group_size"] = batch.group_size
        write_atomic(self._part(batch.index), save({**narrow, "random_state": state}, {"facts": json.dumps(facts)}))

    def holds(self, index: int) -> bool:
        """Whether this rank's part of a batch is there, of the sampling that the words are of; the ranks have to agree
        before it is used.

        Raises:
            IdeatorError: it was written by another number of processes.
        """
        words = self._folder(index) / "batch.json"
        if not words.is_file():
            return False
        with _readable(words), open(words, encoding="utf-8") as file:
            told = _UID.match(file.read(100))
        if (found := self._world_of(index)) not in (None, self._world):
            raise IdeatorError(
                f"This run was journaled by {found} processes and {self._world} want to resume it. Start it with as "
                "many as before."
            )
        part = self._part(index)
        return part.is_file() and told is not None and told[1] == _facts(part)["uid"]

    def any(self) -> bool:
        """Whether there is a batch of any index, of whatever number of processes."""
        return any(self._root.glob("[0-9]" * 6))

    def _world_of(self, index: int) -> int | None:
        first = self._folder(index) / "rank0.safetensors"
        return int(_facts(first)["world"]) if first.is_file() else None

    def read(self, index: int, device: torch.device) -> Batch:
        """A journaled batch; its words are the first rank's only.

        Raises:
            IdeatorError: a file is not as it was written.
        """
        with _readable(self._part(index)):
            data, facts = self._part(index).read_bytes(), _facts(self._part(index))
            raw = load(data)
            state = _unpacked(raw.pop("random_state").numpy().tobytes())
        # In the order they had, which the file does not keep: TRL takes the first for one with rows.
        tensors = {name: raw[name].to(getattr(torch, kind)).to(device) for name, kind in facts["types"].items()}
        batch = Batch(index, facts["born"], [], [], [], tensors, state, facts["uid"], facts["group_size"])
        if self._rank == 0:
            words = self._folder(index) / "batch.json"
            with _readable(words):
                body = json.loads(words.read_text(encoding="utf-8"))
                batch.groups, batch.completions, batch.ids = body["groups"], body["completions"], body["ids"]
        return batch

    def forget(self, before: int) -> None:
        """Remove batches below an index."""
        for folder in self._root.glob("[0-9]" * 6):
            if int(folder.name) < before:
                self._part(int(folder.name)).unlink(missing_ok=True)
                if self._rank == 0:
                    shutil.rmtree(folder, ignore_errors=True)

    def closings(self) -> list[dict[str, Any]]:
        """Every closing on disk, in order; a line that a kill cut short is none."""
        try:
            lines = (self._root / CLOSINGS).read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        with _readable(self._root / CLOSINGS):
            return [json.loads(line) for line in lines]

    def close(self, closing: dict[str, Any]) -> None:
        """Append a closing; on disk when this returns.  Its examples go with the batch, and are removed with it."""
        folder = self._folder(closing["index"])
        folder.mkdir(parents=True, exist_ok=True)
        if closing["examples"]:
            write_atomic(folder / "examples.json", json.dumps(closing["examples"]).encode())
        closing = {**closing, "examples": []}
        with open(self._root / CLOSINGS, "a+b") as file:
            _drop_half_a_line(file)
            file.write(json.dumps(closing).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def examples(self, index: int) -> list[dict[str, Any]]:
        """What was imitated beside a batch that was closed."""
        path = self._folder(index) / "examples.json"
        found: list[dict[str, Any]] = json.loads(path.read_bytes()) if path.is_file() else []
        return found

    def keep_closings(self, closings: list[dict[str, Any]]) -> None:
        """Replace the closings on disk by these: for a batch that is gone, what came of it cannot be trained again."""
        write_atomic(self._root / CLOSINGS, b"".join(json.dumps(each).encode() + b"\n" for each in closings))

    def _folder(self, index: int) -> Path:
        return self._root / f"{index:06d}"

    def _part(self, index: int) -> Path:
        return self._folder(index) / f"rank{self._rank}.safetensors"


def random_state() -> dict[str, Any]:
    """Of every generator that sampling or shuffling may use in this process."""
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
    """Go on as if the batch had just been sampled, so that later ones do not repeat its draws."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _packed(state: dict[str, Any] | None) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> dict[str, Any] | None:
    state: dict[str, Any] | None = torch.load(io.BytesIO(data), weights_only=True)
    return state


def _facts(part: Path) -> dict[str, Any]:
    """The metadata of a part, without its tensors."""
    with _readable(part), open(part, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        facts: dict[str, Any] = json.loads(header["__metadata__"]["facts"])
    return facts


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """
    Raises:
        IdeatorError: the file is not as it was written.
    """
    try:
        yield
    except (ValueError, KeyError, SafetensorError, EOFError, OverflowError) as error:
        raise IdeatorError(
            f"The journal's {path} is damaged ({type(error).__name__}: {str(error)[:100]}). Move it away and resume: "
            "what it held is sampled or decided again, and no experiment is paid for twice."
        ) from error


def _drop_half_a_line(file: Any) -> None:
    """A kill may have left the start of a line at the end; what comes now must not be glued to it."""
    end = file.seek(0, os.SEEK_END)
    whole = end
    while whole:
        start = max(0, whole - TAIL)
        file.seek(start)
        found = file.read(whole - start).rfind(b"\n") + 1
        if found:
            whole = start + found
            break
        whole = start
    if whole != end:
        file.truncate(whole)
        file.seek(whole)
