"""The local index of a bucket's results: what it reads from the bucket, and when."""

import hashlib
import random
import sqlite3
import time
from dataclasses import replace

import pytest

from ideator_rl import files
from ideator_rl.executor.record_store import load_records, save_record
from ideator_rl.experiment import FAILED, SUCCEEDED, Experiment
from ideator_rl.publishing.tracked import BucketSource
from ideator_rl.storage import index
from ideator_rl.storage.bucket import BucketError, DamagedObject, open_bucket
from ideator_rl.storage.index import ResultIndex, read_results


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=["file", "memory"])
def bucket(request, tmp_path):
    return open_bucket(f"file://{tmp_path}/bucket" if request.param == "file" else f"memory://{tmp_path.name}-index")


def record(number, status=SUCCEEDED, value=1.0):
    id = hashlib.sha256(str(number).encode()).hexdigest()[:32]
    metric = {"name": "loss", "value": value, "direction": "min"} if status == SUCCEEDED else None
    return Experiment(id, status, f"idea {number}", "toy", "cpu", metric=metric, finished=float(number))


class Counted:
    """A bucket that counts what is read from it."""

    def __init__(self, bucket, remote=False):
        self.url, self.remote, self._bucket = bucket.url, remote, bucket
        self.read, self.listed = [], []

    def list(self, prefix):
        self.listed.append(prefix)
        return self._bucket.list(prefix)

    def get_many(self, keys):
        self.read += keys
        return self._bucket.get_many(keys)

    def __getattr__(self, name):
        return getattr(self._bucket, name)


def test_the_index_holds_every_result_in_the_order_of_reading(bucket):
    with ResultIndex(bucket, load_records) as results:
        assert results.update() == 0 and list(results.records()) == []
        save_record(bucket, record(1))
        save_record(bucket, record(2, FAILED))
        assert results.update() == 2 and results.statuses() == {SUCCEEDED: 1, FAILED: 1}
        save_record(bucket, record(3, value=0.5))
        assert results.update() == 1
        rows = list(results.records())
        assert {item.id for _, item in rows} == {record(n).id for n in (1, 2, 3)} and rows[-1][1].metric["value"] == 0.5
        assert [item.id for _, item in results.records(after=rows[-2][0])] == [record(3).id]
        assert [item.status for _, item in results.records(FAILED)] == [FAILED]


def test_a_result_is_read_once_by_all_processes_of_a_host(tmp_path):
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    for number in range(5):
        save_record(bucket, record(number))
    first, second = Counted(bucket), Counted(bucket)
    assert len(read_results(first, load_records)) == len(first.read) == 5
    save_record(bucket, record(5))
    assert len(read_results(second, load_records)) == 6 and len(second.read) == 1


def test_a_remote_bucket_is_listed_in_full_once_an_hour_and_by_days_else(bucket, monkeypatch):
    remote = Counted(bucket, remote=True)
    with ResultIndex(remote, load_records) as results:
        results.update()
        save_record(bucket, record(1))
        # As by a worker that is killed between its result and the name in `done/`.
        save_record(bucket, record(2))
        bucket.delete(f"done/{time.strftime('%Y%m%d', time.gmtime())}/{record(2).id}")
        assert remote.listed.count("experiments") == 1
        assert results.update() == 1 and remote.listed.count("experiments") == 1
        monkeypatch.setattr(index, "LISTING_SECONDS", 0.0)
        assert results.update() == 1 and remote.listed.count("experiments") == 2


def test_a_result_that_two_days_name_is_read_once(bucket):
    """As after a record that was stored again from the spool on the next day."""
    remote = Counted(bucket, remote=True)
    save_record(bucket, record(1))
    bucket.put(f"done/20990101/{record(1).id}", b"")
    with ResultIndex(remote, load_records) as results:
        assert [results.update() for _ in range(4)] == [1, 0, 0, 0]


