"""Objects of a bucket that are damaged: an error that names them, no traceback, no hang, and nothing taken for good."""

import json
import os
import shutil
import socket
from dataclasses import replace

import pytest
from conftest import run
from scripted import idea

from ideator_rl.executor import record_store
from ideator_rl.executor.bucket_watch import BucketWatch
from ideator_rl.executor.executor import Executor
from ideator_rl.storage.bucket import BucketError, DamagedObject, FileBucket, open_bucket, read_object

# Bytes that no object of a bucket has.
WRONG_BYTES = {
    "empty": b"",
    "half": b'{"id": "a", "sta',
    "zeros": bytes(500),
    "binary": bytes(range(256)),
    "a list": b"[]",
    "null": b"null",
    "a number": b"17",
    "a text": b'"hello"',
    "no keys": b"{}",
    "too deep": b"[" * 100_000,
    "too many digits": b'{"id": ' + b"9" * 10_000 + b"}",
    "half a character": '{"id": "é'.encode()[:-1],
    "utf-16 without its end": '{"id": 1}'.encode("utf-16")[:-3],
}


def a_folder(path):
    path.mkdir()


def a_pipe(path):
    os.mkfifo(path)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket may have 108 characters
        listener.bind(path.name)
        os.chdir(here)


def a_loop(path):
    path.symlink_to(path)


def a_link_to_nothing(path):
    path.symlink_to("nowhere")


def a_huge_file(path):
    with open(path, "wb") as file:
        file.truncate(1 << 40)


WRONG_KINDS = [a_folder, a_pipe, a_socket, a_loop, a_huge_file]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A bucket with one experiment that succeeded, its id, and the configuration that led to it."""
    from conftest import TOY

    from ideator_rl.executor.executor import ExecutorConfig

    folder = tmp_path_factory.mktemp("finished")
    config = ExecutorConfig(str(TOY), "cpu", f"file://{folder}/bucket", run_dir=str(folder), slots=2)
    record = run(Executor(config).execute(idea("Set x to 1.0.")))
    assert record.status == "succeeded"
    return folder / "bucket", record.id, record.tree, config


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of that bucket, to damage: its folder, and what runs the same idea again in it."""
    bucket, id, tree, config = finished
    shutil.copytree(bucket, tmp_path / "bucket")
    config = replace(config, bucket=f"file://{tmp_path}/bucket", run_dir=str(tmp_path), outage_patience=2.0)
    return tmp_path / "bucket", id, tree, lambda: run(Executor(config).execute(idea("Set x to 1.0.")))


def is_lost_and_names(record, path, bucket, caplog):
    """The record is `lost`, names the damaged object, and no traceback was logged."""
    assert record.status == "lost" and record.reward is None
    assert str(path.relative_to(bucket)) in record.error["message"] and "Remove" in record.error["message"], (
        record.error
    )
    assert "Traceback" not in caplog.text + record.error["message"]
    return True


def changed(**values):
    return lambda body: body | values


# What is valid JSON and yet no record.
WRONG_RECORDS = {
    "succeeded without a metric": changed(metric=None),
    "succeeded with a NaN": changed(metric={"name": "m", "value": float("nan"), "direction": "min"}),
    "succeeded with infinity": changed(metric={"name": "m", "value": float("inf"), "direction": "min"}),
    "a metric that is no number": changed(metric={"name": "m", "value": "0.1", "direction": "min"}),
    "a metric without a direction": changed(metric={"name": "m", "value": 0.1}),
    "a metric that is a list": changed(metric=[1.0]),
    "an unknown status": changed(status="splendid"),
    "lost, which is never stored": changed(status="lost"),
    "a status that is a number": changed(status=3),
    "another experiment's": changed(id="0" * 32),
    "seconds that are a text": changed(seconds={"run": "long"}),
    "seconds that are no number": changed(seconds={"run": float("nan")}),
    "an error that is a text": changed(error="bad"),
    "a reward of infinity": changed(reward=float("inf")),
    "no status": lambda body: {key: value for key, value in body.items() if key != "status"},
}


@pytest.mark.parametrize("wrong", WRONG_RECORDS)
def test_a_record_that_is_none_is_refused(copy, caplog, wrong):
    bucket, id, _, execute = copy
    path = bucket / f"experiments/{id}/result.json"
    path.write_text(json.dumps(WRONG_RECORDS[wrong](json.loads(path.read_text()))))
    assert is_lost_and_names(execute(), path, bucket, caplog)


