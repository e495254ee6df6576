"""A model's folder that AutoModelForCausalLM and vLLM load: what they need is there, and older readers get it right.

Checked: an architecture that transformers knows without custom code, safetensors that are all there, a tokenizer whose
ids fit the embedding.  Not checked: that vLLM has this architecture, and that the weights mean anything.

transformers 5 writes two things that a transformers 4 (and a vLLM that stands on it) does not read: a tokenizer class
of a new name, which it refuses, and RoPE numbers in a new place, which it silently replaces by its defaults.  Both are
written the old way too; transformers 5 reads either.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ideator_rl.training.models import ModelError

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
TOKENIZER = "tokenizer_config.json"
NEW_CLASS, OLD_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"


def make_servable(folder: Path) -> None:
    """Add what older readers need, then check.

    Raises:
        ModelError: something is missing, or does not fit together.
    """
    _rewrite(folder / TOKENIZER, _old_tokenizer)
    _rewrite(folder / CONFIG, _old_rope)
    for problem in _problems(folder):
        raise ModelError(f"The model in {folder.name} cannot be served: {problem}")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a model, in order; empty where there are none or one of the index is missing."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    return [folder / name for name in names] if all((folder / name).is_file() for name in names) else []


def _problems(folder: Path) -> list[str]:
    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if not weight_files(folder):
        return [f"it has no whole set of safetensors. Expected {WEIGHTS}, or {INDEX} with all of its files."]
    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        return [f"{_first_line(error)} Models that need code of their own are not exported."]
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or not config.architectures:
        return [f"{type(config).__name__} names no causal language model that transformers itself knows."]
    if len(tokenizer) > config.get_text_config().vocab_size:
        return [f"the tokenizer has {len(tokenizer)} tokens, more than the embedding has rows."]
    return []


def _old_tokenizer(config: dict[str, Any]) -> None:
    if config.get("tokenizer_class") == NEW_CLASS:
        config["tokenizer_class"] = OLD_CLASS


def _old_rope(config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return  # none, or one for each kind of layer, which was never written otherwise
    config.setdefault("rope_theta", rope["rope_theta"])
    if rope.get("rope_type", "default") != "default":
        config.setdefault("rope_scaling", {key: value for key, value in rope.items() if key != "rope_theta"})


def _rewrite(path: Path, change: Any) -> None:
    if path.is_file():
        body = json.loads(path.read_text(encoding="utf-8"))
        change(body)
        path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
