"""How many processes an accelerate config file starts: a recipe's batches must divide by them.

Read without accelerate, which takes seconds to import.
"""

from __future__ import annotations

from ideator_rl.config.yaml_reader import read_yaml
from ideator_rl.errors import IdeatorError


class LaunchError(IdeatorError):
    """The accelerate config is not usable."""


def read_num_processes(file: str | None, override: int | None = None) -> int | None:
    """`override`, else `num_processes` of the file; None for neither.

    Raises:
        LaunchError: the file cannot be read, is not a mapping, or holds no whole number from 1.
    """
    if file is None:
        return override
    config = read_yaml(file, f"The accelerate config {file}", LaunchError)  # JSON is YAML too
    if not isinstance(config, dict):
        raise LaunchError(f"The accelerate config {file} must be a mapping of keys to values.")
    count = override or config.get("num_processes")
    if type(count) is not int or count < 1:
        raise LaunchError(f"The accelerate config {file} has num_processes: {count!r}. Expected a whole number from 1.")
    return count
