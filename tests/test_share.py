"""A process's share of the machine, on made-up device files, control groups and variables."""

import os
import shutil

import pytest

from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import share
from ideator_rl.executor.backends.local import LocalBackend


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A machine with four GPUs, of which a control group hides the first."""
    monkeypatch.setattr(share, "ROOT", tmp_path)
    share._control_group_processors.cache_clear()
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    for number in range(4):
        folder = tmp_path / f"proc/driver/nvidia/gpus/0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: \t H100\nGPU UUID: \t GPU-{number}abc\nDevice Minor: \t {number}\n"
        )
    monkeypatch.setattr(share, "_can_open", lambda path: path.name != "nvidia0")
    yield tmp_path
    share._control_group_processors.cache_clear()


@pytest.mark.parametrize(
    "visible, numbers",
    [
        (None, [1, 2, 3]),
        ("0", [1]),
        ("2,0", [3, 1]),
        ("1,1", [2]),
        ("GPU-2abc", [2]),
        ("GPU-3", [3]),
        ("", []),
        ("-1", []),
        ("0,-1,1", [1]),
        ("NoDevFiles", []),
    ],
)
def test_gpus_are_those_that_can_be_opened_and_that_cuda_would_see(root, monkeypatch, visible, numbers):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert share.gpus() == numbers


@pytest.mark.parametrize("visible", ["3", "MIG-GPU-1abc/1/0", "GPU-9", "GPU-0abc", "GPU-", "all"])
def test_a_gpu_that_is_not_here_is_refused_and_never_means_all(root, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(IdeatorError, match="CUDA_VISIBLE_DEVICES names"):
        share.gpus()


def test_a_part_of_a_gpu_is_no_obstacle_for_experiments_without_gpus(root, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-1abc/1/0")
    backend = LocalBackend("file:///nowhere", slots=1)
    backend.refuse_if_too_large(Resources(1, 0, 1))
    with pytest.raises(IdeatorError, match="whole GPUs"):
        backend.refuse_if_too_large(Resources(1, 1, 1))


def test_slurms_gpus_count_where_cudas_variable_was_removed(root, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_GPUS", "2,3")
    assert share.gpus() == [2, 3]
    monkeypatch.delenv("SLURM_STEP_GPUS")
    monkeypatch.setenv("SLURM_JOB_GPUS", "1-2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert share.gpus() == [1, 2]
    # Numbers that fit no device never mean all.
    monkeypatch.setenv("SLURM_JOB_GPUS", "7")
    assert share.gpus() == []


def test_numbers_count_by_pci_address_where_device_files_have_another_order(root, monkeypatch):
    for number, address in ((1, "0000:f1:00.0"), (2, "0000:0a:00.0"), (3, "0000:81:00.0")):
        folder = root / f"proc/driver/nvidia/gpus/0000:0{number}:00.0"
        folder.rename(folder.with_name(address))
    assert share.gpus() == [2, 3, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert share.gpus() == [2] and share.visible_names([2]) == "GPU-2abc"
    (root / "proc/driver/nvidia/gpus/0000:0a:00.0/information").unlink()
    assert share.gpus() == [1] and share.visible_names([2]) == "2"


def test_a_gpu_that_is_split_into_parts_is_none(root):
    split = root / "proc/driver/nvidia/capabilities"
    (split / "gpu2/mig/gi1").mkdir(parents=True)
    assert share.gpus() == [1, 3]
    for number in (1, 3):
        (split / f"gpu{number}/mig/gi7").mkdir(parents=True)
    with pytest.raises(IdeatorError, match=r"split into parts \(MIG\)"):
        share.gpus()


def test_an_engines_job_gets_its_own_gpus_and_never_all_that_can_be_opened(root, monkeypatch):
    with pytest.raises(IdeatorError, match="can open 3: nothing shows which are its own"):
        share.allot(2)
    assert share.allot(3) == [1, 2, 3]
    with pytest.raises(IdeatorError, match="needs 4 GPUs, and this job can use 3"):
        share.allot(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert share.allot(1) == [3] and share.allot(2) == [3, 1]
    for nothing in ("", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        with pytest.raises(IdeatorError, match="can use 0"):
            share.allot(1)


def test_a_worker_takes_its_gpus_once_and_compares_their_model(root, monkeypatch):
    monkeypatch.delenv("IDEATOR_GPUS", raising=False)
    share.take_gpus(0)
    assert "IDEATOR_GPUS" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-3,GPU-2")
    share.take_gpus(2, "h100")
    assert os.environ["IDEATOR_GPUS"] == "3,2"
    # The backend `local` has chosen: its slot counts.
    monkeypatch.setenv("IDEATOR_GPUS", "1")
    share.take_gpus(1)
    with pytest.raises(IdeatorError, match="hardware 'a100'"):
        share.take_gpus(1, "a100")
    assert os.environ["IDEATOR_GPUS"] == "1"


@pytest.mark.parametrize(
    "declared, model, fits",
    [
        ("h100", "NVIDIA H100 80GB HBM3", True),
        ("H100-80GB", "NVIDIA H100 80GB HBM3", True),
        ("a10", "NVIDIA A100-SXM4-80GB", False),
        ("a100 80gb", "NVIDIA A100-SXM4-80GB", True),
        ("a100 80gb", "NVIDIA A100-SXM4-40GB", False),
        ("", "NVIDIA A100-SXM4-40GB", True),
        ("h100", "", False),
    ],
)
def test_a_worker_on_another_model_than_the_declared_one_refuses(root, declared, model, fits):
    for number in range(4):
        file = root / f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information"
        file.write_text(
            file.read_text().replace("H100", model if number == 3 else model + " H100 A100 80GB" if fits else model)
        )
    if fits:
        share.refuse_other_hardware(declared, [1, 3])
        return
    with pytest.raises(IdeatorError, match=f"for the hardware '{declared}', and this worker has {model or 'an unk'}"):
        share.refuse_other_hardware(declared, [1, 3])


def test_where_the_driver_lists_nothing_nvidia_smi_is_asked(root, monkeypatch):
    shutil.rmtree(root / "proc/driver")
    program = root / "nvidia-smi"
    names = [f"GPU {number}: NVIDIA {name} (UUID: GPU-{number})" for number, name in enumerate(["L4", "A10", "L40S"])]
    program.write_text("#!/bin/sh\ncat <<END\n" + "\n".join(names) + "\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}:{os.environ['PATH']}")
    assert share.gpu_models([3, 1]) == ["NVIDIA L40S", "NVIDIA L4"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert share.gpu_models([3]) == [""]


def test_without_gpus_the_processors_model_counts(root):
    with pytest.raises(IdeatorError, match="an unknown model"):
        share.refuse_other_hardware("epyc", [])
    (root / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 9654 96-Core Processor\n")
    share.refuse_other_hardware("epyc 9654", [])
    with pytest.raises(IdeatorError, match="AMD EPYC 9654"):
        share.refuse_other_hardware("xeon", [])


def test_the_smallest_of_affinity_control_group_and_slurm_counts(root, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {8, 9, 10, 11, 12, 13})
    assert share.processors() == [8, 9, 10, 11, 12, 13] and share.cpu_share() == 6
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert share.cpu_share() == 4
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "16(x2)")  # not a number that it documents
    assert share.cpu_share() == 6


@pytest.mark.parametrize(
    "line, files, count",
    [
        ("0::/a/b", {"sys/fs/cgroup/a/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b", {"sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ("0::/a", {"sys/fs/cgroup/a/cpu.max": "10000 100000"}, 1),
        ("0::/../..", {"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        (
            "4:cpu,cpuacct:/docker/x",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("0::/a", {"sys/fs/cgroup/a/cpu.max": "broken"}, 6),
        ("0::/a", {}, 6),
    ],
)
def test_the_quota_of_any_control_group_above_counts(root, monkeypatch, line, files, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text(line + "\n")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert share.cpu_share() == count
