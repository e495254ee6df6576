"""GRPO (Shao et al. 2024, arXiv 2402.03300) on arithmetic, for a fixed budget; leaves the weights for the scorer.

Reads   IDEATOR_DATA/policy.safetensors      the pretrained policy
        IDEATOR_DATA/train.jsonl             problems with answers, one a line
Writes  IDEATOR_ARTIFACT/policy.safetensors  the trained policy, as `load` in model.py reads it
Heeds   IDEATOR_BUDGET_SECONDS               seconds after the imports: CPU time on the cpu, wall clock on a GPU
        IDEATOR_SEED                         seeds the choice of problems and the answers

Shapes: P problems a step, G answers to each, B = P * G answers, T tokens of a prompt and its answer, A of an answer.
"""

import json
import os
import random
import time
from pathlib import Path

import torch
from model import ALPHABET, END, read_policy
from safetensors.torch import save_file

prompts = 16  # problems a step
group = 8  # answers to each problem
max_tokens = 5  # of an answer
temperature = 1.0
learning_rate = 3e-5
weight_decay = 0.0
beta1 = 0.9
beta2 = 0.999
clip = 0.2  # the ratio of probabilities counts up to this far from 1
kl = 0.04  # weight of the divergence from the pretrained policy
epochs = 1  # updates on each batch of answers
max_norm = 1.0  # of the gradient
reserve = 0.5  # seconds kept back for saving and leaving
device = "cpu"


def read_problems(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def encode(text):
    return [ALPHABET.index(character) for character in text]


def decode(tokens):
    """The text before the first END; None when there is none."""
    return "".join(ALPHABET[token] for token in tokens[: tokens.index(END)]) if END in tokens else None


def choose(problems, spent):
    """The problems of a step, after a fraction `spent` of the budget."""
    return random.sample(problems, prompts)


@torch.no_grad()
def sample(policy, tokens_BT):
    """Prompts with an answer drawn to each, (B, T), and which tokens of the answers count, bool (B, A)."""
    for _ in range(max_tokens):
        logits_BV = policy(tokens_BT)[:, -1] / temperature
        tokens_BT = torch.cat([tokens_BT, torch.multinomial(logits_BV.softmax(-1), 1)], 1)
    ends_BA = tokens_BT[:, -max_tokens:] == END
    return tokens_BT, ends_BA.cumsum(1) - ends_BA.long() == 0


def reward(problem, answer):
    """What an answer earns; None is one that did not end."""
    return float(answer == problem["answer"])


def advantages(rewards_PG):
    """How much better each answer is than its group."""
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    return centred_PG / (rewards_PG.std(1, keepdim=True) + 1e-4)


def log_probabilities(policy, tokens_BT):
    """Of the answers' tokens, (B, A), and the policy's entropy at each, (B, A)."""
    logits_BAV = policy(tokens_BT[:, :-1])[:, -max_tokens:] / temperature
    log_BAV = logits_BAV.log_softmax(-1)
    return log_BAV.gather(-1, tokens_BT[:, -max_tokens:, None])[..., 0], -(log_BAV.exp() * log_BAV).sum(-1)


def surrogate(log_BA, old_BA, advantages_B1):
    """The clipped objective of each token."""
    ratio_BA = (log_BA - old_BA).exp()
    clipped_BA = ratio_BA.clamp(1 - clip, 1 + clip)
    return torch.minimum(ratio_BA * advantages_B1, clipped_BA * advantages_B1)


def over_tokens(values_BA, counts_BA):
    """One number: the mean over each answer's tokens, then over the answers."""
    return ((values_BA * counts_BA).sum(1) / counts_BA.sum(1)).mean()


def step_size(spent):
    """Factor on the learning rate after a fraction `spent` of the budget."""
    return 1.0


def train(policy, reference, problems, seconds, clock):
    start = clock()
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=learning_rate, betas=(beta1, beta2), weight_decay=weight_decay
    )
    step = 0
    while (spent := (clock() - start) / seconds) * (1 + 1 / max(step, 1)) < 1:  # as long as one more step fits
        chosen = choose(problems, spent)
        asked_BT = torch.tensor([encode(p["prompt"]) for p in chosen], device=device).repeat_interleave(group, 0)
        tokens_BT, counts_BA = sample(policy, asked_BT)
        answers = [decode(row) for row in tokens_BT[:, -max_tokens:].tolist()]
        rewards_B = torch.tensor([reward(chosen[i // group], answer) for i, answer in enumerate(answers)])
        advantages_B1 = advantages(rewards_B.view(-1, group)).view(-1, 1).to(device)
        with torch.no_grad():
            old_BA, _ = log_probabilities(policy, tokens_BT)
            reference_BA = log_probabilities(reference, tokens_BT)[0] if kl else None
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate * step_size(spent)
        for _ in range(epochs):
            log_BA, entropy_BA = log_probabilities(policy, tokens_BT)
            objective_BA = surrogate(log_BA, old_BA, advantages_B1)
            if kl:
                away_BA = reference_BA - log_BA
                objective_BA = objective_BA - kl * (away_BA.exp() - away_BA - 1)
            loss = -over_tokens(objective_BA, counts_BA)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm)
            optimizer.step()
        step += 1
        if step % 25 == 0:
            print(f"step {step}  {spent:.0%} of the budget  reward {rewards_B.mean():.3f}", flush=True)
    print(f"{step} steps", flush=True)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(int(os.environ["IDEATOR_SEED"]))
    random.seed(int(os.environ["IDEATOR_SEED"]))
    clock = time.process_time if device == "cpu" else time.monotonic
    start, seconds = clock(), float(os.environ["IDEATOR_BUDGET_SECONDS"]) - reserve
    data = Path(os.environ["IDEATOR_DATA"])
    policy, reference = (read_policy(data / "policy.safetensors").to(device) for _ in range(2))
    problems = read_problems(data / "train.jsonl")
    train(policy, reference, problems, seconds - (clock() - start), clock)
    save_file(policy.state_dict(), Path(os.environ["IDEATOR_ARTIFACT"], "policy.safetensors"))


if __name__ == "__main__":
    main()
