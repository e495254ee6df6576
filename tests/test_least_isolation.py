"""An experiment's id promises a level of isolation: nodes that seal less leave it, and their records do not count."""

import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import run
from queued import queued_baseline
from test_pull_worker import entry

from ideator_rl.executor import record_store
from ideator_rl.executor.backends.backend import Backend, Job
from ideator_rl.executor.executor import Executor
from ideator_rl.executor.jobs import Jobs
from ideator_rl.executor.node import NodeFilter, Terms
from ideator_rl.sandbox import choose
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.sandbox import BWRAP, NAMESPACES, NONE, Sandbox

ON_DISK = "bwrap-disk"


@pytest.mark.parametrize(
    ("terms", "best", "refused"),
    [(NONE, BWRAP, {BWRAP, NAMESPACES, ON_DISK}), ("auto", NAMESPACES, {BWRAP, ON_DISK}), ("auto", BWRAP, set())],
)
def test_a_node_leaves_what_needs_more_isolation_and_prints_each_reason_once(monkeypatch, terms, best, refused):
    lines = []
    monkeypatch.setattr(choose, "best_sandbox", lambda: Sandbox(best, "no filter here"))
    node = NodeFilter(Terms(cpus=4, isolation=terms), lines.append)
    needed = ["", NONE, NAMESPACES, BWRAP, ON_DISK]
    for _ in range(2):
        assert {level for level in needed if not node.takes(entry("a", least_isolation=level))} == refused
    assert len(lines) == len(refused) and all("left to other nodes: they need the isolation" in line for line in lines)


def test_a_scheduler_without_isolation_leaves_what_needs_some_to_others(caplog):
    class Engine(Backend):
        def submit(self, jobs):
            return {}

    jobs = Jobs(Engine(), "memory://jobs", NONE)
    for _ in range(2):
        assert jobs.may_run(entry("a")) and jobs.may_run(entry("b", least_isolation=NONE))
        assert not jobs.may_run(entry("c", least_isolation=BWRAP))
    assert caplog.text.count("left to other schedulers") == 1
    assert Jobs(Engine(), "memory://jobs", "auto").may_run(entry("c", least_isolation=BWRAP))


@pytest.mark.skipif(best_sandbox().level == NONE, reason="needs a sandbox")
def test_a_worker_that_seals_less_refuses_and_a_less_sealed_record_earns_nothing(toy_config):
    executor = Executor(replace(toy_config, backend="bucket"))

    queued = run(queued_baseline(executor))
    id = queued.id
    least = queued.least_isolation
    assert least == best_sandbox().level
    job = Job(id, id, toy_config.bucket, NONE, queued.resources, queued.minutes, least_isolation=least)
    done = subprocess.run(job.argv(sys.executable), capture_output=True, text=True)
    assert done.returncode == 1 and f"they need the isolation {least}, and this node offers none" in done.stderr
    assert record_store.attempts(executor.bucket, id) == []
    # A worker of an earlier version does not compare.
    subprocess.run(replace(job, least_isolation="").argv(sys.executable), check=True)
    record = run(executor.baseline())
    assert record.status == "lost" and record.reward is None
    assert f"ran at the isolation none, and this run needs {least}" in record.error["message"]
