import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from ideator_rl.executor import record_store, worker
from ideator_rl.experiment import Experiment
from ideator_rl.sandbox import process_tree
from ideator_rl.scoring import measurement
from ideator_rl.storage.bucket import open_bucket


@pytest.fixture
def bucket(tmp_path):
    return open_bucket(f"file://{tmp_path}/b")


def claim_elsewhere(bucket, number=0, host="another machine", age=0.0):
    body = {"host": "far", "place": host, "pid": os.getpid(), "start": "0", "time": time.time() - age}
    bucket.create(f"experiments/e/attempts/{number}/claim.json", json.dumps(body).encode())


def test_a_live_attempt_cannot_be_claimed_again(bucket):
    assert record_store.claim_attempt(bucket, "e") == 0
    assert record_store.claim_attempt(bucket, "e") is None
    assert record_store.running_claim(bucket, "e")["pid"] == os.getpid()


def test_a_race_for_a_claim_has_one_winner(bucket):
    with ThreadPoolExecutor(8) as pool:
        won = [
            number
            for number in pool.map(lambda _: record_store.claim_attempt(bucket, "e"), range(8))
            if number is not None
        ]
    assert won == [0]


def test_an_attempt_folder_without_a_claim_does_not_count(bucket, tmp_path):
    (tmp_path / "b/experiments/e/attempts/0").mkdir(parents=True)
    assert record_store.claim_attempt(bucket, "e") == 0
    assert record_store.count_attempts(bucket, "e") == 1


def test_the_next_attempt_can_be_claimed_after_its_process_died(bucket, tmp_path):
    code = (
        "import sys; from ideator_rl.storage.bucket import open_bucket; from ideator_rl.executor import record_store;"
        "print(record_store.claim_attempt(open_bucket(sys.argv[1]), 'e'), flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", code, bucket.url], stdin=pipe, stdout=pipe)
    assert child.stdout.readline() == b"0\n"
    assert record_store.claim_attempt(bucket, "e") is None
    child.kill()
    child.wait()
    assert record_store.running_claim(bucket, "e") is None
    assert record_store.claim_attempt(bucket, "e") == 1


def test_a_pid_that_now_belongs_to_another_process_is_not_alive(bucket):
    claim_elsewhere(bucket, host=process_tree.host_identity())
    assert record_store.running_claim(bucket, "e") is None


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock of this process, set by hand."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(record_store.time, "monotonic", lambda: now.seconds)
    return now


def watch(bucket, clock, seconds, beats=None, step=10.0):
    """Look at the experiment every `step` seconds, while its worker's heartbeats have these times."""
    for _ in range(round(seconds / step)):
        clock.seconds += step
        if beats:
            beat = {"time": next(beats)}
            bucket.put("experiments/e/attempts/0/beat.json", json.dumps(beat).encode())
        if record_store.running_claim(bucket, "e") is None:
            return False
    return True


@pytest.mark.parametrize("skew", [-3600.0, -61.0, 0.0, 3600.0])
def test_a_process_elsewhere_lives_while_its_heartbeat_changes_whatever_its_clock_shows(bucket, clock, skew):
    claim_elsewhere(bucket, age=-skew)
    beats = (time.time() + skew + 5 * n for n in itertools.count())
    assert watch(bucket, clock, 300, beats) and record_store.claim_attempt(bucket, "e") is None


@pytest.mark.parametrize("skew", [-3600.0, 0.0, 3600.0])
def test_a_process_elsewhere_is_dead_when_its_heartbeat_did_not_change_for_the_lease(bucket, clock, skew):
    claim_elsewhere(bucket, age=-skew)
    assert watch(bucket, clock, record_store.LEASE_SECONDS - 10) and not watch(bucket, clock, 20)
    # The worker that is started next has seen no heartbeat yet, and could not judge.
    record_store.end_dead_attempt(bucket, "e")
    record_store._signs.clear()
    assert record_store.claim_attempt(bucket, "e") == 1
    assert record_store.last_failure_reason(bucket, "e") == "its worker died"


def test_an_observer_that_was_stopped_gives_a_heartbeat_its_whole_lease_again(bucket, clock):
    claim_elsewhere(bucket)
    assert watch(bucket, clock, 50)
    clock.seconds += 3600
    assert watch(bucket, clock, 50)


