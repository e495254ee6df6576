import json
import math
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from ideator_rl.environments.environment import Resources, Suspicious, load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import bucket_watch, claims, record_store
from ideator_rl.executor.bucket_watch import BucketWatch
from ideator_rl.experiment import Experiment
from ideator_rl.sandbox import process_tree
from ideator_rl.scoring import measurement
from ideator_rl.storage.bucket import BucketError, DamagedObject, open_bucket

MOST = 1 << 28
"""Bytes of an artifact, at most."""


@pytest.fixture
def bucket(tmp_path):
    return open_bucket(f"file://{tmp_path}/b")


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock of this process, set by hand."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(bucket_watch.time, "monotonic", lambda: now.seconds)
    return now


def claim_elsewhere(bucket, number=0, place="another machine", age=0.0):
    claim = record_store.Claim("e", number, "n", "far", place, os.getpid(), "0", time.time() - age)
    bucket.create(f"experiments/e/attempts/{number}/claim.json", json.dumps(asdict(claim)).encode())
    return claim


def ends(bucket):
    return [attempt.end and (attempt.end.kind, attempt.end.reason) for attempt in record_store.attempts(bucket, "e")]


def test_an_attempt_that_runs_cannot_be_claimed_again(bucket):
    claim = record_store.claim_attempt(bucket, "e", node="node7")
    assert (claim.number, claim.pid, claim.node, len(claim.nonce)) == (0, os.getpid(), "node7", 32)
    assert record_store.claim_attempt(bucket, "e") is None
    assert record_store.attempts(bucket, "e") == [record_store.Attempt(0, claim)]
    assert record_store.running_attempt(bucket, "e").claim == claim


def test_a_race_for_a_claim_has_one_winner(bucket):
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: record_store.claim_attempt(bucket, "e"), range(8)))
    assert [claim.number for claim in claims if claim] == [0]


def test_an_attempt_folder_without_a_claim_does_not_count(bucket, tmp_path):
    (tmp_path / "b/experiments/e/attempts/0").mkdir(parents=True)
    assert record_store.attempts(bucket, "e") == []
    record_store.claim_attempt(bucket, "e")
    (tmp_path / "b/experiments/e/attempts/1").mkdir()
    assert len(record_store.attempts(bucket, "e")) == 1


def test_the_next_attempt_can_be_claimed_after_its_process_died(bucket):
    child = subprocess.Popen(["sleep", "60"])
    assert record_store.claim_attempt(bucket, "e", pid=child.pid).pid == child.pid
    assert record_store.claim_attempt(bucket, "e") is None
    child.kill()
    child.wait()
    assert record_store.running_attempt(bucket, "e") is None
    assert record_store.claim_attempt(bucket, "e").number == 1
    assert ends(bucket) == [("dead", "its worker died"), None]


def test_a_pid_that_now_belongs_to_another_process_is_not_alive(bucket):
    claim_elsewhere(bucket, place=process_tree.host_identity())
    assert record_store.running_attempt(bucket, "e") is None


def watched(bucket, clock, watch, claim, seconds, beats=False, step=10.0):
    """Look every `step` seconds, while the worker writes heartbeats or none; for how long it counted as alive."""
    for elapsed in range(0, round(seconds), round(step)):
        if beats:
            record_store.write_beat(bucket, claim)
        watch.look()
        if not watch.alive("e", claim):
            return elapsed
        clock.seconds += step
    return seconds


@pytest.mark.parametrize("skew", [-3600.0, 0.0, 3600.0])
def test_a_process_elsewhere_lives_while_its_heartbeat_changes_whatever_its_clock_shows(bucket, clock, skew):
    claim, watch = claim_elsewhere(bucket, age=-skew), BucketWatch(bucket)
    assert watched(bucket, clock, watch, claim, 600, beats=True) == 600
    assert watch.beats == {"e": 10.0}
    assert watched(bucket, clock, watch, claim, 600) in (140, 150)


@pytest.mark.parametrize("beat", [False, True])
def test_a_new_observer_waits_for_one_lease_with_and_without_a_heartbeat(bucket, clock, beat):
    claim = claim_elsewhere(bucket, age=7 * 86_400)
    record_store.enqueue(bucket, record_store.QueueEntry("e", Resources(), 1))
    if beat:
        record_store.write_beat(bucket, claim)
    assert watched(bucket, clock, BucketWatch(bucket), claim, 600) == record_store.LEASE_SECONDS


