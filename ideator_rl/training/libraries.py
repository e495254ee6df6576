"""Silences third-party log output that a recipe's user cannot act on; errors still show."""

from __future__ import annotations

import logging
import os
import warnings

import datasets
import torch
import transformers


def prepare_libraries(cpu_threads: int | None) -> None:
    """Set the verbosity of libraries, and torch's threads; None keeps torch's choice."""
    # Tokenizers warn when a process forks after using threads, which dataloaders and experiments do.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|trl|transformers|peft)\.")
    # Their bars would break our own progress line.
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in ("trl", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # A small model on a machine busy with experiments is fastest with one thread.
    if cpu_threads is not None:
        torch.set_num_threads(cpu_threads)
