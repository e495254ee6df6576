"""What the files of a codebase are, by name, place and content: code, data, or neither.

Data must not lie among the code, where an experiment could read the hidden part of it.  A file that is neither is left
out with its reason, since a picture or a lock file that is split as data gives a metric without meaning.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ideator_rl.patch import PatchError
from ideator_rl.patch.judge import check_name
from ideator_rl.patch.source import decoded

CODE, DATA, LEFT_OUT = "code", "data", "left out"
SHORT_TEXT_BYTES = 50_000
"""A longer text that is not Python is no code."""
MAX_FILE_BYTES = 100_000_000
DATA_FOLDERS = {"data", "dataset", "datasets", "corpus", "corpora"}
TEXT_DATA = {".txt", ".text", ".csv", ".tsv", ".jsonl", ".ndjson"}
BINARY_DATA = {
    ".arrow", ".bin", ".bz2", ".db", ".feather", ".gz", ".h5", ".hdf5", ".idx", ".mat", ".npy", ".npz", ".parquet",
    ".pickle", ".pkl", ".sqlite", ".tar", ".tfrecord", ".tgz", ".xz", ".zip", ".zst",
}  # fmt: skip
NEITHER = {
    "a picture, sound or document": {
        ".avif", ".bmp", ".doc", ".docx", ".eps", ".gif", ".ico", ".jpeg", ".jpg", ".mov", ".mp3", ".mp4", ".otf",
        ".pdf", ".png", ".ppt", ".pptx", ".svg", ".tif", ".tiff", ".ttf", ".wav", ".webm", ".webp", ".woff", ".woff2",
        ".xlsx",
    },
    "weights": {".ckpt", ".gguf", ".onnx", ".pb", ".pt", ".pth", ".safetensors", ".tflite"},
    "a lock file": {".lock"},
    "compiled": {".a", ".dll", ".dylib", ".o", ".pyc", ".pyd", ".so", ".whl"},
}  # fmt: skip
LOCK_FILES = {"conda-lock.yml", "npm-shrinkwrap.json", "package-lock.json", "pnpm-lock.yaml", "yarn.lock"}
DOCUMENTS = ("authors", "changelog", "cmakelists", "contributing", "copying", "licence", "license", "notice", "readme",
             "requirements")  # fmt: skip
"""Beginnings of names of texts that are no data, wherever they lie."""


def kind_of(path: Path, name: str) -> tuple[str, str]:
    """The kind of a file, and why.

    Args:
        name: its POSIX path in the codebase.
    """
    base, suffix, size = path.name.lower(), path.suffix.lower(), path.stat().st_size
    try:
        check_name(name)
    except PatchError as error:
        return LEFT_OUT, str(error).removeprefix(f"{name!r}: ")
    reason = "a lock file" if base in LOCK_FILES else next((why for why, ends in NEITHER.items() if suffix in ends), "")
    if base.startswith("."):
        reason = "hidden"
    elif suffix == ".ipynb":
        reason = "a notebook; --script takes the code cells of one"
    elif size > MAX_FILE_BYTES:
        reason = f"{size / 1e6:.0f} MB; at most {MAX_FILE_BYTES / 1e6:.0f} are copied"
    if reason:
        return LEFT_OUT, reason
    return _kind_by_content(path, name, size)


def _kind_by_content(path: Path, name: str, size: int) -> tuple[str, str]:
    suffix = path.suffix.lower()
    # A Python package may be called data too, and reads its own small files.
    parents = path.parents[: len(PurePosixPath(name).parts) - 1]
    folders = {folder.name.lower() for folder in parents if not (folder / "__init__.py").exists()}
    try:
        decoded(name, path.read_bytes())
    except PatchError as error:
        if suffix in BINARY_DATA | TEXT_DATA or folders & DATA_FOLDERS:
            return DATA, "by the end of its name" if suffix in BINARY_DATA | TEXT_DATA else "in a folder of data"
        return LEFT_OUT, str(error).removeprefix(f"{name}: ").partition(";")[0]
    if suffix in (".py", ".pyi"):
        return CODE, ""
    is_document = path.name.lower().startswith(DOCUMENTS) or suffix in (".md", ".rst", ".sh", ".cfg", ".toml", ".ini")
    if not is_document and folders & DATA_FOLDERS:
        return DATA, "in a folder of data"
    if size <= SHORT_TEXT_BYTES:
        return CODE, ""
    if suffix in TEXT_DATA and not is_document:
        return DATA, "a long text"
    return LEFT_OUT, "a long text that looks like neither code nor data"
