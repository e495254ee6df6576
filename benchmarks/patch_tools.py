"""Other tools that apply patches, each in a scratch folder that holds the codebase.

git, GNU patch, and mpatch, a library for patches that language models wrote (on PyPI; no dependency of ours, so the
caller names an interpreter that has it).  The result is the tree that the tool left if it reported success, else None.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ideator_rl.patch import PatchError, Tree, read_tree, write_tree

Apply = Callable[[Path, str], bool]
_FENCED = re.compile(r"```[^\n]*\n(.*?)^```", re.S | re.M)
_DRIVER = """
import json, sys, mpatch
print(mpatch.VERSION, flush=True)
for line in sys.stdin:
    folder, patch = json.loads(line)
    try:
        patches = mpatch.parse_auto(patch)
        success = bool(patches) and mpatch.apply_patches_to_dir(patches, folder, atomic=True).all_applied_cleanly
    except Exception:
        success = False
    print(json.dumps(bool(success)), flush=True)
"""


@dataclass(frozen=True)
class Tool:
    name: str
    version: str
    forms: tuple[str, ...]
    """Forms of patches that the tool reads; for other forms its cells are n/a."""
    apply: Apply = field(repr=False)

    def tree(self, base: Tree, patch: str) -> Tree | None:
        """The tree that it makes of a patch; None if it refuses, or leaves a tree that is not text."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "codebase")
            write_tree(base, folder)
            try:
                return read_tree(folder) if self.apply(folder, patch) else None
            except (PatchError, OSError):
                return None


def installed_tools(mpatch_python: str | None) -> list[Tool]:
    """The tools that are installed here."""
    tools = []
    if shutil.which("git"):
        tools.append(Tool("git apply --recount", _version("git"), ("diff",), _git))
    if shutil.which("patch"):
        tools.append(Tool("patch --fuzz=3", _version("patch"), ("diff",), _gnu))
    if mpatch_python:
        process = subprocess.Popen(
            [mpatch_python, "-c", _DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        tools.append(Tool("mpatch", process.stdout.readline().strip(), ("diff", "blocks"), _Mpatch(process)))
    return tools


def _version(command: str) -> str:
    output = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    return output.split("\n")[0].split()[-1]


def _unfenced(patch: str) -> str:
    """The fenced part of an answer, for tools that do not read fences."""
    fenced = _FENCED.search(patch)
    return fenced[1] if fenced else patch


def _git(folder: Path, patch: str) -> bool:
    command = ["git", "apply", "--recount", "--whitespace=nowarn", "-"]
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    process = subprocess.run(command, cwd=folder, env=environment, input=_unfenced(patch).encode(), capture_output=True)
    return process.returncode == 0


def _gnu(folder: Path, patch: str) -> bool:
    command = ["patch", "-p1", "--fuzz=3", "--batch", "--no-backup-if-mismatch", "--reject-file=-"]
    process = subprocess.run(command, cwd=folder, input=_unfenced(patch).encode(), capture_output=True)
    return process.returncode == 0


@dataclass(frozen=True)
class _Mpatch:
    process: subprocess.Popen[str]

    def __call__(self, folder: Path, patch: str) -> bool:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(folder), patch]) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip() == "true"
