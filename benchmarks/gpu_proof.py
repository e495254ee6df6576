"""What only a GPU can prove: sandbox, speed, validation, audit, and a policy of 1.5 billion weights.

    python benchmarks/gpu_proof.py [--rehearse] [--only sandbox train ...] [--out FILE]

Each check prints its line as it ends, with its figures and what did not hold.  Data are made up, in the real formats,
and weights are random: neither FineWeb nor Qwen is needed, and no figure here is a result of an environment.
`--rehearse` runs the same code small on the CPU; bounds that need a GPU are then not asked for.
Needs the extra `math`.  It was planned for ten minutes on one GPU and has only been rehearsed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_proof_run import BF16, LEAKS, Bench, code_of, write_nanogpt, write_policy

from ideator_rl.environments.data import load_trusted
from ideator_rl.evaluation import Audit, answer_of, generated, math_grader, token_loss, weights
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.mounts import GPUS_VARIABLE
from ideator_rl.scoring.scoring import Implausible

FLOP_A_TOKEN = 0.854e9
"""Of the model of `single_gpu`, forward and backward; the causal half of attention is not deducted."""
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "4090": 165e12, "B200": 2250e12}
"""Dense bf16, by a part of the GPU's name: makers' data sheets."""
QWEN_1_5B = {
    "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 2048,
}  # fmt: skip
QWEN_TINY = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
HONEST = {"fp32": 0.001, "bf16": 0.004}
"""Nats: the most that an honest model's mean gap may be."""


@dataclass(frozen=True)
class Size:
    """How large the checks are."""

    device: str
    nanogpt: str
    """Preset."""
    math: str
    train_seconds: float
    train_tokens: int
    hidden: dict[str, int]
    """Tokens of each hidden split."""
    audited: int
    """Tokens of the honest gaps and leaks."""
    honest: int
    """Honest gaps for each type of numbers."""
    qwen: dict[str, int]
    policy: dict[str, Any]
    """Settings of math_grpo."""
    policy_seconds: float
    prompts: int
    answer_tokens: int


GPU = Size(
    "cuda", "single_gpu", "single_gpu", 110, 40_000_000, {"main": 1_048_576, "final": 10_485_760}, 131_072, 3,
    QWEN_1_5B,
    {"prompts": 64, "group": 8, "updates": 4, "micro": 4, "max_tokens": 128, "steps": 1, "max_length": 512},
    200, 500, 128,
)  # fmt: skip
CPU = Size(
    "cpu", "cpu_shards", "cpu_lm", 24, 200_000, {"main": 16_384, "final": 32_768}, 8_192, 1, QWEN_TINY,
    {"prompts": 4, "group": 4, "updates": 2, "micro": 4, "max_tokens": 8, "steps": 1, "max_length": 64, "reserve": 2},
    60, 8, 8,
)  # fmt: skip


