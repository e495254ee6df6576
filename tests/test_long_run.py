"""The run in miniature on a fleet that fails, shorter than `benchmarks/long_run.py` makes it by itself."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_a_fleet_that_fails_ends_by_itself_and_its_books_balance():
    command = [sys.executable, "benchmarks/long_run.py", "--steps", "60", "--kills", "5", "--patience", "300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "the books balance" in done.stdout and "killed 5 times" in done.stdout
