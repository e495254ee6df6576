"""The system calls that sandboxed code may not make, as a filter for the kernel (classic BPF).

Covered, on x86-64 and 64-bit ARM:
- namespaces, mounts, the keyring, tracing and reading other processes, io_uring, interfaces for administrators
- sockets other than Unix, IP and routing ones; characters pushed into a terminal; calls of another architecture
- what would hide resources from the watch: memory without a file (`memfd`, System V); children that no tracer sees;
  where asked for, an action for the end of children: ignored children take their CPU time along (see `tracer`)
- what would carry a message from one sandbox to another through files that both see: watching files; asking which of
  their pages the kernel has in memory, and advice that changes this; and, for a process that has read secrets, locking
- what counts over the whole machine: `sysinfo`, asynchronous requests; and, for a process that has read secrets, free
  room of file systems and the memory of network sockets
Not covered: bugs of the kernel in the remaining calls; signals through the load on the machine.

Calls that libraries try and can do without fail with ENOSYS, so that they fall back; the others with EPERM.  A
forbidden call does not kill: an experiment sees an error where it would see one without privileges.
"""

from __future__ import annotations

import errno
import os
import platform
import struct
from collections.abc import Iterable, Mapping
from functools import cache

SIGCHLD = 17

# System call → (number on x86-64, number on 64-bit ARM), -1 where there is none; from the kernel's asm/unistd_64.h and
# asm-generic/unistd.h.
_FORBIDDEN = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chroot": (161, 51),
    "clock_adjtime": (305, 266), "clock_settime": (227, 112), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fsopen": (430, 430), "fspick": (433, 433), "init_module": (175, 105), "ioperm": (173, -1), "iopl": (172, -1),
    "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "lookup_dcookie": (212, 18), "migrate_pages": (256, 238), "modify_ldt": (154, -1), "mount": (165, 40),
    "mount_setattr": (442, 442), "move_mount": (429, 429), "move_pages": (279, 239), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "open_tree_attr": (467, 467), "perf_event_open": (298, 241), "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41), "process_madvise": (440, 440), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "reboot": (169, 142), "request_key": (249, 218), "setdomainname": (171, 162), "sethostname": (170, 161),
    "setns": (308, 268), "settimeofday": (164, 170), "swapoff": (168, 225), "swapon": (167, 224),
    "syslog": (103, 116), "umount2": (166, 39), "userfaultfd": (323, 282), "vhangup": (153, 58),
}  # fmt: skip
_ABSENT = {
    "clone3": (435, 435),  # its flags lie in memory, which a filter cannot read; libraries fall back to clone
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "inotify_add_watch": (254, 27),
    "inotify_init": (253, -1),
    "inotify_init1": (294, 26),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "cachestat": (451, 451),
    "io_setup": (206, 0),
    "mincore": (27, 232),
    "sysinfo": (99, 179),
    "ustat": (136, -1),
}
_ABSENT_WHERE_SILENT = {"statfs": (137, 43), "fstatfs": (138, 44)}
_EFFECTLESS = {
    "fadvise64": (221, 223), "readahead": (187, 213), "sync": (162, 81), "syncfs": (306, 267), "fsync": (74, 82),
    "fdatasync": (75, 83), "sync_file_range": (277, 84),
}  # fmt: skip
"""Return success and do nothing: advice, and what lasts beyond a crash of the machine, which no experiment does."""
_MEMFD = {"memfd_create": (319, 279)}
_CLONE, _UNSHARE, _IOCTL = (56, 220), (272, 97), (16, 29)
_SOCKET, _PERSONALITY, _SIGACTION = (41, 198), (135, 92), (13, 134)
_FLOCK, _FCNTL, _SECCOMP = (73, 32), (72, 25), (317, 277)
_PREADV2, _PWRITEV2, _MADVISE, _MSYNC = (327, 286), (328, 287), (28, 233), (26, 227)
_NOWAIT = 8  # RWF_NOWAIT: fails unless the page is in memory
_CACHE_ADVICE = (3, 20, 21)  # MADV_WILLNEED, MADV_COLD, MADV_PAGEOUT
_SYNCHRONOUS = 4  # MS_SYNC
_LOCKING = (6, 7, 37, 38)  # F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW
_WATCHING = (1024, 1026)  # F_SETLEASE, F_NOTIFY

