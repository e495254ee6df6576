"""Programs that wait for SIGCHLD work on the CPU clock, and experiments hide no time by an action for it."""

import ctypes
import os
import subprocess
import sys

import pytest

from ideator_rl.environments.environment import Budget, Resources
from ideator_rl.sandbox import mounts, process_tree, start, tracer
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.sandbox import BWRAP, WORKSPACE, experiment_uid
from ideator_rl.sandbox.sealed_run import Command
from ideator_rl.sandbox.sealed_run import run as sealed_run

pytestmark = pytest.mark.skipif(best_sandbox().level != BWRAP, reason="needs the filter of system calls")

BURN = "import time\ndef burn(seconds):\n    while time.process_time() < seconds: pass\n"
JOB = f"{sys.executable} -I -S burn.py"
FORKSERVER = """
from burn import burn
import multiprocessing
if __name__ == "__main__":
    with multiprocessing.get_context({method!r}).Pool(1) as pool:
        pool.map(burn, [0.24])
"""
LOADER = """
from burn import burn
import torch
class Data(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, index):
        end = time.process_time() + 0.25
        burn(end)
        return torch.tensor(index)
import time
if __name__ == "__main__":
    before = time.process_time()
    batches = list(torch.utils.data.DataLoader(Data(), num_workers=2, multiprocessing_context={method!r}))
    assert len(batches) == 4
"""
PROGRAMS = {
    "sh": f"{JOB} & {JOB} & wait",
    "bash": f"bash -c '{JOB} & {JOB} & wait'",
    "make": "printf 'all: a b\\na b:\\n\\t@" + JOB + "\\n' > Makefile; make -s -j2",
    "xargs": f"printf '1\\n2\\n' | xargs -P 2 -n 1 {JOB}",
    "timeout": f"timeout 50 {JOB}; timeout 50 {JOB}",
}
SCRIPTS = {
    "forkserver": FORKSERVER.format(method="forkserver"),
    "spawn": FORKSERVER.format(method="spawn"),
    "subprocess": "import subprocess\nfor _ in range(2): subprocess.run({argv}, check=True)",
    "asyncio": (
        "import asyncio\n"
        "async def job():\n    assert await (await asyncio.create_subprocess_exec(*{argv})).wait() == 0\n"
        "async def main(): await asyncio.gather(job(), job())\n"
        "asyncio.run(main())\n"
    ),
    "handler": (
        "import os, signal, sys, time\n"
        "ended = []\n"
        "def reap(*_):\n"
        "    try:\n"
        "        while pid := os.waitpid(-1, os.WNOHANG)[0]: ended.append(pid)\n"
        "    except ChildProcessError: pass\n"
        "signal.signal(signal.SIGCHLD, reap)\n"
        "pids = [os.spawnv(os.P_NOWAIT, sys.executable, {argv}) for _ in range(2)]\n"
        "while len(ended) < 2: time.sleep(0.01)\n"
        "assert sorted(ended) == sorted(pids)\n"
    ),
    "stopped": (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "pids = [os.spawnv(os.P_NOWAIT, sys.executable, {argv}) for _ in range(2)]\n"
        "for number, happened in ((signal.SIGSTOP, os.WIFSTOPPED), (signal.SIGCONT, os.WIFCONTINUED)):\n"
        "    for pid in pids:\n"
        "        os.kill(pid, number)\n"
        "        assert happened(os.waitpid(pid, os.WUNTRACED | os.WCONTINUED)[1])\n"
        "for pid in pids: assert os.waitpid(pid, 0)[1] == 0\n"
    ),
}


