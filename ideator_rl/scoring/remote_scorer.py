"""The evaluator's side of a scorer: sends token ids, receives logits, and takes only sizes that it computed itself.

Used by one thread.  The other side, and the protocol: `scorer`.
"""

from __future__ import annotations

import builtins
import mmap
import os
import select
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ideator_rl.environments.preset import ScoringLimits
from ideator_rl.errors import IdeatorError
from ideator_rl.sandbox.doors import Doors
from ideator_rl.scoring.allowance import CHECK_SECONDS, Meter
from ideator_rl.scoring.exposure import Exposure

MAX_CONTEXT, MAX_VOCAB = 1 << 16, 1 << 18
"""The most that a model may carry as its `context` and `vocab`."""
WHOLE, FIRST, FURTHER, BEGIN, STEP = range(5)
"""Parts of a request; see `scorer`."""


class Implausible(IdeatorError):
    """The evaluator does not believe the artifact: status `invalid`."""


class ScorerFailed(IdeatorError):
    """The experiment's model could not be loaded or returned no usable answer: status `failed`."""

    text = ""
    """What the model's own error said, where no model had got hidden tokens: untrusted."""


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
    part: int = WHOLE
    """`FIRST` of several requests over the same token ids, whose logits the scorer keeps, or a `FURTHER` one.  `BEGIN`
    and `STEP`: token ids (B, 1) that follow those of the requests since `BEGIN`."""

    @property
    def wanted(self) -> int:
        return self.tokens.shape[1] if self.positions is None else len(self.positions)


@dataclass(frozen=True)
class VocabRange:
    """How many classes a model may answer."""

    default: int
    """Of a model that carries no `vocab`."""
    least: int
    """Of one that does; token ids are below it."""
    most: int


