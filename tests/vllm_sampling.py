"""A program for the interpreter of an environment with vLLM: the ideator `local` samples there.

    python tests/vllm_sampling.py FOLDER

Prints the line `RESULT {...}`: what `test_vllm.py` checks.
"""

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path

import torch
from archives import archive
from tiny_policy import save_policy
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ideator_rl.environments.environment import load_environment
from ideator_rl.search.ideator import Ask, Subject, ask_ideator
from ideator_rl.search.ideators import get_ideator
from ideator_rl.search.ideators.sampling import Sampler, Stopped
from ideator_rl.search.ideators.vllm_sampling import VllmSampler
from ideator_rl.storage.ledger import Ledger

TOY = Path(__file__).parent / "toy_env"
PROMPTS = [[5, 9, 17], [3], [8, 8, 8, 100, 101, 102, 7], [2, 4]]
ROWS = [2, 0, 1, 1, 3]
COUNT = 4000


def main(folder):
    torch.set_num_threads(1)
    save_policy(folder, hidden=128)
    # Room for the prompts of an environment.
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig.from_pretrained(folder, max_position_embeddings=4096)).save_pretrained(folder)
    affinity = os.sched_getaffinity(0)
    started = time.monotonic()
    vllm = VllmSampler(str(folder), frozenset({0}), 10, 0.0, "float32", {"max_model_len": 128, "enforce_eager": True})
    start_seconds = time.monotonic() - started
    stop = threading.Event()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    seeds = [f"s{row}" for row in ROWS]
    greedy = vllm.answers(PROMPTS, ROWS, seeds, stop)
    result = {
        "greedy": greedy,
        "greedy_torch": Sampler(model, frozenset({0}), 10, 0.0).answers(PROMPTS, ROWS, seeds, stop),
    }
    vllm.temperature = 1.0
    together = vllm.answers(PROMPTS, ROWS, list("abcde"), stop)
    apart = [vllm.answers(PROMPTS, [row], [seed], stop)[0] for row, seed in zip(ROWS, "abcde", strict=True)]
    result |= {"together": together, "apart": apart}
    result["chi"] = {temperature: chi(vllm, model, temperature) for temperature in (0.05, 0.1)}
    stop.set()
    try:
        vllm.answers(PROMPTS, ROWS, seeds, stop)
    except Stopped:
        result["stopped"] = True
    stop.clear()
    result["after_stop"] = vllm.answers(PROMPTS, [0], ["b"], stop) == [together[1]]
    vllm.close()
    result["affinity_kept"] = os.sched_getaffinity(0) == affinity
    result["start_seconds"] = start_seconds
    result["ideas"] = ideas(str(folder))
    print("RESULT " + json.dumps(result))


def ideas(folder):
    """Answers of the ideator, its default engine, to two questions together and to one again alone."""
    options = {"max_model_len": 2048, "enforce_eager": True}
    settings = {"model": folder, "max_tokens": 12, "engine_options": options}
    ideator = get_ideator("local", settings, Subject(load_environment(TOY), "cpu"), Ledger())
    first, second = Ask("free", 3, salt="one"), Ask("free", 5, salt="two")
    together = asyncio.run(ask_ideator(ideator, [first, second], archive()))
    alone = asyncio.run(ask_ideator(ideator, [second], archive()))
    engine = type(ideator._model._sampler).__name__
    ideator.close()
    return {"together": together, "alone": alone, "engine": engine}


def chi(vllm, model, temperature):
    """The normalised chi-square statistic of first tokens sampled at 0.05 against softmax(logits / temperature)."""
    vllm.temperature, vllm.max_tokens = 0.05, 1
    vllm.ends = frozenset()
    seeds = [f"s{number}" for number in range(COUNT)]
    drawn = vllm.answers(PROMPTS, [0] * COUNT, seeds, threading.Event())
    vllm.temperature, vllm.max_tokens, vllm.ends = 1.0, 10, frozenset({0})
    with torch.no_grad():
        expected = COUNT * torch.softmax(model(torch.tensor([PROMPTS[0]])).logits[0, -1] / temperature, -1)
    counts = torch.bincount(torch.tensor([row[0] if row else 0 for row in drawn]), minlength=len(expected)).float()
    rare = expected < 5
    counts, expected = (torch.cat([values[~rare], values[rare].sum()[None]]) for values in (counts, expected))
    free = len(expected) - 1
    return float((((counts - expected) ** 2 / expected).sum() - free) / (2 * free) ** 0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
