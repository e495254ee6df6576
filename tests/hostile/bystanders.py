"""What an attack must not read, reach or change: planted secrets, listening sockets, files of the machine.

The secrets are drawn anew for each session, so that no attack can contain one.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import ideator_rl

SHM_BYTES = 4096
HOME_FILES = (".ssh/id_rsa", ".aws/credentials", ".netrc", ".cache/huggingface/token", ".bash_history")
VARIABLES = ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY")


class Bystanders:
    """Planted in a folder; `close` removes all of it."""

    def __init__(self, root: Path):
        self.root = root
        self.home, self.cache, self.bucket = root / "home", root / "cache", root / "bucket"
        self.secrets = {
            kind: f"canary-{kind}-{secrets.token_hex(8)}"
            for kind in ("home", "bucket", "variable", "process", "memory", "ipc", "shm", "tmp", "neighbour")
        }
        for name in HOME_FILES:
            self._write(self.home / name, "home")
        self._write(self.bucket / "notes.txt", "bucket")
        self.loose = [self._write(Path(folder) / f"ideator-{root.name}", kind) for folder, kind in self._open_folders()]
        self.listeners = Listeners(root / "socket")
        self._segment = self._shared_memory()
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(3600)", self.secrets["process"]],
            env={"SECRET": self.secrets["process"]},
            cwd=self.home,
            start_new_session=True,
        )

    def close(self) -> None:
        self.listeners.close()
        self._process.kill()
        self._process.wait()
        for path in self.loose:
            path.unlink(missing_ok=True)
        ctypes.CDLL(None).shmctl(self._segment, 0, None)

    @property
    def variables(self) -> dict[str, str]:
        """The variables of the process that starts an experiment."""
        planted = dict.fromkeys(VARIABLES, self.secrets["variable"])
        return planted | {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.cache)}

    @property
    def facts(self) -> dict[str, str]:
        """What attacks may use: word → value."""
        private = next(self.cache.glob("ideator_rl/data/hostile-cpu-*/private"), None)
        return {
            "ROOT": str(self.root),
            "HOME": str(self.home),
            "BUCKET": str(self.bucket),
            "PRIVATE": str(private),
            "PID": str(self._process.pid),
            "SEGMENT": str(self._segment),
            "PORT": str(self.listeners.port),
            "SOCKET": str(self.root / "socket"),
            "ABSTRACT": self.listeners.abstract,
            "LOOSE": self.loose[0].name,
        }

    @property
    def hidden(self) -> list[str]:
        """Secrets of the hidden data, its word and its line, and the text of a hidden file."""
        hidden = ["what the authors' own model reached", "LOSS = 1.9"]
        for folder in self.cache.glob("ideator_rl/data/*/private"):
            if (folder / "canary.txt").is_file():
                hidden += [(folder / name).read_text().strip() for name in ("canary.txt", "line.txt")]
        return hidden

    def disturbed(self) -> list[str]:
        """Sockets that were reached, and the process if it has ended."""
        faults = [f"an experiment reached {name}" for name in self.listeners.reached]
        return faults + ([] if self._process.poll() is None else ["the planted process has ended"])

    def fingerprint(self) -> dict[str, str]:
        """Digests of files that no experiment may change."""
        watched = [self.home, *self.loose, self.bucket / "notes.txt", *self.cache.glob("ideator_rl/data/*")]
        watched += [Path(__file__).parent, Path(ideator_rl.__file__).parent, Path(sys.executable)]
        watched += [Path(name) for name in ("/etc/passwd", "/etc/hosts", "/proc/sys/kernel/core_pattern")]
        watched += [Path(folder) / "numpy" / "__init__.py" for folder in sys.path]
        files = [file for path in watched for file in ([path] if path.is_file() else path.rglob("*"))]
        return {
            str(file): f"{file.stat().st_mode:o} {hashlib.sha256(file.read_bytes()).hexdigest()}"
            for file in files
            if file.is_file() and file.suffix != ".pyc"
        }

    def _write(self, path: Path, kind: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.secrets[kind] + "\n")
        path.chmod(0o644)  # only the sandbox keeps it from the experiment
        return path

    def _open_folders(self) -> list[tuple[str, str]]:
        return [(folder, kind) for folder, kind in (("/dev/shm", "shm"), ("/tmp", "tmp")) if os.path.isdir(folder)]

    def _shared_memory(self) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        segment = libc.shmget(0, SHM_BYTES, 0o1000 | 0o666)
        address = libc.shmat(segment, None, 0)
        ctypes.memmove(address, self.secrets["ipc"].encode(), len(self.secrets["ipc"]))
        libc.shmdt(ctypes.c_void_p(address))
        return int(segment)


class Listeners:
    """Sockets of the machine; `reached` lists those that got a connection or a datagram."""

    def __init__(self, path: Path):
        self.abstract = f"ideator-{secrets.token_hex(4)}"
        self.reached: list[str] = []
        self._open = {
            "the loopback network": socket.create_server(("127.0.0.1", 0)),
            "a datagram socket": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "a socket in the file system": socket.socket(socket.AF_UNIX),
            "an abstract socket": socket.socket(socket.AF_UNIX),
        }
        self.port = self._open["the loopback network"].getsockname()[1]
        self._open["a datagram socket"].bind(("127.0.0.1", self.port))
        self._open["a socket in the file system"].bind(str(path))
        path.chmod(0o777)
        self._open["an abstract socket"].bind("\0" + self.abstract)
        for name, listener in self._open.items():
            if "datagram" not in name:
                listener.listen()
        self._closing = False
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._closing:
            for ready in select.select(list(self._open.values()), [], [], 0.2)[0]:
                name = next(name for name, listener in self._open.items() if listener is ready)
                self.reached.append(name)
                if ready.type == socket.SOCK_DGRAM:
                    ready.recv(65_536)
                else:
                    ready.accept()[0].close()

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        for listener in self._open.values():
            listener.close()


def survivors(folder: Path) -> list[int]:
    """Processes that mount a file below a folder: those of a sandbox that was started there."""
    pids = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            pid = int(entry.name)
            if str(folder) in (entry / "mountinfo").read_text():
                pids.append(pid)
    return pids


def end(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
