"""A short run of `benchmarks/long_run.py`, on a simulated fleet that fails."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_a_failing_fleet_ends_by_itself_and_loses_no_experiment():
    command = [sys.executable, "benchmarks/long_run.py", "--steps", "60", "--kills", "5", "--patience", "300"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert "the books balance" in result.stdout and "killed 5 times" in result.stdout
