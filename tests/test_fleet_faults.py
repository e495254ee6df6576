"""Faults of a fleet: one sentence where the user looks, nothing lost, and no traceback."""

import logging

import pytest
from conftest import sentence

from ideator_rl.cli import commands
from ideator_rl.errors import IdeatorError
from ideator_rl.executor.backends import backend_class
from ideator_rl.executor.backends.backend import Backend
from ideator_rl.executor.jobs import Jobs
from ideator_rl.storage.bucket import open_bucket

WORDS = {"submit": "echo {name} {worker}", "list": "true", "cancel": "true"}


@pytest.fixture
def call(capsys):
    def run(*argv):
        code = commands.main([str(word) for word in argv])
        return code, sentence(code, capsys.readouterr().err)

    return run


@pytest.mark.parametrize(
    ("templates", "expected"),
    [
        ({"list": "nosuchengine jobs"}, "calls 'nosuchengine' to list jobs, and there is no such program here"),
        ({"submit": "./absent.sh {name} {worker}"}, "calls './absent.sh' to submit jobs"),
        ({"cancel": "nosuchengine {ids}"}, "calls 'nosuchengine' to cancel jobs"),
        ({"cancel": "for id in {ids}; do true; done"}, None),
        ({"submit": "A=1 nosuchengine {name} {worker}"}, None),
    ],
)
def test_an_engine_without_its_program_is_refused_before_anything_is_sent(templates, expected):
    backend, bucket = backend_class("command"), open_bucket("memory://no-program")
    if expected is None:
        return backend.create(bucket, 1, "auto", WORDS | templates).close()
    with pytest.raises(IdeatorError, match=expected):
        backend.create(bucket, 1, "auto", WORDS | templates)


class RefusingBackend(Backend):
    every = 1.0

    def submit(self, jobs):
        return {job.name: "The engine refused the job: no quota" for job in jobs}


def test_why_no_attempt_begins_is_reported_at_the_first_refusal_and_once(caplog):
    jobs = Jobs(RefusingBackend(), "memory://refused", "auto")

    class Item:
        submitted, unclaimed = 0.0, 0

    with caplog.at_level(logging.WARNING):
        for words in ("no quota", "no quota", "", "no account"):
            jobs.count_unclaimed(Item(), words)
    assert [record.args[0] for record in caplog.records] == ["no quota", "no account"]


def test_a_worker_names_a_wrong_end_of_its_slurm_job(call, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_END_TIME", "soon")
    code, text = call("worker", "--bucket", tmp_path, "--slots", "1", "--idle", "0")
    assert code == 2 and text.startswith("ideator-rl: SLURM_JOB_END_TIME is 'soon'. Expected Unix seconds")


@pytest.mark.parametrize("command", ["export"])
def test_a_command_for_runs_names_those_for_buckets(call, tmp_path, command):
    (tmp_path / "experiments").mkdir()
    for target in (tmp_path, "s3://lab/run1"):
        code, text = call(command, target, "--out", tmp_path / "out")
        assert code == 2 and "`ideator-rl track`" in text
    (tmp_path / "experiments").rmdir()
    assert "`ideator-rl track`" not in call(command, tmp_path, "--out", tmp_path / "out")[1]


def test_a_scheme_in_capitals_is_the_same_bucket(s3_url):
    assert open_bucket(s3_url.replace("s3:", "S3:")).url == s3_url


@pytest.mark.parametrize("beat", [b"", b"\0" * 40, b'{"attempt": 0}', b"[1]"])
def test_a_heartbeat_that_a_power_failure_cut_hides_nothing_else(tmp_path, capsys, beat):
    bucket = open_bucket(str(tmp_path))
    bucket.put("beats/a", beat)
    bucket.create("experiments/b/spec.json", b"{}")
    assert commands.main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "1 waiting\n"
