"""Train an ideator on research ideas that were really run.

The names below are the public face.  Each is imported when it is first used, so that `import ideator_rl` loads no
torch: `ideator_rl.run_search`, `from ideator_rl import load_environment`.
"""

from __future__ import annotations

import sys

# `python -m ideator_rl.train` puts the working directory first, where a user's `random.py` would hide a library's.
# While Python looks for the module that `-m` names, the program's name is "-m".
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and any(word.startswith("ideator_rl") for word in sys.orig_argv):
    sys.path.append(sys.path.pop(0))

import importlib
from typing import TYPE_CHECKING, Any

from ideator_rl import _imports

if TYPE_CHECKING:
    from ideator_rl.environments.environment import Environment, load_environment
    from ideator_rl.errors import IdeatorError
    from ideator_rl.executor.executor import Executor, ExecutorConfig
    from ideator_rl.experiment import Experiment
    from ideator_rl.report.page import write_report
    from ideator_rl.reward_buffer import BufferConfig, RewardBuffer, open_buffer
    from ideator_rl.rewards.execution import execution_reward
    from ideator_rl.search.run import run_search
    from ideator_rl.storage.run_reader import read_run
    from ideator_rl.training.trainer import IdeatorGRPOTrainer

__version__ = "0.2.0.dev0"

_imports.install()

_HOMES = {
    "BufferConfig": "reward_buffer",
    "Environment": "environments.environment",
    "Executor": "executor.executor",
    "ExecutorConfig": "executor.executor",
    "Experiment": "experiment",
    "IdeatorError": "errors",
    "IdeatorGRPOTrainer": "training.trainer",
    "RewardBuffer": "reward_buffer",
    "execution_reward": "rewards.execution",
    "load_environment": "environments.environment",
    "open_buffer": "reward_buffer",
    "read_run": "storage.run_reader",
    "run_search": "search.run",
    "write_report": "report.page",
}
"""Public name → the module that defines it.  No name equals that of a sub-package."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ideator_rl' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ideator_rl.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
