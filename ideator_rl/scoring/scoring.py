"""The trusted side of scoring: what an environment's evaluator uses, in a process that runs no experiment code.

Covered:
- the evaluator never imports, opens or unpickles a file of the experiment: a scorer in a fresh sandbox does
- it sends token ids and gets raw logits; targets and softmax are its own
- before the first hidden token, the scorer loses all path and file calls (`sandbox.doors`)
- logits come through shared memory that this side created and sealed, in sizes computed here
- of an error in the scorer only the kind is passed on, since its text could carry hidden tokens into the record

Not covered: the scorer may write into the shared memory at any moment.  Compute from a private copy.
"""

from __future__ import annotations

import builtins
import fcntl
import mmap
import os
import select
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ideator_rl.environments.environment import joined_folders
from ideator_rl.environments.preset import ScoringLimits
from ideator_rl.errors import IdeatorError
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.doors import Doors
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.program import Inside, Process, Script
from ideator_rl.sandbox.sandbox import WORKSPACE, Sandbox
from ideator_rl.sandbox.scorer_files import files_in_memory
from ideator_rl.sandbox.start import start_script
from ideator_rl.scoring.allowance import CHECK_SECONDS, Meter, ScorerLimit, ScorerSeconds

SCORER = Path(__file__).with_name("scorer.py")
ARTIFACT = "/artifact"
ANSWER_SECONDS = 120.0
"""Wall seconds that a scorer may take for one answer, and for its imports and loading."""
ENDING_SECONDS = 2.0
SLOT_BYTES = 256 << 20
"""The largest answer.  Two are reserved, one to be filled while the other is read; memory is used where written."""
_SEALED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Implausible(IdeatorError):
    """The evaluator does not believe the artifact: status `invalid`."""


class ScorerFailed(IdeatorError):
    """The experiment's model could not be loaded or returned no usable answer: status `failed`."""


class OverAllowance(ScorerFailed):
    """A scorer used more CPU time than it may."""


class ScorerEnded(ScorerFailed):
    """The scorer's process ended without an answer."""


class ScorerKilled(ScorerFailed):
    """A signal that a crash does not raise ended the scorer: by the machine, or by the model itself."""


class ScorerNotStarted(IdeatorError):
    """No code of the experiment had run when the scorer ended: ours, not the experiment's."""


@dataclass(frozen=True)
class Request:
    """Token ids, int (B, T), and the positions whose logits are wanted: all if None."""

    tokens: np.ndarray
    positions: Sequence[int] | np.ndarray | None = None

    @property
    def wanted(self) -> int:
        return self.tokens.shape[1] if self.positions is None else len(self.positions)


