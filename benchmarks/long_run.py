"""A 48-hour run in miniature: 300 steps on a fleet that fails, the trainer killed 20 times; do all counts agree?

    python benchmarks/long_run.py [--steps 300] [--kills 20] [--seed N] [--keep FOLDER]

Real: the command `python -m ideator_rl.train`, trainer, checkpoints, executor, journal, the implementer `llm` and its
client, the bucket.  SIMULATED: the fleet (nothing runs, see `benchmarks.fleet`) and the coder LLM, a scripted server.
The trainer samples one batch ahead, closes at a quorum, and is killed (SIGKILL) at random moments, some of them while
it starts; the fleet is killed too, loses and delays experiments, and takes the bucket away; the LLM's endpoint refuses,
drops, stalls and writes nonsense.  After the last kill the run has to end by itself.  The learning rate
is low, so that ideas stay different and most of them are experiments of their own.

Then every proposal, experiment, payment and update is counted in four independent places: journal,
bucket, the fleet's ledger and the closings.  Ends with 0 if they agree.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from llm_server import Scripted, answer  # noqa: E402

from benchmarks.long_run_books import audit  # noqa: E402

GROUPS, GROUP = 2, 8
FLEET = [
    "--slots",
    "24",
    "--median",
    "0.5",
    "--sigma",
    "0.6",
    "--stragglers",
    "0.05",
    "--factor",
    "8",
    "--lost",
    "0.05",
]
OUTAGES = ["--outage-every", "20", "--outage-seconds", "2"]
KEYS = {
    "env": ROOT / "tests" / "toy_env", "backend": "bucket", "implementer": "llm", "num_generations": GROUP,
    "per_device_train_batch_size": GROUPS * GROUP, "max_staleness": 1, "quorum": 0.9, "deadline": 30, "max_age": 3,
    "save_steps": 5, "sft_steps": 200, "learning_rate": 1e-5, "report_to": "none",
}  # fmt: skip
FAULTS = {"overloaded": 0.05, "dropped": 0.03, "stalled": 0.02, "nonsense": 0.05, "refused": 0.02}
"""Chances that an answer of the LLM's endpoint goes wrong, and how."""
WHILE_STARTING = 0.2
"""Of the kills: within seconds of the start, before anything is trained again."""


class Coder:
    """Scripted: the hash of a question becomes the value of x, so that equal ideas give equal codebases."""

    def __init__(self, seed: int):
        self._rng = random.Random(seed)
        self.faults = dict.fromkeys(FAULTS, 0)
        self.server = Scripted(self._step)

    def settings(self) -> str:
        """The recipe's `coder`."""
        prices = {"scripted": {"prompt": 1.0, "completion": 1.0}}
        return json.dumps(
            {"base_url": self.server.url, "models": "scripted", "api_key_env": None, "samples": 2, "revisions": 1,
             "retries": 2, "timeout": 3.0, "prices": prices}
        )  # fmt: skip

    def _step(self, body: dict[str, Any]) -> dict[str, Any]:
        [fault] = self._rng.choices([*FAULTS, ""], [*FAULTS.values(), 1 - sum(FAULTS.values())])
        if fault:
            self.faults[fault] += 1
        question = json.dumps(body["messages"][:2])
        x = int(hashlib.sha256(question.encode()).hexdigest()[:12], 16) / 16**12 * 100 - 50
        edit = f"train.py\n<<<<<<< SEARCH\nx = 4.0\n=======\nx = {x:.10f}\n>>>>>>> REPLACE\n"
        return {
            "overloaded": {"status": 503, "body": {"error": {"message": "overloaded"}}},
            "dropped": {"drop": True},
            "stalled": {"delay": 5.0},
            "nonsense": {"body": answer(edit.replace("x = 4.0", "w = 4.0"))},
            "refused": {"body": answer("", refusal="I cannot help with that.")},
        }.get(fault, {"body": answer(edit)})


