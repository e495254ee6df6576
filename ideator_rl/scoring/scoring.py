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

import fcntl
import mmap
import os
import select
from collections.abc import Iterator
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
from ideator_rl.sandbox.mounts import CUDA_VARIABLE, Mounts
from ideator_rl.sandbox.program import Inside, Process, Script
from ideator_rl.sandbox.sandbox import WORKSPACE, Sandbox
from ideator_rl.sandbox.scorer_files import files_in_memory
from ideator_rl.sandbox.start import start_script
from ideator_rl.scoring.allowance import Meter, ScorerLimit, ScorerSeconds
from ideator_rl.scoring.exposure import Exposure
from ideator_rl.scoring.remote_scorer import (
    MAX_VOCAB,
    Implausible,
    OverAllowance,
    Request,
    Scorer,
    ScorerEnded,
    ScorerFailed,
    ScorerKilled,
    ScorerNotStarted,
    VocabRange,
)

__all__ = [
    "Implausible", "OverAllowance", "Request", "Scorer", "ScorerEnded", "ScorerFailed", "ScorerKilled",
    "ScorerNotStarted", "ScoringRun",
]  # fmt: skip

SCORER = Path(__file__).with_name("scorer.py")
ARTIFACT = "/artifact"
ENDING_SECONDS = 2.0
_SEALED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


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
    audit_seeds: tuple[int | None, ...] = (None,)
    """Of what each audit of a loss asks: no scorer may get them.  None for the system's entropy."""
    preload: tuple[str, ...] = ()
    """Modules that a scorer imports before any code of the experiment."""
    folders: tuple[str, ...] = ("",)
    """Folders of the codebase that a scorer imports from, relative to its root."""
    limits: tuple[ScorerLimit, ...] | None = None
    """CPU seconds of the scorers in the order in which they are started, the last for all further ones; None for the
    baseline, which is only measured."""
    spent: list[ScorerSeconds] = field(default_factory=list)
    """CPU seconds of the scorers that have ended."""
    exposure: Exposure = field(default_factory=Exposure)
    """Whether a model has got hidden data yet."""
    scoring: ScoringLimits = ScoringLimits()
    """Seconds and bytes that the measurement may take."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Facts of the measurement, such as bytes and seconds; they go into the record."""

    @contextmanager
    def open_scorer(
        self, vocab: int | None = None, public: np.ndarray | None = None, *, least: int | None = None
    ) -> Iterator[Scorer]:
        """A fresh process that loads the experiment's model; it ends with the `with` block.

        Args:
            vocab: classes of the logits; None for the preset's.
            public: token ids that are not hidden, int (N,), for its warm-up; None draws from the whole vocabulary.
            least: let a model that carries a `vocab` answer so many classes, from this number on; None for `vocab`
                alone.
        """
        vocab = vocab or self.vocab
        vocab_range = VocabRange(vocab, least or vocab, vocab if least is None else MAX_VOCAB)
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        memory = os.memfd_create("logits", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, 2 * self.scoring.slot_bytes)
        # Sealed before the scorer gets it: reading from a memory that was shrunk would kill this process.
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALED)
        doors, files = Doors(), ExitStack()
        process = self._start((request_read, answer_write, memory, doors.inherited), vocab, files)
        # The scorer's ends are closed here, so that its death shows as the end of the answer pipe.
        os.close(request_read)
        os.close(answer_write)
        doors.close_inherited()
        os.set_blocking(request_write, False)
        # Writable, although this side only reads: CUDA registers no other.
        shared = mmap.mmap(memory, 2 * self.scoring.slot_bytes)
        os.close(memory)
        limit = self.limits[min(len(self.spent), len(self.limits) - 1)] if self.limits else None
        pid = process.pid
        meter = Meter(
            lambda: process_tree.usage(process_tree.descendants(pid)).seconds,
            lambda: doors.startup,
            limit,
        )
        scorer = Scorer((request_write, answer_read), shared, vocab_range, self.scoring, doors, meter)
        scorer.public, scorer.exposure = public, self.exposure
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
                str(self.scoring.slot_bytes),
                ",".join(self.preload),
                self.scorer,
                visible_path(self.artifact, ARTIFACT),
                str(vocab),
                os.pathsep.join(joined_folders(visible_path(self.tree, WORKSPACE), self.folders)),
            ),
            self.preload,
            {
                # These two as an experiment on one processor has them: one fork server then starts both.
                "OMP_NUM_THREADS": "1",
                "TORCHINDUCTOR_COMPILE_THREADS": "1",
                "HOME": "/tmp",
                "USER": "experiment",
                "LANG": "C.UTF-8",
                "PATH": "/usr/bin:/bin",
                CUDA_VARIABLE: self.sandbox.visible_gpus(),
            },
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
