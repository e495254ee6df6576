"""Runs inside the sandbox: loads the experiment's model and answers token ids with raw logits, nothing else.

Before any code of the experiment it imports what the environment preloads, and installs the filter that it reads from
the descriptor DOORS_FD; the listener of that filter goes to the evaluator (see `ideator_rl.sandbox.doors`).

Protocol, little-endian; V and the size of a slot are fixed by the evaluator:
- first answer: byte 0 when the model is loaded
- request: uint32 batch B, length T, number of positions K and slot; then B·T int32 token ids and K int32 positions
- answer: B·K·V float32 logits of these positions in the slot of the shared memory, then byte 0; or byte 1, uint32
  length and a message

Everything here is untrusted as soon as the experiment's code is imported.  The other side takes only sizes that it
computed itself.

usage: scorer.py REQUEST_FD ANSWER_FD MEMORY_FD DOORS_FD SLOT_BYTES PRELOAD MODULE:FUNCTION ARTIFACT VOCAB FOLDERS
where PRELOAD is MODULE,MODULE, ARTIFACT a folder, and FOLDERS is FOLDER:FOLDER, those of the codebase to import from
"""

import ctypes
import importlib
import mmap
import os
import platform
import socket
import struct
import sys
import time

SECCOMP = {"x86_64": 317, "aarch64": 277}
"""Numbers of the system call `seccomp`."""
SET_FILTER = 1
WITH_LISTENER = 1 | 8 | 16  # TSYNC, NEW_LISTENER and TSYNC_ESRCH: for threads of preloaded modules too
NO_NEW_PRIVILEGES = 38


class Program(ctypes.Structure):
    """The kernel's `struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def hand_over_doors(handle: int) -> None:
    """Install the filter from the evaluator's socket and send its listener there; this process keeps no copy.

    Sends "ERROR SECONDS": 0 or why there is no filter, and the CPU seconds spent so far.
    """
    channel = socket.socket(fileno=handle)
    program = channel.recv(65_536)
    listener, error = -1, 38  # ENOSYS
    if len(program) > 1 and platform.machine() in SECCOMP:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        filter = Program(len(program) // 8, program)
        listener = libc.syscall(SECCOMP[platform.machine()], SET_FILTER, WITH_LISTENER, ctypes.byref(filter))
        error = ctypes.get_errno() if listener < 0 else 0
    report = f"{error} {time.process_time()}".encode()
    if listener >= 0:
        socket.send_fds(channel, [report], [listener])
        os.close(listener)
    else:
        channel.send(report)
    channel.close()


def main() -> None:
    request, answer = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
    memory, slot_bytes = int(sys.argv[3]), int(sys.argv[5])
    module, _, function = sys.argv[7].partition(":")
    vocab = int(sys.argv[9])
    try:
        # Our own code and packages first, so that nothing of the experiment can be imported in their place.
        for name in filter(None, ("numpy", *sys.argv[6].split(","))):
            importlib.import_module(name)
        import numpy as np

        shared = mmap.mmap(memory, 0)
        hand_over_doors(int(sys.argv[4]))
        # Not before: a file of the codebase could take the place of a module that is imported above.
        sys.path[:0] = sys.argv[10].split(os.pathsep)
        model = getattr(importlib.import_module(module), function)(sys.argv[8])
        answer.write(b"\0")
        answer.flush()
        while header := request.read(16):
            batch, length, count, slot = struct.unpack("<IIII", header)
            tokens = np.frombuffer(request.read(4 * batch * length), "<i4").reshape(batch, length)
            positions = np.frombuffer(request.read(4 * count), "<i4")
            logits = np.asarray(model(tokens))
            if logits.shape != (batch, length, vocab):
                raise ValueError(f"logits have the shape {logits.shape}; expected {(batch, length, vocab)}")
            out = np.frombuffer(shared, "<f4", batch * count * vocab, slot * slot_bytes).reshape(batch, count, vocab)
            out[:] = logits if count == length else logits[:, positions]
            answer.write(b"\0")
            answer.flush()
    except Exception as error:
        message = f"{type(error).__name__}: {error}".encode()[:4096]
        answer.write(b"\1" + struct.pack("<I", len(message)) + message)
        answer.flush()
        raise


if __name__ == "__main__":
    main()
