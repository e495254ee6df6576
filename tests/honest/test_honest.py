"""Legitimate edits that look unusual, through the real command line: none is taken for cheating.  See README.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ideator_rl.environments.environment import load_environment
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.sandbox import NONE

HERE = Path(__file__).parent
PATCHES = sorted(HERE.glob("*/*.patch"))
CONFIRMED = ("counting_model",)
"""So good that they must be run again, and then believed."""
WORST = {"nanogpt": 4.0, "grpo_math": 0.2}
"""What an edit that works at all reaches: guessing bytes is 5.5 nats, the untrained policy's accuracy 0.24."""
START = os.environ.get("IDEATOR_START", "forked")
"""`forked` or `cold`: how Python starts for the experiments."""
pytestmark = pytest.mark.skipif(best_sandbox().level == NONE, reason=f"no sandbox works here: {best_sandbox().reason}")


@pytest.fixture(scope="session")
def bucket(tmp_path_factory):
    return tmp_path_factory.mktemp("honest")


@pytest.fixture(scope="session")
def table(request):
    rows = []

    class Table:
        def pytest_terminal_summary(self, terminalreporter):
            terminalreporter.section("honest edits")
            terminalreporter.write("| environment | edit | metric | audit gap |\n|---|---|---|---|\n" + "".join(rows))

    request.config.pluginmanager.register(Table())
    return rows


def execute(environment, bucket, *options):
    command = [
        sys.executable,
        "-m",
        "ideator_rl.cli",
        "execute",
        environment,
        "--json",
        "--slots",
        "1",
        "--start",
        START,
    ]
    process = subprocess.run([*command, "--bucket", str(bucket), *options], capture_output=True, text=True, timeout=280)
    return json.loads(process.stdout), process.stderr


def test_there_are_many_honest_edits():
    assert len(PATCHES) >= 20


@pytest.mark.slow  # CI runs two of them in its slow step
@pytest.mark.parametrize("patch", [pytest.param(path, id=path.stem) for path in PATCHES])
def test_an_honest_edit_succeeds(patch, bucket, table):
    environment = load_environment(patch.parent.name)
    record, errors = execute(environment.name, bucket, "--diff", str(patch))
    assert record["status"] == "succeeded", (record["error"], record["log"][-2000:], errors)
    value, gap = record["metric"]["value"], record["scoring"].get("audit_gap")
    table.append(f"| {environment.name} | {patch.stem} | {value:.3f} | {'–' if gap is None else f'{gap:.1e}'} |\n")
    assert environment.metric.better(value, WORST[environment.name]), "it ran, but learned nothing"
    assert ("first" in record["metric"]) == (patch.stem in CONFIRMED), "whether it was suspected and run again"
    assert gap is None or gap < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", WORST)
def test_the_baseline_succeeds_too(name, bucket, table):
    record, errors = execute(name, bucket, "--baseline")
    assert record["status"] == "succeeded", errors
    table.append(f"| {name} | the baseline | {record['metric']['value']:.3f} | |\n")
