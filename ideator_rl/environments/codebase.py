"""Surveys a user's codebase: its script, its code and data, what is left out, and what its start imports.

Every guess is listed with its reason, and an option replaces it.  `.gitignore` files are respected; `--data` takes what
they ignore, since data often is.  Links, hidden folders, virtual environments and other environments are left out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ideator_rl.environments.file_kinds import CODE, DATA, LEFT_OUT, MAX_FILE_BYTES, kind_of
from ideator_rl.errors import IdeatorError
from ideator_rl.patch import Tree
from ideator_rl.patch.import_graph import python_path, start_imports
from ideator_rl.patch.source import decoded, parsed

MAX_FILES = 2_000
SKIPPED = ("__pycache__", "node_modules", "site-packages")
USUAL_SCRIPTS = ("train.py", "main.py")


@dataclass
class Codebase:
    """The files of a folder by their kind; paths are POSIX paths relative to it."""

    folder: Path
    script: str = ""
    """The file in `code` that trains."""
    script_reason: str = ""
    """Why this one, where nobody named it."""
    code: Tree = field(default_factory=dict)
    data: dict[str, Path] = field(default_factory=dict)
    """Paths below the environment's data folder, and the files to copy there."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a file counts as data."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Paths, and why."""
    python_path: list[str] = field(default_factory=list)
    preload: list[str] = field(default_factory=list)
    """Installed packages that the script's start imports."""
    missing: list[str] = field(default_factory=list)
    """Packages that it needs and that are not installed."""
    as_module: bool = False
    """Whether it runs as `python -m`, because it has relative imports."""

    @property
    def module(self) -> str:
        """The dotted name by which the script is imported."""
        path = self.script.removesuffix(".py")
        if not self.as_module:
            return path.rpartition("/")[2]  # its own folder is on the path
        roots = [f"{root}/" for root in self.python_path if path.startswith(f"{root}/")]
        return path.removeprefix(roots[0] if roots else "").replace("/", ".")


def survey(folder: Path, script: str | None, data: list[str], target: Path) -> Codebase:
    """Read a codebase.

    Args:
        data: files and folders that hold the data; for none, it is guessed.
        target: the folder of the new environment, which is no part of it.

    Raises:
        IdeatorError: no such folder, too many files, or a script or data that cannot be used.
    """
    if not folder.is_dir():
        raise IdeatorError(f"--from {folder}: there is no such folder. Give the folder of the codebase.")
    if _is_environment(folder):
        raise IdeatorError(f"--from {folder} is an environment itself. Give a codebase, such as {folder / 'baseline'}.")
    codebase, chosen = Codebase(folder), _chosen_data(folder, data)
    scripts = {_relative(script, folder)} if script else set()
    for path in _walk(folder, codebase, target.absolute(), [], scripts):
        _sort_in(path, codebase, bool(data), {file.resolve() for file in chosen.values()})
        if len(codebase.code) + len(codebase.data) > MAX_FILES:
            raise IdeatorError(f"{folder} holds over {MAX_FILES} files. Give the folder of the code that ideas change.")
    codebase.data |= chosen
    codebase.reasons |= dict.fromkeys(chosen, "--data")
    if codebase.data and all(name.startswith("data/") for name in codebase.data):
        # data/ of the environment takes the place of data/ of the codebase.
        codebase.data = {name.removeprefix("data/"): path for name, path in codebase.data.items()}
        codebase.reasons = {name.removeprefix("data/"): reason for name, reason in codebase.reasons.items()}
    _find_script(codebase, script)
    _read_imports(codebase)
    return codebase


def _is_environment(folder: Path) -> bool:
    return (folder / "env.yaml").is_file() and (folder / "baseline").is_dir()


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file() and (folder / ".lock").exists()


