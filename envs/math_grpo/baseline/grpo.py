"""GRPO (Shao et al. 2024, arXiv 2402.03300) on problems with answers, for a fixed budget; leaves the weights.

Reads   IDEATOR_DATA/model, template.txt     the base model, its tokenizer and the prompt: see policy.py
        IDEATOR_DATA/train.jsonl             problems with answers, one a line
Writes  IDEATOR_ARTIFACT/model.safetensors   the trained weights
Heeds   IDEATOR_BUDGET_SECONDS               seconds after the imports: CPU time on the cpu, wall clock on a GPU
        IDEATOR_SEED                         seeds the choice of problems and the answers

Shapes: P problems a step, G answers to each, B answers that are computed together, T tokens of a prompt and its answer,
A of an answer.
"""

import json
import os
import random
import time
from pathlib import Path

import torch
from grade import reward
from policy import STOP, prompt, read_policy, read_template, read_tokenizer, save_policy
from rollout import engine
from torch.utils.checkpoint import checkpoint

prompts = 128  # problems a step
group = 8  # answers to each problem
updates = 16  # of the weights a step, each on its own part of the answers
micro = 4  # answers in one forward pass
max_tokens = 1024  # of an answer
temperature = 1.0
learning_rate = 1e-5
weight_decay = 0.0
beta1 = 0.9
beta2 = 0.95
clip = 0.2  # the ratio of probabilities counts up to this far from 1
epochs = 1  # passes over the answers of a step
steps = 20  # at most
sampler = "vllm"  # or "torch"
dtype = "bfloat16"  # of the weights, their gradients and the optimizer's state
checkpointing = False  # of activations: less memory, more time
rows = 512  # tokens whose logits are held at once
max_length = 2048  # tokens of a prompt and its answer; longer problems are left out
reserve = 60  # seconds kept back for saving and leaving
device = "cuda"


def read_problems(data, tokenizer):
    """Problems with the tokens of their prompts, and whether these open a thought."""
    template, problems = read_template(data), []
    thought = template.rstrip().endswith("<think>")
    for line in (data / "train.jsonl").read_text(encoding="utf-8").splitlines():
        problem = json.loads(line)
        problem["thought"] = thought
        problem["tokens"] = tokenizer(prompt(template, problem["problem"]))["input_ids"]
        if len(problem["tokens"]) + max_tokens <= max_length:
            problems.append(problem)
    return problems


def choose(problems, spent):
    """The problems of a step, after a fraction `spent` of the budget."""
    return random.sample(problems, prompts)


def advantages(rewards_PG):
    """How much better each answer is than its group."""
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    return centred_PG / (rewards_PG.std(1, keepdim=True) + 1e-6)


def batch(answers):
    """Tokens (B, T), prompts padded on the left and answers on the right; which are real, and which of the answers."""
    before, after = max(len(asked) for asked, _ in answers), max(len(given) for _, given in answers)
    tokens_BT = torch.zeros(len(answers), before + after, dtype=torch.long)
    real_BT = torch.zeros(len(answers), before + after, dtype=torch.bool)
    for row, (asked, given) in enumerate(answers):
        start = before - len(asked)
        tokens_BT[row, start : before + len(given)] = torch.tensor(asked + given)
        real_BT[row, start : before + len(given)] = True
    return tokens_BT.to(device), real_BT.to(device), real_BT[:, before:].to(device)


def token_scores(hidden_ND, head, targets_N):
    """Log-probabilities of tokens, and the policy's entropy at each."""
    log_NV = (head(hidden_ND).float() / temperature).log_softmax(-1)
    return log_NV.gather(-1, targets_N[:, None])[:, 0], -(log_NV.exp() * log_NV).sum(-1)


def log_probabilities(policy, answers):
    """Of the answers' tokens, (B, A), the policy's entropy at each, (B, A), and which of them count."""
    tokens_BT, real_BT, counts_BA = batch(answers)
    positions_BT = (real_BT.long().cumsum(1) - 1).clamp(min=0)
    hidden_BTD = policy.base_model(
        input_ids=tokens_BT, attention_mask=real_BT.long(), position_ids=positions_BT, use_cache=False
    ).last_hidden_state
    A = counts_BA.shape[1]
    hidden_ND, targets_N = hidden_BTD[:, -A - 1 : -1][counts_BA], tokens_BT[:, -A:][counts_BA]
    head, scores = policy.get_output_embeddings(), []
    for hidden, targets in zip(hidden_ND.split(rows), targets_N.split(rows), strict=True):
        # Checkpointed: the logits of a part are computed again for its gradient instead of being kept.
        scores.append(checkpoint(token_scores, hidden, head, targets, use_reentrant=False))
    log_N, entropy_N = (torch.cat(part) for part in zip(*scores, strict=True))
    empty_BA = torch.zeros(counts_BA.shape, device=device)
    return empty_BA.masked_scatter(counts_BA, log_N), empty_BA.masked_scatter(counts_BA, entropy_N), counts_BA