@dataclass
class Proof:
    """The checks in their order; later ones use what earlier ones left."""

    size: Size
    folder: Path
    trained: Path | None = None
    """Artifact of `train`, for `measure` and `audit`."""
    _bench: Bench | None = None
    _policy: tuple[Bench, Path] | None = None
    bounds: list[str] = field(default_factory=list)
    """What of the current check does not hold."""

    def hold(self, holds: bool, sentence: str, on_gpu: bool = False) -> None:
        """Note a bound that does not hold; bounds `on_gpu` are asked for there only."""
        if not holds and (self.size.device == "cuda" or not on_gpu):
            self.bounds.append(sentence)

    def sandbox(self) -> dict[str, Any]:
        """A sealed process sees the allotted GPU and computes on it."""
        bench = self._nanogpt()
        probe = (
            "import os, torch\n"
            f"x = torch.ones(512, 512, device={self.size.device!r}, dtype=torch.bfloat16)\n"
            "assert (x @ x).float().sum().item() == 512 ** 3\n"
            "print('gpus', torch.cuda.device_count())\n"
            "open(os.environ['IDEATOR_ARTIFACT'] + '/ok', 'w').write('ok')\n"
        )
        result, _ = bench.train(60, {"train.py": probe}, "probe")
        self.hold(result.status == "ok", f"the sealed process ended as {result.status}: {result.message}")
        gpus = re.search(r"gpus (\d+)", result.log)
        self.hold(gpus is not None and gpus[1] == "1", "the sealed process does not see one GPU", on_gpu=True)
        return {"level": best_sandbox().level, "seen": gpus and gpus[0], "wall_s": result.wall}

    def train(self) -> dict[str, Any]:
        """The preset's own training within its budget, and its speed after compilation."""
        bench = self._nanogpt()
        result, self.trained = bench.train(self.size.train_seconds)
        steps = [(int(n), float(s)) for n, s in re.findall(r"step (\d+)  ([\d.]+) s", result.log)]
        if not steps:
            raise RuntimeError(f"no step was printed; {result.status}: {result.message}; {result.log[-2000:]}")
        settings = bench.preset.settings
        tokens_a_step = settings["batch"] * settings.get("context", 1024)
        # The second half: compilation and the allocator's first steps are over.
        (first, start), (last, end) = steps[len(steps) // 2], steps[-1]
        rate = (last - first) * tokens_a_step / (end - start) if end > start else 0.0
        self.hold(result.status == "ok", f"the run ended as {result.status}: {result.message}")
        self.hold(result.spent <= self.size.train_seconds, f"it took {result.spent:.1f} s of its budget")
        self.hold(rate >= 400_000, f"{rate:,.0f} tokens/s, expected 400,000", on_gpu=True)
        peak = next((flops for name, flops in PEAK_FLOPS.items() if name in _gpu_name()), None)
        return {
            "steps": last, "tokens_s": round(rate), "mfu": rate * FLOP_A_TOKEN / peak if peak else None,
            "first_step_s": steps[0][1], "spent_s": result.spent, "startup_s": result.startup,
        }  # fmt: skip

    def measure(self) -> dict[str, Any]:
        """The evaluator of the preset on both splits, by its stages."""
        bench, artifact = self._trained()
        evaluator = load_trusted(bench.environment.root / "evaluator_shards.py")
        figures: dict[str, Any] = {}
        for split, most in (("main", 20), ("final", 120)):
            run = bench.scoring(artifact, split)
            started = time.monotonic()
            loss = evaluator.evaluate(run)
            figures[split] = {"loss": loss, "all_s": time.monotonic() - started, **_numbers(run.notes)}
            seconds = run.notes["seconds_scoring"]
            self.hold(seconds <= most, f"{split} was scored in {seconds:.0f} s, expected {most}", on_gpu=True)
        return figures

    def audit(self) -> dict[str, Any]:
        """Gaps of the honest model in two types of numbers, and three leaks that must be found."""
        bench, artifact = self._trained()
        shards = load_trusted(bench.environment.root / "shards.py")
        tokens = shards.read_tokens(bench.private / "main.bin", 0, self.size.audited).astype("int32")
        shown = shards.read_tokens(bench.public / "train" / "train_000000.bin", 0, 1 << 15).astype("int32")
        context = bench.preset.settings.get("context", 1024)
        shape = {"batch": 4, "vocab": shards.VOCAB, "context": context, "public": shown}
        # With no bound, the gaps of the honest model are measured; to seven digits.
        unbounded = Audit(tolerance=1e-6, mean=1e-6, min_rows=min(2000, len(tokens) // 64))
        figures: dict[str, Any] = {}
        for kind, most in HONEST.items():
            gaps = []
            for _ in range(self.size.honest):
                run = bench.scoring(artifact, "main", code_of(BF16) if kind == "bf16" else None)
                with suppress(Implausible):  # the bound of 1e-6 is there for the digits
                    token_loss(run, tokens, audit=unbounded, **shape)
                gaps.append(abs(run.notes["audit_mean"]))
            figures[kind] = {"largest_mean_gap": max(gaps), "gaps": gaps}
            self.hold(max(gaps) <= most, f"an honest gap in {kind} is {max(gaps):.5f}, expected {most}")
        strict = Audit(tolerance=0.03, mean=0.004, min_rows=unbounded.min_rows)
        for name, kind in LEAKS.items():
            run = bench.scoring(artifact, "main", code_of(kind))
            try:
                loss = token_loss(run, tokens, audit=strict, **shape)
                self.hold(False, f"the leak `{name}` was taken for a loss of {loss:.3f}")
            except Implausible:
                pass
            figures[name] = run.notes["audit_mean"]
        return figures

    def policy(self) -> dict[str, Any]:
        """One step of math_grpo's baseline with a Qwen2 of random weights, and the hand-over of its weights."""
        bench, artifact, result, seconds = self._train_policy()
        peak = re.search(r"peak (\d+)", result.log)
        size = (artifact / "model.safetensors").stat().st_size
        gigabytes = int(peak[1]) / 1e9 if peak else 0.0
        # A copy of the artifact, and the check of its weights: what a worker does before it measures.
        started = time.monotonic()
        shutil.copytree(artifact, self.folder / "handed", dirs_exist_ok=True)
        weights(bench.scoring(artifact, "main"), like=bench.public / "model")
        handed = time.monotonic() - started
        self.hold(result.status == "ok", f"the run ended as {result.status}: {result.message}")
        self.hold(gigabytes < 80, f"peak memory {gigabytes:.0f} GB, expected less than 80")
        self.hold(handed <= 15, f"handing over {size / 1e9:.2f} GB took {handed:.0f} s, expected 15", on_gpu=True)
        given = self.size.policy["prompts"] * self.size.policy["group"] * self.size.policy["max_tokens"]
        return {
            "run_s": seconds, "answer_tokens_at_most": given, "peak_gb": gigabytes, "weights_gb": size / 1e9,
            "handed_over_s": handed,
        }  # fmt: skip

    def answers(self) -> dict[str, Any]:
        """The trusted generator and the grader on the policy's weights."""
        if self._policy is None:
            self._train_policy()
        assert self._policy is not None
        bench, artifact = self._policy
        run = bench.scoring(artifact, "main")
        rows = [json.loads(line) for line in (bench.private / "main.jsonl").read_text().splitlines()]
        rows = rows[: self.size.prompts]
        base = bench.public / "model"
        started = time.monotonic()
        texts = generated(
            run, [f"sum {row['problem']} = <think>" for row in rows], base=base, weights=weights(run, like=base),
            max_tokens=self.size.answer_tokens, stop="</answer>", temperature=1.0,
        )  # fmt: skip
        sampled = time.monotonic() - started
        # Random weights answer nothing: every other answer is replaced by a right one.
        answers = [row["answer"] if number % 2 else answer_of(text[0]) for number, (row, text) in
                   enumerate(zip(rows, texts, strict=True))]  # fmt: skip
        with math_grader(processes=2) as grader:
            grades = grader.grade([(answer, row["answer"]) for answer, row in zip(answers, rows, strict=True)])
        self.hold(sum(grades) == len(rows) // 2, f"{sum(grades)} answers were accepted, expected {len(rows) // 2}")
        tokens = run.notes["tokens"]
        return {
            "prompts": len(rows), "tokens": tokens, "tokens_s": tokens / sampled, "generated_s": sampled,
            "graded_s": time.monotonic() - started - sampled,
        }  # fmt: skip

    def _nanogpt(self) -> Bench:
        if self._bench is None:
            folder = self.folder / "nanogpt"
            folder.mkdir()
            public, private = write_nanogpt(folder, self.size.train_tokens, self.size.hidden)
            self._bench = Bench("nanogpt", self.size.nanogpt, folder, public, private)
        return self._bench

    def _trained(self) -> tuple[Bench, Path]:
        if self.trained is None:
            self.train()
        assert self.trained is not None
        return self._nanogpt(), self.trained

    def _train_policy(self) -> tuple[Bench, Path, Any, float]:
        folder = self.folder / "math"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        public, private = write_policy(folder, self.size.qwen, max(self.size.prompts, 80), self.size.device)
        bench = Bench("math_grpo", self.size.math, folder, public, private)
        bench.change(self.size.policy)
        # The baseline prints no memory: one line more at its end.
        line = "    print('peak', torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)\n"
        source = bench.tree["grpo.py"]
        bench.tree = dict(bench.tree) | {"grpo.py": source.replace("    save_policy(", line + "    save_policy(")}
        started = time.monotonic()
        result, artifact = bench.train(self.size.policy_seconds)
        self._policy = bench, artifact
        return bench, artifact, result, time.monotonic() - started


CHECKS: dict[str, Callable[[Proof], dict[str, Any]]] = {
    "sandbox": Proof.sandbox, "train": Proof.train, "measure": Proof.measure, "audit": Proof.audit,
    "policy": Proof.policy, "answers": Proof.answers,
}  # fmt: skip


def _numbers(notes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in notes.items() if isinstance(value, int | float)}


def _gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def main() -> int:
    """Returns 0 if every check ran and held."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="the same code, small, on the CPU")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--out", type=Path, help="a file for the lines, as JSON")
    args = parser.parse_args()
    if not args.rehearse and not _gpu_name():
        print("There is no GPU here; `--rehearse` runs the checks small on the CPU.", file=sys.stderr)
        return 2
    if not args.rehearse:
        os.environ.setdefault(GPUS_VARIABLE, "0")  # what a worker sets: the devices of its experiment
    failed = 0
    with tempfile.TemporaryDirectory(prefix="ideator-proof-") as folder:
        Path(folder).chmod(0o755)
        proof = Proof(CPU if args.rehearse else GPU, Path(folder))
        for name in args.only:
            proof.bounds, figures, started = [], {}, time.monotonic()
            try:
                figures = CHECKS[name](proof)
            # One check that breaks must not keep the others, whose machine is borrowed, from their turn.
            except Exception as error:
                traceback.print_exc(limit=-2)
                proof.bounds.append(f"{type(error).__name__}: {str(error)[:300]}")
            line = {"check": name, "holds": not proof.bounds, "seconds": time.monotonic() - started,
                    "broken": proof.bounds, "gpu": _gpu_name(), "figures": figures}  # fmt: skip
            print(json.dumps(line, default=str), flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(line, default=str) + "\n")
            failed += bool(proof.bounds)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
