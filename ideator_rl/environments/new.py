"""Writes a new environment: a small complete example, or a frame around an existing codebase.

The folder appears complete or not at all, and overwrites nothing.  Code goes to `baseline/` and data to `data/`, which
no experiment sees: data among the code would reveal the hidden part.  `codebase` decides which is which.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from ideator_rl.environments.codebase import Codebase, survey
from ideator_rl.environments.peer_examples import PeerExample
from ideator_rl.errors import IdeatorError
from ideator_rl.files import atomic_folder
from ideator_rl.patch import write_tree

TEMPLATES = Path(__file__).with_name("templates")
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
METRIC = re.compile(r"([A-Za-z_][\w.-]*)(?::(min|max))?")
LOSSES = ("loss", "nll", "perplexity", "ppl", "bpb", "bpc")
"""Parts of names of metrics that the template's evaluator measures as they are, or nearly."""
KINDS = ("lm", "predictions", "score")
"""What a run leaves: a language model, predictions for public inputs, or an answer that is scored."""
EXAMPLES = {
    "lm": ("example", "train.py"),
    "predictions": ("example_predictions", "fit.py"),
    "score": ("example_score", "spread.py"),
}
"""The template of a complete example of each kind, and its script."""
DEFAULT_METRICS = {"lm": "val_loss", "predictions": "error:min", "score": "score:max"}
SERVER = '{base_url: "http://localhost:8000/v1", models: my-model, api_key_env: null}'
DIRECT = "implementer: direct            # the ideator writes the edits itself; `llm` asks a second model for them"
CODER = f"implementer: llm               # a second model writes the edits of each idea\ncoder: {SERVER}"
"""Lines of a recipe: a prompt that shows the code asks for edits, another for an idea in words."""
RISING = ("acc", "auc", "bleu", "f1", "map", "precision", "recall", "return", "reward", "rouge", "score")
"""Parts of names of metrics that are better when they are higher."""


@dataclass(frozen=True)
class NewEnvironment:
    folder: Path
    name: str
    codebase: Codebase | None
    """None for an example."""
    metric: str = ""
    """Name and direction, as `--metric` takes them."""
    reported: PeerExample | None = None
    """The example of OpenEvolve or ShinkaEvolve that it was written around."""


def new_environment(
    folder: Path,
    name: str | None,
    source: Path | None = None,
    script: str | None = None,
    data: list[str] | None = None,
    metric: str | None = None,
    kind: str | None = None,
) -> NewEnvironment:
    """Write an environment into a new or empty folder.

    Args:
        data: files and folders of the codebase, or of elsewhere, that are its data; for none, they are guessed.
        metric: NAME, NAME:min or NAME:max.
        kind: one of `KINDS`, what runs leave; for None, `lm`, or by the metric's name around a codebase.

    Raises:
        IdeatorError: the folder is not empty, a name is not valid, or the codebase, its script or data is not usable.
    """
    if kind not in (None, *KINDS):
        raise IdeatorError(f"--kind {kind}: expected {', '.join(KINDS)}.")
    name = check_name(folder, name)
    refuse_existing(folder)
    if source is None and (script or data or metric):
        option = "--script" if script else "--data" if data else "--metric"
        raise IdeatorError(f"{option} is about a codebase. Give its folder too: --from FOLDER.")
    if source is None:
        template, script_name = EXAMPLES[kind or "lm"]
        with atomic_folder(folder, overwrite=False) as scratch:
            fields = {"NAME": name, "SCRIPT": script_name} | place_fields(folder)
            fill(TEMPLATES / template, scratch, fields)
            # A catalogue of edits can be searched without a language model.
            has_catalogue = (TEMPLATES / template / "edits.yaml").is_file()
            fill(TEMPLATES / ("recipe_catalogue" if has_catalogue else "recipe"), scratch, fields)
        return NewEnvironment(folder, name, None)
    metric_name, direction = metric_and_direction(metric or DEFAULT_METRICS[kind or "lm"])
    measures_loss = is_loss(metric_name) if kind is None else kind == "lm"
    codebase = survey(source, script, data or [], folder)
    with atomic_folder(folder, overwrite=False) as scratch:
        fields = _fields(name, folder, codebase, metric_name, direction, measures_loss)
        fill(TEMPLATES / "own_code", scratch, fields)
        fill(TEMPLATES / "recipe", scratch, fields)
        if not measures_loss:
            fill(TEMPLATES / "own_metric", scratch, fields)
        write_tree(codebase.code, scratch / "baseline")
        (scratch / "data").mkdir()
        for path, file in codebase.data.items():
            copy = scratch / "data" / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    return NewEnvironment(folder, name, codebase, f"{metric_name}:{direction}")


