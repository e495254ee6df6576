import os
import signal
import subprocess
import sys
import tempfile

import pytest

from ideator_rl.executor.workdirs import PREFIX, new_workdir, remove_stale_workdirs

HOLDER = "import time\nfrom ideator_rl.executor.workdirs import new_workdir\nwith new_workdir() as folder: print(folder, flush=True); time.sleep(60)"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_workdir_is_removed_at_the_end_even_with_closed_folders_inside(temporary):
    with new_workdir() as folder:
        (folder / "run" / "closed").mkdir(parents=True)
        (folder / "run" / "closed").chmod(0)
    assert list(temporary.iterdir()) == []


def test_a_workdir_is_removed_as_stale_only_after_its_owner_was_killed(temporary):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    folder = holder.stdout.readline().strip()
    remove_stale_workdirs()
    assert os.path.isdir(folder)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    remove_stale_workdirs()
    assert list(temporary.iterdir()) == []


def test_a_symbolic_link_is_not_removed_as_a_stale_workdir(temporary):
    (temporary / "precious").mkdir(mode=0o711)
    (temporary / f"{PREFIX}link").symlink_to(temporary / "precious")
    remove_stale_workdirs()
    assert (temporary / "precious").is_dir()


def test_a_bubblewrap_that_waits_for_ever_is_killed_with_the_folder_of_its_worker(temporary):
    """Its second process waits like that for the first one, where that was killed together with the worker."""
    stale = temporary / f"{PREFIX}gone"
    stale.mkdir()
    stale.chmod(0o711)
    program = temporary / "bwrap"
    program.symlink_to(os.path.realpath(sys.executable))
    wait = ["-c", "import time; print(flush=True); time.sleep(60)"]
    commands = [[str(program), *wait, f"{stale}/first/run"], [str(program), *wait, "elsewhere"],
                [sys.executable, *wait, f"{stale}/first/run"]]  # fmt: skip
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    try:
        for process in processes:
            process.stdout.readline()
        remove_stale_workdirs()
        assert processes[0].wait(10) == -signal.SIGKILL and not stale.exists()
        assert [process.poll() for process in processes[1:]] == [None, None]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
