"""A whole run on a fleet: trainer, scheduler and two pull workers share a bucket on S3 only, and are killed.

    python benchmarks/fleet_whole.py landscape [--prior FOLDER] [--steps 4] [--group 16]
    python benchmarks/fleet_whole.py nanogpt
    python benchmarks/fleet_whole.py pull [--count 100]

landscape  GRPO on the landscape testbed, twice: `backend: local` with a folder as the bucket, and on the fleet.  Prints
           whether ideas, statuses and rewards are the same, row by row.
nanogpt    the quickstart without its screen on the fleet: how many ideas, how many lost, what was paid twice, and its
           baseline.
pull       no-ops on two pull workers of four slots, and on the local backend with eight: rates and processes.

The fleet is `ideator-rl scheduler` and two `ideator-rl worker`, each with a temporary folder and slots of its own, as
on three machines.  After a third of the ideas the scheduler and the first worker are killed (SIGKILL) and started
again, after two thirds the second worker and the trainer.  The store is seaweedfs on loopback, or `--bucket URL`.  Ends
with 0 if all is as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from ideator_rl.executor import record_store  # noqa: E402
from ideator_rl.storage.bucket import Bucket, open_bucket  # noqa: E402

CLI = [sys.executable, "-m", "ideator_rl.cli"]
SERVERS = {"scheduler": "scheduler", "worker1": "worker", "worker2": "worker"}
KILLS = [("scheduler", "worker1"), ("worker2", "trainer")]
"""What is killed after one third, and after two thirds of the ideas."""
SEAL_SECONDS = 3600.0
STEPS, GROUP = 18, 8
IDEAS = STEPS * GROUP
WITHOUT_SCREEN = [
    *("--screen", "null", "--max_steps", str(STEPS)),
    *("--num_generations", str(GROUP), "--per_device_train_batch_size", str(GROUP)),
]
"""Overrides of the quickstart, so that every idea is run: a screen would leave most of them out."""
DEVIATION = 0.012
"""Standard deviation of the val_loss of the cpu preset's baseline over 60 seeds: docs/performance.md."""


