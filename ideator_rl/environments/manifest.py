"""Checks an `env.yaml`: every key known, every type right, every file there, before anything is built from it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

REQUIRED = {"name": str, "task": str, "command": list, "metric": dict, "evaluator": str, "presets": dict}
OPTIONAL: dict[str, tuple[type, Any]] = {
    "schema": (int, 1),
    "title": (str, ""),
    "prompts": (dict, {}),
    "preload": (list, []),
    "editable": (list, ["**/*.py"]),
    "protected": (list, []),
    "hidden": (list, []),
    "reward": (dict, {"transform": "identity", "failure": 0.0}),
    "scorer": (str, ""),
    "scorer_code": (str, "patched"),
    "prepare": (str, None),
    "catalogue": (str, None),
    "known_good": (str, None),
    "settings_file": (str, None),
    "in_process": (bool, False),
}
PRESET = {"settings": dict, "budget": dict, "resources": dict, "vocab": int, "suspicious": dict}
SUSPICIOUS = {"beyond": (int, float), "agree": (int, float)}
BUDGET = {"clock": str, "seconds": (int, float), "startup_allowance": (int, float)}
RESOURCES = {
    "cpus": int,
    "gpus": int,
    "memory_gb": (int, float),
    "disk_gb": (int, float),
    "processes": int,
    "network": bool,
}
TEXTS = ("command", "preload", "editable", "protected", "hidden")
"""Keys that are lists of texts."""
TRANSFORMS = ("inverse", "identity", "negative", "over_baseline")


def check(raw: Any, path: Path, error: type[Exception]) -> dict[str, Any]:
    """Return the manifest with its defaults filled in.

    Raises:
        error: with one sentence that names the file, what came, and what was expected.
    """

    def fail(sentence: str) -> None:
        raise error(f"{path}: {sentence}")

    if not isinstance(raw, dict):
        fail(f"expected a mapping of keys, got {type(raw).__name__}.")
    known = {**REQUIRED, **{key: kind for key, (kind, _) in OPTIONAL.items()}}
    _keys(raw, known, "", fail)
    for key in REQUIRED:
        if key not in raw:
            fail(f"the key {key!r} is missing.")
    full = {key: default for key, (_, default) in OPTIONAL.items()} | raw
    _keys(full["metric"], {"name": str, "direction": str, "plausible": list}, "metric.", fail, complete=True)
    if full["metric"]["direction"] not in ("min", "max"):
        fail(f"metric.direction is {full['metric']['direction']!r}; expected 'min' or 'max'.")
    plausible = full["metric"]["plausible"]
    if len(plausible) != 2 or not all(type(end) in (int, float) for end in plausible) or plausible[0] >= plausible[1]:
        fail(f"metric.plausible is {plausible}; expected two numbers, [lowest, highest].")
    _texts(full, fail)
    full["reward"] = {"transform": "identity", "failure": 0.0} | full["reward"]
    if full["reward"]["transform"] not in TRANSFORMS:
        fail(f"reward.transform is {full['reward']['transform']!r}; expected one of {', '.join(TRANSFORMS)}.")
    if full["scorer_code"] not in ("patched", "baseline"):
        fail(f"scorer_code is {full['scorer_code']!r}; expected 'patched' or 'baseline'.")
    if not full["presets"]:
        fail("presets is empty; at least one preset is needed.")
    for name, body in full["presets"].items():
        full["presets"][name] = _preset(name, body, fail)
    _files(full, path.parent, fail)
    return full


def _keys(raw: dict[str, Any], known: dict[str, Any], where: str, fail: Any, complete: bool = False) -> None:
    for key, value in raw.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {where}{near[0]}?" if near else f"known keys: {', '.join(known)}."
            fail(f"unknown key {where}{key}; {hint}")
        if value is not None and (not isinstance(value, known[key]) or (type(value) is bool) != (known[key] is bool)):
            fail(f"{where}{key} is {value!r}; expected {_kind(known[key])}.")
    if complete:
        for key in known:
            if raw.get(key) is None:
                fail(f"the key {where}{key} is missing.")


def _texts(full: dict[str, Any], fail: Any) -> None:
    for key in TEXTS:
        for item in full[key]:
            if not isinstance(item, str):
                fail(f"{key} holds {item!r}; expected a list of texts. In quotes it is one: {str(item)!r}.")
    if not full["command"]:
        fail("command is empty; expected a list such as [python, train.py].")
    module, _, function = full["scorer"].partition(":")
    if full["scorer"] and not (module and function):
        fail(f"scorer is {full['scorer']!r}; expected module:function, such as 'train:load'.")


def _kind(kind: Any) -> str:
    names = {
        str: "text",
        list: "a list",
        dict: "a mapping",
        int: "a whole number",
        (int, float): "a number",
        bool: "true or false",
    }
    return names[kind]


def _preset(name: str, body: Any, fail: Any) -> dict[str, Any]:
    where = f"presets.{name}."
    if not isinstance(body, dict):
        fail(f"presets.{name} must be a mapping with a budget.")
    _keys(body, PRESET, where, fail)
    if "budget" not in body:
        fail(f"the key {where}budget is missing.")
    budget = {"startup_allowance": 60.0} | body["budget"]
    _keys(budget, BUDGET, where + "budget.", fail, complete=True)
    if budget["clock"] not in ("cpu", "wall"):
        fail(f"{where}budget.clock is {budget['clock']!r}; expected 'cpu' or 'wall'.")
    resources = body.get("resources") or {}
    _keys(resources, RESOURCES, where + "resources.", fail)
    if body.get("suspicious") is not None:
        _keys(body["suspicious"], SUSPICIOUS, where + "suspicious.", fail, complete=True)
    return {"settings": {}, **body, "budget": budget, "resources": resources}


def _files(full: dict[str, Any], root: Path, fail: Any) -> None:
    wanted = {key: full[key] for key in ("task", "evaluator", "prepare", "catalogue", "known_good") if full[key]}
    wanted |= {f"prompts.{kind}": name for kind, name in full["prompts"].items()}
    for key, name in wanted.items():
        if not (root / name).is_file():
            fail(f"{key} names {name}, but there is no such file in {root}. Add it or mend the name.")
    if not (root / "baseline").is_dir():
        fail(f"there is no folder baseline/ in {root}. Put the baseline codebase there.")
    if full["settings_file"] and not (root / "baseline" / full["settings_file"]).is_file():
        fail(f"settings_file names {full['settings_file']}, but baseline/ has no such file.")
