import os
import signal
import subprocess
import sys
import tempfile

import pytest

from ideator_rl.executor.workdirs import PREFIX, new_workdir, remove_stale_workdirs

HOLDER = "import time\nfrom ideator_rl.executor.workdirs import new_workdir\nwith new_workdir() as place: print(place, flush=True); time.sleep(60)"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_home_is_removed_at_the_end_whatever_was_written_there(temporary):
    with new_workdir() as place:
        (place / "run" / "closed").mkdir(parents=True)
        (place / "run" / "closed").chmod(0)
    assert list(temporary.iterdir()) == []


def test_what_a_killed_owner_left_is_removed_and_what_a_living_one_holds_is_not(temporary):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    place = holder.stdout.readline().strip()
    remove_stale_workdirs()
    assert os.path.isdir(place)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    remove_stale_workdirs()
    assert list(temporary.iterdir()) == []


def test_a_link_in_the_temporary_folder_is_left_alone(temporary):
    (temporary / "precious").mkdir(mode=0o711)
    (temporary / f"{PREFIX}link").symlink_to(temporary / "precious")
    remove_stale_workdirs()
    assert (temporary / "precious").is_dir()
