"""Makes a vLLM for CPUs take new weights between steps, which its own build refuses or ignores.

It packs the weights of linear layers for its kernels and drops the originals: loading the next weights then fails
(`'Parameter' object has no attribute 'weight_loader'`, vLLM 0.31).  Of a language model's head it keeps the originals
too, loads into them, and goes on computing with the packed copy of the old ones, without an error.
"""

from __future__ import annotations

from typing import Any


def prepare_engine(config: Any) -> None:
    """Prepare this process for the engine that TRL's `GRPOConfig` asks for; None and other modes need nothing."""
    if config is not None and config.use_vllm and config.vllm_mode == "colocate":
        keep_weights_loadable()


def keep_weights_loadable() -> None:
    """Compute with unpacked weights from now on, on a vLLM for CPUs; nothing on other platforms.

    To be called before an engine is built in this process.
    """
    import torch
    from vllm.model_executor.layers import utils
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return

    def use_unpacked(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    # vLLM's own fallback where it has no kernel to pack for.  Layers look the function up when they are built.
    utils.dispatch_cpu_unquantized_gemm = use_unpacked
