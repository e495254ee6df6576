"""Sampling with vLLM in this process, in place of `sampling.Sampler`: faster, and otherwise the same answers' law.

Every row is a request with a seed of its own, at the given temperature alone.  vLLM's numbers are not those of
`Sampler`: the same seed draws another answer there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ideator_rl.llm.model_lookup import ModelError, first_line
from ideator_rl.search.ideators.sampling import Stopped

CPU_CACHE_BYTES = 1 << 30
"""Of the key-value cache without a GPU; vLLM's own default is 90 % of the machine's memory."""


def has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


class VllmSampler:
    """Loads a model into an engine of vLLM; used by one thread at a time."""

    def __init__(
        self,
        source: str,
        ends: frozenset[int],
        max_tokens: int,
        temperature: float,
        dtype: str,
        options: Mapping[str, Any],
    ):
        """
        Args:
            source: folder or hub name of the model.
            ends: tokens that end an answer; they are not part of it.
            dtype: of the weights, such as `bfloat16`.
            options: further arguments of `vllm.LLM`, such as `gpu_memory_utilization`.

        Raises:
            ModelError: vLLM cannot load the model, or refuses an option.
        """
        # In this process: a stop is then seen between two tokens, and no engine outlives the search.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm import LLM
        from vllm.platforms import current_platform

        defaults: dict[str, Any] = {"skip_tokenizer_init": True, "dtype": dtype}
        if current_platform.is_cpu() and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            defaults["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
        try:
            self._engine: Any = LLM(model=source, **{**defaults, **options}).llm_engine
        # An engine goes through much code, which raises nearly everything; its message names the cause.
        except Exception as error:
            raise ModelError(
                f"vLLM cannot load {source}: {first_line(error)} Check engine_options, or set engine: torch."
            ) from error
        self.ends, self.max_tokens, self.temperature = ends, max_tokens, temperature
        self._count = 0
        """Requests so far: each needs a name that none had before."""

    def answers(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], seeds: Sequence[str], stop: threading.Event
    ) -> list[list[int]]:
        """See `Sampler.answers`.

        Raises:
            Stopped: `stop` was set.
        """
        # Equal prompts are computed once: vLLM keeps a cache of beginnings.
        row_of_request: dict[str, int] = {}
        for row, (prompt, seed) in enumerate(zip(rows, seeds, strict=True)):
            name = str(self._count)
            self._count += 1
            row_of_request[name] = row
            self._engine.add_request(name, {"prompt_token_ids": list(prompts[prompt])}, self._params(seed))
        answers: list[list[int]] = [[] for _ in rows]
        while self._engine.has_unfinished_requests():
            if stop.is_set():
                self._engine.abort_request(list(row_of_request))
                raise Stopped
            for output in self._engine.step():
                # The engine returns only ended answers: see `output_kind`.
                tokens = list(output.outputs[0].token_ids)
                is_ended = bool(tokens) and tokens[-1] in self.ends
                answers[row_of_request[output.request_id]] = tokens[:-1] if is_ended else tokens
        return answers

    def close(self) -> None:
        """Free the weights and the cache."""
        self._engine.engine_core.shutdown()

    def _params(self, seed: str) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            stop_token_ids=sorted(self.ends),
            # 56 bits: the engine's seeds are signed numbers of 64.
            seed=int.from_bytes(hashlib.sha256(seed.encode("utf-8", "replace")).digest()[:7], "big"),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
