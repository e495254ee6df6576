"""How an attempt ends early, and how its record outlasts an outage of the bucket; with beats of 0.1 s, a lease of 1 s."""

import asyncio
import errno
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TOY, replace_line, run

from ideator_rl.environments.environment import load_environment
from ideator_rl.executor import record_store, spool
from ideator_rl.executor.attempt_guard import end_by_signal
from ideator_rl.executor.backends.watched import want, wanted
from ideator_rl.executor.executor import Executor, ExecutorConfig
from ideator_rl.executor.start_worker import ZygoteClient, worker_variables
from ideator_rl.executor.workdirs import PREFIX
from ideator_rl.experiment import Experiment
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.sandbox import NONE
from ideator_rl.storage.bucket import BucketError, open_bucket

pytestmark = pytest.mark.skipif(best_sandbox().level == NONE, reason=f"no sandbox works here: {best_sandbox().reason}")


@pytest.fixture(scope="module", autouse=True)
def scratch(tmp_path_factory):
    """What workers of other tests leave is not looked at."""
    tmp_path_factory.getbasetemp()  # pytest's own folder of this session must not be made inside
    before = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="ideator-ends-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        yield
        os.environ["TMPDIR"] = tempfile.tempdir = before


@pytest.fixture(scope="module")
def zygote(scratch):
    client = ZygoteClient(worker_variables({"IDEATOR_BEAT_SECONDS": "0.1", "IDEATOR_LEASE_SECONDS": "1"}))
    yield client
    client.close()


class Lab:
    """One experiment in a bucket of its own, and its workers."""

    def __init__(self, zygote, folder):
        self.zygote, self.folder = zygote, folder / "bucket"
        self.bucket = open_bucket(f"file://{self.folder}")
        self.id, self.workers = "e" * 32, []

    def submit(self, code):
        maker = Executor(ExecutorConfig(str(TOY), "cpu", self.bucket.url, backend="bucket"))
        codebase = maker._codebases.of_patch(replace_line("time.sleep(pause)", code), "", "diff", trusted=False)
        record_store.save_tree(self.bucket, codebase.tree_hash, codebase.tree)
        replace(maker._stage.spec(codebase, time.time(), 0), id=self.id).save(self.bucket)

    def start(self, slots=(), **more):
        config = {"bucket": self.bucket.url, "id": self.id, "isolation": "auto"} | more
        worker = self.zygote.fork_worker(config, {}, list(slots))
        self.workers.append(worker)
        return worker

    def start_running(self, code="time.sleep(30)", **more):
        """A worker whose experiment runs, and all processes below it."""
        self.submit(code)
        worker = self.start(**more)
        wait_until(lambda: any("fork_server.py" in command(pid) for pid in process_tree.descendants(worker.pid)))
        return worker, process_tree.descendants(worker.pid)

    @property
    def last(self):
        return record_store.attempts(self.bucket, self.id)[-1]

    def away(self):
        os.rename(self.folder, f"{self.folder}-away")

    def back(self):
        os.rename(f"{self.folder}-away", self.folder)

    def close(self):
        for worker in self.workers:
            if worker.running():
                process_tree.kill_tree(worker.pid)
            worker.close()


@pytest.fixture
def lab(zygote, tmp_path):
    lab = Lab(zygote, tmp_path)
    yield lab
    lab.close()
    assert spool.waiting_ids() == set()


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def wait_until(condition, seconds=15.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.01)


def wait_for_end(worker, pids=()):
    """Seconds until the worker and these processes are gone."""
    began = time.monotonic()
    wait_until(lambda: not worker.running() and not any(map(process_tree.start_time, pids)))
    return time.monotonic() - began


def workdirs():
    return list(Path(tempfile.gettempdir()).glob(PREFIX + "*"))


def test_sigterm_ends_the_attempt_as_preempted_and_leaves_nothing(lab):
    worker, pids = lab.start_running()
    os.kill(worker.pid, signal.SIGTERM)
    wait_for_end(worker, pids)
    assert lab.last.end.kind == record_store.PREEMPTED and "SIGTERM" in lab.last.end.reason
    assert lab.bucket.list("beats") == {} and not workdirs()
    claim = record_store.claim_attempt(lab.bucket, lab.id)
    assert claim is not None and claim.number == 1, "the next attempt needs no lease"


def test_a_worker_ends_with_the_process_that_claimed_for_it(lab):
    process = subprocess.Popen(["sleep", "30"])
    lab.submit("time.sleep(30)")
    claim = record_store.claim_attempt(lab.bucket, lab.id, pid=process.pid)
    owner = {"pid": process.pid, "start": claim.start}
    worker = lab.start(claim=vars(claim), owner=owner)
    wait_until(lambda: any("fork_server.py" in command(pid) for pid in process_tree.descendants(worker.pid)))
    pids = process_tree.descendants(worker.pid)
    process.kill()
    process.wait()
    wait_for_end(worker, pids)
    assert lab.last.claim == claim and lab.last.end.kind == record_store.PREEMPTED
    late = lab.start(claim=vars(claim), owner=owner)
    wait_for_end(late)  # its owner had gone before it started


