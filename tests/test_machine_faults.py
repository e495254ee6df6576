"""Faults of the machine, injected into the real worker: none of them may become the outcome of an idea."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TOY, replace_line

from ideator_rl.environments.data import Data
from ideator_rl.environments.environment import Resources
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store, worker
from ideator_rl.executor.executor import Executor, ExecutorConfig
from ideator_rl.executor.machine import MachineCheck, MachineFault
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.scoring import measurement
from ideator_rl.scoring.scoring import ScorerEnded, ScorerFailed, ScorerKilled, ScorerNotStarted, ScoringRun
from ideator_rl.storage.bucket import open_bucket

OWN_SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


class Machine:
    """A worker with scratch space, cache and bucket of its own."""

    def __init__(self, folder):
        self.folder, self.scratch, self.cache = folder, folder / "scratch", folder / "cache"
        self.environment = folder / "toy"
        shutil.copytree(TOY, self.environment)
        # Data, so that there is something to remove.
        manifest = (self.environment / "env.yaml").read_text()
        (self.environment / "env.yaml").write_text(manifest + "prepare: prepare.py\n")
        code = "def prepare(public, private, preset):\n    (public / 'a').write_text('a')\n    (private / 'b').write_text('b')\n"
        (self.environment / "prepare.py").write_text(code)
        evaluator = (self.environment / "evaluator.py").read_text()
        wait = "    import time\n    time.sleep(0.6)\n"
        body = evaluator.replace("def evaluate(run):\n", "def evaluate(run):\n" + wait)
        assert body != evaluator
        (self.environment / "evaluator.py").write_text(body)
        for made in (self.scratch, self.cache):
            made.mkdir(parents=True)
            made.chmod(0o755)
        self.bucket = open_bucket(f"file://{folder}/bucket")

    def submit(self, number, code="time.sleep(0.8)"):
        """Put an experiment into the bucket; returns its id."""
        before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = str(self.cache)
        try:
            config = ExecutorConfig(
                str(self.environment), "cpu", self.bucket.url, run_dir=str(self.folder), backend="bucket"
            )
            maker = Executor(config)
            patch = replace_line("time.sleep(pause)", f"{code}\nnumber = {number}\nopen('/data/a').read()")
            codebase = maker._codebases.of_patch(patch, "", "diff", trusted=False)
            spec = replace(maker._stage.spec(codebase, time.time(), 0), id=f"{number:032x}")
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before
        record_store.save_tree(self.bucket, codebase.tree_hash, codebase.tree)
        spec.save(self.bucket)
        return spec.id

    def start(self, id, *before):
        variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        variables |= {"TMPDIR": str(self.scratch), "XDG_CACHE_HOME": str(self.cache)}
        config = json.dumps({"bucket": self.bucket.url, "id": id, "isolation": "auto"})
        command = [*before, sys.executable, "-P", "-m", "ideator_rl.executor.worker", config]
        return subprocess.Popen(command, env=variables, stderr=subprocess.PIPE)

    def outcome(self, id):
        """The status of the record; else `lost` with the reason."""
        record = record_store.load_record(self.bucket, id)
        if record:
            return record.status, ""
        end = record_store.attempts(self.bucket, id)[-1].end
        return "lost", end.reason if end else "its worker died"


@pytest.fixture
def machine(tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and "pytest" in folder.name:
            folder.chmod(0o755)
    return Machine(tmp_path)


def in_tree(worker, *words):
    """The processes below a worker whose command line has all of these words."""
    for pid in process_tree.descendants(worker.pid)[1:]:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            yield pid


def wait_for(worker, *words):
    """The innermost of them, once there is one, a moment after its start."""
    until = time.monotonic() + 20
    while time.monotonic() < until and worker.poll() is None:
        pids = [pid for pid in in_tree(worker, *words) if "bwrap" not in Path(f"/proc/{pid}/comm").read_text()]
        if pids:
            time.sleep(random.uniform(0.3, 0.5))
            return pids[-1]
        time.sleep(0.02)
    raise AssertionError("it never ran")


def kill_script(machine, worker, rng):
    os.kill(wait_for(worker, "launch.py", "train.py"), rng.choice(OWN_SIGNALS))
    return None  # lost, if on a busy machine it comes before the mark


def kill_sandbox(machine, worker, rng):
    wait_for(worker, "launch.py", "train.py")
    os.kill(process_tree.descendants(worker.pid)[1], signal.SIGKILL)
    return None


def kill_evaluator(machine, worker, rng):
    os.kill(wait_for(worker, "scoring.evaluate"), signal.SIGKILL)
    return "lost"


def kill_worker(machine, worker, rng):
    wait_for(worker, "launch.py", "train.py")
    worker.kill()
    return "lost"


def remove_scratch(machine, worker, rng):
    wait_for(worker, "launch.py", "train.py")
    for folder in machine.scratch.glob("ideator-run-*"):
        shutil.rmtree(folder, ignore_errors=True)
    return "lost"


def remove_cache_while_it_is_scored(machine, worker, rng):
    wait_for(worker, "scoring.evaluate")
    shutil.rmtree(machine.cache / "ideator_rl" / "data")
    return None  # what is loaded by then is not needed any more: it may succeed


def remove_cache(machine, worker, rng):
    wait_for(worker, "launch.py", "train.py")
    shutil.rmtree(machine.cache / "ideator_rl" / "data")
    return "lost"


FAULTS = [
    kill_script,
    kill_sandbox,
    kill_evaluator,
    kill_worker,
    remove_scratch,
    remove_cache,
    remove_cache_while_it_is_scored,
]


def inject(machine, number, fault, rng):
    id = machine.submit(number)
    worker = machine.start(id)
    expected = fault(machine, worker, rng)
    _, errors = worker.communicate(timeout=60)
    status, reason = machine.outcome(id)
    assert expected is None or status == expected, (fault.__name__, status, reason, errors)
    assert status in ("succeeded", "lost") and "Traceback" not in reason, (fault.__name__, status, reason, errors)
    return status


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_machine_is_not_the_ideas(machine, fault):
    inject(machine, 1, fault, random.Random(0))


@pytest.mark.slow
def test_of_sixty_faults_of_the_machine_none_is_the_ideas(machine):
    rng, statuses = random.Random(7), Counter()
    for number in range(60):
        statuses[inject(machine, number, FAULTS[number % len(FAULTS)], rng)] += 1
    assert sum(statuses.values()) == 60 and not statuses.keys() - {"succeeded", "lost"}


def test_a_mount_that_fails_is_not_the_ideas(machine):
    id = machine.submit(1)
    [data] = (machine.cache / "ideator_rl" / "data").glob("toy-*")
    shutil.rmtree(data / "public")
    machine.start(id).communicate(timeout=60)
    status, reason = machine.outcome(id)
    assert status == "lost" and "did not start" in reason and "public" in reason


SMALL = 'mount -t tmpfs -o "$1" none "$2" && shift 2 && exec "$@"'


@pytest.mark.parametrize("options", ["size=8m", "nr_inodes=40", "size=40k"])
def test_a_scratch_folder_without_room_is_not_the_ideas(machine, options):
    """In a mount namespace of the worker's own."""
    prefix = ["unshare", "-m", "sh", "-c", SMALL, "sh", options, str(machine.scratch)]
    if subprocess.run(["unshare", "-m", "true"], check=False, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("cannot mount here")
    id = machine.submit(1)
    _, errors = machine.start(id, *prefix).communicate(timeout=60)
    status, reason = machine.outcome(id)
    assert status == "lost" and str(machine.scratch) in reason and "Traceback" not in reason, (reason, errors)


@pytest.mark.parametrize("own", ["os.kill(os.getpid(), 9)", "os._exit(137)"])
def test_an_experiment_that_kills_itself_is_run_once_more_and_then_failed(machine, own):
    id = machine.submit(1, f"open('ran', 'w').close()\n{own}")
    machine.start(id).communicate(timeout=60)
    record = record_store.load_record(machine.bucket, id)
    assert record.status == "failed" and record.reward is None and len(record_store.attempts(machine.bucket, id)) == 1


@pytest.mark.parametrize("own", ["raise SystemExit(3)", "os.abort()", "import shutil; shutil.rmtree('artifact')"])
def test_a_crash_is_the_ideas_at_once(machine, own):
    id = machine.submit(1, own)
    began = time.monotonic()
    machine.start(id).communicate(timeout=60)
    assert machine.outcome(id)[0] == "failed" and time.monotonic() - began < 60


def test_the_sandbox_is_chosen_before_the_attempt_is_claimed_and_its_fault_ends_the_attempt(machine, monkeypatch):
    """To make an image takes up to minutes, without heartbeats."""
    id, claimed = machine.submit(1), []

    def broken(*_):
        claimed.append(len(record_store.attempts(machine.bucket, id)))
        raise ValueError("no sandbox today")

    monkeypatch.setattr(worker, "choose_sandbox", broken)
    for name in ("become_subreaper", "host_identity"):
        monkeypatch.setattr(process_tree, name, lambda: "here")
    assert worker.main({"bucket": machine.bucket.url, "id": id}) == 1
    assert claimed == [0] and len(record_store.attempts(machine.bucket, id)) == 1
    assert "no sandbox today" in record_store.attempts(machine.bucket, id)[-1].end.reason


@pytest.fixture
def check(tmp_path, monkeypatch):
    """A check of a folder whose device has as much room as the test gives it."""
    device = SimpleNamespace(f_bavail=10**7, f_frsize=1000, f_files=10**6, f_favail=10**6)
    monkeypatch.setattr(os, "statvfs", lambda path: device)
    for name in ("public", "private", "run"):
        (tmp_path / name).mkdir()
    data = Data(tmp_path / "public", tmp_path / "private", ())
    return device, tmp_path / "run", lambda: MachineCheck(tmp_path / "run", Resources(disk_gb=1.0), data)


def test_a_run_needs_the_disk_that_it_may_use(check):
    device, _, new = check
    new().raise_fault()
    device.f_bavail = 0.9e6
    with pytest.raises(MachineFault, match="0.9 GB free.*may use 1 GB.*TMPDIR"):
        new()


def test_room_that_others_took_during_a_run_is_a_fault_but_what_the_run_took_itself_is_not(check):
    device, folder, new = check
    started = new()
    (folder / "big").write_bytes(bytes(50_000_000))
    device.f_bavail = 0.96e6
    started.raise_fault()
    device.f_bavail = 0.9e6
    with pytest.raises(MachineFault, match="free"):
        started.raise_fault()


def test_a_run_whose_workspace_is_in_memory_needs_the_disk_for_its_artifact_alone(check):
    device, folder, _ = check
    arguments = (folder, Resources(disk_gb=1.0), Data(folder.parent / "public", folder.parent / "private", ()))
    device.f_bavail = 0.3e6
    MachineCheck(*arguments, workspace_in_memory=True).raise_fault()
    device.f_bavail = 0.2e6
    with pytest.raises(MachineFault, match="0.2 GB free.*may use 0.27 GB"):
        MachineCheck(*arguments, workspace_in_memory=True)


def test_changed_data_and_a_removed_folder_are_faults(check):
    _, folder, new = check
    started = new()
    (folder.parent / "public" / "more").write_text("")
    with pytest.raises(MachineFault, match="prepared data"):
        started.raise_fault()
    started = new()
    folder.rmdir()
    folder.mkdir()
    if folder.stat().st_ino != started._identity[1]:
        with pytest.raises(MachineFault, match="was removed"):
            started.raise_fault()


def test_a_very_deep_folder_does_not_stop_the_look_at_it(check):
    _, folder, new = check
    started, here = new(), os.getcwd()
    os.chdir(folder)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)
    started.raise_fault()
    subprocess.run(["rm", "-rf", folder], check=True)


