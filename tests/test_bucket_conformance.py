"""What every bucket guarantees, on each kind of store.  File, memory and moto are in the default run."""

import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import object_stores
import pytest
from fault_proxy import FaultProxy

from ideator_rl.storage.bucket import BucketError, FileBucket, bucket_at, check_url, credential_variables, open_bucket
from ideator_rl.storage.bucket_proof import PROOF

WRITERS, RACES = 8, 300
OTHERS = ["seaweedfs", "localbucket", "azurite", "gcs_stub"]


@pytest.fixture(scope="module")
def other_store(request):
    with getattr(object_stores, request.param)() as store:
        yield store


@pytest.fixture(params=["file", "memory", "moto"])
def bucket(request, tmp_path):
    if request.param == "moto":
        return open_bucket(request.getfixturevalue("s3_url"))
    return open_bucket(f"{request.param}://{tmp_path}/b")


@pytest.fixture
def other(other_store, monkeypatch):
    for name, value in other_store.variables.items():
        monkeypatch.setenv(name, value)
    return open_bucket(other_store.new_url())


def check_objects(bucket):
    assert bucket.get("a/b") is None and bucket.list("a") == {}
    assert bucket.create("a/b", b"one") and not bucket.create("a/b", b"two")
    # A writer that did not hear the answer asks again, and must learn that it has won.
    assert bucket.create("a/b", b"one")
    assert bucket.get("a/b") == b"one"
    bucket.put("a/b", b"three")
    bucket.put("a/c/d", b"")
    assert bucket.get_many(["a/b", "a/none", "a/c/d"]) == {"a/b": b"three", "a/c/d": b""} and bucket.get_many([]) == {}
    bucket.delete("a/b")
    bucket.delete("a/b")
    bucket.delete("none/at/all")
    assert bucket.get("a/b") is None and bucket.names("a") == ["c"]


def check_listing(bucket):
    names = ["k" * 200, "with space", "per%20cent", "ünï", "question?#", "tilde~+plus"]
    for name in names:
        assert bucket.create(f"odd/{name}", name.encode())
    assert bucket.names("odd") == sorted(names)
    assert bucket.get_many([f"odd/{name}" for name in names]) == {f"odd/{name}": name.encode() for name in names}
    bucket.put("odd/sub/deep/x", b"")
    listed = bucket.list("odd/")
    assert listed["sub"] == "" and all(listed[name] for name in names)
    # The version changes with the object, and with nothing else.
    assert bucket.list("odd") == listed
    bucket.put("odd/with space", b"anew")
    assert {name for name in listed if bucket.list("odd")[name] != listed[name]} == {"with space"}
    assert bucket.names("od") == [] and "odd" in bucket.names("")


def check_removed_folder(bucket):
    bucket.put("gone/x", b"")
    bucket.delete("gone/x")
    assert bucket.list("gone") == {} and bucket.get("gone") is None


def check_races(bucket, races, processes=False):
    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(races):
            key = f"race/{number}"
            won = list(pool.map(lambda writer, key=key: bucket.create(key, b"%d" % writer), range(WRITERS)))
            assert sum(won) == 1 and bucket.get(key) == b"%d" % won.index(True)
    assert len(bucket.list("race")) == races


def check_large(bucket):
    data = os.urandom(6 << 20)
    assert bucket.create("large", data) and bucket.get("large") == data and not bucket.create("large", data[:-1] + b"x")


def check_pages(bucket):
    """A store answers with a thousand names at most."""
    keys = [f"many/{number}" for number in range(1100)]
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda key: bucket.put(key, b"1"), keys))
    assert len(bucket.list("many")) == 1100 and len(bucket.get_many(keys)) == 1100


CHECKS = [check_objects, check_listing, check_removed_folder, check_large]


