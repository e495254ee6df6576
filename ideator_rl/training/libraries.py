"""Silences third-party output that a recipe's user cannot act on; errors still show."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

NOISY = ("accelerate", "datasets", "DeepSpeed", "torch.distributed", "torchao", "transformers", "trl")
"""Names of loggers."""
ELASTIC = "torch.distributed.elastic"
"""It reports a process that failed, which has printed its own reason."""


def silence() -> None:
    """Silence what libraries write while they are imported and used; to be called before torch is imported."""
    # Tokenizers warn when a process forks after using threads, which dataloaders and experiments do.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Their bars would break our own progress line.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning)
    modules = r"(accelerate|datasets|deepspeed|peft|torch|torchao|transformers|trl)\."
    warnings.filterwarnings("ignore", category=UserWarning, module=modules)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
        # DeepSpeed sets its level anew when it is imported.
        logging.getLogger(name).addFilter(_is_error)
    logging.getLogger(ELASTIC).setLevel(logging.CRITICAL)


def prepare_libraries(cpu_threads: int | None) -> None:
    """Silence libraries that are imported by now, and set torch's threads; None keeps torch's choice."""
    import datasets
    import torch
    import transformers

    silence()
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # It prints where its files are, which our own line says for every tracker.
    for module in map(sys.modules.get, ("trackio", "trackio.run")):
        if module is not None:
            vars(module)["print"] = _print_nothing
    if (utils := sys.modules.get("trackio.utils")) is not None:
        vars(utils)["print_dashboard_instructions"] = _print_nothing
    # A small model on a machine busy with experiments is fastest with one thread.
    if cpu_threads is not None:
        torch.set_num_threads(cpu_threads)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _print_nothing(*_: Any, **__: Any) -> None:
    pass
