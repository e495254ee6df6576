"""Forked starts: what they give an experiment, that they equal cold ones, and when they fall back to these."""

import json
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ideator_rl.environments.environment import Budget, Resources
from ideator_rl.sandbox import forked, process_tree
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.program import Inside, Script
from ideator_rl.sandbox.sandbox import BWRAP, NAMESPACES, NONE, WORKSPACE, Sandbox, experiment_uid
from ideator_rl.sandbox.sealed_run import Command
from ideator_rl.sandbox.sealed_run import run as sealed_run
from ideator_rl.sandbox.start import start_script

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from cpu_account import EXACT, cpu_account  # noqa: E402

pytestmark = pytest.mark.skipif(best_sandbox().level == NONE, reason=f"no sandbox works here: {best_sandbox().reason}")
LEVELS = [level for level in (best_sandbox().level, NAMESPACES) if level != NONE]


@contextmanager
def forking(level=None):
    """A sandbox with a fork server that serves every request, and what was refused."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    servers = {}
    try:
        yield replace(best_sandbox(), level=level or best_sandbox().level, forks=ours), theirs, servers
    finally:
        for process, connection in servers.values():
            connection.close()
            process.wait()
        ours.close()
        theirs.close()


def route(theirs, servers):
    """Hand the pending request on, as the zygote does."""
    body, connections, _, _ = socket.recv_fds(theirs, 1 << 16, 1)
    key = forked.ForkServerKey(**json.loads(body)["fork"])
    if key not in servers:
        servers[key] = key.start()
    socket.send_fds(servers[key][1], [b"\0"], connections)
    os.close(connections[0])


def output_of(sandbox, code, tmp_path, preload=(), variables=None, router=None, mounts=None):
    """The exit status, output and process of a script that was started in the sandbox."""
    script = tmp_path / "script.py"
    script.write_text(code)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    read, write = os.pipe()
    mounts = mounts or Mounts(readonly={tmp_path: "/code"})
    if router is not None:
        threading.Thread(target=route, args=router, daemon=True).start()
    process = start_script(
        sandbox,
        Script(
            "/code/script.py", ("argument",), preload, variables or {"PATH": "/usr/bin:/bin"}, ("/code/own", "/code")
        ),
        Inside(mounts, "/code", output=write),
    )
    os.close(write)
    text = b""
    while block := os.read(read, 65_536):
        text += block
    select.select([process.end], [], [], 20)
    status = process.poll()
    os.close(read)
    process.close()
    return status, text.decode(), process.how


FACTS = """
import json, os, sys
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
facts = {
    "argv": sys.argv, "path": sys.path[:2], "cwd": os.getcwd(), "uid": os.getuid() != 0,
    "variables": dict(os.environ), "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "capabilities": {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
    "no_new_privs": status["NoNewPrivs"], "filter": status["Seccomp"], "threads": status["Threads"],
    "limits": open("/proc/self/limits").read().split("Max pending")[0].split("Max core")[1],
    "namespaces": sorted(os.listdir("/proc/self/ns")), "files": sorted(os.listdir("/")),
    "processes": sorted(int(p) < 30 for p in os.listdir("/proc") if p.isdigit())[0],
    "signals": [status[name] for name in ("SigBlk", "SigIgn")], "umask": status["Umask"],
    "groups": os.getgroups(), "session": os.getsid(0) == os.getpid() or os.getppid() != 0,
    "hostname": os.uname().nodename, "name": __name__,
}
print(json.dumps(facts))
"""


@pytest.mark.parametrize("level", LEVELS)
def test_a_forked_script_finds_what_a_cold_one_finds(level, tmp_path):
    sandbox = replace(best_sandbox(), level=level)
    variables = {"PATH": "/usr/bin:/bin", "HOME": "/code", "LANG": "C.UTF-8", "SEED": "3"}
    _, cold, how = output_of(sandbox, FACTS, tmp_path, ("json",), variables)
    assert how == "cold"
    with forking(level) as (sandbox, *router):
        status, by_fork, how = output_of(sandbox, FACTS, tmp_path, ("json",), variables, router)
    assert (status, how) == (0, "forked"), by_fork
    cold, by_fork = json.loads(cold), json.loads(by_fork)
    assert by_fork["capabilities"] == dict.fromkeys(by_fork["capabilities"], "0000000000000000")
    assert by_fork["descriptors"] == [0, 1, 2] and by_fork["path"] == ["/code/own", "/code"]
    # The cold start's own launcher, and what bubblewrap leaves open.
    cold["files"].remove("ideator")
    cold["descriptors"] = cold["descriptors"][:3]
    assert by_fork == cold


def test_the_exit_status_is_that_of_the_script(tmp_path):
    endings = {
        "raise SystemExit(3)": 3,
        "raise SystemExit": 0,
        "1 / 0": 1,
        "import os; os._exit(7)": 7,
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": 139,
        "import sys; sys.exit('no luck')": 1,
        "import atexit; atexit.register(print, 'handler')": 0,
    }
    with forking() as (sandbox, *router):
        for code, status in endings.items():
            assert output_of(best_sandbox(), code, tmp_path)[0] == status, code
            ended = output_of(sandbox, code, tmp_path, router=router)
            assert (ended[0], ended[2]) == (status, "forked"), (code, ended)
    assert ended[1] == "handler\n"


def test_processes_that_a_server_forks_know_nothing_of_each_other(tmp_path):
    leave = """
