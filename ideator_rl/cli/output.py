"""What commands share: JSON and text on stdout, progress on stderr, input files, the default bucket."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ideator_rl.config.reader import MAX_DATA_BYTES, decode, read_bytes
from ideator_rl.errors import IdeatorError
from ideator_rl.files import cache_root
from ideator_rl.storage.bucket import Bucket, BucketError, MemoryBucket, open_bucket
from ideator_rl.text.display import visible


def print_json(value: Any) -> None:
    """One JSON value on one line, in ASCII: a model may have written characters that the terminal cannot encode."""
    print(json.dumps(value), flush=True)


def print_text(text: str) -> None:
    """Text for a person.  Models write ideas and errors: nothing in them may act on the terminal."""
    encoding = sys.stdout.encoding or "utf-8"
    print(visible(text).encode(encoding, "replace").decode(encoding), flush=True)


def print_progress(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def read_text(name: str) -> str:
    """A file's text, or that of stdin for `-`.

    Raises:
        IdeatorError: no such file, no file, too large, or it is not UTF-8 text.
    """
    # A shell hands over the output of another program as such a path: `--diff <(git diff)`.
    if name == "-" or name.startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/")):
        try:
            with open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
                data = file.read(MAX_DATA_BYTES + 1)
        except (OSError, ValueError) as error:
            raise IdeatorError(f"{name} cannot be read: {error}. Give the path of a file.") from None
        if len(data) > MAX_DATA_BYTES:
            raise IdeatorError(f"{name} has more than {MAX_DATA_BYTES} bytes. Give less.")
    else:
        data = read_bytes(name, error=IdeatorError, max_bytes=MAX_DATA_BYTES)
    return decode(data, name, IdeatorError)


def read_patch(name: str) -> str:
    """A patch file's text.

    Raises:
        IdeatorError: no such file, nothing in it, or not UTF-8 text.
    """
    text = read_text(name)
    if not text.strip():
        raise IdeatorError(f"The patch {name} is empty. Expected a unified diff or SEARCH/REPLACE blocks.")
    return text


def write_new(path: Path, text: str) -> None:
    """Write a new file, all of it or nothing.

    Raises:
        IdeatorError: it exists, or cannot be written.
    """
    try:
        file = open(path, "x", encoding="utf-8")  # noqa: SIM115 - closed below, where a full disk may print_text
    except FileExistsError:
        raise IdeatorError(f"{path} exists already. Give another name; nothing is overwritten.") from None
    except OSError as error:
        raise IdeatorError(f"{path} cannot be written: {error.strerror}. Give another name.") from None
    try:
        with file:
            file.write(text)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise IdeatorError(f"{path} cannot be written: {error.strerror}. Nothing was left behind; repeat.") from None


def bucket_url(url: str | None) -> str:
    """The URL of this bucket, or of the one in the user's cache.  It is opened once, so that it exists.

    Raises:
        BucketError: it cannot be used, or not by several processes.
    """
    return open_shared_bucket(url).url


def open_shared_bucket(url: str | None) -> Bucket:
    """That bucket, opened.

    Raises:
        BucketError: as `bucket_url`.
    """
    bucket = open_bucket(url or str(cache_root() / "bucket"))
    if isinstance(bucket, MemoryBucket):
        raise BucketError(
            f"The bucket {url!r} exists in one process, and experiments run in others. Use file:// or s3://."
        )
    return bucket
