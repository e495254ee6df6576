"""Sampling from a causal LM in which every row draws from its own seed, whatever else is in the batch.

A token is drawn by inverting the cumulative distribution at a uniform number: exact sampling at the given temperature,
without top_p or top_k, as in training.  Rounding differs with the batch by about 1e-6, and so does the chance that a
token differs.  A prompt is read once for all rows that answer it; rows that have ended are dropped from the batch.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ideator_rl.llm.model_lookup import ModelError


class Stopped(Exception):
    """The caller's `stop` event was set."""


@dataclass(frozen=True)
class Sampler:
    model: Any
    ends: frozenset[int]
    """Tokens that end an answer; they are not part of it."""
    max_tokens: int
    temperature: float = 1.0

    def answers(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], seeds: Sequence[str], stop: threading.Event
    ) -> list[list[int]]:
        """Token ids of one answer for each row, without the end token.

        Args:
            prompts: token ids (P), none empty.
            rows: which prompt each of the N rows answers.
            seeds: N names; equal names draw equal numbers.
            stop: checked before every token.

        Raises:
            Stopped: `stop` was set.
            ModelError: the model's cache does not support selecting rows.
        """
        import torch

        with torch.inference_mode():
            return self._sample(prompts, rows, _uniform(seeds, self.max_tokens), stop)

    def _sample(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], draws_NT: np.ndarray, stop: threading.Event
    ) -> list[list[int]]:
        import torch

        device = self.model.device
        draws = torch.from_numpy(draws_NT).to(device)
        prompt_of_row = torch.tensor(list(rows), device=device)
        ids, mask = _padded(prompts, device)
        # Read every prompt once, then copy its cache to the rows that answer it.
        out = self._forward(ids, mask, mask.cumsum(-1).sub(1).clamp(min=0), None, stop)
        cache: Any = getattr(out, "past_key_values", None)
        if not hasattr(cache, "batch_select_indices"):
            raise ModelError(
                f"{type(self.model).__name__} cannot be sampled here: it keeps no key-value cache of the usual kind. "
                "Serve it (vLLM, `transformers serve`) and use the ideator chat."
            )
        cache.batch_select_indices(prompt_of_row)
        logits, mask = out.logits[prompt_of_row, -1], mask[prompt_of_row]
        # `live` maps rows of the batch, which shrinks, to rows of the answers.
        live = torch.arange(len(prompt_of_row), device=device)
        answers: list[list[int]] = [[] for _ in rows]
        for step in range(self.max_tokens):
            # Every row has its own uniform number for this position, wherever it is in the shrinking batch.
            tokens = self._drawn(logits, draws[live, step])
            unfinished = [row for row, token in enumerate(tokens.tolist()) if token not in self.ends]
            for row in unfinished:
                answers[int(live[row])].append(int(tokens[row]))
            if not unfinished or step == self.max_tokens - 1:
                break
            if len(unfinished) < len(live):
                rows_left = torch.tensor(unfinished, device=device)
                live, tokens, mask = live[rows_left], tokens[rows_left], mask[rows_left]
                cache.batch_select_indices(rows_left)
            # The new token becomes visible, and is read with the cache of all before it.
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            out = self._forward(tokens[:, None], mask, mask.sum(-1, keepdim=True) - 1, cache, stop)
            logits = out.logits[:, -1]
        return answers

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any, stop: threading.Event) -> Any:
        if stop.is_set():
            raise Stopped
        return self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )

    def _drawn(self, logits: Any, draws: Any) -> Any:
        """One token (N) for each row of logits (N, V); the likeliest at temperature 0."""
        import torch

        if self.temperature == 0:
            return logits.argmax(-1)
        # In double precision: float32 sums lose the small probabilities of a large vocabulary.
        sums = torch.softmax(logits.double() / self.temperature, -1).cumsum(-1)
        tokens = torch.searchsorted(sums, (draws * sums[:, -1])[:, None], right=True)
        return tokens[:, 0].clamp(max=logits.shape[-1] - 1)


def _padded(prompts: Sequence[Sequence[int]], device: Any) -> tuple[Any, Any]:
    """Token ids and attention mask (P, L), padded on the left."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _uniform(seeds: Sequence[str], count: int) -> np.ndarray:
    """Numbers in [0, 1), (N, count), each row from its seed."""
    rows = []
    for seed in seeds:
        digest = hashlib.sha256(seed.encode("utf-8", "replace")).digest()
        rows.append(np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "big"))).random(count))
    return np.stack(rows)
