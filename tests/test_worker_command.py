"""The command `worker`: what it refuses, what it runs, and how it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from argparse import ArgumentTypeError
from dataclasses import replace

import pytest
from conftest import experiment_runs_below, replace_line, run, sentence, until
from scripted import idea

from ideator_rl.cli.options import end_time
from ideator_rl.executor import record_store
from ideator_rl.executor.backends.local import LocalBackend
from ideator_rl.executor.executor import Executor
from ideator_rl.executor.node import Terms
from ideator_rl.executor.pull_worker import PullWorker
from ideator_rl.executor.record_store import PREEMPTED
from ideator_rl.sandbox import process_tree


@pytest.mark.parametrize("text", ["yesterday", "2020-01-01T00:00", "-5", "+x", "nan", "inf"])
def test_an_end_that_is_no_time_to_come_is_refused(text):
    with pytest.raises(ArgumentTypeError, match="expected a time to come"):
        end_time(text)


def test_an_end_is_a_date_unix_seconds_or_seconds_from_now():
    now = time.time()
    assert end_time("+60") == pytest.approx(now + 60, abs=1) and end_time(str(int(now + 90))) == int(now + 90)
    assert end_time("2100-01-01T00:00:00+00:00") == 4102444800


def test_more_gpus_than_there_are_are_refused(call, tmp_path):
    code, _, err = call("worker", "--bucket", tmp_path / "bucket", "--gpus", "99")
    assert "--gpus is 99, and this process may use" in sentence(code, err)


def test_a_bucket_of_one_process_is_refused(call):
    code, _, err = call("worker", "--bucket", "memory://pull", "--slots", "1")
    assert "exists in one process" in sentence(code, err)


def test_a_node_of_other_hardware_refuses_to_start(call, tmp_path):
    code, _, err = call("worker", "--bucket", tmp_path / "bucket", "--slots", "1", "--hardware", "h100")
    assert "for the hardware 'h100', and this worker has" in sentence(code, err)


def test_a_pull_worker_runs_what_a_proposer_puts_into_the_bucket(toy_config, tmp_path):
    proposer = Executor(replace(toy_config, backend="bucket"))
    backend = LocalBackend(proposer.bucket.url, slots=2)
    worker = PullWorker(proposer.bucket, backend, Terms(cpus=2, idle=2.0), lambda line: None)
    thread = threading.Thread(target=worker.serve)
    thread.start()
    records = [run(proposer.execute(idea(f"Set x to {number}.0."))) for number in (1, 2)]
    thread.join()
    assert [record.status for record in records] == ["succeeded"] * 2
    for record in records:
        (attempt,) = record_store.attempts(proposer.bucket, record.id)
        assert attempt.claim.pid == os.getpid() and attempt.end is None
    assert proposer.bucket.list("queue") == proposer.bucket.list("beats") == {}


def test_sigterm_ends_the_experiments_of_a_node_as_preempted_and_leaves_nothing_running(toy_config, tmp_path):
    proposer = Executor(replace(toy_config, preset="slow", backend="bucket"))
    # Put there by hand: the proposer must not wait.
    codebase = proposer._codebases.of_patch(replace_line("time.sleep(pause)", "time.sleep(30)"), "", "diff", False)
    spec = replace(proposer._stage.spec(codebase, time.time(), 0), id="0" * 16)
    record_store.save_tree(proposer.bucket, codebase.tree_hash, codebase.tree)
    spec.save(proposer.bucket)
    record_store.enqueue(proposer.bucket, record_store.queue_entry(spec, proposer.preset))
    command = [sys.executable, "-m", "ideator_rl.cli", "worker", "--bucket", proposer.bucket.url, "--slots", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.endswith("started\n"):
            break
    run(until(lambda: experiment_runs_below(process.pid)))
    below = process_tree.descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    assert "start again on another node" in process.stderr.read()
    (attempt,) = record_store.attempts(proposer.bucket, spec.id)
    assert attempt.end.kind == PREEMPTED
    assert [pid for pid in below if process_tree.start_time(pid)] == []
    assert spec.id in proposer.bucket.list("queue")
