"""The report of a run that goes on, served to a browser on this machine.

Guarantees:
- It listens on the loopback address only.  A request needs the random token in its path, which other users of the
  machine and other pages do not have, and a `Host` of this machine, so that no foreign name leads here (DNS rebinding).
- It reads runs and answers GET.  Nothing is written, and no file is served.
- The page is the one of `page`, made again when a file of a run changed: at most a tenth of the time is spent on that.

A connection that sends nothing ends after `IDLE_SECONDS`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.report.page import Live, ReportError, read_runs, render_report
from ideator_rl.report.run_view import unfinished
from ideator_rl.storage.run_folder import LEADERBOARD, MARK
from ideator_rl.storage.run_reader import JOURNAL

ADDRESS = "127.0.0.1"
HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names in a request's `Host`, before the port: a tunnel may have another port."""
LOOK_SECONDS = 2.0
"""Between two looks of the page, and between two pages, at least."""
RENDER_SHARE = 0.1
IDLE_SECONDS = 30.0
FILES = (JOURNAL, f"{JOURNAL}-wal", MARK, "ledger.json", "timings.json", LEADERBOARD)
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass
class LivePage:
    """The newest page about some runs.  Requests are answered in threads: the lock lets one of them render.

    Args:
        under_way: returns whether a process of this machine is at work on the runs.
    """

    folders: Sequence[Path]
    embedder: str | None = None
    notes: Callable[[Path], Sequence[str]] | None = None
    under_way: Callable[[], bool] = lambda: False
    _lock: Any = field(default_factory=threading.Lock)
    _version: str = ""
    _page: str = ""
    _next_render: float = 0.0
    """On the monotonic clock."""

    def version(self) -> str:
        """The version of the page that `page` would return now."""
        # A large run takes seconds to render: until then, the page that is there counts as the newest.
        return self._version if time.monotonic() < self._next_render else self._state()

    def page(self) -> str:
        """
        Raises:
            IdeatorError: a run cannot be read.
        """
        with self._lock:
            state = self.version()
            if state != self._version:
                start = time.monotonic()
                runs = read_runs(self.folders)
                live = Live("poll", LOOK_SECONDS, state) if self.under_way() or any(map(unfinished, runs)) else None
                self._page = render_report(runs, self.embedder, self.notes, live)
                self._version = state
                end = time.monotonic()
                self._next_render = end + max(LOOK_SECONDS, (end - start) / RENDER_SHARE)
            return self._page

    def _state(self) -> str:
        """A hash of the times and sizes of all files that a report is made of, and of whether a process is at work."""
        facts: list[object] = [self.under_way()]
        for path in (folder / name for folder in self.folders for name in FILES):
            try:
                status = path.stat()
                facts += [status.st_mtime_ns, status.st_size]
            except OSError:
                facts.append(None)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


class ReportServer:
    """Serves a page at `url`, until `close`.

    Args:
        port: 0 for any that is free.

    Raises:
        ReportError: the port is taken, or may not be used.
        NoRun: a folder holds no run.
    """

    def __init__(self, page: LivePage, port: int = 0):
        token = secrets.token_urlsafe(24)
        page.page()  # a wrong folder is refused before a port is taken
        handler = type("Handler", (_Handler,), {"token": token, "live_page": page})
        try:
            self._server = ThreadingHTTPServer((ADDRESS, port), handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ReportError(f"The port {port} cannot be used: {reason}. Give another --port, or none.") from error
        self._server.daemon_threads = True
        self.url = f"http://{ADDRESS}:{self._server.server_address[1]}/{token}/"

    def serve(self) -> None:
        """Answer requests, until `close` is called in another thread."""
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server_version, sys_version = "report", ""
    timeout = IDLE_SECONDS
    token: str
    live_page: LivePage

    def handle(self) -> None:
        # A tab that is closed while its page is made is no fault.
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host") or ""
        token, _, name = self.path.removeprefix("/").partition("/")
        # As bytes, since a request may hold any characters; in constant time, so that no answer betrays a part.
        known = hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())
        if host not in HOSTS or not known:
            return self._answer(HTTPStatus.FORBIDDEN, "Open the address that `ideator-rl report --serve` printed.\n")
        if name not in ("", "version"):
            return self._answer(HTTPStatus.NOT_FOUND, "There is the report, and nothing else.\n")
        try:
            text = self.live_page.version() if name == "version" else self.live_page.page()
        except IdeatorError as error:
            return self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n")
        except Exception as error:
            reason = f"The report cannot be made ({type(error).__name__}: {error}).\n"
            return self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, reason)
        self._answer(HTTPStatus.OK, text, "text/plain" if name == "version" else "text/html")

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)), **HEADERS}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Requests are not logged: their path holds the token."""
