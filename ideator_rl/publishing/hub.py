"""Publishing on the Hugging Face hub (or a server that speaks like it: HF_ENDPOINT), by huggingface_hub's public API.

The token is found by huggingface_hub itself (HF_TOKEN, `hf auth login`); it is never taken from a command line, and no
message holds it.  Every failure is one sentence with what to do; pushing again is safe: repos are made if they are
not there, equal files are not sent again, weights of an earlier export are replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ideator_rl.errors import IdeatorError
from ideator_rl.publishing.published import Published
from ideator_rl.text import visible

SUFFIX = "-trajectories"
STALE = {
    "model": ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"],
    "dataset": ["data/*.parquet"],
}
"""Files of an earlier export, which would be read beside the new ones."""
CURES = {
    401: "the hub does not accept the token. Log in with `hf auth login`, or set HF_TOKEN to a valid one",
    402: "the hub asks for payment first. Look at the account's billing page",
    403: "the token may not write there. Use one with write access to that namespace, or name a repo of your own",
    404: "the hub does not find it. Check the name, and that the token may see and write it",
    409: "somebody else is changing it. Repeat the same line",
    413: "a file is too large for this server",
    429: "the hub wants fewer requests. Wait some minutes, then repeat the same line",
}


class HubError(IdeatorError):
    """The hub cannot be used as asked."""


@dataclass(frozen=True)
class Names:
    """Full names of the two repos."""

    model: str
    dataset: str


def full_names(model: str, dataset: str | None) -> Names:
    """Check the names and the token, and put the user's namespace before names that have none.

    Raises:
        HubError: a name is not valid, there is no token, or the hub does not accept it or cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    names = (model, dataset or model + SUFFIX)
    for name in names:
        try:
            validate_repo_id(name)
        except HFValidationError:
            raise HubError(
                f"{name!r} cannot be the name of a repo. Expected NAME or OWNER/NAME of letters, digits, '-', '_' and "
                "'.', at most 96 characters, without '--' or '..'."
            ) from None
    if names[0] == names[1]:
        raise HubError(f"Model and dataset cannot both be {model}: their pages link to each other. Name another one.")
    with _told("The hub was asked who you are"):
        if get_token() is None:
            raise HubError("There is no Hugging Face token. Log in with `hf auth login`, or set HF_TOKEN.")
        user = HfApi().whoami()["name"]
    full = [name if "/" in name else f"{user}/{name}" for name in names]
    return Names(*full)


def push(names: Names, model: Path, dataset: Path, private: bool) -> tuple[str, str]:
    """Make both repos and send the folders, the dataset first: the model's card links to it.

    Returns:
        URLs of the model and of the dataset.

    Raises:
        HubError: says which of the two is already there.
    """
    done = "Nothing of the model was sent yet; the same line goes on safely."
    where = _send(names.dataset, "dataset", dataset, private, done)
    done = f"The dataset is published already ({where}); the same line goes on safely."
    return _send(names.model, "model", model, private, done), where


def _send(name: str, kind: str, folder: Path, private: bool, done: str) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    with _told(f"The {kind} {name} could not be made", done):
        # None leaves it to the owner's default
        url = api.create_repo(name, repo_type=kind, private=True if private else None, exist_ok=True)
    with _told(f"The {kind} {name} could not be sent", done):
        api.upload_folder(
            repo_id=name,
            repo_type=kind,
            folder_path=folder,
            commit_message="Export of an ideator_rl run",
            delete_patterns=STALE[kind],
        )
    return str(url)


@contextmanager
def _told(what: str, done: str = "") -> Iterator[None]:
    """Any failure as one sentence.  Which classes fail is the libraries' matter: HTTP, sockets, threads, Rust."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        words = f"{what}: {_why(error)}. {done}"
        raise HubError(visible(Published().text(words)).strip()) from None


def _why(error: BaseException) -> str:
    """What went wrong, from the error or from what caused it."""
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__) is not None:
        chain.append(inner)
    for one in chain:
        response = getattr(one, "response", None)
        if isinstance(one, OfflineModeIsEnabled):
            return "huggingface_hub is offline. Unset HF_HUB_OFFLINE"
        if isinstance(one, LocalTokenNotFoundError):
            return "there is no Hugging Face token. Log in with `hf auth login`, or set HF_TOKEN"
        if response is not None:
            return _answered(response.status_code, getattr(one, "server_message", None))
        if "Connect" in type(one).__name__ or "Timeout" in type(one).__name__:
            return "the hub cannot be reached. Check the network (and HF_ENDPOINT, if it is set), then repeat"
    return f"{type(error).__name__}: {_line(str(error))}. Repeat the same line"


def _answered(status: int, said: str | None) -> str:
    more = f" (it says: {_line(said)})" if said else ""
    if status >= 500:
        return f"the hub answers {status}{more}. Repeat the same line later"
    return f"{CURES.get(status, 'the hub refuses. Look at what it says')} ({status}){more}"


def _line(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(".")
