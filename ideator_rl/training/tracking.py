"""Where a run's curves go: `report_to` made safe for a run that nobody watches.

Guarantees, for trackio, wandb and tensorboard: files under the run's folder; nothing leaves the machine and no login is
asked for, unless the user is logged in or has said so in the tracker's own variables, which always win; a resumed run
goes on under its name.  Steps that a resumed run takes again are written again.  Other trackers that transformers
knows are passed on as they are, and promise none of this.  Works before and after trl, which imports trackio and
wandb, was imported; call it before training begins.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import secrets
import sys
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.training.recipe.recipe import Recipe

PROJECT = "ideator_rl"
TRACKERS = {"trackio": ("trackio",), "wandb": ("wandb",), "tensorboard": ("tensorboard", "tensorboardX")}
"""Those that this module looks after, each with the packages of which one is needed."""
OTHERS = frozenset(
    {"azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "kubeflow", "mlflow", "neptune"}
    | {"swanlab"}
)
"""The rest of transformers' integrations."""

_set: dict[str, str] = {}
"""Variables that this process set itself: those of another run before this one are not the user's word."""


class TrackingError(IdeatorError):
    """A tracker that is not known or not installed."""


def trackers(recipe: Recipe) -> list[str]:
    """The trackers that a recipe asks for: trackio where it is installed and nothing was said.  Sets nothing.

    Raises:
        TrackingError: one of them is not known, or not installed.
    """
    given = recipe.grpo.get("report_to")
    if given is None:
        return ["trackio"] if _installed("trackio") else []
    names = list(given) if isinstance(given, list) else [given]
    if names == ["all"]:
        return [name for name in TRACKERS if _installed(name)]
    names = [name for name in names if name != "none"]
    for name in names:
        if name not in TRACKERS and name not in OTHERS:
            near = difflib.get_close_matches(str(name), [*TRACKERS, *OTHERS], n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Expected {', '.join(TRACKERS)}, all or none."
            raise TrackingError(f"report_to names the tracker {name!r}, which is not known. {hint}")
        if name in TRACKERS and not _installed(name):
            raise TrackingError(
                f"report_to names {name}, which is not installed. `pip install 'ideator-rl[{name}]'`, or give another "
                "report_to, for example none."
            )
    return names


def tracking(recipe: Recipe, resume: bool) -> list[str]:
    """What transformers takes as `report_to`, with each tracker's variables set for this run.

    Raises:
        TrackingError: as `trackers`.
    """
    names = trackers(recipe)
    if "trackio" in names:
        _say("TRACKIO_DIR", _home(recipe, "trackio"))
        _move_trackio(Path(os.environ["TRACKIO_DIR"]))
    if "tensorboard" in names:
        _say("TENSORBOARD_LOGGING_DIR", _home(recipe, "tensorboard"))
    if "wandb" in names:
        _wandb(recipe, resume)
    return names


def labels(recipe: Recipe) -> dict[str, Any]:
    """TRL's keys that name the run in a tracker, where the recipe does not."""
    own = {"run_name": recipe.output_dir.absolute().name, "project": PROJECT}
    return {key: recipe.grpo.get(key) or value for key, value in own.items()}


def where_to_look(recipe: Recipe, names: list[str]) -> str:
    """One line on where the curves are; empty if they go nowhere."""
    told = {
        "trackio": f"`TRACKIO_DIR={_shown(recipe, 'TRACKIO_DIR', 'trackio')} trackio show "
        f"--project {labels(recipe)['project']}`",
        "tensorboard": f"`tensorboard --logdir {_shown(recipe, 'TENSORBOARD_LOGGING_DIR', 'tensorboard')}`",
        "wandb": f"`wandb sync {_shown(recipe, 'WANDB_DIR', '')}/wandb/offline-run-*`"
        if os.environ.get("WANDB_MODE") == "offline"
        else "your account at W&B",
    }
    return f"curves: {'; '.join(told.get(name, name) for name in names)}" if names else ""


def _wandb(recipe: Recipe, resume: bool) -> None:
    """wandb takes all but its run's name from the environment."""
    folder = _home(recipe, "wandb")  # wandb makes a folder of that name in WANDB_DIR
    _say("WANDB_DIR", str(Path(folder).parent))
    _say("WANDB_PROJECT", PROJECT)
    _say("WANDB_RESUME", "allow")
    _say("WANDB_CONSOLE", "off")  # what models write is not for a terminal, nor for somebody's server
    _say("WANDB_ERROR_REPORTING", "false")
    if not _logged_in():
        _say("WANDB_MODE", "offline")
    if int(os.environ.get("RANK", "0")) == 0:
        _say("WANDB_RUN_ID", _run_id(Path(folder) / "run_id", resume))


def _run_id(file: Path, resume: bool) -> str:
    """The run's name on a server, kept for as long as the run is resumed."""
    if resume and file.is_file() and (kept := file.read_text(encoding="utf-8").strip()):
        return kept
    drawn = secrets.token_hex(6)
    file.write_text(drawn + "\n", encoding="utf-8")
    return drawn


def _logged_in() -> bool:
    """Whether wandb would find a key without asking for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("://")[2].partition("/")[0]
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


def _move_trackio(folder: Path) -> None:
    """trackio reads its variable once, when trl imports it: where that is done, its constants are set after it."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "trackio":
            for constant, at in (("TRACKIO_DIR", ""), ("MEDIA_DIR", "media"), ("ARTIFACTS_DIR", "artifacts")):
                if hasattr(module, constant):
                    setattr(module, constant, folder / at)


def _installed(name: str) -> bool:
    """A folder of that name where we stand, such as a run's own, has no origin."""
    specs = [importlib.util.find_spec(package) for package in TRACKERS[name]]
    return any(spec is not None and spec.origin is not None for spec in specs)


def _say(variable: str, value: str) -> None:
    """Set a variable of a tracker, unless the user has."""
    if os.environ.get(variable) in (None, _set.get(variable)):
        os.environ[variable] = _set[variable] = value


def _home(recipe: Recipe, name: str) -> str:
    folder = recipe.output_dir.absolute() / name
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _shown(recipe: Recipe, variable: str, name: str) -> str:
    """The folder that a variable names, as short as the recipe has it."""
    value = os.environ.get(variable, "")
    return str(recipe.output_dir / name) if value in ("", _set.get(variable)) else value
