"""Access to object stores: what to do about an error, and whether credentials are in a profile.  Without obstore."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from ideator_rl.storage.bucket_protocol import BucketError

NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
"""Of a bucket that is away, every object seems to be missing: these tell the two apart."""
CREDENTIALS = (
    "169.254.169.254", "metadata", "SecretAccessKey", "AccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
    "InvalidToken", "AuthenticationFailed", "AuthorizationFailure",
)  # fmt: skip
ADVICE = {
    NO_BUCKET: "Create it at the store, or correct the name.",
    ("RequestTimeTooSkewed",): "The clock of this machine is wrong: set it.",
    ("PermanentRedirect", "incorrectly configured region", "AuthorizationHeaderMalformed", "IllegalLocation"): (
        "The bucket is in another region: set AWS_REGION to it."
    ),
    CREDENTIALS: (
        "Set valid credentials in the environment (S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role). "
        "Profiles in ~/.aws are read when boto3 is installed."
    ),
    ("QuotaExceeded", "StorageFull", "InsufficientStorage", "EntityTooLarge"): (
        "Free space at the store and resume: everything already stored is kept."
    ),
    ("401 ", "403 ", "AccessDenied"): "Give these credentials the right to read, list, write and delete there.",
    ("SlowDown", "503 ", "TooManyRequests"): "The store is overloaded: try again later.",
}
NETWORK = "Check the network and the endpoint (AWS_ENDPOINT_URL)."
SETTINGS = "Check the environment variables of its service (AWS_*, GOOGLE_*, AZURE_*)."


def is_bucket_missing(error: Exception) -> bool:
    return any(word in str(error) for word in NO_BUCKET)


def store_error(action: str, error: Exception, otherwise: str = NETWORK) -> BucketError:
    """The error for a user: the store's own sentence without the library's internals, and what to do."""
    text = "".join(char if char.isprintable() else " " for char in str(error).partition("\n\nDebug source")[0])
    todo = next((todo for words, todo in ADVICE.items() if any(word in text for word in words)), otherwise)
    if answer := re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", text):
        text = ": ".join(answer.groups())
    return BucketError(f"Could not {action}: {' '.join(text.split())[:400].rstrip('.')}. {todo}")


def is_plain(variables: dict[str, str]) -> bool:
    """Whether an endpoint that the user has named is reached by plain http.

    Raises:
        ValueError: an endpoint is no URL.
    """
    endpoints = {name: value for name, value in variables.items() if "ENDPOINT" in name or name == "GOOGLE_BASE_URL"}
    for name, value in endpoints.items():
        if value and not value.startswith(("http://", "https://")):
            raise ValueError(f"{name} is {value!r}, and must begin with http:// or https://")
    return any(value.startswith("http://") for value in endpoints.values())


def uses_profile(variables: Iterable[str]) -> bool:
    """Whether S3 credentials are in a profile of ~/.aws, because no variable names any, and boto3 can read it."""
    words = ("ACCESS_KEY_ID", "WEB_IDENTITY", "CONTAINER_CREDENTIALS", "SKIP_SIGNATURE")
    if any(word in name for name in variables for word in words):
        return False
    files = (Path.home() / ".aws" / name for name in ("config", "credentials"))
    return any(file.exists() for file in files) and find_spec("boto3") is not None
