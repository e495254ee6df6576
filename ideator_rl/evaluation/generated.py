"""Answers of a language model, where an experiment leaves weights and none of its code runs.

Covered:
- our generator samples, in a sandbox of its own: the base's configuration and tokenizer, the experiment's weights
- it gets prompts only; solutions and grades stay on this side
- the same length, temperature, stop and seed for every experiment

Not covered: the form of the weights, which `weights` checks before.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.sandbox.mounts import CUDA_VARIABLE, Mounts
from ideator_rl.sandbox.process_tree import readable
from ideator_rl.sandbox.program import Inside, Process, Script
from ideator_rl.sandbox.sandbox import NONE, Sandbox
from ideator_rl.sandbox.start import start_script
from ideator_rl.scoring.scoring import ScorerFailed, ScoringRun

GENERATOR = Path(__file__).with_name("generator.py")
BASE, WEIGHTS = "/base", "/weights/model.safetensors"
LOG_BYTES = 4096


def generated(
    run: ScoringRun,
    prompts: Sequence[str],
    *,
    base: Path,
    weights: Path,
    max_tokens: int,
    stop: str,
    temperature: float,
    samples: int = 1,
    seed: int = 0,
) -> list[list[str]]:
    """`samples` answers to each prompt, in order, as text.

    Args:
        base: folder with `config.json` and `tokenizer.json`.
        weights: a file that `weights` has checked.
        max_tokens: tokens of one answer, at most.
        stop: text that ends an answer and belongs to it; what its last token holds beyond it is cut.  Empty for none.
        temperature: 0 takes the likeliest token.
        seed: of the draws; the same for every experiment.

    Raises:
        ScorerFailed: the weights cannot be read, give logits that are not finite, or take over `run.scoring.seconds`.
        IdeatorError: the generator itself broke.
    """
    from tokenizers import Tokenizer

    if not prompts:
        return []
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    encoded = [tokenizer.encode(prompt).ids for prompt in prompts]
    request = {
        "prompts": encoded,
        "samples": samples,
        "max_tokens": max_tokens,
        "stop": stop,
        "temperature": float(temperature),
        "seed": int(seed),
    }
    started = time.monotonic()
    run.exposure.hidden = True
    answer = _run_generator(run, request, base, weights)
    if "failed" in answer:
        raise ScorerFailed(f"its weights {answer['failed']}")
    tokens_PS = answer["answers"]
    run.notes.update(
        {
            "tokens": sum(len(tokens) for rows in tokens_PS for tokens in rows),
            "seconds_loading": answer["seconds_loading"],
            "seconds_scoring": time.monotonic() - started - answer["seconds_loading"],
        }
    )
    return [[_until(tokenizer.decode(tokens, skip_special_tokens=True), stop) for tokens in rows] for rows in tokens_PS]


def _until(text: str, stop: str) -> str:
    """The text up to the first stop, that included."""
    head, found, _ = text.partition(stop) if stop else (text, "", "")
    return head + found


def _run_generator(run: ScoringRun, request: dict[str, Any], base: Path, weights: Path) -> dict[str, Any]:
    """The generator's answer to a request; its process has ended when this returns."""
    log = os.memfd_create("log", os.MFD_CLOEXEC)
    request_read, request_write = os.pipe()
    answer_read, answer_write = os.pipe()
    process: Process | None = None
    try:
        try:
            process = _start(run.sandbox, (request_read, answer_write), base, weights, log)
        finally:
            # Its ends of the pipes: the end of its process has to show on ours.
            os.close(request_read)
            os.close(answer_write)
        deadline = time.monotonic() + run.scoring.seconds
        os.set_blocking(request_write, False)
        _send(request_write, json.dumps(request).encode(), deadline)
        os.close(request_write)
        request_write = -1
        body = _receive(answer_read, deadline, run.scoring.seconds)
        if not body:
            lines = os.pread(log, LOG_BYTES, max(0, os.fstat(log).st_size - LOG_BYTES)).decode(errors="replace")
            raise IdeatorError(f"The generator broke: {(lines.strip().splitlines() or ['no output'])[-1]}")
        answer: dict[str, Any] = json.loads(body)
        return answer
    finally:
        for descriptor in (log, answer_read, *([] if request_write < 0 else [request_write])):
            os.close(descriptor)
        if process is not None:
            process.close()


def _start(sandbox: Sandbox, handles: tuple[int, int], base: Path, weights: Path, log: int) -> Process:
    visible_path = sandbox.visible_path
    script = Script(
        visible_path(GENERATOR, "/ideator/generator.py"),
        (*map(str, handles), visible_path(base, BASE), visible_path(weights, WEIGHTS)),
        (),
        {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "HF_HUB_OFFLINE": "1",
            "HOME": "/tmp",
            "USER": "experiment",
            "LANG": "C.UTF-8",
            "PATH": "/usr/bin:/bin",
            CUDA_VARIABLE: sandbox.visible_gpus(),
        },
    )
    # From the disk, not from the memory of scorers: what runs is ours, and it imports more than scorers do.
    mounts = Mounts({}, {base: BASE, weights: WEIGHTS, GENERATOR: "/ideator/generator.py"})
    cwd = "/" if sandbox.level == NONE else "/tmp"
    return start_script(sandbox, script, Inside(mounts, cwd, descriptors=handles, output=log))


def _send(descriptor: int, body: bytes, deadline: float) -> None:
    view = memoryview(body)
    while view and time.monotonic() < deadline:
        if not select.select([], [descriptor], [], 1.0)[1]:
            continue
        try:
            view = view[os.write(descriptor, view[:65_536]) :]
        except BlockingIOError:
            continue
        except BrokenPipeError:
            return  # it ended: the missing answer is the error


def _receive(descriptor: int, deadline: float, seconds: float) -> bytes:
    """All that it sends, to its end.  Raises: ScorerFailed at the deadline."""
    chunks: list[bytes] = []
    while readable(descriptor, max(0.0, deadline - time.monotonic())):
        chunk = os.read(descriptor, 1 << 20)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
    raise ScorerFailed(f"its weights took over {seconds:g} s to answer")