@pytest.fixture
def run(tmp_path, no_other_children):
    """Run a command in a workspace that holds `burn.py`, as a worker does."""
    process_tree.become_subreaper()
    workspace = tmp_path / "run"
    (workspace / "artifact").mkdir(parents=True)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and "pytest" in path.name:
            path.chmod(0o755)
    for path in (workspace, workspace / "artifact"):
        os.chown(path, experiment_uid(best_sandbox().level), -1)
    (workspace / "burn.py").write_text(BURN + "if __name__ == '__main__': burn(0.12)\n")

    def start_in_workspace(*argv, code="", seconds=20.0, preload=()):
        (workspace / "main.py").write_text(code)
        command = Command(argv or ("python", "main.py"), preload, {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"})
        budget, seen = Budget("cpu", seconds, 60), Mounts({workspace: WORKSPACE})
        return sealed_run(best_sandbox(), command, seen, budget, Resources(1, 0, 4))

    yield start_in_workspace
    ctypes.CDLL(None).prctl(process_tree.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_that_wait_for_the_signal_end_and_are_counted(run, program):
    ended = run("sh", "-c", PROGRAMS[program])
    assert ended.status == "ok" and ended.wall < 20, ended
    assert ended.cpu + ended.startup >= 0.24 and ended.cpu < 0.44


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_that_wait_for_children_end_and_are_counted(run, script):
    argv = [sys.executable, "-I", "-S", "burn.py"]
    ended = run(code=SCRIPTS[script].replace("{argv}", repr(argv)))
    assert ended.status == "ok" and ended.wall < 20, ended
    assert ended.cpu + ended.startup >= 0.24 and ended.cpu < 0.65


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_data_loader_with_workers_ends_however_these_are_started(run, method):
    ended = run(code=LOADER.format(method=method), seconds=60)
    assert ended.status == "ok" and ended.wall < 120, ended
    assert ended.cpu > 1.0


IGNORE = """
import ctypes, os, signal, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def action(handler, flags, address=None):
    words = (ctypes.c_long * 4)(handler, flags | 0x04000000, RESTORER, 0)
    return libc.syscall(13, 17, ctypes.byref(words), None, 8)
RESTORER = ctypes.cast(libc.abort, ctypes.c_void_p).value
gate = os.pipe()
def all_have_ended():
    os.close(gate[1])
    os.read(gate[0], 1)
def burn(seconds=0.006):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
def children(count=25, fork=os.fork):
    for _ in range(count):
        if fork() == 0:
            burn()
            os._exit(0)
        try:
            while os.wait(): pass
        except ChildProcessError: pass
"""
SIG_IGN, NO_WAIT = "assert action(1, 0) == 0\n", "assert action(0, 2) == 0\n"
HIDING = {
    "children that are ignored": SIG_IGN + "children()",
    "children that nobody is to wait for": NO_WAIT + "children()",
    "a handler without waiting": "assert action(RESTORER, 0) == 0; signal.signal(17, lambda *_: 0)\n"
    + NO_WAIT
    + "children()",
    "grandchildren whose parent has ended": (
        SIG_IGN + "for _ in range(25):\n"
        "    if os.fork() == 0:\n"
        "        if os.fork() == 0: burn()\n"
        "        os._exit(0)\n"
        "all_have_ended()\n"
    ),
    # `wait` sees none of these: without a wait of its own, the script would end, and be killed with them, before they do.
    "children that send no signal": (
        SIG_IGN + "children(fork=lambda: libc.syscall(56, 0, 0, 0, 0, 0)); all_have_ended()"
    ),
    "children that send another signal": (
        SIG_IGN
        + "signal.signal(10, signal.SIG_IGN); children(fork=lambda: libc.syscall(56, 10, 0, 0, 0, 0)); all_have_ended()"
    ),
    "children of the parent's parent": (
        SIG_IGN + "if os.fork() == 0:\n"
        "    for _ in range(25):\n"
        "        if libc.syscall(56, 0x8000 | 17, 0, 0, 0, 0) == 0: burn(); os._exit(0)\n"
        "    os._exit(0)\n"
        "all_have_ended()\n"
    ),
    "children that were looked at and left": (
        SIG_IGN + "for _ in range(25):\n"
        "    if os.fork() == 0: burn(); os._exit(0)\n"
        "    try: os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)\n"
        "    except ChildProcessError: pass\n"
    ),
    "children from before": (
        "for _ in range(25):\n    if os.fork() == 0: burn(); os._exit(0)\n"
        "all_have_ended()\n" + SIG_IGN + "try:\n    while os.wait(): pass\nexcept ChildProcessError: pass\n"
    ),
    "what was reaped before, by a child that is ignored": (
        "go, stay = os.pipe(), os.pipe()\n"
        "if os.fork() == 0:\n"
        "    children()\n"
        "    os.write(stay[1], b'1'); os.read(go[0], 1); os._exit(0)\n"
        "os.read(stay[0], 1)\n" + SIG_IGN + "os.write(go[1], b'1')\n"
        "try: os.wait()\n"
        "except ChildProcessError: pass\n"
    ),
    "an action that changes while it is asked for": (
        "words = (ctypes.c_long * 4)(0, 0x04000000, RESTORER, 0)\n"
        "stop = []\n"
        "def change():\n"
        "    while not stop: words[0] ^= 1\n"
        "thread = threading.Thread(target=change); thread.start()\n"
        "for _ in range(20): libc.syscall(13, 17, ctypes.byref(words), None, 8)\n"
        "stop.append(1); thread.join(); children()\n"
    ),
    "threads of ignored children": (
        SIG_IGN + "def threads():\n"
        "    all = [threading.Thread(target=burn, args=(0.09,)) for _ in range(2)]\n"
        "    [thread.start() for thread in all]; [thread.join() for thread in all]\n"
        "if os.fork() == 0: threads(); burn(0.09); os._exit(0)\n"
        "try: os.wait()\n"
        "except ChildProcessError: pass\n"
    ),
    "ignored children that are killed": (
        SIG_IGN + "for _ in range(25):\n"
        "    if os.fork() == 0: burn(); os.kill(os.getpid(), 9)\n"
        "    try: os.wait()\n"
        "    except ChildProcessError: pass\n"
    ),
    "ignored children that become another program": (
        SIG_IGN + "for _ in range(2):\n"
        "    if os.fork() == 0: burn(0.09); os.execv('/bin/true', ['true'])\n"
        "    try: os.wait()\n"
        "    except ChildProcessError: pass\n"
    ),
}


@pytest.mark.parametrize("attempt", HIDING)
def test_an_experiment_hides_no_time_of_its_children(run, attempt):
    ended = run(code=IGNORE + HIDING[attempt])
    assert ended.status == "ok", ended
    # What ran between the mark and the worker's look at it is start-up time: more, the busier the machine.
    assert ended.cpu + ended.startup >= 0.15


def test_where_nothing_can_be_traced_ignored_children_are_counted_and_the_cause_is_kept(run, monkeypatch):
    monkeypatch.setattr(tracer, "_attach", lambda libc, pid: "Operation not permitted")
    faults = []
    close = tracer.Tracer.close
    monkeypatch.setattr(tracer.Tracer, "close", lambda self: faults.append(self.fault) or close(self))
    ended = run(code=IGNORE + SIG_IGN + "children()")
    assert ended.status == "ok" and ended.cpu + ended.startup >= 0.15, ended
    assert faults == ["Operation not permitted"]


def test_programs_that_a_preloaded_module_ran_give_no_time(run, tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    site.mkdir()
    argv = [sys.executable, "-I", "-S", "-c", "import time\nwhile time.process_time() < 0.8: pass"]
    (site / "compiles.py").write_text(f"import subprocess\nsubprocess.run({argv})\n")
    visible = (*mounts.python_folders(), str(site))
    for module in (mounts, start):
        monkeypatch.setattr(module, "package_folders", lambda: (str(site),))
    monkeypatch.setattr(mounts, "python_folders", lambda: visible)
    ended = run(code="while True: pass", seconds=0.2, preload=("compiles",))
    assert ended.status == "timed_out" and ended.startup > 0.8, ended
    assert 0.2 <= ended.cpu < 0.6


# x86-64: ignore SIGCHLD; 40 times fork a child that counts to 20 million and ends, and sleep 10 ms; end with status 0.
IGNORING_PROGRAM = (
    "b80d000000bf11000000488d354c00000031d241ba080000000f0541bc28000000b8390000000f0585c0741e488d3d4a0000"
    "0031f6b8230000000f0541ffcc75e031ffb8e70000000f05b9002d310148ffc975fb31ffb83c0000000f0501000000000000"
    "0000000004000000000000000000000000000000000000000000000000000000008096980000000000"
)
TAKE_OVER_THE_INIT = """
import os, time
try:
    memory = open("/proc/1/mem", "r+b", buffering=0)
except PermissionError:
    raise SystemExit("no access to the init")
memory.seek(int(open("/proc/1/syscall").read().split()[-1], 16))
memory.write(bytes.fromhex("{program}"))
if os.fork() == 0:
    os.fork() or os._exit(0)  # an orphan, whose end the init waits for
    os._exit(0)
time.sleep(10)
"""


@pytest.mark.skipif(os.getuid() == 0, reason="root's sandbox has an init of another user")
def test_a_sandbox_init_that_an_experiment_took_over_hides_no_time(run):
    ended = run(code=TAKE_OVER_THE_INIT.format(program=IGNORING_PROGRAM))
    if "no access to the init" in ended.log:
        pytest.skip("this kernel keeps processes of one user apart")
    assert ended.status == "ok" and ended.cpu + ended.startup >= 0.1, ended


def test_nothing_outside_the_sandbox_is_ever_traced():
    """What is traced is killed with the tracer: the search for it must not leave the sandbox."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert (
            tracer._sandboxed_with(child.pid) == [] == tracer._sandboxed_with(os.getpid()) == tracer._sandboxed_with(1)
        )
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert tracer._sandboxed_with(child.pid) == []
    finally:
        child.communicate()
    assert tracer._sandboxed_with(child.pid) == []
