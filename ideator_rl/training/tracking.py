"""Trackers: where a run's curves go, by TRL's key `report_to`.

trackio, wandb and tensorboard write files under the run's folder, and nothing leaves the machine: wandb is offline
unless `WANDB_API_KEY` or `WANDB_MODE` is set.  A variable of a tracker that the user has set always wins.  A resumed
run goes on under its name; steps that it takes again are written again.  Other trackers of transformers are passed on
as they are.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
from pathlib import Path

from ideator_rl.config.reader import read_text
from ideator_rl.config.suggest import did_you_mean
from ideator_rl.errors import IdeatorError
from ideator_rl.training.recipe.recipe import Recipe

PROJECT = "ideator_rl"
TRACKERS = {"trackio": ("trackio",), "wandb": ("wandb",), "tensorboard": ("tensorboard", "tensorboardX")}
"""Trackers whose files are put under the run's folder, each with the packages of which one is needed."""


_own_values: dict[str, str] = {}
"""Variables that this process has set, not the user."""


class TrackingError(IdeatorError):
    """A tracker is unknown or not installed."""


def trackers(recipe: Recipe) -> list[str]:
    """The trackers of a recipe; if it names none, trackio where that is installed.  Has no side effect.

    Raises:
        TrackingError: one of them is unknown, or not installed.
    """
    report_to = recipe.grpo.get("report_to")
    if report_to is None:
        return ["trackio"] if _is_installed("trackio") else []
    # TRL takes one name or a list, and the words `all` and `none`.
    names = list(report_to) if isinstance(report_to, list) else [report_to]
    if names == ["all"]:
        return [name for name in TRACKERS if _is_installed(name)]
    names = [name for name in names if name != "none"]
    for name in names:
        if name not in TRACKERS:
            _check_known(str(name))
        elif not _is_installed(name):
            raise TrackingError(
                f"report_to names {name}, which is not installed. `pip install 'ideator-rl[{name}]'`, or give another "
                "report_to, for example none."
            )
    return names


def set_tracker_defaults(recipe: Recipe) -> None:
    """Set the trackers' environment variables for this run, where the user has not.

    To be called before trl is imported: it imports trackio, which reads its variable only then.
    """
    names, folder = trackers(recipe), recipe.output_dir.absolute()
    defaults: dict[str, str] = {}
    if "trackio" in names:
        defaults["TRACKIO_DIR"] = str(folder / "trackio")
    if "tensorboard" in names:
        defaults["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    if "wandb" in names:
        # wandb makes a folder `wandb` in its own.  The console shows what models write, which no server should get.
        defaults |= {"WANDB_DIR": str(folder), "WANDB_PROJECT": PROJECT, "WANDB_RESUME": "allow"}
        defaults |= {"WANDB_CONSOLE": "off", "WANDB_ERROR_REPORTING": "false"}
        if not os.environ.get("WANDB_API_KEY"):
            defaults["WANDB_MODE"] = "offline"
        # Every rank has these variables, but only rank 0 has a run at the server.
        if int(os.environ.get("RANK", "0")) == 0:
            defaults["WANDB_RUN_ID"] = _wandb_run_id(folder / "wandb" / "run_id")
    for variable, value in defaults.items():
        # A run before this one in the same process may have set it: that is not the user's choice.
        if os.environ.get(variable) in (None, _own_values.get(variable)):
            os.environ[variable] = _own_values[variable] = value


def where_to_look(names: list[str], project: str) -> str:
    """One line on where the curves of these trackers are; empty for none."""
    wandb_files = f"`wandb sync {os.environ.get('WANDB_DIR')}/wandb/offline-run-*`"
    places = {
        "trackio": f"`TRACKIO_DIR={os.environ.get('TRACKIO_DIR')} trackio show --project {project}`",
        "tensorboard": f"`tensorboard --logdir {os.environ.get('TENSORBOARD_LOGGING_DIR')}`",
        "wandb": wandb_files if os.environ.get("WANDB_MODE") == "offline" else "your account at W&B",
    }
    return f"curves: {'; '.join(places.get(name, name) for name in names)}" if names else ""


def _check_known(name: str) -> None:
    """
    Raises:
        TrackingError: transformers has no tracker of this name.
    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    if name not in INTEGRATION_TO_CALLBACK:
        hint = did_you_mean(name, INTEGRATION_TO_CALLBACK, f"Expected {', '.join(TRACKERS)}, all or none.")
        raise TrackingError(f"report_to names the tracker {name!r}, which is not known. {hint}")


def _is_installed(name: str) -> bool:
    """Whether a tracker can be imported; a folder of its name, such as a run's own, has no origin."""
    specs = [importlib.util.find_spec(package) for package in TRACKERS[name]]
    return any(spec is not None and spec.origin is not None for spec in specs)


def _wandb_run_id(file: Path) -> str:
    """The run's id on a server, the same in every session of the run."""
    if file.is_file() and (stored := read_text(file).strip()):
        return stored
    # Stored before wandb starts, so that a session killed at its start is continued under the same id.
    file.parent.mkdir(parents=True, exist_ok=True)
    run_id = secrets.token_hex(6)
    file.write_text(run_id + "\n", encoding="utf-8")
    return run_id
