import os
import time

import pytest

from ideator_rl.environments.environment import Budget, Resources
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.limits import Watch
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.sandbox import BWRAP, WORKSPACE, experiment_uid
from ideator_rl.sandbox.sealed_run import LOG_HEAD, LOG_TAIL, Command
from ideator_rl.sandbox.sealed_run import run as sealed_run


@pytest.fixture
def go(tmp_path, no_other_children, monkeypatch):
    workspace = tmp_path / "run"
    workspace.mkdir()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and "pytest" in folder.name:
            folder.chmod(0o755)
    (workspace / "artifact").mkdir()
    for folder in (workspace, workspace / "artifact"):
        os.chown(folder, experiment_uid(best_sandbox().level), -1)

    def start(
        code, seconds=1.0, clock="cpu", preload=(), allowance=10.0, memory_gb=1.0, after_look=lambda: None, **limits
    ):
        (workspace / "main.py").write_text(code)
        for left in (workspace / "artifact").iterdir():
            left.unlink()
        command = Command(("python", "main.py"), preload, {"PATH": "/usr/bin:/bin"})
        resources = Resources(1, 0, memory_gb, **limits)
        budget = Budget(clock, seconds, allowance)

        class Look(Watch):
            def broken_limit(self):
                if (broken := super().broken_limit()) is None:
                    after_look()
                return broken

        monkeypatch.setattr("ideator_rl.sandbox.sealed_run.Watch", Look)
        return sealed_run(best_sandbox(), command, Mounts({workspace: WORKSPACE}), budget, resources)

    return start


def test_a_run_that_ends_within_its_budget_is_ok_and_its_output_is_kept(go):
    ended = go("print('hello')")
    assert (ended.status, ended.log, ended.message) == ("ok", "hello\n", "")


def test_cpu_seconds_of_all_processes_count(go):
    code = (
        "import os, time\n"
        "pids = []\n"
        "for _ in range(3):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        end = time.process_time() + 0.6\n"
        "        while time.process_time() < end: pass\n"
        "        os._exit(0)\n"
        "    pids.append(pid)\n"
        "for pid in pids: os.waitpid(pid, 0)\n"
    )
    ended = go(code, seconds=1.2)
    assert ended.status == "timed_out" and ended.cpu > 1.1
    ended = go(code, seconds=3.0)
    assert ended.status == "ok" and 1.3 < ended.cpu < 2.6  # more than two of three children


def test_a_daemon_that_leaves_its_parent_is_counted_and_killed(go, tmp_path):
    code = (
        "import os, time\n"
        "if not os.fork():\n"
        "    os.setsid()\n"
        "    if not os.fork():\n"
        "        while True: pass\n"
        "    os._exit(0)\n"
        "time.sleep(1)\n"
    )
    ended = go(code, seconds=5)
    assert ended.status == "ok" and ended.cpu > 0.2
    time.sleep(0.1)
    assert [pid for pid in process_tree.descendants(os.getpid()) if _burning(pid)] == []


def _burning(pid):
    try:
        return b"main.py" in open(f"/proc/{pid}/cmdline", "rb").read()
    except OSError:
        return False


def test_start_up_is_not_charged_to_the_budget_but_has_an_allowance(go):
    # It waits: of a script that ends before its mark is read, start-up and budget cannot be told apart.
    code = "import time\ntime.sleep(0.5)\n"
    ended = go(code, seconds=0.3, preload=("unittest.mock", "asyncio", "email.mime.multipart"))
    assert ended.status == "ok" and ended.startup > 0.01
    ended = go("pass", allowance=0.01, preload=("unittest.mock", "asyncio", "xml.dom.minidom", "email.mime.multipart"))
    assert (ended.status, "allowance" in ended.message) == ("lost", True)


def test_the_message_of_a_crash_is_its_last_line_of_output(go):
    ended = go("print('begun'); raise ValueError('no such thing')")
    assert ended.status == "failed" and "ValueError: no such thing" in ended.message and "begun" in ended.log


def test_a_sleeping_run_is_stopped_on_the_wall_clock(go):
    ended = go("import time; time.sleep(60)", seconds=0.5, clock="wall")
    assert ended.status == "timed_out" and ended.wall < 30


def test_memory_over_the_limit_is_stopped(go):
    # The budget leaves room for machines on which a first touch of a page is slow.
    code = "import time\nx = bytearray(4 * 10**8)\nx[::4096] = b'1' * len(x[::4096])\ntime.sleep(60)"
    ended = go(code, seconds=10, memory_gb=0.2)
    assert ended.status == "failed" and "memory limit" in ended.message


def test_memory_that_processes_share_is_counted_once(go):
    code = (
        "import mmap, os, time\n"
        "shared = mmap.mmap(-1, 150_000_000)\n"
        "shared[:] = bytes(len(shared))\n"
        "for _ in range(3):\n"
        "    if not os.fork(): sum(shared[::4096]); time.sleep(0.5); os._exit(0)\n"
        "for _ in range(3): os.wait()\n"
    )
    assert go(code, seconds=5, memory_gb=0.4).message == ""


@pytest.mark.parametrize(
    "many",
    ["import os\nfor _ in range(200):\n    if not os.fork(): time.sleep(60); os._exit(0)\n",
     "import threading\nfor _ in range(200): threading.Thread(target=time.sleep, args=(60,)).start()\n"],
)  # fmt: skip
def test_too_many_processes_or_threads_are_stopped(go, many):
    ended = go("import time\n" + many + "time.sleep(60)", seconds=5, processes=100)
    assert (ended.status, ended.message) == ("failed", "over the limit of 100 processes and threads")


