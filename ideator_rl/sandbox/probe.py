"""Runs inside the sandbox: tries what it must guarantee; prints one JSON object, guarantee → whether it holds."""

import ctypes
import json
import os
import signal
import socket


def fails(action) -> bool:
    try:
        action()
    except OSError:
        return True
    return False


def children_counted() -> bool:
    # The kernel forgets the CPU time of a child whose parent ignores its end: the filter must prevent that.
    before = os.times().children_user
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        while os.times().user < 0.02:
            pass
        os._exit(0)
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        return False
    return os.times().children_user > before


def counters_hidden() -> bool:
    # By a count over the whole machine, one sandbox hears what another one holds.
    pressure = "/proc/pressure"
    with open("/proc/vmstat") as file:
        lines = len(file.readlines())
    return lines < 20 and not os.path.exists("/proc/sys/fs/file-nr") and not os.path.exists(pressure + "/memory")


def caches_not_probed() -> bool:
    page = ctypes.create_string_buffer(8192)
    aligned = (ctypes.addressof(page) + 4095) & ~4095
    LIBC.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    return LIBC.mincore(aligned, 4096, page) == -1 and LIBC.sysinfo(ctypes.create_string_buffer(256)) == -1


LIBC = ctypes.CDLL(None)
NEW_USER_NAMESPACE = 0x1000_0000
FIXED_ADDRESSES = 0x004_0000


def guarantees() -> dict[str, bool]:
    """Guarantee → whether it holds in this process.  Changes the process: run it in one of its own, in the sandbox."""
    return {
        "an unprivileged user": os.getuid() != 0,
        "processes of its own": os.getpid() < 100,
        "no network": [name for _, name in socket.if_nameindex()] in ([], ["lo"]),
        "a read-only system": all(
            fails(lambda path=path: os.open(path, os.O_WRONLY | os.O_CREAT))
            for path in ("/proc/sys/kernel/core_pattern", "/usr/x", "/x", "/dev/x")
        ),
        "system calls filtered": LIBC.personality(FIXED_ADDRESSES) == -1 and LIBC.unshare(NEW_USER_NAMESPACE) == -1,
        "counters of the machine hidden": counters_hidden(),
        "caches not probed": caches_not_probed(),
        "CPU time of children counted": children_counted(),
    }


# The guard matters: an import outside the sandbox must not try to break out of it.
if __name__ == "__main__":
    print(json.dumps(guarantees()))
