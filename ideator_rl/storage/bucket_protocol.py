"""What every bucket offers, whatever its scheme, and how its failures are reported."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from ideator_rl.errors import IdeatorError

T = TypeVar("T")
MAX_OBJECT_BYTES = 512 << 20


class BucketError(IdeatorError):
    """The bucket cannot be reached, read or written."""


class DamagedObject(BucketError):
    """What is stored under a key cannot be what was written.  Waiting does not help; removing it does."""


class Bucket(Protocol):
    url: str
    remote: bool
    """Each call is a network round trip: never make one inside an event loop."""

    @property
    def requests(self) -> Mapping[str, int]:
        """Requests of this process that a store charges for, by kind (put, get, list, delete)."""

    def create(self, key: str, data: bytes) -> bool:
        """Store an object that must not exist yet; returns whether the stored object is `data`.

        A reply can be lost after the object was stored.  So an equal object counts as one's own: what must have one
        winner carries a nonce in its body.
        """

    def put(self, key: str, data: bytes) -> None:
        """Store or replace an object.  It may be lost by a power failure: for what can be restored in another way."""

    def get(self, key: str) -> bytes | None:
        """The object, or None."""

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Several objects by key; those that do not exist are left out."""

    def list(self, prefix: str) -> dict[str, str]:
        """The direct children of a folder-like prefix, in no order.

        Returns: the name of each object with a version, which changes with its content; the name of each folder
            with "".
        """

    def names(self, prefix: str) -> builtins.list[str]:
        """The sorted names of `list`."""

    def delete(self, key: str) -> None:
        """Remove an object; none is no error."""


def check_key(key: str) -> None:
    """
    Raises:
        BucketError: the key would lead out of the bucket.
    """
    if key.startswith("/") or ".." in key.split("/"):
        raise BucketError(f"The bucket key {key!r} leaves the bucket; a key is a relative path without '..'.")


def read_object(bucket: Bucket, key: str, parse: Callable[[bytes], T], remove: str = "") -> T | None:
    """An object as `parse` reads it; None when there is none.

    Args:
        remove: the key to remove when the object is damaged; its own by default.

    Raises:
        DamagedObject: it is no regular object, or `parse` raises, whatever it raises.
        BucketError: the bucket is out of reach.
    """
    raw = bucket.get(key)
    return None if raw is None else parse_object(bucket.url, key, raw, parse, remove)


def parse_object(url: str, key: str, raw: bytes, parse: Callable[[bytes], T], remove: str = "") -> T:
    """The bytes of an object, which were read before, as `parse` reads them.

    Raises:
        DamagedObject: `parse` raises, whatever it raises.
    """
    try:
        return parse(raw)
    except Exception as error:
        # Any kind: of damaged bytes no list of errors is complete (depth, digits, encodings, missing keys, types).
        reason = " ".join(str(error).split()).removesuffix(" Correct it there.").rstrip(".")[:200]
        raise damaged_object(url, key, f"{type(error).__name__}: {reason}", remove) from error


def damaged_object(url: str, key: str, reason: str, remove: str = "") -> DamagedObject:
    return DamagedObject(
        f"The object {key} of the bucket {url} is damaged ({reason}). Remove {remove or key} there: it is made again "
        "when it is needed."
    )
