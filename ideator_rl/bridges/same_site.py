"""Keeps pages of other sites away from a server of this machine, which has no password.

A browser sends requests for any page that is open.  Two headers that a page cannot forge show whose request it is:

- `Host` must be a name of this machine, an address, or a name that was allowed.  So a foreign name that was made to
  lead here (DNS rebinding) is refused.
- `Origin`, where there is one, must be that of the server itself.

Not covered: programs, which may send any header.  A program that reaches the port is served.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from ideator_rl.errors import IdeatorError

LOCAL_NAME = "localhost"
FORBIDDEN = 403
REFUSED = b"The Host or Origin of this request is not of this server. --allowed-host NAME adds the name of a machine.\n"
POLICY_VIOLATION = 1008
"""Close code of a websocket (RFC 6455)."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class SameSite:
    """An ASGI application that passes the server's own requests on, HTTP and websocket.

    Args:
        names: further names in `Host`, as `host_names` returns them.
    """

    def __init__(self, app: App, names: Iterable[str] = ()):
        self._app, self._names = app, {LOCAL_NAME, *names}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_own(scope["headers"]):
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            await receive()  # the request to connect, which a close then answers with status 403
            return await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(REFUSED)).encode())]
        await send({"type": "http.response.start", "status": FORBIDDEN, "headers": headers})
        await send({"type": "http.response.body", "body": REFUSED})

    def _is_own(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        hosts, origins = ([value.decode("latin-1").lower() for name, value in headers if name.lower() == header]
                          for header in (b"host", b"origin"))  # fmt: skip
        # With two of a kind, a proxy and the server might read different ones.
        if len(hosts) != 1 or len(origins) > 1:
            return False
        try:
            own_origin = all(urlsplit(origin).netloc == hosts[0] for origin in origins)
            return own_origin and self._is_known(_host_name(hosts[0]))
        except ValueError:
            return False

    def _is_known(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        # A browser looks up no name for an address, so that no foreign name can lead here.
        return True


def host_names(hosts: Iterable[str]) -> set[str]:
    """Names for `SameSite`, without ports.

    Raises:
        IdeatorError: one cannot be a name in `Host`.
    """
    names = set()
    for host in hosts:
        try:
            names.add(_host_name(host))
        except ValueError:
            raise IdeatorError(
                f"--allowed-host is {host!r}, which is no name of a machine. Write a name, such as gpu1.example.org, "
                "or an address in closed brackets, such as [::1]."
            ) from None
    return names - {""}


def _host_name(host: str) -> str:
    """The name in `name`, `name:port` or `[address]:port`, in lower case.

    Raises:
        ValueError: a bracket is not closed.
    """
    return urlsplit(f"//{host}").hostname or ""
