"""Pushing to the Hugging Face Hub (or a server with its protocol: HF_ENDPOINT), by huggingface_hub's public API.

Contract:
- huggingface_hub finds the token itself (HF_TOKEN, `hf auth login`).  It is never read from a command line, and no
  message contains it.
- Every failure is one sentence with the next step.
- Pushing again is safe: existing repositories are used, equal files are not sent again, those of an earlier export are
  replaced.  A private export is not sent to a public repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ideator_rl.errors import IdeatorError
from ideator_rl.text.display import visible
from ideator_rl.text.redaction import Redactor

SUFFIX = "-trajectories"
STALE = {
    "model": ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"],
    "dataset": ["data/*.parquet", "best/*", "report.html", "recipe.yaml"],
}
"""Files of an earlier export, which a reader would take together with the new ones; `*` matches `/` too."""
NO_TOKEN = "there is no Hugging Face token. Log in with `hf auth login`, or set HF_TOKEN"
CURES = {
    401: "the hub does not accept the token. Log in with `hf auth login`, or set HF_TOKEN to a valid one",
    402: "the hub asks for payment first. Look at the account's billing page",
    403: "the token may not write there. Use one with write access to that namespace, or name a repo of your own",
    404: "the hub does not find it. Check the name, and that the token may see and write it",
    409: "another client is changing it. Repeat the same line",
    413: "a file is too large for this server",
    429: "the hub wants fewer requests. Wait some minutes, then repeat the same line",
}
"""By HTTP status."""


class HubError(IdeatorError):
    """The Hub refuses a request or cannot be reached."""


@dataclass(frozen=True)
class Names:
    """Full names of the repositories."""

    model: str | None
    """None where only the dataset is published."""
    dataset: str


def full_names(model: str | None, dataset: str | None) -> Names:
    """Check the names and the token, and put the user's namespace before names that have none.

    Raises:
        HubError: a name is not valid, there is no token, or the Hub does not accept it or cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    names = [name for name in (model, dataset or f"{model}{SUFFIX}") if name]
    for name in names:
        try:
            validate_repo_id(name)
        except HFValidationError:
            raise HubError(
                f"{name!r} cannot be the name of a repo. Expected NAME or OWNER/NAME of letters, digits, '-', '_' and "
                "'.', at most 96 characters, without '--' or '..'."
            ) from None
    if len(set(names)) < len(names):
        raise HubError(f"Model and dataset cannot both be {model}: their pages link to each other. Name another one.")
    with _one_sentence("The user's name cannot be read from the hub"):
        if get_token() is None:
            raise HubError(f"{NO_TOKEN[0].upper()}{NO_TOKEN[1:]}.")
        user = HfApi().whoami()["name"]
    full = [name if "/" in name else f"{user}/{name}" for name in names]
    return Names(full[0] if model else None, full[-1])


def push(names: Names, model: Path, dataset: Path, private: bool) -> tuple[str | None, str]:
    """Create the repositories and send the folders, the dataset first: the model's card links to it.

    Returns:
        URLs of the model, if it has a name, and of the dataset.

    Raises:
        HubError: states which of the two is already published.
    """
    progress = f"{'Nothing of the model was sent yet; t' if names.model else 'T'}he same line goes on safely."
    dataset_url = _send(names.dataset, "dataset", dataset, private, progress)
    if names.model is None:
        return None, dataset_url
    progress = f"The dataset is published already ({dataset_url}); the same line goes on safely."
    return _send(names.model, "model", model, private, progress), dataset_url


def _send(name: str, kind: str, folder: Path, private: bool, progress: str) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    with _one_sentence(f"The {kind} {name} could not be created", progress):
        # private=None leaves it to the default of the owner.
        url = api.create_repo(name, repo_type=kind, private=True if private else None, exist_ok=True)
        # An existing repository keeps its visibility.
        if private and not api.repo_info(name, repo_type=kind).private:
            raise HubError(
                f"The {kind} {name} exists and is public, so --private does not hold: it was not sent. Make it private "
                f"in {url}/settings, name another repo, or leave out --private. {progress}"
            )
    with _one_sentence(f"The {kind} {name} could not be sent", progress):
        api.upload_folder(
            repo_id=name,
            repo_type=kind,
            folder_path=folder,
            commit_message="Export of an ideator_rl run",
            delete_patterns=STALE[kind],
        )
    return str(url)


@contextmanager
def _one_sentence(failure: str, progress: str = "") -> Iterator[None]:
    """Raise any failure as a HubError of one sentence.

    Every exception is caught: which classes a client raises (HTTP, sockets, threads, Rust) differs by its version.
    """
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        message = f"{failure}: {_reason(error)}. {progress}".strip()
        raise HubError(visible(Redactor().text(message))) from None


def _reason(error: BaseException) -> str:
    """The first known reason among the error and its causes."""
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(cause, OfflineModeIsEnabled):
            return "huggingface_hub is offline. Unset HF_HUB_OFFLINE"
        if isinstance(cause, LocalTokenNotFoundError):
            return NO_TOKEN
        if response is not None:
            return _refusal(response.status_code, getattr(cause, "server_message", None))
        # By name, because requests, httpx and urllib3 have classes of their own for it.
        if "Connect" in type(cause).__name__ or "Timeout" in type(cause).__name__:
            return "the hub cannot be reached. Check the network (and HF_ENDPOINT, if it is set), then repeat"
        cause = cause.__cause__
    return f"{type(error).__name__}: {_line(str(error))}. Repeat the same line"


def _refusal(status: int, server_message: str | None) -> str:
    detail = f" (its message: {_line(server_message)})" if server_message else ""
    if status >= 500:
        return f"the hub answers {status}{detail}. Repeat the same line later"
    return f"{CURES.get(status, 'the hub refuses the request. Read its message')} ({status}){detail}"


def _line(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(".")
