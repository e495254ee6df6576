"""The worker: one detached process that runs one attempt at one experiment and publishes its record.

- Claims the attempt before it spends anything, keeps it alive while it runs (`attempt_guard`), creates the record once.
- Outlives the process that started it.  If it is killed, its sandbox dies with it and the attempt counts as lost.
- A fault that is not the idea's ends the attempt with a reason and no record, so that it can be tried again.
- A record outlasts an outage of the bucket (`spool`), and its slots are free meanwhile.

usage: python -m ideator_rl.executor.worker '{"bucket": URL, "id": ID, "isolation": "auto"}'
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import replace
from typing import Any

from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store, share, spool
from ideator_rl.executor.attempt_guard import AttemptGuard
from ideator_rl.executor.record_store import CANCELLED, FAILED, Claim, Spec
from ideator_rl.executor.retry import RetriesExhausted, Retry
from ideator_rl.executor.trials import Trials
from ideator_rl.executor.workdirs import new_workdir, remove_folder, remove_stale_workdirs
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.choose import choose_sandbox, why_too_weak
from ideator_rl.sandbox.sandbox import Sandbox
from ideator_rl.storage.bucket import Bucket, BucketError, open_bucket

OUTAGE_SECONDS = 3600.0
"""The longest outage of the bucket that a record is kept back for by its worker; then the next worker publishes it."""
END_SECONDS = 60.0
"""The same for the reason of an attempt without a record."""


def main(config: dict[str, Any], forks: socket.socket | None = None) -> int:
    """Run one attempt.

    Args:
        config: `bucket`, `id` and `isolation`; and where there are any
            `claim`: of the attempt, which the caller has won;
            `owner`: `pid` and `start` of the process that this one must not outlive;
            `slots`: open descriptors, which hold this machine's slots;
            `probed`: level and reason of the best sandbox on this machine;
            `least_isolation`: the weakest level at which the experiment may run.
        forks: where forked starts are requested; None for cold ones.

    Returns:
        0 when the bucket has a record or another process runs the experiment, 1 when the attempt was lost.
    """
    process_tree.become_subreaper()
    # Some callers leave this signal ignored, and the kernel then forgets the CPU time of children.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    remove_stale_workdirs()
    try:
        bucket = open_bucket(config["bucket"], proved=True)
    except IdeatorError as error:
        print(f"ideator-rl worker: {error}", file=sys.stderr)
        return 1
    guard = AttemptGuard(bucket, config["id"], config.get("owner"), config.get("minutes"))
    try:
        return _run_attempt(bucket, config, guard, forks)
    except BucketError as error:  # nothing was claimed, or nothing more can be stored
        print(f"ideator-rl worker: {error}", file=sys.stderr)
        return 1
    finally:
        guard.close()


def _run_attempt(bucket: Bucket, config: dict[str, Any], guard: AttemptGuard, forks: socket.socket | None) -> int:
    """Raises: BucketError."""
    claim = guard.claim(lambda: Claim(**config["claim"])) if "claim" in config else None
    if spool.publish_left(bucket) and claim is not None and record_store.has_record(bucket, claim.id):
        # Its record was on this machine: the caller could not know when it claimed.
        record_store.end_attempt(bucket, claim.id, claim.number, CANCELLED, "it already had a result")
        return 0
    # Once the attempt is claimed, a short outage must not cost it.
    spec = Retry(bucket.url, END_SECONDS if claim else 0.0).call_blocking(lambda: Spec.load(bucket, config["id"]))
    if spec is None:
        if claim is not None:
            record_store.end_attempt(bucket, claim.id, claim.number, FAILED, "it has no specification")
        return 0
    # Before the claim: to make an image takes up to minutes, which an experiment need not spend as a claimed one.
    prepared: tuple[Environment, Sandbox] | Exception
    try:
        prepared = _prepare(bucket, spec, config)
    except Exception as error:
        prepared = error
    if isinstance(prepared, share.UnfitNode) and claim is None:
        # Left unclaimed for a worker that fits.
        print(f"ideator-rl worker: {prepared}", file=sys.stderr)
        return 1
    claim = claim or guard.claim(lambda: record_store.claim_attempt(bucket, spec.id))
    if claim is None:
        return 0
    # The attempt is claimed: from here on it ends in a record or in a reason, so that no scheduler waits for the lease.
    try:
        if isinstance(prepared, Exception):
            raise IdeatorError(f"The worker on {claim.host} cannot run it: {prepared}") from prepared
        environment, sandbox = prepared
        _run_claimed(bucket, spec, claim, environment, replace(sandbox, forks=forks), config, guard)
        return 0
    except RetriesExhausted:
        raise
    except OSError as error:  # of the scratch folder: full, read-only, removed
        reason = f"The machine failed: {error}"
    except Exception as error:
        reason = str(error) if isinstance(error, IdeatorError) else traceback.format_exc(limit=-3)
    Retry(bucket.url, END_SECONDS).call_blocking(
        lambda: record_store.end_attempt(bucket, spec.id, claim.number, FAILED, reason)
    )
    return 1


def _prepare(bucket: Bucket, spec: Spec, config: dict[str, Any]) -> tuple[Environment, Sandbox]:
    """Load what the experiment needs.

    Raises:
        UnfitNode: this node lacks its GPUs, has other hardware, or seals less than it needs.
        IdeatorError: its environment or a sandbox is missing here, or it may not run on a remote bucket.
    """
    best = Sandbox(**config["probed"]) if "probed" in config else None
    isolation = config.get("isolation", "auto")
    # Its id promises the level: what ran less sealed would answer for it in all later runs.
    if reason := why_too_weak(isolation, config.get("least_isolation", ""), best):
        raise share.UnfitNode(f"Experiments are left to other nodes: {reason}.")
    environment = load_environment(spec.environment).at(spec.preset)
    # Without a scorer, no process of the experiment reads hidden data, and none has to read memory alone.
    preload = environment.preload if environment.scorer else None
    sandbox = choose_sandbox(isolation, spec.trusted, preload, best)
    preset = environment.preset(spec.preset)
    if bucket.remote:
        preset.refuse_network(bucket.url)
    share.take_gpus(preset.resources.gpus, config.get("hardware", ""))
    return environment, sandbox


def _run_claimed(
    bucket: Bucket,
    spec: Spec,
    claim: Claim,
    environment: Environment,
    sandbox: Sandbox,
    config: dict[str, Any],
    guard: AttemptGuard,
) -> None:
    """Run the experiment and publish its record."""
    tree = Retry(bucket.url, END_SECONDS).call_blocking(lambda: record_store.load_tree(bucket, spec.tree))
    if tree is None:
        raise IdeatorError(f"The codebase {spec.tree[:12]} is not in the bucket {bucket.url}.")
    with new_workdir() as workdir:
        guard.workdir = workdir
        record = Trials(spec, claim, environment, sandbox, workdir).run(tree)
        record.finished = time.time()
        guard.begin_publishing()

        def free() -> None:
            remove_folder(workdir)
            for slot in config.get("slots", ()):
                os.close(slot)

        spool.publish(bucket, record, config.get("outage_patience", OUTAGE_SECONDS), free)


if __name__ == "__main__":
    status = main(json.loads(sys.argv[1]))
    sys.stderr.flush()
    if threading.active_count() > 1:
        # A beat still waits for a bucket that is away; the interpreter would wait for it, or end it in foreign code.
        os._exit(status)
    sys.exit(status)
