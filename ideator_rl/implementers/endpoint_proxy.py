"""The only way out of an agent's sandbox: an HTTP proxy on a Unix socket that connects to listed addresses alone.

It takes `CONNECT host:port` and, for plain HTTP, requests with an absolute address.  What follows the first request of
a connection goes to the same address, unread: a second address needs a second connection.

Not covered: an address is what its name leads to now, and what the endpoint does for the agent is not limited.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

MAX_HEADER, CHUNK = 65_536, 65_536
MAX_CONNECTIONS = 64
CONNECT_SECONDS, HEADER_SECONDS = 30.0, 60.0
RETRY_SECONDS = 0.1
"""After a connection that could not be accepted."""


class EndpointProxy:
    """Serves from a thread of its own until it is closed; each connection has a thread.

    Args:
        path: of the socket, which is created.
        owner: the user that may connect, besides root.
    """

    def __init__(self, path: Path, endpoints: Iterable[tuple[str, int]], owner: int):
        self._allowed = {(host.lower(), port) for host, port in endpoints}
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._closed = threading.Event()
        self._server = socket.socket(socket.AF_UNIX)
        _bind(self._server, path)
        path.chmod(0o600)
        if owner != os.getuid():
            os.chown(path, owner, owner)
        self._server.listen(MAX_CONNECTIONS)
        threading.Thread(target=self._accept, name="endpoint-proxy", daemon=True).start()

    def close(self) -> None:
        """Take no further connection; those that are open end with the agent."""
        self._closed.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._server.accept()
            except OSError:
                # A connection that broke, or no free descriptor: the next one may succeed.  The pause keeps a lasting
                # fault from taking a core.
                self._closed.wait(RETRY_SECONDS)
                continue
            if not self._slots.acquire(blocking=False):
                client.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()
            except RuntimeError:  # no further thread
                self._slots.release()
                client.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, suppress(OSError, ValueError):
                client.settimeout(HEADER_SECONDS)
                head, body = _read_head(client)
                first_line, _, rest = head.partition(b"\r\n")
                method, target, version = first_line.decode("ascii").split(" ")
                address, request = _address(method, target), b""
                if address not in self._allowed:
                    client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    return
                if method != "CONNECT":
                    request = f"{method} {_path(target)} {version}\r\n".encode() + rest + b"\r\n\r\n" + body
                self._tunnel(client, address, request)
        finally:
            self._slots.release()

    def _tunnel(self, client: socket.socket, address: tuple[str, int], request: bytes) -> None:
        """Join the connection with one to the address, on which `request` is sent first.

        Raises:
            OSError: the connection to the agent broke.
        """
        try:
            outside = socket.create_connection(address, CONNECT_SECONDS)
        except OSError:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with outside:
            for connection in (client, outside):
                connection.settimeout(None)
            if request:
                outside.sendall(request)
            else:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_copy, args=(outside, client), daemon=True)
            back.start()
            _copy(client, outside)
            back.join()


def _bind(server: socket.socket, path: Path) -> None:
    """Create the socket's file; by a short name of its folder, since a socket's path has at most 107 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    """The first request's lines, and what came after them.

    Raises:
        ValueError: the connection ended, or they are too long.
    """
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > MAX_HEADER or not (more := client.recv(CHUNK)):
            raise ValueError("no request")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def _address(method: str, target: str) -> tuple[str, int]:
    """The host and the port that a request is for.

    Raises:
        ValueError: it names none.
    """
    parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
    if method != "CONNECT" and parts.scheme != "http":
        raise ValueError("no address")
    return (parts.hostname or "").lower(), parts.port or 80


def _path(target: str) -> str:
    parts = urlsplit(target)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
