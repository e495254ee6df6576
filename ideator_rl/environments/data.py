"""Prepared data of environments: written once by the environment's own `prepare.py` into the user's cache.

Two folders: `public`, which experiments read, and `private`, which only the evaluator reads.  The cache folder's name
holds a digest of prepare.py and of its `version()`, so that a changed source is prepared again.  Preparing is atomic:
a killed preparation leaves nothing that looks finished.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

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


@dataclass(frozen=True)
class PrepareOptions:
    """What `ideator-rl env prepare` hands to `prepare(public, private, preset, options)`."""

    source: Path | None = None
    """The folder that holds the source files, of `--from DIR`."""
    download: bool = False
    """Whether source files may be downloaded."""
    shards: int | None = None
    """How many shards to prepare; None for as many as the preset reads."""
    report: Callable[[str], None] = lambda line: None
    """Takes one line about progress."""


class NeedsSource(IdeatorError):
    """To be raised by prepare.py when a preset's data can be made only from files that the user has or downloads.

    The text names these files, such as "71 shards of FineWeb".
    """


def data_identity(prepare: Path, preset: str) -> str:
    """What decides a preset's data.

    It is the file's hash and the text that its `version()` returns, if it has one.  A `version(preset)` with a
    parameter counts alone, so that an edit of the file does not demand large data to be prepared again.
    """
    with _blamed(prepare, "state its version()"):
        version = getattr(load_trusted(prepare), "version", None)
        if version is not None and _parameters(version):
            return str(version(preset))
        return hashlib.sha256(prepare.read_bytes()).hexdigest() + (str(version()) if version is not None else "")


def _parameters(function: Callable[..., Any]) -> int:
    return len(inspect.signature(function).parameters)


def prepared(name: str, prepare: Path | None, preset: str) -> Data:
    """The data folders of an environment's preset, prepared on first use.

    Raises:
        IdeatorError: prepare.py failed, and the message has its error and its line; or the cache cannot be written.
    """
    folder, masked = _folder(name, prepare, preset), _masked(prepare, preset)
    if not folder.is_dir():
        _prepare(folder, prepare, preset)
    return Data(folder / "public", folder / "private", masked)


def _folder(name: str, prepare: Path | None, preset: str) -> Path:
    """Where the data of a preset are, or will be once they are prepared."""
    body = ""
    if prepare is not None:
        with _blamed(prepare, "state its version()"):
            version = getattr(load_trusted(prepare), "version", None)
            if version is not None and _parameters(version):
                body = str(version(preset))
            else:
                body = read_text(prepare, error=IdeatorError) + (str(version()) if version is not None else "")
    digest = hashlib.sha256(f"{body}\0{preset}".encode()).hexdigest()[:16]
    return cache_root() / "data" / f"{name}-{preset}-{digest}"


def _masked(prepare: Path | None, preset: str) -> tuple[Path, ...]:
    if prepare is None:
        return ()
    with _blamed(prepare, "name its sources()"):
        sources = getattr(load_trusted(prepare), "sources", list)
        takes_preset = sources is not list and _parameters(sources)
        return tuple(Path(source) for source in (sources(preset) if takes_preset else sources()))


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
        arguments = (folder / "public", folder / "private", preset)
        # A fourth parameter is for sources: without one, the function raises NeedsSource or makes its data itself.
        function(*arguments, *([PrepareOptions()] if _parameters(function) > 3 else []))
