"""The testbed's ideator before any search or RL: a small Llama that knows the form of ideas and no landscape.

    python -m ideator_rl.envs.landscape.prior [--out FOLDER] [--steps N]   trains it once (minutes), prints its folder

Its corpus is independent of every landscape.  Of the answers to the bare prompt 38 % are the popular ideas, the others
draw 1 to 10 random edits; the thought has about two tokens for every complex edit.  Half of the prompts show one or two
ideas, and their answers are noisy recombinations: most edits are kept, some are changed, dropped or added.

Tokens are words: 80 edits, the section marks, two words that end a prompt, four words of a thought.  The tokenizer
skips all other text, so that this ideator reads every prompt that the library writes.

Guarantees: the same arguments give the same corpus, and on one machine the same weights; frozen search and RL start
from the same folder.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from ideator_rl.archive.prompts import parent_prompt
from ideator_rl.environments.environment import Environment, load_environment
from ideator_rl.envs.landscape.landscape import KNOBS, MOST_EDITS, POPULAR, SIMPLE_KNOBS, VALUES, Edit, spell
from ideator_rl.files import atomic_folder, cache_root, exclusive

END, PAD, THOUGHT_END, EXPERIMENT, CHANGES, IDEA_END = (
    "<|end|>", "<|pad|>", "</think>", "[Experiment]", "[Code Changes]", "[End]",
)  # fmt: skip
THOUGHTS, WORDS = ("hm", "um", "ah", "oh"), ("propose", "improve", "apply")
MOST_THOUGHT = 24
"""Tokens."""
POPULAR_SHARE, WITH_PARENTS = 0.38, 0.5
KEEP, CHANGE, ADD = 0.85, 0.05, (0, 0, 1, 1, 2)
"""Probabilities that a parent's edit is kept and that a kept edit gets another value; numbers of added edits."""
SIZE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
VERSION = 1
"""Raise it when the corpus or the model changes."""

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
    """The folder of the prior, which is trained if it does not exist."""
    target = out or cache_root() / "models" / f"landscape-prior-{VERSION}-{steps}-{seed}"
    with exclusive(target):
        if not target.is_dir():
            with atomic_folder(target) as folder:
                _train(folder, steps, seed)
    return target


def completion(idea: Idea, rng: random.Random) -> str:
    """An idea in the prior's form, with a thought of about two tokens for every complex edit."""
    complexity = sum(knob >= SIMPLE_KNOBS for knob in idea)
    thought = [rng.choice(THOUGHTS) for _ in range(min(MOST_THOUGHT, 2 * complexity + rng.choice((0, 1, 2))))]
    return " ".join([*thought, THOUGHT_END, idea_text(idea)])


def idea_text(idea: Idea) -> str:
    """The idea without a thought."""
    return f"{EXPERIMENT} {spell(idea.items())} {CHANGES} apply {IDEA_END}"


def corpus(count: int, seed: int) -> list[tuple[str, str]]:
    """Prompts and completions."""
    rng, environment = random.Random(f"prior {seed}"), load_environment("landscape")
    bare = environment.prompt("s0", "short")
    rows = []
    for _ in range(count):
        if rng.random() < WITH_PARENTS:
            parents = [sample_idea(rng, rng.randint(1, MOST_EDITS)) for _ in range(rng.choice((1, 2, 2)))]
            rows.append((prompt_with_parents(environment, parents, rng), completion(recombine(parents, rng), rng)))
        else:
            rows.append((bare, completion(first_idea(rng), rng)))
    return rows


def first_idea(rng: random.Random) -> Idea:
    """The idea in an answer to the bare prompt."""
    if rng.random() < POPULAR_SHARE:
        popular = list(POPULAR)
        return dict(rng.choice(([popular[0]], [popular[1]], popular)))
    return sample_idea(rng, min(MOST_EDITS, 1 + sum(rng.random() < 0.28 for _ in range(9))))


def sample_idea(rng: random.Random, edits: int) -> Idea:
    return {knob: rng.randrange(VALUES) for knob in rng.sample(range(KNOBS), edits)}


def recombine(parents: list[Idea], rng: random.Random) -> Idea:
    """The idea in an answer to a prompt that shows parents."""
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
    return child or sample_idea(rng, 1)


def prompt_with_parents(environment: Environment, parents: list[Idea], rng: random.Random) -> str:
    """The prompt that shows these ideas, with random results, which the tokenizer skips."""
    results = [(idea_text(parent), rng.random()) for parent in parents]
    return parent_prompt(environment, environment.prompt("s0", "short"), results)


def tokenizer() -> Any:
    """One token for each word of the vocabulary; all other text is skipped."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    edits = [spell([(knob, value)]) for knob in range(KNOBS) for value in range(VALUES)]
    vocabulary = [END, PAD, THOUGHT_END, EXPERIMENT, CHANGES, IDEA_END, *WORDS, *THOUGHTS, *edits]
    tokens = Tokenizer(models.WordLevel({word: id for id, word in enumerate(vocabulary)}, unk_token=PAD))
    marks_and_words = rf"\[Experiment\]|\[Code Changes\]|\[End\]|</think>|\b(?:{'|'.join([*WORDS, *THOUGHTS])})\b"
    tokens.pre_tokenizer = pre_tokenizers.Split(
        Regex(marks_and_words + r"|\bk[01][0-9]v[0-3]\b"), "removed", invert=True
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def _train(folder: Path, steps: int, seed: int) -> None:
    """Train a Llama on the completions of the corpus."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens = tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokens), eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id, bos_token_id=None,
        tie_word_embeddings=True, **SIZE,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    rows = [(tokens(prompt)["input_ids"], tokens(text)["input_ids"]) for prompt, text in corpus(steps * BATCH, seed)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    losses = []
    for step in range(steps):
        ids, labels = _batch(rows[step * BATCH : (step + 1) * BATCH], tokens.pad_token_id, tokens.eos_token_id)
        logits = model(input_ids=ids, attention_mask=(ids != tokens.pad_token_id).long(), use_cache=False).logits
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
    tokens.save_pretrained(folder)
    training = {"steps": steps, "seed": seed, "loss": sum(losses[-100:]) / len(losses[-100:])}
    (folder / "prior.json").write_text(json.dumps(training | {"parameters": model.num_parameters()}))


def _batch(rows: list[tuple[list[int], list[int]]], pad: int, end: int) -> tuple[Any, Any]:
    import torch

    longest = max(len(prompt) + len(text) + 1 for prompt, text in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), -100)
    for row, (prompt, text) in enumerate(rows):
        tokens = [*prompt, *text, end]
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, len(prompt) : len(tokens)] = ids[row, len(prompt) : len(tokens)]
    return ids, labels


if __name__ == "__main__":
    main()
