"""Kill -9 of workers, zygotes and the requesting process at random moments: no experiment is run twice or forgotten."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ideator_rl.reward_buffer import BufferConfig

STARTS = ["cold", "forked"] if "start" in {field.name for field in fields(BufferConfig)} else ["cold"]


def storm(folder, start, kills):
    """Its report."""
    temporary = folder / "tmp"
    temporary.mkdir(mode=0o755, parents=True)
    command = [sys.executable, str(Path(__file__).parent / "kill_storm.py"), str(folder), "--start", start]
    # A temporary folder of its own, and with it slots: another run on this machine is not waited for.
    environment = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run([*command, "--kills", str(kills)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    return json.loads(done.stdout)


def check(report, kills):
    assert sum(report["kills"].values()) == kills
    assert report["kills"]["worker"] and report["kills"]["client"]
    for fault in ("duplicates", "orphans", "wrong", "left"):
        assert report[fault] == [], f"seed {report['seed']}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("start", STARTS)
def test_fifteen_kills_repeat_no_experiment_lose_none_and_leave_nothing_running(tmp_path, start):
    check(storm(tmp_path / "storm", start, 15), 15)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("start", STARTS)
def test_a_hundred_and_fifty_kills_of_each_start_do_no_harm(tmp_path, start):
    report = storm(tmp_path / "storm", start, 150)
    check(report, 150)
    assert report["kills"]["zygote"] or start == "cold"
