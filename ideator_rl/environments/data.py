"""Prepared data of environments: written once by the environment's own `prepare.py` into the user's cache.

Two folders: `public`, which experiments read, and `private`, which only the evaluator reads.  The cache folder's name
holds a digest of prepare.py, of the modules that it loads and of its `version()`, so that a changed source is prepared
again.  Preparing is atomic: a killed preparation leaves nothing that looks finished.

Data that come from large source files are prepared by `ideator-rl env prepare`, into a folder that the next call goes
on with.  Where they are missing, every other command fails with that command line in its message.
"""

from __future__ import annotations

import ast
import errno
import hashlib
import importlib.util
import inspect
import json
import os
import shlex
import shutil
import stat
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ideator_rl.config.reader import read_json, read_text
from ideator_rl.errors import IdeatorError
from ideator_rl.files import NoFileLocks, atomic_folder, cache_root, exclusive, write_atomic
from ideator_rl.registry import environment_folder

IDENTITY = "identity.txt"
"""A file beside `public` in which prepare.py may record what it took, such as checksums of the user's model."""
SOURCE_RECORD = "source.json"
"""In the folder of data: the folder that they were prepared from."""


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


def loaded_modules(path: Path) -> dict[str, str]:
    """SHA-256 by name of the modules in a trusted file's folder that it loads, directly or through each other.

    Read from the syntax: imports, and texts that are the name of a file, as `load_trusted` gets it.
    """
    files = {file.name: file for file in path.parent.glob("*.py")}
    loaded, queue = dict[str, str](), [path]
    while queue:
        code = queue.pop().read_bytes()
        try:
            names = {name for node in ast.walk(ast.parse(code)) for name in _module_files(node)}
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # who loads it shows the error
            continue
        for name in sorted((names & files.keys()) - loaded.keys() - {path.name}):
            loaded[name] = hashlib.sha256(files[name].read_bytes()).hexdigest()
            queue.append(files[name])
    return loaded


def _module_files(node: ast.AST) -> list[str]:
    """Names of the files that a node may load."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value.rpartition("/")[2]]
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
    if isinstance(node, ast.ImportFrom) and node.module:
        names.append(node.module)
    return [f"{part}.py" for name in names for part in name.split(".")]


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


class SourceError(IdeatorError):
    """To be raised by prepare.py for source files that are not usable; the user sees its text alone."""


class NeedsSource(SourceError):
    """To be raised by prepare.py when a preset's data can be made only from files that the user has or downloads."""

    def __init__(self, files: str, options: str = "--from DIR"):
        """
        Args:
            files: what is needed, such as "71 shards of FineWeb".
            options: of `ideator-rl env prepare`, such as "--from DIR (or --download)".
        """
        super().__init__(files)
        self.options = options


def _parameters(function: Callable[..., Any]) -> int:
    return len(inspect.signature(function).parameters)


