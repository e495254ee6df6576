"""Settings of a backend: a mapping in a recipe, or a YAML file of its own.

An executor's configuration holds them as JSON text, so that it can be a key and a dataset's column.  The backend's own
class checks the keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ideator_rl._imports import shipped_folder
from ideator_rl.config.base import ConfigError
from ideator_rl.config.suggest import did_you_mean
from ideator_rl.config.yaml_reader import read_yaml
from ideator_rl.text.redaction import refuse_secrets


def read_backend_config(value: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """The settings of a backend by key; empty for None and for an empty text.

    Args:
        value: a mapping; or the path of a YAML file, or the name of one in `recipes/fleet`, such as `slurm`.

    Raises:
        ConfigError: no such file, no mapping, or a secret among the settings.
    """
    if not value:
        return {}
    lead = "backend_config"
    if isinstance(value, str):
        file = _find(value)
        lead = f"The backend's settings in {file}"
        value = read_yaml(file, lead, ConfigError)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{lead} must be a mapping of settings, got {type(value).__name__}.")
    refuse_secrets(dict(value), f"{lead} has", ConfigError)
    return dict(value)


def backend_config_text(value: Mapping[str, Any] | str | None) -> str:
    """The same as JSON; empty for none."""
    settings = read_backend_config(value)
    return json.dumps(settings, sort_keys=True) if settings else ""


def _find(name: str) -> Path:
    file = Path(name).expanduser()
    # A path that exists and is no file, such as a folder, gets its own message when it is read.
    if file.exists():
        return file
    shipped = {path.stem: path for path in (shipped_folder("recipes") / "fleet").glob("*.yaml")}
    if name in shipped:
        return shipped[name]
    hint = f"{did_you_mean(name, sorted(shipped))} " if shipped else ""
    raise ConfigError(
        f"There are no settings of a backend in {name[:200]!r}: no such file. {hint}Give the path of a YAML file."
    )
