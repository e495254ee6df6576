"""Runs inside the sandbox: loads the experiment's model and answers token ids with raw logits, nothing else.

Protocol, little-endian; V and the size of a slot are fixed by the evaluator:
- first answer: byte 0 when the model is loaded
- request: uint32 batch B, length T, number of positions K and slot; then B·T int32 token ids and K int32 positions
- answer: B·K·V float32 logits of these positions in the slot of the shared memory, then byte 0; or byte 1, uint32
  length and a message

Everything here is untrusted as soon as the experiment's code is imported.  The other side takes only sizes that it
computed itself.

usage: scorer.py REQUEST_FD ANSWER_FD MEMORY_FD SLOT_BYTES MODULE:FUNCTION ARTIFACT_FOLDER VOCAB
"""

import importlib
import mmap
import os
import struct
import sys


def main() -> None:
    request, answer = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
    memory, slot_bytes = int(sys.argv[3]), int(sys.argv[4])
    module, _, function = sys.argv[5].partition(":")
    vocab = int(sys.argv[7])
    sys.path.insert(0, os.getcwd())
    try:
        import numpy as np

        shared = mmap.mmap(memory, 0)
        model = getattr(importlib.import_module(module), function)(sys.argv[6])
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
