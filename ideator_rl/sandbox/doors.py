"""Path and file calls of a scorer, which this side lets pass while it loads and refuses once it reads hidden data.

Covered, on x86-64 and 64-bit ARM: the scorer installs the filter before it imports any code of the experiment, with a
listener that only the evaluator holds.  Until the listener is closed, each of these calls waits for `Doors.answer`.
From then on they fail with ENOSYS, in all threads and children, and nothing inside can change that.

Not covered: reads through descriptors and mappings that were opened before.  What they read should lie in memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import socket
import struct

from ideator_rl.sandbox import seccomp

# System call → (number on x86-64, number on 64-bit ARM), -1 where there is none; from the kernel's asm/unistd_64.h and
# asm-generic/unistd.h.
_PATHS_AND_FILES = {
    "open": (2, -1), "creat": (85, -1), "openat": (257, 56), "openat2": (437, 437),
    "stat": (4, -1), "lstat": (6, -1), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, -1), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, -1),
    "readlinkat": (267, 78), "getdents": (78, -1), "getdents64": (217, 61), "statfs": (137, 43), "fstatfs": (138, 44),
    "ustat": (136, -1), "getcwd": (79, 17), "statmount": (457, 457), "listmount": (458, 458),
    "file_getattr": (468, 468), "file_setattr": (469, 469), "name_to_handle_at": (303, 264),
    "pread64": (17, 67), "preadv": (295, 69), "preadv2": (327, 286), "pwritev2": (328, 287),
    "fadvise64": (221, 223), "readahead": (187, 213), "cachestat": (451, 451), "mincore": (27, 232),
    "sendfile": (40, 71), "splice": (275, 76), "tee": (276, 77), "vmsplice": (278, 75),
    "copy_file_range": (326, 285), "execve": (59, 221), "execveat": (322, 281), "uselib": (134, -1),
    "chdir": (80, 49), "fchdir": (81, 50), "rename": (82, -1), "renameat": (264, 38), "renameat2": (316, 276),
    "unlink": (87, -1), "unlinkat": (263, 35), "rmdir": (84, -1), "mkdir": (83, -1), "mkdirat": (258, 34),
    "mknod": (133, -1), "mknodat": (259, 33), "link": (86, -1), "linkat": (265, 37), "symlink": (88, -1),
    "symlinkat": (266, 36), "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, -1), "lchown": (94, -1), "fchown": (93, 55), "fchownat": (260, 54), "utime": (132, -1),
    "utimes": (235, -1), "futimesat": (261, -1), "utimensat": (280, 88), "truncate": (76, 45), "ftruncate": (77, 46),
    "fallocate": (285, 47), "sync": (162, 81), "syncfs": (306, 267), "fsync": (74, 82), "fdatasync": (75, 83),
    "sync_file_range": (277, 84), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "getxattr": (191, 8), "lgetxattr": (192, 9), "fgetxattr": (193, 10), "listxattr": (194, 11),
    "llistxattr": (195, 12), "flistxattr": (196, 13), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "setxattrat": (463, 463), "getxattrat": (464, 464), "listxattrat": (465, 465),
    "removexattrat": (466, 466), "fanotify_mark": (301, 263), "inotify_init": (253, -1), "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27), "inotify_rm_watch": (255, 28), "socket": (41, 198), "socketpair": (53, 199),
    "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242),
    "sendto": (44, 206), "sendmmsg": (307, 269), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "msgget": (68, 186), "semget": (64, 190), "shmget": (29, 194), "sysinfo": (99, 179),
}  # fmt: skip
_MMAP = (9, 222)
_ANONYMOUS = 0x20
_RECEIVE, _SEND = 0xC050_2100, 0xC018_2101  # SECCOMP_IOCTL_NOTIF_RECV and …_SEND
_NOTIFICATION_BYTES = 80
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE: the kernel performs the call as asked


def program(machine: str, *, map_files: bool = False) -> bytes:
    """The filter as the kernel reads it; empty for an architecture without a table.

    Args:
        map_files: leave the mapping of open files alone, which GPU drivers need at every allocation.
    """
    return seccomp.notifying(machine, _PATHS_AND_FILES.values(), {} if map_files else {_MMAP: (3, _ANONYMOUS)})


class Doors:
    """The evaluator's hold on one scorer: calls pass until `shut`.  Used by one thread."""

    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel: socket.socket | None = ours
        self._listener = -1
        self.missing = "the scorer did not report"
        """Why these calls stay allowed; empty once the listener is here."""
        self.startup: float | None = None
        """CPU seconds of the scorer before it could import code of the experiment; None until it reports."""
        gpus = bool(os.environ.get("IDEATOR_GPUS"))
        ours.send(program(platform.machine(), map_files=gpus) or b"\0")

    @property
    def inherited(self) -> int:
        """The descriptor that the scorer inherits; `close_inherited` once it has been started."""
        return self._theirs.fileno()

    def close_inherited(self) -> None:
        self._theirs.close()

    def descriptors(self) -> list[int]:
        """What to wait for, besides the scorer's answer; call `answer` when one is readable."""
        if self._channel is not None:
            return [self._channel.fileno()]
        return [self._listener] if self._listener >= 0 else []

    def answer(self) -> None:
        """Take the listener from the scorer, or let one waiting call pass."""
        if self._channel is not None:
            self._take_listener(self._channel)
            self._channel.close()
            self._channel = None
            return
        notification = bytearray(_NOTIFICATION_BYTES)
        # The caller may be gone, killed or interrupted, at either of the two calls.
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(self._listener, _RECEIVE, notification)
            identity = struct.unpack_from("=Q", notification)[0]
            fcntl.ioctl(self._listener, _SEND, struct.pack("=QqiI", identity, 0, 0, _CONTINUE))

    def shut(self) -> None:
        """From now on the calls fail inside; those that wait for an answer too."""
        if self._listener >= 0:
            os.close(self._listener)
            self._listener = -1
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _take_listener(self, channel: socket.socket) -> None:
        # Sent by our own code before any of the experiment's ran, so that it can be believed.
        try:
            message, descriptors, _, _ = socket.recv_fds(channel, 256, 1)
        except ConnectionError:
            return  # it died with what we sent unread
        if not message:
            return  # it died
        error, _, startup = message.decode().partition(" ")
        self.startup, self.missing = float(startup), os.strerror(int(error)) if int(error) else ""
        if descriptors:
            self._listener = descriptors[0]
