"""Makes `policy.safetensors`, the policy that experiments start from.  Run by hand, in about six minutes on one core.

The policy reads a corpus that is mostly careless: most answers forget carries, borrows and signs, digit by digit, and
the rest are right.  So it can calculate, but usually does not, as base models can do more than they show.  The file is
shipped, because training is not bit-reproducible between machines and everybody must start from the same weights.

usage: python envs/grpo_math/pretrain.py
"""

import random
import sys

import torch
from prepare import HERE, POLICY, draw, problems
from safetensors.torch import save_file
from torch.nn import functional as F

sys.path.insert(0, str(HERE / "baseline"))

from model import ALPHABET, END, Policy  # noqa: E402

RIGHT = {"+": 0.25, "-": 0.2, "*": 0.15}
"""Share of right answers in the corpus; the others are careless."""
STEPS = 8000
BATCH = 256
LEARNING_RATE = 2e-3
ANSWER = 5
"""Tokens of an answer, its end included."""


def careless(prompt: str) -> str:
    """The answer digit by digit, modulo ten, without a sign."""
    left, sign, right = prompt[:3], prompt[3], prompt[4:7]
    if sign == "*":
        digits = [int(digit) * int(right) % 10 for digit in left]
    elif sign == "+":
        digits = [(int(a) + int(b)) % 10 for a, b in zip(left, right, strict=True)]
    else:
        digits = [(int(a) - int(b)) % 10 for a, b in zip(max(left, right), min(left, right), strict=True)]
    return str(int("".join(map(str, digits))))


def batch(rng: random.Random, hidden: set[str]) -> torch.Tensor:
    """Prompts with answers, padded with END, (BATCH, T)."""
    rows = []
    while len(rows) < BATCH:
        problem = draw(rng)
        if problem["prompt"] not in hidden:
            right = rng.random() < RIGHT[problem["prompt"][3]]
            answer = problem["answer"] if right else careless(problem["prompt"])
            tokens = [ALPHABET.index(character) for character in problem["prompt"] + answer]
            rows.append(tokens + [END] * (ANSWER - len(answer)))
    return torch.tensor(rows)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng, splits = random.Random(1), problems()
    hidden = {problem["prompt"] for split in ("main", "confirm") for problem in splits[split]}
    policy = Policy()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / STEPS)))
    for step in range(1, STEPS + 1):
        tokens = batch(rng, hidden)
        targets = tokens[:, -ANSWER:]
        logits = policy(tokens[:, :-1])[:, -ANSWER:]
        ends = targets == END
        counts = ends.cumsum(1) - ends.long() == 0
        loss = F.cross_entropy(logits[counts], targets[counts])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        if step % 500 == 0:
            print(f"step {step}  loss {loss.item():.3f}", flush=True)
    save_file({name: weight.half() for name, weight in policy.state_dict().items()}, POLICY)


if __name__ == "__main__":
    main()