def place_fields(folder: Path, implementer: str = DIRECT) -> dict[str, str]:
    """The folder in commands, and in a recipe, where a bare name would be taken for a built-in environment.

    Args:
        implementer: lines of the recipe.
    """
    path = str(folder)
    env = yaml_text(path if "/" in path else f"./{path}")
    return {"PATH": shlex.quote(path), "ENV": env, "IMPLEMENTER": implementer}


def _fields(
    name: str, folder: Path, codebase: Codebase, metric: str, direction: str, measures_loss: bool
) -> dict[str, str]:
    """What stands for `__FIELD__` in the templates."""
    start = ["-m", codebase.module] if codebase.as_module else [codebase.script]
    verb = "Lower" if direction == "min" else "Raise"
    return {
        "NAME": name,
        **place_fields(folder, CODER),
        "SCRIPT": codebase.script,
        "RUN": shlex.join(["python", *start]),
        "TITLE": yaml_text(f"{verb} the {metric} of {codebase.script} on hidden data"),
        "COMMAND": yaml_text(["python", *start]),
        "SCORER": yaml_text(f"{codebase.module}:load" if measures_loss else ""),
        "PRELOAD": yaml_text(codebase.preload),
        "FOLDERS": yaml_text(codebase.python_path),
        "METRIC": metric,
        "DIRECTION": direction,
        "PLAUSIBLE": "[0.1, 10.0]" if measures_loss else "[0.0, 1.0]",
        "TRANSFORM": "inverse" if direction == "min" else "identity",
        "VERB": verb,
    }


def yaml_text(value: str | list[str]) -> str:
    """A text or a list of texts as YAML in one line, quoted where it could be read as something else."""
    if isinstance(value, list):
        return f"[{', '.join(map(yaml_text, value))}]"
    plain = re.fullmatch(r"[A-Za-z_./-][\w./ -]*\w|[A-Za-z_]", value) and ": " not in value
    return value if plain and not re.fullmatch(r"(?i)y|yes|n|no|on|off|true|false|null", value) else json.dumps(value)


def metric_and_direction(text: str) -> tuple[str, str]:
    """The name and the direction of a metric.

    Raises:
        IdeatorError: it is not NAME, NAME:min or NAME:max.
    """
    match = METRIC.fullmatch(text)
    if match is None:
        raise IdeatorError(f"--metric {text}: expected a name such as val_loss, or accuracy:max with its direction.")
    rises = any(part in match[1].lower() for part in RISING) and not is_loss(match[1])
    return match[1], match[2] or ("max" if rises else "min")


def is_loss(metric: str) -> bool:
    return any(part in metric.lower() for part in LOSSES)


def check_name(folder: Path, name: str | None) -> str:
    """The name, or one made from the folder's."""
    chosen = name or folder.name.lower().replace("-", "_")
    if not NAME.fullmatch(chosen) or yaml_text(chosen) != chosen:
        origin = f"--name {name}" if name else f"the folder's name, {folder.name!r},"
        raise IdeatorError(
            f"{origin} is not a name for an environment: expected at most 40 lower-case letters, digits and _, with a "
            "letter first, and no word such as `no` that YAML reads otherwise. Give one with --name."
        )
    return chosen


def refuse_existing(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise IdeatorError(f"{folder} exists already and is not a folder. Give another path; nothing is overwritten.")
    if folder.is_dir() and any(folder.iterdir()):
        raise IdeatorError(f"{folder} exists already and is not empty. Give another path; nothing is overwritten.")


def fill(template: Path, target: Path, fields: dict[str, str]) -> None:
    """Copy a template; `__NAME__` and other fields are filled in, and a seed of 0 becomes a random one."""
    for path in sorted(template.rglob("*")):
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        text = re.sub(r"__([A-Z]+)__", lambda match: fields[match[1]], path.read_text())
        text = re.sub(r"^SEED = 0\b", f"SEED = {random.SystemRandom().randrange(1, 2**31)}", text, flags=re.M)
        copy = target / path.relative_to(template)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
