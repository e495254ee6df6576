"""The arguments of `ideator-rl …`; one module for each command does the work.

Exit status: 0 on success; 1 when the command ran and did not succeed; 2 when it could not be done, with one sentence on
stderr that gives the reason; 130 when it was interrupted.  Importing this module is cheap: a command's own module is
imported when the command runs.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
from contextlib import suppress
from typing import Any

from ideator_rl import __version__
from ideator_rl.cli.interrupt import keep
from ideator_rl.cli.options import (
    accelerate_options,
    amount,
    end_time,
    hardware_model,
    int_from,
    new_options,
    probe_option,
    seconds,
    sft_options,
    train_options,
)  # fmt: skip
from ideator_rl.errors import IdeatorError

FAILED, IMPOSSIBLE = 1, 2
TAKES_RECIPE_KEYS = ("train", "sft", "search")
"""Commands whose further arguments are keys of a recipe."""
FINDS_RESULTS = "finished experiments are kept, and the same line finds their results"
KEPT = {
    "execute": FINDS_RESULTS,
    "rerun": FINDS_RESULTS,
    "leaderboard": FINDS_RESULTS,
    "scheduler": "the next scheduler of this bucket starts the experiments that ran here again",
    "worker": "the experiments that ran here start again on another node",
    "track": "the same line sends the rest, and nothing twice",
    "env prepare": "finished files are kept, and the same line goes on",
    "status": "nothing was changed, and a run that is under way goes on",
}
"""What an interrupted command keeps; `train`, `sft` and `search` know that only once their recipe is read."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    _open_closed_streams()
    try:
        os.getcwd()
    except OSError:
        return _refuse("The working folder was removed. Change to another one, and repeat.")
    arguments = parser()
    args, rest = arguments.parse_known_args(argv)
    if args.command in TAKES_RECIPE_KEYS:
        args.overrides = rest
    elif rest:
        arguments.error(f"did not expect {' '.join(rest)}; `ideator-rl {args.command} --help` lists the options")
    name = f"{args.command} {args.action}" if args.command == "env" else args.command
    if name in KEPT:
        keep(KEPT[name])
    try:
        command = getattr(importlib.import_module(f"ideator_rl.{args.module}"), args.function)
        return int(command(args))
    except IdeatorError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        # The reader of the output is gone: without this, the flush at exit would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{file}{error.strerror or error}. What was stored before is safe; fix this and repeat.")


def _open_closed_streams() -> None:
    """Open on the null device what the caller closed: a file of ours with the number 2 would receive error messages."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                # The lowest free number, which is the stream's own as soon as those before it are open.
                opened = os.open(os.devnull, os.O_RDWR)
                os.set_inheritable(opened, True)
                setattr(sys, name, open(opened, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good


def _refuse(sentence: str) -> int:
    """Print the reason.  It may quote a server or a model: nothing in it may act on the terminal."""
    from ideator_rl.text.display import visible

    print(f"ideator-rl: {visible(sentence)}", file=sys.stderr)
    return IMPOSSIBLE


def parser() -> argparse.ArgumentParser:
    """All commands."""
    top = argparse.ArgumentParser(
        prog="ideator-rl", description="Train language models to propose research ideas, on what happened when run."
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_doctor, _add_env, _add_patch, _add_execute, _add_rerun, _add_leaderboard, _add_sft, _add_train,
                _add_search, _add_scheduler, _add_worker, _add_status, _add_cancel, _add_report, _add_best, _add_export,
                _add_track):  # fmt: skip
        add(commands)
    return top


def _command(commands: Any, name: str, description: str, target: str = "") -> argparse.ArgumentParser:
    """A command that `target` runs: "module:function" below `ideator_rl`; by default "cli.NAME:main"."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=description, description=description)
    module, function = (target or f"cli.{name}:main").split(":")
    command.set_defaults(module=module, function=function)
    return command


def _json(command: Any) -> None:
    command.add_argument("--json", action="store_true", help="print JSON, for a program to read")


def _slots(command: argparse.ArgumentParser) -> None:
    share = "CPU slots on this machine; default: this process's share"
    command.add_argument("--slots", type=int_from(1), metavar="N", help=share)
    command.add_argument("--isolation", choices=("auto", "none"), default="auto", help="`none` risks the machine")