def test_a_claim_of_last_week_does_not_wait_for_a_lease(bucket):
    claim_elsewhere(bucket, age=7 * 86_400)
    assert record_store.running_claim(bucket, "e") is None


def test_an_attempt_that_was_ended_is_not_live(bucket):
    claim_elsewhere(bucket)
    assert record_store.running_claim(bucket, "e")["host"] == "far"
    record_store.abandon_attempt(bucket, "e", 0, "node drained")
    assert record_store.running_claim(bucket, "e") is None
    assert record_store.last_failure_reason(bucket, "e") == "node drained"


def test_an_attempt_of_a_living_process_is_not_ended(bucket):
    record_store.claim_attempt(bucket, "e")
    record_store.end_dead_attempt(bucket, "e")
    assert record_store.running_claim(bucket, "e") is not None


def test_two_heartbeats_are_never_equal(bucket, monkeypatch):
    monkeypatch.setattr(record_store.time, "time", lambda: 5.0)
    beats = []
    for _ in range(2):
        record_store.write_heartbeat(bucket, "e", 0)
        beats.append(bucket.get("experiments/e/attempts/0/beat.json"))
    assert beats[0] != beats[1]


def test_an_experiment_with_a_record_is_not_claimed_and_keeps_its_first_record(bucket):
    record = Experiment("e", "succeeded", "idea", "toy", "cpu", metric={"name": "m", "value": 1.0, "direction": "min"})
    assert record_store.save_record(bucket, record)
    assert not record_store.save_record(bucket, Experiment("e", "failed", "idea", "toy", "cpu"))
    assert record_store.claim_attempt(bucket, "e") is None
    assert record_store.load_record(bucket, "e") == record


def test_a_record_written_during_the_claim_ends_the_attempt(bucket, monkeypatch):
    answers = iter([None, Experiment("e", "failed", "", "toy", "cpu")])
    monkeypatch.setattr(record_store, "load_record", lambda *_: next(answers))
    assert record_store.claim_attempt(bucket, "e") is None
    assert record_store.last_failure_reason(bucket, "e") == "it already had a result"


def test_cancel_kills_only_the_process_of_the_claim(bucket):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    body = {
        "host": "here",
        "place": process_tree.host_identity(),
        "pid": sleeper.pid,
        "start": process_tree.start_time(sleeper.pid),
        "time": time.time(),
    }
    bucket.create("experiments/e/attempts/0/claim.json", json.dumps(body).encode())
    claim_elsewhere(bucket, host=process_tree.host_identity())
    assert worker.cancel(bucket, ["e", "unknown"]) == ["e"]
    assert sleeper.wait(5) == -signal.SIGKILL
    assert worker.cancel(bucket, ["e"]) == []


def test_a_record_survives_json_and_later_schemas():
    record = Experiment("e", "succeeded", "idé\u2028a", "toy", "cpu", seconds={"run": 1.5})
    assert Experiment.from_json(record.to_json()) == record
    assert Experiment.from_json(record.to_json()[:-1] + ', "later": 1}') == record
    with pytest.raises(ValueError, match="not an experiment record"):
        Experiment.from_json("[]")


def test_only_an_artifact_of_small_regular_files_is_copied(tmp_path):
    source = tmp_path / "artifact"
    assert "left nothing" in measurement.collect(source, tmp_path / "a")
    source.mkdir()
    (source / "model").write_bytes(b"weights")
    assert measurement.collect(source, tmp_path / "b") is None
    assert (tmp_path / "b/model").read_bytes() == b"weights"
    (source / "link").symlink_to("/etc/passwd")
    assert "not a regular file" in measurement.collect(source, tmp_path / "c")
    (source / "link").unlink()
    os.mkfifo(source / "pipe")
    assert "not a regular file" in measurement.collect(source, tmp_path / "d")
    (source / "pipe").unlink()
    with open(source / "big", "wb") as big:
        big.truncate(measurement.MAX_ARTIFACT_BYTES + 1)
    assert "is over" in measurement.collect(source, tmp_path / "e")


def test_a_record_is_json_for_every_program():
    record = Experiment("id", "succeeded", "", "env", "cpu", scoring={"gap": float("inf"), "list": [float("nan"), 1.5]})
    text = record.to_json()
    assert "Infinity" not in text and "NaN" not in text
    assert Experiment.from_json(text).scoring == {"gap": None, "list": [None, 1.5]}