def test_an_observer_that_was_stopped_or_without_its_bucket_gives_the_whole_lease_again(bucket, clock, monkeypatch):
    claim, watch = claim_elsewhere(bucket), BucketWatch(bucket)
    record_store.write_beat(bucket, claim)
    watched(bucket, clock, watch, claim, 100)
    clock.seconds += 3600
    assert watched(bucket, clock, watch, claim, 100) == 100
    with monkeypatch.context() as away:
        away.setattr(bucket, "list", lambda prefix: (_ for _ in ()).throw(BucketError("away")))
        with pytest.raises(BucketError):
            watch.look()
    assert watched(bucket, clock, watch, claim, 100) == 100


def test_an_attempt_of_this_machine_is_judged_by_its_process_at_once(bucket):
    watch = BucketWatch(bucket)
    claim = record_store.claim_attempt(bucket, "e")
    assert watch.alive("e", claim) and not watch.alive("e", replace(claim, start="0"))


def test_a_watch_reads_only_entries_that_are_new_or_have_changed(bucket, monkeypatch):
    read = []
    get_many = bucket.get_many
    monkeypatch.setattr(bucket, "get_many", lambda keys: read.extend(keys) or get_many(keys))
    entries = [record_store.QueueEntry(id, Resources(cpus=2), 7, "toy", "cpu", created=5.0) for id in ("a", "b")]
    for entry in entries:
        record_store.enqueue(bucket, entry)
    watch = BucketWatch(bucket)
    watch.look()
    assert watch.queue == {entry.id: entry for entry in entries} and sorted(read) == ["queue/a", "queue/b"]
    again = replace(entries[0], from_attempt=3)
    record_store.enqueue(bucket, again)
    record_store.leave_queue(bucket, "b")
    watch.look()
    watch.look()
    assert watch.queue == {"a": again} and sorted(read) == ["queue/a", "queue/a", "queue/b"]


def test_a_damaged_entry_of_the_queue_is_skipped_with_one_line(bucket, caplog):
    for id, raw in {"a": b"", "b": b"{}", "c": b'{"id": "x", "resources": {}, "minutes": 1}'}.items():
        bucket.put(f"queue/{id}", raw)
    watch = BucketWatch(bucket)
    watch.look()
    watch.look()
    assert watch.queue == {} and caplog.text.count("queue/b of the bucket") == 1 and "Traceback" not in caplog.text


def test_an_attempt_that_was_ended_does_not_run_and_the_first_end_counts(bucket):
    claim_elsewhere(bucket)
    assert record_store.running_attempt(bucket, "e").claim.host == "far"
    assert record_store.end_attempt(bucket, "e", 0, record_store.PREEMPTED, "node drained")
    assert not record_store.end_attempt(bucket, "e", 0, record_store.DEAD, "too late")
    assert record_store.running_attempt(bucket, "e") is None and ends(bucket) == [("preempted", "node drained")]
    with pytest.raises(ValueError, match="'ended'; expected one of failed, preempted, dead, cancelled"):
        record_store.end_attempt(bucket, "e", 0, "ended", "")


def test_an_end_that_does_not_count_leaves_the_heartbeat_of_the_next_attempt(bucket):
    claim_elsewhere(bucket)
    record_store.end_attempt(bucket, "e", 0, record_store.FAILED, "first")
    record_store.claim_attempt(bucket, "e")
    record_store.end_attempt(bucket, "e", 0, record_store.DEAD, "of an observer that is late")
    assert list(bucket.list("beats")) == ["e"]
    record_store.end_attempt(bucket, "e", 1, record_store.FAILED, "second")
    assert list(bucket.list("beats")) == []


def test_two_heartbeats_are_never_equal(bucket, monkeypatch):
    claim = claim_elsewhere(bucket)
    monkeypatch.setattr(claims.time, "time", lambda: 5.0)
    beats = []
    for _ in range(2):
        record_store.write_beat(bucket, claim, step=7)
        beats.append(bucket.get("beats/e"))
    assert beats[0] != beats[1] and json.loads(beats[0])["step"] == 7


def test_an_experiment_with_a_record_is_not_claimed_and_keeps_its_first_record(bucket):
    record = Experiment("e", "succeeded", "idea", "toy", "cpu", metric={"name": "m", "value": 1.0, "direction": "min"})
    assert record_store.save_record(bucket, record)
    assert not record_store.save_record(bucket, Experiment("e", "failed", "idea", "toy", "cpu"))
    assert record_store.claim_attempt(bucket, "e") is None
    assert record_store.load_record(bucket, "e") == record


def test_a_record_written_during_the_claim_ends_the_attempt(bucket, monkeypatch):
    answers = iter([True])
    monkeypatch.setattr(claims, "has_record", lambda *_: next(answers))
    assert record_store.claim_attempt(bucket, "e") is None
    assert ends(bucket) == [("cancelled", "it already had a result")]


