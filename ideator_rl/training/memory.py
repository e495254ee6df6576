"""How much memory one process of a run needs, by part, from counts alone: an estimate, stated with its formula.

N parameters, T of them trained (N, or the adapters'), w processes.  16-bit training holds for every parameter
    plain or DDP    weights and gradients in the recipe's `dtype`, two AdamW states in the same; DDP a second gradient
    ZeRO            16-bit weights and gradients, 12 bytes of fp32 weights and AdamW states (arXiv 1910.02054);
                    stage 1 divides the states by w, stage 2 the gradients too, stage 3 the weights too
    FSDP            fp32 weights, gradients and states of what is trained, all divided by w
Adapters are fp32.  Activations are rough: with checkpointing one hidden vector a token and layer, and one layer in
full.  Log-probs are computed in chunks by TRL, so logits are never whole.  Not counted: CUDA and NCCL (2 to 3 GB), and
fragmentation.  None of the figures for GPUs has been measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ideator_rl.training.launch import DDP, FSDP, FSDP_GRADS, WHOLE, ZERO1, ZERO2, ZERO3, Launch
from ideator_rl.training.model_size import ModelSize, UnknownSize, size_of
from ideator_rl.training.recipe.recipe import Recipe

GPU_GB = 80.0
"""Of the GPU that is assumed."""
LIVE = 10**9
"""Parameters that ZeRO-3 holds whole at a time, by DeepSpeed's default (stage3_max_live_parameters)."""
UNCOUNTED_GB = 3.0
"""Of CUDA and NCCL."""
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
GB = 1e9


@dataclass(frozen=True)
class Part:
    name: str
    bytes: float
    """Of one process."""
    formula: str
    together: bool = True
    """Held all the time; else only while ideas are generated, or only while weights are updated."""


@dataclass(frozen=True)
class Estimate:
    size: ModelSize
    launch: Launch
    trained: int
    parts: list[Part]
    elsewhere: str = ""
    """What other GPUs hold."""

    @property
    def total(self) -> float:
        """Bytes of one process at its peak: what is held all the time, and the larger of the two phases."""
        phases = [part.bytes for part in self.parts if not part.together]
        return sum(part.bytes for part in self.parts if part.together) + max(phases, default=0.0)

    @property
    def crowded(self) -> bool:
        """Whether it does not fit the GPU that is assumed, with what is not counted."""
        return not self.launch.cpu and self.total + UNCOUNTED_GB * GB > GPU_GB * GB

    def text(self) -> str:
        unit = "process" if self.launch.cpu else "GPU"
        name, scale = ("GB", GB) if self.total > GB else ("MB", GB / 1e3)
        lines = [
            f"memory       {self.size.name}: {self.size.parameters:,} parameters ({self.size.origin}), "
            f"{self.trained:,} trained; {self.launch.words}; rough, {name} a {unit}:"
        ]
        width = max(len(part.name) for part in self.parts)
        lines += [f"  {part.name:{width}} {part.bytes / scale:8.1f}  {part.formula}" for part in self.parts]
        sum_ = f"  {'together':{width}} {self.total / scale:8.1f}"
        if not self.launch.cpu:
            sum_ += "  and 2 to 3 GB more for CUDA and NCCL"
            sum_ += f": too much for {GPU_GB:.0f} GB; see docs/scaling.md" if self.crowded else ""
        return "\n".join([*lines, sum_, *([f"  elsewhere: {self.elsewhere}"] if self.elsewhere else [])])


def memory_text(recipe: Recipe, launch: Launch, prompt_tokens: int) -> str:
    """The estimate as text, or why there is none."""
    try:
        return estimate(recipe, launch, prompt_tokens).text()
    except UnknownSize as error:
        return f"memory       not estimated: {error}"


