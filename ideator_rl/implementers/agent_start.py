"""Runs inside the agent's sandbox: fetches the variables, opens the way to the endpoints, and becomes the agent.

The variables that may hold a key come through a pipe with a name, so that they are on no command line and no disk.
Standard library only: this file is mounted alone.

usage: agent_start.py FOLDER WORD …    FOLDER holds the pipes `report` and `variables`, and with endpoints the socket
                                       `proxy`
"""

import contextlib
import json
import os
import socket
import sys
import threading

LOOPBACK = "127.0.0.1"
CHUNK = 65_536
MAX_HEADER = 4096
STARTING, MISSING = b"s", b"m"
"""Reports: the agent is about to start; its program is missing, so it never ran."""
NOT_STARTED = 127
"""The exit status of a shell for a program that is missing."""


def main(folder: str, words: list[str]) -> None:
    # Opened first: the worker removes its name before it sends the variables, so that the agent can write no report.
    report = os.open(os.path.join(folder, "report"), os.O_WRONLY | os.O_CLOEXEC)
    with open(os.path.join(folder, "variables"), encoding="utf-8") as pipe:
        job = json.load(pipe)
    os.environ.update(job["variables"])
    os.makedirs(os.environ["HOME"], exist_ok=True)
    if job["endpoints"]:
        port = start_forwarder(os.path.join(folder, "proxy"), job["endpoints"], report)
        address = f"http://{LOOPBACK}:{port}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            os.environ[name] = os.environ[name.lower()] = address
        # What listens on a loopback port here leads to the endpoint on the machine's own.
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = f"localhost,{LOOPBACK}"
    os.write(report, STARTING)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        os.write(report, MISSING)
        print(f"{words[0]}: {error.strerror}. Give an absolute path, and its folder in visible_folders.", flush=True)
        os._exit(NOT_STARTED)


def start_forwarder(path: str, endpoints: list[list], report: int) -> int:
    """Fork the process that forwards connections to the proxy outside, without the report; returns the port for any
    endpoint."""
    proxy = listener(0)
    direct = [(listener(port), f"{host}:{port}") for host, port in endpoints if host in ("localhost", LOOPBACK)]
    if (child := os.fork()) == 0:
        os.close(report)
        # A child of the agent's could be waited for: it is the sandbox's, and ends with that.
        if os.fork() != 0:
            os._exit(0)
        # Its output would keep the pipe of the agent's output open.
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        for server, target in [(proxy, ""), *direct]:
            threading.Thread(target=serve, args=(server, path, target)).start()
        threading.Event().wait()
    os.waitpid(child, 0)
    return proxy.getsockname()[1]


def listener(port: int) -> socket.socket:
    return socket.create_server((LOOPBACK, port), backlog=64)


def serve(server: socket.socket, path: str, target: str) -> None:
    while True:
        client, _ = server.accept()
        threading.Thread(target=forward, args=(client, path, target), daemon=True).start()


def forward(client: socket.socket, path: str, target: str) -> None:
    """Join a connection with one to the proxy outside; `target` asks for a tunnel there."""
    with client, socket.socket(socket.AF_UNIX) as outside, contextlib.suppress(OSError):
        outside.connect(path)
        if target:
            outside.sendall(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
            answer = b""
            while not answer.endswith(b"\r\n\r\n") and len(answer) < MAX_HEADER:
                if not (byte := outside.recv(1)):
                    return
                answer += byte
            if answer.split(b" ", 2)[1:2] != [b"200"]:
                return
        back = threading.Thread(target=copy, args=(outside, client), daemon=True)
        back.start()
        copy(client, outside)
        back.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
