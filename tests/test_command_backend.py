"""The backend `command`, with an engine of our own on this machine."""

from __future__ import annotations

import json
import os
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
import scripted_engine

from ideator_rl.config.base import ConfigError
from ideator_rl.config.yaml_reader import dump_yaml
from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.executor.backends import command
from ideator_rl.executor.backends.backend import OVER, RUNNING, WAITING, Job, JobState, job_name
from ideator_rl.executor.backends.command import CommandBackend
from ideator_rl.storage.bucket import Bucket, open_bucket

SLEEP = "sh -c 'sleep 5' x"
"""A launcher that never starts the worker."""


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return open_bucket((tmp_path / "a bucket").as_uri())


def job(bucket: Bucket, id: str, **more: Any) -> Job:
    values = {"resources": Resources(), "minutes": 5, "isolation": "auto"} | more
    return Job(job_name(bucket.url, id, 0), id, bucket.url, **values)


def backend(bucket: Bucket, folder: Path, **more: Any) -> CommandBackend:
    return CommandBackend.create(bucket, None, "auto", scripted_engine.settings(folder, **more))


def calls(folder: Path, name: str) -> list[list[str]]:
    return [call[1:] for call in scripted_engine.calls(folder) if call[0] == name]


def test_jobs_are_submitted_listed_and_cancelled_by_name(bucket, tmp_path):
    engine = backend(bucket, tmp_path / "e", launcher=SLEEP)
    jobs = [job(bucket, "a1"), job(bucket, "b2")]
    assert engine.submit(jobs) == {jobs[0].name: None, jobs[1].name: None}
    [name, worker, log], _ = calls(tmp_path / "e", "submit")
    assert name == jobs[0].name and log == f"{tmp_path}/e/logs/{name}.log"
    # The shell that an engine starts is replaced by the worker, so that signals reach it.
    words = shlex.split(worker)
    assert words[:5] == ["exec", "sh", "-c", "sleep 5", "x"] and json.loads(words[-1]) == jobs[0].config
    assert all(state.state == RUNNING for state in (engine.listing() or {}).values())
    engine.cancel([job.name for job in jobs])
    [ids] = calls(tmp_path / "e", "cancel")
    assert len(ids) == 2
    _wait_until_over(engine, [job.name for job in jobs])


def _wait_until_over(engine: CommandBackend, names: list[str]) -> None:
    deadline = time.monotonic() + 10
    while engine.listing() != dict.fromkeys(names, JobState(OVER)):
        assert time.monotonic() < deadline


def test_a_second_process_submits_nothing_that_the_engine_has(bucket, tmp_path):
    jobs = [job(bucket, "a1"), job(bucket, "b2")]
    waits = {"launcher": SLEEP}
    backend(bucket, tmp_path / "e", **waits).submit(jobs)
    assert set(backend(bucket, tmp_path / "e", **waits).submit(jobs).values()) == {None}
    assert len(calls(tmp_path / "e", "submit")) == 2


def test_more_jobs_than_most_have_to_wait(bucket, tmp_path):
    engine = backend(bucket, tmp_path / "e", launcher=SLEEP, most=2)
    jobs = [job(bucket, str(number)) for number in range(4)]
    assert list(engine.submit(jobs)) == [jobs[0].name, jobs[1].name]
    assert engine.submit(jobs[2:]) == {}


def test_a_job_that_ended_is_over_and_its_name_can_be_sent_again(bucket, tmp_path):
    engine = backend(bucket, tmp_path / "e", python="/nowhere/python")
    first = job(bucket, "a1")
    for _ in range(2):
        assert engine.submit([first]) == {first.name: None}
        _wait_until_over(engine, [first.name])
    assert len(calls(tmp_path / "e", "submit")) == 2
    assert "/nowhere/python: not found" in engine.log_tail(first.name)


def test_a_job_that_the_engine_lists_late_counts_as_waiting(bucket, tmp_path, monkeypatch):
    engine = backend(bucket, tmp_path / "e", submit="true {name} {worker}")
    first = job(bucket, "a1")
    engine.submit([first])
    assert engine.listing() == {first.name: JobState(WAITING)}
    assert engine.submit([first]) == {first.name: None}
    monkeypatch.setattr(command, "GRACE_SECONDS", 0.0)
    assert engine.listing() == {}


