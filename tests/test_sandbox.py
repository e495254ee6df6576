import errno
import os
import platform
import socket
import struct
import subprocess
import sys

import pytest

from ideator_rl.sandbox import choose, sandbox, seccomp
from ideator_rl.sandbox.choose import SandboxError, best_sandbox, choose_sandbox
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.sandbox import BWRAP, NAMESPACES, NONE, Sandbox

filtered = pytest.mark.skipif(best_sandbox().level != BWRAP, reason=f"no filter works here: {best_sandbox().reason}")
sealed = pytest.mark.skipif(best_sandbox().level == NONE, reason=f"no sandbox works here: {best_sandbox().reason}")


def inside(code, mounts=None, level=BWRAP, cwd="/tmp", **options):
    return started(Sandbox(level), [sys.executable, "-I", "-c", code], mounts or Mounts(), cwd, **options)


def started(box, argv, mounts, cwd, **options):
    process = box.start(argv, mounts, cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    out, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(argv, process.returncode, out, errors)


@sealed
def test_the_sandbox_runs_python_as_an_unprivileged_user_alone():
    done = inside("import os; print(os.getuid() != 0, len(os.listdir('/proc')) > 5, os.getpid() < 100)")
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


@sealed
@pytest.mark.parametrize(
    "attack",
    [
        "open('/proc/sys/kernel/core_pattern', 'w')",
        "open('/usr/x', 'w')",
        "open('/x', 'w')",
        "open('/dev/x', 'w')",
        "open('/etc/shadow')",
        "open('/etc/passwd', 'w')",
        "import socket; socket.create_connection(('127.0.0.1', 22), timeout=1)",
        "import os; os.setuid(0)",
    ],
)
def test_what_would_leave_the_sandbox_raises(attack):
    assert inside(attack).returncode == 1


@sealed
def test_only_mounted_folders_are_seen_and_masked_ones_are_empty(tmp_path):
    for name in ("public", "work", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    os.chown(tmp_path / "work", sandbox.experiment_uid(BWRAP), -1)
    mounts = Mounts({tmp_path / "work": "/workspace"}, {tmp_path / "public": "/data"})
    code = (
        "import os\n"
        "print(open('/data/file').read(), os.path.exists(r'%s'))\n"
        "open('out', 'w').write('hello')\n"
        "try: open('/data/file', 'w')\n"
        "except OSError: print('read-only')\n" % (tmp_path / "secret")
    )
    done = inside(code, mounts, cwd="/workspace")
    assert done.stdout.split() == ["public", "False", "read-only"], done.stderr
    assert (tmp_path / "work" / "out").read_text() == "hello"


@sealed
def test_masked_packages_cannot_be_read():
    import yaml

    folder = sandbox.Path(yaml.__file__).parent
    done = inside(f"import os; print(len(os.listdir(r'{folder}')))", Mounts(masked=(folder,)))
    assert done.stdout.strip() == "0", done.stderr


@sealed
def test_the_environment_of_the_caller_does_not_reach_the_sandbox(monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    assert inside("import os; print('SECRET' in os.environ)").stdout.strip() == "False"


@sealed
def test_users_and_hosts_are_ours_and_not_the_machines():
    code = "import getpass, socket; print(open('/etc/passwd').read().count('\\n'), getpass.getuser(),"
    done = inside(code + " socket.gethostbyname('localhost'), socket.gethostname())")
    assert done.stdout.split() == ["2", "experiment", "127.0.0.1", "experiment"], done.stderr


@pytest.mark.skipif(os.getuid() != 0 or not sandbox._has_own_uids(), reason="only root has users to give away")
def test_every_supervisor_has_a_user_of_its_own_and_scorers_another_one():
    code = "from ideator_rl.sandbox.sandbox import BWRAP, experiment_uid; print(experiment_uid(BWRAP))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert inside("import os; print(os.getuid())").stdout.strip() == str(sandbox.experiment_uid(BWRAP)) != other.strip()


@sealed
def test_the_machines_network_is_there_only_if_it_is_asked_for():
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=2)"
        assert inside(code).returncode == 1
        assert inside(code, Mounts(network=True)).returncode == 0


FORBIDDEN = {
    "a keyring": "libc.syscall({keyctl}, 0, -3, 0)",
    "a user namespace": "libc.unshare(0x10000000)",
    "a network namespace by clone": "libc.syscall({clone}, 0x40000011, 0, 0, 0, 0)",
    "descriptors of a thread's own": "libc.unshare(0x400)",
    "a mount": "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
    "another process traced": "libc.ptrace(16, 1, 0, 0)",
    "a kernel's ring": "libc.syscall(425, 8, ctypes.create_string_buffer(120))",
    "memory without a file": "libc.memfd_create(b'x', 0)",
    "old shared memory": "libc.shmget(0, 4096, 0o1600)",
    "a cipher socket": "libc.socket(38, 5, 0)",
    "an ear on files": "libc.inotify_init()",
    "an audit socket": "libc.socket(16, 3, 9)",
    "a typed character": "libc.ioctl(1, 0x5412, b'x')",
    "fixed addresses": "libc.personality(0x0040000)",
    "a descriptor of another's": "libc.syscall(438, 0, 0, 0)",
    "clone3, whose flags cannot be read": "libc.syscall(435, 0, 0)",
}


@filtered
@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_filter_refuses(what):
    numbers = {"x86_64": {"keyctl": 250, "clone": 56}, "aarch64": {"keyctl": 219, "clone": 220}}[platform.machine()]
    code = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    code += f"print({FORBIDDEN[what].format(**numbers)}, ctypes.get_errno())"
    words = ("memory", "clone3", "old", "a kernel's", "an ear")
    codes = [errno.ENOSYS if what.startswith(words) else errno.EAFNOSUPPORT if "socket" in what else errno.EPERM]
    assert inside(code).stdout.split() == ["-1", *map(str, codes)]


@filtered
def test_calls_of_the_32_bit_kind_end_the_process_or_fail():
    if platform.machine() != "x86_64":
        pytest.skip("no x32 calls on this architecture")
    code = "import ctypes; print(ctypes.CDLL(None, use_errno=True).syscall(0x40000000 + 39), ctypes.get_errno())"
    assert inside(code).stdout.split() == ["-1", str(errno.ENOSYS)]


@filtered
@pytest.mark.parametrize(
    "ordinary",
    [
        "import threading; t = threading.Thread(target=print, args=('fine',)); t.start(); t.join()",
        "import subprocess; print(subprocess.run(['bash', '-c', 'true & wait; (echo fine)'], capture_output=True, text=True).stdout)",
        "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: print(p.map(str, ['fine'])[0])",
        "import asyncio\nasync def f():\n p = await asyncio.create_subprocess_exec('echo', 'fine'); await p.wait()\nasyncio.run(f())",
        "import socket; socket.socketpair(); socket.if_nameindex(); socket.getaddrinfo('localhost', 1); print('fine')",
        "from multiprocessing import shared_memory as s; m = s.SharedMemory(create=True, size=99); m.unlink(); print('fine')",
        "import signal; signal.signal(signal.SIGTERM, lambda *_: print('fine')); signal.raise_signal(signal.SIGTERM)",
    ],
)
def test_the_filter_leaves_ordinary_programs_alone(ordinary):
    done = inside(ordinary, counted=True)
    assert done.stdout.strip() == "fine", done.stderr


@filtered
@pytest.mark.parametrize("counted", [True, False])
def test_who_is_counted_cannot_ignore_the_end_of_children(counted):
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "if os.fork() == 0: os._exit(7)\n"
        "try: print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "except ChildProcessError: print('gone')\n"
    )
    assert inside(code, counted=counted).stdout.strip() == ("7" if counted else "gone")


@filtered
@pytest.mark.parametrize("silent", [True, False])
@pytest.mark.parametrize("lock", ["flock(f, 2)", "lockf(f, 1)", "fcntl(f, 37, struct.pack('hhqqi4x', 0, 0, 5, 1, 0))"])
def test_locks_on_files_that_all_see_are_taken_only_by_who_knows_no_secrets(lock, silent, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("x" * 9)
    (shared / "file").chmod(0o666)
    listen = (
        "flock(f, 6)" if "flock" in lock else "fcntl(f, 36, struct.pack('hhqqi4x', 1, 0, 0, 0, 0))[:2] != b'\\2\\0'"
    )
    speak = f"import fcntl, struct; f = open('/shared/file', 'r+'); fcntl.{lock}; print(1, flush=True); input()"
    hear = f"import fcntl, struct; f = open('/shared/file', 'r+'); print(fcntl.{listen})"
    mounts = Mounts(writable={shared: "/shared"})
    speaker = Sandbox(BWRAP).start(
        [sys.executable, "-I", "-c", speak], mounts, "/tmp", silent=silent,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert speaker.stdout.readline() == "1\n", speaker.stderr.read()
    heard = inside(hear, mounts)
    speaker.communicate("\n")
    assert ("BlockingIOError" in heard.stderr or heard.stdout == "True\n") == (not silent), heard


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("silent", [True, False])
def test_the_filter_has_the_form_that_the_kernel_takes(machine, silent):
    filter = seccomp.program(machine, memfd=False, counted=True, silent=silent)
    instructions = [struct.unpack_from("=HBBI", filter, place) for place in range(0, len(filter), 8)]
    for place, (code, when_true, when_false, _) in enumerate(instructions):
        if code not in (0x20, 0x06):
            assert place + 1 + max(when_true, when_false) < len(instructions)
    assert instructions[-1][0] == 0x06 and len(instructions) < 4096


@sealed
def test_without_a_filter_the_level_says_so(monkeypatch):
    monkeypatch.setattr(seccomp, "supported", lambda: False)
    found = best_sandbox.__wrapped__()
    assert found.level == NAMESPACES and "no table" in found.reason
    assert found.proved["no network"] and not found.proved["CPU time of children counted"]


def test_foreign_code_is_refused_where_no_sandbox_works(monkeypatch):
    monkeypatch.setattr(choose, "best_sandbox", lambda: Sandbox(NONE, "broken here"))
    with pytest.raises(SandboxError, match="broken here.*isolation: none"):
        choose_sandbox("auto", trusted=False)
    assert choose_sandbox("auto", trusted=True).level == NONE
    assert choose_sandbox("none", trusted=False).level == NONE


def test_an_unknown_isolation_is_one_clear_sentence():
    with pytest.raises(SandboxError, match="expected 'auto' or 'none'"):
        choose_sandbox("docker", trusted=True)