@pytest.mark.parametrize(
    "hide",
    ["", "os.unlink('big')", "import mmap; m = mmap.mmap(f.fileno(), 0); m[::4096]; f.close(); os.unlink('big')"],
)
def test_an_unlinked_open_file_counts_against_the_disk_limit(go, hide):
    code = f"import os, time\nf = open('big', 'w+b'); f.write(bytes(40_000_000)); f.flush()\n{hide}\ntime.sleep(60)"
    ended = go(code, seconds=5, disk_gb=0.02)
    assert (ended.status, ended.message) == ("failed", "over the disk limit of 0.02 GB")


def test_space_allocated_beyond_the_end_of_a_file_counts(go):
    keep = "import ctypes; ctypes.CDLL(None).fallocate(f.fileno(), 1, ctypes.c_long(0), ctypes.c_long(40_000_000))"
    ended = go(f"import time\nf = open('big', 'wb')\n{keep}\ntime.sleep(60)", seconds=5, disk_gb=0.02)
    assert (ended.status, ended.message) == ("failed", "over the disk limit of 0.02 GB")


def test_too_many_open_descriptors_are_stopped(go):
    code = (
        "import os, time\n"
        "held = [os.dup(0) for _ in range(3000)]\n"
        "for _ in range(8):\n"
        "    if not os.fork(): time.sleep(60); os._exit(0)\n"
        "time.sleep(60)\n"
    )
    ended = go(code, seconds=5)
    assert (ended.status, ended.message) == ("failed", "over the limit of 20000 open descriptors")


def test_folders_too_deep_to_be_measured_are_stopped(go):
    code = "import os, time\nfor _ in range(50): os.mkdir('x' * 100); os.chdir('x' * 100)\ntime.sleep(60)"
    ended = go(code, seconds=5)
    assert ended.status == "failed" and "cannot be looked into" in ended.message


def test_open_sockets_count_as_memory(go):
    code = "import socket, time\nheld = [socket.socketpair() for _ in range({})]\ntime.sleep({})"
    assert go(code.format(20, 2), seconds=5, memory_gb=0.2).message == ""
    assert "memory limit" in go(code.format(400, 60), seconds=5, memory_gb=0.2).message


@pytest.mark.skipif(best_sandbox().level != BWRAP, reason="needs the filter of system calls")
def test_very_short_children_are_counted_even_if_their_end_is_ignored(go):
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "end = time.monotonic() + 20\n"
        "while time.monotonic() < end:\n"
        "    if not os.fork():\n"
        "        until = time.process_time() + 0.004\n"
        "        while time.process_time() < until: pass\n"
        "        os._exit(0)\n"
        "    try: os.wait()\n"
        "    except ChildProcessError: time.sleep(0.004)\n"
    )
    ended = go(code, seconds=1)
    assert ended.status == "timed_out" and ended.wall < 15, ended


def test_endless_output_is_cut_in_the_middle(go):
    ended = go("import sys\nsys.stdout.write('first')\nwhile True: sys.stdout.write('x' * 100000)", seconds=0.5)
    assert ended.status == "timed_out"
    assert ended.log.startswith("first") and "left out" in ended.log
    assert len(ended.log) < LOG_HEAD + LOG_TAIL + 100


def test_a_closed_stdout_does_not_hang_the_parent(go):
    assert go("import os, time\nos.close(1); os.close(2); time.sleep(0.2)").status == "ok"


def test_the_start_mark_cannot_be_sent_by_the_experiment_later(go):
    code = (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'1')\n    except OSError: pass\nwhile True: pass\n"
    )
    assert go(code, seconds=0.5).status == "timed_out"


SAVE = "open('artifact/model', 'w').write('weights')\n"
BURN = "import time\nwhile True: time.process_time()\n"


def test_an_artifact_completed_within_the_budget_counts_although_the_run_timed_out(go):
    ended = go(SAVE + BURN, seconds=0.5)
    assert ended.status == "timed_out" and ended.artifact_complete and ended.cpu < 0.8


def test_an_artifact_completed_or_changed_after_the_budget_does_not_count(go):
    late = "import time\nwhile time.process_time() < 0.9: pass\n"
    assert not go(late + SAVE + BURN, seconds=0.5).artifact_complete
    assert not go(
        SAVE + BURN.replace("time.process_time()", "open('artifact/model', 'a').write('x')"), seconds=0.5
    ).artifact_complete
    swapped = (
        "import os, time\n"
        + SAVE
        + (
            "while True:\n    open('artifact/.new', 'w').write('weights')\n    os.replace('artifact/.new', 'artifact/model')\n"
        )
    )
    assert not go(swapped, seconds=0.5).artifact_complete
    assert not go(BURN, seconds=0.3).artifact_complete


def test_a_run_reads_how_much_memory_the_machine_has(go):
    ended = go("import os; print(os.sysconf('SC_PHYS_PAGES'), os.sysconf(os.sysconf_names['SC_AVPHYS_PAGES']) > 0)")
    assert ended.log.split() == [str(os.sysconf("SC_PHYS_PAGES")), "True"], ended.log