import os, sys, threading
sys.modules["left"] = sys
os.environ["LEFT"] = "a secret"
open("/tmp/left", "w").write("a secret")
print(os.environ["OWN"])
"""
    look = """
import gc, os, sys
texts = [text for item in gc.get_objects() if isinstance(item, dict) for text in item.values() if isinstance(text, str)]
maps = open("/proc/self/environ").read() + str(dict(os.environ)) + str("left" in sys.modules)
print("a secret" in maps + " ".join(texts), "LEFT" in maps, os.path.exists("/tmp/left"))
"""
    with forking() as (sandbox, *router):
        assert output_of(sandbox, leave, tmp_path, variables={"OWN": "1"}, router=router)[1] == "1\n"
        assert output_of(sandbox, look, tmp_path, variables={"OWN": "2"}, router=router)[1] == "False False False\n"


def test_random_numbers_differ_between_processes_of_one_server(tmp_path):
    code = "import random, numpy, uuid; print(random.random(), numpy.random.rand(), uuid.uuid4())"
    with forking() as (sandbox, *router):
        outputs = [output_of(sandbox, code, tmp_path, ("numpy",), router=router)[1].split() for _ in range(2)]
    assert all(first != second for first, second in zip(*outputs, strict=True)) and len(outputs[0]) == 3


def test_a_forked_script_computes_with_as_many_threads_as_it_may(tmp_path):
    code = """
import numpy, os
a = numpy.ones((600, 600))
for _ in range(5):
    assert (a @ a)[0, 0] == 600
print(len(os.listdir("/proc/self/task")))
"""
    for threads in (1, 2):
        variables = {"OMP_NUM_THREADS": str(threads)}
        cold = output_of(best_sandbox(), code, tmp_path, ("numpy",), variables)
        with forking() as (sandbox, *router):
            assert output_of(sandbox, code, tmp_path, ("numpy",), variables, router) == (*cold[:2], "forked")
        assert cold[1] == f"{threads}\n"


def test_settings_of_the_allocator_reach_the_process_before_it_starts(tmp_path):
    code = (
        "names = open('/proc/self/environ').read().split(chr(0))\n"
        "print('MALLOC_TRIM_THRESHOLD_=123456' in names and 'TORCHINDUCTOR_COMPILE_THREADS=4' in names)\n"
    )
    with forking() as (sandbox, *router):
        variables = {"MALLOC_TRIM_THRESHOLD_": "123456", "TORCHINDUCTOR_COMPILE_THREADS": "4", "OTHER": "1"}
        assert output_of(sandbox, code, tmp_path, (), variables, router) == (0, "True\n", "forked")


def test_when_the_preload_cannot_be_imported_the_start_is_cold(tmp_path):
    with forking() as (sandbox, theirs, servers):
        status, text, how = output_of(
            sandbox, "print('ran')", tmp_path, ("threads_at_import",), router=(theirs, servers)
        )
        # No such module: the server dies while it imports, and so does the cold start's launcher.
        assert how == "cold" and status == 1 and "threads_at_import" in text
        assert "ended" in json.loads(theirs.recv(4096))["refusal"]


def test_the_fork_server_refuses_a_second_thread(tmp_path):
    code = f"""
import runpy, threading, time
refusal = runpy.run_path({str(forked.FORK_SERVER)!r})["why_not_fork"]
print(repr(refusal()))
threading.Thread(target=time.sleep, args=(1,)).start()
print(refusal())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[0] == "''" and "2 in all" in out[1]


def test_masks_hold_in_a_forked_start(tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "answers").write_text("42")
    mounts = Mounts(readonly={tmp_path: "/code"}, masked=(Path("/code/hidden"),))
    code = "import os; print(os.path.exists('/code/hidden/answers'), os.path.exists('/code/script.py'))"
    with forking() as (sandbox, *router):
        mounts = replace(mounts, readonly={tmp_path: str(tmp_path)}, masked=(hidden,))
        code = f"import os; print(os.listdir({str(hidden)!r}), os.path.exists({str(tmp_path / 'script.py')!r}))"
        mounts = replace(mounts, readonly={**mounts.readonly, tmp_path / "script.py": "/code/script.py"})
        assert output_of(sandbox, code, tmp_path, mounts=mounts, router=router)[1] == "[] True\n"


