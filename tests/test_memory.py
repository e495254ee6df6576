"""Hierarchies of control groups as files in a temporary folder."""

import pytest

from ideator_rl.sandbox import memory

NAMES = {
    "cgroup": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "4:cpu,memory:/", "rw,memory"),
    "cgroup2": ("memory.max", "memory.current", "inactive_file", "0::/", "rw"),
}


@pytest.fixture(params=NAMES)
def groups(request, tmp_path):
    """Makes a hierarchy whose root has no limit; returns the limits and uses of a process in the group `job/step`."""
    limit, used, droppable, line, options = NAMES[request.param]

    def make(limits, root="/", group="job/step"):
        (tmp_path / "fs" / "job" / "step").mkdir(parents=True)
        for inner, value in limits.items():
            folder = tmp_path / "fs" / inner
            (folder / limit).write_text(f"{value}\n")
            (folder / used).write_text("700\n")
            (folder / "memory.stat").write_text(f"cache 9\n{droppable} 200\n")
        (tmp_path / "cgroup").write_text(f"9:pids:/other\n{line}{group}\n")
        mount = f"30 20 0:1 {root} {tmp_path}/fs rw - {request.param} cgroup {options}\n"
        (tmp_path / "mountinfo").write_text("29 20 0:2 / /proc rw shared:1 - proc proc rw\n" + mount)
        return list(memory.group_memory(tmp_path))

    return make


def test_each_group_from_the_process_up_is_looked_at(groups):
    assert groups({"job/step": "max", "job": 4000, "": 9000}) == [(4000, 500), (9000, 500)]


def test_a_container_sees_its_own_group_as_the_root_of_the_hierarchy(groups):
    assert groups({"": 5000, "job": 1000}, root="/docker/a", group="docker/a") == [(5000, 500)]


def test_a_group_outside_what_is_mounted_counts_as_the_root(groups):
    assert groups({"": 5000}, group="../..") == [(5000, 500)]


def test_mounts_and_groups_whose_names_are_no_text_hide_no_limit(groups, tmp_path):
    def add_line(name, line):
        (tmp_path / name).write_bytes(line + b"\n" + (tmp_path / name).read_bytes())

    assert groups({"job": 4000}) == [(4000, 500)]
    add_line("mountinfo", b"28 20 0:3 / /mnt/a\xff\x0b\xc2\x85 rw - fuse.x a\xff rw")
    add_line("cgroup", b"8:freezer:/a\xff\x0b\r")
    assert list(memory.group_memory(tmp_path)) == [(4000, 500)]


def test_the_least_limit_counts_and_what_is_used_of_it_is_not_available(monkeypatch):
    monkeypatch.setattr(memory, "group_memory", lambda: iter([(4000.0, 1000.0), (3500.0, 3000.0)]))
    assert memory.machine_memory() == 3500 and memory.available_memory() == 500
    monkeypatch.setattr(memory, "group_memory", lambda: iter([(4000.0, 5000.0)]))
    assert memory.available_memory() == 0