def test_a_request_to_cancel_is_seen_after_a_beat(lab):
    worker, pids = lab.start_running()
    record_store.request_cancel(lab.bucket, [lab.id])
    wait_for_end(worker, pids)
    assert lab.last.end.kind == record_store.CANCELLED


def test_beats_that_fail_end_nothing(lab):
    worker, _ = lab.start_running("time.sleep(0.8)")
    lab.away()
    time.sleep(0.5)
    lab.back()
    wait_for_end(worker)
    record = record_store.load_record(lab.bucket, lab.id)
    assert (record.status, record.attempt) == ("succeeded", 0) and lab.last.end is None


def test_a_worker_that_was_taken_for_dead_during_a_long_stop_does_not_go_on(lab):
    worker, pids = lab.start_running()
    os.kill(worker.pid, signal.SIGSTOP)
    record_store.end_attempt(lab.bucket, lab.id, 0, record_store.DEAD, "no beat for a lease")
    time.sleep(1.2)
    os.kill(worker.pid, signal.SIGCONT)
    wait_for_end(worker, pids)
    assert lab.last.end.kind == record_store.DEAD and record_store.load_record(lab.bucket, lab.id) is None


def test_a_record_outlasts_an_outage_and_its_slots_are_free_meanwhile(lab, tmp_path):
    slot = os.open(tmp_path / "slot", os.O_RDWR | os.O_CREAT)
    worker, _ = lab.start_running("time.sleep(1.5)", slots=[slot])
    lab.away()
    wait_until(lambda: spool.waiting_ids() == {lab.id})
    wait_until(lambda: str(tmp_path / "slot") not in open_files(worker.pid))
    assert worker.running() and not workdirs()
    assert spool.publish_left(lab_bucket_elsewhere(tmp_path)) == 0, "its worker takes care of it"
    lab.back()
    wait_for_end(worker)
    assert record_store.load_record(lab.bucket, lab.id).attempt == 0
    os.close(slot)


def lab_bucket_elsewhere(folder):
    return open_bucket(f"file://{folder}/another")


