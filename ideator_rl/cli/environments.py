"""`ideator-rl env list`, `show`, `check` and `new`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ideator_rl.archive.prompt_rows import prompt_rows
from ideator_rl.checks.check import check_environment
from ideator_rl.checks.proofs import Check
from ideator_rl.cli import output as cli_output
from ideator_rl.cli.output import bucket_url, emit, write_new
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.environments.new import Written, new_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.registry import environment_names
from ideator_rl.reward_buffer import BufferConfig

HIDDEN_BUCKET = ".bucket"


def list_(args: argparse.Namespace) -> int:
    """Returns 1 when one of them cannot be loaded; the others are listed all the same."""
    rows = [_listed(name) for name in environment_names()]
    if args.json:
        emit(rows)
    else:
        for row in rows:
            words = f"broken: {row['error']}" if row["error"] else row["title"]
            cli_output.show(f"{row['name']:<16}{words}  (presets: {', '.join(row['presets']) or 'none'})")
    return 1 if any(row["error"] for row in rows) else 0


def _listed(name: str) -> dict[str, Any]:
    try:
        environment = load_environment(name)
    except IdeatorError as error:
        return {"name": name, "title": "", "presets": [], "error": str(error)}
    return {"name": name, "title": environment.title, "presets": list(environment.presets), "error": None}


def show(args: argparse.Namespace) -> int:
    environment = load_environment(args.environment)
    environment.preset(args.preset)
    if args.dataset is not None:
        return _dataset(environment, args)
    facts = _facts(environment, args)
    if args.json:
        emit(facts)
        return 0
    line, metric = cli_output.show, facts["metric"]
    line(f"{facts['name']}: {facts['title']}\n\n{facts['task']}\n")
    line(f"folder   {facts['folder']}")
    line(f"metric   {metric['name']}, {metric['direction']}, plausible {metric['plausible']}")
    line(f"reward   {facts['reward']}, failure {facts['failure_reward']}")
    line(f"editable {', '.join(environment.rules.editable)}")
    for preset in environment.presets.values():
        budget, needs = preset.budget, preset.resources
        line(
            f"preset   {preset.name}: {budget.seconds:g} s on the {budget.clock} clock, {needs.cpus} CPUs, "
            f"{needs.gpus} GPUs, {needs.memory_gb:g} GB"
        )
    line(f"\nThe prompt {args.prompts!r}, one of {', '.join(facts['prompts'])}:\n\n{facts['prompt']}")
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


def _dataset(environment: Environment, args: argparse.Namespace) -> int:
    """Write rows that tell `execution_reward` where to run."""
    path = Path(args.dataset).absolute()
    bucket = (path.parent / HIDDEN_BUCKET).as_uri()
    if args.bucket is not None:
        _refuse_a_bucket_that_trl_would_load(path, args.bucket)
        bucket = bucket_url(args.bucket)
    named = args.environment == environment.name
    config = BufferConfig(environment.name if named else str(environment.root), args.preset, bucket)
    rows = prompt_rows(environment, config, args.rows, args.prompts, args.chat)
    write_new(path, "".join(json.dumps(row) + "\n" for row in rows))
    if args.json:
        emit({"dataset": str(path), "rows": len(rows), "bucket": bucket})
        return 0
    cli_output.show(
        f"{len(rows)} rows in {path}; records go to {bucket}. Train on them with stock TRL:\n"
        f"  trl grpo --reward_funcs rewards.execution.execution_reward --dataset_name {path.parent} "
        "--model_name_or_path MODEL --output_dir DIR\n"
        "TRL loads every data file below that folder: keep others, and DIR, out of it."
    )
    return 0


def _refuse_a_bucket_that_trl_would_load(dataset: Path, bucket: str) -> None:
    """`--dataset_name FOLDER` reads every JSON file below it, except in hidden folders."""
    folder = Path(unquote(urlsplit(bucket).path) if bucket.startswith("file:") else bucket).absolute()
    inside = folder.relative_to(dataset.parent).parts if folder.is_relative_to(dataset.parent) else None
    if inside is not None and not any(part.startswith(".") for part in inside):
        raise IdeatorError(
            f"The bucket {bucket} lies in the dataset's folder, and TRL would load its records as data. "
            f"Give a bucket outside {dataset.parent}, or none: {HIDDEN_BUCKET} beside the dataset is not loaded."
        )


def check(args: argparse.Namespace) -> int:
    """Returns 0 when every check passed, else 1."""
    found: list[Check] = []
    for one in check_environment(args.environment, args.preset, args.seeds, isolation=args.isolation, slots=args.slots):
        found.append(one)
        if not args.json:
            verdict = "FAIL" if not one.passed else "note" if one.warned else "ok  "
            cli_output.show(f"{verdict}  {one.name}: {one.words}")
    if args.json:
        emit([asdict(one) for one in found])
    return 0 if all(one.passed for one in found) else 1


def new(args: argparse.Namespace) -> int:
    """Write a new environment, and say what comes next."""
    written = new_environment(Path(args.path), args.name, Path(args.source) if args.source else None, args.script)
    if args.json:
        emit({"environment": str(written.folder), "name": written.name} | _taken(written))
        return 0
    folder, line = written.folder, cli_output.show
    place = str(folder) if "/" in str(folder) else f"./{folder}"
    if written.codebase is not None:
        for what, names in _taken(written).items():
            line(f"{what + ':':<10}{', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}")
        line(f"\n{place} is the frame of an environment. {place}/README.md lists what is to be wired. Next:")
        line(f"  edit {place}/baseline/{written.codebase.script}, {place}/evaluator.py and {place}/env.yaml")
    else:
        line(f"{place} is an environment, complete as it stands. Next:")
        line(f"  ideator-rl env show {place}")
    line(f"  ideator-rl env check {place}")
    line(f"  ideator-rl execute {place} --baseline")
    return 0


def _taken(written: Written) -> dict[str, list[str]]:
    """What became of a codebase's files."""
    found = written.codebase
    if found is None:
        return {}
    named = {"baseline/": found.code, "data/": found.data, "left out": found.left_out}
    return {what: names for what, names in named.items() if names}