def test_an_engine_that_is_away_is_left_alone_and_blames_no_job(bucket, tmp_path, monkeypatch, caplog):
    folder, first = tmp_path / "e", job(bucket, "a1")
    engine = backend(bucket, folder, launcher=SLEEP)
    assert engine.listing() == {}
    (folder / "fault").write_text("1 error: Unable to contact slurm controller (connect failure)")
    assert engine.submit([first]) == {}
    before = len(scripted_engine.calls(folder))
    assert engine.listing() is None and engine.submit([first]) == {}
    assert len(scripted_engine.calls(folder)) == before
    monkeypatch.setattr(command, "AWAY_SECONDS", 0.3)
    monkeypatch.setattr(engine, "_away_until", 0.0)
    assert engine.listing() is None and "Unable to contact slurm controller" in caplog.text
    (folder / "fault").unlink()
    deadline = time.monotonic() + 5
    while engine.submit([first]) != {first.name: None}:
        assert time.monotonic() < deadline


def test_a_submission_without_an_answer_is_listed_before_it_is_repeated(bucket, tmp_path, monkeypatch):
    folder, first = tmp_path / "e", job(bucket, "a1")
    hangs = scripted_engine.settings(folder)["submit"] + " && sleep 30"
    engine = backend(bucket, folder, submit=hangs, launcher=SLEEP, timeout=1)
    assert engine.submit([first]) == {}
    monkeypatch.setattr(engine, "_away_until", 0.0)
    assert engine.submit([first]) == {first.name: None}
    assert len(calls(folder, "submit")) == 1


def test_a_refused_job_is_an_error_with_the_engines_words(bucket, tmp_path):
    folder, jobs = tmp_path / "e", [job(bucket, "a1"), job(bucket, "b2")]
    engine = backend(bucket, folder)
    engine.listing()
    (folder / "fault").write_text("1 sbatch: error: invalid partition specified: nope")
    [(name, error)] = engine.submit(jobs).items()
    assert name == jobs[0].name and error is not None and "invalid partition specified: nope" in error
    (folder / "fault").write_text('1 Error from server (AlreadyExists): jobs.batch "x" already exists')
    assert engine.submit(jobs) == {jobs[0].name: None, jobs[1].name: None}


def test_a_job_asks_for_the_memory_of_its_files_too(bucket, monkeypatch):
    needs = Resources(memory_gb=3.5, tmp_gb=8, shm_gb=16, disk_gb=32)
    for uid, gigabytes in ((1000, 29), (0, 61)):  # root's workspaces may be in memory
        monkeypatch.setattr(os, "getuid", lambda uid=uid: uid)
        assert job(bucket, "a1", resources=needs).memory_gb == gigabytes


def test_a_batch_is_one_call_with_a_list_on_standard_input(bucket, tmp_path):
    engine = backend(bucket, tmp_path, batch=True, submit=f"cat >{shlex.quote(str(tmp_path))}/batch")
    jobs = [job(bucket, "a1"), job(bucket, "b2", resources=Resources(gpus=2, memory_gb=3.5))]
    assert set(engine.submit(jobs)) == {job.name for job in jobs}
    _, second = json.loads((tmp_path / "batch").read_text())
    assert second["name"] == jobs[1].name and second["gpus"] == 2 and second["memory_gb"] == jobs[1].memory_gb


def test_values_are_quoted_for_the_shell_and_as_json_on_standard_input(bucket, tmp_path):
    stdin = "name: {name}\nargs: {argv}\n{gpu}"
    engine = backend(
        bucket,
        tmp_path,
        submit=f"cat >{shlex.quote(str(tmp_path))}/in; : {{hardware}}",
        stdin=stdin,
        gpu="gpus: {gpus}\n",
    )
    one = job(bucket, "a1", hardware="a'b; touch here", resources=Resources(gpus=1))
    assert engine.submit([one]) == {one.name: None}
    name, arguments, gpus = (tmp_path / "in").read_text().splitlines()
    assert name == f'name: "{one.name}"' and gpus == "gpus: 1"
    assert json.loads(json.loads(arguments.removeprefix("args: "))[-1]) == one.config