@dataclass
class Run:
    """The trainer and the fleet, both of which may be killed and started again."""

    folder: Path
    steps: int
    coder: str
    seed: int
    lives: int = 0
    trainer: subprocess.Popen[bytes] | None = None
    fleet: subprocess.Popen[bytes] | None = None

    @property
    def bucket(self) -> str:
        return f"file://{self.folder}/bucket"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def start_trainer(self) -> None:
        keys = KEYS | {"bucket": self.bucket, "coder": self.coder, "max_steps": self.steps, "output_dir": self.run}
        keys |= {"seed": self.seed}
        overrides = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
        command = [
            sys.executable,
            "-m",
            "ideator_rl.train",
            "--config",
            str(ROOT / "tests" / "toy_recipe.yaml"),
            *overrides,
        ]
        self.trainer = self._start(command + (["--resume"] if self.lives else []), "trainer.log")
        self.lives += 1

    def start_fleet(self) -> None:
        options = ["--bucket", self.bucket, "--seed", str(self.seed), "--ledger", str(self.folder / "ledger.jsonl")]
        self.fleet = self._start([sys.executable, "-m", "benchmarks.fleet", *options, *FLEET, *OUTAGES], "fleet.log")

    def _start(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with open(self.folder / log, "ab") as file:
            return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)

    def trained(self) -> int:
        """Batches closed so far."""
        closings = self.run / "rollouts" / "closings.jsonl"
        return closings.read_bytes().count(b"\n") if closings.exists() else 0

    def kill_trainer(self) -> bool:
        """Whether it was alive; with all it had started."""
        assert self.trainer is not None
        alive = self.trainer.poll() is None
        if alive:
            os.killpg(self.trainer.pid, signal.SIGKILL)
        self.trainer.wait()
        return alive

    def kill_fleet(self) -> None:
        assert self.fleet is not None
        self.fleet.kill()
        self.fleet.wait()
        self.start_fleet()

    def last_words(self) -> str:
        return (self.folder / "trainer.log").read_text(errors="replace")[-3000:]


def live_through(run: Run, kills: int, rng: random.Random, patience: float) -> int:
    """Kill trainer and fleet at random moments, then let the run end by itself; returns how often the trainer was hit.

    Raises:
        SystemExit: the run ended before it was killed, did not end, or ended in an error.
    """
    moments = sorted(rng.uniform(0.02, 0.97) * run.steps for _ in range(kills))
    hits = 0
    run.start_fleet()
    run.start_trainer()
    for number, moment in enumerate(moments):
        since = time.monotonic()
        if rng.random() < WHILE_STARTING:
            time.sleep(rng.uniform(1.0, 12.0))
        else:
            while run.trained() < moment and run.trainer.poll() is None:  # type: ignore[union-attr]
                time.sleep(0.05)
                if time.monotonic() - since > patience:
                    raise SystemExit(f"stuck at batch {run.trained()}:\n{run.last_words()}")
            time.sleep(rng.uniform(0.0, 1.5))
        if not run.kill_trainer():
            raise SystemExit(f"it ended before kill {number + 1}:\n{run.last_words()}")
        hits += 1
        print(f"kill {hits} after {run.trained()} batches", file=sys.stderr, flush=True)
        if rng.random() < 0.3:
            run.kill_fleet()
        run.start_trainer()
    assert run.trainer is not None
    try:
        status = run.trainer.wait(patience)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"it does not end:\n{run.last_words()}") from None
    if status:
        raise SystemExit(f"it ended with {status}:\n{run.last_words()}")
    return hits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds between two kills, and for the end")
    parser.add_argument("--keep", type=Path, help="a new folder for everything, not removed afterwards")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder = (args.keep or Path(passing)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        print(f"seed {args.seed}; everything lies in {folder}", file=sys.stderr, flush=True)
        coder, began = Coder(args.seed), time.monotonic()
        run = Run(folder, args.steps, coder.settings(), args.seed)
        try:
            hits = live_through(run, args.kills, random.Random(args.seed), args.patience)
        finally:
            run.kill_trainer()
            if run.fleet:
                run.fleet.terminate()
                run.fleet.wait()
            coder.server.stop()
        seconds = time.monotonic() - began
        counts, wrong = audit(run.run, run.bucket, folder / "ledger.jsonl", args.steps, GROUPS, GROUP)
        counts["answers of the LLM, and how many went wrong"] = f"{len(coder.server.requests)}: " + ", ".join(
            f"{n} {name}" for name, n in coder.faults.items()
        )
        print(f"{args.steps} steps in {seconds:.0f} s, killed {hits} times, seed {args.seed}\n")
        print("\n".join(f"| {name} | {count} |" for name, count in counts.items()))
        print("\n".join(["", *(f"WRONG: {problem}" for problem in wrong)]) if wrong else "\nthe books balance")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
