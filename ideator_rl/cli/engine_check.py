"""Proves a backend for `ideator-rl doctor`: one job that finds nothing to do, from its submission to its end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from ideator_rl.environments.environment import Resources
from ideator_rl.executor.backends import Backend, Job, backend_class
from ideator_rl.executor.backends.backend import OVER, job_name
from ideator_rl.executor.backends.one_by_one import adapted
from ideator_rl.storage.bucket import Bucket
from ideator_rl.text.display import visible

WAIT_SECONDS = 300.0
LOOK_SECONDS = 0.5
GRACE_SECONDS = 20.0
"""A job that the engine does not list for so long after its submission has ended."""


def try_backend(
    name: str, bucket: Bucket, settings: dict[str, Any], progress: Callable[[str], None]
) -> tuple[bool, str]:
    """Have an engine start a worker that opens the bucket, finds no experiment of its id, and ends.

    Returns:
        whether it did, and a sentence.

    Raises:
        IdeatorError: no such backend, settings that it does not take, or no engine.
    """
    backend = adapted(backend_class(name).create(bucket, None, "auto", *([settings] if settings else ())))
    if not backend.starts:
        return (
            True,
            f"{name} starts nothing: run `ideator-rl worker --bucket {bucket.url}` on the nodes",
        )
    id = uuid.uuid4().hex
    job = Job(job_name(bucket.url, id, 0), id, bucket.url, "auto", Resources(cpus=1), minutes=5)
    started = time.monotonic()
    try:
        answer = backend.submit([job])
        if answer.get(job.name, "no room now") is not None:
            return False, f"{name} took no job: {visible(str(answer.get(job.name, 'no slot is free now')))}"
        progress(f"{name} has one job that does nothing; waiting for its end")
        return _wait(backend, name, job.name, started)
    finally:
        backend.close()


def _wait(backend: Backend, name: str, job: str, started: float) -> tuple[bool, str]:
    state, listed, seconds = "unknown", False, 0.0
    while seconds < WAIT_SECONDS:
        time.sleep(max(LOOK_SECONDS, backend.every) if listed else LOOK_SECONDS)
        seconds = time.monotonic() - started
        states = backend.listing()
        if states is None:
            continue  # the engine does not answer now
        if job in states:
            state, reason, listed = states[job].state, states[job].reason, True
        elif listed or seconds > GRACE_SECONDS:
            state, reason = OVER, ""
        if state == OVER:
            log = " ".join(backend.log_tail(job).split("\n")[-3:]).strip()
            if reason:
                return False, f"{name} started a job, and it ended as {reason}: {visible(log) or 'it has no log'}"
            return True, f"{name} started a worker that opened the bucket, {seconds:.1f} s from submission to end"
    backend.cancel([job])
    return (
        False,
        f"{name} has had a job for {WAIT_SECONDS:.0f} s, and it is {state}; it was cancelled. Ask the engine why",
    )
