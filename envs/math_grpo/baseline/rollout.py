"""Answers that the policy gives: two engines behind one call.

`torch` uses the policy as it is, by `generate` of transformers.  `vllm` is an engine in this process that holds a copy
of the weights; `refresh` hands it the policy's after an update.
"""

import os

import torch

VLLM_MEMORY = 0.55  # share of the GPU's memory that vLLM takes
ROWS = 256  # answers that `torch` samples together: their cache of keys and values has to fit


def engine(name, policy, tokenizer, folder, length, seed):
    """The engine of that name.

    Args:
        folder: of the base, whose configuration vLLM reads.
        length: tokens of a prompt and its answer, at most.
    """
    return {"torch": Torch, "vllm": Vllm}[name](policy, tokenizer, folder, length, seed)


class Torch:
    def __init__(self, policy, tokenizer, folder, length, seed):
        self._policy, self._tokenizer = policy, tokenizer

    def refresh(self):
        """Nothing to do: the policy itself answers."""

    @torch.no_grad()
    def sample(self, prompts, group, max_tokens, temperature, stop):
        """Answers as lists of token ids, `group` to each prompt, which is a list of token ids too."""
        # A static cache lets a GPU run compiled graphs; a CPU would only compute on its empty part.
        cache = {"cache_implementation": "static"} if self._policy.device.type == "cuda" else {}
        answers, part = [], max(1, ROWS // group)
        for start in range(0, len(prompts), part):
            asked = prompts[start : start + part]
            inputs = self._tokenizer.pad({"input_ids": asked}, padding_side="left", return_tensors="pt")
            tokens_BT = self._policy.generate(
                **inputs.to(self._policy.device), do_sample=True, num_return_sequences=group,
                temperature=temperature, top_p=1.0, top_k=0, max_new_tokens=max_tokens,
                stop_strings=[stop], tokenizer=self._tokenizer, pad_token_id=self._tokenizer.pad_token_id, **cache,
            )  # fmt: skip
            rows = [self._cut(row, stop) for row in tokens_BT[:, inputs["input_ids"].shape[1] :].tolist()]
            answers += [rows[i : i + group] for i in range(0, len(rows), group)]
        return answers

    def _cut(self, row, stop):
        """An answer without what pads it."""
        ends, pad = {self._tokenizer.eos_token_id}, self._tokenizer.pad_token_id
        last = next((place for place, token in enumerate(row) if token in ends or token == pad), None)
        if last is None:
            return row
        # A row that ended by `stop` goes on with padding, which may be the token that ends a text.
        padded = row[last] not in ends or stop in self._tokenizer.decode(row[:last])
        return row[: last if padded else last + 1]


class Vllm:
    def __init__(self, policy, tokenizer, folder, length, seed):
        # In this process, alone: there is nothing to find over a network.
        os.environ.update({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"})
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("MASTER_PORT", "29517")
        from vllm import LLM, SamplingParams

        self._policy, self._parameters, self._number = policy, SamplingParams, seed
        self._llm = LLM(
            model=str(folder), dtype=str(policy.dtype).removeprefix("torch."), max_model_len=length, seed=seed,
            gpu_memory_utilization=VLLM_MEMORY, distributed_executor_backend="external_launcher",
        )  # fmt: skip

    def refresh(self):
        """Hand over the policy's weights, and forget what was computed with the old ones."""
        model = self._llm.llm_engine.model_executor.driver_worker.model_runner.model
        model.load_weights((name, parameter.data) for name, parameter in self._policy.named_parameters())
        self._llm.reset_prefix_cache()

    def sample(self, prompts, group, max_tokens, temperature, stop):
        """As `Torch.sample`."""
        self._number += 1
        parameters = self._parameters(
            n=group, temperature=temperature, top_p=1.0, top_k=0, max_tokens=max_tokens, stop=[stop],
            include_stop_str_in_output=True, seed=self._number,
        )  # fmt: skip
        asked = [{"prompt_token_ids": tokens} for tokens in prompts]
        answered = self._llm.generate(asked, parameters, use_tqdm=False)
        return [[list(answer.token_ids) for answer in request.outputs] for request in answered]