def _walk(folder: Path, codebase: Codebase, target: Path, ignores: list, scripts: set[str]) -> Iterator[Path]:
    """The files below a folder that are no part of something else; adds the others to `left_out`.

    Args:
        ignores: (folder, rules) of the .gitignore files above, outermost first.
        scripts: paths that are taken although a .gitignore names them.
    """
    if (rules := folder / ".gitignore").is_file():
        ignores = [*ignores, (folder, _ignore_rules(rules))]
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        name = folder.relative_to(codebase.folder).as_posix()
        codebase.left_out[name + "/"] = f"cannot be read: {error.strerror}"
        return
    for path in paths:
        name = path.relative_to(codebase.folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            codebase.left_out[name] = "a link or special file"
        elif path.is_dir() and (reason := _why_skipped(path, target)):
            codebase.left_out[name + "/"] = reason
        elif not any(f"{script}/".startswith(f"{name}/") for script in scripts) and _is_ignored(path, ignores):
            codebase.left_out[name + "/" * path.is_dir()] = "ignored by .gitignore"
        elif path.is_file():
            yield path
        else:
            yield from _walk(path, codebase, target, ignores, scripts)


def _ignore_rules(file: Path) -> Any:
    """The rules of a .gitignore; a line that is no pattern is left out, as git does."""
    from pathspec import GitIgnoreSpec

    rules = GitIgnoreSpec([])
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        with suppress(ValueError):
            rules += GitIgnoreSpec.from_lines([line])
    return rules


def _why_skipped(folder: Path, target: Path) -> str:
    if folder.absolute() == target or _is_environment(folder):
        return "an environment"
    if _is_run(folder):
        return "a run"
    if folder.name.startswith("."):
        return "hidden"
    if folder.name in SKIPPED or folder.name.endswith(".egg-info") or (folder / "pyvenv.cfg").exists():
        return "installed or made by tools"
    return ""


def _is_ignored(path: Path, ignores: list) -> bool:
    # The innermost .gitignore that names a path decides.
    for folder, spec in reversed(ignores):
        name = path.relative_to(folder).as_posix() + "/" * path.is_dir()
        if (verdict := spec.check_file(name).include) is not None:
            return bool(verdict)
    return False


def _sort_in(path: Path, codebase: Codebase, data_is_chosen: bool, chosen: set[Path]) -> None:
    name = path.relative_to(codebase.folder).as_posix()
    if path.resolve() in chosen:
        return
    try:
        kind, reason = kind_of(path, name)
        text = decoded(name, path.read_bytes()) if kind == CODE else ""
    except OSError as error:
        kind, reason, text = LEFT_OUT, f"cannot be read: {error.strerror}", ""
    if kind == CODE:
        codebase.code[name] = text
    elif kind == DATA and not data_is_chosen:
        codebase.data[name], codebase.reasons[name] = path, reason
    else:
        codebase.left_out[name] = reason if kind == LEFT_OUT else "data that --data does not name"


def _relative(name: str, folder: Path) -> str:
    """A path as one relative to the codebase, where it lies there."""
    path = Path(os.path.normpath(name))
    if not path.is_absolute() and (folder / path).exists():
        path = folder / path
    # Without following links: a folder of data is often one.
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else name.removeprefix("./")


def _chosen_data(folder: Path, data: list[str]) -> dict[str, Path]:
    """The files that --data names: in the codebase, or anywhere else.

    Raises:
        IdeatorError: there is no such file, or it is too large to copy.
    """
    chosen: dict[str, Path] = {}
    for name in data:
        relative = _relative(name, folder)
        inside = folder / relative
        start = inside if inside.exists() else Path(name)
        prefix = relative if inside.exists() and not Path(relative).is_absolute() else start.absolute().name
        if not start.exists():
            raise IdeatorError(f"--data {name}: there is no such file or folder in {folder}, nor here.")
        files = sorted(path for path in start.rglob("*") if path.is_file()) if start.is_dir() else [start]
        for path in files:
            if (size := path.stat().st_size) > MAX_FILE_BYTES:
                raise IdeatorError(
                    f"--data {path}: {size / 1e6:.0f} MB; at most {MAX_FILE_BYTES / 1e6:.0f} are copied. Leave it out, "
                    "and let prepare.py read it from where it is."
                )
            target = "/".join((prefix, *path.relative_to(start).parts)) if start.is_dir() else prefix
            if chosen.get(target, path) != path:
                raise IdeatorError(f"--data: {chosen[target]} and {path} would both become data/{target}. Rename one.")
            chosen[target] = path
        if not files:
            raise IdeatorError(f"--data {name}: the folder {start} holds no file.")
    return chosen


def _find_script(codebase: Codebase, script: str | None) -> None:
    """Set the script: the one that was named, the only one, or one with a usual name."""
    scripts = [name for name in codebase.code if name.endswith(".py")]
    if script is not None:
        codebase.script = _named_script(codebase, script, scripts)
        return
    top = [name for name in scripts if "/" not in name and name not in ("setup.py", "conftest.py")]
    choices = scripts or [name for name in codebase.left_out if name.endswith(".ipynb")]
    usual = [name for usual in USUAL_SCRIPTS for name in scripts if name.rpartition("/")[2] == usual]
    if len(top) == 1:
        codebase.script, codebase.script_reason = top[0], "the only Python file at the top"
    elif len([name for name in usual if name.endswith(usual[0].rpartition("/")[2])]) == 1:
        codebase.script, codebase.script_reason = usual[0], "by its name"
    elif choices:
        raise IdeatorError(
            f"Which file of {codebase.folder} trains? Give --script, one of: {_list_some(usual + top or choices)}."
        )
    else:
        left_out = [f"{name} ({reason})" for name, reason in codebase.left_out.items() if name.endswith(".py")]
        because = f"; left out: {_list_some(left_out)}" if left_out else ""
        raise IdeatorError(f"There is no Python file in {codebase.folder}{because}. Give the folder that holds one.")


def _named_script(codebase: Codebase, script: str, scripts: list[str]) -> str:
    name = _relative(script, codebase.folder)
    if name.endswith(".ipynb") and (codebase.folder / name).is_file():
        codebase.left_out.pop(name, None)
        target = name.removesuffix(".ipynb") + ".py"
        codebase.code[target] = _code_cells(codebase.folder / name)
        codebase.script_reason = f"the code cells of {name}"
        return target
    if name not in scripts:
        reason = f" ({codebase.left_out[name]})" if name in codebase.left_out else ""
        raise IdeatorError(
            f"--script {script} is not a Python file of {codebase.folder}{reason}. There are: {_list_some(scripts)}."
        )
    return name


def _code_cells(notebook: Path) -> str:
    """The code of a notebook as a script; lines for IPython alone become comments."""
    try:
        cells = json.loads(notebook.read_bytes())["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise IdeatorError(f"{notebook} is not a notebook of format 4: {type(error).__name__}: {error}.") from None
    lines = "\n\n".join(f"# %%\n{source}" for source in sources).split("\n")
    return "\n".join("# " + line if line.lstrip().startswith(("%", "!", "?")) else line for line in lines) + "\n"


def _list_some(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "none"


def _read_imports(codebase: Codebase) -> None:
    """Set what follows from the imports: the folders of Python's path, what is preloaded, and what is not installed."""
    source, script = codebase.code[codebase.script], codebase.script
    try:
        tree = parsed(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        reason = f"{error.msg.rstrip('.')}, line {error.lineno}" if isinstance(error, SyntaxError) else error
        raise IdeatorError(f"{script} is not Python {version}: {reason}. Give another --script, or mend it.") from None
    codebase.as_module = any(getattr(node, "level", 0) for node in tree.body)
    if "." in codebase.script.removesuffix(".py").rpartition("/")[2]:
        raise IdeatorError(f"--script {script}: Python cannot import a file with a dot in its name. Rename it.")
    codebase.python_path = python_path(codebase.code)
    packages = start_imports(codebase.code, script)
    installed = [name for name in packages if _is_installed(name)]
    # The first optimizer would import torch._dynamo, at a second of the budget.
    codebase.preload = sorted([*installed, *(["torch._dynamo"] if "torch" in installed else [])])
    codebase.missing = [name for name, needed in packages.items() if needed and name not in installed]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
