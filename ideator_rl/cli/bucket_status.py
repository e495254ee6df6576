"""What `ideator-rl status` shows of a bucket: results, what waits and runs, and the services that work for it.

A look costs three listings and the objects that are new: results are in the local index.  Times that other machines
wrote are shown to people, as ages by this machine's clock; whether an experiment runs does not depend on them.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from ideator_rl.cli.target import WAITING
from ideator_rl.config.reader import parse_json_object
from ideator_rl.executor import record_store
from ideator_rl.executor.bucket_watch import BucketWatch
from ideator_rl.executor.services import ServiceReport, read_services, request_usd
from ideator_rl.experiment import RUNNING
from ideator_rl.report.summary import outcomes
from ideator_rl.storage.bucket import Bucket, DamagedObject, parse_object
from ideator_rl.storage.index import ResultIndex
from ideator_rl.text.display import dollars, duration


class BucketStatus:
    """A bucket, looked at again and again by one thread."""

    def __init__(self, bucket: Bucket):
        self.bucket = bucket
        self._index = ResultIndex(bucket, record_store.load_records)
        self._watch = BucketWatch(bucket)
        # A bucket of 0.1.0 has no queue until a run opens it.
        self._requested_before = record_store.requested_before_upgrade(bucket)
        self._statuses: dict[str, int] = {}
        self._running: list[dict[str, Any]] = []
        self._services: list[ServiceReport] = []
        self._claims: dict[str, record_store.Claim] = {}
        """Of what runs, by id."""

    def refresh(self) -> bool:
        """Look at the bucket; returns whether an experiment runs or waits."""
        # The queue comes first: what leaves it before the index is read has its result by then.
        self._watch.look()
        self._running = self._read_running()
        self._services = read_services(self.bucket)
        self._index.update()
        counts = {RUNNING: len(self._running), WAITING: len(self._waiting())}
        self._statuses = self._index.statuses() | {status: count for status, count in counts.items() if count}
        return bool(counts[RUNNING] or counts[WAITING])

    def headline(self) -> str:
        """One line."""
        counts = outcomes(Counter(self._statuses).elements()) or "no experiments yet"
        under_way = self._statuses.keys() & {RUNNING, WAITING}
        return counts if under_way else f"{counts} · nothing runs or waits"

    def text(self, rows: int | None = None) -> str:
        """The headline, what runs now, and the services with what they cost."""
        services = [line for report in self._services for line in _service_lines(report)]
        facts = self.facts()
        if facts["gpu_hours"]:
            services.append(f"{facts['gpu_hours']:.3g} GPU-hours for finished experiments")
        if requests := facts["requests"]:
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(requests.items()))
            services.append(f"requests to the store by these services: {counts}; {dollars(facts['request_usd'])}")
        running = [
            f"running  {row['id']}  on {row['host']} for {duration(row['seconds'])}, attempt {row['attempt']}, "
            f"heartbeat {duration(row['beat'])} ago"
            for row in self._running
        ]
        if rows:
            running = running[: max(1, rows - 2 - len(services))]
        return "\n".join([self.headline(), *services, *running])

    def facts(self) -> dict[str, Any]:
        """What `--json` prints."""
        requests: Counter[str] = Counter()
        for report in self._services:
            requests.update(report.requests)
        return {
            "bucket": self.bucket.url,
            "statuses": self._statuses,
            "outstanding": len(self._running) + len(self._waiting()),
            "queued_at_engines": sum(report.queued for report in self._services),
            "running": self._running,
            "oldest_beat": max((row["beat"] for row in self._running), default=None),
            "breakers": [report.breaker for report in self._services if report.breaker],
            "services": [asdict(report) for report in self._services],
            "gpu_hours": self._index.gpu_hours(),
            "requests": dict(requests),
            "request_usd": request_usd(requests),
        }

    def _waiting(self) -> list[str]:
        running = {row["id"] for row in self._running}
        requested = dict.fromkeys([*self._watch.queue, *self._requested_before])
        return [id for id in requested if id not in running and id not in self._index]

    def _read_running(self) -> list[dict[str, Any]]:
        """The experiments with a heartbeat, longest without one first."""
        beats = self._read_beats()
        numbers = {id: beat["attempt"] for id, beat in beats.items()}
        # A claim never changes.
        self._claims = {id: claim for id, claim in self._claims.items() if numbers.get(id) == claim.number}
        self._claims |= record_store.read_claims(
            self.bucket, {id: number for id, number in numbers.items() if id not in self._claims}
        )
        rows = []
        for id, claim in self._claims.items():
            # One of this machine whose process is gone does not run, whatever its last heartbeat.
            if claim.is_here and not claim.process_alive:
                continue
            rows.append({"id": id, "host": claim.host, "attempt": claim.number, "step": beats[id].get("step"),
                         "seconds": max(0.0, time.time() - claim.time), "beat": beats[id]["age"]})  # fmt: skip
        return sorted(rows, key=lambda row: -row["beat"])

    def _read_beats(self) -> dict[str, dict[str, Any]]:
        """The heartbeats by id, with their `age` in seconds."""
        ages = self._watch.beats
        keys = {f"{record_store.BEATS}/{id}": id for id in ages}
        beats = {}
        for key, raw in self.bucket.get_many(list(keys)).items():
            # A power failure can cut a heartbeat; the next one replaces it.
            with suppress(DamagedObject):
                id, beat = keys[key], parse_object(self.bucket.url, key, raw, _parse_beat)
                # A first look has seen no change yet; the worker's own time is then the better answer.
                beats[id] = beat | {"age": max(ages[id], time.time() - beat["time"], 0.0)}
        return beats


def _parse_beat(raw: bytes) -> dict[str, Any]:
    beat = parse_json_object(raw)
    return beat | {"attempt": int(beat["attempt"]), "time": float(beat["time"])}


def _service_lines(report: ServiceReport) -> list[str]:
    age = max(0.0, time.time() - report.time)
    backend = f" ({report.backend})" if report.backend else ""
    line = f"{report.kind} {report.name}{backend}: {report.queued} queued, {report.running} running"
    lines = [f"{line}; report {duration(age)} old"]
    return lines + ([f"  submits nothing: {report.breaker}"] if report.breaker else [])
