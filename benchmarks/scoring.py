"""The cost of not trusting a model: locked validation, a plain full forward pass, and one token at a time.

    python benchmarks/scoring.py [--repetitions 5] [--one-core] [--json]

- Locked: the evaluator's library.  The model answers from the sandbox, logits come over shared memory, targets and
  softmax are the evaluator's.
- Plain: the same model and windows in one process, cross-entropy in torch.
- One token at a time: the locked protocol, each position from its beginning alone, on every eighth position of one
  batch, scaled to all.

Locked and plain have one thread for the model; the evaluator of the locked measurement computes on another core
meanwhile, unless `--one-core` pins all processes to one.  Repetitions are interleaved; the figure is the median of the
paired ratios, with their range.  Start-up (imports, loading) and audit are reported separately.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ideator_rl.evaluation import Audit, nats, token_loss
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.scoring.scoring import ScoringRun

MODEL = """
import os
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.first, self.second = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.first(x)).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)
        x = x + self.out(y)
        return x + self.mlp(self.second(x))


class GPT(nn.Module):
    def __init__(self, vocab, width, layers, context):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(layers)))
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(self, tokens):
        return self.head(self.blocks(self.tokens(tokens) + self.places.weight[: tokens.shape[1]]))


def build():
    torch.manual_seed(0)
    return GPT(VOCAB, WIDTH, LAYERS, CONTEXT).eval()


def load(artifact):
    model = build()

    @torch.no_grad()
    def logits(tokens):
        return model(torch.from_numpy(tokens.astype("int64"))).numpy()

    return logits
"""
PLAIN = """
import sys, time
import numpy as np
from model import F, build, torch

tokens, batch = torch.from_numpy(np.load(sys.argv[1]).astype("int64")), int(sys.argv[2])
model = build()
for line in sys.stdin:
    started, total = time.monotonic(), 0.0
    with torch.no_grad():
        for rows in tokens.split(batch):
            logits = model(rows[:, :-1])
            total += float(F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"))
    print(total / tokens[:, 1:].numel(), time.monotonic() - started, flush=True)
"""


@dataclass(frozen=True)
class Case:
    vocab: int
    width: int
    layers: int
    context: int
    windows: int
    batch: int
    positions: int | None = None


CASES = [
    Case(256, 64, 2, 64, 512, 64),
    Case(256, 256, 4, 256, 64, 8),
    Case(50304, 256, 4, 256, 32, 2),
    Case(50304, 256, 4, 256, 32, 2, positions=32),
]


STRIDE = 8
"""Of the positions tried one at a time."""


def measure(case: Case, repetitions: int) -> dict[str, object]:
    """Interleaved repetitions of one case."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, case.vocab, (case.windows, case.context + 1)).astype(np.int32)
    with tempfile.TemporaryDirectory(prefix="ideator-scoring-") as folder:
        run = _run(case, Path(folder))
        np.save(Path(folder) / "tokens.npy", tokens)
        plain = subprocess.Popen(
            [sys.executable, "-c", PLAIN, f"{folder}/tokens.npy", str(case.batch)],
            cwd=Path(folder) / "tree",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        _plain(plain)  # imports and the first pass, which allocates
        ratios, locked, bare, own, facts = [], [], [], [], {}
        for _ in range(repetitions):
            loss, seconds = _plain(plain)
            before = time.process_time()
            measured = token_loss(run, tokens, case.batch, Audit(tolerance=1.0, below=None), case.positions)
            own.append(time.process_time() - before)
            if case.positions is None and abs(measured - loss) > 1e-4:
                raise SystemExit(f"the two losses differ: {measured} locked, {loss} plain")
            facts = dict(run.notes)
            locked.append(facts["seconds_scoring"])
            bare.append(seconds)
            ratios.append(facts["seconds_scoring"] / seconds)
        plain.kill()
        plain.wait()
        single = _one_at_a_time(run, tokens, case)
    middle = statistics.median
    return {
        **asdict(case),
        "plain_s": middle(bare),
        "locked_s": middle(locked),
        "ratio": middle(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "evaluator_cpu_s": middle(own),
        "one_at_a_time_s": single,
        "loading_s": facts["seconds_loading"],
        "audit_s": facts["seconds_audit"],
        "megabytes": facts["bytes"] / 1e6,
        "tokens": facts["tokens"],
        "of_tokens": facts["of_tokens"],
        "audit_gap": facts["audit_gap"],
    }


def _run(case: Case, folder: Path) -> ScoringRun:
    tree, artifact = folder / "tree", folder / "artifact"
    tree.mkdir()
    artifact.mkdir()
    head = f"VOCAB, WIDTH, LAYERS, CONTEXT = {case.vocab}, {case.width}, {case.layers}, {case.context}\n"
    (tree / "model.py").write_text(head + MODEL)
    for path in (folder, tree, artifact):
        path.chmod(0o755)
    return ScoringRun(artifact, folder, folder, "cpu", 0, {}, case.vocab, best_sandbox(), tree, "model:load")


def _plain(process: subprocess.Popen[str]) -> tuple[float, float]:
    """Loss and seconds of one plain pass."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    loss, seconds = process.stdout.readline().split()
    return float(loss), float(seconds)


def _one_at_a_time(run: ScoringRun, tokens: np.ndarray, case: Case) -> float:
    """Seconds for all windows, from those of one batch of them."""
    rows = tokens[: case.batch]
    with run.open_scorer() as scorer:
        scorer.load()
        started = time.monotonic()
        for length in range(STRIDE, case.context + 1, STRIDE):
            nats(scorer.logits(rows[:, :length], [length - 1]), rows[:, length][:, None])
        return (time.monotonic() - started) * STRIDE * case.windows / case.batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one-core", action="store_true", help="pin all processes to one core")
    args = parser.parse_args()
    if args.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = [measure(case, args.repetitions) for case in CASES]
    if args.json:
        print(json.dumps(rows))
        return
    heads = ("vocabulary", "model", "tokens scored", "plain", "locked", "locked / plain", "one at a time", "loading",
             "audit", "logits")  # fmt: skip
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for row in rows:
        cells = (
            row["vocab"],
            f"{row['layers']} × {row['width']}, context {row['context']}",
            f"{row['tokens']} of {row['of_tokens']}",
            f"{row['plain_s']:.2f} s",
            f"{row['locked_s']:.2f} s",
            f"**{row['ratio']:.2f}** ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})",
            f"{row['one_at_a_time_s']:.0f} s",
            f"{row['loading_s']:.1f} s",
            f"{row['audit_s']:.1f} s",
            f"{row['megabytes']:.0f} MB",
        )
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
