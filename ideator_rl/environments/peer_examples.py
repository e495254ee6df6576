"""Reads an example of OpenEvolve or ShinkaEvolve: its program, its evaluator, their helpers, and the task in words.

Only files that the two need are taken: what they import from their folders, and the files and folders that they name.
Nothing is run.  A path that is put together at run time is not found; the run then fails and names it.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ideator_rl.config.yaml_reader import read_yaml
from ideator_rl.errors import IdeatorError
from ideator_rl.patch import PatchError, Tree
from ideator_rl.patch.evolve_blocks import fixed_parts
from ideator_rl.patch.import_graph import imported_files, start_imports
from ideator_rl.patch.source import decoded, parsed

DRIVER = "run_evaluator.py"
MAX_FILES, MAX_FILE_BYTES = 200, 1_000_000
DEFAULT_SECONDS, MOST_SECONDS = 60.0, 600.0
FILE_NAME = re.compile(r"[A-Za-z0-9_][\w .+-]{0,99}")
"""Names are written into Python, YAML and Markdown."""
RESULTS = re.compile(r"results|outputs?|logs?|checkpoints?|__pycache__|\..*", re.I)
"""Folders that hold what earlier runs left."""
PEER_MODULES = {"openevolve": "openevolve.evaluation_result", "shinka": "shinka.core"}
"""What evaluators import of the two packages; where it is not installed, the driver stands in for it."""


@dataclass
class PeerExample:
    """What `env new` writes an environment around."""

    peer: str
    """OpenEvolve or ShinkaEvolve."""
    template: str
    """Folder of the driver among the templates."""
    program: str
    evaluator: str
    files: Tree = field(default_factory=dict)
    """The files of the baseline, unchanged, by path."""
    task: str = ""
    task_from: str = ""
    """Where the task's text is from."""
    seconds: float = DEFAULT_SECONDS
    preload: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Packages that the two import and that are not installed."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Files that the two name and that cannot be taken, and why."""

    @property
    def has_blocks(self) -> bool:
        return len(fixed_parts(self.files[self.program])) > 1

    @property
    def is_stand_in(self) -> bool:
        """Whether the evaluator imports the peer's package, and it is not installed here."""
        package = "openevolve" if self.template == "openevolve" else "shinka"
        names = start_imports(self.files, self.evaluator)
        return package in names and not _is_installed(PEER_MODULES[package])


def read_openevolve(files: list[Path]) -> PeerExample:
    """An example of OpenEvolve.

    Args:
        files: the program, the evaluator, and its config.yaml if it is not the first `config*.yaml` beside them.

    Raises:
        IdeatorError: another number of files, or one that cannot be read.
    """
    if len(files) not in (2, 3):
        raise IdeatorError(f"--openevolve takes PROGRAM EVALUATOR [CONFIG], got {len(files)} files.")
    program, evaluator = files[:2]
    example = _read("OpenEvolve", "openevolve", program, evaluator, "--openevolve")
    if not _defines(example.files[example.evaluator], "evaluate"):
        raise IdeatorError(f"{evaluator} has no function evaluate(program_path). Give the program first, then it.")
    configs = [*files[2:], *sorted(evaluator.parent.glob("config*.y*ml"))]
    for config in configs[:1]:
        keys = _mapping(read_yaml(config, error=IdeatorError))
        message = _mapping(keys.get("prompt")).get("system_message")
        if isinstance(message, str) and message.strip():
            example.task, example.task_from = message.strip(), f"{config.name}: prompt.system_message"
        timeout = _mapping(keys.get("evaluator")).get("timeout")
        if isinstance(timeout, int | float) and timeout > 0:
            example.seconds = float(min(timeout, MOST_SECONDS))
    return _with_task(example, evaluator.parent)


def read_shinka(folder: Path) -> PeerExample:
    """An example of ShinkaEvolve: a folder with `evaluate.py` and one `initial.*`.

    Raises:
        IdeatorError: the folder lacks one of them, or has several programs.
    """
    programs = sorted(path for path in folder.glob("initial.*") if path.is_file())
    if not (folder / "evaluate.py").is_file() or len(programs) != 1:
        names = ", ".join(path.name for path in programs) or "none"
        raise IdeatorError(
            f"--shinka {folder}: expected a folder with evaluate.py and one program initial.*; programs: {names}."
        )
    example = _read("ShinkaEvolve", "shinka", programs[0], folder / "evaluate.py", "--shinka")
    if (script := folder / "run_evo.py").is_file():
        example.task, example.task_from = _message_of(script), f"{script.name}: task_sys_msg"
    return _with_task(example, folder)