def test_a_record_takes_its_experiment_out_of_the_queue(bucket):
    record_store.enqueue(bucket, record_store.QueueEntry("e", Resources(), 1))
    record_store.claim_attempt(bucket, "e")
    record_store.save_record(bucket, Experiment("e", "failed", "", "toy", "cpu"))
    assert bucket.list("queue") == bucket.list("beats") == {}
    [day] = bucket.list("done")
    assert day == time.strftime("%Y%m%d", time.gmtime()) and list(bucket.list(f"done/{day}")) == ["e"]


def test_a_long_log_is_an_object_of_its_own_and_the_record_keeps_its_end(bucket):
    text = "".join(f"line {number} \x1b é\n" for number in range(2_000))
    record = Experiment("e", "failed", "", "toy", "cpu", log=text)
    record_store.save_record(bucket, record)
    assert len(bucket.get("experiments/e/result.json")) < 5_000
    stored = record_store.load_record(bucket, "e")
    assert text.endswith(stored.log) and 1_000 < len(stored.log) < len(text)
    assert record_store.load_log(bucket, stored) == text
    short = Experiment("f", "failed", "", "toy", "cpu", log="short")
    record_store.save_record(bucket, short)
    assert sorted(bucket.list("experiments/f")) == ["result.json"] and record_store.load_log(bucket, short) == "short"


def test_a_log_beyond_the_limit_keeps_both_ends(bucket, monkeypatch):
    monkeypatch.setattr(record_store, "MAX_LOG_BYTES", 10_000)
    record = Experiment("e", "failed", "", "toy", "cpu", log="a" * 20_000 + "z" * 20_000)
    record_store.save_record(bucket, record)
    raw = bucket.get("experiments/e/log.txt")
    assert len(raw) <= 10_000 and raw.startswith(b"a" * 4_000) and raw.endswith(b"z" * 4_000)
    assert b"30000 bytes left out" in raw


def test_a_large_record_is_stored_whole_beside_a_short_one(bucket):
    record = Experiment(
        "e",
        "failed",
        "an idea " * 1_000,
        "toy",
        "cpu",
        patch="+x\n" * 20_000,
        error={"kind": "failed", "message": "m" * 50_000},
        scoring={"notes": "n" * 50_000},
    )
    record_store.save_record(bucket, record)
    assert len(bucket.get("experiments/e/result.json")) <= record_store.MAX_RECORD_BYTES
    assert record_store.load_record(bucket, "e") == record
    record_store.save_record(bucket, Experiment("f", "failed", "", "toy", "cpu"))
    bucket.put("experiments/g/result.json", b"{")
    records = dict(record_store.load_records(bucket, ["e", "f", "g", "none"]))
    assert records["e"] == record and records["f"].id == "f" and set(records) == {"e", "f", "g"}
    assert isinstance(records["g"], DamagedObject)


def toy_spec(id, toy):
    empty = {"str": "", "int": 0, "float": 0.0, "bool": True}
    body = {name: empty[item.type] for name, item in record_store.Spec.__dataclass_fields__.items()}
    return record_store.Spec(**body | {"id": id, "preset": "cpu", "environment": str(toy)})


def test_a_request_for_an_experiment_that_failed_begins_a_new_round(bucket, toy):
    preset, spec = load_environment(str(toy)).preset("cpu"), toy_spec("e", toy)
    record_store.request_run(bucket, spec, preset, run="r")
    [entry] = record_store.read_queue(bucket, ["e"]).values()
    assert (entry.from_attempt, entry.run, entry.resources) == (0, "r", preset.resources)
    claim_elsewhere(bucket)
    spec = replace(spec, created=1.0)
    record_store.request_run(bucket, spec, preset)
    assert record_store.read_queue(bucket, ["e"])["e"].from_attempt == 0  # the attempt still runs
    record_store.end_attempt(bucket, "e", 0, record_store.FAILED, "")
    record_store.request_cancel(bucket, ["e"])
    assert record_store.cancel_requested(bucket, "e") and bucket.list("queue") == {}
    record_store.request_run(bucket, spec, preset)
    assert record_store.read_queue(bucket, ["e"])["e"].from_attempt == 1
    assert not record_store.cancel_requested(bucket, "e")


def test_the_time_limit_of_a_job_allows_for_a_repeated_run_and_its_confirmation(toy):
    preset = load_environment(str(toy)).preset("cpu")
    budget = replace(preset.budget, clock="wall", seconds=300.0, startup_allowance=20.0)
    once = record_store.job_minutes(replace(preset, budget=budget, suspicious=None))
    assert once == math.ceil((60 + 2 * 320 + 600) / 60)
    confirmed = replace(preset, budget=budget, suspicious=Suspicious(0.1, 0.01))
    assert record_store.job_minutes(confirmed) == math.ceil((60 + 2 * (2 * 320 + 600)) / 60)
    controlled = replace(confirmed, suspicious=Suspicious(0.1, 0.01, 0.5))
    assert record_store.job_minutes(controlled) == math.ceil((60 + 2 * (2 * 320 + 600) + 2 * 170 + 600) / 60)
    # The final split, and as many checkpoints as count.
    aimed = replace(preset, budget=budget, suspicious=None, target=3.28)
    assert record_store.job_minutes(aimed) == once + 9 * 10


