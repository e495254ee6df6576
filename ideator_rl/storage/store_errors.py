"""What to do about an error of an object store, by the words of its own sentence."""

from __future__ import annotations

NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
"""Of a bucket that is away, every object seems to be missing: these tell the two apart."""
ADVICE = {
    NO_BUCKET: "Create it at the store, or correct the name.",
    ("RequestTimeTooSkewed",): "The clock of this machine is wrong: set it.",
    ("PermanentRedirect", "incorrectly configured region", "AuthorizationHeaderMalformed", "IllegalLocation"): (
        "The bucket is in another region: set AWS_REGION to it."
    ),
    ("169.254.169.254", "metadata", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"): (
        "Set valid credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role). Profiles in ~/.aws are read "
        "when boto3 is installed."
    ),
    ("QuotaExceeded", "StorageFull", "InsufficientStorage", "EntityTooLarge"): (
        "Free space at the store and resume: everything already stored is kept."
    ),
    ("401 ", "403 ", "AccessDenied"): "Give these credentials the right to read, list, write and delete there.",
    ("SlowDown", "503 ", "TooManyRequests"): "The store is overloaded: try again later.",
}
OTHERWISE = "Check the network and the endpoint (AWS_ENDPOINT_URL)."


def own_sentence(error: Exception) -> str:
    """The store's sentence on one line, without the library's internals."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())[:600]


def advice(sentence: str) -> str:
    return next((todo for words, todo in ADVICE.items() if any(word in sentence for word in words)), OTHERWISE)
