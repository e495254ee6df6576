"""This process's share of the machine: which processors and GPUs its experiments may use.

- Processors: those of the process's affinity; at most as many as its control groups pay for, and as Slurm gave to a
  task of the job.
- GPUs: those whose device file this process can open; of these, what CUDA_VISIBLE_DEVICES names, by number or UUID.
  CUDA is not initialised.  Numbers count the openable devices in the order of their device files, as CUDA does where
  all GPUs are of one model.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

from ideator_rl.errors import IdeatorError

ROOT = Path("/")
"""Where /dev, /proc and /sys are; another folder in tests."""


def processors() -> list[int]:
    """Numbers of the processors that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def cpu_share() -> int:
    """How many processors this process may use at the same time; at least 1."""
    limits = [len(processors())]
    if (quota := _control_group_processors()) is not None:
        limits.append(max(1, int(quota + 0.5)))
    with suppress(ValueError):
        limits.append(int(os.environ.get("SLURM_CPUS_PER_TASK", "")))
    return max(1, min(limits))


def gpus() -> list[int]:
    """Numbers of the device files /dev/nvidiaN of the GPUs that this process may use, in CUDA's order.

    Raises:
        IdeatorError: CUDA_VISIBLE_DEVICES names a part of a GPU (MIG), or a GPU that is not here.
    """
    devices = [number for number in _device_numbers() if _can_open(ROOT / f"dev/nvidia{number}")]
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None or not devices:
        # Slurm's variable counts where a job's script removed CUDA's.  It has numbers of device files.
        of_step = {int(number) for number in re.findall(r"\d+", os.environ.get("SLURM_STEP_GPUS", ""))}
        return [number for number in devices if number in of_step] or devices
    chosen: list[int] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name in ("-1", "NoDevFiles"):
            break  # CUDA reads no further
        chosen.append(_device(name, devices))
    return list(dict.fromkeys(chosen))


def _device(name: str, devices: list[int]) -> int:
    if name.startswith("MIG"):
        raise IdeatorError(
            f"CUDA_VISIBLE_DEVICES names {name}, a part of a GPU. Experiments get whole GPUs: name those."
        )
    if name.isdigit() and int(name) < len(devices):
        return devices[int(name)]
    matches = [number for uuid, number in _uuids().items() if name.startswith("GPU-") and uuid.startswith(name)]
    if len(matches) == 1 and matches[0] in devices:
        return matches[0]
    raise IdeatorError(
        f"CUDA_VISIBLE_DEVICES names the GPU {name!r}, and this process can open {len(devices)}: "
        f"{', '.join(f'/dev/nvidia{number}' for number in devices)}. Name some of them by number from 0, or by UUID."
    )


def _device_numbers() -> list[int]:
    return sorted(int(path.name[6:]) for path in (ROOT / "dev").glob("nvidia[0-9]*") if path.name[6:].isdigit())


def _can_open(device: Path) -> bool:
    # Its mode says nothing: a control group may refuse a device that anyone may open.
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _uuids() -> dict[str, int]:
    """UUID → number of the device file, as the driver lists them."""
    uuids = {}
    for path in (ROOT / "proc/driver/nvidia/gpus").glob("*/information"):
        text = path.read_text()
        uuid, minor = re.search(r"GPU UUID:\s*(\S+)", text), re.search(r"Device Minor:\s*(\d+)", text)
        if uuid and minor:
            uuids[uuid[1]] = int(minor[1])
    return uuids


@cache
def _control_group_processors() -> float | None:
    """Processors that this process's control groups pay for; None without a limit."""
    quotas: list[float | None] = []
    lines: list[str] = []
    with suppress(OSError):
        lines = (ROOT / "proc/self/cgroup").read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            mount, files = ROOT / "sys/fs/cgroup", ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mount, files = ROOT / "sys/fs/cgroup/cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # A limit of any group above holds too.  In a container the path may be of another tree: its root is tried.
        group = mount / path.lstrip("/")
        folders = [folder for folder in {group, *group.parents, mount} if folder == mount or mount in folder.parents]
        quotas += [_quota([folder / name for name in files]) for folder in folders]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(files: list[Path]) -> float | None:
    """Processors that one control group pays for: the files hold a time, or none, and the period for it."""
    with suppress(OSError, ValueError):
        quota, period = " ".join(file.read_text() for file in files).split()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    return None
