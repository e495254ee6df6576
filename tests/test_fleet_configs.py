"""The shipped configurations of engines, with programs on PATH in place of the engines that record how they are called."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ideator_rl.config.yaml_reader import read_yaml
from ideator_rl.environments.environment import Resources
from ideator_rl.executor.backends import Backend, backend_class
from ideator_rl.executor.backends.backend import Job, job_name
from ideator_rl.storage.bucket import open_bucket

CONFIGS = {path.stem: path for path in (Path(__file__).parent.parent / "recipes" / "fleet").glob("*.yaml")}
PROGRAMS = ("sbatch", "squeue", "scancel", "kubectl", "sky", "hf", "aws", "ssh", "python3")
PROGRAM = """#!{python} -S
import json, sys
from pathlib import Path
here = Path(__file__).parent
words = [Path(__file__).name, *sys.argv[1:]]
with open(here / "calls", "a") as file:
    file.write(json.dumps([words, "" if sys.stdin.isatty() else sys.stdin.read()]) + "\\n")
if set(words) & {{"queue", "squeue", "get", "ps", "list-jobs", "-c"}} or "for file" in words[-1]:
    print((here / "listing").read_text(), end="")
"""
LISTINGS = {
    "kubernetes": ("{0} Running\n{1} Failed:DeadlineExceeded,\n", ["running", "timeout"]),
    "skypilot": ("{0} RECOVERING\n{1} FAILED_SETUP\n", ["waiting", "failed"]),
    "hf_jobs": ("{0} SCHEDULING\n{1} CANCELED\n", ["waiting", "cancelled"]),
    "aws_batch": (
        "{0}\tRUNNABLE\tNone\n{1}\tFAILED\tHost EC2 (instance i-1) terminated: spot\n",
        ["waiting", "preempted"],
    ),
    "ssh": ("{0} RUNNING\n{1} OVER\n", ["running", ""]),
}
LISTINGS |= dict.fromkeys(
    ("slurm", "slurm_apptainer", "slurm_pyxis"), ("{0} RUNNING None\n{1} PREEMPTED None\n", ["running", "preempted"])
)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch):
    """A folder of programs, first on PATH: they record their calls in `calls`, and print `listing`."""
    for name in PROGRAMS:
        (tmp_path / name).write_text(PROGRAM.format(python=sys.executable))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "listing").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def calls(folder: Path) -> list[tuple[list[str], str]]:
    file = folder / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return [(words, text) for words, text in map(json.loads, lines)]


def create(config: str, folder: Path) -> Backend:
    settings = read_yaml(CONFIGS[config]) | {"logs": str(folder / "logs")}
    bucket = open_bucket((folder / "bucket").as_uri())
    name = "command" if "submit" in settings else "slurm"
    return backend_class(name).create(bucket, None, "auto", settings)


def jobs(folder: Path) -> list[Job]:
    url = (folder / "bucket").as_uri()
    needs = [Resources(), Resources(cpus=8, gpus=2, memory_gb=63.5)]
    return [Job(job_name(url, f"e{n}", 0), f"e{n}", url, "auto", need, 90) for n, need in enumerate(needs)]


def test_every_configuration_has_a_listing_here_and_says_in_line_1_whether_it_was_proved():
    assert set(CONFIGS) == set(LISTINGS)
    proved = {name for name, path in CONFIGS.items() if path.read_text().startswith("# Proved ")}
    assert proved == {"slurm", "ssh"}
    assert all(path.read_text().startswith(("# Proved ", "# Not proved ")) for path in CONFIGS.values())


@pytest.mark.parametrize("config", sorted(CONFIGS))
def test_jobs_are_listed_with_their_states(config, engine):
    backend, [first, second] = create(config, engine), jobs(engine)
    text, [*expected] = LISTINGS[config]
    (engine / "listing").write_text(text.format(first.name, second.name) + "another RUNNING\n")
    states = backend.listing()
    assert states is not None and set(states) == {first.name, second.name}
    assert [states[first.name].state, states[second.name].reason] == expected
    assert states[second.name].state == "over"


@pytest.mark.parametrize("config", sorted(CONFIGS))
def test_a_submission_names_the_job_what_it_needs_and_the_worker(config, engine):
    backend, [small, large] = create(config, engine), jobs(engine)
    backend.listing()
    calls(engine)
    assert backend.submit([small]) == {small.name: None}
    assert backend.listing() is not None
    [(words, text), *_] = calls(engine)
    everything = " ".join(words) + text
    assert small.name in everything and "gpu" not in " ".join(words[3:5]).lower()
    # The worker's configuration arrives whole, whatever quotes it went through.
    assert json.dumps(small.config) in everything or json.dumps(small.config) in everything.replace('\\"', '"')
    # One that is full has room again once its job is over.
    if backend.submit([large]) == {large.name: None}:
        assert any(large.name in " ".join(words) + text for words, text in calls(engine))


@pytest.mark.parametrize("config", sorted(CONFIGS))
def test_jobs_are_cancelled_by_name_or_by_the_id_of_the_listing(config, engine):
    backend, both = create(config, engine), jobs(engine)
    (engine / "listing").write_text("".join(f"{job.name}=id-{job.id} RUNNING\n" for job in both))
    backend.cancel([job.name for job in both])
    everything = " ".join(" ".join(words) for words, _ in calls(engine))
    assert all(job.name in everything or f"id-{job.id}" in everything for job in both)


def test_slurm_gets_options_for_gpus_memory_time_and_containers(engine):
    settings = {
        "partition": "big",
        "account": "lab",
        "launcher": "apptainer exec --nv a.sif",
        "options": ["--exclusive"],
    }
    url = (engine / "bucket").as_uri()
    backend = backend_class("slurm").create(open_bucket(url), None, "auto", settings | {"logs": str(engine / "l")})
    large = jobs(engine)[1]
    backend.submit([large])
    words = calls(engine)[1][0]
    assert words[0] == "sbatch" and words[-2] == "--wrap" and words[-1].startswith("exec apptainer exec --nv a.sif /")
    wanted = {"--partition=big", "--account=lab", "--exclusive", "--cpus-per-task=8", "--gpus-per-node=2"}
    assert wanted | {f"--mem={large.memory_gb}G", "--time=90", "--signal=B:TERM@30", "--no-requeue"} <= set(words)


def test_kubernetes_gets_a_manifest_that_yaml_reads(engine, tmp_path):
    backend, both = create("kubernetes", engine), jobs(engine)
    backend.submit(both)
    for job, (_, text) in zip(both, calls(engine)[1:], strict=True):
        (tmp_path / "manifest").write_text(text)
        manifest = read_yaml(tmp_path / "manifest")
        [container] = manifest["spec"]["template"]["spec"]["containers"]
        assert manifest["metadata"]["name"] == job.name and manifest["spec"]["activeDeadlineSeconds"] == 5400
        assert container["command"] == job.argv("/opt/venv/bin/python")
        assert container["resources"]["limits"].get("nvidia.com/gpu", 0) == job.resources.gpus


def test_aws_batch_gets_json(engine):
    backend, both = create("aws_batch", engine), jobs(engine)
    backend.submit(both)
    for job, (_, text) in zip(both, calls(engine)[1:], strict=True):
        request = json.loads(text)
        needs = {need["type"]: need["value"] for need in request["containerOverrides"]["resourceRequirements"]}
        assert request["jobName"] == job.name and needs.get("GPU", "0") == str(job.resources.gpus)
        assert request["containerOverrides"]["command"] == job.argv("/opt/venv/bin/python")
