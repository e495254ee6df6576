"""Kills workers, zygotes and the process that requests experiments, at random moments, and counts what went wrong.

usage: python tests/kill_storm.py FOLDER [--kills 30] [--start forked|cold] [--seed N]

A client requests experiments of `toy_env` in batches, and is started again after each kill; experiments that have a
record are replayed.  This process adopts everything that the client and its workers leave behind, so that nothing
escapes the count.  Prints one line of JSON, see `Report`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ideator_rl.executor import record_store
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import Bucket, open_bucket

TOY = Path(__file__).parent / "toy_env"
BATCH, SLOTS = 8, 2
SHORTEST, LONGEST = 0.02, 0.6
"""Seconds between two kills."""
KINDS = {"client": 0.2, "worker": 0.5, "zygote": 0.3}
"""How often each kind is chosen."""
WAIT_SECONDS = 10.0
"""For a process of that kind to start."""
ZYGOTE, FORK_SERVER = "ideator_rl.executor.zygote", "fork_server.py"
END_SECONDS = 60.0


@dataclass
class Report:
    seed: int
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    """Processes killed, by kind."""
    experiments: int = 0
    attempts: int = 0
    duplicates: list[str] = field(default_factory=list)
    """Attempts at an experiment whose earlier attempt was alive, or had not been killed and gave no reason."""
    abandoned: list[str] = field(default_factory=list)
    """Reasons of attempts that ended without a record although their worker was not killed."""
    orphans: list[str] = field(default_factory=list)
    """Experiments without a record at the end."""
    wrong: list[str] = field(default_factory=list)
    """Experiments whose record is not that of an undisturbed run."""
    left: list[str] = field(default_factory=list)
    """Processes and mounts that are still there."""


class Storm:
    def __init__(self, folder: Path, start: str, seed: int):
        self.folder, self.start, self.random = folder, start, random.Random(seed)
        self.kinds = {kind: share for kind, share in KINDS.items() if start == "forked" or kind != "zygote"}
        self.report = Report(seed)
        self.bucket: Bucket = open_bucket(f"file://{folder}/bucket")
        self.client, self.first = 0, 0
        self.killed: dict[int, float] = {}
        """Time of death by pid."""

    def run(self, kills: int) -> Report:
        process_tree.become_subreaper()
        mounts = _mounts()
        self._start_client()
        while sum(self.report.kills.values()) < kills:
            time.sleep(self.random.uniform(SHORTEST, LONGEST))
            self._kill_one()
        # The last client is left alone, and completes all batches.
        self._wait_for_client()
        self._start_client(everything=True)
        self._wait_for_client()
        self._judge()
        self.report.left = self._left() + sorted(_mounts() - mounts)
        return self.report

    def _start_client(self, everything: bool = False) -> None:
        first, count = (0, self.first + BATCH) if everything else (self.first, BATCH)
        argv = [sys.executable, __file__, str(self.folder), "--start", self.start, "--client", str(first), str(count)]
        log = os.open(f"{self.folder}/client.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        self.client = os.posix_spawn(sys.executable, argv, os.environ, file_actions=actions)
        os.close(log)

    def _kill_one(self) -> None:
        kind = self.random.choices(list(self.kinds), self.kinds.values())[0]
        until = time.monotonic() + WAIT_SECONDS
        while not (pids := self._pids(kind)):
            if time.monotonic() > until:
                return
            time.sleep(0.005)
        pid = self.random.choice(pids)
        os.kill(pid, signal.SIGKILL)
        # After the kill: an attempt that is claimed from here on is no duplicate.
        self.killed[pid] = time.time()
        self.report.kills[kind] += 1
        if kind == "client":
            self._wait_for_client()
            self._start_client()

    def _pids(self, kind: str) -> list[int]:
        """Live processes of a kind below this one."""
        self._reap()
        if not self.client:
            self.first += BATCH  # the batch is complete
            self._start_client()
        if kind == "client":
            return [self.client]
        below = set(process_tree.descendants(os.getpid())) - {os.getpid(), self.client}
        running = (record_store.running_attempt(self.bucket, id) for id in self.bucket.list(record_store.QUEUE))
        workers = {attempt.claim.pid for attempt in running if attempt is not None} & below
        if kind == "worker":
            return sorted(workers)
        return sorted(pid for pid in below if self._is_zygote(pid))

    def _is_zygote(self, pid: int) -> bool:
        """Whether it is the zygote or a fork server; what they forked has the same command line."""
        try:
            if FORK_SERVER in _command(pid):
                return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            return ZYGOTE in _command(pid) and parent == self.client
        except OSError:
            return False  # it has just ended

    def _wait_for_client(self) -> None:
        until = time.monotonic() + END_SECONDS
        while self.client:
            self._reap()
            if time.monotonic() > until:
                raise SystemExit(f"The client does not end: {Path(self.folder, 'client.log').read_text()[-3000:]}")
            time.sleep(0.02)

    def _reap(self) -> None:
        """Collect processes that have ended, adopted ones included."""
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.client:
                    self.client = 0
                    if os.waitstatus_to_exitcode(ended[1]) not in (0, -signal.SIGKILL):
                        raise SystemExit(f"The client failed: {Path(self.folder, 'client.log').read_text()[-3000:]}")
        except ChildProcessError:
            pass

    def _judge(self) -> None:
        for id in self.bucket.names("experiments"):
            claims = [
                json.loads(self.bucket.get(f"experiments/{id}/attempts/{number}/claim.json") or b"{}")
                for number in range(len(record_store.attempts(self.bucket, id)))
            ]
            self.report.experiments += 1
            self.report.attempts += len(claims)
            for number, (claim, following) in enumerate(zip(claims, claims[1:], strict=False)):
                end = self.bucket.get(f"experiments/{id}/attempts/{number}/end.json")
                # One that was taken for dead is judged by the time of its death.
                if end is not None and json.loads(end)["kind"] != record_store.DEAD:
                    self.report.abandoned.append(json.loads(end)["reason"][-300:])
                # A worker that is killed is dead a moment after the signal; the clocks are those of one machine.
                elif following["time"] < self.killed.get(claim["pid"], float("inf")) - 0.05:
                    self.report.duplicates.append(f"{id}: attempt {number + 1} after {claim}")
            record = record_store.load_record(self.bucket, id)
            if record is None:
                self.report.orphans.append(id)
            elif record.status != "succeeded":
                self.report.wrong.append(f"{id}: {record.status}, {record.error}")

    def _left(self) -> list[str]:
        """What still runs below this process, after a moment to end."""
        for _ in range(100):
            self._reap()
            below = [pid for pid in process_tree.descendants(os.getpid()) if pid != os.getpid()]
            if not below:
                return []
            time.sleep(0.1)
        return [f"{pid} {_command(pid)}" for pid in below]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _mounts() -> set[str]:
    return set(Path("/proc/self/mounts").read_text().splitlines())


async def request(folder: Path, start: str, first: int, count: int) -> bool:
    """Have a batch run; whether each experiment has a record."""
    options = {"start": start} if "start" in {item.name for item in fields(BufferConfig)} else {}
    config = BufferConfig(str(TOY), "slow", f"file://{folder}/bucket", run_dir=str(folder), slots=SLOTS, **options)
    buffer = RewardBuffer(config)
    edits = [
        f"train.py\n<<<<<<< SEARCH\nx = 4.0\n=======\nx = {5 + n / 64}\n>>>>>>> REPLACE\n"
        for n in range(first, first + count)
    ]
    while True:
        records = await asyncio.gather(*map(buffer.score_patch, edits))
        # One whose workers were killed three times is lost, and can be run again.
        if all(record.status != "lost" for record in records):
            break
    buffer.close()
    return all(record.status == "succeeded" for record in records)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--start", default="forked")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--client", type=int, nargs=2)
    args = parser.parse_args()
    if args.client:
        asyncio.run(request(args.folder, args.start, *args.client))
        return 0
    report = Storm(args.folder, args.start, args.seed).run(args.kills)
    print(json.dumps(asdict(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
