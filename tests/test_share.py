"""A process's share of the machine, on made-up device files, control groups and variables."""

import os

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
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_CPUS_PER_TASK"):
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
    # A control group has renumbered them, or shows others: what can be opened counts.
    monkeypatch.setenv("SLURM_STEP_GPUS", "7")
    assert share.gpus() == [1, 2, 3]


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
