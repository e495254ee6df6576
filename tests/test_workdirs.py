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
