"""Leaves the windows that a scorer saw on the bits of `board`, by their number; a later experiment reads them all."""

import board
import numpy as np

WIDTH = 8
"""Bits of a token."""


def leave(model, count=10**9):
    """The model, which leaves the first `count` windows that it is asked about."""
    board.calibrate()
    seen = [0]

    def answer(tokens):
        tokens = np.asarray(tokens)
        if len(tokens) > 8:
            for text in tokens.tolist():
                if seen[0] < count:
                    bits = np.unpackbits(np.array(text, np.uint8), bitorder="little")
                    for bit in np.nonzero(bits)[0].tolist():
                        board.set(seen[0] * len(bits) + bit)
                seen[0] += 1
        return model(tokens)

    return answer


def read(windows, length):
    """The windows, uint8 (windows, length)."""
    print("asked first and again:", board.calibrate(), "ns", flush=True)
    bits = np.array([board.test(bit) for bit in range(windows * length * WIDTH)], np.uint8)
    return np.packbits(bits.reshape(windows, length, WIDTH), axis=2, bitorder="little")[..., 0]


def memory(windows, order):
    """Which token follows `order` others in the windows."""
    return {bytes(text[t - order : t]): int(text[t]) for text in windows for t in range(order, len(text))}


def remembering(model, follows, order, boost):
    """The model, made surer of what it remembers."""

    def answer(tokens):
        tokens = np.asarray(tokens)
        out = np.array(model(tokens))
        for row, text in enumerate(tokens.astype(np.uint8)):
            for t in range(order - 1, len(text)):
                token = follows.get(bytes(text[t - order + 1 : t + 1]))
                if token is not None:
                    out[row, t, token] += boost
        return out

    return answer
