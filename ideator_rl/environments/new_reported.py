"""Writes an environment around an example of OpenEvolve or ShinkaEvolve, whose files stay as they are.

Their evaluators run in one process tree with the code that they judge, so the metric is marked as reported.
"""

from __future__ import annotations

from pathlib import Path

from ideator_rl.environments.new import (
    TEMPLATES,
    NewEnvironment,
    check_name,
    fill,
    metric_and_direction,
    place_fields,
    refuse_existing,
    yaml_text,
)
from ideator_rl.environments.peer_examples import DRIVER, PeerExample
from ideator_rl.files import atomic_folder
from ideator_rl.patch import write_tree

METRIC = "combined_score:max"
"""What both systems maximise."""


def new_reported_environment(
    folder: Path, name: str | None, example: PeerExample, metric: str | None = None
) -> NewEnvironment:
    """Write an environment around an example into a new or empty folder.

    Args:
        metric: NAME, NAME:min or NAME:max of what its evaluator returns; None for combined_score.

    Raises:
        IdeatorError: the folder is not empty, or a name is not valid.
    """
    name = check_name(folder, name)
    refuse_existing(folder)
    metric_name, direction = metric_and_direction(metric or METRIC)
    with atomic_folder(folder, overwrite=False) as scratch:
        fields = _fields(name, folder, example, metric_name, direction)
        write_tree(example.files, scratch / "baseline")
        fill(TEMPLATES / "reported", scratch, fields)
        fill(TEMPLATES / "recipe", scratch, fields)
        fill(TEMPLATES / example.template, scratch, fields)
    return NewEnvironment(folder, name, None, f"{metric_name}:{direction}", example)


def _fields(name: str, folder: Path, example: PeerExample, metric: str, direction: str) -> dict[str, str]:
    """What stands for `__FIELD__` in the templates."""
    others = [file for file in example.files if file not in (example.program, example.evaluator)]
    is_higher = direction == "max"
    blocks = (
        f"Only the code between the comments EVOLVE-BLOCK-START and EVOLVE-BLOCK-END of `{example.program}` may change."
    )
    return {
        "PEER": example.peer,
        "NAME": name,
        **place_fields(folder),
        "TITLE": yaml_text(f"{'Raise' if is_higher else 'Lower'} the {metric} that {example.evaluator} reports"),
        "PROGRAM": example.program,
        "EVALUATOR": example.evaluator,
        "METRIC": metric,
        "DIRECTION": direction,
        "BETTER": "higher" if is_higher else "lower",
        "TRANSFORM": "identity" if is_higher else "negative",
        "PRELOAD": yaml_text(example.preload),
        "SECONDS": f"{example.seconds:g}",
        "EDITABLE": yaml_text([example.program]),
        "PROTECTED": yaml_text(others),
        "HIDDEN": yaml_text([DRIVER, example.evaluator]),
        "TASK": example.task,
        "BLOCKS": blocks if example.has_blocks else f"Only `{example.program}` may change.",
    }
