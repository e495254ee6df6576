"""A tiny policy and a stock trainer's arguments, for tests and benchmarks of the trainer."""

import asyncio
import hashlib

import torch
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PrinterCallback
from trl import GRPOConfig

from ideator_rl.training.models import phrase_tokenizer

torch.set_num_threads(1)  # a model this small is slower with more
WORDS = ["[Experiment] Set the rate. [Code Changes] rate = 0.5 [End]", "Propose an idea."] * 20


def save_policy(folder, hidden=32):
    tokenizer = phrase_tokenizer(WORDS, 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def arguments(folder, **more):
    values = dict(
        output_dir=str(folder), per_device_train_batch_size=8, num_generations=4, max_completion_length=12,
        max_steps=4, learning_rate=1e-2, lr_scheduler_type="constant", logging_steps=1, save_strategy="no",
        report_to="none", use_cpu=True, bf16=False, disable_tqdm=True, seed=5, beta=0.0, gradient_checkpointing=False,
    )  # fmt: skip
    return GRPOConfig(**{**values, **more})


def rows(count=6):
    return Dataset.from_list([{"prompt": f"Propose an idea {number}.", "number": number} for number in range(count)])


def draw(text):
    """A number in [0, 1) that a text always has."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


async def by_text(completions, **_):
    """A reward that depends on nothing but the completion."""
    await asyncio.sleep(0)
    return [draw(text) for text in completions]


def build(kind, source, args, functions=by_text, dataset=None, **more):
    trainer = kind(
        model=source, reward_funcs=functions, args=args, train_dataset=dataset or rows(),
        processing_class=AutoTokenizer.from_pretrained(source), **more,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
