"""The libraries' manners inside a run: what a user of a recipe cannot act on is silenced, errors stay."""

from __future__ import annotations

import logging
import os
import warnings

import datasets
import torch
import transformers


def prepare_libraries(cpu_threads: int | None) -> None:
    """Set verbosity, and torch's threads: a small model on a machine busy with experiments wants one."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|trl|transformers|peft)\.")
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in ("trl", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if cpu_threads is not None:
        torch.set_num_threads(cpu_threads)