def scorer_error(tmp_path, body, preload=()):
    """What `open_scorer` raises for a model with this body of `load`."""
    tree, artifact = tmp_path / "tree", tmp_path / "artifact"
    for folder in (tree, artifact):
        folder.mkdir()
        folder.chmod(0o755)
    (tree / "model.py").write_text(f"import os, signal\ndef load(artifact):\n    {body}\n")
    run = ScoringRun(artifact, tmp_path, tmp_path, "cpu", 0, {}, 4, best_sandbox(), tree, "model:load", preload=preload)
    with pytest.raises(IdeatorError) as caught, run.open_scorer() as scorer:
        scorer.load()
    return caught.type


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("os.kill(os.getpid(), 9)", ScorerKilled),
        ("os._exit(3)", ScorerEnded),
        ("os.abort()", ScorerEnded),
        ("raise ValueError", ScorerFailed),
    ],
)
def test_a_scorer_that_a_signal_ended_is_told_from_one_that_broke(tmp_path, body, error):
    assert scorer_error(tmp_path, body) is error


def test_a_scorer_that_did_not_start_is_not_the_ideas(tmp_path):
    assert scorer_error(tmp_path, "pass", preload=("no_such_module",)) is ScorerNotStarted


@pytest.mark.parametrize(("second", "status"), [("succeeded", "succeeded"), ("killed", "failed")])
def test_a_measurement_whose_scorer_was_killed_is_made_once_more_only(monkeypatch, second, status):
    killed = measurement.Measurement("failed", "gone", killed=True)
    answers = iter([killed, killed if second == "killed" else measurement.Measurement("succeeded", value=1.0)])
    monkeypatch.setattr(measurement, "_measure_once", lambda *_: next(answers))
    subject = SimpleNamespace(with_another_audit=lambda: None)
    assert measurement.measure(subject).status == status
    assert next(answers, None) is None