def test_the_time_limit_of_a_job_lets_the_sandbox_end_an_idle_run(toy):
    preset = replace(load_environment(str(toy)).preset("cpu"), suspicious=None)
    budget = replace(preset.budget, clock="cpu", seconds=1800.0, startup_allowance=20.0)
    seconds = 60 * record_store.job_minutes(replace(preset, budget=budget))
    # A repeated run, one that is idle until its end, and their start-up.
    assert seconds >= 1820 + 20 + budget.max_wall_seconds and budget.max_wall_seconds == 30 + 6 * 1800


def old_bucket(bucket, toy):
    """What a run of 0.1.0 leaves: objects without queue, kinds and nonces."""
    for id in ("ended", "open", "wanted", "unknown"):
        toy_spec(id, toy if id != "unknown" else "/nowhere").save(bucket)
        claim = {"host": "far", "place": "far", "pid": 1, "start": None, "time": 5.0}
        bucket.create(f"experiments/{id}/attempts/0/claim.json", json.dumps(claim).encode())
        bucket.put(f"experiments/{id}/attempts/0/beat.json", b'{"time": 5.0}')
        bucket.create(f"experiments/{id}/attempts/0/end.json", b'{"reason": "drained", "time": 6.0}')
    bucket.create("experiments/wanted/wanted/1.json", b"{}")
    record = Experiment("ended", "failed", "", "toy", "cpu", log="l" * 60_000)
    bucket.create("experiments/ended/result.json", record.to_json().encode())
    for name in ("ended", "open", "open.1"):  # marks of the layout between
        bucket.put(f"queue/{name}", b"")
    return record


def test_a_bucket_of_an_earlier_version_is_upgraded_once_and_read_on(bucket, toy, caplog):
    record = old_bucket(bucket, toy)
    record_store.upgrade(bucket)
    queue = record_store.read_queue(bucket, bucket.list("queue"))
    assert {id: entry.from_attempt for id, entry in queue.items()} == {"open": 0, "wanted": 1}
    assert queue["open"].resources == load_environment(str(toy)).preset("cpu").resources
    assert "unknown" in caplog.text and "Traceback" not in caplog.text
    assert record_store.load_record(bucket, "ended") == record
    [attempt] = record_store.attempts(bucket, "open")
    assert (attempt.claim.host, attempt.end.kind, attempt.end.reason) == ("far", "failed", "drained")
    record_store.leave_queue(bucket, "open")
    record_store.upgrade(bucket)
    assert list(bucket.list("queue")) == ["wanted"]


def test_a_bucket_of_a_later_version_is_refused(bucket):
    bucket.put(".ideator/layout.json", b'{"version": 99}')
    with pytest.raises(IdeatorError, match="layout 99 of a later version"):
        record_store.upgrade(bucket)


def test_a_record_survives_json_and_later_schemas():
    record = Experiment("e", "succeeded", "idé\u2028a", "toy", "cpu", seconds={"run": 1.5})
    assert Experiment.from_json(record.to_json()) == record
    assert Experiment.from_json(record.to_json()[:-1] + ', "later": 1}') == record
    with pytest.raises(ValueError, match="not an experiment record"):
        Experiment.from_json("[]")


def test_only_an_artifact_of_small_regular_files_is_copied(tmp_path):
    source = tmp_path / "artifact"
    assert "left nothing" in measurement.collect(source, tmp_path / "a", MOST)
    source.mkdir()
    (source / "model").write_bytes(b"weights")
    assert measurement.collect(source, tmp_path / "b", MOST) is None
    assert (tmp_path / "b/model").read_bytes() == b"weights"
    (source / "link").symlink_to("/etc/passwd")
    assert "not a regular file" in measurement.collect(source, tmp_path / "c", MOST)
    (source / "link").unlink()
    os.mkfifo(source / "pipe")
    assert "not a regular file" in measurement.collect(source, tmp_path / "d", MOST)
    (source / "pipe").unlink()
    with open(source / "big", "wb") as big:
        big.truncate(MOST + 1)
    assert "is over" in measurement.collect(source, tmp_path / "e", MOST)


def test_a_record_is_json_for_every_program():
    record = Experiment("id", "succeeded", "", "env", "cpu", scoring={"gap": float("inf"), "list": [float("nan"), 1.5]})
    text = record.to_json()
    assert "Infinity" not in text and "NaN" not in text
    assert Experiment.from_json(text).scoring == {"gap": None, "list": [None, 1.5]}
