"""Language models in files: saved in a folder, or shipped as a GGUF file in an installed package.

Shared by training and by search's local ideator.  torch and transformers are imported on first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ideator_rl.files import atomic_folder, cache_root, exclusive
from ideator_rl.llm.model_lookup import PACKAGE, ModelError, first_line, model_source, package_file

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def load_tokenizer(source: str | Path, revision: str | None = None, **options: Any) -> tuple[Any, list[str]]:
    """The tokenizer of a model, able to end a text and to pad.

    A tokenizer without an end takes the one of the model's generation config; one without a pad token pads with the
    end, since padding is masked everywhere.

    Returns:
        the tokenizer, and what was added to it, for people.

    Raises:
        ModelError: it cannot be loaded, or nothing would end a text.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False, **options)
    # Files of other people go through much code of transformers, which raises nearly everything.  Without an answer to
    # trust_remote_code it would ask the terminal.
    except Exception as error:
        raise ModelError(
            f"The tokenizer of {source} cannot be loaded: {first_line(error)} Expected what `save_pretrained` writes."
        ) from error
    notes = []
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = _end_of_model(tokenizer, source, revision)
        notes.append(
            f"the tokenizer of {source} names no end of text; that of its model is used: {tokenizer.eos_token}"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, notes


def _end_of_model(tokenizer: Any, source: str | Path, revision: str | None) -> str:
    """The token that ends a text by the model's generation config or configuration.

    Raises:
        ModelError: there is none, or the tokenizer does not know it.
    """
    from transformers import AutoConfig, GenerationConfig

    for kind in (GenerationConfig, AutoConfig):
        try:
            ends: Any = getattr(kind.from_pretrained(source, revision=revision or "main"), "eos_token_id", None)
        except (OSError, ValueError):  # most models have only one of the two files
            continue
        for end in ends if isinstance(ends, list) else [ends]:
            token = None if end is None or end >= len(tokenizer) else tokenizer.convert_ids_to_tokens(end)
            if isinstance(token, str):
                return token
    raise ModelError(
        f"The model {source} has no token that ends a text, so its answers would never end. Add eos_token to its "
        'tokenizer_config.json, for example "eos_token": "</s>".'
    )


def repair_generation_config(config: Any) -> list[str]:
    """Reset, in place, the values that transformers refuses to save because the others give them no effect.

    Published models have such values, for example a temperature beside `do_sample: false`.

    Returns:
        the names of these values.
    """
    from transformers import GenerationConfig

    values = {name: value for name, value in vars(config).items() if not name.startswith("_") and value is not None}
    valid, dropped = GenerationConfig(), []
    # Added one by one to a valid configuration, the switches first: what makes it invalid is what they switch off.
    for name in sorted(
        values, key=lambda name: (name not in ("do_sample", "num_beams", "return_dict_in_generate"), name)
    ):
        before = getattr(valid, name, None)
        setattr(valid, name, values[name])
        try:
            valid.validate(strict=True)
        except ValueError:
            setattr(valid, name, before)
            setattr(config, name, before)
            dropped.append(name)
    return dropped


def dtype_of(name: str) -> Any:
    """The dtype of torch by its name; `auto`, for the saved one, is kept: from_pretrained takes both.

    Raises:
        ModelError: torch has no such dtype.
    """
    import torch

    dtype = name if name == "auto" else getattr(torch, name, None)
    if dtype != "auto" and not isinstance(dtype, torch.dtype):
        raise ModelError(f"There is no dtype {name!r}. Expected auto, bfloat16, float16 or float32.")
    return dtype


def quiet_transformers() -> None:
    """Progress bars and notices of transformers would interrupt our own lines of progress."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def save_weights(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save weights and tokenizer, with the generation cache enabled again, which training disables."""
    # Of several ranks, the one that has the lock saves for all; transformers 5.23 would save on rank 0 alone.
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    model.config.use_cache = True
    repair_generation_config(model.generation_config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def loadable(name: str) -> str:
    """The folder or hub name that transformers loads; the file of a package is converted once.

    Raises:
        ModelError: there is no such package or folder.
    """
    return str(from_package(name.removeprefix(PACKAGE))) if name.startswith(PACKAGE) else model_source(name)


def from_package(path: str) -> Path:
    """The folder of a model that an installed package ships as a GGUF file, converted once into the user's cache.

    Args:
        path: the package's import name, a slash, and the file.

    Raises:
        ModelError: the package, its file, or the reader `gguf` is not installed.
    """
    folder, file = package_file(path)
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
