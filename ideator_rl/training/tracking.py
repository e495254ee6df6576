"""Trackers: where a run's curves go, by TRL's key `report_to`.

wandb and tensorboard write files under the run's folder, trackio writes into its one database of all runs.  Nothing
leaves the machine: wandb is offline unless `WANDB_API_KEY` or `WANDB_MODE` is set.  A variable of a tracker that the
user has set always wins.  A resumed run goes on under its name; steps that it takes again are written again.  Other
trackers of transformers are passed on as they are.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Collection, Iterable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from ideator_rl.config.reader import read_text
from ideator_rl.config.suggest import did_you_mean
from ideator_rl.diversity.alarms import STOP, Alarm
from ideator_rl.errors import IdeatorError
from ideator_rl.text.display import visible
from ideator_rl.text.redaction import Redactor
from ideator_rl.training.recipe.recipe import Recipe

PROJECT = "ideator_rl"
TRACKERS = {"trackio": ("trackio",), "wandb": ("wandb",), "tensorboard": ("tensorboard", "tensorboardX")}
"""Trackers that this library sets up, each with the packages of which one is needed."""


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
        else:
            refuse_missing(name, "report_to names")
    return names


def refuse_missing(name: str, lead: str) -> None:
    """
    Args:
        lead: how the message begins, such as `report_to names`.

    Raises:
        TrackingError: this tracker is not installed.
    """
    if not _is_installed(name):
        raise TrackingError(
            f"{lead} {name}, which is not installed. `pip install 'ideator-rl[{name}]'`, or give another tracker, or "
            "none."
        )


def set_tracker_defaults(recipe: Recipe) -> None:
    """Set the trackers' environment variables for this run, where the user has not.

    To be called before trl is imported: it imports trackio, which reads its variable only then.
    """
    names, folder = trackers(recipe), recipe.output_dir.absolute()
    defaults: dict[str, str] = {}
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
            defaults["WANDB_RUN_ID"] = _run_id(folder)
    for variable, value in defaults.items():
        # A run before this one in the same process may have set it: that is not the user's choice.
        if os.environ.get(variable) in (None, _own_values.get(variable)):
            os.environ[variable] = _own_values[variable] = value


def send_alarm(names: Collection[str], alarm: Alarm) -> None:
    """Show an alarm of this process's run among the alerts of trackio, where that is one of its trackers."""
    if "trackio" not in names:
        return
    import trackio

    level = trackio.AlertLevel.ERROR if alarm.level == STOP else trackio.AlertLevel.WARN
    # The progress line shows the alarm already; trackio would print it once more.
    with open(os.devnull, "w") as silence, redirect_stdout(silence):
        trackio.alert(title=alarm.kind, text=alarm.text, level=level)


def send_traces(
    names: Collection[str], rows: Iterable[tuple[Any, Any, dict[str, float]]], step: int, redactor: Redactor
) -> None:
    """Show prompts with their completions among the traces of trackio, where that is one of this run's trackers.

    Args:
        rows: prompt and completion, each a text or messages, and the rewards by name.
    """
    if "trackio" not in names:
        return
    import trackio

    traces = [
        trackio.Trace(
            _messages(prompt, "user", redactor) + _messages(completion, "assistant", redactor), {"step": step} | rewards
        )
        for prompt, completion, rewards in rows
    ]
    if traces:
        trackio.log({"completions": traces}, step=step)


def _messages(text: Any, role: str, redactor: Redactor) -> list[dict[str, str]]:
    """A prompt or completion as messages, without secrets, and with no character that acts on a page."""
    messages = [{"role": role, "content": text}] if isinstance(text, str) else text
    return [
        {"role": str(m.get("role", role)), "content": visible(redactor.text(str(m.get("content", ""))))}
        for m in messages
    ]


def where_to_look(names: list[str], project: str) -> str:
    """One line on where the curves of these trackers are; empty for none."""
    trackio_dir = f"TRACKIO_DIR={folder} " if (folder := os.environ.get("TRACKIO_DIR")) else ""
    wandb_files = f"`wandb sync {os.environ.get('WANDB_DIR')}/wandb/offline-run-*`"
    places = {
        "trackio": f"`{trackio_dir}trackio show --project {project}`",
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


def run_name(folder: Path, names: Collection[str] = tuple(TRACKERS)) -> str:
    """The name of a run in trackers: that of its folder, with four characters of its id, since trackers show the runs
    of many folders together.  Without a tracker, that of the folder."""
    name = folder.absolute().name
    return f"{name}-{_run_id(folder)[:4]}" if names else name


def _run_id(folder: Path) -> str:
    """The run's id in trackers, the same in every session of the run."""
    # The older one of the two is that of runs of 0.1.0.
    for file in (folder / "wandb" / "run_id", folder / "track" / "run_id"):
        if file.is_file() and (stored := read_text(file).strip()):
            return stored
    # Stored before a tracker starts, so that a session killed at its start is continued under the same id.  Several
    # processes of the run may come here at once: a link has one winner.
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".run_id-{os.getpid()}")
    scratch.write_text(secrets.token_hex(6) + "\n", encoding="utf-8")
    with suppress(FileExistsError):
        os.link(scratch, file)
    scratch.unlink()
    return read_text(file).strip()
