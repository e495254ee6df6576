"""The policy: a causal language model of transformers, its tokenizer and its prompt.  Fixed: ideas change the training.

Reads   FOLDER/model/         the base: config.json, the tokenizer's files, model.safetensors
        FOLDER/template.txt   the prompt, with {problem} where the problem belongs
Writes  model.safetensors     weights with the names, shapes and types of the base's
"""

import json
import struct

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

WEIGHTS = "model.safetensors"
STOP = "</answer>"  # ends an answer, and belongs to it


def read_policy(data, dtype, device):
    """The base as a model of torch, its weights in the type `dtype`, such as "bfloat16"."""
    disable_progress_bar()
    policy = AutoModelForCausalLM.from_pretrained(
        data / "model", dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True
    )
    return policy.to(device).eval()  # these models have no dropout; `eval` keeps it so


def read_tokenizer(data):
    tokenizer = AutoTokenizer.from_pretrained(data / "model", local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_template(data):
    return (data / "template.txt").read_text(encoding="utf-8")


def prompt(template, problem):
    """The text that the policy goes on from."""
    return template.replace("{problem}", problem)


def save_policy(policy, data, artifact):
    """Write the weights as the base's file has them; a reader never sees half of a file."""
    weights, base = policy.state_dict(), header(data / "model" / WEIGHTS)
    # The base's names leave out tied weights, and its types may be smaller than those of the training.
    saved = {
        name: weights[name].detach().to("cpu", TYPES[tensor["dtype"]]).contiguous() for name, tensor in base.items()
    }
    partial = artifact / "partial"
    save_file(saved, partial)
    partial.rename(artifact / WEIGHTS)


TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def header(file):
    """Of a safetensors file: type, shape and place of each tensor, by name."""
    with open(file, "rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        tensors = json.loads(opened.read(size))
    tensors.pop("__metadata__", None)
    return tensors
