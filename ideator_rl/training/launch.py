"""How a run will be launched, as an accelerate config file says: how many processes, and who shards what.

Read without accelerate, which takes seconds to import.  A file of accelerate's that this does not understand is
refused, never guessed at.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ideator_rl.errors import IdeatorError

DDP, ZERO1, ZERO2, ZERO3, FSDP, FSDP_GRADS = "DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3", "FSDP", "FSDP without weights"
WHOLE = (ZERO3, FSDP)
"""Sharding of weights, gradients and optimizer states."""
PLAIN = ("NO", "MULTI_GPU", "MULTI_CPU")
_FSDP = {"FULL_SHARD": FSDP, "SHARD_GRAD_OP": FSDP_GRADS, "NO_SHARD": DDP, "1": FSDP, "2": FSDP_GRADS, "3": DDP}


class LaunchError(IdeatorError):
    """The accelerate config is not usable."""


@dataclass(frozen=True)
class Launch:
    processes: int = 1
    sharding: str = DDP
    """Of one process nothing is sharded, whatever this says."""
    cpu: bool = False
    """The processes have no GPUs."""
    offload_optimizer: bool = False
    """Optimizer states stay in the host's memory."""
    offload_weights: bool = False

    @property
    def words(self) -> str:
        if self.processes == 1 and self.sharding == DDP:
            return "1 process"
        return f"{self.processes} processes, {self.sharding}"


def read_launch(file: str | None, processes: int | None = None) -> Launch:
    """The launch of an accelerate config file, or of plain processes.

    Args:
        processes: in place of the file's num_processes.

    Raises:
        LaunchError: the file cannot be read, or is of a kind that is not known here.
    """
    if file is None:
        return Launch(processes or 1)
    raw = _mapping(file)
    count = processes or raw.get("num_processes")
    if type(count) is not int or count < 1:
        raise LaunchError(f"The accelerate config {file} has num_processes: {count!r}. Expected a whole number from 1.")
    kind, cpu = str(raw.get("distributed_type", "NO")), bool(raw.get("use_cpu", False))
    if kind in PLAIN:
        return Launch(count, cpu=cpu)
    if kind == "DEEPSPEED":
        return _deepspeed(file, raw, count, cpu)
    if kind == "FSDP":
        return _fsdp(file, raw, count, cpu)
    raise LaunchError(
        f"The accelerate config {file} has distributed_type: {kind}. Expected {', '.join(PLAIN)}, DEEPSPEED or FSDP."
    )


def _deepspeed(file: str, raw: dict[str, Any], count: int, cpu: bool) -> Launch:
    given = raw.get("deepspeed_config") or {}
    stage = given.get("zero_stage")
    optimizer, weights = given.get("offload_optimizer_device"), given.get("offload_param_device")
    if own := given.get("deepspeed_config_file"):
        zero = _mapping(str(Path(file).parent / own)).get("zero_optimization", {})
        stage = zero.get("stage", 0)
        optimizer = zero.get("offload_optimizer", {}).get("device")
        weights = zero.get("offload_param", {}).get("device")
    known = {0: DDP, 1: ZERO1, 2: ZERO2, 3: ZERO3}
    if stage not in known:
        raise LaunchError(f"The accelerate config {file} has zero_stage: {stage!r}. Expected 0, 1, 2 or 3.")
    away = ("cpu", "nvme")
    return Launch(count, known[stage], cpu, optimizer in away, weights in away)


def _fsdp(file: str, raw: dict[str, Any], count: int, cpu: bool) -> Launch:
    given = raw.get("fsdp_config") or {}
    strategy = given.get("fsdp_sharding_strategy", given.get("fsdp_reshard_after_forward", "FULL_SHARD"))
    if isinstance(strategy, bool):
        sharding = FSDP if strategy else FSDP_GRADS  # version 2 says it so
    elif str(strategy) in _FSDP:
        sharding = _FSDP[str(strategy)]
    else:
        raise LaunchError(
            f"The accelerate config {file} has the sharding strategy {strategy!r}. Expected FULL_SHARD, SHARD_GRAD_OP "
            "or NO_SHARD, or fsdp_reshard_after_forward: true."
        )
    away = bool(given.get("fsdp_offload_params", False))
    return Launch(count, sharding, cpu, away, away)


def _mapping(file: str) -> dict[str, Any]:
    try:
        text = Path(file).read_text(encoding="utf-8")
        raw = json.loads(text) if file.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise LaunchError(f"The accelerate config {file} cannot be read: {why}.") from error
    if not isinstance(raw, dict):
        raise LaunchError(f"The accelerate config {file} must be a mapping of keys to values.")
    return raw