_UNTRACED = 0x0080_2000  # CLONE_UNTRACED and CLONE_PTRACE: children that our tracer would not see
_NAMESPACES = 0x0002_0000 | 0x7E00_0000  # CLONE_NEWNS, and NEWCGROUP … NEWNET
_NEWTIME = 0x80  # in unshare; in clone these bits are the signal
_OWN_FILES = 0x400  # in unshare: a thread's own table of descriptors, which the watch does not look at
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_NETLINK = 16
_QUERY = 0xFFFF_FFFF

_MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}
_ALLOW, _KILL, _ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_NOTIFY = 0x7FC0_0000  # SECCOMP_RET_USER_NOTIF
_NUMBER, _ARCHITECTURE = 0, 4
"""Offsets in the kernel's `struct seccomp_data`; see `_argument`."""
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant."""


def supported() -> bool:
    """Whether a filter can be made for this machine's architecture."""
    return platform.machine() in _MACHINES


def open_filter(*, memfd: bool = False, no_child_signal: bool = False, silent: bool = False) -> int:
    """A fresh descriptor from which the filter can be read once, to its end; the caller closes it.

    Args:
        memfd: allow memory without a file (GPU libraries share memory by it).
        no_child_signal: setting an action for the end of children returns success and does nothing, so that no CPU
            time is hidden.  A program that waits for that signal instead of for the child waits in vain.
        silent: calls that lock a file return success and lock nothing: other sandboxes could see a lock.
    """
    # Opened anew by its path, so that each reader has an offset of its own.
    return os.open(f"/proc/self/fd/{_filter_file(memfd, no_child_signal, silent)}", os.O_RDONLY | os.O_CLOEXEC)


@cache
def _filter_file(memfd: bool, no_child_signal: bool, silent: bool) -> int:
    """The descriptor of a filter in memory; open for as long as this process lives."""
    handle = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(handle, program(platform.machine(), memfd=memfd, no_child_signal=no_child_signal, silent=silent))
    return handle


def program(machine: str, *, memfd: bool, no_child_signal: bool, silent: bool) -> bytes:
    """The filter as the kernel reads it: an array of `struct sock_filter`.

    Raises:
        KeyError: no table for this architecture; see `supported`.
    """
    column, out = _MACHINES[machine][0], _prologue(machine)
    # Each rule jumps over its verdict when the number is another one; what no rule names is allowed.
    absent = _ABSENT if memfd else _ABSENT | _MEMFD
    if silent:
        absent = absent | _ABSENT_WHERE_SILENT
    for table, code in ((_FORBIDDEN, errno.EPERM), (absent, errno.ENOSYS), (_EFFECTLESS, 0)):
        for numbers in table.values():
            if numbers[column] >= 0:
                out += [(_EQUAL, 0, 1, numbers[column]), _error(code)]
    for numbers, body in _conditional(no_child_signal, silent):
        out += [(_EQUAL, 0, len(body), numbers[column]), *body]
    return _assembled(out)


def notifying(
    machine: str, calls: Iterable[tuple[int, int]], unless: Mapping[tuple[int, int], tuple[int, int]]
) -> bytes:
    """A filter under which these calls wait for the holder of its listener; empty without a table for the machine.

    No further filter can be installed by `seccomp`: the kernel asks the newest listener, and once ours is closed the
    process could have one of its own, which lets everything pass.

    Args:
        calls: numbers on x86-64 and 64-bit ARM, -1 where there is none.
        unless: more calls, each with (argument, bit): they pass if the argument has the bit.
    """
    if machine not in _MACHINES:
        return b""
    column, out = _MACHINES[machine][0], _prologue(machine)
    notify = (_RETURN, 0, 0, _NOTIFY)
    # Refused at once: a call that waits could be allowed before the listener is closed and be made after it.
    out += [(_EQUAL, 0, 1, _SECCOMP[column]), _error(errno.EPERM)]
    for numbers in calls:
        if numbers[column] >= 0:
            out += [(_EQUAL, 0, 1, numbers[column]), notify]
    for numbers, (index, bit) in unless.items():
        body = [_argument(index), (_ANY_BIT, 0, 1, bit), (_RETURN, 0, 0, _ALLOW), notify]
        out += [(_EQUAL, 0, len(body), numbers[column]), *body]
    return _assembled(out)


