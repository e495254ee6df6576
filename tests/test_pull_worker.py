"""The pull worker: what a node takes, how it claims, when it rests, and how it ends."""

import asyncio
import os
import threading
import time

from conftest import TOY, run

from ideator_rl.environments.environment import Resources
from ideator_rl.executor import attempt_policy, breaker, pull_worker, record_store, share
from ideator_rl.executor.backends.watched import WatchedBucket
from ideator_rl.executor.node import NodeFilter, Terms
from ideator_rl.executor.pull_worker import PullWorker, Running
from ideator_rl.executor.record_store import FAILED, PREEMPTED, QueueEntry
from ideator_rl.executor.scheduler import Scheduler
from ideator_rl.storage.bucket import open_bucket


def entry(id, **fields):
    values = {"resources": Resources(1, 0, 1), "minutes": 2, "environment": str(TOY), "preset": "cpu"} | fields
    return QueueEntry(id, **values)


class ScriptedSlots:
    """In the place of the local backend: a process is a moment, and then its outcome is in the bucket."""

    def __init__(self, bucket, outcome="record"):
        self.bucket, self.outcome = bucket, outcome
        self.started, self._running, self.before_start = [], {}, None
        self._ended, writer = os.pipe()
        os.close(writer)  # readable from now on, as for a process that has ended

    def submit(self, jobs):
        (job,) = jobs
        config = self.before_start(job)
        if config is None:
            return {}
        self.started.append(job.id)
        self._running[job.name] = config["claim"]
        return {job.name: None}

    def active(self, name):
        if (claim := self._running.pop(name, None)) is None:
            return False
        if self.outcome == "record":
            self.bucket.create(f"experiments/{name}/result.json", b"{}")
            record_store.leave_queue(self.bucket, name)
        elif self.outcome is not None:
            record_store.end_attempt(self.bucket, name, claim["number"], *self.outcome)
        return False

    def end_descriptors(self):
        return [self._ended] if self._running else []

    def end_all(self, seconds):
        self._running.clear()

    def close(self):
        pass


def scripted(name, terms=None, outcome="record"):
    bucket = open_bucket(f"memory://{name}-{time.monotonic()}")
    slots, lines = ScriptedSlots(bucket, outcome), []
    return PullWorker(bucket, slots, terms or Terms(cpus=2, idle=1.0), lines.append), slots, lines


def test_two_nodes_share_a_queue_and_start_each_experiment_once():
    worker, slots, _ = scripted("pull-two")
    others = ScriptedSlots(worker.bucket)
    other = PullWorker(worker.bucket, others, Terms(cpus=2, idle=1.0), lambda line: None)
    ids = [f"e{number}" for number in range(40)]
    for id in ids:
        record_store.enqueue(worker.bucket, entry(id))
    thread = threading.Thread(target=other.serve)
    thread.start()
    worker.serve()
    thread.join()
    assert sorted(slots.started + others.started) == sorted(ids)
    assert all(len(record_store.attempts(worker.bucket, id)) == 1 for id in ids)
    assert worker.bucket.list("queue") == {}


def test_entries_of_a_higher_priority_are_taken_first():
    worker, slots, _ = scripted("pull-priority", Terms(cpus=1, idle=1.0))
    for number in range(6):
        record_store.enqueue(worker.bucket, entry(f"e{number}", priority=number))
    worker.serve()
    assert slots.started == ["e5", "e4", "e3", "e2", "e1", "e0"]


def test_a_node_leaves_what_is_too_large_or_of_other_hardware_and_prints_each_reason_once(monkeypatch):
    lines = []
    monkeypatch.setattr(share, "_processor_model", lambda: "Made-up CPU Model 9")
    node = NodeFilter(Terms(cpus=4), lines.append)
    assert node.takes(entry("a")) and node.takes(entry("b", hardware="model 9"))
    for _ in range(2):
        assert not node.takes(entry("c", resources=Resources(8, 0, 1)))
        assert not node.takes(entry("d", resources=Resources(1, 1, 1)))
        assert not node.takes(entry("e", hardware="h100"))
    assert len(lines) == 3 and "need 8 CPUs and 0 GPUs" in lines[0] and "for the hardware h100" in lines[2]


def test_an_environment_that_is_not_here_is_left_to_others_for_a_while_and_then_tried(monkeypatch):
    lines, clock = [], [1000.0]
    monkeypatch.setattr("ideator_rl.executor.node.time.monotonic", lambda: clock[0])
    node = NodeFilter(Terms(cpus=1), lines.append)
    missing = entry("a", environment="/no/such/environment")
    assert not node.takes(missing) and not node.takes(missing) and len(lines) == 1
    assert "/no/such/environment are left to other nodes" in lines[0]
    clock[0] += 601
    assert node.takes(missing)


def test_nothing_is_taken_that_may_not_end_in_time():
    worker, slots, _ = scripted("pull-until", Terms(cpus=2, idle=1.0, until=time.time() + 60 * 10))
    record_store.enqueue(worker.bucket, entry("long", minutes=30))
    record_store.enqueue(worker.bucket, entry("short", minutes=3))
    worker.serve()
    assert slots.started == ["short"]


