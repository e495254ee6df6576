"""The trusted side of scoring: an environment's evaluator, in a process of its own that runs no experiment code.

The evaluator never imports, opens or unpickles anything of the experiment.  It sends token ids to a scorer in a fresh
sandbox and takes raw logits back; targets and softmax are its own.  A frame's size is computed here, never read from
the other side.
"""

from __future__ import annotations

import os
import re
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ideator_rl.errors import IdeatorError
from ideator_rl.executor.sandbox import WORKSPACE, Mounts, Sandbox

SCORER = Path(__file__).with_name("scorer.py")
ARTIFACT = "/artifact"
ANSWER_SECONDS = 120.0
"""Wall seconds that a scorer may take for one answer, its imports included."""


class Implausible(IdeatorError):
    """The evaluator does not believe the artifact: status `invalid`."""


class ScorerFailed(IdeatorError):
    """The experiment's model could not be loaded or gave no usable answer: status `failed`."""


class Scorer:
    """A running scorer: `logits(tokens)`."""

    def __init__(self, request: int, answer: int, vocab: int):
        self._request, self._answer, self._vocab = request, answer, vocab

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Raw logits, float32 (B, T, vocab), for token ids, int (B, T).

        Raises:
            ScorerFailed: the model raised, died, was too slow, or answered with another size.
        """
        batch, length = tokens.shape
        deadline = time.monotonic() + ANSWER_SECONDS
        body = struct.pack("<II", batch, length) + np.ascontiguousarray(tokens, "<i4").tobytes()
        self._send(body, deadline)
        if self._receive(1, deadline) != b"\0":
            size = min(struct.unpack("<I", self._receive(4, deadline))[0], 4096)
            words = self._receive(size, deadline).decode("utf-8", "replace")
            # Only the kind of the error: the model has seen hidden tokens and must not write to the record.
            kind = re.match(r"[A-Za-z_]{1,40}", words)
            raise ScorerFailed(f"the model could not be loaded or run: {kind[0] if kind else 'an error'}")
        raw = self._receive(4 * batch * length * self._vocab, deadline)
        return np.frombuffer(raw, "<f4").reshape(batch, length, self._vocab)

    def _send(self, body: bytes, deadline: float) -> None:
        view = memoryview(body)
        while view:
            if not select.select([], [self._request], [], max(0.0, deadline - time.monotonic()))[1]:
                raise ScorerFailed(f"the model took no input for {ANSWER_SECONDS:g} s")
            try:
                view = view[os.write(self._request, view[:65_536]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return

    def _receive(self, size: int, deadline: float) -> bytes:
        parts, missing = [], size
        while missing:
            if not select.select([self._answer], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise ScorerFailed(f"the model gave no answer within {ANSWER_SECONDS:g} s")
            part = os.read(self._answer, min(missing, 1 << 20))
            if not part:
                raise ScorerFailed("the model's process ended without an answer")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


@dataclass(frozen=True)
class ScoringRun:
    """What an evaluator is given.  `artifact` is untrusted: pass its files to a scorer, never load them here."""

    artifact: Path
    private: Path
    public: Path
    preset: str
    seed: int
    settings: dict[str, Any]
    vocab: int
    sandbox: Sandbox
    tree: Path
    scorer: str
    masked: tuple[Path, ...] = ()

    @contextmanager
    def open_scorer(self, vocab: int | None = None) -> Iterator[Scorer]:
        """A fresh process that loads the experiment's model; it ends with the `with` block."""
        vocab = vocab or self.vocab
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        readonly = {self.tree: WORKSPACE, self.artifact: ARTIFACT, SCORER: "/ideator/scorer.py"}
        place = self.sandbox.place
        argv = [
            sys.executable,
            "-I",
            "-B",
            place(SCORER, "/ideator/scorer.py"),
            str(request_read),
            str(answer_write),
        ]
        argv += [self.scorer, place(self.artifact, ARTIFACT), str(vocab)]
        environment = ["/usr/bin/env", "-i", "OMP_NUM_THREADS=1", "HOME=/tmp", "PATH=/usr/bin:/bin"]
        process = subprocess.Popen(
            self.sandbox.command(environment + argv, Mounts({}, readonly, self.masked), place(self.tree, WORKSPACE)),
            cwd=self.tree,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            pass_fds=[request_read, answer_write],
        )
        os.close(request_read)
        os.close(answer_write)
        os.set_blocking(request_write, False)
        try:
            yield Scorer(request_write, answer_read, vocab)
        finally:
            os.close(request_write)
            os.close(answer_read)
            process.kill()
            process.wait()
