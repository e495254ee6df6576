"""A program for the interpreter of an environment with vLLM: math_grpo's baseline samples through it.

    python tests/vllm_rollout.py FOLDER

Prints the line `RESULT {...}`: what `test_vllm.py` checks.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path

import torch
from tiny_policy import save_policy
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ideator_rl.training.vllm_cpu import keep_weights_loadable

ROLLOUT = Path(__file__).parents[1] / "envs" / "math_grpo" / "baseline" / "rollout.py"
PROMPTS = [[5, 9, 17], [3], [8, 8, 8, 100, 101, 102, 7]]


def main(folder):
    torch.set_num_threads(1)
    save_policy(folder, hidden=128)
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder, initializer_range=0.2))
    # Logits far apart, so that the likeliest token is drawn at the lowest temperature of both engines.
    model.get_output_embeddings().weight.data.mul_(4)
    model.save_pretrained(folder)
    keep_weights_loadable()
    spec = importlib.util.spec_from_file_location("rollout", ROLLOUT)
    rollout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rollout)
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rollout.VLLM_MEMORY = 0.2
    started = time.monotonic()
    engines = {name: rollout.engine(name, policy, tokenizer, folder, 64, 0) for name in ("vllm", "torch")}
    result = {"seconds_starting": time.monotonic() - started}

    def sample(name, temperature=0.01, group=2):
        return engines[name].sample(PROMPTS, group, 8, temperature, "no such stop")

    result["before"] = {name: sample(name) for name in engines}
    result["drawn"] = sample("vllm", 2.0, 16)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    engines["vllm"].refresh()
    result["after"] = {name: sample(name) for name in engines}
    print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
