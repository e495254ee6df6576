"""Losses of targets under raw logits that another process may still be writing to.

Logits are copied a block at a time, then checked and turned into a loss: each loss belongs to one softmax, whatever
changes meanwhile.  In float32, as the logits are.  On a CPU by numpy, in blocks that fit in a core's cache; with
allotted GPUs by torch, from shared memory that CUDA copies directly.  The same torch code also runs on a CPU, for
tests.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

from ideator_rl.sandbox.mounts import allotted_gpus
from ideator_rl.scoring.scoring import ScorerFailed

CPU_BLOCK, GPU_BLOCK = 1 << 17, 1 << 26
"""Logits of one block: on a CPU half a megabyte, which stays in a core's cache; on a GPU 268 MB."""
NUMPY, CUDA = "numpy", "cuda"


def nats(logits: np.ndarray, targets: np.ndarray, vocab: int | None = None, device: str | None = None) -> np.ndarray:
    """Loss of each target, nats, float64 (B, K), under logits, float32 (B, K, V), for targets, int (B, K).

    Args:
        vocab: classes from this one on are left out of the softmax, and may have any logit; None for none.
        device: `numpy`, or a device of torch; None for `loss_device()`.

    Raises:
        ScorerFailed: a logit is not finite, or the shape does not fit the targets.
    """
    classes = min(logits.shape[-1], vocab or logits.shape[-1])
    if logits.ndim != 3 or logits.shape[:2] != targets.shape or (targets.size and classes <= targets.max()):
        raise ScorerFailed(
            f"The model returned logits of shape {logits.shape} for targets of shape {targets.shape}; "
            "expected (B, T, vocab)."
        )
    device = device or loss_device()
    rows, flat = logits.reshape(-1, logits.shape[2]), targets.reshape(-1).astype(np.int64)
    step = max(1, (CPU_BLOCK if device == NUMPY else GPU_BLOCK) // logits.shape[2])
    out = np.empty(len(rows))
    for i in range(0, len(rows), step):
        block = slice(i, i + step)
        if device == NUMPY:
            out[block] = _by_numpy(rows[block, :classes], flat[block])
        else:
            out[block] = _by_torch(rows[block], flat[block], classes, device)
    return out.reshape(targets.shape)


def loss_device() -> str:
    """Where losses are computed: `cuda` if this experiment was allotted a GPU and torch can use it, else `numpy`."""
    return CUDA if allotted_gpus() and _torch_has_cuda() else NUMPY


@contextmanager
def registered(memory: mmap.mmap, device: str) -> Iterator[bool]:
    """Have CUDA copy from this memory directly, at several times the speed; yields whether it does."""
    if device != CUDA:
        yield False
        return
    import torch

    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # Where the driver refuses, copies go through a buffer of its own.
    accepted = int(runtime.cudaHostRegister(address, len(memory), 0)) == 0
    try:
        yield accepted
    finally:
        if accepted:
            runtime.cudaHostUnregister(address)


@cache
def _torch_has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _by_numpy(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    own = np.array(rows, np.float32)  # a copy: the check and the loss must see the same numbers
    highest = own.max(-1, keepdims=True)
    if not (np.isfinite(highest).all() and np.isfinite(own.min())):
        raise _not_finite()
    own -= highest
    chosen = own[np.arange(len(own)), targets].astype(np.float64)
    np.exp(own, out=own)
    return np.log(own.sum(-1).astype(np.float64)) - chosen


def _by_torch(rows: np.ndarray, targets: np.ndarray, classes: int, device: str) -> np.ndarray:
    import torch

    # A copy of whole rows, so that it is one piece of memory; the classes that do not count are cut off there.
    own = torch.empty(rows.shape, device=device).copy_(torch.from_numpy(rows))[:, :classes]
    if not bool(torch.isfinite(own).all()):
        raise _not_finite()
    highest = own.amax(-1, keepdim=True)
    chosen = own.gather(-1, torch.from_numpy(targets).to(device)[:, None]) - highest
    sums = own.sub_(highest).exp_().sum(-1)
    losses: np.ndarray = (sums.double().log() - chosen[:, 0].double()).cpu().numpy()
    return losses


def _not_finite() -> ScorerFailed:
    return ScorerFailed("The model returned logits that are not finite; expected finite numbers.")
