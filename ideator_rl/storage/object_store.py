"""A bucket in an object store: S3 and what speaks its protocol, Google Cloud Storage, Azure.  By obstore.

Only this module imports obstore.  Credentials, region and endpoint come from the variables of each service.
"""

from __future__ import annotations

import builtins
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import from_url

from ideator_rl.storage.bucket_protocol import MAX_OBJECT_BYTES, BucketError, check_key, damaged_object
from ideator_rl.storage.store_access import SETTINGS, is_bucket_missing, is_plain, store_error, uses_profile

LARGE_BYTES = 4 << 20
SECONDS, LARGE_SECONDS, RETRY_SECONDS = 10, 300, 20
"""The longest time of a request, of one for a large object, and of all retries by the library."""
CREATE_TRIES, PARALLEL = 6, 64
MISSING = (FileNotFoundError, NotFoundError)

_user_pid: int | None = None
"""The process that opened a store.  Written by the first one, and inherited by its forks: obstore's threads do not
survive a fork, and a call in a child would wait for ever."""


class ObjectBucket:
    remote = True

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.requests: Counter[str] = Counter()
        """Calls so far by kind: put, get, list, delete.  Any thread counts."""
        _refuse_fork(self.url)
        self._small, self._large = (_connect(self.url, seconds) for seconds in (SECONDS, LARGE_SECONDS))

    def create(self, key: str, data: bytes) -> bool:
        for number in range(CREATE_TRIES):
            try:
                self._call("create", key, lambda: self._put(key, data, "create"))
                return True
            except AlreadyExistsError:
                # Three cases look the same: the object exists; the reply to a try of ours was lost; or the store
                # refused two writers at once and stored nothing (409).
                existing = self.get(key)
                if existing is not None:
                    return existing == data
            time.sleep(0.05 * 2**number)
        raise BucketError(f"The bucket {self.url} refuses to create {key}, which does not exist. Try again later.")

    def put(self, key: str, data: bytes) -> None:
        self._call("put", key, lambda: self._put(key, data, "overwrite"))

    def _put(self, key: str, data: bytes, mode: Any) -> None:
        store = self._large if len(data) > LARGE_BYTES else self._small
        obstore.put(store, key, data, mode=mode, use_multipart=False)

    def get(self, key: str) -> bytes | None:
        return self._call("get", key, lambda: self._get(key), missing=None)

    def _get(self, key: str) -> bytes:
        answer = obstore.get(self._small, key)
        if (size := answer.meta["size"]) > MAX_OBJECT_BYTES:
            raise damaged_object(self.url, key, f"{size} bytes; at most {MAX_OBJECT_BYTES} are read")
        if size > LARGE_BYTES:
            answer = obstore.get(self._large, key)
        return bytes(answer.bytes())

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        if not keys:
            return {}
        with ThreadPoolExecutor(min(PARALLEL, len(keys))) as pool:
            return {key: data for key, data in zip(keys, pool.map(self.get, keys), strict=True) if data is not None}

    def list(self, prefix: str) -> dict[str, str]:
        folder = prefix.rstrip("/")
        answer = self._call("list", folder, lambda: obstore.list_with_delimiter(self._small, folder or None))
        versions = {path.rstrip("/").rpartition("/")[2]: "" for path in answer["common_prefixes"]}
        for item in answer["objects"]:
            if item["path"] == folder:
                continue  # some stores keep an object for an empty folder
            version = item["e_tag"] or f"{item['last_modified'].isoformat()}-{item['size']}"
            versions[item["path"].rpartition("/")[2]] = version
        return versions

    def names(self, prefix: str) -> builtins.list[str]:
        return sorted(self.list(prefix))

    def delete(self, key: str) -> None:
        self._call("delete", key, lambda: obstore.delete(self._small, key), missing=None)

    def _call(self, verb: str, key: str, function: Callable[[], Any], **missing: Any) -> Any:
        """Call the store.  `missing` is the result for an object that does not exist, where that is no error.

        Raises:
            AlreadyExistsError: as the store raises it.
            BucketError: for all else.
        """
        check_key(key)
        _refuse_fork(self.url)
        self.requests["put" if verb == "create" else verb] += 1
        try:
            return function()
        except AlreadyExistsError:
            raise
        except (*MISSING, BaseError, OSError, ValueError) as error:
            if missing and isinstance(error, MISSING) and not is_bucket_missing(error):
                return missing["missing"]
            raise store_error(f"{verb} {key or 'all objects'} in the bucket {self.url}", error) from None


def _refuse_fork(url: str) -> None:
    """Raises: BucketError in a process that was forked from one that had used a store."""
    global _user_pid
    _user_pid = _user_pid or os.getpid()
    if _user_pid != os.getpid():
        raise BucketError(
            f"The bucket {url} cannot be used here: this process was forked after its parent had used a store. "
            "Start it by multiprocessing's method spawn, or let the parent open no store."
        )


def _connect(url: str, seconds: float) -> Any:
    """Raises: BucketError when the settings in the environment contradict one another."""
    named = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))}
    options: dict[str, Any] = {"timeout": timedelta(seconds=seconds), "connect_timeout": "5s"}
    settings: dict[str, Any] = {"retry_config": {"retry_timeout": timedelta(seconds=RETRY_SECONDS)}}
    try:
        options["allow_http"] = is_plain(named)
        if bundle := named.get("AWS_CA_BUNDLE"):
            options["root_certificate"] = Path(bundle).read_bytes()
        if url.startswith("s3:"):
            # A bulk delete is a request of its own kind, which small servers and other clouds lack.
            settings["disable_bulk_delete"] = True
            if uses_profile(named):
                from obstore.auth.boto3 import Boto3CredentialProvider

                settings["credential_provider"] = Boto3CredentialProvider()
        return from_url(url, client_options=options, **settings)  # type: ignore[call-overload]
    except (BaseError, OSError, ValueError) as error:
        raise store_error(f"open the bucket {url}", error, SETTINGS) from None