@dataclass
class Fleet:
    """Processes by name, each as on a machine of its own."""

    folder: Path
    bucket: str
    variables: dict[str, str]
    slots: int = 2
    """Of each of the three machines."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, words: list[str]) -> None:
        scratch = self.folder / f"tmp-{name}"
        scratch.mkdir(mode=0o755, exist_ok=True)
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [*CLI, *words],
                cwd=ROOT,
                env=os.environ | self.variables | {"TMPDIR": str(scratch), "HF_HUB_OFFLINE": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_server(self, name: str) -> None:
        self.start(name, [SERVERS[name], "--bucket", self.bucket, "--slots", str(self.slots)])

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(60)


def rows(run: Path) -> list[tuple[Any, ...]]:
    """Step, position, idea, status and reward of every idea of a run that has an outcome."""
    try:
        with sqlite3.connect(f"file:{run}/buffer.sqlite?mode=ro", uri=True) as journal:
            query = "select step, position, completion, status, reward from rollouts order by step, position"
            return [row for row in journal.execute(query) if row[3] != "running"]
    except sqlite3.Error:
        return []


def train_on_fleet(fleet: Fleet, words: list[str], run: Path, ideas: int) -> float:
    """Train, with the kills; returns the seconds that it took.

    Raises:
        SystemExit: the trainer failed.
    """
    began, kills = time.monotonic(), list(KILLS)
    words = ["train", *words, "--bucket", fleet.bucket, "--backend", "bucket", "--output_dir", str(run)]
    for name in SERVERS:
        fleet.start_server(name)
    fleet.start("trainer", words)
    bucket = open_bucket(fleet.bucket)
    while (status := fleet.processes["trainer"].poll()) is None:
        due = kills and len(rows(run)) >= ideas * (len(KILLS) - len(kills) + 1) / (len(KILLS) + 1)
        # Only while an experiment runs that the kill hits.
        if due and any(runs_something(bucket, fleet.processes[name]) for name in kills[0]):
            for name in kills.pop(0):
                print(f"{time.monotonic() - began:6.0f} s  {len(rows(run))} ideas: {name} is killed", flush=True)
                fleet.kill(name)
                fleet.start(name, [*words, "--resume"]) if name == "trainer" else fleet.start_server(name)
        if time.monotonic() - began > SEAL_SECONDS:
            raise SystemExit("The run does not end.")
        time.sleep(0.2)
    if status or kills:
        log = (fleet.folder / "trainer.log").read_text(errors="replace")[-3000:]
        raise SystemExit(f"The trainer ended with {status}, {len(kills)} kills to come: {log}")
    return time.monotonic() - began


def runs_something(bucket: Bucket, process: subprocess.Popen[bytes]) -> bool:
    """Whether a pull worker has an attempt under way, by the heartbeats."""
    beats = bucket.get_many([f"beats/{id}" for id in bucket.list("beats")]).values()
    return any(json.loads(beat)["worker"].endswith(f":{process.pid}") for beat in beats)


def audit(bucket: Bucket) -> dict[str, Any]:
    """Experiments, attempts and how they ended, as the bucket has them."""
    ends: dict[str, int] = {}
    counts: dict[str, Any] = {"experiments": 0, "attempts": 0, "without a record": 0, "paid twice": 0, "ends": ends}
    for id in bucket.list("experiments"):
        if bucket.get(f"experiments/{id}/spec.json") is None:
            continue  # an idea without a codebase
        attempts = record_store.attempts(bucket, id)
        record = record_store.load_record(bucket, id)
        counts["experiments"] += 1
        counts["attempts"] += len(attempts)
        counts["without a record"] += record is None
        # An attempt that no kill has ended has run to its record: a second one would be paid for nothing.
        counts["paid twice"] += max(0, sum(attempt.end is None for attempt in attempts) - 1)
        for attempt in attempts:
            if attempt.end is not None:
                ends[attempt.end.kind] = ends.get(attempt.end.kind, 0) + 1
    counts["left in queue and beats"] = len(bucket.list("queue")) + len(bucket.list("beats"))
    return counts


def landscape(args: argparse.Namespace, folder: Path, fleet: Fleet) -> bool:
    words = [str(ROOT / "benchmarks" / "collapse.yaml"), "--model_name_or_path", str(args.prior)]
    words += ["--max_steps", str(args.steps), "--num_generations", str(args.group)]
    words += ["--per_device_train_batch_size", str(args.group), "--save_strategy", "steps", "--save_steps", "1"]
    local = folder / "local"
    began = time.monotonic()
    fleet.start("reference", ["train", *words, "--backend", "local", "--bucket", f"file://{folder}/bucket",
                              "--output_dir", str(local)])  # fmt: skip
    if fleet.processes["reference"].wait():
        raise SystemExit((folder / "reference.log").read_text(errors="replace")[-3000:])
    print(f"local backend and folder: {len(rows(local))} ideas in {time.monotonic() - began:.0f} s", flush=True)
    seconds = train_on_fleet(fleet, words, folder / "fleet", args.steps * args.group)
    same = [one == other for one, other in zip(rows(local), rows(folder / "fleet"), strict=False)]
    counts = audit(open_bucket(fleet.bucket))
    rewards = len({row[4] for row in rows(local)})
    print(f"fleet and {fleet.bucket}: {len(rows(folder / 'fleet'))} ideas in {seconds:.0f} s")
    print(f"rows equal in idea, status and reward: {sum(same)} of {len(rows(local))}, {rewards} different rewards")
    print(json.dumps(counts))
    complete = len(rows(local)) == len(rows(folder / "fleet")) == args.steps * args.group
    return all(same) and complete and is_clean(counts)


def nanogpt(args: argparse.Namespace, folder: Path, fleet: Fleet) -> bool:
    run = folder / "fleet"
    seconds = train_on_fleet(fleet, ["quickstart", *WITHOUT_SCREEN], run, IDEAS)
    counts = audit(open_bucket(fleet.bucket))
    statuses: dict[str, int] = {}
    for row in rows(run):
        statuses[row[3]] = statuses.get(row[3], 0) + 1
    log = (folder / "trainer.log").read_text(errors="replace")
    baselines = [float(value) for value in re.findall(r"baseline val_loss ([\d.]+)", log)]
    # Its budget is in CPU seconds, which are worth less on a busy machine: compared with what is measured here and now.
    local = [local_baseline(folder, number) for number in range(3)]
    print(f"fleet and {fleet.bucket}: {len(rows(run))} ideas in {seconds:.0f} s: {json.dumps(statuses)}")
    print(f"baseline {baselines}; afterwards on the local backend, the same seed: {local}; sd over seeds {DEVIATION}")
    print(json.dumps(counts))
    spread = bool(baselines) and min(local) - 3 * DEVIATION <= baselines[-1] <= max(local) + 3 * DEVIATION
    return len(rows(run)) == IDEAS and not statuses.get("lost") and spread and is_clean(counts)


def local_baseline(folder: Path, number: int) -> float:
    """val_loss of the quickstart's baseline on the local backend, in a bucket of its own."""
    words = ["execute", "nanogpt", "--baseline", "--seed", "7", "--json", "--bucket", f"{folder}/baseline-{number}"]
    output = subprocess.run([*CLI, *words], check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout
    return float(json.loads(output)["metric"]["value"])


def is_clean(counts: dict[str, Any]) -> bool:
    wrong = counts["without a record"] + counts["paid twice"] + counts["left in queue and beats"]
    return wrong == 0 and set(counts["ends"]) <= {record_store.PREEMPTED, record_store.DEAD}


def pull(args: argparse.Namespace, folder: Path, fleet: Fleet) -> bool:
    """Rates in alternation: the local backend with eight slots, two pull workers with four each, and once more."""
    rates: dict[str, list[float]] = {"local": [], "pull": []}
    started = 0
    for turn in range(args.turns):
        for kind in ("local", "pull"):
            bucket = f"file://{folder}/bucket-{kind}-{turn}"
            if kind == "pull":
                for number in (1, 2):
                    fleet.start(f"pull{turn}{number}", ["worker", "--bucket", bucket, "--slots", "4", "--idle", "10"])
                time.sleep(3.0)
            words = [__file__, "--noops", kind, bucket, str(args.count)]
            output = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True).stdout
            rates[kind].append(float(output.splitlines()[-1]))
            if kind == "pull":
                for number in (1, 2):
                    fleet.processes[f"pull{turn}{number}"].wait(60)
                    started += (folder / f"pull{turn}{number}.log").read_text().count("  started")
    each = started / args.turns
    ratio = sum(rates["pull"]) / sum(rates["local"])
    print(f"a second: local {rates['local']}, pull {rates['pull']}: {ratio:.2f} of local")
    print(f"processes started for {args.count} experiments and one baseline: {each:.1f}")
    return each <= 1.1 * args.count and ratio >= 0.9


