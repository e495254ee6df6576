import errno
import os
import platform
import socket
import struct
import subprocess
import sys

import pytest

from ideator_rl.environments.preset import Resources
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
def test_the_sandbox_runs_python_as_an_unprivileged_user_without_other_processes():
    process = inside("import os; print(os.getuid() != 0, len(os.listdir('/proc')) > 5, os.getpid() < 100)")
    assert process.stdout.split() == ["True", "True", "True"], process.stderr


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
def test_an_attempt_to_leave_the_sandbox_fails(attack):
    assert inside(attack).returncode == 1


@sealed
def test_only_mounted_folders_are_visible(tmp_path):
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
    process = inside(code, mounts, cwd="/workspace")
    assert process.stdout.split() == ["public", "False", "read-only"], process.stderr
    assert (tmp_path / "work" / "out").read_text() == "hello"


@sealed
def test_masked_packages_cannot_be_read():
    import yaml

    folder = sandbox.Path(yaml.__file__).parent
    process = inside(f"import os; print(len(os.listdir(r'{folder}')))", Mounts(masked=(folder,)))
    assert process.stdout.strip() == "0", process.stderr


@sealed
def test_the_environment_of_the_caller_does_not_reach_the_sandbox(monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    assert inside("import os; print('SECRET' in os.environ)").stdout.strip() == "False"


@sealed
def test_users_and_hosts_of_the_machine_are_not_visible():
    code = "import getpass, socket; print(open('/etc/passwd').read().count('\\n'), getpass.getuser(),"
    process = inside(code + " socket.gethostbyname('localhost'), socket.gethostname())")
    assert process.stdout.split() == ["2", "experiment", "127.0.0.1", "experiment"], process.stderr


@pytest.mark.skipif(os.getuid() != 0 or not sandbox._has_own_uids(), reason="only root has users to give away")
def test_each_worker_process_has_a_user_of_its_own():
    code = "from ideator_rl.sandbox.sandbox import BWRAP, experiment_uid; print(experiment_uid(BWRAP))"
    other_uid = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (
        inside("import os; print(os.getuid())").stdout.strip()
        == str(sandbox.experiment_uid(BWRAP))
        != other_uid.strip()
    )


@sealed
def test_the_network_of_the_machine_is_reachable_only_on_request():
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
@pytest.mark.parametrize("call", FORBIDDEN)
def test_the_filter_refuses(call):
    numbers = {"x86_64": {"keyctl": 250, "clone": 56}, "aarch64": {"keyctl": 219, "clone": 220}}[platform.machine()]
    code = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    code += f"print({FORBIDDEN[call].format(**numbers)}, ctypes.get_errno())"
    absent = ("memory", "clone3", "old", "a kernel's", "an ear")
    codes = [errno.ENOSYS if call.startswith(absent) else errno.EAFNOSUPPORT if "socket" in call else errno.EPERM]
    assert inside(code).stdout.split() == ["-1", *map(str, codes)]


@filtered
def test_x32_system_calls_fail():
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
def test_ordinary_programs_run_under_the_filter(ordinary):
    process = inside(ordinary, no_child_signal=True)
    assert process.stdout.strip() == "fine", process.stderr


@filtered
@pytest.mark.parametrize("counted", [True, False])
def test_a_process_whose_cpu_time_counts_cannot_ignore_the_end_of_children(counted):
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "if os.fork() == 0: os._exit(7)\n"
        "try: print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "except ChildProcessError: print('gone')\n"
    )
    assert inside(code, no_child_signal=counted).stdout.strip() == ("7" if counted else "gone")