def open_files(pid):
    return [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_record_of_a_worker_that_ended_during_an_outage_is_published_by_the_next(lab, number):
    worker, _ = lab.start_running("print('x' * 20_000); time.sleep(1.5)")
    lab.away()
    wait_until(lambda: spool.waiting_ids() == {lab.id})
    os.kill(worker.pid, number)
    wait_for_end(worker)
    lab.back()
    wait_for_end(lab.start())
    record = record_store.load_record(lab.bucket, lab.id)
    assert (record.status, record.attempt) == ("succeeded", 0)
    assert len(record_store.attempts(lab.bucket, lab.id)) == 1, "nothing was run again"
    assert record_store.load_log(lab.bucket, record).startswith("x" * 20_000)


def test_a_spool_that_others_can_write_to_is_neither_read_nor_written(lab, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    record = {"id": lab.id, "status": "failed", "idea": "", "environment": "toy", "preset": "cpu"}
    folder = spool._folder()
    folder.mkdir()
    (folder / f"{lab.id}-1.json").write_text(json.dumps({"bucket": lab.bucket.url, "record": record}))
    folder.chmod(0o777)
    assert spool.publish_left(lab.bucket) == 0
    folder.chmod(0o700)
    assert spool.publish_left(lab.bucket) == 1 and record_store.load_record(lab.bucket, lab.id).status == "failed"


def test_an_environment_that_is_missing_on_the_node_is_named_as_the_reason(lab):
    lab.submit("pass")
    key = f"experiments/{lab.id}/spec.json"
    spec = json.loads(lab.bucket.get(key)) | {"environment": "/nowhere/toy"}
    lab.bucket.put(key, json.dumps(spec).encode())
    wait_for_end(lab.start())
    end = lab.last.end
    assert end.kind == record_store.FAILED and f"on {socket.gethostname()} cannot run it" in end.reason
    assert "/nowhere/toy" in end.reason


def test_a_record_is_published_although_the_disk_has_no_room_for_it_meanwhile(lab, monkeypatch, caplog):
    record = Experiment(lab.id, "failed", "", "toy", "cpu", error={"kind": "failed", "message": ""})
    freed = []

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    def back():
        freed.append(True)
        monkeypatch.undo()
        lab.back()

    monkeypatch.setattr(os, "fsync", full)
    lab.away()
    spool.publish(lab.bucket, record, 60.0, back)
    assert freed == [True] and record_store.load_record(lab.bucket, lab.id).status == "failed"
    assert "No space left" in caplog.text


def test_a_claim_that_is_stored_counts_although_the_store_goes_away_at_once(lab, monkeypatch):
    def away(*words):
        raise BucketError("away")

    monkeypatch.setattr(lab.bucket, "put", away)
    claim = record_store.claim_attempt(lab.bucket, lab.id)
    assert claim == lab.last.claim and lab.last.end is None


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(os.getuid() != 0, reason="only root has PID namespaces here")
def test_the_next_attempt_after_a_kill_on_another_host_waits_for_the_lease(lab):
    lab.submit("time.sleep(1.5)")
    pace = {"IDEATOR_BEAT_SECONDS": "0.4", "IDEATOR_LEASE_SECONDS": "2"}
    config = json.dumps({"bucket": lab.bucket.url, "id": lab.id, "isolation": "auto"})
    elsewhere = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-P", "-m"]
    worker = subprocess.Popen([*elsewhere, "ideator_rl.executor.worker", config], env=os.environ | pace)
    wait_until(lambda: record_store.attempts(lab.bucket, lab.id))
    spec = record_store.Spec.load(lab.bucket, lab.id)
    record_store.enqueue(lab.bucket, record_store.queue_entry(spec, load_environment(str(TOY)).preset("cpu")))
    program = str(Path(sys.executable).parent / "ideator-rl")
    command = [program, "scheduler", "--bucket", lab.bucket.url, "--slots", "1", "--once"]
    scheduler = subprocess.Popen(command, env=os.environ | pace)
    time.sleep(1.0)
    worker.kill()
    killed = time.monotonic()
    wait_until(lambda: len(record_store.attempts(lab.bucket, lab.id)) == 2)
    took = time.monotonic() - killed
    worker.wait()
    assert scheduler.wait(60) == 0
    print(f"{took:.1f} s after the kill, with a lease of 2 s")
    assert took < 10 and record_store.load_record(lab.bucket, lab.id).attempt == 1


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_twenty_preemptions_lose_no_experiment(tmp_path):
    config = ExecutorConfig(str(TOY), "cpu", f"file://{tmp_path}/bucket", slots=2, run_dir=str(tmp_path))
    executor, bucket = Executor(config), open_bucket(config.bucket)
    until_end, until_gone, until_next, began = [], [], [], 0.0

    async def preempt_all():
        nonlocal began
        task = asyncio.create_task(executor.execute_patch(replace_line("time.sleep(pause)", "time.sleep(1.5)")))
        for number in range(20):
            while not (ids := bucket.list("beats")) or (attempt := running(next(iter(ids)), number)) is None:
                await asyncio.sleep(0.01)
            if until_gone:
                until_next.append(time.monotonic() - began)
            pids = process_tree.descendants(attempt.claim.pid)
            began = time.monotonic()
            os.kill(attempt.claim.pid, signal.SIGTERM)
            while record_store.attempts(bucket, attempt.claim.id)[number].end is None:
                await asyncio.sleep(0.005)
            until_end.append(time.monotonic() - began)
            while any(map(process_tree.start_time, pids)):
                await asyncio.sleep(0.005)
            until_gone.append(time.monotonic() - began)
        return await task

    def running(id, number):
        attempt = record_store.running_attempt(bucket, id)
        return attempt if attempt is not None and attempt.number == number else None

    record = run(preempt_all())
    executor.close()
    for name, seconds in (("end.json", until_end), ("all gone", until_gone), ("next claim", until_next)):
        print(f"{name}: median {statistics.median(seconds):.3f} s, most {max(seconds):.3f} s")
    assert (record.status, record.attempt) == ("succeeded", 20)
    assert max(until_end) < 2 and max(until_gone) < 5


@pytest.mark.parametrize(
    ("seconds", "minutes", "kind"),
    [(0.1, 2, "preempted"), (59, 2, "preempted"), (119, 2, "failed"), (3580, 60, "failed"), (9999, None, "preempted")],
)
def test_only_a_signal_at_the_time_limit_of_a_job_counts_against_its_experiment(seconds, minutes, kind):
    end, reason = end_by_signal(seconds, minutes)
    assert end == kind and (f"{minutes} minutes" in reason) == (kind == "failed")


def test_a_plugin_of_0_1_0_may_want_an_experiment_anew(lab):
    lab.submit("pass")
    want(lab.bucket, lab.id)
    assert wanted(lab.bucket, lab.id) and not wanted(lab.bucket, "f" * 32)
    claim = record_store.claim_attempt(lab.bucket, lab.id)
    record_store.end_attempt(lab.bucket, lab.id, claim.number, record_store.FAILED, "its disk was full")
    want(lab.bucket, lab.id)
    # Attempts of the round before do not count any more.
    assert record_store.read_queue(lab.bucket, [lab.id])[lab.id].from_attempt == 1
