"""Losses of targets under raw logits that another process may still be writing to.

Logits are copied a block at a time, each small enough for a core's cache, then checked and turned into a loss: each
loss belongs to one softmax, whatever changes meanwhile.  In float32, as the logits are; with allotted GPUs in torch.
"""

from __future__ import annotations

import os

import numpy as np

from ideator_rl.scoring.scoring import ScorerFailed

CPU_BLOCK, GPU_BLOCK = 1 << 17, 1 << 26
"""Logits of one block: on a CPU half a megabyte, which stays in a core's cache."""


def nats(logits: np.ndarray, targets: np.ndarray, vocab: int | None = None) -> np.ndarray:
    """Loss of each target, nats, float64 (B, K), under logits, float32 (B, K, V), for targets, int (B, K).

    Args:
        vocab: classes from this one on are left out of the softmax, and may have any logit; None for none.

    Raises:
        ScorerFailed: a logit is not finite, or the shape does not fit the targets.
    """
    classes = min(logits.shape[-1], vocab or logits.shape[-1])
    if logits.ndim != 3 or logits.shape[:2] != targets.shape or (targets.size and classes <= targets.max()):
        raise ScorerFailed(
            f"The model returned logits of shape {logits.shape} for targets of shape {targets.shape}; "
            "expected (B, T, vocab)."
        )
    rows, flat = logits.reshape(-1, logits.shape[2])[:, :classes], targets.reshape(-1).astype(np.int64)
    on_gpu = bool(os.environ.get("IDEATOR_GPUS"))  # only GPUs that were allotted to this experiment are touched
    block, losses_of = (GPU_BLOCK, _on_gpu) if on_gpu else (CPU_BLOCK, _on_cpu)
    step = max(1, block // classes)
    losses = [losses_of(rows[i : i + step], flat[i : i + step]) for i in range(0, len(rows), step)]
    return np.concatenate(losses).reshape(targets.shape) if losses else np.zeros(targets.shape)


def _on_cpu(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    own = np.array(rows, np.float32)  # a copy: the check and the loss must see the same numbers
    highest = own.max(-1, keepdims=True)
    if not (np.isfinite(highest).all() and np.isfinite(own.min())):
        raise ScorerFailed("The model returned logits that are not finite; expected finite numbers.")
    own -= highest
    chosen = own[np.arange(len(own)), targets].astype(np.float64)
    np.exp(own, out=own)
    return np.log(own.sum(-1).astype(np.float64)) - chosen


def _on_gpu(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    import torch

    own = torch.from_numpy(np.array(rows, np.float32)).to("cuda" if torch.cuda.is_available() else "cpu")
    if not bool(torch.isfinite(own).all()):
        raise ScorerFailed("The model returned logits that are not finite; expected finite numbers.")
    chosen = own.gather(-1, torch.from_numpy(targets).to(own.device)[:, None])[:, 0]
    losses: np.ndarray = (own.logsumexp(-1).double() - chosen.double()).cpu().numpy()
    return losses
