"""The proxy of an agent's endpoints: faults of single connections, and long paths."""

import errno
import os
import socket
import threading

import pytest

from ideator_rl.implementers.endpoint_proxy import EndpointProxy


@pytest.fixture
def endpoint():
    """A server on loopback that greets each connection; its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.sendall(b"welcome")

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


def greeting(path, port):
    """What a connection through the proxy at a path receives."""
    folder = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
        client.sendall(f"CONNECT localhost:{port} HTTP/1.1\r\n\r\n".encode())
        answer = b""
        while more := client.recv(4096):
            answer += more
    return answer


def test_a_connection_that_cannot_be_accepted_is_not_the_last_one(tmp_path, endpoint, monkeypatch):
    faults = [errno.ECONNABORTED, errno.EMFILE]
    accept = socket.socket.accept

    def failing(server):
        if server.family == socket.AF_UNIX and faults:
            raise OSError(faults.pop(), "accept")
        return accept(server)

    monkeypatch.setattr(socket.socket, "accept", failing)
    proxy = EndpointProxy(tmp_path / "proxy", [("localhost", endpoint)], os.getuid())
    try:
        assert greeting(tmp_path / "proxy", endpoint).endswith(b"welcome") and not faults
    finally:
        proxy.close()


def test_a_socket_works_in_a_folder_with_a_long_path(tmp_path, endpoint):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    proxy = EndpointProxy(folder / "proxy", [("localhost", endpoint)], os.getuid())
    try:
        assert len(str(folder)) > 120 and greeting(folder / "proxy", endpoint).endswith(b"welcome")
        assert (folder / "proxy").stat().st_mode & 0o777 == 0o600
    finally:
        proxy.close()


def test_a_closed_proxy_leaves_no_thread(tmp_path):
    before = threading.active_count()
    proxy = EndpointProxy(tmp_path / "proxy", [], os.getuid())
    proxy.close()
    for thread in threading.enumerate():
        if thread.name == "endpoint-proxy":
            thread.join(30)
    assert threading.active_count() == before
