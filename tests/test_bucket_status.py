"""`status` of a bucket: what waits and runs, wherever it runs, and what its services report and cost."""

import json
import os
import subprocess
import time

import pytest
from test_index import Counted, record

from ideator_rl.cli.bucket_status import BucketStatus
from ideator_rl.environments.environment import Resources
from ideator_rl.executor import services
from ideator_rl.executor.record_store import QueueEntry, claim_attempt, enqueue, save_record
from ideator_rl.executor.services import SERVICES, ServiceReporter, read_services, request_usd
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import open_bucket


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bucket(tmp_path):
    return open_bucket(f"file://{tmp_path}/bucket")


def wait_for(bucket, *ids):
    for id in ids:
        enqueue(bucket, QueueEntry(id, Resources(), 5))


def test_status_shows_what_waits_runs_and_has_ended(bucket, monkeypatch):
    wait_for(bucket, "waits", "here", "elsewhere", "dead")
    sleeper = subprocess.Popen(["sleep", "60"])
    claim_attempt(bucket, "here", pid=sleeper.pid)
    gone = subprocess.Popen(["sleep", "60"])
    claim_attempt(bucket, "dead", pid=gone.pid)
    gone.kill()
    gone.wait()
    with monkeypatch.context() as other:
        other.setattr(process_tree, "host_identity", lambda: "another boot")
        other.setattr(process_tree, "start_time", lambda pid: "1")
        claim_attempt(bucket, "elsewhere")
    save_record(bucket, record(1))
    try:
        status = BucketStatus(bucket)
        assert status.refresh()
        facts = status.facts()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert facts["statuses"] == {"succeeded": 1, "running": 2, "waiting": 2} and facts["outstanding"] == 4
    assert {row["id"] for row in facts["running"]} == {"here", "elsewhere"}
    assert all(row["attempt"] == 0 and 0 <= row["beat"] < 60 for row in facts["running"])
    assert facts["oldest_beat"] == facts["running"][0]["beat"]
    assert "running  here  on " in status.text() and len(status.text(rows=4).split("\n")) < len(status.text().split())
    # The worker that was of this machine has ended by now.
    assert status.refresh() and [row["id"] for row in status.facts()["running"]] == ["elsewhere"]


def test_a_second_look_reads_no_result_and_no_claim_again(bucket):
    for number in range(20):
        save_record(bucket, record(number))
    wait_for(bucket, "runs")
    claim_attempt(bucket, "runs")
    counted = Counted(bucket)
    status = BucketStatus(counted)
    status.refresh()
    assert sum("result" in key for key in counted.read) == 21  # that of the one that runs is not there
    counted.read.clear()
    counted.listed.clear()
    assert status.refresh() and [key for key in counted.read if "runs" not in key] == []
    assert not any("claim" in key for key in counted.read) and len(counted.listed) <= 6


def test_services_report_what_their_engines_have_and_what_the_store_costs(bucket, monkeypatch):
    class Remote(Counted):
        requests = {"put": 2_000_000, "get": 1_000_000}

    monkeypatch.setattr(services, "CHANGE_SECONDS", 0.02)
    bucket.put(f"{SERVICES}/broken", b"{")
    bucket.put(f"{SERVICES}/old-1", json.dumps({"name": "old-1", "kind": "worker", "time": 1.0}).encode())
    engine = {"backend": "slurm", "queued": 3, "running": 1, "breaker": ""}
    with ServiceReporter(Remote(bucket), "scheduler", lambda: dict(engine)):
        deadline = time.monotonic() + 30
        while [report.queued for report in read_services(bucket)] != [3]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        engine["breaker"] = "5 jobs ended before they claimed anything"
        while not read_services(bucket)[0].breaker:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        status = BucketStatus(bucket)
        status.refresh()
        facts, text = status.facts(), status.text()
    assert facts["queued_at_engines"] == 3 and facts["breakers"] == [engine["breaker"]]
    assert facts["request_usd"] == pytest.approx(10.4) and "10.40 USD" in text
    assert f"-{os.getpid()} (slurm): 3 queued, 1 running" in text and "submits nothing: 5 jobs" in text
    assert read_services(bucket) == []


def test_a_report_that_fails_does_not_end_the_service(bucket, caplog):
    def facts():
        raise RuntimeError("the engine is away")

    with ServiceReporter(bucket, "worker", facts):
        time.sleep(0.1)
    assert "the engine is away" in caplog.text and request_usd({}) == 0


def test_status_adds_the_gpu_hours_of_results(bucket):
    with_gpu = record(1)
    with_gpu.seconds = {"run": 1800.0, "gpu": 14_400.0}
    save_record(bucket, with_gpu)
    save_record(bucket, record(2))
    status = BucketStatus(bucket)
    assert not status.refresh() and status.facts()["gpu_hours"] == 4.0 and "4 GPU-hours" in status.text()


def test_status_and_the_uploader_read_a_bucket_in_an_object_store(call, s3_url, tmp_path):
    pytest.importorskip("tensorboard")
    remote = open_bucket(s3_url)
    for number in range(3):
        save_record(remote, record(number))
    wait_for(remote, "runs", "waits")
    claim_attempt(remote, "runs")
    facts = json.loads(call("status", s3_url, "--json")[1])
    assert facts["statuses"] == {"succeeded": 3, "running": 1, "waiting": 1} and facts["outstanding"] == 2
    code, out, _ = call("track", s3_url, "--to", "tensorboard", "--dir", tmp_path)
    assert code == 0 and out.startswith("3 experiments sent")