@filtered
@pytest.mark.parametrize("silent", [True, False])
@pytest.mark.parametrize("lock", ["flock(f, 2)", "lockf(f, 1)", "fcntl(f, 37, struct.pack('hhqqi4x', 0, 0, 5, 1, 0))"])
def test_a_silent_process_cannot_lock_files_that_other_sandboxes_see(lock, silent, tmp_path):
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
def test_the_filter_is_a_valid_program_for_the_kernel(machine, silent):
    filter = seccomp.program(machine, memfd=False, no_child_signal=True, silent=silent)
    instructions = [struct.unpack_from("=HBBI", filter, offset) for offset in range(0, len(filter), 8)]
    for index, (code, when_true, when_false, _) in enumerate(instructions):
        if code not in (0x20, 0x06):
            assert index + 1 + max(when_true, when_false) < len(instructions)
    assert instructions[-1][0] == 0x06 and len(instructions) < 4096


@sealed
def test_without_a_filter_the_level_is_namespaces(monkeypatch):
    monkeypatch.setattr(seccomp, "supported", lambda: False)
    chosen = best_sandbox.__wrapped__()
    assert chosen.level == NAMESPACES and "no table" in chosen.reason
    assert chosen.proved["no network"] and not chosen.proved["CPU time of children counted"]


def test_untrusted_code_is_refused_where_no_sandbox_works(monkeypatch):
    monkeypatch.setattr(choose, "best_sandbox", lambda: Sandbox(NONE, "broken here"))
    with pytest.raises(SandboxError, match="broken here.*isolation: none"):
        choose_sandbox("auto", trusted=False)
    assert choose_sandbox("auto", trusted=True).level == NONE
    assert choose_sandbox("none", trusted=False).level == NONE


def test_an_unknown_isolation_raises_with_the_allowed_values():
    with pytest.raises(SandboxError, match="expected 'auto' or 'none'"):
        choose_sandbox("docker", trusted=True)


COUNTERS = """
import os
for name in ("meminfo", "vmstat", "stat", "loadavg", "uptime", "zoneinfo", "buddyinfo", "diskstats", "interrupts",
             "softirqs", "schedstat", "swaps", "cpuinfo", "sys/fs/file-nr", "sys/fs/inode-nr", "sys/fs/dentry-state",
             "sys/kernel/pty/nr", "pressure/cpu", "pressure/memory", "pressure/io"):
    path = "/proc/" + name
    print(name, hash(open(path).read()) if os.path.exists(path) else None)
"""


@sealed
def test_no_counter_of_the_machine_in_proc_moves_inside():
    code = COUNTERS + "ballast = bytearray(64 << 20); import subprocess; subprocess.run(['true'])\n" + COUNTERS
    lines = inside(code).stdout.splitlines()
    half = len(lines) // 2
    assert half == 20 and lines[:half] == lines[half:]


@sealed
def test_memory_and_processors_of_the_machine_are_still_readable_inside():
    code = (
        "import os\nfields = dict(line.split(':') for line in open('/proc/meminfo'))\n"
        "print(fields['MemTotal'].split()[0], os.cpu_count(), open('/proc/sys/kernel/osrelease').read().strip())"
    )
    total, cores, release = inside(code).stdout.split()
    assert int(total) * 1024 == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert (int(cores), release) == (len(os.sched_getaffinity(0)), platform.release())


@sealed
def test_a_sandbox_without_processes_shows_none_and_starts_programs_all_the_same():
    code = (
        "import os, subprocess, threading\nt = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
        "print(subprocess.run(['/bin/sh', '-c', 'echo child'], capture_output=True, text=True).stdout)\n"
        "print([name for name in os.listdir('/proc') if name.isdigit()], os.path.exists('/proc/self/pagemap'))"
    )
    assert inside(code, Mounts(processes=False)).stdout.split() == ["thread", "child", "[]", "False"]


PROBING = {
    "a read only of cached pages": ("os.preadv(f, [bytearray(9)], 0, os.RWF_NOWAIT)", errno.EOPNOTSUPP),
    "a look at cached pages": ("call({cachestat}, f, x, x, 0)", errno.ENOSYS),
    "a look at mapped pages": ("call({mincore}, 0x10000, 4096, x)", errno.ENOSYS),
    "counts of the machine": ("call({sysinfo}, x)", errno.ENOSYS),
    "asynchronous requests": ("call({io_setup}, 1, x)", errno.ENOSYS),
}


