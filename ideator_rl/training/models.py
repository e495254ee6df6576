"""The ideator before any training: a hub model, a folder, a GGUF file of an installed package, or one from scratch.

`build_ideator` returns a folder or hub name that `AutoModelForCausalLM` and `AutoTokenizer` load.  A new folder appears
whole or not at all, so a kill leaves no unfinished model behind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ideator_rl.files import atomic_folder, exclusive
from ideator_rl.llm.model_files import loadable, save_weights
from ideator_rl.llm.model_lookup import PACKAGE, ModelError

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
END_OF_TEXT, PADDING = "<|end|>", "<|pad|>"
PIECES = r" ?\[[^\[\]\n]*\]| ?-?\d[\d.e-]*(?<=[\de])|\n|[.](?!\w)|(?:[^\[\]\n.0-9]|(?<=\w)[0-9]|[.](?=\w))+|."
"""The longest tokens of a model from scratch: a section mark, a number, a line end, a phrase within a sentence."""


def build_ideator(name: str | None, scratch: dict[str, int] | None, corpus: list[str], home: Path, seed: int) -> str:
    """The name or folder to load the ideator from.

    Args:
        name: hub name, folder, or `package:NAME/FILE.gguf`; None with `scratch`.
        scratch: numbers of LlamaConfig for a model from scratch.
        corpus: texts that a tokenizer from scratch is trained on.
        home: the folder of a model from scratch.

    Raises:
        ModelError: the package or its file is missing, or `scratch` is not a LlamaConfig.
    """
    if scratch is not None:
        # Every rank calls this: the first to get the lock builds the model, the others find it.
        with exclusive(home):
            if not home.is_dir():
                with atomic_folder(home) as folder:
                    _from_scratch(dict(scratch), corpus, folder, seed)
        return str(home)
    assert name is not None
    return loadable(name)


def hub_name(name: str | None) -> str | None:
    """The name of a base model on the Hugging Face Hub; None for a folder, a package's file, or one from scratch."""
    if name is None or name.startswith((PACKAGE, ".")) or not _HUB_NAME.fullmatch(name) or Path(name).exists():
        return None
    return name


def _from_scratch(numbers: dict[str, Any], corpus: list[str], folder: Path, seed: int) -> None:
    """A small Llama with random weights and a tokenizer of its own."""
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = phrase_tokenizer(corpus, numbers.get("vocab_size", 1024))
    config = scratch_config(numbers, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    torch.manual_seed(seed)
    save_weights(LlamaForCausalLM(config), tokenizer, folder)


def scratch_config(numbers: Mapping[str, Any], tokens: int, end: int = 0, padding: int = 1) -> Any:
    """The LlamaConfig of a recipe's `scratch_model`, tried without memory for its weights.

    Raises:
        ModelError: an unknown key, or numbers that do not fit together.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import LlamaConfig, LlamaForCausalLM

    valid_keys = LlamaConfig().to_dict()
    if unknown := [key for key in numbers if key not in valid_keys]:
        raise ModelError(f"scratch_model has the unknown key {unknown[0]!r}; expected vocab_size or LlamaConfig keys.")
    sizes = {key: value for key, value in numbers.items() if key != "vocab_size"}
    try:
        config = LlamaConfig(
            vocab_size=tokens,
            eos_token_id=end,
            pad_token_id=padding,
            bos_token_id=None,
            tie_word_embeddings=True,
            **sizes,
        )
        with torch.device("meta"):
            LlamaForCausalLM(config)
    # torch refuses sizes with its own exceptions, and divides by them.
    except (StrictDataclassError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise ModelError(f"scratch_model is not a LlamaConfig: {' '.join(str(error).split())}") from error
    return config


def phrase_tokenizer(corpus: list[str], vocab: int) -> Any:
    """Byte-level BPE whose merges may cross spaces, as in SuperBPE (arXiv 2503.13423).

    A small model then learns phrases, not spelling, and reads and writes a quarter of the tokens.  Merges stop
    where `PIECES` does, so that numbers stay numbers and a prompt and its completion keep apart.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # Words are not split first, so that merges may cross spaces; `PIECES` alone bounds them.
    bpe = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PIECES), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END_OF_TEXT, pad_token=PADDING)
