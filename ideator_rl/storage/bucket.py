"""Buckets by URL.  A bucket is an object store, and the only truth of a run.

Guarantees, whichever scheme: `create` is atomic and has exactly one winner; an object appears whole or not at all;
a listing names every object created before it.  Nothing is promised about objects that appear during a listing.

    file:///path, or a plain path   a folder, for processes on one machine or a shared file system
    memory://name                   this process (tests, testbeds)
    s3://, gs://, az://             an object store in the network, by the extra `s3`

A bucket that is away (unmounted, renamed, out of reach) raises `BucketError` and is never taken for an empty one.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ideator_rl.storage.bucket_proof import ensure_proved
from ideator_rl.storage.bucket_protocol import (
    Bucket,
    BucketError,
    DamagedObject,
    damaged_object,
    parse_object,
    read_object,
)
from ideator_rl.storage.file_bucket import FileBucket
from ideator_rl.storage.memory_bucket import MemoryBucket

__all__ = [
    "Bucket", "BucketError", "DamagedObject", "FileBucket", "MemoryBucket", "absolute_url", "bucket_at",
    "check_url", "credential_variables", "damaged_object", "folder_of", "is_remote", "open_bucket", "parse_object",
    "read_object",
]  # fmt: skip

REMOTE_SCHEMES = ("s3", "gs", "az")
ADVICE = (
    "A bucket is file:///absolute/path (three slashes), a plain path, memory://name, s3://bucket/prefix, "
    "gs://bucket/prefix or az://container/prefix."
)
CREDENTIALS = ("AWS_", "GOOGLE_", "AZURE_", "MSI_", "IDENTITY_")
CONNECTION = (
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip


def open_bucket(url: str, proved: bool = False) -> Bucket:
    """Open the bucket at a URL; a folder is made when there is none.

    Args:
        proved: another process has opened it for this one.  It saves one request.

    Raises:
        BucketError: unknown scheme, a folder that cannot be made or written, or a store that cannot be reached or does
            not do conditional writes.
    """
    check_url(url)
    if is_remote(url):
        from ideator_rl.storage.object_store import ObjectBucket

        bucket = ObjectBucket(_remote_url(url))
        if not proved:
            ensure_proved(bucket)
        return bucket
    folder = folder_of(url)
    return MemoryBucket.named(url) if folder is None else FileBucket(folder)


def bucket_at(target: str) -> Bucket:
    """Open the existing bucket at a path or URL; none is created, and a remote one is not written to.

    Raises:
        BucketError: there is none.
    """
    check_url(target)
    if is_remote(target):
        from ideator_rl.storage.object_store import ObjectBucket

        bucket = ObjectBucket(_remote_url(target))
        if not bucket.list(""):
            raise BucketError(f"There is no object in the bucket {target}. Give the bucket that a run names.")
        return bucket
    path = folder_of(target)
    if path is not None and not any(os.path.isdir(path / name) for name in ("experiments", ".scratch")):
        raise BucketError(
            f"{target} is neither a run nor a bucket with experiments. Give the folder that a recipe names as "
            "output_dir, or the URL of a bucket."
        )
    return open_bucket(target)


def check_url(url: str) -> None:
    """
    Raises:
        BucketError: no bucket can be at this URL.  Nothing is opened.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise BucketError(f"The bucket {url!r} is no URL: {error}. {ADVICE}") from None
    if parts.scheme not in ("", "file", "memory", *REMOTE_SCHEMES):
        raise BucketError(f"The bucket {url!r} has the unknown scheme {parts.scheme!r}. {ADVICE}")
    if parts.scheme in REMOTE_SCHEMES:
        _check_remote_url(url)
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise BucketError(f"The bucket {url!r} names a host, {parts.netloc!r}. {ADVICE}")
    if parts.scheme == "file" and (parts.query or parts.fragment):
        raise BucketError(f"The bucket {url!r} has a ? or #, which a URL's path spells %3F and %23. {ADVICE}")
    if (folder := folder_of(url)) is not None:
        if not str(folder).isprintable() or not url.strip():
            raise BucketError(f"The bucket {url!r} has no printable path. {ADVICE}")
        if parts.scheme and not folder.is_absolute():
            raise BucketError(f"The bucket {url!r} has no absolute path. {ADVICE}")
        # A forgotten name: the root of the file system is never a folder for objects.
        if not os.path.abspath(folder).strip("/"):
            raise BucketError(f"The bucket {url!r} is the root of the file system. Name a folder there. {ADVICE}")


def _check_remote_url(url: str) -> None:
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BucketError(
            f"The URL of the bucket {parts.netloc.rpartition('@')[2]!r} has more than a bucket and a prefix. "
            "Give credentials and endpoint by environment variables."
        )
    if not parts.netloc or ":" in parts.netloc:
        raise BucketError(f"The bucket {url!r} names no bucket of a store. {ADVICE}")
    if not url.isprintable() or any(part in (".", "..", "") for part in parts.path.rstrip("/").split("/")[1:]):
        raise BucketError(f"The bucket {url!r} has no plain prefix. {ADVICE}")
    if find_spec("obstore") is None:
        raise BucketError(f"The bucket {url!r} needs the package obstore. Install it: pip install 'ideator-rl[s3]'.")


def _remote_url(url: str) -> str:
    """The URL in the one way of writing it that jobs are named after: a scheme may be in capitals."""
    return urlsplit(url).geturl()


def is_remote(url: str) -> bool:
    """Whether the bucket at a URL is in the network.  Expects a URL that `check_url` accepts."""
    return urlsplit(url).scheme in REMOTE_SCHEMES


def folder_of(url: str) -> Path | None:
    """The folder of a file bucket; None for another scheme.  Expects a URL that `check_url` accepts."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path, errors="surrogateescape"))
    return Path(url) if not parts.scheme else None


def absolute_url(url: str) -> str:
    """The same bucket by a URL that does not depend on the working folder.  Expects a URL that `check_url` accepts."""
    # A path from ~ does not depend on it either, and `FileBucket` refuses an unknown user's.
    return url if not url or urlsplit(url).scheme or url.startswith("~") else str(Path(url).absolute())


def credential_variables() -> dict[str, str]:
    """The environment variables by which a process reaches a remote bucket: credentials, endpoint, proxy, CA bundle.

    A worker inherits them; an experiment never does.
    """
    return {
        name: value for name, value in os.environ.items() if name.startswith(CREDENTIALS) or name.upper() in CONNECTION
    }