def estimate(recipe: Recipe, launch: Launch, prompt_tokens: int) -> Estimate:
    """What one process of a recipe's run needs.

    Args:
        prompt_tokens: of a prompt, at most.

    Raises:
        UnknownSize: the model's numbers are not here, or something of it is not counted.
    """
    model = recipe.model
    for key in ("load_in_4bit", "load_in_8bit", "lora_target_parameters", "lora_modules_to_save", "use_dora"):
        if model.get(key):
            raise UnknownSize(f"{key} is not counted.")
    size = size_of(recipe.ours.model_name_or_path, recipe.ours.scratch_model)
    adapters = model.get("use_peft", False)
    trained = size.adapters(model.get("lora_r", 16), model.get("lora_target_modules")) if adapters else size.parameters
    parts = [*_weights(recipe, launch, size, trained), *_training(recipe, launch, size, trained)]
    parts += [*_activations(recipe, launch, size, prompt_tokens), *_generation(recipe, launch, size, prompt_tokens)]
    return Estimate(size, launch, trained, [part for part in parts if part.bytes > 0], _elsewhere(recipe, size))


def _half(recipe: Recipe, launch: Launch) -> bool:
    """Whether arithmetic is 16-bit: TRL's default, taken back without a GPU."""
    given = recipe.grpo.get("bf16")
    return bool(recipe.grpo.get("fp16")) or (not launch.cpu if given is None else given)


def _dtype(recipe: Recipe) -> int:
    """Bytes of a weight as it is loaded."""
    name = recipe.model.get("dtype") or "float32"
    if name not in WIDTHS:
        raise UnknownSize(f"dtype {name} is not counted; {', '.join(WIDTHS)} are.")
    return WIDTHS[name]


def _share(launch: Launch, *sharded: str) -> int:
    """Among how many processes a part is divided."""
    return launch.processes if launch.sharding in sharded else 1


def _weights(recipe: Recipe, launch: Launch, size: ModelSize, trained: int) -> Iterator[Part]:
    frozen = size.parameters if recipe.model.get("use_peft") else 0
    half, share = _half(recipe, launch), _share(launch, *WHOLE)
    zero = launch.sharding in (ZERO1, ZERO2, ZERO3)
    base = (2 if half else 4) if zero else _dtype(recipe)
    if launch.sharding in (FSDP, FSDP_GRADS) and half and not frozen:
        base = 4  # accelerate loads what is trained in fp32
    if not launch.offload_weights:
        yield Part("weights", base * size.parameters / share, _formula(base, size.parameters, share))
    if frozen:
        yield Part("adapters", 4 * trained / share, _formula(4, trained, share))
    if launch.sharding == ZERO3:
        live = min(LIVE, size.parameters)
        yield Part("gathered weights", 2 * live, f"2 bytes × {_short(live)} live at a time")
    elif launch.sharding == FSDP:
        yield Part("gathered weights", 4 * size.layer, f"2 bytes × 2 layers of {_short(size.layer)}")
    elif half and not zero and _dtype(recipe) == 4:
        yield Part("16-bit copies", 2 * trained, f"2 bytes × {_short(trained)}, kept by autocast for a step")
    if recipe.grpo.get("beta", 0.0) and not frozen:
        whole = _share(launch, ZERO3, FSDP)
        yield Part("reference model", base * size.parameters / whole, _formula(base, size.parameters, whole))


def _training(recipe: Recipe, launch: Launch, size: ModelSize, trained: int) -> Iterator[Part]:
    adapters, half = bool(recipe.model.get("use_peft")), _half(recipe, launch)
    zero = launch.sharding in (ZERO1, ZERO2, ZERO3)
    own = 4 if adapters else _dtype(recipe)
    gradient = (2 if half else 4) if zero else 4 if launch.sharding in (FSDP, FSDP_GRADS) and half else own
    share = _share(launch, ZERO2, ZERO3, FSDP, FSDP_GRADS)
    buckets = 2 if launch.sharding == DDP and launch.processes > 1 else 1
    note = " × 2 for DDP's buckets" if buckets == 2 else ""
    yield Part("gradients", gradient * buckets * trained / share, _formula(gradient, trained, share) + note)
    if launch.offload_optimizer:
        return
    states = 12 if zero else 2 * gradient
    share = _share(launch, ZERO1, ZERO2, ZERO3, FSDP, FSDP_GRADS)
    what = "fp32 weights and AdamW" if zero else "AdamW"
    yield Part("optimizer states", states * trained / share, f"{_formula(states, trained, share)} ({what})")


