"""Writes a new environment: a small complete example, or a frame around an existing codebase.

The folder appears complete or not at all, and overwrites nothing.  Python files and short texts of a codebase go to
`baseline/`, its other files to `data/`, which no experiment sees: data among the code would reveal the hidden part.
Links, hidden folders, virtual environments and huge files are left out and listed.
"""

from __future__ import annotations

import ast
import random
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ideator_rl.errors import IdeatorError
from ideator_rl.files import atomic_folder
from ideator_rl.patch import PatchError
from ideator_rl.patch.judge import check_name

TEMPLATES = Path(__file__).with_name("templates")
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
SHORT_TEXT_BYTES = 50_000
"""A longer text that is not Python counts as data."""
MAX_FILE_BYTES, MAX_FILES = 100_000_000, 2_000
SKIPPED = ("__pycache__", "node_modules")


@dataclass
class Codebase:
    """The files of a folder by their kind; paths are relative to it."""

    folder: Path
    script: str
    code: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Paths with the reason."""


@dataclass(frozen=True)
class NewEnvironment:
    folder: Path
    name: str
    codebase: Codebase | None
    """None for the example."""


def new_environment(
    folder: Path, name: str | None, source: Path | None = None, script: str | None = None
) -> NewEnvironment:
    """Write an environment into a new or empty folder.

    Raises:
        IdeatorError: the folder is not empty, the name is not valid, or the codebase or its script is not usable.
    """
    name = _check_name(folder, name)
    _refuse_existing(folder)
    if source is None and script is not None:
        raise IdeatorError(f"--script {script} names a file of a codebase. Give its folder too: --from FOLDER.")
    codebase = _survey(source, script) if source is not None else None
    fields = {"NAME": name, "PATH": str(folder)}
    if codebase is not None:
        module = codebase.script.removesuffix(".py").replace("/", ".")
        preload = ", ".join(_packages(codebase))
        fields |= {"SCRIPT": codebase.script, "MODULE": module, "PRELOAD": preload}
    with atomic_folder(folder, overwrite=False) as scratch:
        _fill(TEMPLATES / ("example" if codebase is None else "own_code"), scratch, fields)
        if codebase is not None:
            _copy(codebase, scratch)
    return NewEnvironment(folder, name, codebase)


def _check_name(folder: Path, name: str | None) -> str:
    """The name, or one made from the folder's."""
    chosen = name or folder.name.lower().replace("-", "_")
    if not NAME.fullmatch(chosen):
        origin = f"--name {name}" if name else f"the folder's name, {folder.name!r},"
        raise IdeatorError(
            f"{origin} is not a name for an environment: expected at most 40 lower-case letters, digits and _, with a "
            "letter first. Give one with --name."
        )
    return chosen


def _refuse_existing(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise IdeatorError(f"{folder} exists already and is not a folder. Give another path; nothing is overwritten.")
    if folder.is_dir() and any(folder.iterdir()):
        raise IdeatorError(f"{folder} exists already and is not empty. Give another path; nothing is overwritten.")


def _survey(folder: Path, script: str | None) -> Codebase:
    if not folder.is_dir():
        raise IdeatorError(f"--from {folder}: there is no such folder. Give the folder of the codebase.")
    codebase = Codebase(folder, "")
    for path in _walk(folder, codebase):
        _classify(path, path.relative_to(folder).as_posix(), codebase)
        if len(codebase.code) + len(codebase.data) > MAX_FILES:
            raise IdeatorError(f"{folder} holds over {MAX_FILES} files. Give the folder of the code that ideas change.")
    codebase.script = _find_script(codebase, script)
    return codebase


def _walk(folder: Path, codebase: Codebase) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        name = path.relative_to(codebase.folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            codebase.left_out.append(f"{name} (a link or special file)")
        elif path.is_file():
            yield path
        elif path.name.startswith(".") or path.name in SKIPPED or (path / "pyvenv.cfg").exists():
            codebase.left_out.append(f"{name}/")
        else:
            yield from _walk(path, codebase)


def _classify(path: Path, name: str, codebase: Codebase) -> None:
    size = path.stat().st_size
    try:
        check_name(name)
    except PatchError as error:
        codebase.left_out.append(str(error))
        return
    if size > MAX_FILE_BYTES:
        codebase.left_out.append(f"{name} ({size / 1e6:.0f} MB)")
    elif (path.suffix == ".py" or size <= SHORT_TEXT_BYTES) and _is_text(path):
        codebase.code.append(name)
    else:
        codebase.data.append(name)


def _is_text(path: Path) -> bool:
    try:
        return "\0" not in path.read_bytes().decode()
    except UnicodeDecodeError:
        return False


def _find_script(codebase: Codebase, script: str | None) -> str:
    """The path of `script` in the codebase; for None, its only top-level Python file."""
    scripts = [name for name in codebase.code if name.endswith(".py")]
    if script is None:
        top = [name for name in scripts if "/" not in name]
        if len(top) != 1:
            raise IdeatorError(f"Which file of {codebase.folder} trains? Give --script, one of: {_list_some(scripts)}.")
        return top[0]
    name = script.removeprefix("./")
    if Path(script).is_absolute() and Path(script).is_relative_to(codebase.folder.absolute()):
        name = Path(script).relative_to(codebase.folder.absolute()).as_posix()
    if name not in scripts:
        raise IdeatorError(
            f"--script {script} is not a Python file of {codebase.folder}. There are: {_list_some(scripts)}."
        )
    return name


def _list_some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "none"


def _packages(codebase: Codebase) -> list[str]:
    """Third-party packages that the script imports: slow to import, so `preload` keeps them out of the budget."""
    try:
        body = ast.parse((codebase.folder / codebase.script).read_text()).body
    except SyntaxError as error:
        raise IdeatorError(f"{codebase.script} is not Python {sys.version_info[0]}: {error}.") from None
    imports = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    imports += [node.module for node in body if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    own = {Path(name).parts[0].removesuffix(".py") for name in codebase.code}
    packages = {name.partition(".")[0] for name in imports} - own - set(sys.stdlib_module_names)
    # The first optimizer would import torch._dynamo, at a second of the budget.
    return sorted(packages | ({"torch._dynamo"} if "torch" in packages else set()))


def _fill(template: Path, target: Path, fields: dict[str, str]) -> None:
    """Copy a template; `__NAME__` and other fields are filled in, and a seed of 0 becomes a random one."""
    for path in sorted(template.rglob("*")):
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        text = re.sub(r"__([A-Z]+)__", lambda match: fields[match[1]], path.read_text())
        text = re.sub(r"^SEED = 0\b", f"SEED = {random.SystemRandom().randrange(1, 2**31)}", text, flags=re.M)
        copy = target / path.relative_to(template)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)


def _copy(codebase: Codebase, target: Path) -> None:
    for part, names in (("baseline", codebase.code), ("data", codebase.data)):
        (target / part).mkdir()
        for name in names:
            copy = target / part / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(codebase.folder / name, copy)
