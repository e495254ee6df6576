"""Pre-train a GPT on shards of tokens, in one process or in several, and leave the weights where the scorer finds them.

Reads   IDEATOR_DATA/train/*.bin    shards in the order of their names: a header, then tokens of two bytes
Writes  IDEATOR_ARTIFACT/model.safetensors, and step-<seconds>.safetensors during training if `snapshot_every` is set;
        IDEATOR_ARTIFACT/compiled           an empty file, after the first step of a compiled model
Heeds   IDEATOR_BUDGET_SECONDS      seconds after the imports: wall clock on a GPU, CPU time of all ranks on the CPU
        IDEATOR_SEED                seeds the initialisation; the order of the data is fixed
        RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT    set in each process of several; unset for one process

`load(artifact)` gives the scorer a function from tokens (B, T) to logits (B, T, vocab).
"""

import os
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_model, save_model
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

vocab = 50257
context = 1024  # tokens
layers = 12
heads = 12
width = 768
mlp_ratio = 4  # width of the MLP over width of the model
batch = 256  # sequences in a step, over all ranks
micro = 32  # sequences in one forward pass of one rank, at most; 8 on a GPU below 30 GB
steps = 26880  # updates: the schedule ends here, and so does training if the budget lasts
learning_rate = 1.5e-3
warmup = 256  # steps
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95
init_std = 0.02  # of all weights
clip = 1.0  # norm of the gradient
reserve = 10.0  # seconds kept back for saving and leaving
snapshot_every = 0  # seconds; 0 saves at the end only
compiled = True
device = "cuda"

HEADER = 1024  # bytes


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.transpose(1, 2).reshape(B, T, width)
        return self.out(y)


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(width, mlp_ratio * width, bias=False)
        self.down = nn.Linear(mlp_ratio * width, width, bias=False)

    def forward(self, x):
        h = self.up(x)
        h = F.gelu(h)
        return self.down(h)


def norm(x):
    return F.rms_norm(x, (x.shape[-1],), eps=1e-6)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.mlp = MLP()

    def forward(self, x):
        x = x + self.attention(norm(x)) / (2 * layers) ** 0.5
        x = x + self.mlp(norm(x))
        return x


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        for p in self.parameters():
            nn.init.normal_(p, std=init_std)

    def forward(self, tokens, targets=None):
        """Logits (B, T, vocab) of tokens (B, T); with `targets` (B, T), their mean loss."""
        x = self.embedding(tokens)
        x = x + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        x = norm(x)
        logits = F.linear(x, self.embedding.weight).float()  # the embedding is the output layer too
        if targets is None:
            return logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return loss


def read(shards, step, rows):
    """Inputs and next-token targets, both (len(rows), context): the windows `rows` of the batch of a step.

    Batches follow one another through the shards, and begin again after the last.  What is left of a shard and fills
    no batch is skipped.
    """
    batches = [(len(shard) - 1) // (batch * context) for shard in shards]
    step %= sum(batches)
    index = 0
    while step >= batches[index]:
        step -= batches[index]
        index += 1
    start = (step * batch + rows.start) * context
    tokens = torch.from_numpy(shards[index][start : start + len(rows) * context + 1].astype(np.int64)).to(device)
    return tokens[:-1].view(-1, context), tokens[1:].view(-1, context)


def schedule(step, spent):
    """Factor on the learning rate after `step` updates and a fraction `spent` of the budget."""
    factor = 1 - 10 / 11 * (step - warmup) / max(1, steps - warmup)
    return min(factor, (step + 1) / max(1, warmup))


def sum_ranks(*values):
    """Sums over the ranks, equal in all of them: each rank decides alike when to stop."""
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(sums)
    return sums.tolist()


def train(seconds, clock):
    start = clock()
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    paths = sorted(Path(os.environ["IDEATOR_DATA"], "train").glob("*.bin"))
    shards = [np.memmap(path, np.uint16, "r", HEADER) for path in paths]
    model = GPT().to(device)
    network = torch.compile(model) if compiled else model
    if ranks > 1:
        network = DistributedDataParallel(network)
    step, spent, before = 0, 0.0, 0.0
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(beta1, beta2), weight_decay=weight_decay, fused=True
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, spent / seconds))
    # Each rank reads `rows` sequences at a time, and adds up gradients until the ranks together have read the batch.
    small = device == "cuda" and torch.cuda.get_device_properties(0).total_memory < 30e9
    rows = max(n for n in range(1, (min(micro, 8) if small else micro) + 1) if batch // ranks % n == 0)
    accumulate = batch // ranks // rows
    # As long as one more step fits; the first one may compile and is no measure.
    while step < steps and spent + (spent - before if step > 1 else 0.0) < seconds:
        total = 0.0
        for part in range(accumulate):
            first = (part * ranks + rank) * rows
            inputs, targets = read(shards, step, range(first, first + rows))
            # The ranks exchange gradients once a step, after its last part.
            with network.no_sync() if ranks > 1 and part < accumulate - 1 else nullcontext():
                with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                    loss = network(inputs, targets)
                (loss / accumulate).backward()
            total += loss.detach() / accumulate
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        before = spent
        spent, total = sum_ranks(clock() - start, float(total) / ranks)
        spent = spent if device == "cpu" else spent / ranks
        scheduler.step()
        if rank == 0:
            print(f"step {step}  {spent:.1f} s  loss {total:.6f}", flush=True)
            if compiled and step == 1:
                Path(os.environ["IDEATOR_ARTIFACT"], "compiled").touch()
            if snapshot_every and spent // snapshot_every > before // snapshot_every:
                save(model, f"step-{int(spent)}.safetensors")
    return model


def save(model, name):
    """Write a file of weights that is complete as soon as it has its name."""
    path = Path(os.environ["IDEATOR_ARTIFACT"], name)
    save_model(model, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def load(artifact):
    """The trained model as a function: int tokens (B, T) -> float32 logits (B, T, vocab).

    Windows longer than `context` are read in pieces of that length.
    """
    place = device if torch.cuda.is_available() else "cpu"
    model = GPT().to(place)
    load_model(model, Path(artifact, "model.safetensors"))
    model.eval()

    @torch.inference_mode()
    def logits(tokens):
        tokens = torch.as_tensor(tokens, dtype=torch.long, device=place)
        return torch.cat([model(tokens[:, i : i + context]) for i in range(0, tokens.shape[1], context)], 1)

    logits.context, logits.vocab = context, vocab
    return logits


def main():
    torch.manual_seed(int(os.environ["IDEATOR_SEED"]))
    clock = time.process_time if device == "cpu" else time.monotonic
    seconds = float(os.environ["IDEATOR_BUDGET_SECONDS"])
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    model = train(max(seconds - reserve, seconds / 10), clock)
    if not dist.is_initialized() or dist.get_rank() == 0:
        save(model, "model.safetensors")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