def test_a_node_ends_at_once_when_no_job_fits_into_its_time():
    worker, _, _ = scripted("pull-over", Terms(cpus=2, until=time.time() + 30))
    began = time.monotonic()
    worker.serve()
    assert time.monotonic() - began < 20


def test_a_failed_experiment_is_left_to_other_nodes_and_a_preempted_one_is_not(monkeypatch):
    monkeypatch.setattr(attempt_policy, "BACKOFF_SECONDS", (60.0,))
    worker, slots, lines = scripted("pull-failed", outcome=(FAILED, "Traceback …\nno luck"))
    record_store.enqueue(worker.bucket, entry("a"))
    worker.serve()
    assert slots.started == ["a"] and "a  failed: no luck" in lines
    again, slots, _ = scripted("pull-preempted", outcome=(PREEMPTED, "node drained"))
    record_store.enqueue(again.bucket, entry("b"))
    timer = threading.Timer(1.0, setattr, (slots, "outcome", "record"))
    timer.start()
    again.serve()
    assert len(slots.started) > 1 and record_store.has_record(again.bucket, "b")


def test_an_experiment_that_was_given_up_is_taken_again_in_a_new_round(monkeypatch):
    monkeypatch.setattr(attempt_policy, "BACKOFF_SECONDS", (60.0,))
    worker, slots, _ = scripted("pull-round", outcome=(FAILED, "no luck"))
    for number in range(record_store.MAX_ATTEMPTS):
        record_store.claim_attempt(worker.bucket, "a")
        record_store.end_attempt(worker.bucket, "a", number, FAILED, "no luck")
    record_store.enqueue(worker.bucket, entry("a"))
    worker.serve()
    assert slots.started == []
    record_store.enqueue(worker.bucket, entry("a", from_attempt=3))
    worker.serve()
    assert slots.started == ["a"]


def test_five_failures_in_a_row_let_the_node_rest_and_print_the_last_reason(caplog):
    worker, slots, _ = scripted("pull-breaker", outcome=(FAILED, "no module named torch"))
    for number in range(20):
        record_store.enqueue(worker.bucket, entry(f"e{number}"))
    worker.serve()
    assert 5 <= len(slots.started) <= 6
    assert "attempts in a row failed on this node; the last said: no module named torch" in caplog.text


def test_a_process_that_is_killed_gets_its_end_from_the_node(monkeypatch):
    monkeypatch.setattr(attempt_policy, "BACKOFF_SECONDS", (60.0,))
    worker, _, lines = scripted("pull-killed", outcome=None)
    record_store.enqueue(worker.bucket, entry("a"))
    worker.serve()
    (attempt,) = record_store.attempts(worker.bucket, "a")
    assert attempt.end.kind == record_store.DEAD and "a  failed: its process was killed" in lines


def test_a_record_whose_experiment_is_still_in_the_queue_is_not_paid_again():
    worker, slots, _ = scripted("pull-left")
    worker.bucket.create("experiments/a/result.json", b"{}")
    record_store.enqueue(worker.bucket, entry("a"))
    worker.serve()
    assert slots.started == [] and worker.bucket.list("queue") == {}


def test_a_bucket_that_is_away_is_waited_for(monkeypatch):
    monkeypatch.setattr(pull_worker, "OUTAGE_PACE", (0.1, 0.2))
    worker, slots, lines = scripted("pull-away", Terms(cpus=2, idle=1.0))
    look, failures = worker.queue.look, [OSError("away")] * 3

    def failing():
        if failures:
            raise failures.pop()
        look()

    monkeypatch.setattr(worker.queue, "look", failing)
    record_store.enqueue(worker.bucket, entry("a"))
    worker.serve()
    assert slots.started == ["a"] and sum("out of reach" in line for line in lines) == 1


def test_a_claim_that_an_outage_left_without_a_process_is_made_anew(monkeypatch):
    monkeypatch.setattr(pull_worker, "OUTAGE_PACE", (0.1, 0.2))
    worker, slots, _ = scripted("pull-orphan", Terms(cpus=2, idle=1.0))
    record_store.enqueue(worker.bucket, entry("a"))
    create, failures = worker.bucket.create, [OSError("away")]

    def create_without_reply(key, data):
        created = create(key, data)
        if failures:
            raise failures.pop()
        return created

    monkeypatch.setattr(worker.bucket, "create", create_without_reply)
    worker.serve()
    first, second = record_store.attempts(worker.bucket, "a")
    assert slots.started == ["a"] and first.end.kind == PREEMPTED and second.end is None


