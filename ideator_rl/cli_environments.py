"""The commands `env list`, `env show` and `env check`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from ideator_rl.environment import Environment, load_environment
from ideator_rl.environment_check import Check, check_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.registry import environment_names
from ideator_rl.reward_buffer import BufferConfig
from ideator_rl.rollout_prompts import prompt_rows


def list_(options: argparse.Namespace) -> int:
    rows = [load_environment(name) for name in environment_names()]
    if options.json:
        print(json.dumps([{"name": row.name, "title": row.title, "presets": list(row.presets)} for row in rows]))
    else:
        for row in rows:
            print(f"{row.name:<16}{row.title}  (presets: {', '.join(row.presets)})")
    return 0


def show(options: argparse.Namespace) -> int:
    environment = load_environment(options.environment)
    if options.dataset:
        return _dataset(environment, options)
    facts = _facts(environment)
    if options.json:
        print(json.dumps(facts))
        return 0
    print(f"{facts['name']}: {facts['title']}\n\n{facts['task']}\n")
    metric = facts["metric"]
    print(f"metric   {metric['name']}, {metric['direction']}, plausible {metric['plausible']}")
    print(f"reward   {facts['reward']}, failure {environment.failure_reward}")
    print(f"editable {', '.join(environment.rules.editable)}")
    for preset in environment.presets.values():
        budget, needs = preset.budget, preset.resources
        print(
            f"preset   {preset.name}: {budget.seconds:g} s on the {budget.clock} clock, {needs.cpus} CPUs, "
            f"{needs.gpus} GPUs, {needs.memory_gb:g} GB"
        )
    return 0


def _facts(environment: Environment) -> dict[str, Any]:
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
    }


def _dataset(environment: Environment, options: argparse.Namespace) -> int:
    path = options.dataset.absolute()
    if options.rows < 1:
        raise IdeatorError(f"--rows is {options.rows}; expected at least 1.")
    environment.preset(options.preset)
    bucket = options.bucket or (path.parent / "bucket").as_uri()
    named = options.environment == environment.name
    config = BufferConfig(environment.name if named else str(environment.root), options.preset, bucket)
    rows = prompt_rows(environment, config, options.rows, options.prompts, options.chat)
    try:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise IdeatorError(f"Could not write {path}: {error.strerror}.") from error
    print(
        f"{len(rows)} rows in {path}. Train on them with stock TRL:\n"
        f"  trl grpo --reward_funcs rewards.execution.execution_reward --dataset_name {path.parent} "
        "--model_name_or_path MODEL --output_dir DIR"
    )
    return 0


def check(options: argparse.Namespace) -> int:
    """Returns 0 when every check passed, else 1."""
    found: list[Check] = []
    for one in check_environment(
        options.environment, options.preset, options.seeds, isolation=options.isolation, slots=options.slots
    ):
        found.append(one)
        if not options.json:
            print(f"{'ok  ' if one.passed else 'FAIL'}  {one.name}: {one.words}", flush=True)
    if options.json:
        print(json.dumps([asdict(one) for one in found]))
    return 0 if all(one.passed for one in found) else 1
