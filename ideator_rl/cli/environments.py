"""`ideator-rl env list`, `show`, `prepare`, `check` and `new`."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ideator_rl.archive.prompt_rows import prompt_rows
from ideator_rl.checks.check import check_environment
from ideator_rl.checks.proofs import Check
from ideator_rl.cli.output import bucket_url, print_json, print_progress, print_text, write_new
from ideator_rl.config.yaml_reader import read_yaml
from ideator_rl.environments.codebase import Codebase
from ideator_rl.environments.data import PrepareOptions, prepare_data
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.environments.new import new_environment
from ideator_rl.environments.new_reported import new_reported_environment
from ideator_rl.environments.peer_examples import read_openevolve, read_shinka
from ideator_rl.errors import IdeatorError
from ideator_rl.implementers.implementer import writes_trusted_code
from ideator_rl.registry import environment_names
from ideator_rl.reward_buffer import BufferConfig
from ideator_rl.storage.bucket import check_url, folder_of

RECIPE = "search.yaml"
"""Of a search, in an environment that `env new` wrote."""
HIDDEN_BUCKET = ".bucket"
"""A bucket next to a dataset: TRL does not load hidden folders."""


def list_environments(args: argparse.Namespace) -> int:
    """Returns 1 when an environment cannot be loaded; the others are listed nevertheless."""
    rows = [_list_row(name) for name in environment_names()]
    if args.json:
        print_json(rows)
    else:
        for row in rows:
            title = f"broken: {row['error']}" if row["error"] else row["title"]
            print_text(f"{row['name']:<16}{title}  (presets: {', '.join(row['presets']) or 'none'})")
    return 1 if any(row["error"] for row in rows) else 0


def _list_row(name: str) -> dict[str, Any]:
    try:
        environment = load_environment(name)
    except IdeatorError as error:
        return {"name": name, "title": "", "presets": [], "error": str(error)}
    return {"name": name, "title": environment.title, "presets": list(environment.presets), "error": None}


def show_environment(args: argparse.Namespace) -> int:
    """Print an environment, or write a dataset of its prompts."""
    environment = load_environment(args.environment).at(args.preset)
    if args.dataset is not None:
        return _write_dataset(environment, args)
    facts = _facts(environment, args)
    if args.json:
        print_json(facts)
        return 0
    # For a person: the task and the rules first, then one line for each preset, then the prompt.
    metric = facts["metric"]
    lines = [
        f"{facts['name']}: {facts['title']}\n\n{facts['task']}\n",
        f"folder   {facts['folder']}",
        f"metric   {metric['name']}, {metric['direction']}, plausible {metric['plausible']}",
        f"reward   {facts['reward']}, failure {facts['failure_reward']}",
        f"editable {', '.join(environment.rules.editable)}",
    ]
    for preset in environment.presets.values():
        budget, needs = preset.budget, preset.resources
        lines.append(
            f"preset   {preset.name}: {budget.seconds:g} s on the {budget.clock} clock, {needs.cpus} CPUs, "
            f"{needs.gpus} GPUs, {needs.memory_gb:g} GB"
        )
    lines.append(f"\nThe prompt {args.prompts!r}, one of {', '.join(facts['prompts'])}:\n\n{facts['prompt']}")
    print_text("\n".join(lines))
    return 0


def _facts(environment: Environment, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": environment.name,
        "title": environment.title,
        "folder": str(environment.root),
        "task": environment.task,
        "metric": asdict(environment.metric),
        "reward": environment.reward_transform,
        "failure_reward": environment.failure_reward,
        "rules": asdict(environment.rules),
        "presets": {name: asdict(preset) for name, preset in environment.presets.items()},
        "files": sorted(environment.baseline(args.preset)),
        "prompts": sorted(environment.prompt_files),
        "prompt": environment.prompt(args.preset, args.prompts),
        "digest": environment.digest(args.preset),
    }


def _write_dataset(environment: Environment, args: argparse.Namespace) -> int:
    """Write rows with the columns that `execution_reward` needs."""
    path = Path(args.dataset).absolute()
    bucket = (path.parent / HIDDEN_BUCKET).as_uri()
    if args.bucket is not None:
        _check_bucket_is_not_loaded(path, args.bucket)
        bucket = bucket_url(args.bucket)
    has_name = args.environment == environment.name
    name = environment.name if has_name else str(environment.root)
    writes_trusted_code(args.implementer)  # refuses an unknown name before a trainer has loaded its model
    config = BufferConfig(name, args.preset, bucket, implementer=args.implementer)
    rows = prompt_rows(environment, config, args.rows, args.prompts, args.chat)
    write_new(path, "".join(json.dumps(row) + "\n" for row in rows))
    if args.json:
        print_json({"dataset": str(path), "rows": len(rows), "bucket": bucket})
        return 0
    print_text(
        f"{len(rows)} rows in {path}; records go to {bucket}. Train on them with stock TRL:\n"
        f"  trl grpo --reward_funcs rewards.execution.execution_reward --dataset_name {path.parent} "
        "--model_name_or_path MODEL --output_dir DIR\n"
        "TRL loads every data file below that folder: keep other files, and DIR, out of it."
    )
    return 0


def _check_bucket_is_not_loaded(dataset: Path, bucket: str) -> None:
    """`--dataset_name FOLDER` reads every JSON file below it, except in hidden folders.

    Raises:
        IdeatorError: the bucket is in the dataset's folder.
    """
    check_url(bucket)
    if (path := folder_of(bucket)) is None:
        return
    folder = path.absolute()
    parts = folder.relative_to(dataset.parent).parts if folder.is_relative_to(dataset.parent) else None
    if parts is not None and not any(part.startswith(".") for part in parts):
        raise IdeatorError(
            f"The bucket {bucket} is in the dataset's folder, and TRL would load its records as data. "
            f"Give a bucket outside {dataset.parent}, or none: {HIDDEN_BUCKET} next to the dataset is not loaded."
        )


def prepare(args: argparse.Namespace) -> int:
    """Prepare the data of a preset from source files."""
    environment = load_environment(args.environment)
    folder = Path(args.source) if args.source else None
    options = PrepareOptions(folder, args.download, args.shards, print_progress)
    data, made = prepare_data(environment.data_source(args.preset), options)
    sizes = {name: _size(path) for name, path in (("public", data.public), ("private", data.private))}
    if args.json:
        print_json({"prepared": made, "folder": str(data.public.parent), "bytes": sizes})
        return 0
    verdict = "prepared" if made else "were prepared before"
    print_text(
        f"The data of {environment.name}, preset {args.preset}, {verdict}: {sizes['public'] / 1e9:.3g} GB public, "
        f"{sizes['private'] / 1e9:.3g} GB private, in {data.public.parent}"
        + ("" if made else ". Delete this folder first to prepare them from other files.")
    )
    return 0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check(args: argparse.Namespace) -> int:
    """Returns 0 when every check passed, else 1."""
    checks: list[Check] = []
    for result in check_environment(
        args.environment, args.preset, args.seeds, isolation=args.isolation, slots=args.slots
    ):
        checks.append(result)
        if not args.json:
            verdict = "FAIL" if not result.passed else "note" if result.warned else "ok  "
            print_text(f"{verdict}  {result.name}: {result.words}")
    if args.json:
        print_json([asdict(result) for result in checks])
    return 0 if all(result.passed for result in checks) else 1


def new(args: argparse.Namespace) -> int:
    """Write a new environment, and print the next steps."""
    if args.openevolve or args.shinka:
        return _new_reported(args)
    source = Path(args.source) if args.source else None
    written = new_environment(Path(args.path), args.name, source, args.script, args.data, args.metric, args.kind)
    if args.json:
        facts: dict[str, Any] = {"environment": str(written.folder), "name": written.name}
        print_json(facts | (_codebase_facts(written.codebase) if written.codebase else {}))
        return 0
    path = _printed_path(written.folder)
    if written.codebase is not None:
        script = shlex.quote(f"baseline/{written.codebase.script}")
        lines = _choices(written.codebase, written.metric)
        lines.append(f"\n{path} is the frame of an environment. {path}/README.md lists what is to be wired. Next:")
        lines.append(f"  edit {path}/{script}, {path}/evaluator.py and {path}/env.yaml")
    else:
        lines = [f"{path} is a complete environment. Next:", f"  ideator-rl env show {path}"]
    lines += [
        f"  ideator-rl env check {path}",
        f"  ideator-rl execute {path} --baseline",
        *_search_lines(path, written.folder),
    ]
    print_text("\n".join(lines))
    return 0


def _search_lines(path: str, folder: Path) -> list[str]:
    """The recipe that was written, and the command that runs it."""
    asks_server = "base_url" in (read_yaml(folder / RECIPE).get("ideator_options") or {})
    todo = ": name your server and model in it first" if asks_server else ", which needs no language model"
    return [f"{path}/{RECIPE} is the recipe of a search{todo}. Then:", f"  ideator-rl search {path}/{RECIPE}"]


def _printed_path(folder: Path) -> str:
    """For commands that must work as they are: a bare name would be taken for a built-in environment."""
    return shlex.quote(str(folder) if "/" in str(folder) else f"./{folder}")


def _new_reported(args: argparse.Namespace) -> int:
    """Write an environment around an example of another system."""
    if args.script or args.data or args.kind:
        raise IdeatorError("--script, --data and --kind are about a codebase of --from. Leave them out.")
    example = read_openevolve(args.openevolve) if args.openevolve else read_shinka(args.shinka)
    written = new_reported_environment(Path(args.path), args.name, example, args.metric)
    if args.json:
        facts: dict[str, Any] = {"environment": str(written.folder), "name": written.name, "peer": example.peer}
        facts |= {"baseline/": list(example.files), "not installed": example.missing, "left out": example.left_out}
        print_json(facts | {"metric": written.metric, "source": "reported", "task from": example.task_from})
        return 0
    path = _printed_path(written.folder)
    package = "openevolve" if args.openevolve else "shinka-evolve"
    rows = {
        "baseline/": _some(list(example.files)),
        "editable": example.program + (", between its EVOLVE-BLOCK marks" if example.has_blocks else ""),
        "left out": _some([f"{name} ({reason})" for name, reason in example.left_out.items()]),
        "metric": f"{written.metric}, reported by {example.evaluator} (--metric NAME:min for another)",
        "task": f"from {example.task_from}",
        "budget": f"{example.seconds:g} CPU seconds for program and evaluator",
        "package": f"{package} is not installed; a stand-in takes its place" if example.is_stand_in else "",
        "missing": ", ".join(example.missing) and f"{', '.join(example.missing)}: imported, but not installed here",
    }
    lines = [f"{title + ':':<11}{text}" for title, text in rows.items() if text]
    lines.append(f"\n{path} is a complete environment. Next:\n  ideator-rl env check {path}")
    lines += _search_lines(path, written.folder)
    print_text("\n".join(lines))
    return 0


def _codebase_facts(codebase: Codebase) -> dict[str, Any]:
    """Where the files of the user's codebase went, and what was read from them."""
    return {
        "script": codebase.script,
        "baseline/": list(codebase.code),
        "data/": list(codebase.data),
        "left out": [f"{name} ({reason})" for name, reason in codebase.left_out.items()],
        "preload": codebase.preload,
        "python_path": codebase.python_path,
        "not installed": codebase.missing,
    }


def _choices(codebase: Codebase, metric: str) -> list[str]:
    """What `env new` chose, why, and which option chooses otherwise."""
    reason = f" ({codebase.script_reason}; --script FILE for another)" if codebase.script_reason else ""
    data = [f"{name} ({codebase.reasons[name]})" for name in codebase.data]
    nothing = "nothing looks like data: --data PATH takes a file or folder, also from elsewhere"
    left_out = sorted(codebase.left_out.items(), key=lambda item: item[1] == "hidden")
    rows = {
        "script": codebase.script + reason,
        "baseline/": _some(list(codebase.code)),
        "data/": _some(data) + (" (--data PATH for other data)" if data and "--data" not in data[0] else "") or nothing,
        "left out": _some([f"{name} ({reason})" for name, reason in left_out]),
        "metric": f"{metric} (--metric NAME:max for another)",
        "path": ", ".join(codebase.python_path),
        "preload": ", ".join(codebase.preload),
        "missing": ", ".join(codebase.missing) and f"{', '.join(codebase.missing)}: imported, but not installed here",
    }
    return [f"{title + ':':<11}{text}" for title, text in rows.items() if text]


def _some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
