"""Train a small character model for a fixed budget and leave it where the evaluator's scorer finds it.

Reads   IDEATOR_DATA/train.bin       one byte a character, 0 to 26
Writes  IDEATOR_ARTIFACT/model.npz   the weights
Heeds   IDEATOR_BUDGET_SECONDS       CPU seconds after the imports
        IDEATOR_SEED                 seeds the weights and the batches

`load(artifact)` gives the scorer a function from characters (B, T) to logits (B, T, vocab).
"""

import os
import time
from pathlib import Path

import numpy as np

vocab = 27
context = 2  # characters that the next one is predicted from
features = 8  # of a character
width = 32  # hidden units
batch = 32  # characters to predict in one update
learning_rate = 0.05
reserve = 0.3  # CPU seconds kept back for saving and leaving


def new_weights(rng):
    inputs = context * features
    return {
        "embedding": rng.normal(0, 1, (vocab, features)),
        "w1": rng.normal(0, inputs**-0.5, (inputs, width)),
        "b1": np.zeros(width),
        "w2": rng.normal(0, width**-0.5, (width, vocab)),
        "b2": np.zeros(vocab),
    }


def forward(weights, contexts):
    """Contexts, int (N, context) -> inputs, hidden activations and logits, each of N rows."""
    inputs = weights["embedding"][contexts].reshape(len(contexts), -1)
    hidden = np.tanh(inputs @ weights["w1"] + weights["b1"])
    logits = hidden @ weights["w2"] + weights["b2"]
    return inputs, hidden, logits


def gradients(weights, contexts, targets):
    """The gradient of the mean loss, by name of the weight."""
    inputs, hidden, logits = forward(weights, contexts)
    error = np.exp(logits - logits.max(1, keepdims=True))
    error /= error.sum(1, keepdims=True)
    error[np.arange(len(targets)), targets] -= 1
    error /= len(targets)
    below = (error @ weights["w2"].T) * (1 - hidden**2)
    embedding = np.zeros_like(weights["embedding"])
    np.add.at(embedding, contexts, (below @ weights["w1"].T).reshape(*contexts.shape, features))
    return {
        "embedding": embedding,
        "w1": inputs.T @ below,
        "b1": below.sum(0),
        "w2": hidden.T @ error,
        "b2": error.sum(0),
    }


def train(seconds, rng):
    text = np.fromfile(Path(os.environ["IDEATOR_DATA"], "train.bin"), np.uint8).astype(np.int64)
    weights = new_weights(rng)
    start, step = time.process_time(), 0
    while time.process_time() - start < seconds:
        ends = rng.integers(context, len(text), batch)
        contexts = text[ends[:, None] - np.arange(context, 0, -1)]
        gradient = gradients(weights, contexts, text[ends])
        for name in weights:
            weights[name] -= learning_rate * gradient[name]
        step += 1
    print(f"{step} updates", flush=True)
    return weights


def load(artifact):
    """The trained model as a function: int characters (B, T) -> float32 logits (B, T, vocab)."""
    with np.load(Path(artifact, "model.npz")) as file:
        weights = dict(file)

    def logits(characters):
        characters = np.asarray(characters)
        rows, length = characters.shape
        padded = np.pad(characters, ((0, 0), (context - 1, 0)))  # before a text stand spaces
        contexts = np.lib.stride_tricks.sliding_window_view(padded, context, axis=1).reshape(-1, context)
        return forward(weights, contexts)[2].reshape(rows, length, vocab).astype(np.float32)

    return logits


def main():
    rng = np.random.default_rng(int(os.environ["IDEATOR_SEED"]))
    weights = train(float(os.environ["IDEATOR_BUDGET_SECONDS"]) - reserve, rng)
    np.savez(Path(os.environ["IDEATOR_ARTIFACT"], "model.npz"), **weights)


if __name__ == "__main__":
    main()
