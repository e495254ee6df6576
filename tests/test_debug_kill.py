"""Kill -9 a search while a mended experiment runs: it is neither lost, nor run twice, nor paid twice."""

import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import TOY, replace_line
from llm_server import Scripted, answer

from ideator_rl.executor import record_store
from ideator_rl.experiment import FAILED, SUCCEEDED
from ideator_rl.search.config import SearchConfig
from ideator_rl.search.search_summary import read_search_summary
from ideator_rl.storage.bucket import open_bucket
from ideator_rl.storage.run_reader import read_run

SECONDS = 6.0
"""Of a mended experiment: longer than it takes to see that it runs, and to kill the search."""


class Coder:
    """Answers each idea with a crash, and each crash with slow code; a step of `Scripted`."""

    def __init__(self):
        self.first, self.debug = 0, 0

    def __call__(self, body):
        request = "".join(message["content"] for message in body["messages"])
        if (change := re.search(r"^\+x = (\S+)", request, re.M)) is not None:
            self.debug += 1
            value, line = change[1], f"time.sleep({SECONDS})"
        else:
            self.first += 1
            value, line = f"{self.first}.25", 'raise ValueError("boom")'
        # After the settings, where the time module has been imported.
        edits = replace_line("x = 4.0", f"x = {value}") + replace_line("time.sleep(pause)", line)
        return {"body": answer(edits)}


def recipe_of(folder, server):
    coder = {"base_url": server.url, "models": "c", "api_key_env": None, "samples": 1, "retries": 0, "debug_rounds": 1}
    return SearchConfig(
        output_dir=str(folder),
        env=str(TOY),
        implementer="llm",
        coder=coder,
        strategy="best_of_n",
        epoch_size=2,
        batch=2,
        quorum=1.0,
        max_experiments=4,
        slots=2,
        near_duplicates=None,
        embedder="hashed",
        probe=False,
    )


def attempts(folder):
    """By id: the spec of an experiment, its attempts, and whether one runs."""
    bucket = open_bucket(f"file://{folder}/bucket")
    specs = {id: record_store.Spec.load(bucket, id) for id in bucket.names("experiments")}
    return {
        id: (spec, len(record_store.attempts(bucket, id)), record_store.running_attempt(bucket, id) is not None)
        for id, spec in specs.items()
        if spec is not None
    }


def mended_runs(folder):
    """How many mended experiments run."""
    return sum("time.sleep(6.0)" in spec.patch and runs for spec, _, runs in attempts(folder).values())


@pytest.mark.slow
def test_a_mended_experiment_in_flight_at_a_kill_is_run_and_paid_once(tmp_path):
    folder, coder = tmp_path / "run", Coder()
    with Scripted(coder) as server:
        (tmp_path / "recipe.yaml").write_text(recipe_of(folder, server).text())
        line = [sys.executable, "-m", "ideator_rl.cli", "search", str(tmp_path / "recipe.yaml")]
        with subprocess.Popen(line, cwd=TOY.parent.parent, stderr=subprocess.DEVNULL) as process:
            end = time.monotonic() + 240
            while not ((folder / "bucket").is_dir() and mended_runs(folder)):
                assert time.monotonic() < end and process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        in_flight = {id for id, (spec, _, runs) in attempts(folder).items() if runs and "time.sleep(6.0)" in spec.patch}
        assert in_flight, "it ended before the kill"
        resumed = subprocess.run([*line, "--resume"], cwd=TOY.parent.parent, capture_output=True, text=True)
        assert resumed.returncode == 0, resumed.stderr
    finished = read_run(folder)
    assert {row.status for row in finished.rollouts} == {SUCCEEDED} and len(finished.rollouts) == 2
    assert in_flight <= {row.experiment_id for row in finished.rollouts}
    crashed = [record for record in finished.experiments.values() if record.debugged]
    assert [record.status for record in crashed] == [FAILED, FAILED]
    # A kill may have cut off one call of the other idea, which is then asked again; no answer that was stored is.
    assert {count for _, count, _ in attempts(folder).values()} == {1} and 2 <= coder.debug <= 3 and coder.first == 2
    assert read_search_summary(folder).charged == 4
