"""Windows of a hidden text: what a model is sent, and which positions of it count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ideator_rl.scoring.remote_scorer import FIRST, FURTHER, WHOLE, Request


def windows_of(tokens: np.ndarray, context: int) -> np.ndarray:
    """Windows, int32 (W, context + 1), of consecutive tokens, int (N,); position i of a row predicts its token i + 1.

    Each token but the first is predicted in one window; the last token of a window is the first of the next.  If
    `context` does not divide N - 1, the last window reaches back over tokens that the one before predicts: pass the
    tokens themselves to `token_loss`, which counts none twice.  A text shorter than `context` is one window.

    Raises:
        ValueError: fewer than two tokens, or a context below 1.
    """
    tokens = np.asarray(tokens, np.int32)
    if tokens.ndim != 1 or len(tokens) < 2 or context < 1:
        raise ValueError(f"Got tokens of shape {tokens.shape} and context {context}; expected (N,), N >= 2, and >= 1.")
    context = min(context, len(tokens) - 1)
    starts = np.arange(0, len(tokens) - 1, context)
    starts[-1] = len(tokens) - 1 - context
    # A view would repeat no token; a copy makes each window contiguous, as requests are.
    return np.lib.stride_tricks.sliding_window_view(tokens, context + 1)[starts].copy()


@dataclass(frozen=True)
class Windows:
    """Windows with the positions that are scored."""

    tokens: np.ndarray
    """int32 (W, T + 1)."""
    scored_K: np.ndarray
    """The scored positions of each window, ascending, int (K,)."""
    repeated: int = 0
    """Positions at the start of the last window that the window before has predicted: scored there only."""

    @property
    def length(self) -> int:
        return self.tokens.shape[1] - 1

    def counted_WK(self) -> np.ndarray:
        """Which losses count, bool (W, K)."""
        counted = np.ones((len(self.tokens), len(self.scored_K)), bool)
        counted[-1] = self.scored_K >= self.repeated
        return counted

    def requests(self, batch: int, positions_in_slot: int) -> list[tuple[slice, slice, Request]]:
        """The full pass: (rows, indices into `scored_K`, request), at most `batch` rows each.

        Args:
            positions_in_slot: over all rows of a request, what fits in a slot.
        """
        K = len(self.scored_K)
        inputs, every = self.tokens[:, :-1], len(self.scored_K) == self.length
        if positions_in_slot < K:
            # One row is more than a slot holds: the model computes it once, and its logits come in parts.
            parts = [slice(k, min(k + positions_in_slot, K)) for k in range(0, K, positions_in_slot)]
            return [
                (slice(w, w + 1), part, Request(inputs[w : w + 1], self.scored_K[part], FURTHER if number else FIRST))
                for w in range(len(inputs))
                for number, part in enumerate(parts)
            ]
        step = max(1, min(batch, positions_in_slot // K))
        return [
            (slice(w, w + step), slice(0, K), Request(inputs[w : w + step], None if every else self.scored_K, WHOLE))
            for w in range(0, len(inputs), step)
        ]
