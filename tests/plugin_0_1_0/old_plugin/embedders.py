"""An embedder with thresholds of its own: how often each letter or digit occurs."""

import numpy as np

from ideator_rl.diagnostics.embedding import Embedder, HashedNGrams, Thresholds, description, get_embedder
from old_plugin import note


class Letters:
    name = "letters"
    thresholds = Thresholds(duplicate=0.999, cluster=0.01)

    def embed(self, texts) -> np.ndarray:
        note("letters", texts=len(texts))
        rows = np.array(
            [[text.lower().count(sign) for sign in "abcdefghijklmnopqrstuvwxyz0123456789"] for text in texts]
        )
        rows = rows.reshape(len(texts), 36).astype(np.float32)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(length > 0, length, 1)


def reference() -> Embedder:
    embedder = get_embedder("hashed")
    assert isinstance(embedder, HashedNGrams) and description("[Experiment] a [Code Changes] b [End]") == "a"
    return embedder
