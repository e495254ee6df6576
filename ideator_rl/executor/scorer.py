"""Runs inside the sandbox: loads the experiment's model and answers token ids with raw logits, nothing else.

Frames, little-endian.  Request: uint32 batch B, uint32 length T, then B·T int32 token ids.  Answer: byte 0 and B·T·V
float32 logits, or byte 1, uint32 length and a message.  V is fixed by the evaluator.  Everything here is untrusted as
soon as the experiment's code is imported; the other side takes only sizes that it computed itself.

usage: scorer.py REQUEST_FD ANSWER_FD MODULE:FUNCTION ARTIFACT_FOLDER VOCAB
"""

import importlib
import os
import struct
import sys


def main() -> None:
    request, answer = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
    module, _, function = sys.argv[3].partition(":")
    vocab = int(sys.argv[5])
    sys.path.insert(0, os.getcwd())
    try:
        import numpy as np

        model = getattr(importlib.import_module(module), function)(sys.argv[4])
        while header := request.read(8):
            batch, length = struct.unpack("<II", header)
            tokens = np.frombuffer(request.read(4 * batch * length), "<i4").reshape(batch, length)
            logits = np.ascontiguousarray(model(tokens), dtype="<f4")
            if logits.shape != (batch, length, vocab):
                raise ValueError(f"logits have the shape {logits.shape}; expected {(batch, length, vocab)}")
            answer.write(b"\0")
            answer.write(logits.data)
            answer.flush()
    except Exception as error:
        message = f"{type(error).__name__}: {error}".encode()[:4096]
        answer.write(b"\1" + struct.pack("<I", len(message)) + message)
        answer.flush()
        raise


if __name__ == "__main__":
    main()