class Scorer:
    """A running scorer.  `received` counts the bytes of logits that it sent.  Protocol: see `scorer.py`."""

    def __init__(
        self, pipes: tuple[int, int], memory: mmap.mmap, vocab: VocabRange, limits: ScoringLimits, doors: Doors,
        meter: Meter,
    ):  # fmt: skip
        """
        Args:
            pipes: descriptors to write requests to and to read answers from.
            memory: of two slots, one to be filled while the other is read.
            vocab: what the model may answer.
        """
        (self._request, self._answer), self._memory, self._range = pipes, memory, vocab
        self._limits, self._doors, self._meter = limits, doors, meter
        self._loaded, self._warm = False, False
        self.vocab = vocab.default
        """Classes V of the logits; the model's own once it is loaded."""
        self.context: int | None = None
        """Tokens a window that the model asks for, once it is loaded; None if it does not."""
        self.public: np.ndarray | None = None
        """Token ids that are not hidden, int (N,), for the warm-up; None has it draw them from the whole vocabulary."""
        self.doors_state = ""
        """`shut`, or `open: REASON`; empty as long as it got no hidden token."""
        self.exposure = Exposure()
        """Of the whole measurement, whose other scorers share it."""
        self.received = 0
        self.seconds_loading = 0.0

    def logits(self, tokens: np.ndarray, positions: Sequence[int] | None = None) -> np.ndarray:
        """Raw logits, float32 (B, K, vocab), of K positions (all if None) for token ids, int (B, T): a private copy.

        Raises:
            ScorerFailed: the model raised, died, was too slow, or answered in another shape.
            ValueError: the answer would not fit; ask for fewer rows or positions at once.
        """
        return next(self.stream([Request(tokens, positions)])).copy()

    @property
    def positions_in_slot(self) -> int:
        """The most positions, over all rows, of one answer."""
        return self._limits.slot_bytes // (4 * self.vocab)

    @property
    def memory(self) -> mmap.mmap:
        """The shared memory of both slots."""
        return self._memory

    def stream(self, requests: Sequence[Request], ahead: bool = True) -> Iterator[np.ndarray]:
        """Answers in order, the next one computed while this one is used.

        Args:
            ahead: send a request before the answer to the one before is used; the model can then read both.

        Each is a view of shared memory, good until the next is asked for, and untrusted: it may change while it is
        read.  Copy what you compute from.

        Raises:
            ScorerFailed, ValueError: as `logits`.
        """
        if requests:
            shapes = [request.tokens.shape for request in requests]
            by_length = sorted(shapes, key=lambda shape: shape[::-1])
            self.warm_up([shapes[0], by_length[0], by_length[-1]])
        sent = 0
        for number, request in enumerate(requests):
            # Two slots in turn: the scorer fills one while the caller reads the other.
            while sent < min(number + 1 + ahead, len(requests)):
                self._ask_hidden(requests[sent], sent % 2)
                sent += 1
            self._receive_status("gave no answer")
            shape = (len(request.tokens), request.wanted, self.vocab)
            count = shape[0] * shape[1] * shape[2]
            self.received += 4 * count
            yield np.frombuffer(self._memory, "<f4", count, number % 2 * self._limits.slot_bytes).reshape(shape)

    def load(self) -> None:
        """Wait until the model is loaded.

        Raises:
            ScorerFailed: it cannot be, or carries a `context` or `vocab` out of range.
        """
        if not self._loaded:
            started = time.monotonic()
            deadline = self._receive_status("was not loaded")
            context, vocab = struct.unpack("<II", self._receive(8, deadline, "was not loaded"))
            self._loaded, self.seconds_loading = True, time.monotonic() - started
            if context > MAX_CONTEXT:
                raise ScorerFailed(f"the model carries a context over {MAX_CONTEXT} tokens")
            if vocab and not self._range.least <= vocab <= self._range.most:
                raise ScorerFailed(
                    f"the model carries a vocab outside {self._range.least} to {self._range.most} classes"
                )
            self.context, self.vocab = context or None, vocab or self.vocab

    def warm_up(self, shapes: Sequence[tuple[int, ...]], stepwise: bool = False) -> None:
        """Let the model answer tokens that are not hidden, in each of these shapes (B, T); then shut its doors.

        Without effect on a scorer that is warm.  `stream` calls it with the shapes of its first, shortest and longest
        request.

        Args:
            stepwise: send one token of each row at a time.

        Raises:
            ScorerFailed: as `logits`.
        """
        self.load()
        if self._warm:
            return
        # Honest code imports, opens files and compiles for a shape in its first passes; after them, it only computes.
        rng = np.random.default_rng(0)
        for shape in dict.fromkeys(shapes):
            tokens = self._public_tokens(shape, rng)
            # One position: what is warmed up is the model, which answers all of them anyway.
            requests = [Request(tokens, [shape[1] - 1])]
            if stepwise:
                requests = [Request(tokens[:, i : i + 1], None, STEP if i else BEGIN) for i in range(shape[1])]
            for request in requests:
                self._ask(request, 0)
                self._receive_status("gave no answer")
        # From here on it may get hidden tokens: nothing that it writes goes into the record any more.
        self.exposure.hidden = True
        self._doors.shut()
        self.doors_state = f"open: {self._doors.missing}" if self._doors.missing else "shut"
        self._refuse(self._meter.warm())
        self._warm = True

    def _public_tokens(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        if self.public is None or not self.public.size:
            return rng.integers(0, self._range.least, shape)
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
        self._meter.tokens += 0 if request.part == FURTHER else request.tokens.size
        self._ask(request, slot)

    def _ask(self, request: Request, slot: int) -> None:
        batch, length = request.tokens.shape
        size, most = 4 * batch * request.wanted * self.vocab, self._limits.slot_bytes
        if size > most:
            raise ValueError(f"{batch} rows with {request.wanted} positions are {size} bytes; at most {most} fit")
        positions = range(length) if request.positions is None else request.positions
        body = struct.pack("<IIIII", batch, length, request.wanted, slot, request.part)
        body += b"" if request.part == FURTHER else np.ascontiguousarray(request.tokens, "<i4").tobytes()
        body += np.asarray(positions, "<i4").tobytes()
        self._send(body, time.monotonic() + self._limits.answer_seconds)

    def _receive_status(self, late: str) -> float:
        """Wait for the byte that ends an answer; returns the deadline (`time.monotonic`) of the whole answer.

        Args:
            late: completes the sentence "the model … within S s" of a time-out.

        Raises:
            ScorerFailed: it was too slow, died, or reported an error.
        """
        deadline = time.monotonic() + self._limits.answer_seconds
        if self._receive(1, deadline, late) != b"\0":
            size = min(struct.unpack("<I", self._receive(4, deadline, late))[0], 4096)
            message = self._receive(size, deadline, late).decode("utf-8", "replace")
            # Only the kind of the error, and only Python's own kinds: the model has seen hidden tokens and must not
            # write to the record, not even by the names of errors that it defines itself.
            kind = message.partition(":")[0]
            is_builtin = isinstance(getattr(builtins, kind, None), type)
            error = ScorerFailed(f"the model could not be loaded or run: {kind if is_builtin else 'an error'}")
            error.text = "" if self.exposure.hidden else message
            raise error
        return deadline

    def _send(self, body: bytes, deadline: float) -> None:
        # A scorer that does not read would block a plain write for ever.
        view = memoryview(body)
        while view:
            if not self._wait([], [self._request], deadline):
                raise ScorerFailed(f"the model took no input for {self._limits.answer_seconds:g} s")
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
                raise ScorerFailed(f"the model {late} within {self._limits.answer_seconds:g} s")
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
