"""The time to a target metric, from the checkpoints that an experiment left.

The supervisor noted when each was first complete (see `sandbox.checkpoints`); here they are measured in that order, on
the hidden split of reported results, until one reaches the target.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from ideator_rl.environments.preset import Metric
from ideator_rl.sandbox.checkpoints import Checkpoint, file_digest, is_checkpoint

WEIGHTS = "model.safetensors"
"""The file of an artifact whose place a checkpoint takes when it is measured."""
ASIDE, MEASURED = "checkpoints", "checkpoint"


def set_aside(folder: Path, checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Move the checkpoints of a collected artifact out of it, in `folder`.

    Returns: those whose bytes are as they were when they were first seen, in the order in which they were seen.
    """
    artifact, aside = folder / "artifact", folder / ASIDE
    noted = list(checkpoints)
    if not noted:
        return []
    aside.mkdir()
    for path in artifact.iterdir():
        if is_checkpoint(path.name):
            os.rename(path, aside / path.name)
    unchanged = []
    for checkpoint in noted:
        with suppress(OSError):  # removed by the run
            path = aside / checkpoint.name
            if file_digest(path, path.stat().st_size) == checkpoint.digest:
                unchanged.append(checkpoint)
    return unchanged


def checkpoint_folder(folder: Path, name: str) -> Path:
    """A folder to be measured in place of `folder`: its artifact is the checkpoint alone.

    Other files of the artifact are from the end of the run, and could hold the weights that it ended with.
    """
    place = folder / MEASURED
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    place.chmod(0o711)
    (place / "artifact").mkdir()
    (place / "artifact").chmod((folder / "artifact").stat().st_mode & 0o777)
    os.link(folder / ASIDE / name, place / "artifact" / WEIGHTS)
    (place / "artifact" / WEIGHTS).chmod(0o644)
    shutil.copytree(folder / "score", place / "score")
    return place


def time_to_target(
    metric: Metric,
    target: float,
    checkpoints: Iterable[Checkpoint],
    measure: Callable[[str], float | None],
    final: tuple[float, float],
) -> float | None:
    """Seconds of the budget to the first checkpoint that reaches the target; None if none does.

    Args:
        measure: the metric of a checkpoint by its name; None where it has none.
        final: the metric at the end, and the seconds spent until then.
    """

    def reaches(value: float | None) -> bool:
        return value is not None and not metric.better(target, value)

    for checkpoint in sorted(checkpoints, key=lambda checkpoint: checkpoint.seconds):
        if reaches(measure(checkpoint.name)):
            return checkpoint.seconds
    return final[1] if reaches(final[0]) else None
