"""What the services of a bucket say of themselves, for `status`: schedulers and pull workers, on whatever machine.

    services/<host>-<pid>   a report, put once a minute and when it changes, removed at the end of the service

A report is for people: nothing depends on it.  One that a killed service left is shown with its age, and removed by the
next service after a day.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from ideator_rl.config.reader import parse_json_object
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import typed_fields
from ideator_rl.storage.bucket import Bucket

SERVICES = "services"
REPORT_SECONDS, CHANGE_SECONDS = 60.0, 10.0
"""Between two reports at most, and at least."""
CLOSE_SECONDS = 2.0
"""For the report to be removed at the end of the service."""
OLD_SECONDS = 86_400.0
USD = {"put": 5e-6, "list": 5e-6, "get": 0.4e-6}
"""Price of a request in S3's standard class; deletions are free.  Other stores are of the same order."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceReport:
    name: str
    """Host and process."""
    kind: str
    """`scheduler` or `worker`."""
    time: float
    """Unix seconds by the clock of its machine."""
    backend: str = ""
    queued: int = 0
    """Jobs that its engine has and that have claimed nothing yet."""
    running: int = 0
    breaker: str = ""
    """Why it submits nothing now; empty while it does."""
    requests: dict[str, Any] = field(default_factory=dict)
    """Requests to the store so far, by kind."""


class ServiceReporter:
    """Puts the reports of this process from a thread of its own, from the beginning to the end of a block.

    Args:
        facts: fields of `ServiceReport` that change; called in that thread.
    """

    def __init__(self, bucket: Bucket, kind: str, facts: Callable[[], dict[str, Any]]):
        self._bucket, self._kind, self._facts = bucket, kind, facts
        self._name = f"{socket.gethostname()}-{os.getpid()}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="service-report", daemon=True)

    def __enter__(self) -> ServiceReporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the report and end."""
        self._over.set()
        self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        # A report that cannot be stored is not worth the service.
        with suppress(IdeatorError):
            for report in read_services(self._bucket):
                if time.time() - report.time > OLD_SECONDS:
                    self._bucket.delete(f"{SERVICES}/{report.name}")
        facts, last = None, -math.inf
        while not self._over.is_set():
            try:
                before, facts = facts, self._facts()
                if facts != before or time.monotonic() - last >= REPORT_SECONDS:
                    self._put(facts)
                    last = time.monotonic()
            except Exception as error:
                log.warning("The report of this %s is missing: %s", self._kind, error)
            self._over.wait(CHANGE_SECONDS)
        with suppress(IdeatorError):
            self._bucket.delete(f"{SERVICES}/{self._name}")

    def _put(self, facts: dict[str, Any]) -> None:
        report = ServiceReport(self._name, self._kind, time.time(), requests=dict(self._bucket.requests), **facts)
        self._bucket.put(f"{SERVICES}/{self._name}", json.dumps(asdict(report)).encode())


def read_services(bucket: Bucket) -> list[ServiceReport]:
    """The last report of every service; one that this version cannot read is left out."""
    keys = [f"{SERVICES}/{name}" for name, version in sorted(bucket.list(SERVICES).items()) if version]
    reports = []
    for raw in bucket.get_many(keys).values():
        with suppress(ValueError, TypeError):
            reports.append(ServiceReport(**typed_fields(ServiceReport, parse_json_object(raw))))
    return reports


def request_usd(requests: dict[str, Any]) -> float:
    """What requests cost, by the prices of S3."""
    return sum(USD.get(kind, 0.0) * count for kind, count in requests.items())
