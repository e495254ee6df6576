"""Pre-train a GPT for a fixed budget and leave the weights where the scorer finds them.

Reads   IDEATOR_DATA/train.bin    tokens: one byte each, or two when `vocab` needs them
Writes  IDEATOR_ARTIFACT/model.pt the state dict of the model
Heeds   IDEATOR_BUDGET_SECONDS    seconds after the imports: CPU time on the cpu, wall clock on a GPU
        IDEATOR_SEED              seeds initialisation and batches

`load(artifact)` gives the scorer a function from tokens (B, T) to logits (B, T, vocab).
"""

import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

vocab = 256
context = 64  # tokens
layers = 2
heads = 4
width = 64
mlp_ratio = 4  # width of the MLP over width of the model
dropout = 0.0
batch = 16  # sequences
learning_rate = 1e-3
weight_decay = 0.01
beta1 = 0.9
beta2 = 0.999
reserve = 0.35  # seconds kept back for saving and leaving
device = "cpu"


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.transpose(1, 2).reshape(B, T, width)
        return self.out(y)


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(width, mlp_ratio * width)
        self.down = nn.Linear(mlp_ratio * width, width)

    def forward(self, x):
        h = self.up(x)
        h = F.gelu(h)
        return self.down(h)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention()
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP()

    def forward(self, x):
        x = x + F.dropout(self.attention(self.attention_norm(x)), dropout, self.training)
        x = x + F.dropout(self.mlp(self.mlp_norm(x)), dropout, self.training)
        return x


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        x = x + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        logits = self.head(x)
        return logits


def sample(data):
    """A random batch: inputs and next-token targets, both (batch, context)."""
    starts = torch.randint(len(data) - context, (batch,))
    rows = np.stack([data[i : i + context + 1] for i in starts.tolist()])
    tokens = torch.from_numpy(rows.astype(np.int64)).to(device)
    return tokens[:, :-1], tokens[:, 1:]


def schedule(step, spent):
    """Factor on the learning rate after `step` updates and a fraction `spent` of the budget."""
    factor = 1.0
    return factor


def train(seconds, clock):
    start = clock()
    data = np.memmap(Path(os.environ["IDEATOR_DATA"], "train.bin"), np.uint8 if vocab <= 256 else np.uint16, "r")
    model = GPT().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(beta1, beta2), weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, (clock() - start) / seconds))
    step = 0
    while (spent := (clock() - start) / seconds) * (1 + 1 / max(step, 1)) < 1:  # as long as one more step fits
        inputs, targets = sample(data)
        logits = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        step += 1
        if step % 50 == 0:
            print(f"step {step}  {spent:.0%} of the budget  loss {loss.item():.3f}", flush=True)
    print(f"{step} steps", flush=True)
    return model


def load(artifact):
    """The trained model as a function: int tokens (B, T) -> float32 logits (B, T, vocab).

    Windows longer than `context` are read in pieces of that length.
    """
    model = GPT()
    model.load_state_dict(torch.load(Path(artifact, "model.pt"), map_location="cpu", weights_only=True))
    model.eval()

    @torch.no_grad()
    def logits(tokens):
        tokens = torch.as_tensor(tokens, dtype=torch.long)
        pieces = [model(tokens[:, i : i + context]) for i in range(0, tokens.shape[1], context)]
        return torch.cat(pieces, 1).float().numpy()

    return logits


def main():
    torch.set_num_threads(1)
    torch.manual_seed(int(os.environ["IDEATOR_SEED"]))
    clock = time.process_time if device == "cpu" else time.monotonic
    model = train(max(float(os.environ["IDEATOR_BUDGET_SECONDS"]) - reserve, reserve / 4), clock)
    torch.save(model.state_dict(), Path(os.environ["IDEATOR_ARTIFACT"], "model.pt"))


if __name__ == "__main__":
    main()
