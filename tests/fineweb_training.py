"""Trains the baseline for shards in small, in one process or in several forked ones, and prints the losses.

usage: fineweb_training.py SCRIPT FOLDER RANKS,BATCH,MICRO ...
"""

import importlib.util
import os
import socket
import sys
import time
from pathlib import Path

import numpy as np

SMALL = {"vocab": 64, "context": 16, "layers": 2, "heads": 2, "width": 16, "steps": 6, "warmup": 2}
SMALL |= {"learning_rate": 3e-2, "compiled": False, "device": "cpu"}


def write_shards(folder: Path, tokens: list[np.ndarray]) -> None:
    """Shards of the real format in `folder/train`."""
    (folder / "train").mkdir(parents=True)
    for number, part in enumerate(tokens):
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, len(part)
        (folder / "train" / f"fineweb_train_{number:06d}.bin").write_bytes(header.tobytes() + part.tobytes())


def load_script(script: Path, name="fineweb_baseline", **settings):
    """The training script as a module with other settings."""
    spec = importlib.util.spec_from_file_location(name, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for key, value in settings.items():
        assert hasattr(module, key), key
        setattr(module, key, value)
    return module


def run_ranks(module, folder: Path, ranks: int, seconds=1000.0) -> str:
    """The output of rank 0, or of one process; each rank is forked from this process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"IDEATOR_DATA": str(folder), "IDEATOR_ARTIFACT": str(folder), "IDEATOR_SEED": "0"}
    os.environ |= {"IDEATOR_BUDGET_SECONDS": str(seconds), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in range(ranks):
        if (child := os.fork()) == 0:
            code = 1
            try:
                os.dup2(os.open(folder / f"rank{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 1)
                if ranks > 1:
                    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
                module.main()
                sys.stdout.flush()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert statuses == [0] * ranks, statuses
    return (folder / "rank0.log").read_text()


def main() -> None:
    script, folder = Path(sys.argv[1]), Path(sys.argv[2])
    module = load_script(script, **SMALL)
    module.torch.set_num_threads(1)
    for text in sys.argv[3:]:
        ranks, module.batch, module.micro = map(int, text.split(","))
        start = time.monotonic()
        output = run_ranks(module, folder, ranks)
        losses = [line.split()[-1] for line in output.splitlines() if line.startswith("step ")]
        print(text, *losses)
        print(f"{text}: {time.monotonic() - start:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