@pytest.mark.parametrize("wrong", WRONG_BYTES)
def test_a_record_of_wrong_bytes_is_refused(copy, caplog, wrong):
    bucket, id, _, execute = copy
    path = bucket / f"experiments/{id}/result.json"
    path.write_bytes(WRONG_BYTES[wrong])
    assert is_lost_and_names(execute(), path, bucket, caplog)
    path.unlink()
    assert execute().status == "succeeded"


@pytest.mark.parametrize("make", WRONG_KINDS)
def test_what_is_no_file_in_the_place_of_a_record_is_refused_at_once(copy, caplog, make):
    bucket, id, _, execute = copy
    path = bucket / f"experiments/{id}/result.json"
    path.unlink()
    make(path)
    assert is_lost_and_names(execute(), path, bucket, caplog)


@pytest.mark.parametrize("wrong", ["empty", "a list", "no keys", "too deep"])
@pytest.mark.parametrize("name", ["spec", "implementation", "claim", "end"])
def test_other_objects_of_wrong_bytes_are_refused(copy, caplog, name, wrong):
    bucket, id, _, execute = copy
    folder = bucket / "experiments" / id
    (folder / "result.json").unlink()
    if name == "end":
        record_store.end_attempt(open_bucket(str(bucket)), id, 0, record_store.FAILED, "drained")
        damaged = folder / "attempts/0/end.json"
    elif name == "implementation":
        [damaged] = (bucket / "implementations").iterdir()
    else:
        damaged = folder / ("spec.json" if name == "spec" else "attempts/0/claim.json")
    damaged.write_bytes(WRONG_BYTES[wrong])
    record = execute()
    # The end of an attempt is only read for its reason: another attempt succeeds.
    assert record.status == "succeeded" if name == "end" else is_lost_and_names(record, damaged, bucket, caplog)


@pytest.mark.parametrize("wrong", ["empty", "a list", "no keys", "another codebase"])
def test_a_codebase_that_is_not_the_one_of_its_name_is_not_run(copy, caplog, wrong):
    bucket, id, tree, execute = copy
    (bucket / f"experiments/{id}/result.json").unlink()
    path = bucket / f"trees/{tree}.json"
    path.write_bytes(WRONG_BYTES.get(wrong, b'{"train.py": "print(1)"}'))
    assert is_lost_and_names(execute(), path, bucket, caplog)


def test_a_file_in_the_place_of_a_folder_is_refused_at_once(copy, caplog):
    bucket, id, _, execute = copy
    folder = bucket / "experiments" / id
    shutil.rmtree(folder)
    folder.write_text("a file")
    record = execute()
    assert record.status == "lost" and f"experiments/{id}" in record.error["message"]
    assert "Traceback" not in caplog.text


def test_a_link_that_leads_nowhere_is_named_when_an_object_is_to_take_its_place(tmp_path):
    bucket = FileBucket(tmp_path / "b")
    bucket.create("a/other", b"")
    a_link_to_nothing(tmp_path / "b/a/result.json")
    with pytest.raises(DamagedObject, match="a/result.json .*leads nowhere"):
        bucket.create("a/result.json", b"{}")


def test_an_error_of_the_bucket_is_not_taken_for_damage():
    class Away:
        url = "memory://away"

        def get(self, key):
            raise BucketError("away")

    with pytest.raises(BucketError) as caught:
        read_object(Away(), "a", json.loads)
    assert not isinstance(caught.value, DamagedObject)


def test_a_heartbeat_counts_by_its_version_whatever_its_bytes(tmp_path):
    bucket = FileBucket(tmp_path / "b")
    watch = BucketWatch(bucket)
    for wrong in WRONG_BYTES.values():
        bucket.put("beats/e", wrong)
        watch.look()
        assert watch.alive("e") and list(watch.beats) == ["e"]


def test_damage_of_one_experiment_is_one_sentence_on_the_command_line(call, copy):
    from conftest import TOY

    bucket, id, _, _ = copy
    (bucket / f"experiments/{id}/result.json").write_bytes(b"{")
    code, out, err = call("execute", TOY, "--idea", idea("Set x to 1.0."), "--bucket", f"file://{bucket}")
    assert "Traceback" not in out + err and f"experiments/{id}/result.json" in out + err
    code, out, err = call("status", bucket)
    assert "Traceback" not in out + err and f"experiments/{id}/result.json" in err