def no_child_signal(machine: str) -> bytes:
    """A filter by which setting the action for SIGCHLD returns success and does nothing.  Raises: KeyError."""
    column, body = _MACHINES[machine][0], _if_child_signal_is_set(_error(0))
    return _assembled([*_prologue(machine), (_EQUAL, 0, len(body), _SIGACTION[column]), *body])


def load_call(machine: str) -> int:
    """The number of the system call `seccomp`.  Raises: KeyError without a table for the machine."""
    return _SECCOMP[_MACHINES[machine][0]]


def _if_child_signal_is_set(verdict: Instruction) -> list[Instruction]:
    """The body for `rt_sigaction`: the verdict where it sets an action for SIGCHLD; reading the action passes."""
    is_set = [_argument(1), (_EQUAL, 0, 2, 0), _argument(1, high=True), (_EQUAL, 1, 0, 0), verdict]
    return [_argument(0), (_EQUAL, 0, 5, SIGCHLD), *is_set, (_RETURN, 0, 0, _ALLOW)]


def _prologue(machine: str) -> list[Instruction]:
    """Refuses calls of other architectures; then the number of the call is loaded."""
    # A call of another architecture has other numbers: no table would fit it.
    out: list[Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, _MACHINES[machine][1])]
    out += [(_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":  # the x32 interface has numbers of its own from here on
        out += [(_AT_LEAST, 0, 1, 0x4000_0000), _error(errno.ENOSYS)]
    return out


def _assembled(instructions: list[Instruction]) -> bytes:
    """The filter as the kernel reads it, with its last verdict: what no rule names is allowed."""
    return b"".join(struct.pack("=HBBI", *item) for item in [*instructions, (_RETURN, 0, 0, _ALLOW)])


def _conditional(no_child_signal: bool, silent: bool) -> list[tuple[tuple[int, int], list[Instruction]]]:
    """Calls that depend on their arguments, each with a body that ends in a verdict."""
    allow, deny = (_RETURN, 0, 0, _ALLOW), _error(errno.EPERM)
    # The memory of all network sockets of the machine is readable in /proc/net: who has read secrets gets none.
    families = _FAMILIES[:1] if silent else _FAMILIES
    family = [(_EQUAL, len(families) + 2 - index, 0, value) for index, value in enumerate(families)]
    unless_nowait = [_argument(5), (_ANY_BIT, 1, 0, _NOWAIT), allow, _error(errno.EOPNOTSUPP)]
    calls: list[tuple[tuple[int, int], list[Instruction]]] = [
        (_CLONE, [_argument(0), (_ANY_BIT, 1, 0, _NAMESPACES | _UNTRACED), allow, deny]),
        (_UNSHARE, [_argument(0), (_ANY_BIT, 1, 0, _NAMESPACES | _NEWTIME | _OWN_FILES), allow, deny]),
        (_IOCTL, [_argument(1), *_any_of(_TERMINAL_INPUT), allow, deny]),
        # Of netlink only protocol 0, routing: what lists a machine's addresses.
        (_SOCKET, [_argument(0), *family, (_EQUAL, 0, 3, _NETLINK), _argument(2), (_EQUAL, 0, 1, 0), allow,
                   _error(errno.EAFNOSUPPORT)]),
        (_PERSONALITY, [_argument(0), (_EQUAL, 0, 1, _QUERY), allow, deny]),
        (_PREADV2, unless_nowait),
        (_PWRITEV2, unless_nowait),
        (_MADVISE, [_argument(2), *_any_of(_CACHE_ADVICE), allow, _error(0)]),
        (_MSYNC, [_argument(2), (_ANY_BIT, 1, 0, _SYNCHRONOUS), allow, _error(0)]),
    ]  # fmt: skip
    if no_child_signal:
        calls.append((_SIGACTION, _if_child_signal_is_set(_error(0))))
    if silent:
        calls.append((_FLOCK, [_error(0)]))
        calls.append((_FCNTL, [_argument(1), *_any_of(_LOCKING + _WATCHING), allow, _error(0)]))
    else:
        calls.append((_FCNTL, [_argument(1), *_any_of(_WATCHING), allow, deny]))
    return calls


def _any_of(values: tuple[int, ...]) -> list[Instruction]:
    """Jumps to the second instruction after these if the loaded argument is one of the values, else to the first."""
    return [(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]


def _argument(index: int, high: bool = False) -> Instruction:
    """Load one half of an argument; both machines are little-endian."""
    return (_LOAD, 0, 0, 16 + 8 * index + 4 * high)


def _error(code: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)
