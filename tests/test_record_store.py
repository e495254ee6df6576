import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

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


def test_a_claim_of_another_machine_is_live_while_its_heartbeat_is_recent(bucket):
    claim_elsewhere(bucket, age=record_store.LEASE_SECONDS + 1)
    assert record_store.running_claim(bucket, "e") is None
    record_store.write_heartbeat(bucket, "e", 0)
    assert record_store.running_claim(bucket, "e")["host"] == "far"
    record_store.abandon_attempt(bucket, "e", 0, "node drained")
    assert record_store.running_claim(bucket, "e") is None
    assert record_store.last_failure_reason(bucket, "e") == "node drained"


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