def _read(peer: str, template: str, program: Path, evaluator: Path, option: str) -> PeerExample:
    for path in (program, evaluator):
        if not path.is_file():
            raise IdeatorError(f"{option} {path}: there is no such file.")
        if not FILE_NAME.fullmatch(path.name) or path.name == DRIVER:
            raise IdeatorError(f"{option} {path}: rename it; expected letters, digits and _ . + -, and not {DRIVER}.")
    if evaluator.suffix != ".py" or "." in evaluator.stem:
        raise IdeatorError(f"{option} {evaluator}: the evaluator must be a Python file that can be imported.")
    if program.name == evaluator.name:
        raise IdeatorError(f"{option}: program and evaluator are both called {program.name}. Rename one.")
    example = PeerExample(peer, template, program.name, evaluator.name)
    for path in (evaluator, program):
        example.files[path.name] = _text(path)
        _add_helpers(example, path.parent, [path.name])
    imported = dict[str, bool]()
    for name in (example.evaluator, example.program):
        imported |= {package: True for package, needed in start_imports(example.files, name).items() if needed}
    wanted = {package: PEER_MODULES.get(package, package) for package in sorted(imported | {"numpy": True})}
    example.preload = [module for module in wanted.values() if _is_installed(module)]
    example.missing = [p for p, module in wanted.items() if not _is_installed(module) and p not in PEER_MODULES]
    return example


def _add_helpers(example: PeerExample, folder: Path, queue: list[str]) -> None:
    """Add what the files of the queue import from a folder, or name in a text, and so on from there."""
    python = {path.relative_to(folder).as_posix(): path for path in _some_files(folder) if path.suffix == ".py"}
    seen = set(queue)
    while queue and len(example.files) < MAX_FILES:
        name = queue.pop()
        # Names alone decide what an import means, so the other files need no text.
        tree: Tree = {**dict.fromkeys(python, ""), name: example.files[name]}
        for path in (*imported_files(tree, name), *_named_files(example.files[name], name, folder)):
            if path in seen or path == DRIVER:
                continue
            seen.add(path)
            try:
                example.files[path] = _text(folder / path)
            except IdeatorError as error:
                example.left_out[path] = str(error)
            else:
                queue.append(path)


def _named_files(text: str, name: str, folder: Path) -> Iterator[str]:
    """The files of a folder that a Python file names in a text, alone or by their folder."""
    if not name.endswith(".py"):
        return
    with suppress(SyntaxError, ValueError, RecursionError):
        for node in ast.walk(parsed(text)):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            if not re.fullmatch(r"(?:\./)?[\w][\w.+/-]{0,199}", node.value) or ".." in node.value:
                continue
            path = folder / node.value
            # A link on the way could lead to any file of this machine, which prompts would then show.
            if not path.resolve().is_relative_to(folder.resolve()):
                continue
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(folder).as_posix()
            elif path.is_dir() and not RESULTS.fullmatch(path.name):
                yield from (file.relative_to(folder).as_posix() for file in _some_files(path))


def _some_files(folder: Path) -> Iterable[Path]:
    """The files below a folder, without what earlier runs left; not more than are taken at most."""
    files = list[Path]()
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder).parts
        if path.is_file() and not path.is_symlink() and not any(RESULTS.fullmatch(part) for part in inner[:-1]):
            files.append(path)
        if len(files) >= 10 * MAX_FILES:
            break
    return files


def _text(path: Path) -> str:
    """
    Raises:
        IdeatorError: too large, or no text.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise IdeatorError(f"{path.name}: {path.stat().st_size:,} bytes; at most {MAX_FILE_BYTES:,} are copied")
    try:
        return decoded(path.name, path.read_bytes())
    except PatchError as error:
        raise IdeatorError(str(error)) from None


def _with_task(example: PeerExample, folder: Path) -> PeerExample:
    """Where the example has no task in words: the beginning of its README, else one plain sentence."""
    if not example.task and (readme := folder / "README.md").is_file():
        paragraphs = [part.strip() for part in _text(readme).split("\n\n")]
        prose = [part for part in paragraphs if part and part[0] not in "#`|![<-"]
        example.task, example.task_from = "\n\n".join(prose[:2]), readme.name
    if not example.task:
        example.task, example.task_from = f"Improve the program `{example.program}`.", "nothing: write task.md"
    return example


def _message_of(script: Path) -> str:
    """The longest text that a script assigns to a name such as `task_sys_msg`; empty for none."""
    texts = [""]
    with suppress(SyntaxError, ValueError, RecursionError):
        for node in ast.walk(parsed(_text(script))):
            pairs: list[tuple[Any, ast.AST]] = []
            if isinstance(node, ast.Assign):
                pairs = [(getattr(target, "id", ""), node.value) for target in node.targets]
            elif isinstance(node, ast.keyword):
                pairs = [(node.arg or "", node.value)]
            for name, value in pairs:
                if "sys_msg" in str(name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    texts.append(value.value.strip())
    return max(texts, key=len)


def _defines(text: str, name: str) -> bool:
    with suppress(SyntaxError, ValueError, RecursionError):
        return any(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name for node in parsed(text).body
        )
    return False


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