def test_a_bucket_keeps_its_guarantees(bucket):
    for check in CHECKS:
        if not (check is check_removed_folder and isinstance(bucket, FileBucket)):
            check(bucket)
    check_races(bucket, 10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("other_store", OTHERS, indirect=True)
def test_another_store_keeps_them(other):
    for check in [*CHECKS, check_pages]:
        check(other)
    check_races(other, 10)


@pytest.mark.slow
def test_many_races_have_one_winner_each(bucket):
    check_races(bucket, RACES)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("other_store", OTHERS, indirect=True)
def test_many_races_on_another_store_have_one_winner_each(other):
    check_races(other, RACES)


RACE = """
import os, sys
from ideator_rl.storage.bucket import open_bucket
bucket = open_bucket(sys.argv[1])
print(sum(bucket.create(f"p/{number}", sys.argv[2].encode()) for number in range(50)))
"""


def test_processes_race_for_objects_of_a_remote_bucket(s3_url):
    racers = [
        subprocess.Popen([sys.executable, "-c", RACE, s3_url, str(number)], stdout=subprocess.PIPE)
        for number in range(3)
    ]
    assert sum(int(racer.communicate()[0]) for racer in racers) == 50


@pytest.fixture
def proxied(moto_store, s3_url, monkeypatch):
    """A bucket behind a proxy, and the proxy."""
    with FaultProxy(moto_store.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield open_bucket(s3_url), proxy


def test_a_writer_whose_reply_is_lost_learns_that_it_won(proxied):
    bucket, proxy = proxied
    proxy.fail("lose_reply", "PUT", "claim")
    assert bucket.create("claim", b"mine") and bucket.get("claim") == b"mine"
    assert not bucket.create("claim", b"other")


def test_a_write_that_was_refused_as_a_conflict_is_stored_on_retry(proxied):
    bucket, proxy = proxied
    proxy.fail("409", "PUT", "claim", times=2)
    assert bucket.create("claim", b"mine") and bucket.get("claim") == b"mine"


def test_passing_errors_and_redirects_are_not_seen(proxied):
    bucket, proxy = proxied
    proxy.fail("500", "PUT", "a")
    bucket.put("a", b"1")
    proxy.fail("503", "GET", "a")
    proxy.fail("302", "GET", "a")
    assert bucket.get("a") == b"1"
    proxy.reset()
    proxy.fail("lose_request", "LIST")
    assert bucket.names("") == [".ideator", "a"] and proxy.counts() == {"LIST": 2}


def test_a_store_that_ignores_conditions_is_refused_in_one_sentence(moto_store, s3_url, monkeypatch):
    with FaultProxy(moto_store.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.fail("strip", "PUT", times=1000)
        with pytest.raises(BucketError, match=r"does not do conditional writes \(\d of 8 writers won\)"):
            open_bucket(moto_store.new_url(proved=False))


def test_a_bucket_is_proved_once(moto_store, s3_url, monkeypatch):
    with FaultProxy(moto_store.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        url = moto_store.new_url(proved=False)
        bucket = open_bucket(url)
        assert bucket.get(PROOF) and bucket.list(".ideator/proof") == {}
        proxy.reset()
        open_bucket(url)
        assert proxy.counts() == {"GET": 1}


def in_fork(url, queue):
    started = time.monotonic()
    try:
        open_bucket(url).get("x")
    except BucketError as error:
        queue.put((str(error), time.monotonic() - started))


def test_a_forked_process_gets_an_error_at_once(s3_url):
    """The client's threads do not survive a fork: without this, the child would wait for ever."""
    open_bucket(s3_url)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_fork, args=(s3_url, queue))
    child.start()
    try:
        message, seconds = queue.get(timeout=20)
    finally:
        child.kill()
        child.join()
    assert "forked" in message and "spawn" in message and seconds < 10


AFTER_IMPORT = """
import os, sys, threading
import ideator_rl.storage.object_store
from ideator_rl.storage.bucket import open_bucket
assert len(os.listdir("/proc/self/task")) == 1
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert open_bucket(sys.argv[1], proved=True).create("forked", b"1")
"""


def test_a_process_that_only_imported_the_client_can_fork_users_of_it(s3_url):
    """A zygote does."""
    assert subprocess.run([sys.executable, "-c", AFTER_IMPORT, s3_url], timeout=60).returncode == 0
    assert open_bucket(s3_url).get("forked") == b"1"


def test_the_bucket_of_a_store_that_is_missing_is_never_an_empty_one(s3_url):
    url = "s3://no-such-bucket/x"
    for call in (lambda: open_bucket(url), lambda: bucket_at(url)):
        with pytest.raises(BucketError, match="Create it at the store"):
            call()
    with pytest.raises(BucketError, match="no object"):
        bucket_at(s3_url + "/deeper")


@pytest.mark.parametrize(
    "url, reason",
    [
        ("ftp://lab/x", "unknown scheme"),
        ("s3:///x", "names no bucket"),
        ("s3://key:secret@lab/x", "environment variables"),
        ("s3://lab/x?region=y", "environment variables"),
        ("s3://lab/a/../b", "plain prefix"),
        ("s3://lab//b", "plain prefix"),
    ],
)
def test_a_url_that_can_be_no_bucket_is_refused_without_its_secrets(url, reason):
    with pytest.raises(BucketError, match=reason) as error:
        check_url(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "fault, todo",
    [
        ("403:RequestTimeTooSkewed", "The clock of this machine is wrong"),
        ("403:SignatureDoesNotMatch", "Set valid credentials"),
        ("403:AccessDenied", "the right to read, list, write and delete"),
        ("301:PermanentRedirect", "set AWS_REGION"),
        ("400:QuotaExceeded", "Free space at the store"),
    ],
)
def test_an_error_of_the_store_has_its_sentence_the_key_and_what_to_do(proxied, fault, todo):
    bucket, proxy = proxied
    proxy.fail(fault, "PUT", "a/b", times=99)
    with pytest.raises(BucketError) as error:
        bucket.create("a/b", b"")
    assert todo in str(error.value) and "create a/b in" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "variables, todo",
    [
        ({"AWS_SECRET_ACCESS_KEY": None}, "Set valid credentials"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9"}, "must begin with http"),
        ({"AWS_CA_BUNDLE": "/no/such/file"}, "Check the environment variables"),
    ],
)
def test_wrong_settings_are_refused_before_any_request(s3_url, monkeypatch, variables, todo):
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(BucketError, match=todo):
        open_bucket(s3_url)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("ideator_rl.storage.bucket.find_spec", lambda name: None)
    with pytest.raises(BucketError, match=r"pip install 'ideator-rl\[s3\]'"):
        check_url("s3://lab/x")


def test_workers_inherit_what_reaches_the_store_and_nothing_else(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "GOOGLE_SERVICE_ACCOUNT", "https_proxy", "SSL_CERT_FILE", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "x")
    assert {"AWS_ACCESS_KEY_ID", "GOOGLE_SERVICE_ACCOUNT", "https_proxy", "SSL_CERT_FILE"} <= set(
        credential_variables()
    )
    assert "WANDB_API_KEY" not in credential_variables()


def test_a_file_system_that_links_within_one_folder_only_is_used(tmp_path, monkeypatch):
    link = os.link

    def within_a_folder(source, target):
        if os.path.dirname(source) != os.path.dirname(target):
            raise OSError(18, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", within_a_folder)
    bucket = open_bucket(f"file://{tmp_path}/b")
    for check in (check_objects, check_listing):
        check(bucket)
    check_races(bucket, 5)
    assert bucket.names(".scratch") == []


def test_a_file_system_without_links_is_refused(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(BucketError, match="without hard links"):
        open_bucket(f"file://{tmp_path}/b")


def test_a_file_whose_link_was_made_before_an_error_is_ones_own(tmp_path, monkeypatch):
    bucket = open_bucket(f"file://{tmp_path}/b")

    def fail(folder):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("ideator_rl.storage.file_bucket.sync_folder", fail)
        with pytest.raises(BucketError):
            bucket.create("claim", b"nonce 1")
    assert bucket.create("claim", b"nonce 1") and not bucket.create("claim", b"nonce 2")