def _activations(recipe: Recipe, launch: Launch, size: ModelSize, prompt_tokens: int) -> Iterator[Part]:
    width = 2 if _half(recipe, launch) else 4
    length = prompt_tokens + int(recipe.grpo.get("max_completion_length", 256))
    rows = int(recipe.grpo.get("per_device_train_batch_size", 8))
    full = size.kept * width
    if recipe.grpo.get("gradient_checkpointing", True):
        each, words = size.layers * size.hidden * width + 2 * full, "checkpoints, one layer in full and its gradient"
    else:
        each, words = size.layers * full, "every layer kept"
    yield Part("activations", rows * length * each, f"{rows} × {length} tokens × {each / 1e6:.2f} MB; {words}", False)


def _generation(recipe: Recipe, launch: Launch, size: ModelSize, prompt_tokens: int) -> Iterator[Part]:
    grpo = recipe.grpo
    if grpo.get("use_vllm"):
        if grpo.get("vllm_mode", "colocate") == "colocate":
            share = float(grpo.get("vllm_gpu_memory_utilization", 0.3))
            sleeps = bool(grpo.get("vllm_enable_sleep_mode"))  # gives its memory back while weights are updated
            yield Part("vLLM", share * GPU_GB * GB, _vllm(recipe, size, share), not sleeps)
        return
    width = 2 if _half(recipe, launch) else 4
    rows = recipe.generation_batch // launch.processes
    tokens = rows * (prompt_tokens + int(grpo.get("max_completion_length", 256)))
    cache = tokens * size.kv * width
    words = f"{rows} ideas × {tokens // max(1, rows)} tokens × {size.kv * width / 1e3:.0f} kB"
    if launch.sharding == ZERO3 and grpo.get("ds3_gather_for_generation", True):
        cache += 2 * size.parameters
        words += f", and the whole model ({2 * size.parameters / GB:.0f} GB): ds3_gather_for_generation"
    yield Part("key-value cache", cache, words, False)


def _vllm(recipe: Recipe, size: ModelSize, share: float) -> str:
    parallel = int(recipe.grpo.get("vllm_tensor_parallel_size", 1))
    weights = 2 * size.parameters / parallel / GB
    room = share * GPU_GB - weights
    words = f"vllm_gpu_memory_utilization {share:g} × {GPU_GB:.0f} GB: {weights:.1f} of weights"
    if parallel > 1:
        words += f" (tensor parallel {parallel})"
    if room <= 0:
        return words + "; TOO LITTLE, raise vllm_gpu_memory_utilization or vllm_tensor_parallel_size"
    return words + f", {room:.1f} of key-value cache ({room * GB * parallel / (2 * size.kv) / 1e3:,.0f} k tokens)"


def _elsewhere(recipe: Recipe, size: ModelSize) -> str:
    if not recipe.grpo.get("use_vllm") or recipe.grpo.get("vllm_mode", "colocate") != "server":
        return ""
    return f"the vLLM server's own GPUs hold {2 * size.parameters / GB:.0f} GB of weights among them, and their cache"


def _formula(width: float, count: int, share: int) -> str:
    words = f"{width:g} bytes × {_short(count)}"
    return f"{words} / {share}" if share > 1 else words


def _short(count: float) -> str:
    """A count in words of three figures: 30.5 B, 135 M, 60.7 k."""
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} k"
