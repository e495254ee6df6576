"""Training and validation text for nanogpt: the sources of the installed `transformers`, as bytes.

Every installation has the same bytes for the same version and no experiment imports them.  Whole model
folders are held out for validation; they are spread over the package by a hash of their names.  Consecutive
lines that validation holds too are cut from the training text, from `RUN` bytes up, so that code copied
between models is not there to memorise.  Only the `cpu` preset has its data pipeline yet.
"""

import hashlib
import importlib.util
from collections.abc import Iterator
from importlib.metadata import version as installed
from pathlib import Path

TRAIN_BYTES = 8_000_000
VAL_BYTES = 500_000
RUN = 128
"""Bytes."""


def version() -> str:
    """What the prepared data depends on besides this file."""
    return f"transformers {installed('transformers')}"


def sources() -> list[Path]:
    """Host folders that hold the original text, to be hidden from experiments."""
    return [_package()]


def prepare(public: Path, private: Path, preset: str) -> None:
    """Write `train.bin` to public and `val.bin` to private, one byte a token.

    Raises:
        NotImplementedError: a preset whose data pipeline does not exist yet.
    """
    if preset != "cpu":
        raise NotImplementedError(f"The preset {preset!r} of nanogpt has no data pipeline yet; use the preset 'cpu'.")
    validation, training = _split(_package())
    val_lines = [line for path in validation for line in _lines(path)]
    held = {run for _, _, run in _runs(val_lines)}
    text = bytearray()
    for path in training:
        text += _without(_lines(path), held)
        if len(text) >= TRAIN_BYTES:
            break
    (public / "train.bin").write_bytes(text[:TRAIN_BYTES])
    (private / "val.bin").write_bytes("".join(val_lines).encode()[:VAL_BYTES])


def _package() -> Path:
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("nanogpt reads the sources of transformers, which is not installed.")
    return Path(spec.origin).resolve().parent


def _split(package: Path) -> tuple[list[Path], list[Path]]:
    """Files for validation and for training, in the order in which they are taken."""
    folders = sorted((p for p in (package / "models").iterdir() if p.is_dir()), key=lambda p: _hash(p.name))
    held, size = [], 0
    for folder in folders:
        if size >= 1.3 * VAL_BYTES:
            break
        files = sorted(folder.glob("*.py"))
        held += files
        size += sum(path.stat().st_size for path in files)
    rest = sorted(package.rglob("*.py"), key=lambda p: _hash(p.relative_to(package).as_posix()))
    return held, [path for path in rest if path not in set(held)]


def _lines(path: Path) -> list[str]:
    """The lines of a source file after its licence; none when it is not UTF-8."""
    try:
        lines = path.read_bytes().decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return []
    start = 0
    while start < len(lines) and lines[start].startswith("#"):
        start += 1
    return lines[start:]


def _runs(lines: list[str]) -> Iterator[tuple[int, int, str]]:
    """From every line on, the fewest lines that hold `RUN` bytes: first, past the last, and their text."""
    end, size = 0, 0
    for start, line in enumerate(lines):
        while size < RUN and end < len(lines):
            size += len(lines[end])
            end += 1
        if size < RUN:
            return
        yield start, end, "".join(lines[start:end])
        size -= len(line)


def _without(lines: list[str], held: set[str]) -> bytes:
    cut = {i for start, end, run in _runs(lines) if run in held for i in range(start, end)}
    return "".join(line for i, line in enumerate(lines) if i not in cut).encode()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