def _start(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--start", choices=("forked", "cold"), default="forked", help="how Python starts; see `doctor`"
    )


def _backend(command: argparse.ArgumentParser) -> None:
    command.add_argument("--backend", default="local", metavar="NAME", help="what starts experiments; see `doctor`")
    command.add_argument("--backend-config", metavar="FILE.yaml", help="settings of the backend")


def _hardware(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--hardware",
        type=hardware_model,
        default="",
        metavar="MODEL",
        help="such as h100; other workers refuse",
    )


def _add_doctor(commands: Any) -> None:
    command = _command(commands, "doctor", "what works here: sandbox, bucket, GPUs, environments, keys")
    command.add_argument("--bucket", metavar="URL", help="the bucket to test; default: the user's cache")
    command.add_argument("--backend", metavar="NAME", help="have it start one worker that does nothing")
    command.add_argument("--backend-config", metavar="FILE.yaml", help="settings of the backend")
    _json(command)


def _add_env(commands: Any) -> None:
    env = commands.add_parser("env", help="list, show, check and write environments")
    actions = env.add_subparsers(dest="action", required=True, metavar="ACTION")
    _json(_command(actions, "list", "all environments that have a name", "cli.environments:list_environments"))
    show = _command(
        actions, "show", "its presets and prompts; or a dataset for TRL", "cli.environments:show_environment"
    )
    show.add_argument("environment", metavar="NAME_OR_PATH")
    show.add_argument("--preset", default="cpu")
    show.add_argument("--prompts", default="short", metavar="KIND", help="the prompt that asks for an idea")
    show.add_argument("--dataset", metavar="FILE", help="write rows for `trl grpo` here, as JSON lines")
    show.add_argument("--bucket", metavar="URL", help="the dataset's bucket; default: .bucket next to the dataset")
    show.add_argument(
        "--rows",
        type=int_from(1),
        default=64,
        metavar="N",
        help="at least the different prompts of a batch",
    )
    show.add_argument("--implementer", default="rules", metavar="NAME", help="the dataset's; it writes the patches")
    show.add_argument("--chat", action="store_true", help="prompts as messages, for a model with a chat template")
    _json(show)
    check = _command(actions, "check", "prove an environment: baseline, hidden data, edits", "cli.environments:check")
    check.add_argument("environment", metavar="NAME_OR_PATH")
    check.add_argument("--preset", default="cpu")
    check.add_argument("--seeds", type=int_from(1), default=3, metavar="N", help="runs of the baseline")
    _slots(check)
    _json(check)
    prepare = _command(actions, "prepare", "prepare a preset's data from source files", "cli.environments:prepare")
    prepare.add_argument("environment", metavar="NAME_OR_PATH")
    prepare.add_argument("--preset", default="cpu")
    prepare.add_argument("--from", dest="source", metavar="DIR", help="the folder that holds the source files")
    prepare.add_argument("--download", action="store_true", help="download what DIR lacks; experiments never do")
    prepare.add_argument("--shards", type=int_from(1), metavar="N", help="of sharded data; default: what is needed")
    _json(prepare)
    new = _command(actions, "new", "write an environment: a small one, or around your codebase", "cli.environments:new")
    new_options(new)
    _json(new)


def _add_patch(commands: Any) -> None:
    command = _command(commands, "patch", "repair, judge and apply a patch; no LLM, nothing is run")
    command.add_argument("--base", required=True, metavar="DIR", help="the codebase")
    command.add_argument("--diff", required=True, metavar="FILE", help="unified diff or SEARCH/REPLACE; - for stdin")
    command.add_argument("--out", required=True, metavar="DIR", help="the patched codebase, in a new folder")
    command.add_argument("--env", metavar="NAME_OR_PATH", help="the environment whose rules the result must keep")
    command.add_argument("--preset", help="of the environment, where it has rules of its own")
    _json(command)


