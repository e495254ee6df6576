"""This process's share of the machine: which processors and GPUs its experiments may use.

- Processors: those of the process's affinity; at most as many as its control groups pay for, and as Slurm gave to a
  task of the job.
- GPUs: those whose device file this process can open; of these, what CUDA_VISIBLE_DEVICES names, by number or UUID, and
  what Slurm gave to the step or job.  Parts of a GPU (MIG) are no GPUs.  CUDA is not initialised.  Numbers count the
  openable devices by their PCI address, as CUDA does where all GPUs are of one model.
"""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import hardware_words
from ideator_rl.files import kernel_lines
from ideator_rl.sandbox.mounts import CUDA_VARIABLE, GPUS_VARIABLE, allotted_gpus

ROOT = Path("/")
"""Where /dev, /proc and /sys are; another folder in tests."""
SLURM_VARIABLES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
"""Numbers of device files.  The step's are among the job's."""


class UnfitNode(IdeatorError):
    """This process may not run the experiment, and a worker on another node may."""


@dataclass(frozen=True)
class DriverGpu:
    """What the driver lists about a GPU."""

    address: str
    """On the PCI bus."""
    uuid: str
    model: str


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
        IdeatorError: CUDA_VISIBLE_DEVICES names a part of a GPU (MIG), or a GPU that is not here; or all GPUs are split
            into parts.
    """
    devices = _openable()
    names = os.environ.get(CUDA_VARIABLE)
    chosen = devices
    if names is not None and devices:
        chosen = []
        for name in filter(None, (part.strip() for part in names.split(","))):
            if name in ("-1", "NoDevFiles"):
                break  # CUDA reads no further
            chosen.append(_device(name, devices))
    # Slurm's variables count as well: a job's script may have removed CUDA's, or replaced it.
    if of_slurm := next((os.environ[name] for name in SLURM_VARIABLES if os.environ.get(name)), ""):
        numbers = {int(number) for number in re.findall(r"\d+", of_slurm)}
        chosen = [number for number in chosen if number in numbers]
    whole = [number for number in dict.fromkeys(chosen) if not _is_split(number)]
    if chosen and not whole:
        raise IdeatorError(
            f"/dev/nvidia{chosen[0]} is split into parts (MIG), and experiments get whole GPUs. Turn MIG off there, or "
            "allot other GPUs."
        )
    return whole


def allot(count: int) -> list[int]:
    """The GPUs of the one experiment that an engine had this process started for.

    Raises:
        UnfitNode: the engine allotted too few; or this process can open more, and nothing shows which are its own.
    """
    usable = gpus()
    if len(usable) < count:
        raise UnfitNode(
            f"The experiment needs {count} GPUs, and this job can use {len(usable)}. Have the engine allot them."
        )
    if len(usable) > count and not any(name in os.environ for name in (CUDA_VARIABLE, *SLURM_VARIABLES)):
        raise UnfitNode(
            f"The experiment needs {count} GPUs, and this job can open {len(usable)}: nothing shows which are its own. "
            f"Have the engine hide the others, or set {CUDA_VARIABLE}."
        )
    return usable[:count]


def take_gpus(count: int, hardware: str = "") -> None:
    """Before a worker claims: allot the GPUs of its experiment to this process, unless the backend did.

    Args:
        hardware: see `refuse_other_hardware`.

    Raises:
        UnfitNode: as `allot` and `refuse_other_hardware`.
    """
    if count and GPUS_VARIABLE not in os.environ:
        os.environ[GPUS_VARIABLE] = ",".join(str(number) for number in allot(count))
    refuse_other_hardware(hardware, [int(number) for number in allotted_gpus()] if count else [])


def visible_names(numbers: list[int]) -> str:
    """A value of CUDA_VISIBLE_DEVICES for a process that sees all devices: UUIDs where the driver lists them."""
    listed = _driver_gpus()
    return ",".join(listed[number].uuid if number in listed else str(number) for number in numbers)


def refuse_other_hardware(declared: str, gpus: list[int]) -> None:
    """Compare declared hardware with the models of GPUs, or with the processor where there are none.

    Args:
        declared: words of a model's name, all of which the model must have; empty for no comparison.

    Raises:
        UnfitNode: another model, or none that can be read.
    """
    if not declared:
        return
    words = set(hardware_words(declared))
    models = gpu_models(gpus) if gpus else [_processor_model()]
    for model in models:
        if not words.issubset(hardware_words(model)):
            raise UnfitNode(
                f"What runs here is for the hardware {declared!r}, and this worker has {model or 'an unknown model'}. "
                "Send it to other nodes, or declare what this model's name holds."
            )


def gpu_models(numbers: list[int]) -> list[str]:
    """The model of each GPU, as `nvidia-smi -L` lists it; empty where it cannot be read."""
    listed = _driver_gpus()
    if all(number in listed for number in numbers):
        return [listed[number].model for number in numbers]
    output = ""
    with suppress(OSError, subprocess.SubprocessError):
        output = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
    # One line for each openable GPU, in the order of their addresses.
    models = re.findall(r"^GPU \d+: (.*?) \(UUID", output, re.M)
    devices = _openable()
    by_number = dict(zip(devices, models, strict=True)) if len(models) == len(devices) else {}
    return [by_number.get(number, "") for number in numbers]


def _processor_model() -> str:
    text = ""
    with suppress(OSError):
        text = (ROOT / "proc/cpuinfo").read_text()
    match = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
    return match[1] if match else ""


def _device(name: str, devices: list[int]) -> int:
    if name.startswith("MIG"):
        raise IdeatorError(
            f"CUDA_VISIBLE_DEVICES names {name}, a part of a GPU. Experiments get whole GPUs: name those."
        )
    if name.isdigit() and int(name) < len(devices):
        return devices[int(name)]
    listed = _driver_gpus().items()
    matches = [number for number, gpu in listed if name.startswith("GPU-") and gpu.uuid.startswith(name)]
    if len(matches) == 1 and matches[0] in devices:
        return matches[0]
    raise IdeatorError(
        f"CUDA_VISIBLE_DEVICES names the GPU {name!r}, and this process can open {len(devices)}: "
        f"{', '.join(f'/dev/nvidia{number}' for number in devices)}. Name some of them by number from 0, or by UUID."
    )


def _openable() -> list[int]:
    """Numbers of the device files that this process can open, by PCI address where the driver lists it."""
    names = (path.name[6:] for path in (ROOT / "dev").glob("nvidia[0-9]*"))
    numbers = sorted(int(name) for name in names if name.isdigit())
    listed = _driver_gpus()
    if all(number in listed for number in numbers):
        numbers.sort(key=lambda number: listed[number].address)
    return [number for number in numbers if _can_open(ROOT / f"dev/nvidia{number}")]


def _can_open(device: Path) -> bool:
    # Its mode says nothing: a control group may refuse a device that anyone may open.
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _is_split(number: int) -> bool:
    """Whether a GPU is split into instances (MIG): no process can use it as a whole."""
    return any((ROOT / f"proc/driver/nvidia/capabilities/gpu{number}/mig").glob("gi*"))


def _driver_gpus() -> dict[int, DriverGpu]:
    """What the driver lists, by the number of the device file."""
    listed = {}
    for path in (ROOT / "proc/driver/nvidia/gpus").glob("*/information"):
        values = dict(re.findall(r"^([^:\n]+):[ \t]*(.*?)[ \t]*$", path.read_text(), re.M))
        if values.get("Device Minor", "").isdigit() and values.get("GPU UUID"):
            gpu = DriverGpu(path.parent.name, values["GPU UUID"], values.get("Model", ""))
            listed[int(values["Device Minor"])] = gpu
    return listed


@cache
def _control_group_processors() -> float | None:
    """Processors that this process's control groups pay for; None without a limit."""
    quotas: list[float | None] = []
    lines: list[str] = []
    with suppress(OSError):
        lines = kernel_lines(ROOT / "proc/self/cgroup")
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
