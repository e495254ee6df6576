import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ideator_rl.storage.bucket import BucketError, FileBucket, open_bucket


@pytest.fixture(params=["file", "memory"])
def bucket(request, tmp_path):
    url = f"file://{tmp_path}/b" if request.param == "file" else f"memory://{tmp_path}"
    return open_bucket(url)


def test_an_object_is_created_once_and_read_back(bucket):
    assert bucket.get("a/b") is None
    assert bucket.create("a/b", b"one")
    assert not bucket.create("a/b", b"two")
    assert bucket.get("a/b") == b"one"


def test_put_replaces_and_names_lists_one_level(bucket):
    bucket.put("a/x/1", b"")
    bucket.put("a/y", b"old")
    bucket.put("a/y", b"new")
    assert bucket.get("a/y") == b"new"
    assert bucket.names("a") == ["x", "y"]
    assert bucket.names("nothing") == []


def test_a_race_of_threads_has_one_winner(bucket):
    with ThreadPoolExecutor(8) as pool:
        for round in range(20):
            won = list(pool.map(lambda i, r=round: bucket.create(f"race/{r}", str(i).encode()), range(8)))
            assert sum(won) == 1
            assert bucket.get(f"race/{round}") == str(won.index(True)).encode()


def test_a_race_of_processes_has_one_winner(tmp_path):
    code = (
        "import sys; from ideator_rl.storage.bucket import open_bucket; b = open_bucket(sys.argv[1]);"
        "print(sum(b.create(f'r/{i}', sys.argv[2].encode()) for i in range(100)))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, f"file://{tmp_path}/b", str(i)], stdout=subprocess.PIPE)
        for i in range(3)
    ]
    assert sum(int(p.communicate()[0]) for p in processes) == 100


def test_a_plain_path_is_a_file_bucket_with_a_url(tmp_path):
    assert open_bucket(str(tmp_path / "b")).url == f"file://{tmp_path}/b"


@pytest.mark.parametrize("url", ["http://lab/x", "ftp://a", "file://host/x"])
def test_a_scheme_without_a_proven_adapter_is_refused(url):
    with pytest.raises(BucketError, match="file"):
        open_bucket(url)


def test_a_bucket_that_cannot_be_written_is_an_error_with_advice(tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(BucketError, match="not writable"):
        open_bucket(f"file://{tmp_path}/taken")


def test_a_full_disk_is_reported_and_leaves_no_partial_object(tmp_path, monkeypatch):
    bucket = FileBucket(tmp_path / "b")

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BucketError, match="Free space"):
        bucket.create("x", b"data")
    monkeypatch.undo()
    assert bucket.get("x") is None
    assert bucket.names(".scratch") == []


def test_opening_removes_what_killed_writers_left_by_the_clock_of_the_file_system(tmp_path, monkeypatch):
    bucket = FileBucket(tmp_path / "b")
    scratch = tmp_path / "b" / ".scratch"
    bucket.create("x", b"data")
    os.link(tmp_path / "b" / "x", scratch / "linked")  # killed between the link and the end
    (scratch / "folder").mkdir()
    for name, hours in {"linked": 25, "old": 25, "folder": 25, "recent": 23}.items():
        if not (scratch / name).exists():
            (scratch / name).write_bytes(b"part of an object")
        age = os.stat(scratch / name).st_ctime - hours * 3600
        os.utime(scratch / name, (age, age))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)  # of a machine whose clock differs
    buckets = [FileBucket(tmp_path / "b") for _ in range(2)]
    assert sorted(os.listdir(scratch)) == ["folder", "recent"]
    assert buckets[1].get("x") == b"data"


def test_a_key_cannot_leave_the_bucket(tmp_path):
    with pytest.raises(BucketError, match="leaves the bucket"):
        FileBucket(tmp_path / "b").get("../other")


@pytest.mark.parametrize("instead", [None, "a file", "an empty folder"])
def test_a_bucket_that_is_away_is_an_error_and_is_not_created_again(tmp_path, instead):
    bucket = FileBucket(tmp_path / "b")
    bucket.create("x/y", b"data")
    (tmp_path / "b").rename(tmp_path / "away")
    if instead == "a file":
        (tmp_path / "b").write_text("")
    elif instead:
        (tmp_path / "b").mkdir()
    for ask in (bucket.get, bucket.names, lambda key: bucket.create(key, b""), lambda key: bucket.put(key, b"")):
        with pytest.raises(BucketError):
            ask("x/z")
    assert instead == "an empty folder" or not (tmp_path / "b").is_dir()
    if instead:
        (tmp_path / "b").unlink() if instead == "a file" else (tmp_path / "b").rmdir()
    (tmp_path / "away").rename(tmp_path / "b")
    assert bucket.get("x/y") == b"data" and bucket.get("x/z") is None and bucket.names("none") == []
    assert bucket.names(".scratch") == []


def test_deep_folders_are_created_on_demand(tmp_path):
    bucket = FileBucket(tmp_path / "b")
    assert bucket.create("a/b/c/d/e", b"1") and bucket.names("a/b/c/d") == ["e"]
    bucket.put("a/b/x/y", b"2")
    assert bucket.get("a/b/x/y") == b"2"


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_mark_is_listed_until_it_is_removed(tmp_path, scheme):
    bucket = open_bucket(f"{scheme}://{tmp_path}/b")
    bucket.put("queue/a", b"")
    bucket.put("queue/a", b"")
    assert bucket.names("queue") == ["a"] and bucket.get("queue/a") == b""
    bucket.delete("queue/a")
    bucket.delete("queue/a")
    assert bucket.names("queue") == []


def test_a_mark_does_not_make_a_bucket_that_is_away(tmp_path):
    bucket = open_bucket(f"file://{tmp_path}/b")
    (tmp_path / "b").rename(tmp_path / "away")
    with pytest.raises(BucketError):
        bucket.put("queue/a", b"")
    assert not (tmp_path / "b").exists()
