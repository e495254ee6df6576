"""Runs inside the sandbox: loads the experiment's model and answers token ids with raw logits, nothing else.

Before any code of the experiment it imports what the environment preloads, and installs the filter that it reads from
the descriptor DOORS_FD; the listener of that filter goes to the evaluator (see `ideator_rl.sandbox.doors`).

Protocol, little-endian; the size of a slot is fixed by the evaluator:
- first answer: byte 0 when the model is loaded, then uint32 context and vocab, as the model carries them, 0 if it does
  not.  V is that vocab, or VOCAB.
- request: uint32 batch B, length T, number of positions K, slot and part; then B·T int32 token ids, unless it is a
  further part, and K int32 positions.  Parts: 0 a whole request, 1 the first of several over the same token ids, whose
  logits are kept, 2 a further one; 3 the first token of each row, 4 the next one, where T and K are 1.
- answer: B·K·V float32 logits of these positions in the slot of the shared memory, then byte 0; or byte 1, uint32
  length and a message

A model maps token ids, int32 (B, T), to logits (B, T, V): an array, or a tensor on the CPU or a GPU.  One with a
parameter `positions` gets the wanted ones and returns (B, K, V).  One that carries `steps` may keep a cache: `steps(B)`
returns a function from the next token ids (B,) to logits (B, V); without it the whole beginning is computed again.

Everything here is untrusted as soon as the experiment's code is imported.  The other side takes only sizes that it
computed itself.

usage: scorer.py REQUEST_FD ANSWER_FD MEMORY_FD DOORS_FD SLOT_BYTES PRELOAD MODULE:FUNCTION ARTIFACT VOCAB FOLDERS
where PRELOAD is MODULE,MODULE, ARTIFACT a folder, and FOLDERS is FOLDER:FOLDER, those of the codebase to import from
"""

import ctypes
import importlib
import inspect
import mmap
import os
import platform
import socket
import struct
import sys
import time
from typing import Any

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


class Slots:
    """The shared memory that logits are written to, one slot at a time."""

    def __init__(self, memory, slot_bytes):
        self._shared, self._slot_bytes = mmap.mmap(memory, 0), slot_bytes
        self._pinned = False

    def put(self, slot, logits):
        """Write logits (B, K, V) of any float type, from the CPU or a GPU, as float32."""
        import numpy as np

        count = int(np.prod(logits.shape))
        out = np.frombuffer(self._shared, "<f4", count, slot * self._slot_bytes).reshape(logits.shape)
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(logits, torch.Tensor):
            out[:] = logits
            return
        if logits.is_cuda:
            self._pin(torch)
            # Converted there: a copy that converts would go through memory that is not pinned.
            logits = logits.float()
        torch.from_numpy(out).copy_(logits.detach())

    def _pin(self, torch):
        """Register the memory with CUDA once, so that a GPU writes to it directly; where that fails, it still can."""
        if not self._pinned:
            self._pinned = True
            address = ctypes.addressof(ctypes.c_char.from_buffer(self._shared))
            torch.cuda.cudart().cudaHostRegister(address, len(self._shared), 0)


class Answers:
    """Asks the model and picks the wanted logits."""

    def __init__(self, model, vocab):
        self._model, self._vocab = model, vocab
        self._kept: Any = None
        self._beginning: Any = None
        self._step: Any = None
        try:
            self._takes_positions = "positions" in inspect.signature(model).parameters
        except (TypeError, ValueError):
            self._takes_positions = False

    def logits(self, tokens, positions, part):
        """Logits (B, K, V) of the positions, int (K,); `tokens` is None for a further part."""
        if part == 2:
            return self._kept[:, positions]
        if part in (3, 4):
            return self._next(tokens, part == 3)
        batch, length = tokens.shape
        if self._takes_positions and part == 0 and len(positions) < length:
            return self._checked(self._model(tokens, positions=positions), (batch, len(positions), self._vocab))
        logits = self._checked(self._model(tokens), (batch, length, self._vocab))
        self._kept = logits if part == 1 else None
        return logits if len(positions) == length else logits[:, positions]

    def _next(self, tokens, first):
        """Logits (B, 1, V) after these token ids (B, 1) and those before them."""
        import numpy as np

        if first:
            self._beginning = tokens[:, :0]
            self._step = self._model.steps(len(tokens)) if hasattr(self._model, "steps") else None
        if self._step is not None:
            return self._checked(self._step(tokens[:, 0]), (len(tokens), self._vocab))[:, None]
        self._beginning = np.concatenate([self._beginning, tokens], 1)
        return self.logits(self._beginning, np.array([self._beginning.shape[1] - 1]), 0)

    def _checked(self, logits, shape):
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(logits, torch.Tensor):
            import numpy as np

            logits = np.asarray(logits)
        if tuple(logits.shape) != shape:
            raise ValueError(f"logits have the shape {tuple(logits.shape)}; expected {shape}")
        return logits


def main() -> None:
    request, answer = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
    module, _, function = sys.argv[7].partition(":")
    try:
        # Our own code and packages first, so that nothing of the experiment can be imported in their place.
        for name in filter(None, ("numpy", *sys.argv[6].split(","))):
            importlib.import_module(name)
        import numpy as np

        slots = Slots(int(sys.argv[3]), int(sys.argv[5]))
        hand_over_doors(int(sys.argv[4]))
        # Not before: a file of the codebase could take the place of a module that is imported above.
        sys.path[:0] = sys.argv[10].split(os.pathsep)
        model = getattr(importlib.import_module(module), function)(sys.argv[8])
        carried = [getattr(model, name, 0) for name in ("context", "vocab")]
        context, vocab = (value if isinstance(value, int) else 0 for value in carried)
        answers = Answers(model, vocab or int(sys.argv[9]))
        answer.write(b"\0" + struct.pack("<II", context, vocab))
        answer.flush()
        while header := request.read(20):
            batch, length, count, slot, part = struct.unpack("<IIIII", header)
            tokens = None
            if part != 2:
                tokens = np.frombuffer(request.read(4 * batch * length), "<i4").reshape(batch, length)
            positions = np.frombuffer(request.read(4 * count), "<i4").astype(np.int64)
            slots.put(slot, answers.logits(tokens, positions, part))
            answer.write(b"\0")
            answer.flush()
    except Exception as error:
        message = f"{type(error).__name__}: {error}".encode()[:4096]
        answer.write(b"\1" + struct.pack("<I", len(message)) + message)
        answer.flush()
        raise


if __name__ == "__main__":
    main()
