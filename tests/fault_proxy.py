"""A proxy before an object store that counts requests, adds latency and does what goes wrong in networks.

    with FaultProxy("http://127.0.0.1:9000", delay=0.02) as proxy:
        proxy.url                                 # what AWS_ENDPOINT_URL is set to; signatures stay valid
        proxy.counts()                            # {"GET": 3, "PUT": 1, "LIST": 2}
        proxy.fail("lose_reply", kind="PUT", key="claim.json", times=1)
        proxy.down = True                         # every connection is closed at once

It runs in a thread.  As a program, `python tests/fault_proxy.py UPSTREAM PORT [SECONDS]`, it runs in a process of its
own; `GET /-/counts` returns the counts as JSON and `GET /-/reset` clears them, in both cases.
"""

import asyncio
import contextlib
import json
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

FAULTS = ("lose_reply", "lose_request", "hang", "strip", "302")
CODES = {
    "403": "AccessDenied",
    "409": "ConditionalRequestConflict",
    "500": "InternalError",
    "503": "SlowDown",
    "507": "InsufficientStorage",
}


@dataclass
class Fault:
    """What happens to the next `times` requests of a kind whose key contains a text."""

    name: str
    """`lose_reply`: the store has it, the client hears nothing.  `lose_request`: nothing reaches the store.  `strip`: the
    condition `If-None-Match` is removed.  `302`: a redirect.  A status, or a status and a code of S3:
    `403:RequestTimeTooSkewed`."""
    kind: str
    key: str
    times: int


class FaultProxy:
    def __init__(self, upstream, delay=0.0, port=0):
        """
        Args:
            delay: seconds added to every request.
        """
        parts = urlsplit(upstream)
        self._address = (parts.hostname, parts.port)
        self.delay, self.down = delay, False
        # Written by the proxy's thread, read by the test's; one list append is atomic.
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self._moved: dict[str, tuple[bytes, bytes]] = {}
        self._conditional = asyncio.Lock()
        self._port, self._loop, self._tasks = port, asyncio.new_event_loop(), set()

    def fail(self, name, kind="", key="", times=1):
        assert name in FAULTS or name[:3] in CODES or ":" in name, name
        self.faults.append(Fault(name, kind, key, times))

    def counts(self):
        return dict(Counter(kind for kind, _ in self.requests))

    def reset(self):
        self.requests.clear()

    def __enter__(self):
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self, started):
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._client, "127.0.0.1", self._port))
        self._port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        started.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _client(self, reader, writer):
        """One connection; it ends when an answer is dropped or the client leaves."""
        try:
            while not self.down:
                head, body = await _read_message(reader)
                answer = await self._answer(head, body)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, head, body):
        """The bytes of the answer; None to drop the connection."""
        verb, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        if target in self._moved:
            return await self._forward(*self._moved.pop(target), verb)
        if target.startswith("/-/"):
            return self._control(target)
        kind, key = _kind(verb, target), unquote(urlsplit(target).path)
        self.requests.append((kind, key))
        fault = self._next_fault(kind, key)
        if self.delay:
            await asyncio.sleep(self.delay)
        status, _, code = fault.partition(":")
        if code or status in CODES:
            return _reply(status, f"<Error><Code>{code or CODES[status]}</Code><Message>by the proxy</Message></Error>")
        if fault == "302":
            # As to a signed URL: the request there needs no headers of its own.
            moved = f"/-/moved/{len(self.requests)}"
            self._moved[moved] = head, body
            return _reply("302", "", f"Location: {self.url}{moved}\r\n")
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "lose_request" or self.down:
            return None
        if fault == "strip":
            lines = head.split(b"\r\n")
            head = b"\r\n".join(line for line in lines if not line.lower().startswith(b"if-none-match:"))
        # The emulator behind it looks whether an object is there and stores it in two steps.
        async with self._conditional if b"if-none-match:" in head.lower() else contextlib.nullcontext():
            answer = await self._forward(head, body, verb)
        return None if fault == "lose_reply" or self.down else answer

    def _next_fault(self, kind, key):
        for fault in self.faults:
            if fault.times > 0 and fault.kind in ("", kind) and fault.key in key:
                fault.times -= 1
                return fault.name
        return ""

    async def _forward(self, head, body, verb):
        reader, writer = await asyncio.open_connection(*self._address, limit=1 << 20)
        try:
            # Hop by hop, and not part of a signature: the end of this answer is the end of the connection.
            writer.write(_without_connection(head)[:-2] + b"Connection: close\r\n\r\n" + body)
            await writer.drain()
            head = _without_connection(await reader.readuntil(b"\r\n\r\n"))
            return head + (b"" if verb == "HEAD" else await _read_body(reader, head))
        finally:
            writer.close()

    def _control(self, target):
        if target == "/-/reset":
            self.reset()
        return _reply("200", json.dumps(self.counts()))


def _kind(verb, target):
    parts = urlsplit(target)
    query = parts.query.split("&")
    lists = any(word.startswith(("list-type=", "comp=list", "prefix=", "delimiter=")) for word in query)
    return "LIST" if verb == "GET" and lists else verb


def _reply(status, text, headers=""):
    body = text.encode()
    return (
        f"HTTP/1.1 {status} {CODES.get(status, 'OK')}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
    )


async def _read_message(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await _read_body(reader, head, at_end=b"")


async def _read_body(reader, head, at_end=None):
    """The body as it is on the wire; without a length it ends with the connection, or is `at_end`."""
    headers = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if b"content-length" in headers:
        return await reader.readexactly(int(headers[b"content-length"]))
    if headers.get(b"transfer-encoding", b"").strip() == b"chunked":
        body = b""
        while True:
            size = await reader.readuntil(b"\r\n")
            body += size + await reader.readexactly(int(size.split(b";")[0], 16) + 2)
            if int(size.split(b";")[0], 16) == 0:
                return body
    return await reader.read() if at_end is None else at_end


def _without_connection(head):
    return b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:"))


if __name__ == "__main__":
    upstream, port, *seconds = sys.argv[1:]
    with FaultProxy(upstream, float(seconds[0]) if seconds else 0.0, int(port)):
        threading.Event().wait()