@dataclass(frozen=True)
class DataSource:
    """Whose data are prepared, and by which file."""

    name: str
    root: Path
    """The environment's folder."""
    prepare: Path | None
    preset: str

    @property
    def command(self) -> str:
        """The command that prepares the data."""
        reference = self.name if environment_folder(self.name) == self.root else str(self.root)
        return f"ideator-rl env prepare {shlex.quote(reference)} --preset {shlex.quote(self.preset)}"

    def identity(self, modules: bool = True) -> str:
        """What decides the data: the hashes of the file and of modules that it loads, and the text that its `version()`
        returns, if it has one.

        A `version(preset)` with a parameter counts alone, so that an edit of the file does not demand large data to be
        prepared again; with it counts what prepare.py recorded in `IDENTITY`.

        Args:
            modules: false for the identity of earlier versions, without the modules.
        """
        if self.prepare is None:
            return ""
        with _blamed(self.prepare, "state its version()"):
            version = getattr(load_trusted(self.prepare), "version", None)
            if version is not None and _parameters(version):
                return str(version(self.preset)) + self._recorded_identity()
            digest = hashlib.sha256(self.prepare.read_bytes()).hexdigest()
            stated = str(version()) if version is not None else ""
            return digest + stated + (self._modules() if modules else "")

    def _modules(self) -> str:
        """The hashes of the modules that prepare.py loads; empty for none."""
        modules = loaded_modules(self.prepare) if self.prepare is not None else {}
        return "\0" + json.dumps(modules, sort_keys=True) if modules else ""

    def _recorded_identity(self) -> str:
        file = self.folder() / IDENTITY
        return "\0" + read_text(file, error=IdeatorError) if file.is_file() else ""

    def folder(self) -> Path:
        """Where the data are, or will be once they are prepared."""
        body = ""
        if self.prepare is not None:
            with _blamed(self.prepare, "state its version()"):
                version = getattr(load_trusted(self.prepare), "version", None)
                if version is not None and _parameters(version):
                    body = str(version(self.preset))
                else:
                    body = read_text(self.prepare, error=IdeatorError)
                    body += (str(version()) if version is not None else "") + self._modules()
        digest = hashlib.sha256(f"{body}\0{self.preset}".encode()).hexdigest()[:16]
        return cache_root() / "data" / f"{self.name}-{self.preset}-{digest}"

    def originals(self) -> tuple[Path, ...]:
        """Host folders that prepare.py reads its sources from."""
        if self.prepare is None:
            return ()
        with _blamed(self.prepare, "name its sources()"):
            sources = getattr(load_trusted(self.prepare), "sources", None)
            if sources is None:
                return ()
            return tuple(Path(folder) for folder in (sources(self.preset) if _parameters(sources) else sources()))

    def shared(self) -> float:
        """The share of hidden pieces that the public data may hold too, as prepare.py's `shared(preset)` returns it; 0
        without such a function."""
        if self.prepare is None:
            return 0.0
        with _blamed(self.prepare, "state its shared(preset)"):
            shared = getattr(load_trusted(self.prepare), "shared", None)
            return float(shared(self.preset)) if shared is not None else 0.0

    def function(self) -> Callable[..., Any] | None:
        """`prepare` of prepare.py; None without such a file.

        Raises:
            IdeatorError: it cannot be imported, or has no such function.
        """
        if self.prepare is None:
            return None
        with _blamed(self.prepare, f"prepare data for the preset {self.preset!r}"):
            function: Callable[..., Any] | None = getattr(load_trusted(self.prepare), "prepare", None)
            if function is None:
                raise IdeatorError("it has no function prepare(public, private, preset)")
            return function


def prepared(source: DataSource) -> Data:
    """The data folders of an environment's preset, prepared on first use.

    Raises:
        IdeatorError: prepare.py failed, and the message has its error and its line; or the cache cannot be written; or
            the data need source files, and the message has the command that prepares them.
    """
    folder, originals = source.folder(), source.originals()
    if not folder.is_dir():
        _make(source, folder, None)
    return Data(folder / "public", folder / "private", (*originals, *_recorded_source(folder)))


def prepare_data(source: DataSource, options: PrepareOptions) -> tuple[Data, bool]:
    """Prepare the data of a preset from source files; goes on where a killed call ended.

    Returns:
        the data, and whether they were prepared by this call.

    Raises:
        IdeatorError: as `prepared`; or prepare.py takes no source.
    """
    folder, function = source.folder(), source.function()
    takes_options = function is not None and _parameters(function) > 3
    if not takes_options and (options.source or options.download or options.shards):
        raise IdeatorError(
            f"The preset {source.preset!r} of {source.name} makes its data from what is installed. "
            "Leave out --from, --download and --shards."
        )
    made = False
    if not folder.is_dir():
        if options.source is not None:
            _check_source(options.source)
        made = _make(source, folder, options if takes_options else None)
    return prepared(source), made


