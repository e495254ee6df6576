"""The command line: `ideator-rl …`.

Exit status 0 only on success, 1 when what was asked for ran and did not succeed, 2 when it could not be done (one
sentence on stderr says why), 130 when it was interrupted.  Importing this module is cheap: a command's own module is
imported when the command is run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from ideator_rl import __version__
from ideator_rl.errors import IdeatorError

FAILED, IMPOSSIBLE, INTERRUPTED = 1, 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    known = parser()
    args, rest = known.parse_known_args(argv)
    if args.command in ("train", "sft", "search"):
        args.overrides = rest
    elif rest:
        known.error(f"did not expect {' '.join(rest)}; `ideator-rl {args.command} --help` shows what is known")
    try:
        command = getattr(importlib.import_module(f"ideator_rl.{args.module}"), args.function)
        return int(command(args))
    except IdeatorError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads; nor does the flush at exit fail
        return FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _refuse(f"{where}{error.strerror or error}. What was stored before is kept; mend this and repeat.")
    except KeyboardInterrupt:
        again = " with --resume" if args.command == "search" else ""
        return _refuse(
            f"interrupted. Experiments under way run on, and the same line{again} finds their results; "
            "`ideator-rl cancel RUN_OR_BUCKET` ends them.",
            INTERRUPTED,
        )


def parser() -> argparse.ArgumentParser:
    """All commands."""
    top = argparse.ArgumentParser(
        prog="ideator-rl", description="Train language models to propose research ideas, on what happened when run."
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_doctor, _env, _patch, _execute, _rerun, _sft, _train, _search,
                _scheduler, _status, _cancel, _report, _export):  # fmt: skip
        add(commands)
    return top


def _add(commands: Any, name: str, target: str, words: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(name, help=words, description=words)
    module, function = target.split(":")
    added.set_defaults(module=module, function=function)
    return added


def _json(command: Any) -> None:
    command.add_argument("--json", action="store_true", help="print JSON, for a program to read")


def _whole(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} up, got {text!r}")
        return int(text)

    return number


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected an amount from 0 up, got {text!r}")
    return value


def _slots(command: argparse.ArgumentParser) -> None:
    command.add_argument("--slots", type=_whole(1), metavar="N", help="CPU slots on this machine; the number of cores")
    command.add_argument("--isolation", choices=("auto", "none"), default="auto", help="`none` risks the machine")


def _doctor(commands: Any) -> None:
    command = _add(commands, "doctor", "cli.doctor:main", "what works here: sandbox, bucket, GPUs, environments, keys")
    command.add_argument("--bucket", metavar="URL", help="a bucket to be proved; the user's cache if not given")
    _json(command)


def _env(commands: Any) -> None:
    env = commands.add_parser("env", help="list, show, check and write environments")
    actions = env.add_subparsers(dest="action", required=True, metavar="ACTION")
    _json(_add(actions, "list", "cli.environments:list_", "every environment that can be named"))
    show = _add(actions, "show", "cli.environments:show", "its presets and prompts; or a dataset for TRL")
    show.add_argument("environment", metavar="NAME_OR_PATH")
    show.add_argument("--preset", default="cpu")
    show.add_argument("--prompts", default="short", metavar="KIND", help="which of its prompts asks for an idea")
    show.add_argument("--dataset", metavar="FILE", help="write rows for `trl grpo` here, as JSON lines")
    show.add_argument("--bucket", metavar="URL", help="the dataset's bucket; .bucket beside the dataset if not given")
    show.add_argument("--rows", type=_whole(1), default=64, metavar="N", help="at least a batch's different prompts")
    show.add_argument("--chat", action="store_true", help="prompts as messages, for a model with a chat template")
    _json(show)
    check = _add(actions, "check", "cli.environments:check", "prove an environment: baseline, hidden data, edits")
    check.add_argument("environment", metavar="NAME_OR_PATH")
    check.add_argument("--preset", default="cpu")
    check.add_argument("--seeds", type=_whole(1), default=3, metavar="N", help="runs of the baseline")
    _slots(check)
    _json(check)
    new = _add(actions, "new", "cli.environments:new", "write an environment: a small one, or around your codebase")
    new.add_argument("path", metavar="PATH", help="a new folder")
    new.add_argument("--name", help="the folder's name if not given")
    new.add_argument("--from", dest="source", metavar="FOLDER", help="your codebase; it is copied")
    new.add_argument("--script", metavar="FILE.py", help="the file of FOLDER that trains; its only one if not given")
    _json(new)


def _patch(commands: Any) -> None:
    command = _add(commands, "patch", "cli.patch:main", "repair, judge and apply a patch; no LLM, nothing is run")
    command.add_argument("--base", required=True, metavar="DIR", help="the codebase")
    command.add_argument("--diff", required=True, metavar="FILE", help="unified diff or SEARCH/REPLACE; - for stdin")
    command.add_argument("--out", required=True, metavar="DIR", help="the patched codebase, in a new folder")
    command.add_argument("--env", metavar="NAME_OR_PATH", help="the environment whose rules the result must keep")
    _json(command)


def _execute(commands: Any) -> None:
    command = _add(commands, "execute", "cli.execute:main", "run the baseline, ideas or a patch as experiments")
    command.add_argument("environment", metavar="ENV")
    command.add_argument("--preset", default="cpu")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--baseline", action="store_true")
    what.add_argument("--idea", metavar="TEXT", help="[Experiment] … [Code Changes] … [End]")
    what.add_argument("--ideas", metavar="FILE", help="JSON lines: a text, or an object with the key idea; - for stdin")
    what.add_argument("--diff", metavar="FILE", help="a patch; - for stdin")
    command.add_argument("--implementer", default="rules", metavar="NAME", help="who writes the patch of an idea")
    command.add_argument("--coder", metavar="FILE.yaml", help="settings of an implementer that asks an LLM")
    command.add_argument(
        "--max-usd", type=_amount, metavar="USD", help="the most that the LLM may cost, in this command"
    )
    command.add_argument("--max-coder-tokens", type=_whole(1), metavar="N", help="the most tokens of the LLM")
    command.add_argument("--seed", type=_whole(0), default=0, metavar="N")
    command.add_argument("--replicates", type=_whole(1), default=1, metavar="N", help="runs of each, with other seeds")
    command.add_argument("--bucket", metavar="URL", help="where records are kept; the user's cache if not given")
    _slots(command)
    _json(command)


def _rerun(commands: Any) -> None:
    command = _add(commands, "rerun", "cli.rerun:main", "run the best ideas again, with other seeds, and the baseline")
    command.add_argument("target", metavar="RUN_OR_BUCKET")
    command.add_argument("--best", type=_whole(1), default=5, metavar="K", help="how many ideas")
    command.add_argument("--replicates", type=_whole(1), default=3, metavar="N", help="runs of each, with other seeds")
    _slots(command)
    _json(command)


def _train(commands: Any) -> None:
    command = _add(commands, "train", "cli.runs:train", "train an ideator: accelerate launch -m ideator_rl.train")
    command.add_argument("recipe", metavar="RECIPE.yaml", help="then any key of the recipe: --key value")
    command.add_argument("--resume", action="store_true", help="go on with the run in output_dir")
    command.add_argument("--dry-run", action="store_true", help="estimate what it would cost, and start nothing")
    command.add_argument("--accelerate-config", metavar="FILE", help="a config file for accelerate launch")
    command.add_argument("--num-processes", type=_whole(1), metavar="N", help="processes that train, one a GPU")


def _sft(commands: Any) -> None:
    from ideator_rl.sft import add_options

    command = _add(commands, "sft", "cli.sft:main", "warm an ideator up on ideas: accelerate launch -m ideator_rl.sft")
    command.add_argument("recipe", metavar="RECIPE.yaml", help="then any key of the recipe: --key value")
    add_options(command)
    command.add_argument("--accelerate-config", metavar="FILE", help="a config file for accelerate launch")


def _search(commands: Any) -> None:
    command = _add(commands, "search", "cli.search:main", "search for the best idea: evolution, best of n, and others")
    command.add_argument("recipe", metavar="RECIPE.yaml", help="then any key of the recipe: --key value")
    command.add_argument("--resume", action="store_true", help="go on with the search in output_dir, or extend it")
    command.add_argument("--dry-run", action="store_true", help="say what it may cost, and start nothing")
    _json(command)


def _scheduler(commands: Any) -> None:
    command = _add(commands, "scheduler", "cli.scheduler:main", "run on this machine what a bucket waits for")
    command.add_argument("--bucket", required=True, metavar="URL")
    _slots(command)
    command.add_argument("--once", action="store_true", help="end when nothing waits any more")


def _status(commands: Any) -> None:
    command = _add(commands, "status", "cli.status:main", "how far a run is, or what a bucket holds")
    command.add_argument("target", metavar="RUN_OR_BUCKET")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="keep looking until the run has ended")
    _json(how)


def _cancel(commands: Any) -> None:
    command = _add(commands, "cancel", "cli.cancel:main", "end a run's trainer and experiments on this machine")
    command.add_argument("target", metavar="RUN_OR_BUCKET")
    _json(command)


def _report(commands: Any) -> None:
    command = _add(commands, "report", "cli.report:main", "one HTML file about one run or several")
    command.add_argument("runs", nargs="+", metavar="RUN")
    command.add_argument("--out", default="report.html", metavar="FILE.html", help="report.html here, if not given")
    command.add_argument(
        "--embedder", metavar="NAME", help="embedding of ideas (docs/reference/diversity.md); default: each run's own"
    )


def _export(commands: Any) -> None:
    command = _add(commands, "export", "cli.export:main", "a run's model and trajectories, with their cards")
    command.add_argument("run", metavar="RUN", help="the folder that a recipe names as output_dir")
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="DIR", help="a new folder")
    where.add_argument("--push-to-hub", metavar="REPO", help="the model's name; the token is HF_TOKEN or a login's")
    command.add_argument("--dataset-repo", metavar="REPO", help="the dataset's name; REPO-trajectories if not given")
    command.add_argument("--private", action="store_true", help="only you see the repos that are made")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the weights; as trained if not given")
    command.add_argument("--license", metavar="ID", help="such as apache-2.0; none is stated if not given")
    _json(command)


def _refuse(sentence: str, status: int = IMPOSSIBLE) -> int:
    """Say why not.  What a server or a model wrote may be quoted in it: nothing of that may act on the terminal."""
    from ideator_rl.text import visible

    print(f"ideator-rl: {visible(sentence)}", file=sys.stderr)
    return status