def _add_execute(commands: Any) -> None:
    command = _command(commands, "execute", "run the baseline, ideas or a patch as experiments")
    command.add_argument("environment", metavar="ENV")
    command.add_argument("--preset", default="cpu")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--baseline", action="store_true")
    source.add_argument("--idea", metavar="TEXT", help="[Experiment] … [Code Changes] … [End]")
    source.add_argument("--ideas", metavar="FILE", help="JSON lines: a text, or an object with `idea`; - for stdin")
    source.add_argument("--diff", metavar="FILE", help="a patch; - for stdin")
    command.add_argument("--implementer", default="rules", metavar="NAME", help="it writes the patch of an idea")
    command.add_argument("--coder", metavar="FILE.yaml", help="settings of an implementer that asks an LLM")
    command.add_argument("--max-usd", type=amount, metavar="USD", help="limit on the cost of the LLM in this command")
    command.add_argument("--max-coder-tokens", type=int_from(1), metavar="N", help="limit on the tokens of the LLM")
    probe_option(command)
    command.add_argument("--seed", type=int_from(0), default=0, metavar="N")
    command.add_argument(
        "--replicates", type=int_from(1), default=1, metavar="N", help="runs of each, with other seeds"
    )
    command.add_argument("--bucket", metavar="URL", help="the bucket for the records; default: the user's cache")
    _backend(command)
    _hardware(command)
    _slots(command)
    _start(command)
    _json(command)


def _add_rerun(commands: Any) -> None:
    command = _command(commands, "rerun", "run the best ideas again, with other seeds, and the baseline")
    command.add_argument("target", metavar="RUN_OR_BUCKET")
    command.add_argument("--best", type=int_from(1), default=5, metavar="K", help="how many ideas")
    command.add_argument(
        "--replicates", type=int_from(1), default=3, metavar="N", help="runs of each, with other seeds"
    )
    _slots(command)
    _json(command)


def _add_leaderboard(commands: Any) -> None:
    command = _command(commands, "leaderboard", "the best ideas on the final hidden split, beside published results")
    command.add_argument("environment", metavar="NAME_OR_PATH")
    command.add_argument("target", metavar="RUN_OR_BUCKET")
    command.add_argument("--best", type=int_from(1), default=1, metavar="N", help="how many ideas")
    runs = "runs of each, with other seeds"
    command.add_argument("--replicates", type=int_from(1), default=5, metavar="N", help=runs)
    _slots(command)
    _json(command)


def _add_train(commands: Any) -> None:
    description = "train an ideator: accelerate launch -m ideator_rl.train"
    command = _command(commands, "train", description, "cli.launch:train")
    command.add_argument("recipe", metavar="RECIPE.yaml", help="then any key of the recipe: --key value")
    train_options(command)
    accelerate_options(command)


def _add_sft(commands: Any) -> None:
    description = "warm an ideator up on ideas: accelerate launch -m ideator_rl.sft"
    command = _command(commands, "sft", description, "cli.launch:sft")
    command.add_argument("recipe", metavar="RECIPE.yaml", help="then any key of the recipe: --key value")
    sft_options(command)
    accelerate_options(command)


def _add_search(commands: Any) -> None:
    command = _command(commands, "search", "search for the best idea: evolution, best of n, and others")
    command.add_argument("recipe", metavar="RECIPE.yaml", help="then any key of the recipe: --key value")
    command.add_argument("--resume", action="store_true", help="go on with the search in output_dir, or extend it")
    output = command.add_mutually_exclusive_group()
    output.add_argument("--dry-run", action="store_true", help="estimate what it may cost, and start nothing")
    _json(output)
    probe_option(command)


def _add_scheduler(commands: Any) -> None:
    command = _command(commands, "scheduler", "run, on this machine or an engine, what a bucket waits for")
    command.add_argument("--bucket", required=True, metavar="URL")
    _slots(command)
    _start(command)
    _backend(command)
    _hardware(command)
    pace = "between two looks at bucket and engine; default: by load"
    command.add_argument("--every", type=seconds, metavar="SECONDS", help=pace)
    command.add_argument("--once", action="store_true", help="end when nothing waits any more")
    _json(command)


