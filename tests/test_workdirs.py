import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from ideator_rl.executor import workdirs
from ideator_rl.executor.workdirs import OPENING_PREFIX, PREFIX, new_workdir, remove_stale_workdirs

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


def test_a_workdir_whose_worker_was_killed_before_it_took_the_lock_is_removed_after_an_hour(temporary):
    for name, age in (("new", 0), ("old", 3700)):
        folder = temporary / f"{OPENING_PREFIX}{name}"
        folder.mkdir(mode=0o700)
        os.utime(folder, (time.time() - age,) * 2)
    remove_stale_workdirs()
    assert [folder.name for folder in temporary.iterdir()] == [f"{OPENING_PREFIX}new"]


def test_a_symbolic_link_is_not_removed_as_a_stale_workdir(temporary):
    (temporary / "precious").mkdir(mode=0o711)
    (temporary / f"{PREFIX}link").symlink_to(temporary / "precious")
    remove_stale_workdirs()
    assert (temporary / "precious").is_dir()


@pytest.fixture
def stale(temporary):
    """The folder of a worker that is gone."""
    folder = temporary / f"{PREFIX}gone"
    folder.mkdir()
    folder.chmod(0o711)
    return folder


def test_a_workdir_is_removed_whatever_other_processes_call_themselves(temporary, stale):
    code = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'a\\xff'); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        remove_stale_workdirs()
        assert list(temporary.iterdir()) == [] and process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_a_workdir_that_cannot_be_removed_ends_no_worker(temporary, stale, monkeypatch, caplog):
    def refuse(folder):
        raise ValueError("not removable")

    monkeypatch.setattr(workdirs, "remove_folder", refuse)
    remove_stale_workdirs()
    assert stale.is_dir() and "not removable" in caplog.text


def test_a_bubblewrap_that_waits_for_ever_is_killed_with_the_folder_of_its_worker(temporary, stale):
    """Its second process waits like that for the first one, where that was killed together with the worker."""
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
