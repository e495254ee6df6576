import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ideator_rl.environments.environment import Resources
from ideator_rl.sandbox import workspace

mounts = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
IN_A_PROCESS = "import os, sys\nfrom pathlib import Path\nfrom ideator_rl.environments.environment import Resources\n"
IN_A_PROCESS += "from ideator_rl.sandbox.workspace import sized_workspace\nfolder = Path(sys.argv[1])\n"


def in_a_process(code, folder):
    """A mount namespace stays with its process: not one of the test's own."""
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS + code, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@mounts
def test_the_kernel_refuses_what_goes_over_the_size_of_a_workspace_at_once(tmp_path):
    code = (
        "with sized_workspace(folder, Resources(disk_gb=0.02)) as mounted:\n"
        "    (folder / 'first').write_bytes(bytes(15_000_000))\n"
        "    try: (folder / 'second').write_bytes(bytes(15_000_000))\n"
        "    except OSError as error: print(mounted, error.errno, os.statvfs(folder).f_blocks * 4096)\n"
        "print(list(folder.iterdir()))"
    )
    mounted, number, size, left = in_a_process(code, tmp_path / "run")
    assert (mounted, int(number), left) == ("True", errno.ENOSPC, "[]")
    assert 19_900_000 < int(size) < 20_100_000


@mounts
def test_a_workspace_has_a_limit_on_files(tmp_path):
    code = (
        "with sized_workspace(folder, Resources(disk_gb=0.02)):\n"
        "    try:\n"
        "        for number in range(25_000): os.mknod(folder / str(number))\n"
        "    except OSError as error: print(error.errno)\n"
    )
    assert in_a_process(code, tmp_path / "run") == [str(errno.ENOSPC)]


@mounts
def test_a_workspace_ends_with_a_killed_worker_and_is_not_seen_outside(tmp_path):
    code = (
        "with sized_workspace(folder, Resources(disk_gb=0.02)):\n"
        "    (folder / 'file').write_text('x'); print('written', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", IN_A_PROCESS + code, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    assert not list((tmp_path / "run").iterdir())
    process.kill()
    process.communicate()
    shutil.rmtree(tmp_path / "run")
    assert "workspace" not in Path("/proc/self/mounts").read_text()


def test_a_workspace_that_does_not_fit_in_memory_lies_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "machine_memory", lambda: 1e9)
    with workspace.sized_workspace(tmp_path / "run", Resources(disk_gb=1.0)) as mounted:
        assert not mounted and (tmp_path / "run").is_dir()


def test_an_ordinary_users_workspace_lies_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    with workspace.sized_workspace(tmp_path / "run", Resources(disk_gb=0.001)) as mounted:
        assert not mounted
