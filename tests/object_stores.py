"""Object stores on loopback, each in a process of its own.  A store whose program is absent skips its tests.

    moto         one session-wide server for the default tests; conditional writes are right
    seaweedfs    a server whose objects may be in a given folder, and survive it
    localbucket  the store that is only just good enough: no bulk delete, `If-Match` ignored
    azurite      Azure, by npm
    gcs_stub     Google Cloud Storage, our own stub: there is no emulator of the API that the library speaks

A test asks for the fixture `s3_url`: a new URL `s3://lab/<name>`, with the variables of the server in the environment.
"""

import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import pytest

from ideator_rl.storage.bucket_proof import PROOF

START_SECONDS = 60.0
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # public, azurite's
)


@dataclass
class Store:
    """A server that runs."""

    endpoint: str
    variables: dict[str, str]
    """What a process needs in its environment to reach it."""
    root: str = "s3://lab"

    raw: str = ""
    """Where objects can be written without a signature; empty for nowhere."""

    def new_url(self, proved: bool = True) -> str:
        """
        Args:
            proved: mark the bucket as one that has passed its proof, where that is possible: it takes a while.
        """
        name = uuid.uuid4().hex[:12]
        if proved and self.raw:
            _request("PUT", f"{self.raw}/{name}/{PROOF}", data=b"{}")
        return f"{self.root}/{name}"


def s3_variables(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "admin",
        "AWS_SECRET_ACCESS_KEY": "secretkey1",
        "AWS_REGION": "us-east-1",
    }


@contextmanager
def moto() -> Iterator[Store]:
    with _server("moto_server", lambda port, folder: ["-p", str(port)]) as (endpoint, _):
        _request("PUT", f"{endpoint}/lab")
        yield Store(endpoint, s3_variables(endpoint), raw=f"{endpoint}/lab")


@contextmanager
def localbucket() -> Iterator[Store]:
    with _server("localbucket", lambda port, folder: ["--port", str(port), str(folder)]) as (endpoint, _):
        _request("PUT", f"{endpoint}/lab")
        yield Store(endpoint, s3_variables(endpoint), raw=f"{endpoint}/lab")


@contextmanager
def seaweedfs(folder: Path | None = None) -> Iterator[Store]:
    """
    Args:
        folder: where the objects are; a server that is started there again has them.
    """
    ports = _seaweedfs_ports(folder)
    flags = [f"-{name}={port}" for name, port in ports.items()]

    def words(port: int, new: Path) -> list[str]:
        return ["mini", f"-dir={folder or new}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-bucket=lab",
                "-admin.ui=false", "-webdav=false", "-master.telemetry=false", "-s3.port.iceberg=0",
                "-s3.port.lance=0", *flags]  # fmt: skip

    with _server("weed", words, port=ports["s3.port"]) as (endpoint, _):
        # The port answers before the bucket exists.
        raw = f"http://127.0.0.1:{ports['filer.port']}/buckets/lab"
        _until(lambda: _answers(f"{raw}/"))
        yield Store(endpoint, s3_variables(endpoint), raw=raw)


def _seaweedfs_ports(folder: Path | None) -> dict[str, int]:
    """Ports of its servers; those of a folder stay the same, so that a server that starts again has its endpoint."""
    note = folder / "ports.json" if folder else None
    if note is not None and note.exists():
        return json.loads(note.read_text())
    names = [f"{server}.port{kind}" for server in ("master", "filer", "volume", "s3") for kind in ("", ".grpc")]
    ports = {name: free_port() for name in names}
    # A part of it expects this port at that distance.
    while (admin := free_port()) > 55_000 or not _is_free(admin + 10_000):
        pass
    ports |= {"admin.port": admin, "admin.port.grpc": admin + 10_000}
    if note is not None:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(ports))
    return ports


@contextmanager
def azurite() -> Iterator[Store]:
    words = lambda port, folder: ["--blobPort", str(port), "--location", str(folder), "--skipApiVersionCheck", "--silent"]  # fmt: skip # noqa: E731
    with _server("azurite-blob", words) as (endpoint, _):
        _create_container(endpoint)
        yield Store(
            endpoint,
            {
                "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
                "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY,
                "AZURE_STORAGE_ENDPOINT": f"{endpoint}/devstoreaccount1",
            },
            "az://lab",
        )


@contextmanager
def gcs_stub() -> Iterator[Store]:
    program = str(Path(__file__).with_name("gcs_stub.py"))
    with _server(sys.executable, lambda port, folder: [program, str(port)]) as (endpoint, _):
        account = {
            "gcs_base_url": endpoint,
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
            "private_key_id": "",
        }
        variables = {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account), "GOOGLE_BASE_URL": endpoint}
        yield Store(endpoint, variables, "gs://lab", raw=f"{endpoint}/lab")


def _create_container(endpoint: str) -> None:
    """One request, signed as Azure wants it."""
    date = formatdate(usegmt=True)
    text = f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-08-06\n/devstoreaccount1/devstoreaccount1/lab\nrestype:container"
    key = base64.b64decode(AZURE_KEY)
    signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
    _request(
        "PUT",
        f"{endpoint}/devstoreaccount1/lab?restype=container",
        headers={
            "x-ms-date": date,
            "x-ms-version": "2021-08-06",
            "Authorization": f"SharedKey devstoreaccount1:{signature}",
        },
    )


@contextmanager
def _server(program: str, words, port: int | None = None) -> Iterator[tuple[str, subprocess.Popen]]:
    path = shutil.which(program, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if path is None:
        # The dev extra has moto: its tests must run in CI.
        (pytest.fail if program == "moto_server" and "CI" in os.environ else pytest.skip)(f"{program} is not installed")
    port = port or free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="store-", ignore_cleanup_errors=True)))
        keys = {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": "secretkey1"}
        process = subprocess.Popen(
            [path, *words(port, folder)],
            cwd=folder,
            env=os.environ | keys,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        stack.callback(_end, process)
        _until(lambda: not _is_free(port), process)
        yield f"http://127.0.0.1:{port}", process


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until(condition, process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert process is None or process.poll() is None, f"the store ended with status {process.returncode}"
        assert time.monotonic() < deadline, "the store did not start"
        time.sleep(0.05)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _answers(url: str) -> bool:
    try:
        _request("GET", url)
    except OSError:
        return False
    return True


def _request(verb: str, url: str, headers: dict[str, str] | None = None, data: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, data, headers or {}, method=verb)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


@pytest.fixture(scope="session")
def start_moto() -> Iterator[Callable[[], Store]]:
    """The server of this session.  A sealed run in a test's own process ends all its children, and with them the server."""
    stores: list[Store] = []
    with ExitStack() as stack:

        def running_store() -> Store:
            if not stores or _is_free(int(stores[-1].endpoint.rpartition(":")[2])):
                stores.append(stack.enter_context(moto()))
            return stores[-1]

        yield running_store


@pytest.fixture
def moto_store(start_moto) -> Store:
    return start_moto()


@pytest.fixture
def s3_url(moto_store, monkeypatch) -> str:
    """A new bucket at the S3 server of this session, marked as proved."""
    for name, value in moto_store.variables.items():
        monkeypatch.setenv(name, value)
    return moto_store.new_url()