def _add_worker(commands: Any) -> None:
    command = _command(commands, "worker", "run on this node, without an engine, what a bucket waits for")
    command.add_argument("--bucket", required=True, metavar="URL")
    share = command.add_mutually_exclusive_group()
    share.add_argument("--slots", type=int_from(1), metavar="N", help="experiments that need CPUs alone, on N of them")
    share.add_argument("--gpus", type=int_from(1), metavar="N", help="those that need GPUs, on N of them")
    command.add_argument("--hardware", default="", metavar="NAME", help="refuse a node of other hardware, such as h100")
    command.add_argument(
        "--idle", type=amount, default=math.inf, metavar="SECONDS", help="end when nothing has come for so long"
    )
    command.add_argument(
        "--until",
        type=end_time,
        metavar="TIME",
        help="take nothing that may end later: 2026-12-01T08:00, Unix seconds, or +SECONDS from now",
    )
    command.add_argument("--isolation", choices=("auto", "none"), default="auto", help="`none` risks the machine")
    _start(command)


def _add_status(commands: Any) -> None:
    command = _command(commands, "status", "how far a run is, or what a bucket holds")
    command.add_argument("target", metavar="RUN_OR_BUCKET")
    output = command.add_mutually_exclusive_group()
    output.add_argument("--watch", action="store_true", help="repeat until the run has ended")
    _json(output)


def _add_cancel(commands: Any) -> None:
    command = _command(commands, "cancel", "end a run's trainer and experiments, wherever they run")
    command.add_argument("target", metavar="RUN_OR_BUCKET")
    command.add_argument(
        "--backend",
        metavar="NAME",
        help="whose jobs are cancelled at once; default: that of the run's recipe, or local",
    )
    command.add_argument("--backend-config", metavar="FILE.yaml", help="settings of the backend")
    _json(command)


def _add_report(commands: Any) -> None:
    command = _command(commands, "report", "one HTML file about one run or several")
    command.add_argument("runs", nargs="+", metavar="RUN")
    place = command.add_mutually_exclusive_group()
    place.add_argument("--out", metavar="FILE.html", help="default: report.html in this folder")
    place.add_argument("--serve", action="store_true", help="serve it to this machine's browser, live, until Ctrl-C")
    command.add_argument("--port", type=int_from(1), default=0, metavar="N", help="of --serve; default: a free one")
    command.add_argument("--watch", action="store_true", help="write a page that follows the run until it has ended")
    command.add_argument(
        "--embedder", metavar="NAME", help="embedding of ideas (docs/reference/diversity.md); default: each run's own"
    )


def _add_best(commands: Any) -> None:
    command = _command(commands, "best", "write the best idea's codebase, its patch, and how sure its value is")
    command.add_argument("target", metavar="RUN_OR_BUCKET")
    command.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    command.add_argument("--rank", type=int_from(1), default=1, metavar="N", help="2 for the second best; default: 1")
    _json(command)


def _add_export(commands: Any) -> None:
    command = _command(commands, "export", "a run's model and trajectories, with their cards; a search has no model")
    command.add_argument("run", metavar="RUN", help="the folder that a recipe names as output_dir")
    destination = command.add_mutually_exclusive_group(required=True)
    destination.add_argument("--out", metavar="DIR", help="a new folder")
    destination.add_argument(
        "--push-to-hub", metavar="REPO", help="the model's name, or that of a dataset alone; needs HF_TOKEN or a login"
    )
    command.add_argument("--dataset-repo", metavar="REPO", help="the dataset's name; default: REPO-trajectories")
    command.add_argument("--dataset-only", action="store_true", help="the trajectories without the model")
    command.add_argument("--private", action="store_true", help="create private repos")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the weights; default: as trained")
    command.add_argument("--license", metavar="ID", help="such as apache-2.0; default: none")
    _json(command)


def _add_track(commands: Any) -> None:
    command = _command(commands, "track", "send experiments to a tracker: a run each, and one table")
    command.add_argument("target", metavar="RUN_OR_BUCKET")
    command.add_argument("--to", required=True, choices=("wandb", "trackio", "tensorboard"), help="the tracker")
    command.add_argument("--follow", action="store_true", help="go on, until the run has ended or Ctrl-C")
    command.add_argument(
        "--runs", choices=("all", "successes", "none"), default="all", help="experiments that get a run of their own"
    )
    command.add_argument("--project", default="ideator_rl", metavar="NAME", help="default: ideator_rl")
    command.add_argument("--dir", metavar="DIR", help="of the tracker's files; default: the run's, or this folder")
    command.add_argument("--until-closed", action="store_true", help=argparse.SUPPRESS)
