"""What holds up the watch of a run, and runs that use such a moment."""

import ctypes
import os
import subprocess
import sys
import time

import pytest
from test_sealed_run import go  # noqa: F401

from ideator_rl.sandbox import process_tree, slow_look
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.limits import OVERRUN_SECONDS
from ideator_rl.sandbox.sandbox import NONE
from ideator_rl.sandbox.slow_look import SlowLook, TooSlow


@pytest.fixture(autouse=True)
def as_in_a_worker():
    """Adopt what loses its parent, so that its CPU time is counted here."""
    process_tree.become_subreaper()
    yield
    ctypes.CDLL(None).prctl(process_tree.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


# The artifact is complete at once, and its page is dirty: later stores through the mapping move no change time.
DIRTY = (
    "import ctypes, mmap, os, time\n"
    "file = open('artifact/model', 'w+b')\n"
    "file.write(b'early' + bytes(4091)); file.flush()\n"
    "view = mmap.mmap(file.fileno(), 4096); view[:5] = b'early'\n"
)
# Processes that share one memory, so that a list of what it maps is as long for each of them.
MANY_MAPPINGS = DIRTY + (
    "libc = ctypes.CDLL(None)\n"
    "libc.mmap.restype = ctypes.c_void_p\n"
    "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]\n"
    "libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]\n"
    "libc.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]\n"
    "area = libc.mmap(None, 4096 * {mappings}, 3, 0x22, -1, 0)\n"
    "for page in range(0, {mappings}, 2): libc.mprotect(area + 4096 * page, 4096, 1)\n"
    "stacks = libc.mmap(None, 16384 * {clones}, 3, 0x22, -1, 0)\n"
    "pause = ctypes.cast(libc.pause, ctypes.c_void_p)\n"
    "for n in range({clones}): libc.clone(pause, stacks + 16384 * (n + 1), 0x100 | 17, None)\n"
    "while time.process_time() < 30: view[0] = view[0]\n"
    "view[:5] = b'late!'\n"
)


@pytest.mark.parametrize(("mappings", "clones"), [(60_000, 490), (60_000, 0), (200, 400)])
def test_a_run_that_is_slow_to_look_at_is_stopped_in_time(go, mappings, clones):  # noqa: F811
    beats = []
    code = MANY_MAPPINGS.format(mappings=mappings, clones=clones)
    ended = go(code, after_look=lambda: beats.append(time.monotonic()), memory_gb=16, processes=512)
    # What is refused may have run on until it was killed: how long that takes depends on the machine.
    assert ended.status in ("failed", "timed_out") and ended.cpu <= (
        1 + OVERRUN_SECONDS if ended.artifact_complete else 15  # by itself it ends at 30
    )
    assert not ended.artifact_complete or ended.status == "timed_out"
    # The clock went on: without that, these runs held it up for half a minute.
    assert max(b - a for a, b in zip(beats, beats[1:], strict=False)) < 2


def test_a_run_far_over_its_budget_keeps_nothing_even_if_its_artifact_looks_complete(go):  # noqa: F811
    def hold_up():
        run = process_tree.descendants(os.getpid())[1:]
        while 0.1 < process_tree.usage(run).seconds < 1.0:
            time.sleep(0.05)

    ended = go(DIRTY + "while time.process_time() < 9: pass\n", seconds=0.5, after_look=hold_up)
    assert ended.status == "timed_out" and ended.cpu > 0.5 + OVERRUN_SECONDS and not ended.artifact_complete


def test_the_kernel_ends_a_process_that_outlasts_its_budget_while_the_watch_is_held_up(go):  # noqa: F811
    def hold_up():
        until = time.monotonic() + 60
        while any((process_tree.own_seconds(pid) or 0.0) > 0.3 for pid in tree()) and time.monotonic() < until:
            time.sleep(0.05)

    def tree():
        return process_tree.descendants(os.getpid())[1:]

    ended = go(DIRTY + "while time.process_time() < 30: pass\n", seconds=0.5, allowance=0.5, after_look=hold_up)
    assert ended.status == "timed_out" and 1.0 < ended.cpu < 3.0 and not ended.artifact_complete, ended


@pytest.mark.skipif(best_sandbox().level == NONE, reason="needs a PID namespace")
def test_processes_that_are_killed_at_the_end_are_counted_to_the_last(go):  # noqa: F811
    """Each computes for less than a tick of the clock and is never reaped by its parent."""
    code = (
        "import os, time\n"
        "for _ in range(200):\n"
        "    if not os.fork():\n"
        "        until = time.process_time() + 0.007\n"
        "        while time.process_time() < until: pass\n"
        "        time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    ended = go(code, seconds=1.0)
    # Together they compute for 1.4 s, and for some more in the kernel; counted twice it would be 2.8 and more.
    assert ended.status == "timed_out" and 1.0 < ended.cpu < 2.6


def test_a_process_whose_main_thread_has_ended_is_alive_and_is_killed():
    code = (
        "import ctypes, threading, time\n"
        "x = bytearray(50_000_000)\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print('begun', flush=True)\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"begun\n"
    while process_tree._stat(child.pid)[0] != "Z":
        time.sleep(0.01)
    assert process_tree.start_time(child.pid) is not None
    assert process_tree.usage([child.pid]).resident > 5e7 and process_tree.proportional_memory([child.pid]) > 5e7
    process_tree.kill_tree(child.pid)
    assert process_tree.start_time(child.pid) is None and child.wait(5) == -9


# A process chooses its name: up to 15 bytes, which need not be text.
NAMES = [b"a\xff", b"a) Z 1 (b", b"\xff)\n0 0 \x85", b"x\rFoo:\t1"]


def named(name, code):
    return f"import ctypes, time\nctypes.CDLL(None).prctl(15, {name!r})\n{code}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ("CPU seconds", "while time.process_time() < 30: pass"),
        ("memory limit", "x = bytearray(4 * 10**8)\nx[::4096] = b'1' * len(x[::4096])\ntime.sleep(60)"),
        ("processes and threads", "import os\nfor _ in range(200): os.fork() or time.sleep(60)\ntime.sleep(60)"),
    ],
)
def test_limits_hold_whatever_a_process_calls_itself(go, name, limit, code):  # noqa: F811
    assert limit in go(named(name, code), seconds=2, memory_gb=0.3, processes=100).message


@pytest.mark.parametrize("name", NAMES)
def test_a_process_is_seen_and_killed_whatever_it_calls_itself(name):
    code = named(name, "print('begun', flush=True)\ntime.sleep(60)")
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"begun\n"
        assert process_tree.usage([child.pid]).tasks == 1 and process_tree.start_time(child.pid) is not None
        fields = process_tree.status_fields(child.pid)
        assert fields["PPid"] == str(os.getpid()) and "Foo" not in fields
        process_tree.kill_tree(child.pid)
        assert child.wait(5) == -9
    finally:
        child.kill()


def test_cpu_time_is_counted_more_finely_than_the_kernel_shows_it():
    def counted():
        before, until = process_tree.usage([os.getpid()]).seconds, time.process_time() + 0.003
        while time.process_time() < until:
            pass
        return process_tree.usage([os.getpid()]).seconds - before

    # Other threads of this process, and the looks themselves, may take as long.
    assert 0.002 < min(counted() for _ in range(5)) < 0.01


def answer(look):
    while (result := look.result()) is None and not look.ended:
        time.sleep(0.01)
    return result


def test_a_slow_look_answers_and_leaves_no_process():
    look = SlowLook(lambda: {"size": 3})
    assert answer(look) == {"size": 3}
    assert look.ended


def test_a_look_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(slow_look, "CPU_SECONDS", 0.2)
    look, began = SlowLook(lambda: all(True for _ in iter(int, 1))), time.monotonic()
    pid = look._pid
    with pytest.raises(TooSlow):
        answer(look)
    assert time.monotonic() - began < 5 and look.cpu > 0.1 and process_tree.start_time(pid) is None
    monkeypatch.setattr(slow_look, "WALL_SECONDS", 0.1)
    with pytest.raises(TooSlow):
        answer(SlowLook(lambda: time.sleep(9)))


def test_a_look_that_the_machine_kills_has_no_answer():
    look = SlowLook(lambda: time.sleep(9))
    os.kill(look._pid, 9)
    assert answer(look) is None and look.ended
