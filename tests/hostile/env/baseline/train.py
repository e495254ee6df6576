"""Count which letter follows which; `load` gives the scorer a function from letters (B, T) to logits (B, T, vocab)."""

import os
from pathlib import Path

import numpy as np

vocab = 27
smoothing = 1.0


def read(artifact):
    return np.load(Path(artifact, "counts.npy")).astype(np.float32)


def load(artifact):
    table = read(artifact)
    return lambda letters: table[letters]


def main():
    import measure

    text = np.fromfile(Path(os.environ["IDEATOR_DATA"], "train.bin"), np.uint8)
    counts = np.full((vocab, vocab), smoothing)
    np.add.at(counts, (text[:-1], text[1:]), 1)
    np.save(Path(os.environ["IDEATOR_ARTIFACT"], "counts.npy"), np.log(counts))
    print("on the training text:", measure.loss(np.log(counts), text))


if __name__ == "__main__":
    main()
