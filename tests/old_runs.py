"""Runs made by ideator_rl 0.1.0: their unpacking, the command line beside this Python, and rows of a journal."""

import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

FIXTURE = Path(__file__).parent / "run_0_1_0"
PLACEHOLDER = b"@RUNS@"
"""In texts of the archive, for the absolute path of the folder that it is unpacked to."""
REWRITTEN = (".json", ".jsonl", ".yaml", ".md")


def unpack(folder: Path, *names: str) -> Path:
    """Put the archive's environment and recipes, and the runs of these names (all, if none is named), in a folder."""
    with tarfile.open(FIXTURE / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for run in expected()["status"]:
        if names and run not in names:
            shutil.rmtree(folder / run)
    for path in folder.rglob("*"):
        if path.suffix in REWRITTEN and PLACEHOLDER in (data := path.read_bytes()):
            path.write_bytes(data.replace(PLACEHOLDER, str(folder).encode()))
    return folder


def expected() -> dict:
    """What ideator_rl 0.1.0 printed about these runs, and how they ended when it resumed them."""
    return json.loads((FIXTURE / "expected.json").read_text())


def command(folder: Path, *words: object) -> subprocess.CompletedProcess:
    """`ideator-rl …` in a folder, as installed beside this Python."""
    script = Path(sys.executable).with_name("ideator-rl")
    return subprocess.run([script, *map(str, words)], cwd=folder, capture_output=True, text=True, timeout=240)


def printed(folder: Path, *words: object) -> dict:
    """The JSON object that a command which succeeds prints."""
    done = command(folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rollouts(run: Path) -> list[list]:
    """Every proposal of a run's journal: step, position, completion, status, reward, metric, experiment."""
    what = "step, position, completion, status, reward, metric, experiment_id"
    with closing(sqlite3.connect(run / "buffer.sqlite")) as db:
        return [list(row) for row in db.execute(f"select {what} from rollouts order by step, position")]


def claims(run: Path) -> list[str]:
    """Every attempt at an experiment that the run's bucket holds."""
    return sorted(str(path.relative_to(run)) for path in (run / "bucket").rglob("claim.json"))
