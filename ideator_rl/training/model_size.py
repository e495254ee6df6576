"""How large a decoder is, from the numbers of its config.json: no weights, no hub, no torch.

Counts are exact for the families in `FAMILIES` (`tests/test_memory.py` holds them against the real models on the meta
device); of any other family nothing is said.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError


class UnknownSize(IdeatorError):
    """The size of this model cannot be told from what is here."""


@dataclass(frozen=True)
class Family:
    """What differs between decoders of one plan: norms, biases, and where experts are."""

    qkv_bias: bool | None = False
    """None where `attention_bias` in the config decides, over the output projection too."""
    head_norms: bool = False
    """Queries and keys are normalised, each with one weight a dimension of a head."""
    experts_key: str = ""
    expert_width_key: str = ""
    lora: tuple[str, ...] | None = ("q_proj", "v_proj")
    """What peft adapts where no modules are named; None where it asks for names."""


FAMILIES = {
    "llama": Family(qkv_bias=None),
    "mistral": Family(),
    "mixtral": Family(experts_key="num_local_experts", expert_width_key="intermediate_size"),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qkv_bias=None, head_norms=True),
    "qwen3_moe": Family(None, True, "num_experts", "moe_intermediate_size", None),
}
LLAMA = {"model_type": "llama", "vocab_size": 1024, "hidden_size": 4096, "intermediate_size": 11008}
LLAMA |= {"num_hidden_layers": 32, "num_attention_heads": 32, "tie_word_embeddings": True}
"""What a scratch model is where its recipe does not say."""


@dataclass(frozen=True)
class ModelSize:
    """Counts, not bytes."""

    name: str
    origin: str
    """Where the numbers are from, in words."""
    parameters: int
    layer: int
    """Parameters of the largest layer."""
    layers: int
    hidden: int
    kv: int
    """Numbers that a token leaves in the key-value cache."""
    kept: int
    """Numbers that one layer keeps of a token for its backward pass; rough."""
    linear: dict[str, tuple[int, int, int]]
    """Module name: (in, out, how many of them), of those that adapters may be put on."""
    lora: tuple[str, ...] | None
    experts: bool = False
    """Whether some layers have experts, which peft adapts in ways of its own."""

    def adapters(self, rank: int, modules: list[str] | str | None) -> int:
        """Parameters of LoRA adapters: rank · (in + out) a module (arXiv 2106.09685).

        Raises:
            UnknownSize: a module that this model has not, or none named where peft has no default.
        """
        names = self.lora if modules is None else modules
        if names is None:
            raise UnknownSize(
                f"peft has no default modules for {self.name}. Name them, e.g. lora_target_modules: [q_proj, v_proj]."
            )
        if names == "all-linear" or names == ["all-linear"]:
            names = ("experts",) if self.experts else tuple(self.linear)
        if unknown := [name for name in names if name not in self.linear]:
            raise UnknownSize(
                f"Adapters on {unknown[0]} of {self.name} are not counted; those on {', '.join(self.linear)} are."
            )
        return sum(rank * (ins + outs) * count for ins, outs, count in (self.linear[name] for name in names))


def size_of(name: str | None, scratch: dict[str, int] | None) -> ModelSize:
    """The size of a recipe's ideator: a folder's, one shipped with the recipes, or one from scratch.

    Raises:
        UnknownSize: its numbers are not here, or its family is not known.
    """
    if scratch is not None:
        return count({**LLAMA, **scratch}, "a Llama from scratch", "the recipe's scratch_model")
    assert name is not None
    folder = Path(name) / "config.json"
    if folder.is_file():
        return count(_json(folder), name, str(folder))
    for file in shipped():
        config = _json(file)
        if config.get("_name_or_path") == name:
            return count(config, name, f"{file.name}, shipped with the recipes")
    names = ", ".join(sorted(str(_json(file)["_name_or_path"]) for file in shipped()))
    raise UnknownSize(f"The size of {name} is not known here: it is no folder, and none of {names}.")


def shipped() -> list[Path]:
    """The configs that come with the recipes."""
    spec = importlib.util.find_spec("recipes")
    folders = [Path(folder) / "configs" for folder in (spec.submodule_search_locations or [])] if spec else []
    return sorted(file for folder in folders for file in folder.glob("*.json"))


def count(config: dict[str, Any], name: str, origin: str) -> ModelSize:
    """Count a config.json.

    Raises:
        UnknownSize: its family is not known, or a number is missing.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UnknownSize(f"{name} is a {kind}, which is not counted; {', '.join(FAMILIES)} are.")
    try:
        return _count(config, FAMILIES[kind], name, origin)
    except (KeyError, TypeError) as error:
        raise UnknownSize(f"The config of {name} ({origin}) lacks a number: {error}.") from error


def _count(config: dict[str, Any], family: Family, name: str, origin: str) -> ModelSize:
    hidden, layers, heads = (config[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    head = config.get("head_dim") or hidden // heads
    queries, keys = heads * head, (config.get("num_key_value_heads") or heads) * head
    attention = 2 * hidden * (queries + keys) + (2 * head if family.head_norms else 0)
    qkv_bias = bool(config.get("attention_bias", False)) if family.qkv_bias is None else family.qkv_bias
    attention += queries + 2 * keys if qkv_bias else 0
    attention += hidden if qkv_bias and family.qkv_bias is None else 0
    sparse = [layer for layer in range(layers) if _has_experts(config, family, layer)]
    width, dense = config["intermediate_size"], 3 * hidden * config["intermediate_size"]
    dense += 2 * width + hidden if config.get("mlp_bias", False) else 0
    moe = active = 0
    if sparse:
        experts, inner = config[family.experts_key], config[family.expert_width_key]
        moe, active = hidden * experts + 3 * hidden * inner * experts, config["num_experts_per_tok"] * inner
    ends = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings", False) else 2) + hidden
    rest = layers - len(sparse)
    projections = {
        "q_proj": (hidden, queries, layers),
        "k_proj": (hidden, keys, layers),
        "v_proj": (hidden, keys, layers),
        "o_proj": (queries, hidden, layers),
        "gate_proj": (hidden, width, rest),
        "up_proj": (hidden, width, rest),
        "down_proj": (width, hidden, rest),
    }
    return ModelSize(
        name=name,
        origin=origin,
        parameters=ends + layers * (attention + 2 * hidden) + rest * dense + len(sparse) * moe,
        layer=attention + 2 * hidden + max(moe, dense if rest else 0),
        layers=layers,
        hidden=hidden,
        kv=2 * layers * keys,
        kept=4 * hidden + 2 * queries + 2 * keys + 4 * max(active, width if rest else 0),
        linear={name: shape for name, shape in projections.items() if shape[2]},
        lora=family.lora,
        experts=bool(sparse),
    )


def _has_experts(config: dict[str, Any], family: Family, layer: int) -> bool:
    """Whether a layer's MLP is a mixture: every `decoder_sparse_step`-th, but for those named."""
    if not family.experts_key or layer in (config.get("mlp_only_layers") or ()):
        return False
    return config[family.experts_key] > 0 and (layer + 1) % config.get("decoder_sparse_step", 1) == 0


def _json(file: Path) -> dict[str, Any]:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnknownSize(f"{file} cannot be read: {error}.") from error
    if not isinstance(body, dict):
        raise UnknownSize(f"{file} must be a mapping of a model's numbers.")
    return body
