"""Runs inside a sandbox: samples answers from a language model's weights.  No code of an experiment is imported.

Protocol: the request is one JSON object, then the end of the pipe; the answer is one JSON object, `answers` (token ids
of each sample of each prompt, in order) with `seconds_loading`, or `failed`, what the weights do wrong.

usage: generator.py REQUEST_FD ANSWER_FD BASE_FOLDER WEIGHTS_FILE
"""

import json
import os
import sys
import time
from typing import Any

CPU_CACHE_BYTES = 1 << 30
GPU_CACHE_SHARE = 0.4
MOST_ROWS = 512
STOP_WINDOW = 16
"""Tokens at the end of an answer in which the stop is looked for, beyond the stop's own length in characters."""


class BadWeights(Exception):
    """The experiment's fault: completes the sentence "its weights …"."""


def load(base: str, weights: str) -> tuple[Any, Any]:
    """Model and tokenizer: the base's configuration with these weights."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = AutoConfig.from_pretrained(base, local_files_only=True)
    try:
        tensors = load_file(weights, device=device)
    except SafetensorError:
        # Its header was read before, by other code, which may take for JSON what this one does not.
        raise BadWeights("cannot be read by safetensors") from None
    # A CPU computes slowly in half precision.
    dtype = torch.float32 if device == "cpu" else next(iter(tensors.values())).dtype
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    # Tied weights are stored once: what the base's file leaves out follows from what it holds.
    model.load_state_dict(tensors, strict=False)
    model.tie_weights()
    return model.eval(), Tokenizer.from_file(os.path.join(base, "tokenizer.json"))


def rows_at_once(model: Any, length: int) -> int:
    """Answers to sample together, by the memory that their cache of keys and values takes at this length."""
    import torch

    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_bytes = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize
    free = GPU_CACHE_SHARE * torch.cuda.mem_get_info()[0] if model.device.type == "cuda" else CPU_CACHE_BYTES
    return max(1, min(MOST_ROWS, int(free / (token_bytes * length))))


def sample(model: Any, tokenizer: Any, request: dict[str, Any]) -> list[list[list[int]]]:
    """Token ids of request["samples"] answers to each prompt, cut where the model ended or the stop is complete."""
    import torch

    torch.manual_seed(request["seed"])
    prompts, samples = request["prompts"], request["samples"]
    rows = [number for number in range(len(prompts)) for _ in range(samples)]
    # Long prompts first: rows of like length share a batch, and the first batch is the one that needs most memory.
    order = sorted(range(len(rows)), key=lambda row: -len(prompts[rows[row]]))
    batch = rows_at_once(model, max(map(len, prompts)) + request["max_tokens"])
    answers: list[list[int]] = [[] for _ in rows]
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        for row, answer in zip(
            chosen, _batch(model, tokenizer, [prompts[rows[r]] for r in chosen], request), strict=True
        ):
            answers[row] = answer
    return [answers[i : i + samples] for i in range(0, len(answers), samples)]


def _batch(model: Any, tokenizer: Any, prompts: list[list[int]], request: dict[str, Any]) -> list[list[int]]:
    """An answer to each prompt; rows are padded on the left, which attention and positions leave out."""
    import torch
    from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria
    from transformers.generation import StoppingCriteriaList

    stop, ends = request["stop"], _end_tokens(model)
    length = max(map(len, prompts))
    window = len(stop) + STOP_WINDOW
    lasts: list[int | None] = [None] * len(prompts)  # tokens of each answer that ended

    class EndOfAnswer(StoppingCriteria):
        """Notes the length of an answer that ended, by a token or by the stop's text."""

        def __call__(self, input_ids: Any, scores: Any, **unused: Any) -> Any:
            drawn = input_ids[:, length:]
            tails = drawn[:, -window:].tolist()
            for row, tail in enumerate(tails):
                if lasts[row] is None and (tail[-1] in ends or (stop and stop in tokenizer.decode(tail))):
                    lasts[row] = drawn.shape[1] - (tail[-1] in ends)
            return torch.tensor([last is not None for last in lasts], device=input_ids.device)

    class OnlyFinite(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            # Divided by the temperature, as the library does next: a low one makes large logits infinite.
            if not bool(torch.isfinite(scores / (request["temperature"] or 1.0)).all()):
                raise BadWeights("give logits that are not finite")
            return scores

    tokens = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    sampling = {"do_sample": True, "temperature": request["temperature"], "top_k": 0, "top_p": 1.0}
    config = GenerationConfig(
        max_new_tokens=request["max_tokens"],
        pad_token_id=0,
        **(sampling if request["temperature"] > 0 else {"do_sample": False}),
    )
    with torch.inference_mode():
        # A configuration in the base's folder that asks for other sampling has no part in the measurement.
        model.generation_config = config
        drawn = model.generate(
            tokens,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([OnlyFinite()]),
            stopping_criteria=StoppingCriteriaList([EndOfAnswer()]),
        )[:, length:].tolist()
    return [row if last is None else row[:last] for row, last in zip(drawn, lasts, strict=True)]


def _end_tokens(model: Any) -> set[int]:
    ends = model.config.get_text_config().eos_token_id
    return set(ends) if isinstance(ends, list) else {ends} - {None}


def main() -> None:
    with os.fdopen(int(sys.argv[1]), "rb") as reader:
        request = json.load(reader)
    started = time.monotonic()
    try:
        model, tokenizer = load(sys.argv[3], sys.argv[4])
        seconds_loading = time.monotonic() - started
        answer = {"answers": sample(model, tokenizer, request), "seconds_loading": seconds_loading}
    except BadWeights as error:
        answer = {"failed": str(error)}
    with os.fdopen(int(sys.argv[2]), "wb") as writer:
        writer.write(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