def noops(kind: str, bucket: str, count: int) -> None:
    """Run no-ops, after one that is not counted; prints how many a second."""
    import asyncio

    from ideator_rl.reward_buffer import BufferConfig, RewardBuffer

    backend = {"backend": "bucket"} if kind == "pull" else {"slots": 8}
    buffer = RewardBuffer(BufferConfig(str(ROOT / "tests" / "toy_env"), "cpu", bucket, **backend))  # type: ignore[arg-type]
    edits = [f"train.py\n<<<<<<< SEARCH\nx = 4.0\n=======\nx = {5 + n / 64}\n>>>>>>> REPLACE\n" for n in range(count)]

    async def score() -> float:
        await buffer.baseline()
        began = time.monotonic()
        records = await asyncio.gather(*map(buffer.score_patch, edits))
        assert all(record.status == "succeeded" for record in records)
        return count / (time.monotonic() - began)

    print(asyncio.run(score()))
    buffer.close()


def main() -> int:
    if sys.argv[1:2] == ["--noops"]:
        noops(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("landscape", "nanogpt", "pull"))
    parser.add_argument("--bucket", metavar="URL", help="an empty one; default: seaweedfs on this machine")
    parser.add_argument("--prior", type=Path, help="default: the one of `python -m ideator_rl.envs.landscape.prior`")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--group", type=int, default=16)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where logs and runs stay")
    args = parser.parse_args()
    if args.part == "landscape" and args.prior is None:
        from ideator_rl.envs.landscape.prior import prior

        args.prior = prior()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(130))  # by way of the stack, which ends all processes
    with ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ideator-whole-")))
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        bucket, variables = args.bucket or "", {}
        if not bucket and args.part != "pull":
            from object_stores import seaweedfs

            store = stack.enter_context(seaweedfs())
            bucket, variables = store.new_url(proved=False), store.variables
            os.environ.update(variables)
        # An experiment of nanogpt needs a processor for itself: its budget is in CPU seconds, which grow with the load.
        fleet = Fleet(folder, bucket, variables, slots=1 if args.part == "nanogpt" else 2)
        stack.callback(fleet.end)
        passed = {"landscape": landscape, "nanogpt": nanogpt, "pull": pull}[args.part](args, folder, fleet)
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
