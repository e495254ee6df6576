"""A program for the interpreter of an environment with vLLM: trains a tiny policy that vLLM samples from.

    python tests/vllm_training.py '{"folder": "...", "lag": 1}'

Prints the line `RESULT {...}`: what `test_vllm.py` checks.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig
from tiny_policy import arguments, build, by_text, save_policy
from transformers import TrainerCallback
from trl import GRPOTrainer

from ideator_rl.training.pipeline_config import PipelineConfig
from ideator_rl.training.trainer import IdeatorGRPOTrainer
from ideator_rl.training.vllm_cpu import keep_weights_loadable


class Kill(TrainerCallback):
    """Ends the process as `kill -9` would, after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            os._exit(9)


def main(options):
    folder = Path(options["folder"])
    source = folder / "policy"
    if not source.is_dir():
        save_policy(source, hidden=128)
    args = arguments(
        folder / "run", use_vllm=True, vllm_max_model_length=128, max_steps=5, **options.get("args", {}),
    )  # fmt: skip

    async def recorded(completions, **columns):
        with open(folder / "completions.jsonl", "a") as file:
            file.write(json.dumps(completions) + "\n")
        return await by_text(completions, **columns)

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if options.get("lora") else None
    own = {} if options.get("stock") else {"pipeline": PipelineConfig(max_staleness=options.get("lag", 0))}
    if options.get("stock"):
        keep_weights_loadable()
    started = time.monotonic()
    kind = GRPOTrainer if options.get("stock") else IdeatorGRPOTrainer
    trainer = build(kind, str(source), args, recorded, peft_config=lora, **own)
    if "kill" in options:
        trainer.add_callback(Kill(options["kill"]))
    ready = time.monotonic()
    trainer.train(resume_from_checkpoint=options.get("resume"))
    trained = time.monotonic()
    generation = trainer.vllm_generation
    generation.sync_weights()
    print("RESULT " + json.dumps({
        "start_seconds": ready - started, "train_seconds": trained - ready, "log": trainer.state.log_history,
        "weights": digest(trainer.model), "logits_gap": gap(trainer, generation), "moved": moved(trainer, source),
    }))  # fmt: skip


def digest(model):
    state = model.state_dict()
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


def gap(trainer, generation):
    """Largest distance of vLLM's log-probs of its own tokens from those of the trained model."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=1.0, max_tokens=12, logprobs=0, seed=1, ignore_eos=True)
    prompt = [5, 9, 17, 20]
    output = generation.llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0].outputs[0]
    sampled = torch.tensor(
        [entry[token].logprob for entry, token in zip(output.logprobs, output.token_ids, strict=True)]
    )
    return float((sampled - logps(trainer.model, prompt, output.token_ids)).abs().max())


def moved(trainer, source):
    """How far training has moved the log-probs of the same kind of tokens: what `gap` would be with old weights."""
    from transformers import AutoModelForCausalLM

    prompt, tokens = [5, 9, 17, 20], list(range(30, 42))
    old = AutoModelForCausalLM.from_pretrained(source)
    return float((logps(trainer.model, prompt, tokens) - logps(old, prompt, tokens)).abs().max())


def logps(model, prompt, tokens):
    ids = torch.tensor([[*prompt, *tokens]])
    with torch.no_grad():
        rows = model.eval()(ids).logits.float().log_softmax(-1)[0, len(prompt) - 1 : -1]
    return rows[range(len(tokens)), list(tokens)]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