def _check_source(folder: Path) -> None:
    """
    Raises:
        SourceError: it is no folder, or experiments cannot do without what it holds.
    """
    if not folder.is_dir():
        raise SourceError(f"There is no folder {folder}. Give the folder that holds the source files as --from DIR.")
    # Experiments see an empty folder in its place, see `Data.masked`.
    paths = (sys.prefix, sys.base_prefix, "/usr", *sysconfig.get_paths().values())
    needed = next((path for path in paths if Path(path).resolve().is_relative_to(folder.resolve())), None)
    if needed is not None:
        raise SourceError(f"--from {folder} holds {needed}, and is hidden from experiments. Give a folder of its own.")


def _recorded_source(folder: Path) -> tuple[Path, ...]:
    """The folder that the data were prepared from; empty for none, or where it is gone."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        source = Path(read_json(folder / SOURCE_RECORD)["source"])
        return (source,) if source.is_dir() else ()
    return ()


def _make(source: DataSource, folder: Path, options: PrepareOptions | None) -> bool:
    """Have prepare.py write the data, in one process at a time.

    Args:
        options: None where no command asked for it.

    Returns: whether this process wrote them.
    """
    try:
        with exclusive(folder):
            if folder.is_dir():
                return False  # another process has prepared it meanwhile
            if options is None:
                with atomic_folder(folder) as scratch:
                    _fill(scratch, source, options)
            else:
                # Under one name, so that what was written before a kill is used by the next call.
                partial = folder.with_name(folder.name + ".partial")
                partial.mkdir(exist_ok=True)
                _fill(partial, source, options)
                os.replace(partial, folder)
            return True
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
    except SourceError:
        raise
    except (Exception, SystemExit) as error:
        text = str(error) if isinstance(error, IdeatorError) else f"{type(error).__name__}: {error}"
        raise IdeatorError(f"{path} could not {task}: {text}{trusted_line(error, path)}") from error


def _fill(folder: Path, source: DataSource, options: PrepareOptions | None) -> None:
    """Make the public and the private folder, and have prepare.py write into them."""
    (folder / "public").mkdir(exist_ok=True)
    (folder / "private").mkdir(mode=0o700, exist_ok=True)
    function = source.function()
    if function is None or source.prepare is None:
        return
    arguments: list[Any] = [folder / "public", folder / "private", source.preset]
    # A fourth parameter is for sources: without one, the function raises NeedsSource or makes its data itself.
    if _parameters(function) > 3:
        arguments.append(options or PrepareOptions())
    with _blamed(source.prepare, f"prepare data for the preset {source.preset!r}"):
        try:
            function(*arguments)
        except NeedsSource as missing:
            raise NeedsSource(
                f"The preset {source.preset!r} of {source.name} needs {missing}. Prepare its data once: "
                f"{source.command} {missing.options}"
            ) from None
    # Root's experiments read it as another user, whatever the umask is here.
    for path in (folder, folder / "public", *(folder / "public").rglob("*")):
        readable = path.stat().st_mode | (0o005 if path.is_dir() else 0o004)
        if not path.is_symlink() and readable != path.stat().st_mode:
            path.chmod(readable)
    if options is not None and options.source is not None:
        write_atomic(folder / SOURCE_RECORD, json.dumps({"source": str(options.source.resolve())}))


def link_or_copy(source: Path, target: Path) -> None:
    """Put a large file into a folder of data: as a hard link where possible, else as a copy; whole or not at all.

    A target that is the source, or has its size and time of change, is the work of a call that was killed later.  What
    not everybody may read is copied: experiments run as another user, and the user's file stays as it is.
    """
    info = source.stat()
    if target.is_file():
        there = target.stat()
        if target.samefile(source) or (there.st_size, there.st_mtime_ns) == (info.st_size, info.st_mtime_ns):
            return
    scratch = target.with_name(f".{target.name}.partial")
    scratch.unlink(missing_ok=True)
    linked = False
    if info.st_mode & stat.S_IROTH:
        with suppress(OSError):  # another file system, or one without links
            os.link(source.resolve(), scratch)
            linked = True
    if not linked:
        shutil.copyfile(source, scratch)
        scratch.chmod(0o644)
        os.utime(scratch, ns=(info.st_atime_ns, info.st_mtime_ns))
    os.replace(scratch, target)