def surrogate(log_BA, old_BA, advantages_B1):
    """The clipped objective of each token."""
    ratio_BA = (log_BA - old_BA).exp()
    clipped_BA = ratio_BA.clamp(1 - clip, 1 + clip)
    return torch.minimum(ratio_BA * advantages_B1, clipped_BA * advantages_B1)


def over_tokens(values_BA, counts_BA):
    """One number: the mean over all tokens of the answers."""
    return (values_BA * counts_BA).sum() / counts_BA.sum()


def step_size(spent):
    """Factor on the learning rate after a fraction `spent` of the budget."""
    return 1.0


def update(policy, optimizer, answers, old, advantages_B):
    """One update of the weights on answers, each a prompt and an answer, in parts of `micro`."""
    parts = range(0, len(answers), micro)
    for start in parts:
        part = slice(start, start + micro)
        log_BA, entropy_BA, counts_BA = log_probabilities(policy, answers[part])
        old_BA = torch.nn.utils.rnn.pad_sequence(old[part], batch_first=True)
        objective_BA = surrogate(log_BA, old_BA, advantages_B[part, None])
        loss = -over_tokens(objective_BA, counts_BA)
        (loss / len(parts)).backward()
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def before_updates(policy, answers):
    """Log-probabilities of each answer's tokens, as the policy is now."""
    old = []
    for start in range(0, len(answers), micro):
        log_BA, _, counts_BA = log_probabilities(policy, answers[start : start + micro])
        old += [log[counts] for log, counts in zip(log_BA, counts_BA, strict=True)]
    return old


def train(policy, tokenizer, sampling, problems, seconds, clock):
    start = clock()
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=learning_rate, betas=(beta1, beta2), weight_decay=weight_decay
    )
    step = 0
    # As long as one more step fits.
    while step < steps and (spent := (clock() - start) / seconds) * (1 + 1 / max(step, 1)) < 1:
        chosen = choose(problems, spent)
        sampled = sampling.sample([p["tokens"] for p in chosen], group, max_tokens, temperature, STOP)
        texts = [[tokenizer.decode(answer, skip_special_tokens=True) for answer in row] for row in sampled]
        rewards_PG = torch.tensor([[reward(p, text) for text in row] for p, row in zip(chosen, texts, strict=True)])
        advantages_B = advantages(rewards_PG).flatten().to(device)
        answers = [(p["tokens"], answer) for p, row in zip(chosen, sampled, strict=True) for answer in row]
        old = before_updates(policy, answers)
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate * step_size(spent)
        for _ in range(epochs):
            for part in torch.randperm(len(answers)).chunk(updates):
                chosen_answers, chosen_old = [answers[i] for i in part], [old[i] for i in part]
                update(policy, optimizer, chosen_answers, chosen_old, advantages_B[part.to(device)])
        sampling.refresh()
        step += 1
        length = sum(len(answer) for _, answer in answers) / len(answers)
        print(
            f"step {step}  {spent:.0%} of the budget  reward {rewards_PG.mean():.3f}  tokens {length:.1f}", flush=True
        )
    print(f"{step} steps", flush=True)


def main():
    seed = int(os.environ["IDEATOR_SEED"])
    torch.manual_seed(seed)
    random.seed(seed)
    clock = time.process_time if device == "cpu" else time.monotonic
    start, seconds = clock(), float(os.environ["IDEATOR_BUDGET_SECONDS"]) - reserve
    data, artifact = Path(os.environ["IDEATOR_DATA"]), Path(os.environ["IDEATOR_ARTIFACT"])
    policy, tokenizer = read_policy(data, dtype, device), read_tokenizer(data)
    if checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
        policy.train()
    problems = read_problems(data, tokenizer)
    sampling = engine(sampler, policy, tokenizer, data / "model", max_length, seed)
    train(policy, tokenizer, sampling, problems, seconds - (clock() - start), clock)
    save_policy(policy, data, artifact)


if __name__ == "__main__":
    main()
