"""Experiments whose bucket is in an object store, by the commands that a user calls."""

import json

import pytest
from conftest import TOY, replace_line

from ideator_rl.storage.bucket import bucket_at

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SPY = replace_line("x = 4.0", "x = 2.0\nprint('seen:', [name for name in os.environ if name.startswith('AWS')])")


@pytest.mark.parametrize("start", ["forked", "cold"])
def test_an_experiment_runs_once_and_its_record_is_that_of_a_file_bucket(call, s3_url, tmp_path, start):
    (tmp_path / "p.diff").write_text(SPY)
    words = ("execute", TOY, "--diff", tmp_path / "p.diff", "--start", start, "--json")
    code, out, err = call(*words, "--bucket", s3_url)
    assert code == 0 and s3_url in err
    remote = json.loads(out)
    local = json.loads(call(*words, "--bucket", f"file://{tmp_path}/bucket")[1])
    same = ("id", "status", "metric", "reward", "isolation", "hashes", "patch")
    assert {key: remote[key] for key in same} == {key: local[key] for key in same}
    # The worker reached the store by variables that the experiment did not see.
    assert "seen: []" in remote["log"]
    again = json.loads(call(*words, "--bucket", s3_url)[1])
    assert again["replayed"] and again["attempt"] == 0
    status = json.loads(call("status", s3_url, "--json")[1])
    assert status["statuses"] == {"succeeded": 1}
    bucket = bucket_at(s3_url)
    assert not bucket.list("queue") and not bucket.list("beats")


def test_a_scheduler_of_another_process_runs_what_a_remote_bucket_waits_for(call, s3_url, tmp_path):
    code, _, err = call("scheduler", "--bucket", s3_url, "--once")
    assert code == 0 and "Traceback" not in err
    code, _, err = call("status", s3_url + "-none")
    assert code == 2 and "no object in the bucket" in err