@filtered
@pytest.mark.parametrize("probe", PROBING)
def test_what_the_kernel_has_in_memory_cannot_be_asked(probe):
    names = ("cachestat", "mincore", "sysinfo", "io_setup")
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    expression, code = PROBING[probe]
    expression = expression.format(**{name: seccomp._ABSENT[name][column] for name in names})
    program = (
        "import ctypes, os\nlibc, x = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(4096)\n"
        "def call(*a):\n    if libc.syscall(*a) < 0: raise OSError(ctypes.get_errno(), '')\n"
        f"f = os.open('/usr/bin/env', os.O_RDONLY)\ntry: print({expression})\nexcept OSError as e: print(e.errno)"
    )
    assert inside(program).stdout.strip() == str(code)


@filtered
@pytest.mark.parametrize("silent", [True, False])
def test_advice_about_caches_succeeds_and_changes_nothing(tmp_path, silent):
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "file").write_bytes(b"x" * (1 << 20))
    os.sync()
    code = (
        "import mmap, os\nf = os.open('/shared/file', os.O_RDONLY)\n"
        "os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED); os.fsync(f); os.sync()\n"
        "m = mmap.mmap(f, 0, prot=mmap.PROT_READ); m.madvise(21); m.madvise(3); print('fine')"
    )
    assert inside(code, Mounts({}, {folder: "/shared"}), silent=silent).stdout.strip() == "fine"
    handle = os.open(folder / "file", os.O_RDONLY)
    try:
        assert os.preadv(handle, [bytearray(9)], 0, os.RWF_NOWAIT) == 9  # still in memory
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP  # in memory by its file system
    os.close(handle)


@filtered
def test_a_silent_process_has_no_network_sockets_and_sees_no_free_room():
    code = (
        "import os, socket\nsocket.socketpair()\n"
        "for attempt in (socket.socket, lambda: os.statvfs('/usr')):\n"
        "    try: print(attempt())\n    except OSError as error: print(error.errno)"
    )
    assert inside(code, silent=True).stdout.split() == [str(errno.EAFNOSUPPORT), str(errno.ENOSYS)]


@filtered
@pytest.mark.parametrize(
    "ordinary",
    [
        "import numpy as np; m = np.memmap('/tmp/m', 'f4', 'w+', shape=(9,)); m[:] = 1; m.flush(); print('fine')",
        "import os; f = open('/tmp/f', 'w'); f.write('x'); f.flush(); os.fsync(f.fileno()); print('fine')",
        "import sqlite3; d = sqlite3.connect('/tmp/d'); d.execute('create table t (x)'); d.commit(); print('fine')",
        "import shutil; shutil.disk_usage('/tmp'); print('fine')",
        "import torch\nfrom torch.utils.data import DataLoader\nif len(list(DataLoader(range(8), num_workers=2))): print('fine')",
        "import safetensors.numpy as s, numpy as np; s.save_file({'x': np.ones(3)}, '/tmp/s'); s.load_file('/tmp/s'); print('fine')",
    ],
)
def test_ordinary_programs_that_read_and_write_files_run_under_the_filter(ordinary):
    process = inside(ordinary)
    assert process.stdout.strip() == "fine", process.stderr


def test_no_limit_is_above_the_hard_one_of_this_process(monkeypatch):
    hard = {sandbox.resource.RLIMIT_NOFILE: 900, sandbox.resource.RLIMIT_NPROC: sandbox.resource.RLIM_INFINITY}
    monkeypatch.setattr(sandbox.resource, "getrlimit", lambda limit: (1, hard.get(limit, 1 << 40)))
    limits = sandbox.kernel_limits()
    assert (limits["nofile"], limits["nproc"]) == (900, sandbox.MAX_PROCESSES)
    assert limits["fsize"] == Resources().file_bytes
