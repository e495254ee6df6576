"""Prepared data of environments: written once by the environment's own `prepare.py` into the user's cache.

Two folders: `public`, which experiments read, and `private`, which only the evaluator reads.  The cache folder's name
holds a digest of prepare.py and of its `version()`, so that a changed source is prepared again.  Preparing is atomic:
a killed preparation leaves nothing that looks finished.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from ideator_rl.config.reader import read_text
from ideator_rl.errors import IdeatorError
from ideator_rl.files import NoFileLocks, atomic_folder, cache_root, exclusive


@dataclass(frozen=True)
class Data:
    """Prepared data: experiments read `public`, only the evaluator reads `private`."""

    public: Path
    private: Path
    masked: tuple[Path, ...]
    """Host folders that hold the originals: hidden from experiments."""


@cache
def load_trusted(path: Path) -> ModuleType:
    """Import an environment's own module (prepare, evaluator) by its path, without touching `sys.path`."""
    name = "ideator_rl_env_" + hashlib.sha256(str(path).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise IdeatorError(f"{path} is not a Python module; expected a file ending in .py.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trusted_line(error: BaseException, path: Path) -> str:
    """The line of a trusted file that raised an error: ` (evaluator.py, line 7: its text)`, or empty.

    Contains no text of the error itself, which may come from untrusted input.
    """
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f" ({path.name}, line {error.lineno}: {(error.text or '').strip()})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == str(path):
            return f" ({path.name}, line {frame.lineno}: {frame.line})"
    return ""


def data_version(prepare: Path) -> str:
    """The text that prepare.py's `version()` returns for its sources; empty without such a function."""
    with _blamed(prepare, "state its version()"):
        module = load_trusted(prepare)
        return str(module.version()) if hasattr(module, "version") else ""


def prepared(name: str, prepare: Path | None, preset: str) -> Data:
    """The data folders of an environment's preset, prepared on first use.

    Raises:
        IdeatorError: prepare.py failed, and the message has its error and its line; or the cache cannot be written.
    """
    body = (read_text(prepare, error=IdeatorError) + data_version(prepare)) if prepare else ""
    digest = hashlib.sha256(f"{body}\0{preset}".encode()).hexdigest()[:16]
    folder = cache_root() / "data" / f"{name}-{preset}-{digest}"
    masked: tuple[Path, ...] = ()
    if prepare:
        with _blamed(prepare, "name its sources()"):
            masked = tuple(Path(source) for source in getattr(load_trusted(prepare), "sources", list)())
    if not folder.is_dir():
        _prepare(folder, prepare, preset)
    return Data(folder / "public", folder / "private", masked)


def _prepare(folder: Path, prepare: Path | None, preset: str) -> None:
    try:
        with exclusive(folder):
            if folder.is_dir():
                return  # another process has prepared it meanwhile
            with atomic_folder(folder) as scratch:
                _fill(scratch, prepare, preset)
    except NoFileLocks:
        raise
    except OSError as error:
        # What prepare.py itself raises has been turned into an IdeatorError: this is our own folder.
        remedy = "Set XDG_CACHE_HOME to another folder."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "Free space there, or set XDG_CACHE_HOME to a folder with more."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "Set XDG_CACHE_HOME to a folder that this user may write to."
        reason = error.strerror or error
        raise IdeatorError(f"The folder of prepared data, {folder}, cannot be written: {reason}. {remedy}") from error


@contextmanager
def _blamed(path: Path, task: str) -> Iterator[None]:
    """Turn every error of a trusted file into one sentence with the file, what was raised, and the line.

    Raises:
        IdeatorError: what the block raised.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        text = str(error) if isinstance(error, IdeatorError) else f"{type(error).__name__}: {error}"
        raise IdeatorError(f"{path} could not {task}: {text}{trusted_line(error, path)}") from error


def _fill(folder: Path, prepare: Path | None, preset: str) -> None:
    """Make the public and the private folder, and have prepare.py write into them."""
    (folder / "public").mkdir()
    (folder / "private").mkdir(mode=0o700)
    if prepare is None:
        return
    with _blamed(prepare, f"prepare data for the preset {preset!r}"):
        function = getattr(load_trusted(prepare), "prepare", None)
        if function is None:
            raise IdeatorError("it has no function prepare(public, private, preset)")
        function(folder / "public", folder / "private", preset)
