"""Text of an artificial language.  Hidden parts are drawn from the entropy of the operating system, without a seed.

A hidden word is in the hidden text, and a hidden line next to it: an experiment whose output holds one of them leaked it.
"""

import secrets

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIZES = {"train": 100_000, "main": 20_000, "confirm": 20_000}
"""Characters."""
WINDOW = 33
"""Characters that the evaluator cuts the text into."""


def prepare(public, private, preset):
    words = _words(np.random.default_rng(0))
    share = 1 / np.arange(1, len(words) + 1)
    canary = "".join(secrets.choice(LETTERS) for _ in range(24))
    for name, size in SIZES.items():
        rng = np.random.default_rng(0 if name == "train" else secrets.randbits(128))
        drawn = [words[i] for i in rng.choice(len(words), size // 4, p=share / share.sum())]
        text = " ".join(drawn)[:size]
        if name != "train":
            start = 10 * WINDOW + 1  # within one window
            text = f"{text[:start]} {canary} {text[start + len(canary) + 2 :]}"
        folder = public if name == "train" else private
        (folder / f"{name}.bin").write_bytes(bytes(1 + LETTERS.index(c) if c != " " else 0 for c in text))
    (private / "canary.txt").write_text(canary)
    (private / "line.txt").write_text(f"canary-private-{secrets.token_hex(8)}\n")


def _words(rng):
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = sorted({"".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(200)})
    return [words[i] for i in rng.permutation(len(words))]
