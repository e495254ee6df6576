"""The data: text of a made-up language, split into what experiments read and what only the evaluator reads.

Called once for each preset; the result is kept in the user's cache until this file changes.  Put your own data here:
read it from wherever it lies, write what experiments may see to `public` and the rest to `private`.  If it is read from
a folder of this machine, also add `sources()`, the folders to be hidden from experiments, and `version()`, a text that
changes whenever they do.
"""

import numpy as np

SEED = 0  # of this environment alone: who knows it knows the hidden text
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = 300
FOLLOWERS = 8
"""Words that may come after a word."""
SIZES = {"train": 400_000, "main": 60_000, "confirm": 60_000}
"""Characters of text for training, and of the two hidden splits."""


def prepare(public, private, preset):
    """Write `train.bin` to public, `main.bin` and `confirm.bin` to private: a byte a character, 0 is the space."""
    rng = np.random.default_rng(SEED)
    words = sorted({_word(rng) for _ in range(2 * WORDS)})
    words = [words[i] for i in rng.permutation(len(words))[:WORDS]]
    follows = rng.integers(len(words), size=(len(words), FOLLOWERS))
    for name, size in SIZES.items():
        folder = public if name == "train" else private
        text = _text(rng, words, follows, size)
        (folder / f"{name}.bin").write_bytes(bytes(1 + LETTERS.index(c) if c != " " else 0 for c in text))


def _word(rng):
    syllables = ("".join(rng.choice(list(letters)) for letters in ("bdfgklmnprstvz", "aeiou")) for _ in range(4))
    return "".join(list(syllables)[: rng.integers(1, 5)])


def _text(rng, words, follows, size):
    now, out, length = int(rng.integers(len(words))), [], 0
    while length < size:
        out.append(words[now])
        length += len(words[now]) + 1
        now = int(follows[now, min(int(rng.geometric(0.4)) - 1, FOLLOWERS - 1)])
    return " ".join(out)[:size]
