"""The policy: a small decoder over characters.  Fixed: this code, as it stands here, answers with the trained weights.

Prompts and answers are made of `ALPHABET`; a token is a character's place in it.  Token 0, a new line, ends an answer.

`load(artifact)` gives the scorer a function from tokens (B, T) to logits (B, T, vocab).
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

ALPHABET = "\n0123456789+-*="
END = 0
CONTEXT = 16  # tokens of a prompt and its answer
LAYERS = 2
HEADS = 4
WIDTH = 64


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.mlp_norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(B, T, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, WIDTH))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(ALPHABET), bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def read_policy(path):
    """The policy with the weights of a safetensors file, in float32."""
    policy = Policy()
    policy.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
    return policy


def load(artifact):
    """The trained policy as a function: int tokens (B, T) -> float32 logits (B, T, vocab)."""
    policy = read_policy(Path(artifact, "policy.safetensors")).eval()

    @torch.no_grad()
    def logits(tokens):
        return policy(torch.as_tensor(tokens, dtype=torch.long)).numpy()

    return logits