def test_an_experiment_that_was_removed_and_run_again_has_its_new_result(tmp_path):
    import shutil

    bucket = open_bucket(f"file://{tmp_path}/bucket")
    save_record(bucket, record(1, FAILED))
    assert read_results(bucket, load_records)[0].status == FAILED
    shutil.rmtree(tmp_path / "bucket" / "experiments" / record(1).id)
    save_record(bucket, record(1))
    assert [item.status for item in read_results(bucket, load_records)] == [SUCCEEDED]
    shutil.rmtree(tmp_path / "bucket" / "experiments" / record(1).id)
    shutil.rmtree(tmp_path / "bucket" / "done")
    assert read_results(bucket, load_records) == []


def test_a_damaged_result_is_named_and_the_others_are_kept(tmp_path):
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    save_record(bucket, record(1))
    read_results(bucket, load_records)
    bucket.create("experiments/broken/result.json", b"{")
    with pytest.raises(DamagedObject, match=r"experiments/broken"):
        read_results(bucket, load_records)


def test_a_bucket_that_is_away_is_no_empty_one(tmp_path):
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    save_record(bucket, record(1))
    assert len(read_results(bucket, load_records)) == 1
    (tmp_path / "bucket").rename(tmp_path / "away")
    with pytest.raises(BucketError):
        read_results(bucket, load_records)
    (tmp_path / "away").rename(tmp_path / "bucket")
    assert len(read_results(bucket, load_records)) == 1


def test_a_damaged_index_is_made_anew_and_one_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    save_record(bucket, record(1))
    read_results(bucket, load_records)
    (file,) = (tmp_path / "cache" / "ideator_rl" / "index").glob("*.sqlite")
    file.write_bytes(b"no database at all " * 100)
    assert len(read_results(bucket, load_records)) == 1
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    assert len(read_results(bucket, load_records)) == 1


def test_an_index_with_a_damaged_page_is_made_anew(tmp_path):
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    noise = random.Random(1)
    records = [replace(record(n), idea=noise.randbytes(3000).hex()) for n in range(5)]
    for item in records:
        save_record(bucket, item)
    ids = [item.id for item in read_results(bucket, load_records)]
    (file,) = (tmp_path / "cache" / "ideator_rl" / "index").glob("*.sqlite")
    whole, page = file.read_bytes(), 4096
    anew = 0
    for start in range(0, len(whole), page):
        file.write_bytes(whole[:start] + bytes(page) + whole[start + page :])
        counted = Counted(bucket)
        assert sorted(item.id for item in read_results(counted, load_records)) == sorted(ids), start
        anew += bool(counted.read)
        assert len(read_results(counted := Counted(bucket), load_records)) == 5 and not counted.read
    assert anew > len(records)


@pytest.mark.parametrize("state", ["max_page_count = 1", "query_only = 1"])
def test_an_index_that_can_no_longer_be_written_continues_in_memory(tmp_path, state):
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    save_record(bucket, record(1))
    read_results(bucket, load_records)
    with ResultIndex(bucket, load_records) as results:
        results._db.execute(f"pragma {state}")
        save_record(bucket, replace(record(2), idea=random.Random(1).randbytes(9000).hex()))
        assert results.update() == 2 and results.statuses() == {SUCCEEDED: 2}
        assert record(1).id in results and results.update() == 0


def test_a_reader_of_an_index_that_is_made_anew_misses_no_later_result(tmp_path):
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    source = BucketSource(bucket)
    for number in range(3):
        save_record(bucket, record(number))
    assert len(list(source.new_records())) == 3
    (file,) = (tmp_path / "cache" / "ideator_rl" / "index").glob("*.sqlite")
    source._index._db.close()
    data = file.read_bytes()
    file.write_bytes(data[:4096] + bytes(len(data) - 4096))
    source._index._db = sqlite3.connect(file)
    save_record(bucket, record(3))
    assert [item.id for item, _ in source.new_records()] == [record(3).id]
    assert list(source.new_records()) == []


def test_an_index_is_never_on_a_network_file_system(tmp_path, monkeypatch):
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    assert index._index_file(bucket).is_relative_to(tmp_path)
    monkeypatch.setattr(files, "_is_shared", lambda folder: True)
    assert not index._index_file(bucket).is_relative_to(tmp_path / "cache")