def test_hosts_to_avoid_are_left_out_once_a_job_found_no_other(bucket, tmp_path):
    folder = tmp_path / "e"
    submit = scripted_engine.settings(folder)["submit"]
    engine = backend(bucket, folder, submit=f"{submit} {{exclude}}", exclude="--exclude={hosts}", python="/nowhere")
    one = job(bucket, "a1", avoid=("n1", "n2"))
    # The scripted engine takes three arguments: the first submission is refused, the second has none to avoid.
    assert engine.submit([one]) == {one.name: None}
    assert [len(call) for call in calls(folder, "submit")] == [4, 3]
    assert calls(folder, "submit")[0][3] == "--exclude=n1,n2"


def test_cancel_from_another_process_ends_all_jobs_with_two_calls(bucket, tmp_path, call):
    folder = tmp_path / "e"
    settings = scripted_engine.settings(folder, launcher=SLEEP)
    (tmp_path / "engine.yaml").write_text(dump_yaml(settings))
    jobs = [job(bucket, f"a{number}") for number in range(6)]
    for one in jobs:
        record_store.enqueue(bucket, record_store.QueueEntry(one.id, one.resources, one.minutes))
    CommandBackend.create(bucket, None, "auto", settings).submit(jobs)
    before = len(scripted_engine.calls(folder))
    options = ("--backend", "command", "--backend-config", tmp_path / "engine.yaml", "--json")
    code, out, _ = call("cancel", bucket.url, *options)
    facts = json.loads(out)
    assert (
        code == 0 and facts["jobs"] == [one.name for one in jobs] and facts["experiments"] == [one.id for one in jobs]
    )
    assert [call[0] for call in scripted_engine.calls(folder)[before:]] == ["list", "cancel"]
    assert bucket.list("queue") == {} and all(record_store.cancel_requested(bucket, one.id) for one in jobs)


def test_no_value_of_a_variable_is_in_a_command(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-seen")
    monkeypatch.setenv("OTHER_KEY", "not-passed")
    submit = f"echo {{exports}} >{shlex.quote(str(tmp_path))}/exports; : {{name}} {{worker}}"
    engine = backend(bucket, tmp_path, submit=submit, variables=["AWS_SECRET_ACCESS_KEY"], python="/other/python")
    engine.submit([job(bucket, "a1")])
    names = (tmp_path / "exports").read_text().strip().split(",")
    assert {"AWS_SECRET_ACCESS_KEY", "PATH", "HOME"} <= set(names)
    assert not {"OTHER_KEY", "PYTHONPATH"} & set(names) and "not-to-be-seen" not in str(names)
    with pytest.raises(IdeatorError, match="NOT_SET_HERE to workers, but it is not set"):
        backend(bucket, tmp_path, variables=["NOT_SET_HERE"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"submit": "sbatch {nmae} {worker}"}, r"in submit the unknown value {nmae}\. Did you mean 'name'"),
        ({"submit": "sbatch {name}"}, "without {worker}"),
        ({"list": ""}, "an empty 'list'"),
        ({"over": "("}, "Expected a regular expression"),
        ({"every": 0}, "every: 0. Expected a number above 0"),
        ({"sumbit": "x"}, "unknown key 'sumbit'. Did you mean 'submit'"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_a_sentence(bucket, tmp_path, more, message):
    with pytest.raises(ConfigError, match=message):
        backend(bucket, tmp_path, **more)


@pytest.mark.parametrize(
    ("text", "state", "reason"),
    [
        ("PENDING Priority", WAITING, "Priority"),
        ("COMPLETING None", RUNNING, ""),
        ("Running", RUNNING, ""),
        ("COMPLETED None", OVER, ""),
        ("SUCCEEDED", OVER, ""),
        ("PREEMPTED None", OVER, "preempted"),
        ("NODE_FAIL None", OVER, "node_fail"),
        ("BOOT_FAIL None", OVER, "node_fail"),
        ("TIMEOUT TimeLimit", OVER, "timeout"),
        ("Failed DeadlineExceeded", OVER, "timeout"),
        ("CANCELLED None", OVER, "cancelled"),
        ("OUT_OF_MEMORY OutOfMemory", OVER, "failed"),
        ("FAILED NonZeroExitCode", OVER, "failed"),
    ],
)
def test_states_of_engines_are_read(bucket, tmp_path, text, state, reason):
    engine = backend(bucket, tmp_path)
    assert engine.settings.state(text) == JobState(state, reason)
