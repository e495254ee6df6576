"""The command line.  `ideator-rl --help` names every command; each imports what it needs when it is called.

Exit status: 0 success, 1 an experiment or a check did not succeed, 2 nothing could be done (one sentence on stderr).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ideator_rl import __version__
from ideator_rl.errors import IdeatorError


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    if rest and options.command != "train":
        parser.error(f"unexpected {' '.join(rest)}")
    try:
        return int(options.run(options, rest) if options.command == "train" else options.run(options))
    except IdeatorError as error:
        print(f"ideator-rl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ideator-rl", description="Train language models to propose research ideas, on what really happened."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="what works here: sandbox, cores, GPUs, versions, keys")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(run=_doctor)
    _environment_commands(commands)
    _patch_command(commands)
    _execute_command(commands)

    train = commands.add_parser("train", help="train by a recipe; the same as accelerate launch -m ideator_rl.train")
    train.add_argument("recipe", help="a YAML file; --key value overrides, --resume goes on after a crash")
    train.add_argument("--accelerate-config", help="a config file for accelerate launch")
    train.set_defaults(run=_train)
    _run_commands(commands)
    return parser


def _environment_commands(commands: argparse._SubParsersAction) -> None:
    env = commands.add_parser("env", help="environments: list, show, check").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    listed = env.add_parser("list", help="every environment that can be named")
    listed.add_argument("--json", action="store_true")
    listed.set_defaults(run=_environments("list_"))
    show = env.add_parser("show", help="one environment; --dataset writes rows for a stock TRL trainer")
    show.add_argument("environment")
    show.add_argument("--preset", default="cpu")
    show.add_argument("--prompts", default="short")
    show.add_argument("--dataset", type=Path, help="write JSON lines with the prompt and the reward's columns")
    show.add_argument("--bucket", help="URL for the dataset's experiments; default: bucket/ beside the dataset")
    show.add_argument("--rows", type=int, default=8, help="one for each different prompt of a batch (default 8)")
    show.add_argument("--chat", action="store_true", help="messages instead of text, for a model with a chat template")
    show.add_argument("--json", action="store_true")
    show.set_defaults(run=_environments("show"))
    check = env.add_parser("check", help="prove an environment: baseline, noise, hidden data, rules")
    check.add_argument("environment")
    check.add_argument("--preset", default="cpu")
    check.add_argument("--seeds", type=int, default=3, help="runs of the baseline (default 3)")
    check.add_argument("--slots", type=int)
    check.add_argument("--isolation", default="auto", choices=("auto", "none"))
    check.add_argument("--json", action="store_true")
    check.set_defaults(run=_environments("check"))


def _patch_command(commands: argparse._SubParsersAction) -> None:
    patch = commands.add_parser("patch", help="repair, apply and judge a patch; no LLM")
    patch.add_argument("--base", type=Path, required=True, help="the codebase")
    patch.add_argument("--diff", type=Path, required=True, help="unified diff or SEARCH/REPLACE blocks")
    patch.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    patch.add_argument("--env", help="judge by this environment's rules too")
    patch.add_argument("--json", action="store_true")
    patch.set_defaults(run=_execute("patch"))


def _execute_command(commands: argparse._SubParsersAction) -> None:
    execute = commands.add_parser("execute", help="run the baseline, ideas, or a patch")
    execute.add_argument("environment")
    what = execute.add_mutually_exclusive_group(required=True)
    what.add_argument("--baseline", action="store_true")
    what.add_argument("--idea", help="[Experiment] … [Code Changes] … [End]")
    what.add_argument("--ideas", type=Path, help="JSON lines: a text, or an object with idea or completion")
    what.add_argument("--diff", type=Path, help="a patch file")
    execute.add_argument("--preset", default="cpu")
    execute.add_argument("--implementer", default="rules")
    execute.add_argument("--bucket", help="URL; default: a bucket in the user's cache")
    execute.add_argument("--slots", type=int)
    execute.add_argument("--isolation", default="auto", choices=("auto", "none"))
    execute.add_argument("--seed", type=int, default=0)
    execute.add_argument("--replicates", type=int, default=1)
    execute.add_argument("--json", action="store_true")
    execute.set_defaults(run=_execute("execute"))


def _run_commands(commands: argparse._SubParsersAction) -> None:
    status = commands.add_parser("status", help="how a run or a bucket stands")
    status.add_argument("target", metavar="RUN_OR_BUCKET")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_runs("status"))
    cancel = commands.add_parser("cancel", help="end what a run or a bucket has going here; --resume goes on")
    cancel.add_argument("target", metavar="RUN_OR_BUCKET")
    cancel.set_defaults(run=_runs("cancel"))
    scheduler = commands.add_parser("scheduler", help="run what a bucket holds, on this machine")
    scheduler.add_argument("--bucket", required=True)
    scheduler.add_argument("--slots", type=int)
    scheduler.add_argument("--isolation", default="auto", choices=("auto", "none"))
    scheduler.add_argument("--once", action="store_true", help="end when nothing is left to run")
    scheduler.set_defaults(run=_runs("scheduler"))
    report = commands.add_parser("report", help="one HTML file on one or several runs")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    report.add_argument("--out", type=Path, default=Path("report.html"))
    report.set_defaults(run=_runs("report"))


def _doctor(options: argparse.Namespace) -> int:
    from ideator_rl.doctor import doctor

    return doctor(options.json)


def _environments(name: str):
    def run(options: argparse.Namespace) -> int:
        from ideator_rl import cli_environments

        return int(getattr(cli_environments, name)(options))

    return run


def _execute(name: str):
    def run(options: argparse.Namespace) -> int:
        from ideator_rl import cli_execute

        return int(getattr(cli_execute, name)(options))

    return run


def _runs(name: str):
    def run(options: argparse.Namespace) -> int:
        from ideator_rl import cli_runs

        return int(getattr(cli_runs, name)(options))

    return run


def _train(options: argparse.Namespace, rest: list[str]) -> int:
    """Becomes the accelerate line, so that signals and the exit status are its own."""
    config = ["--config_file", options.accelerate_config] if options.accelerate_config else []
    words = ["launch", *config, "-m", "ideator_rl.train", "--config", options.recipe, *rest]
    print("accelerate " + " ".join(words), file=sys.stderr, flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.accelerate_cli", *words])


if __name__ == "__main__":
    sys.exit(main())
