"""`ideator-rl train` and `ideator-rl sft`: in this process, or in several that accelerate launches."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

from ideator_rl.cli.interrupt import guard_launch, park_if_interrupted
from ideator_rl.cli.options import AddOptions, OptionParser, accelerate_options, sft_options, train_options


def train(args: argparse.Namespace) -> int:
    """Returns the exit status of the run.

    Raises:
        IdeatorError: the recipe is not usable, or the run failed for an expected reason.
    """
    if args.dry_run:
        from ideator_rl import train as module

        return module.run(_module_argv(args, train_options, accelerate_options))
    if not _starts_one_process(args):
        # accelerate takes seconds to import: what can be refused without it is refused before.
        from ideator_rl.training.preflight import check_recipe
        from ideator_rl.training.recipe.processes import read_num_processes
        from ideator_rl.training.recipe.recipe import load_recipe

        # Batches must divide by the number of processes, which accelerate's own settings may hold.
        known = bool(args.accelerate_config or args.num_processes)
        count = read_num_processes(args.accelerate_config, args.num_processes) or 1
        check_recipe(load_recipe(args.recipe, args.overrides, count, batches=known), args.resume)
    return _launch("ideator_rl.train", _module_argv(args, train_options), args)


def sft(args: argparse.Namespace) -> int:
    """Returns the exit status of the warm-up.

    Raises:
        IdeatorError: the recipe or the source of ideas is not usable.
    """
    from ideator_rl.sft import read_request

    args.config = args.recipe
    read_request(args, args.overrides)
    return _launch("ideator_rl.sft", _module_argv(args, sft_options), args)


def _module_argv(args: argparse.Namespace, *add_options: AddOptions) -> list[str]:
    """The command line of the launched module: the options that differ from their defaults, then the overrides."""
    parser = OptionParser()
    for add in add_options:
        add(parser)
    argv = ["--config", args.recipe]
    for name, default in vars(parser.parse_args([])).items():
        value, flag = getattr(args, name), f"--{name.replace('_', '-')}"
        if value is True:
            argv.append(flag)
        elif value != default:
            argv += [flag, str(value)]
    return argv + args.overrides


def _launch(module: str, module_argv: list[str], args: argparse.Namespace) -> int:
    # As accelerate has it: more threads, of each process, would compete with those of the experiments.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if _starts_one_process(args):
        return int(importlib.import_module(module).run(module_argv))
    guard_launch()
    from ideator_rl.training.launch import launch

    argv = ["--config_file", args.accelerate_config] if args.accelerate_config else []
    argv += ["--num_processes", str(args.num_processes)] if args.num_processes else []
    try:
        return launch([*argv, "-m", module, *module_argv])
    finally:
        park_if_interrupted()


def _starts_one_process(args: argparse.Namespace) -> bool:
    """Whether accelerate would start one process, with no settings of the user's: then it is not needed."""
    cache = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    if args.accelerate_config or any(Path(cache, "accelerate").glob("default_config.*")):
        return False
    if args.num_processes:
        return bool(args.num_processes == 1)
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) < 2
