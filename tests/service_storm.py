"""Kills schedulers, workers and the store at random moments while three schedulers serve one bucket, and counts.

usage: python tests/service_storm.py FOLDER [--store file|seaweed] [--kills 50] [--hosts] [--seed N]

The schedulers have slots of their own, so that all of them start what waits: most jobs are duplicates, and claims decide.
With `--hosts` each has a PID namespace, as on a machine of its own: its death takes its workers along, the others learn
of that by the lease alone, and their clocks differ by an hour.  Prints one line of JSON, see `Report`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from object_stores import seaweedfs

from ideator_rl.executor import record_store
from ideator_rl.executor.executor import Executor, ExecutorConfig
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import BucketError, open_bucket

TOY = Path(__file__).parent / "toy_env"
SCHEDULERS, SLOTS, OUTSTANDING = 3, 2, 8
SHORTEST, LONGEST = 0.05, 0.8
"""Seconds between two kills."""
KINDS = {"scheduler": 0.3, "worker": 0.5, "store": 0.2}
END_SECONDS = 240.0
PACES = {
    "file": {"IDEATOR_BEAT_SECONDS": "0.4", "IDEATOR_LEASE_SECONDS": "2"},
    "seaweed": {"IDEATOR_BEAT_SECONDS": "1.5", "IDEATOR_LEASE_SECONDS": "7.5"},
}
"""A beat has to reach a store that is back within a lease, and its client waits some seconds between its tries."""


@dataclass
class Report:
    seed: int
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    experiments: int = 0
    attempts: int = 0
    hits: int = 0
    """Claimed attempts that were running when a kill ended their worker."""
    unexplained: list[str] = field(default_factory=list)
    """Attempts that were followed by another one, although no kill hit them."""
    orphans: list[str] = field(default_factory=list)
    """Experiments without a record at the end."""
    wrong: list[str] = field(default_factory=list)
    """Records that are not those of an undisturbed run."""
    left: list[str] = field(default_factory=list)
    """Processes that are still there."""


class Storm:
    def __init__(self, folder: Path, store: str, hosts: bool, seed: int):
        self.folder, self.hosts, self.random = folder, hosts, random.Random(seed)
        self.report = Report(seed)
        self.kinds = {kind: share for kind, share in KINDS.items() if store != "file" or kind != "store"}
        self.stack = ExitStack()
        if store == "file":
            self.url = f"file://{folder}/bucket"
        else:
            server = self.stack.enter_context(seaweedfs(folder / "store"))
            os.environ.update(server.variables)
            self.url = server.new_url()
        self.bucket = open_bucket(self.url)
        maker = Executor(ExecutorConfig(str(TOY), "slow", self.url, backend="bucket"))
        base = maker._codebases.baseline()
        record_store.save_tree(self.bucket, base.tree_hash, base.tree)
        self.preset, self.spec = maker.preset, replace(maker._stage.spec(base, time.time(), 0), id="0" * 32)
        self.ids: list[str] = []
        self.services: list[subprocess.Popen | None] = [None] * SCHEDULERS
        # Experiment and attempt of the claims whose worker a kill has ended.
        self.hit: set[tuple[str, int]] = set()

    def run(self, kills: int) -> Report:
        process_tree.become_subreaper()
        for number in range(SCHEDULERS):
            self._start(number)
        while sum(self.report.kills.values()) < kills:
            with suppress(BucketError):
                self._refill()
            time.sleep(self.random.uniform(SHORTEST, LONGEST))
            self._kill_one()
            self._reap()
            self._restart()
        self._finish()
        self._judge()
        self.stack.close()
        return self.report

    def _start(self, number: int) -> None:
        scratch = self.folder / f"node{number}"
        scratch.mkdir(mode=0o755, exist_ok=True)
        words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"] if self.hosts else []
        words += [str(Path(sys.executable).parent / "ideator-rl"), "scheduler", "--bucket", self.url]
        words += ["--slots", str(SLOTS), "--every", "0.3"]
        with open(self.folder / f"scheduler{number}.log", "ab") as log:
            variables = os.environ | {"TMPDIR": str(scratch)}
            if self.hosts:
                # Read by each Python of ours there when it starts.
                shift = f"import time\nnow = time.time\ntime.time = lambda: now() + {3600 * (number - 1)}\n"
                (scratch / "sitecustomize.py").write_text(shift)
                variables["PYTHONPATH"] = str(scratch)
            self.services[number] = subprocess.Popen(words, env=variables, stdout=log, stderr=log)

    def _restart(self) -> None:
        """Start schedulers again that found no store when they started, as the service manager of a machine does."""
        for number, service in enumerate(self.services):
            if service is not None and service.poll() is not None:
                self._start(number)

    def _refill(self) -> None:
        """Keep so many experiments outstanding."""
        waiting = self.bucket.list("queue")
        for _ in range(OUTSTANDING - len(waiting)):
            id = f"{len(self.ids) + 1:032x}"
            record_store.request_run(self.bucket, replace(self.spec, id=id), self.preset)
            self.ids.append(id)

    def _workers(self) -> dict[tuple[str, int], int]:
        """Experiment and attempt → pid here, of the claims whose worker lives below this process."""
        pids = {_identity(pid): pid for pid in process_tree.descendants(os.getpid())}
        workers = {}
        # Also what waits, as far as is known: a claim comes before its first beat.
        for id in {**self.bucket.list("queue"), **self.bucket.list("beats")}:
            attempts = record_store.attempts(self.bucket, id)
            if attempts and attempts[-1].end is None and not record_store.has_record(self.bucket, id):
                claim = attempts[-1].claim
                if pid := pids.get((claim.place.rpartition(" ")[2], claim.pid)):
                    workers[id, claim.number] = pid
        return workers

    def _kill_one(self) -> None:
        kind = self.random.choices(list(self.kinds), self.kinds.values())[0]
        if kind == "store":
            self.stack.close()
            time.sleep(self.random.uniform(0.1, 3.0))
            self.stack.enter_context(seaweedfs(self.folder / "store"))
        elif kind == "scheduler":
            number = self.random.randrange(SCHEDULERS)
            service = self.services[number]
            assert service is not None
            below: set[int] = set()
            # Stopped first, and twice, for what was just forked: nothing is claimed between the look and the kill.
            for _ in range(2):
                for pid in process_tree.descendants(service.pid):
                    below.add(pid)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP if self.hosts else 0)
            with suppress(BucketError):
                if self.hosts:
                    self.hit |= {claim for claim, pid in self._workers().items() if pid in below}
            service.kill()
            service.wait()
            self._start(number)
        else:
            with suppress(BucketError):
                if not (workers := self._workers()):
                    return
                claim = self.random.choice(list(workers))
                with suppress(ProcessLookupError):
                    os.kill(workers[claim], signal.SIGKILL)
                self.hit.add(claim)
        self.report.kills[kind] += 1

    def _reap(self) -> None:
        mine = {service.pid for service in self.services if service is not None}
        for pid in process_tree.children(os.getpid()):
            if pid not in mine and process_tree.start_time(pid) is None:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _finish(self) -> None:
        """Let all that waits be run; what was given up after three deaths is requested again."""
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until:
            missing = [id for id in self.ids if not record_store.has_record(self.bucket, id)]
            if not missing:
                break
            # As a run does that waits for them: also where a scheduler that judged the round before took the entry away.
            queue = self.bucket.list("queue")
            for id in missing:
                if id not in queue:
                    spec = replace(self.spec, id=id, created=time.time())
                    record_store.request_run(self.bucket, spec, self.preset)
            self._reap()
            self._restart()
            time.sleep(1.0)
        for service in self.services:
            assert service is not None
            # `unshare` ignores the signal while its child runs.
            for pid in process_tree.children(service.pid) if self.hosts else [service.pid]:
                os.kill(pid, signal.SIGTERM)
        for service in self.services:
            assert service is not None
            service.wait(20)

    def _judge(self) -> None:
        for id in self.ids:
            attempts = record_store.attempts(self.bucket, id)
            self.report.experiments += 1
            self.report.attempts += len(attempts)
            for attempt in attempts[:-1]:
                if (id, attempt.number) in self.hit:
                    self.report.hits += 1
                else:
                    self.report.unexplained.append(f"{id[-4:]}/{attempt.number}: {attempt.end}")
            record = record_store.load_record(self.bucket, id)
            if record is None:
                self.report.orphans.append(f"{id[-4:]}: {[attempt.end for attempt in attempts]}")
            elif record.status != "succeeded":
                self.report.wrong.append(f"{id[-4:]}: {record.status}, {record.error}")
        for _ in range(100):
            self._reap()
            below = [pid for pid in process_tree.descendants(os.getpid()) if pid != os.getpid()]
            if not (left := [line for pid in below if "weed" not in (line := _command(pid)) and line]):
                return
            time.sleep(0.1)
        self.report.left = left


def _identity(pid: int) -> tuple[str, int]:
    """The PID namespace of a process, and its pid there: what its claim has."""
    inside = process_tree.status_fields(pid).get("NSpid", "0").split()[-1]
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid"), int(inside)
    return "", 0


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", choices=["file", "seaweed"], default="file")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--hosts", action="store_true")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    args = parser.parse_args()
    os.environ |= PACES[args.store]
    print(json.dumps(asdict(Storm(args.folder, args.store, args.hosts, args.seed).run(args.kills))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
