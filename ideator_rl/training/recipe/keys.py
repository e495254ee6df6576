"""The keys a recipe may have: ours, and those of TRL's GRPOConfig and ModelConfig, with the types they take.

TRL's keys are read from the source of its dataclasses: importing trl takes seconds, and a wrong key should be told at
once.  `tests/test_trl_contract.py` holds that the two ways give the same keys.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ideator_rl.config import Types, keys_of


@dataclass
class IdeatorConfig:
    """The keys that TRL does not have."""

    env: str = ""
    """Environment: a name, or the path of its folder."""
    preset: str = "cpu"
    bucket: str = ""
    """URL of the bucket; empty for `<output_dir>/bucket`."""
    implementer: str = "rules"
    coder: dict[str, Any] | None = None
    """Settings of an implementer that asks an LLM: endpoint, models, samples, revisions; see docs/implementers.md."""
    max_usd: float | None = None
    """The most that the coder LLM may cost over the whole run, resumed or not; the run winds down there."""
    max_coder_tokens: int | None = None
    max_gpu_hours: float | None = None
    """The most GPU-hours for experiments."""
    reward_transform: str | None = None
    """In the place of the environment's: inverse, identity, negative, or over_baseline (relative to its noise)."""
    max_staleness: int = 0
    """Batches that are sampled ahead of the one that is trained; 0 for stock TRL's order."""
    quorum: float = 1.0
    """Fraction of a batch's rewards that closes it; what is missing is masked or trained later."""
    deadline: float | None = None
    """Seconds from its submission after which a batch closes whatever has come; null for never."""
    max_age: int = 4
    """Batches that an incomplete group may wait for the rest of its rewards."""
    advantage: str | None = None
    """grpo, dr_grpo, loo, max_at_k, entropic, anneal, or a dotted path; null for what TRL's scale_rewards says."""
    advantage_options: dict[str, Any] | None = None
    cluster_weight: str | None = None
    """ips or share: rewards are weighted by cluster before advantages are computed."""
    prompt_strategy: str | None = None
    """Which past ideas prompts carry: top_k, puct, random, or a dotted path; null for prompts without any."""
    free_prompts: float = 0.25
    """Fraction of the groups whose prompt carries none all the same."""
    prompt_parents: int = 2
    """Past ideas in a prompt."""
    prompt_elites: int = 20
    """The best distinct ideas that parents are picked from."""
    imitation_weight: float = 0.0
    """Weight of the likelihood of the best ideas found, beside the policy loss; 0 for none."""
    imitation_cells: int = 48
    """Kinds of change of which the best idea may be imitated."""
    backend: str = "local"
    """Who starts experiments: local, bucket (whoever watches the bucket), or a dotted path of a class."""
    slots: int | None = None
    """CPU slots for experiments on this machine; null for the number of cores."""
    isolation: str = "auto"
    replicates: int = 1
    """Runs that equal ideas of one group are spread over."""
    prompts: str = "short"
    """Which of the environment's prompts asks for an idea."""
    reward_funcs: list[str] = field(default_factory=lambda: ["execution"])
    """Reward functions by name or dotted path; `reward_weights` is TRL's."""
    reward_options: dict[str, Any] | None = None
    """Options of reward functions by name, such as {length_most: 0.2}: columns that they are given."""
    model_name_or_path: str | None = None
    """Hub name, folder, or `package:NAME/FILE.gguf` inside an installed package; null with `scratch_model`."""
    scratch_model: dict[str, int] | None = None
    """Build a small Llama and its tokenizer on the spot: `vocab_size` and numbers of LlamaConfig."""
    sft_steps: int = 0
    """Optimizer steps of format SFT before RL, on ideas from the environment's catalogue; 0 for none."""
    sft_learning_rate: float = 1e-3
    sft_batch_size: int = 16
    sft_examples: int = 2000
    """Ideas to draw from the catalogue."""
    cpu_threads: int | None = None
    """Threads of the ideator's own computations; null for torch's choice.  Experiments have one each."""
    baseline_replicates: int = 1
    """Runs of the unchanged baseline, with seeds of their own, to compare with."""
    diversity: bool = True
    """Log figures of the population at every batch, and sound an alarm when it collapses; see docs/diversity.md."""
    diversity_embedder: str = "auto"
    """What makes vectors of ideas: auto, hashed, minilm, a hub name or folder, or a dotted path."""
    collapse_action: str = "warn"
    """What to do at a collapse alarm: warn, raise_temperature, switch_advantage, or stop."""
    collapse_factor: float = 1.2
    """What raise_temperature multiplies the temperature by, each time, up to `collapse_ceiling`."""
    collapse_ceiling: float = 1.5
    collapse_advantage: str = "max_at_k"
    """What switch_advantage switches to, with `collapse_advantage_options`."""
    collapse_advantage_options: dict[str, Any] | None = None


_SOURCES = {
    "grpo": (
        ("trl", "trainer/grpo_config.py", "GRPOConfig"),
        ("trl", "trainer/base_config.py", "_BaseConfig"),
        ("transformers", "training_args.py", "TrainingArguments"),
    ),
    "model": (("trl", "trainer/model_config.py", "ModelConfig"),),
}
_PLAIN = {"int", "float", "str", "bool", "dict", "list", "None"}
_TEXT_LIKE = {"SchedulerType", "OptimizerNames", "IntervalStrategy", "SaveStrategy", "HubStrategy"}
"""Enums of transformers, which a recipe spells as text."""


def our_keys() -> dict[str, Types]:
    """Keys of IdeatorConfig."""
    return keys_of(IdeatorConfig)


@cache
def trl_keys(group: str) -> dict[str, Types]:
    """Keys of GRPOConfig (`grpo`) or ModelConfig (`model`)."""
    keys: dict[str, Types] = {}
    for package, file, name in _SOURCES[group]:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None, f"{package} is a dependency of this library"
        tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_argument(node.value):
                keys.setdefault(node.target.id, _annotated(node.annotation))
    return keys


def _is_argument(value: ast.expr | None) -> bool:
    """Not `field(init=False)`, which the constructor does not take."""
    keywords = value.keywords if isinstance(value, ast.Call) else []
    return not any(k.arg == "init" and isinstance(k.value, ast.Constant) and not k.value.value for k in keywords)


def _annotated(annotation: ast.expr) -> Types:
    found: list[str] = []
    for part in ast.unparse(annotation).split(" | "):
        name = part.partition("[")[0]
        if name not in _PLAIN | _TEXT_LIKE:
            return ()
        found.append("NoneType" if name == "None" else "str" if name in _TEXT_LIKE else name)
    return tuple(dict.fromkeys(found))
