"""The testbed's ideator before any search or RL: a small Llama that knows how ideas look and nothing of any landscape.

    python -m ideator_rl.envs.landscape.prior [--out FOLDER] [--steps N]   makes it once (minutes) and prints its folder

Its corpus is landscape-blind.  Of the answers to the bare prompt 38 % are the popular ideas, the others draw 1 to 10
edits at random; the thought has about two tokens for every complex edit.  Half of the prompts show one or two ideas,
and their answers are noisy recombinations: most edits kept, now and then one changed, dropped or added.

Tokens are words: 80 edits, the section marks, two words that a prompt ends with, four that a thought is made of.  All
other text is skipped by the tokenizer, so that this ideator reads whatever prompts the library writes.

Guarantees: the same arguments give the same corpus, and on one machine the same weights; frozen search and RL begin
with the one folder.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from ideator_rl.archive.prompts import parent_prompt
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.envs.landscape.landscape import KNOBS, MOST_EDITS, POPULAR, SIMPLE_KNOBS, VALUES, Edit, spelled
from ideator_rl.files import atomic_folder, cache_root, exclusive

END, PAD, THOUGHT_END, EXPERIMENT, CHANGES, IDEA_END = (
    "<|end|>", "<|pad|>", "</think>", "[Experiment]", "[Code Changes]", "[End]",
)  # fmt: skip
THOUGHTS, WORDS = ("hm", "um", "ah", "oh"), ("propose", "improve", "apply")
MOST_THOUGHT = 24
"""Tokens."""
POPULAR_SHARE, WITH_PARENTS = 0.38, 0.5
KEEP, CHANGE, ADD = 0.85, 0.05, (0, 0, 1, 1, 2)
"""Chances that a parent's edit is kept and that a kept one gets another value; how many are added."""
SIZE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
VERSION = 1
"""To be raised when the corpus or the model changes."""

Idea = dict[int, int]
"""Value by knob."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    print(prior(options.out, options.steps))


STEPS, BATCH, LEARNING_RATE = 1500, 64, 3e-3


def prior(out: Path | None = None, steps: int = STEPS, seed: int = 0) -> Path:
    """The folder of the prior; made if it is not there."""

    target = out or cache_root() / "models" / f"landscape-prior-{VERSION}-{steps}-{seed}"
    with exclusive(target):
        if not target.is_dir():
            with atomic_folder(target) as folder:
                _make(folder, steps, seed)
    return target


def completion(idea: Idea, rng: random.Random) -> str:
    """An idea as the prior writes it, with a thought of about two tokens for every complex edit."""
    complexity = sum(knob >= SIMPLE_KNOBS for knob in idea)
    words = [rng.choice(THOUGHTS) for _ in range(min(MOST_THOUGHT, 2 * complexity + rng.choice((0, 1, 2))))]
    return " ".join([*words, THOUGHT_END, text_of(idea)])


def text_of(idea: Idea) -> str:
    """The idea alone."""
    return f"{EXPERIMENT} {spelled(idea.items())} {CHANGES} apply {IDEA_END}"


def corpus(count: int, seed: int) -> list[tuple[str, str]]:
    """Prompts and completions."""
    rng, environment = random.Random(f"prior {seed}"), load_environment("landscape")
    bare = environment.prompt("s0", "short")
    out = []
    for _ in range(count):
        if rng.random() < WITH_PARENTS:
            parents = [sampled(rng, rng.randint(1, MOST_EDITS)) for _ in range(rng.choice((1, 2, 2)))]
            out.append((shown(environment, parents, rng), completion(recombined(parents, rng), rng)))
        else:
            out.append((bare, completion(first_idea(rng), rng)))
    return out


def first_idea(rng: random.Random) -> Idea:
    """What an answer to the bare prompt proposes."""
    if rng.random() < POPULAR_SHARE:
        popular = list(POPULAR)
        return dict(rng.choice(([popular[0]], [popular[1]], popular)))
    return sampled(rng, min(MOST_EDITS, 1 + sum(rng.random() < 0.28 for _ in range(9))))


def sampled(rng: random.Random, edits: int) -> Idea:
    return {knob: rng.randrange(VALUES) for knob in rng.sample(range(KNOBS), edits)}


def recombined(parents: list[Idea], rng: random.Random) -> Idea:
    """What an answer to a prompt with parents proposes."""
    pool: list[Edit] = [edit for parent in parents for edit in parent.items()]
    rng.shuffle(pool)
    child: Idea = {}
    for knob, value in pool:
        if rng.random() < KEEP:
            child.setdefault(knob, rng.randrange(VALUES) if rng.random() < CHANGE else value)
    for _ in range(rng.choice(ADD)):
        child.setdefault(rng.randrange(KNOBS), rng.randrange(VALUES))
    while len(child) > MOST_EDITS:
        del child[rng.choice(list(child))]
    return child or sampled(rng, 1)


def shown(environment: Environment, parents: list[Idea], rng: random.Random) -> str:
    """The prompt that shows these ideas; the results in it are skipped by the tokenizer."""
    told = [(text_of(parent), rng.random()) for parent in parents]
    return parent_prompt(environment, environment.prompt("s0", "short"), told)


def tokenizer() -> Any:
    """Words as tokens; whatever is no word of it is skipped."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    edits = [spelled([(knob, value)]) for knob in range(KNOBS) for value in range(VALUES)]
    words = [END, PAD, THOUGHT_END, EXPERIMENT, CHANGES, IDEA_END, *WORDS, *THOUGHTS, *edits]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=PAD))
    known = rf"\[Experiment\]|\[Code Changes\]|\[End\]|</think>|\b(?:{'|'.join([*WORDS, *THOUGHTS])})\b"
    made.pre_tokenizer = pre_tokenizers.Split(Regex(known + r"|\bk[01][0-9]v[0-3]\b"), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def _make(folder: Path, steps: int, seed: int) -> None:
    """Train a Llama on the corpus, completions only."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words), eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, bos_token_id=None,
        tie_word_embeddings=True, **SIZE,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    rows = [(words(prompt)["input_ids"], words(text)["input_ids"]) for prompt, text in corpus(steps * BATCH, seed)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    losses = []
    for step in range(steps):
        ids, labels = _batch(rows[step * BATCH : (step + 1) * BATCH], words.pad_token_id, words.eos_token_id)
        logits = model(input_ids=ids, attention_mask=(ids != words.pad_token_id).long(), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"prior: step {step + 1}/{steps}, loss {sum(losses[-100:]) / 100:.3f}", flush=True)
    model.config.use_cache = True
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    facts = {"steps": steps, "seed": seed, "loss": sum(losses[-100:]) / len(losses[-100:])}
    (folder / "prior.json").write_text(json.dumps(facts | {"parameters": model.num_parameters()}))


def _batch(rows: list[tuple[list[int], list[int]]], pad: int, end: int) -> tuple[Any, Any]:
    import torch

    longest = max(len(prompt) + len(text) + 1 for prompt, text in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), -100)
    for row, (prompt, text) in enumerate(rows):
        whole = [*prompt, *text, end]
        ids[row, : len(whole)] = torch.tensor(whole)
        labels[row, len(prompt) : len(whole)] = ids[row, len(prompt) : len(whole)]
    return ids, labels


if __name__ == "__main__":
    main()