def test_at_level_none_a_start_is_cold():
    assert forked.forked_start_fault(Sandbox(NONE)) == "there is no sandbox to join"
    assert forked.forked_start_fault(best_sandbox()) == ""


IGNORE = """
import os, signal, time
if os.fork() == 0:
    os._exit(0)
os.wait()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
"""
BURN = """
import os, time

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

burn(1.0)
child = os.fork()
if child == 0:
    burn(1.0)
    os._exit(0)
try:
    os.waitpid(child, 0)
except ChildProcessError:
    pass  # ignored, and the kernel has it no more
if os.fork() == 0:  # its parent does not wait for it, and the kernel gives it to another one
    if os.fork() == 0:
        burn(1.0)
        open("artifact/done", "w").close()
    os._exit(0)
while not os.path.exists("artifact/done"):
    time.sleep(0.01)
"""


def seconds_beside_a_control_group(how, code, tmp_path):
    """A run of some code: its status, start, seconds of CPU, and what its control group counts; None where there is none."""
    with cpu_account() as account, forking() as (sandbox, *router):
        if account.source != EXACT:
            return None
        workspace = tmp_path / "run"
        (workspace / "artifact").mkdir(parents=True)
        (workspace / "main.py").write_text(code)
        for path in (tmp_path, *tmp_path.parents):
            if path.stat().st_uid == os.getuid() and "pytest" in path.name:
                path.chmod(0o755)
        for path in (workspace, workspace / "artifact"):
            os.chown(path, experiment_uid(sandbox.level), -1)
        if how == "forked":
            # Its imports are over before the clock starts here.
            assert output_of(sandbox, "print(1)", tmp_path, variables={"PATH": "/bin"}, router=router)[2] == how
            threading.Thread(target=route, args=router, daemon=True).start()
        else:
            sandbox = replace(sandbox, forks=None)
        own, before = time.process_time(), account.seconds()
        # As a worker does: what outlives its parent is then collected here, with the time of all its children.
        process_tree.become_subreaper()
        command = Command(("python", "main.py"), (), {"PATH": "/bin"})
        mounts = Mounts({workspace: WORKSPACE})
        ended = sealed_run(sandbox, command, mounts, Budget("cpu", 10, 10), Resources(1, 0, 1))
        group = account.seconds() - before - (time.process_time() - own)
    return ended.status, ended.message, ended.start, ended.cpu, ended.startup, group


@pytest.mark.parametrize(("how", "code"), [("forked", BURN), ("cold", IGNORE + BURN)])
def test_the_seconds_of_a_run_are_those_of_a_control_group(how, code, tmp_path):
    # In a process of its own, as a worker: a run counts all children, and those of other tests end here at any time.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        outcome = process.submit(seconds_beside_a_control_group, how, code, tmp_path).result()
    if outcome is None:
        pytest.skip("no control group can be made here")
    status, message, start, cpu, startup, group = outcome
    assert (status, start) == ("ok", how), message
    # Busy cores make the same work take a little more CPU time.
    assert cpu == pytest.approx(3.0, rel=0.1)
    # The group also counts what is not the run's: bubblewrap, the server's forks, and looks at disk and descriptors.
    assert cpu + startup < 1.03 * group


def test_every_process_inside_is_filtered_and_limited(tmp_path):
    """Without root, the script has the user of the process that holds the sandbox, and could write to its memory."""
    code = """
import os
pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
status = lambda pid, key: open(f"/proc/{pid}/status").read().split(key + ":")[1].split()[0]
print(len(pids) > 2, {status(pid, "Seccomp") for pid in pids}, {status(pid, "NoNewPrivs") for pid in pids})
"""
    if best_sandbox().level != BWRAP:
        pytest.skip("no filter works here")
    with forking() as (sandbox, *router):
        assert output_of(sandbox, code, tmp_path, router=router)[1] == "True {'2'} {'1'}\n"


def test_a_fork_server_that_hangs_is_killed_and_another_one_serves(monkeypatch, tmp_path):
    monkeypatch.setattr(forked, "SERVER_SECONDS", 1.0)
    with forking() as (sandbox, theirs, servers):
        assert output_of(sandbox, "print(1)", tmp_path, router=(theirs, servers))[2] == "forked"
        [(process, _)] = servers.values()
        os.kill(process.pid, signal.SIGSTOP)
        # As the zygote does when it hears of it; until then the request, with the output's descriptor, lies there.
        threading.Timer(2.0, process.kill).start()
        assert output_of(sandbox, "print(1)", tmp_path, router=(theirs, servers))[1:] == ("1\n", "cold")
        assert [*json.loads(theirs.recv(4096))] == ["hung"]
