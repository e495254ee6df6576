"""The fenced blocks of a page and how a test runs them, in order, in one working directory.

A comment in front of a block, `<!-- test: MODE -->`, chooses what happens:

    run            run as it is, in both test runs
    dry-run        default run: `train` and `search` with --dry-run, `make` with -n; slow run: as it is
    slow           default run: check the syntax and the arguments only; slow run: as it is
    llm            needs a chat endpoint: the scripted server; default run: on the toy environment
    file NAME      write the block to this file

After a semicolon: `always` keeps the cheap form in the slow run, because another page runs the command; `model` puts a
tiny model in the place of the one that is named; `dataset` writes the dataset of nanogpt first; `short` ends searches
after eight experiments.

A Python block that several pages show runs once in a process: no later block may need what it writes.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llm_server import Scripted, answer
from tiny_policy import save_policy

from ideator_rl.cli.commands import parser

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(?:<!-- test: (?P<mode>[^>]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
HEREDOC = re.compile(r"<<'?END'?\n.*?\nEND$", re.M | re.S)
MODEL = "Qwen/Qwen3-0.6B"
ENDPOINT = "http://localhost:8000/v1"
TRAIN = "ideator-rl train quickstart"

SHORT = " --max_experiments 8"
FINISHED: set[str] = set()
"""Python blocks that ran without an error in this process."""


@dataclass(frozen=True)
class Block:
    mode: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(match["mode"] or "", match["language"], match["text"]) for match in BLOCK.finditer(text)]


def commands(text: str) -> list[str]:
    """The command lines of a shell block, without heredocs, continued lines joined."""
    lines = HEREDOC.sub("", text).replace("\\\n", " ").splitlines()
    return [line.split("    #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def check_arguments(line: str) -> None:
    """Raise SystemExit or an AssertionError if a command of ours would refuse its arguments."""
    argv = shlex.split(line)
    if argv[0] == "ideator-rl":
        _, keys = parser().parse_known_args(argv[1:])
        assert not keys or argv[1] in ("train", "search", "sft"), f"{line}: unknown {keys}"


class Session:
    """One reader at a shell: runs the blocks of a page in a folder that looks like a clone."""

    def __init__(self, folder: Path, slow: bool, call: Callable[..., tuple[int, str, str]] | None = None):
        """Args:
        call: runs a command line of ours in this process, whose working directory is the folder; for dry runs, which
            need no shell.
        """
        self.folder, self.slow, self.call = folder, slow, call
        for name in ("recipes", "envs", "rewards", "Makefile"):
            (folder / name).symlink_to(ROOT / name)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.variables = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}

    def run(self, block: Block) -> None:
        mode, _, needs = (part.strip() for part in block.mode.partition(";"))
        if mode.startswith("file "):
            (self.folder / mode.removeprefix("file ")).write_text(block.text)
        elif mode == "llm":
            self._run_with_server(block, cheap=not self.slow or "always" in needs)
        elif mode == "run" or (self.slow and "always" not in needs):
            self._prepare(needs)
            text = _for_this_clone(block.text)
            if "short" in needs:
                text = re.sub(r"^(ideator-rl search .*)$", rf"\1{SHORT}", text, flags=re.M)
            if block.text not in FINISHED:
                self._execute(block.language, text)
            if block.language == "python":
                FINISHED.add(block.text)
        elif mode == "dry-run":
            for line in map(dry, commands(block.text)):
                if self.call and line.startswith("ideator-rl "):
                    code, out, err = self.call(*shlex.split(line)[1:])
                    assert code == 0, f"{line}\n{out}\n{err}"
                elif line:
                    self._execute("sh", line)
        elif mode == "slow":
            if block.language == "python":
                ast.parse(block.text)
            else:
                for line in commands(block.text):
                    check_arguments(line)
        else:
            raise AssertionError(f"a block without a known mode ({block.mode!r}):\n{block.text}")

    def _prepare(self, needs: str) -> None:
        if "model" in needs and not (self.folder / MODEL).exists():
            (self.folder / MODEL).mkdir(parents=True)
            save_policy(self.folder / MODEL)
        if "dataset" in needs:
            self._execute("sh", "mkdir -p data; ideator-rl env show nanogpt --dataset data/train.jsonl")

    def _run_with_server(self, block: Block, cheap: bool) -> None:
        with Scripted(lambda body: {"body": answer(reply(body))}) as server:
            for file in self.folder.glob("*.yaml"):
                file.write_text(file.read_text().replace(ENDPOINT, server.url))
            text = block.text.replace(ENDPOINT, server.url)
            if cheap:
                text = re.sub(r"(ideator-rl search \S+)", rf"\1 --env {ROOT}/tests/toy_env", text)
            self._execute(block.language, text)

    def _execute(self, language: str, text: str) -> None:
        command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
        ended = subprocess.run(command, cwd=self.folder, env=self.variables, capture_output=True, text=True)
        assert ended.returncode == 0, f"{text}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"


def dry(line: str) -> str:
    """The cheap form of a command line; empty where there is nothing to try."""
    argv = shlex.split(line)
    if argv[0] == "make":
        return f"make -C {ROOT} -n {' '.join(argv[1:])}"
    if argv[:2] in (["ideator-rl", "train"], ["ideator-rl", "search"]) or argv[0] == "accelerate":
        return f"{line} --dry-run"
    check_arguments(line)
    return ""


def _for_this_clone(text: str) -> str:
    """The commands of a clone that is installed already: tests are not run from inside a test."""
    text = re.sub(r"^make quickstart.*$", TRAIN, text, flags=re.M)
    return re.sub(r"^(make .*|\. \.venv/bin/activate|git clone .*)$", "", text, flags=re.M)


def reply(body: dict) -> str:
    """Answers as an ideator or as a coder, for nanogpt and for the toy environment."""
    prompt = "\n".join(str(message["content"]) for message in body["messages"])
    line = re.search(r"^(?:x|learning_rate) = (\S+)", prompt, re.M)
    if "<<<<<<< SEARCH" in prompt and line:
        name, value = line[0].split(" = ")
        return f"train.py\n<<<<<<< SEARCH\n{line[0]}\n=======\n{name} = {float(value) * 0.5}\n>>>>>>> REPLACE\n"
    return "[Experiment] Halve a number. [Code Changes] Halve the first number of train.py. [End]"