class Scorer:
    """A running scorer.  `received` counts the bytes of logits that it sent.  Protocol: see `scorer.py`."""

    def __init__(self, request: int, answer: int, memory: mmap.mmap, vocab: int, doors: Doors, meter: Meter):
        self._request, self._answer, self._memory, self._vocab = request, answer, memory, vocab
        self._doors, self._meter = doors, meter
        self._loaded, self._warm = False, False
        self.public: np.ndarray | None = None
        """Token ids that are not hidden, int (N,), for the warm-up; None has it draw them from the whole vocabulary."""
        self.doors_state = ""
        """`shut`, or `open: REASON`; empty as long as it got no hidden token."""
        self.received = 0
        self.seconds_loading = 0.0

    def logits(self, tokens: np.ndarray, positions: Sequence[int] | None = None) -> np.ndarray:
        """Raw logits, float32 (B, K, vocab), of K positions (all if None) for token ids, int (B, T): a private copy.

        Raises:
            ScorerFailed: the model raised, died, was too slow, or answered in another shape.
            ValueError: the answer would not fit; ask for fewer rows or positions at once.
        """
        return next(self.stream([Request(tokens, positions)])).copy()

    def stream(self, requests: Sequence[Request]) -> Iterator[np.ndarray]:
        """Answers in order, the next one computed while this one is used.

        Each is a view of shared memory, good until the next is asked for, and untrusted: it may change while it is
        read.  Copy what you compute from.

        Raises:
            ScorerFailed, ValueError: as `logits`.
        """
        if requests:
            shapes = [request.tokens.shape for request in requests]
            by_length = sorted(shapes, key=lambda shape: shape[::-1])
            self.warm_up([shapes[0], by_length[0], by_length[-1]])
        # Two slots in turn: the scorer fills one while the caller reads the other.
        for number, request in enumerate(requests[:1]):
            self._ask_hidden(request, number % 2)
        for number, request in enumerate(requests):
            if number + 1 < len(requests):
                self._ask_hidden(requests[number + 1], (number + 1) % 2)
            self._receive_status(f"gave no answer within {ANSWER_SECONDS:g} s")
            shape = (len(request.tokens), request.wanted, self._vocab)
            count = shape[0] * shape[1] * shape[2]
            self.received += 4 * count
            yield np.frombuffer(self._memory, "<f4", count, number % 2 * SLOT_BYTES).reshape(shape)

    def load(self) -> None:
        """Wait until the model is loaded.

        Raises:
            ScorerFailed: it cannot be.
        """
        if not self._loaded:
            started = time.monotonic()
            self._receive_status(f"was not loaded within {ANSWER_SECONDS:g} s")
            self._loaded, self.seconds_loading = True, time.monotonic() - started

    def warm_up(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Let the model answer tokens that are not hidden, in each of these shapes (B, T); then shut its doors.

        Without effect on a scorer that is warm.  `stream` calls it with the shapes of its first, shortest and longest
        request.

        Raises:
            ScorerFailed: as `logits`.
        """
        self.load()
        if self._warm:
            return
        # Honest code imports, opens files and compiles for a shape in its first passes; after them, it only computes.
        rng = np.random.default_rng(0)
        for shape in dict.fromkeys(shapes):
            # One position: what is warmed up is the model, which answers all of them anyway.
            self._ask(Request(self._public_tokens(shape, rng), [shape[1] - 1]), 0)
            self._receive_status(f"gave no answer within {ANSWER_SECONDS:g} s")
        self._doors.shut()
        self.doors_state = f"open: {self._doors.missing}" if self._doors.missing else "shut"
        self._refuse(self._meter.warm())
        self._warm = True

    def _public_tokens(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        if self.public is None or not self.public.size:
            return rng.integers(0, self._vocab, shape)
        starts = rng.integers(0, max(1, self.public.size - shape[1] + 1), shape[0])
        return np.take(self.public, starts[:, None] + np.arange(shape[1]), mode="wrap")

    def end(self) -> None:
        """Look a last time at what it used: it may have worked on while nothing was asked.

        Raises:
            OverAllowance: more than it may.
        """
        self._refuse(self._meter.check(now=True))

    def _ask_hidden(self, request: Request, slot: int) -> None:
        # Before it is sent: the scorer may work on it at once, while the answer before is still read.
        self._meter.tokens += request.tokens.size
        self._ask(request, slot)

    def _ask(self, request: Request, slot: int) -> None:
        batch, length = request.tokens.shape
        size = 4 * batch * request.wanted * self._vocab
        if size > SLOT_BYTES:
            raise ValueError(f"{batch} rows with {request.wanted} positions are {size} bytes; at most {SLOT_BYTES} fit")
        positions = range(length) if request.positions is None else request.positions
        body = struct.pack("<IIII", batch, length, request.wanted, slot)
        body += np.ascontiguousarray(request.tokens, "<i4").tobytes() + np.asarray(positions, "<i4").tobytes()
        self._send(body, time.monotonic() + ANSWER_SECONDS)

    def _receive_status(self, late: str) -> None:
        """Wait for the byte that ends an answer.  `late` completes the sentence "the model …" of a time-out.

        Raises:
            ScorerFailed: it was too slow, died, or reported an error.
        """
        deadline = time.monotonic() + ANSWER_SECONDS
        if self._receive(1, deadline, late) != b"\0":
            size = min(struct.unpack("<I", self._receive(4, deadline, late))[0], 4096)
            message = self._receive(size, deadline, late).decode("utf-8", "replace")
            # Only the kind of the error, and only Python's own kinds: the model has seen hidden tokens and must not
            # write to the record, not even by the names of errors that it defines itself.
            kind = message.partition(":")[0]
            is_builtin = isinstance(getattr(builtins, kind, None), type)
            raise ScorerFailed(f"the model could not be loaded or run: {kind if is_builtin else 'an error'}")

    def _send(self, body: bytes, deadline: float) -> None:
        # A scorer that does not read would block a plain write for ever.
        view = memoryview(body)
        while view:
            if not self._wait([], [self._request], deadline):
                raise ScorerFailed(f"the model took no input for {ANSWER_SECONDS:g} s")
            try:
                view = view[os.write(self._request, view[:65_536]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return  # it died: the next answer fails, with a better message

    def _receive(self, size: int, deadline: float, late: str) -> bytes:
        chunks, missing = [], size
        while missing:
            if not self._wait([self._answer], [], deadline):
                raise ScorerFailed(f"the model {late}")
            chunk = os.read(self._answer, min(missing, 1 << 20))
            if not chunk:
                raise ScorerEnded("the model's process ended without an answer")
            chunks.append(chunk)
            missing -= len(chunk)
        return b"".join(chunks)

    def _refuse(self, exceeded: str) -> None:
        if exceeded:
            raise OverAllowance(f"the model {exceeded}")

    def _wait(self, readable: list[int], writable: list[int], deadline: float) -> bool:
        """Wait for one of these, and let the scorer's path and file calls pass meanwhile; False at the deadline."""
        while True:
            doors = self._doors.descriptors()
            left = max(0.0, deadline - time.monotonic())
            to_read, to_write, _ = select.select(readable + doors, writable, [], min(left, CHECK_SECONDS))
            self._refuse(self._meter.check())
            if to_write or any(handle not in doors for handle in to_read):
                return True
            if to_read:
                self._doors.answer()
            elif time.monotonic() >= deadline:
                return False


@dataclass(frozen=True)
class ScoringRun:
    """What an evaluator gets.  `artifact` is untrusted: pass its files to a scorer, never load them here."""

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
    split: str = "main"
    """Which hidden data to measure on: `main`, `confirm` for a result too good to be taken from one run, or `final` for
    a result that is reported."""
    preload: tuple[str, ...] = ()
    """Modules that a scorer imports before any code of the experiment."""
    folders: tuple[str, ...] = ("",)
    """Folders of the codebase that a scorer imports from, relative to its root."""
    limits: tuple[ScorerLimit, ...] | None = None
    """CPU seconds of the scorers in the order in which they are started, the last for all further ones; None for the
    baseline, which is only measured."""
    spent: list[ScorerSeconds] = field(default_factory=list)
    """CPU seconds of the scorers that have ended."""
    scoring: ScoringLimits = ScoringLimits()
    """Seconds and bytes that the measurement may take."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Facts of the measurement, such as bytes and seconds; they go into the record."""

    @contextmanager
    def open_scorer(self, vocab: int | None = None, public: np.ndarray | None = None) -> Iterator[Scorer]:
        """A fresh process that loads the experiment's model; it ends with the `with` block.

        Args:
            public: token ids that are not hidden, int (N,), for its warm-up; None draws from the whole vocabulary.
        """
        vocab = vocab or self.vocab
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        memory = os.memfd_create("logits", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, 2 * SLOT_BYTES)
        # Sealed before the scorer gets it: reading from a memory that was shrunk would kill this process.
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALED)
        doors, files = Doors(), ExitStack()
        process = self._start((request_read, answer_write, memory, doors.inherited), vocab, files)
        # The scorer's ends are closed here, so that its death shows as the end of the answer pipe.
        os.close(request_read)
        os.close(answer_write)
        doors.close_inherited()
        os.set_blocking(request_write, False)
        shared = mmap.mmap(memory, 2 * SLOT_BYTES, prot=mmap.PROT_READ)
        os.close(memory)
        limit = self.limits[min(len(self.spent), len(self.limits) - 1)] if self.limits else None
        pid = process.pid
        meter = Meter(
            lambda: process_tree.usage(process_tree.descendants(pid)).seconds,
            lambda: doors.startup,
            limit,
        )
        scorer = Scorer(request_write, answer_read, shared, vocab, doors, meter)
        scorer.public = public
        try:
            yield scorer
            scorer.end()
        except ScorerEnded as ended:
            raise _why_ended(process, ended) from None
        finally:
            meter.check(now=True)
            self.spent.append(meter.seconds())
            # A scorer that ended before it got hidden tokens says nothing about doors; one that was open stays noted.
            if scorer.doors_state and not self.notes.get("doors", "").startswith("open"):
                self.notes["doors"] = scorer.doors_state
            doors.shut()
            os.close(request_write)
            os.close(answer_read)
            process.close()
            files.close()

    def _start(self, handles: tuple[int, ...], vocab: int, files: ExitStack) -> Process:
        # Copies for this scorer alone: what it reads of a disk would show in caches that other sandboxes share.
        originals = {self.tree: WORKSPACE, self.artifact: ARTIFACT, SCORER: "/ideator/scorer.py"}
        image = self.sandbox.image
        readonly = files.enter_context(files_in_memory(image, originals))
        visible_path = self.sandbox.visible_path
        script = Script(
            visible_path(SCORER, "/ideator/scorer.py"),
            (
                *map(str, handles),
                str(SLOT_BYTES),
                ",".join(self.preload),
                self.scorer,
                visible_path(self.artifact, ARTIFACT),
                str(vocab),
                os.pathsep.join(joined_folders(visible_path(self.tree, WORKSPACE), self.folders)),
            ),
            self.preload,
            {"OMP_NUM_THREADS": "1", "HOME": "/tmp", "USER": "experiment", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        )
        mounts = Mounts({}, readonly, self.masked, image=image, processes=False)
        cwd = visible_path(self.tree, WORKSPACE)
        inside = Inside(mounts, cwd, no_child_signal=True, silent=True, descriptors=handles)
        return start_script(self.sandbox, script, inside)


def _why_ended(process: Process, ended: ScorerEnded) -> IdeatorError:
    """The error for a scorer that ended without an answer."""
    # The answer's pipe may close a moment before the process has ended.
    select.select([process.end], [], [], ENDING_SECONDS)
    status = process.poll() or 0
    os.set_blocking(process.ready, False)
    with suppress(BlockingIOError):
        if not os.read(process.ready, 1):
            return ScorerNotStarted(f"The scorer did not start (status {status}).")
    if status - 128 in process_tree.SENT_SIGNALS:
        return ScorerKilled(f"the model's process was ended by signal {status - 128}")
    return ended