def test_an_outage_just_after_a_claim_costs_no_attempt(monkeypatch):
    worker, slots, _ = scripted("pull-beat")
    record_store.enqueue(worker.bucket, entry("a"))
    put = worker.bucket.put

    def away(key, data):
        if key.startswith("beats/"):
            raise OSError("away")
        put(key, data)

    monkeypatch.setattr(worker.bucket, "put", away)
    worker.serve()
    assert slots.started == ["a"] and len(record_store.attempts(worker.bucket, "a")) == 1


def test_the_run_that_waits_hears_that_nodes_have_given_an_experiment_up_or_cannot_read_it(monkeypatch):
    monkeypatch.setattr(attempt_policy, "BACKOFF_SECONDS", (0.0,))
    worker, slots, lines = scripted("pull-lost", outcome=(FAILED, "no luck"))
    worker.bucket.create("experiments/b/attempts/0/claim.json", b"no claim")

    async def wait():
        scheduler = Scheduler(worker.bucket, WatchedBucket())
        for id in "ab":
            record_store.enqueue(worker.bucket, entry(id))
        futures = [scheduler.result(entry(id)) for id in "ab"]
        await asyncio.to_thread(worker.serve)
        try:
            return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 5)
        finally:
            scheduler.close()

    lost, damaged = run(wait())
    assert str(lost) == "no luck" and slots.started == ["a"] * record_store.MAX_ATTEMPTS
    assert "claim.json" in str(damaged) and sum("b  left the queue" in line for line in lines) == 1


def test_an_experiment_that_a_person_removes_or_damages_while_it_runs_ends_no_node():
    worker, slots, lines = scripted("pull-removed", outcome=None)
    for id in "abc":
        record_store.enqueue(worker.bucket, entry(id))
    started = slots.active

    def active(name):
        if name == "a":
            worker.bucket.delete("experiments/a/attempts/0/claim.json")
        elif name == "b":
            worker.bucket.put("experiments/b/attempts/0/claim.json", b"no claim")
        return started(name)

    slots.active = active
    worker.serve()
    assert sorted(slots.started)[0] == "a" and "c" in slots.started
    assert any("b  how it ended here is not known" in line and "claim.json" in line for line in lines)


def test_a_node_without_a_free_slot_still_sees_which_heartbeats_stop(monkeypatch):
    monkeypatch.setattr(pull_worker, "BUSY_PACE", 0.2)
    worker, slots, _ = scripted("pull-busy", Terms(cpus=1))
    worker._running["long"] = Running(None, Resources(1, 0, 1), time.monotonic())
    looks, look = [], worker.queue.look
    monkeypatch.setattr(worker.queue, "look", lambda: (looks.append(time.monotonic()), look()))
    slots.active = lambda name: True
    record_store.enqueue(worker.bucket, entry("a"))
    deadline = time.monotonic() + 60
    while len(looks) < 3 and time.monotonic() < deadline:
        worker._step(3600.0)
    assert len(looks) == 3 and slots.started == []
    monkeypatch.setattr(pull_worker, "BUSY_PACE", 3600.0)
    worker._look()
    worker._step(3600.0)
    assert len(looks) == 4, "one look of its own, and none more"


def test_a_node_with_long_experiments_tries_one_more_after_its_rest(monkeypatch):
    monkeypatch.setattr(breaker, "FIRST_PAUSE", 60.0)
    worker, slots, _ = scripted("pull-rest", Terms(cpus=2))
    worker._running["long"] = Running(None, Resources(1, 0, 1), time.monotonic())
    for _ in range(breaker.UNCLAIMED_IN_A_ROW):
        worker._breaker.count_unclaimed(time.monotonic(), "no luck")
    assert not worker._has_room()
    worker._breaker._ends = 0.0
    assert worker._has_room()
    worker._running["try"] = Running(None, Resources(0, 0, 1), time.monotonic())
    assert not worker._has_room()


def test_the_attempt_of_a_cancelled_experiment_whose_process_was_killed_gets_its_end():
    worker, slots, _ = scripted("pull-cancelled", outcome=None)
    record_store.enqueue(worker.bucket, entry("a"))
    started = slots.active
    slots.active = lambda name: (record_store.request_cancel(worker.bucket, ["a"]), started(name))[1]
    worker.serve()
    [attempt] = record_store.attempts(worker.bucket, "a")
    assert attempt.end.kind == record_store.DEAD


def test_a_node_that_ends_while_the_bucket_is_away_closes_all_the_same(monkeypatch):
    worker, slots, lines = scripted("pull-stop-away")
    worker._claiming = entry("a")
    closed = []
    monkeypatch.setattr(slots, "close", lambda: closed.append(True))
    monkeypatch.setattr(worker.bucket, "get", lambda key: (_ for _ in ()).throw(OSError("away")))
    worker.stop()
    assert closed and "out of reach at the end" in lines[-1]


def test_stop_ends_a_claim_whose_process_was_not_started_yet():
    worker, _, _ = scripted("pull-between")
    worker._claiming = entry("a")
    record_store.claim_attempt(worker.bucket, "a")
    worker.stop()
    (attempt,) = record_store.attempts(worker.bucket, "a")
    assert attempt.end.kind == PREEMPTED
