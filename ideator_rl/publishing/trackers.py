"""The trackers that experiments are sent to: wandb, trackio and tensorboard.  Each is imported when it is opened.

All three write files on this machine and need no network, unless the user's own settings ask for a server.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from ideator_rl.diversity.alarms import STOP
from ideator_rl.publishing.track import Sink
from ideator_rl.publishing.tracked import GroupNews, Tracked

SHOWN_ROWS = 500
"""Rows of a table as text: the newest."""


def open_tracker(name: str, folder: Path, project: str, group: str, sent: set[str]) -> Sink:
    """A tracker that is installed.

    Args:
        folder: of its files, where it has no home of its own.
        group: name of the run or bucket whose experiments are sent.
        sent: ids that it has, as far as is known; another one that it has is of a killed uploader.
    """
    return TRACKERS[name](folder, project, group, sent)


class WandbSink:
    """Weights & Biases: offline, unless `WANDB_API_KEY` or `WANDB_MODE` is set."""

    def __init__(self, folder: Path, project: str, group: str, sent: set[str]):
        import wandb

        self._wandb, self._folder, self._project, self._group = wandb, folder, project, group
        folder.mkdir(parents=True, exist_ok=True)
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        # The console shows nothing of an experiment, and what is known of this machine is not the worker's.
        self._settings = wandb.Settings(
            mode=mode, console="off", silent=True, disable_git=True, disable_code=True,
            x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        # A piece of a killed uploader would be sent a second time by `wandb sync`.
        for piece in (folder / "wandb").glob("offline-run-*"):
            if re.fullmatch("[0-9a-f]{32}", id := piece.name.rpartition("-")[2]) and id not in sent:
                shutil.rmtree(piece, ignore_errors=True)

    def _run(self, id: str, name: str, **more: Any) -> Any:
        return self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", self._project), id=id, name=name, group=self._group,
            resume="allow", reinit="create_new", dir=str(self._folder), settings=self._settings, **more,
        )  # fmt: skip

    def send(self, experiment: Tracked) -> None:
        run = self._run(experiment.id, experiment.name, job_type=experiment.job_type, config=experiment.config)
        # A summary has no steps: sent again it replaces itself.
        run.summary.update(experiment.summary)
        for name, text in experiment.texts.items():
            (Path(run.dir) / name).write_text(text, encoding="utf-8")
        run.finish()

    def send_group(self, news: GroupNews) -> None:
        id = hashlib.sha256(f"{self._project}/{self._group}".encode()).hexdigest()[:12]
        run = self._run(id, f"{self._group} ideas", job_type="ideas")
        run.define_metric("*", step_metric="step")
        for point in news.curves:
            run.log(point)
        if news.table:
            columns: list[str | int] = list(news.table[0])
            rows = [list(row.values()) for row in news.table]
            run.log({"ideas": self._wandb.Table(columns=columns, data=rows, allow_mixed_types=True)})
        for alarm in news.alarms:
            run.alert(alarm.kind, alarm.text, level="ERROR" if alarm.level == STOP else "WARN")
        run.finish()

    def close(self) -> None:
        self._wandb.teardown()


class TrackioSink:
    """trackio: one database for all runs of a project, at `TRACKIO_DIR` or in trackio's own home."""

    def __init__(self, folder: Path, project: str, group: str, sent: set[str]):
        import trackio

        self._trackio, self._project, self._group = trackio, project, group
        # A row appears whole or not at all: a run that is there needs nothing more.
        self._names: set[str] = set()
        with suppress(ValueError):  # there is no such project yet
            self._names = {run.name for run in trackio.Api().runs(project)}

    @contextmanager
    def _run(self, name: str, config: dict[str, Any] | None = None) -> Iterator[Any]:
        # trackio prints a line about every run.
        with open(os.devnull, "w") as silence, redirect_stdout(silence):
            run = self._trackio.init(
                project=self._project, name=name, group=self._group, config=config, resume="allow",
                embed=False, auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip
            yield run
            self._trackio.finish()

    def send(self, experiment: Tracked) -> None:
        # The name is the only identity of a run.
        name = f"{experiment.name} {experiment.id[:8]}"
        if name in self._names:
            return
        texts = {name.partition(".")[0]: self._trackio.Markdown(_fenced(t)) for name, t in experiment.texts.items()}
        with self._run(name, experiment.config | {"id": experiment.id, "job_type": experiment.job_type}) as run:
            run.log(experiment.summary | texts, step=0)
        self._names.add(name)

    def send_group(self, news: GroupNews) -> None:
        with self._run(f"{self._group} ideas") as run:
            for point in news.curves:
                run.log({k: v for k, v in point.items() if k != "step"}, step=int(point["step"]))
            if news.table:
                rows: list[Any] = news.table
                run.log({"ideas": self._trackio.Table(data=rows)})
            for step, traces in groupby(news.traces, lambda trace: trace["metadata"]["step"]):
                run.log({"completions": [self._trackio.Trace(**trace) for trace in traces]}, step=step)
            for alarm in news.alarms:
                level = self._trackio.AlertLevel
                run.alert(title=alarm.kind, text=alarm.text, level=level.ERROR if alarm.level == STOP else level.WARN)

    def close(self) -> None:
        """Every run was finished."""


class TensorboardSink:
    """tensorboard: a folder of event files for each experiment; the tab HPARAMS lists them."""

    def __init__(self, folder: Path, project: str, group: str, sent: set[str]):
        from torch.utils.tensorboard import SummaryWriter

        self._writer, self._folder = SummaryWriter, folder / "tensorboard" / group

    def send(self, experiment: Tracked) -> None:
        folder = self._folder / experiment.id
        # What a killed uploader left is written anew.
        shutil.rmtree(folder, ignore_errors=True)
        writer = self._writer(str(folder))
        numbers = {k: v for k, v in experiment.summary.items() if isinstance(v, int | float)}
        facts = {k: v for k, v in experiment.config.items() if v is not None}
        facts |= {k: v for k, v in experiment.summary.items() if isinstance(v, str)} | {"name": experiment.name}
        writer.add_hparams(facts, numbers, run_name=".")
        for name, text in experiment.texts.items():
            writer.add_text(name, _fenced(text))
        writer.close()

    def send_group(self, news: GroupNews) -> None:
        writer = self._writer(str(self._folder))
        for point in news.curves:
            for name, value in point.items():
                if name != "step":
                    writer.add_scalar(name, value, int(point["step"]))
        if news.table:
            writer.add_text("ideas", _markdown_table(news.table[-SHOWN_ROWS:]), len(news.table))
        for alarm in news.alarms:
            writer.add_text(f"alarm/{alarm.kind}", f"{alarm.level}: {alarm.text}", alarm.step)
        writer.close()

    def close(self) -> None:
        """Every file was closed."""


TRACKERS: dict[str, Callable[..., Sink]] = {
    "wandb": WandbSink,
    "trackio": TrackioSink,
    "tensorboard": TensorboardSink,
}


def _fenced(text: str) -> str:
    """A text as a block of code in Markdown, whatever it holds."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _markdown_table(rows: list[dict[str, Any]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~-])", r"\\\1", text.replace("\n", " "))
