import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import TOY, execute, experiment_runs_below, replace_line, sentence

from ideator_rl.cli import cancel
from ideator_rl.cli.commands import main
from ideator_rl.cli.execute import MAX_LINES, shown_lines
from ideator_rl.cli.target import Process
from ideator_rl.environments.environment import Resources
from ideator_rl.executor import record_store
from ideator_rl.executor.backends import local
from ideator_rl.reward_buffer import BufferConfig
from ideator_rl.sandbox import process_tree
from ideator_rl.storage.bucket import open_bucket

GOOD = "[Experiment] Move x. [Code Changes] Set x to 2.0. [End]"
HEIGHT = 0.5 + 1 + 36 + 0.1


def test_an_executed_idea_is_printed_as_one_object_with_the_documented_keys(call, tmp_path):
    code, out, _ = execute(call, tmp_path, "--idea", GOOD)
    record = json.loads(out)
    wanted = {"id", "status", "metric", "reward", "error", "seconds", "patch", "log", "isolation"}
    assert code == 0 and wanted <= set(record) and record["status"] == "succeeded"
    assert record["metric"] == {"name": "height", "value": pytest.approx(HEIGHT), "direction": "min"}
    assert {"implement", "queue", "run", "score"} <= set(record["seconds"])


def test_baseline_diff_and_ideas_are_executed_alike(call, tmp_path):
    assert json.loads(execute(call, tmp_path, "--baseline")[1])["metric"]["value"] == pytest.approx(45.6)
    (tmp_path / "p.diff").write_text(replace_line("x = 4.0", "x = 2.0"))
    assert json.loads(execute(call, tmp_path, "--diff", tmp_path / "p.diff")[1])["metric"]["value"] == pytest.approx(
        HEIGHT
    )
    lines = [json.dumps(GOOD), json.dumps({"idea": GOOD}), json.dumps({"completion": "no idea"})]
    (tmp_path / "ideas.jsonl").write_text("\n".join(lines))
    code, out, _ = execute(call, tmp_path, "--ideas", tmp_path / "ideas.jsonl")
    statuses = [json.loads(line)["status"] for line in out.splitlines()]
    assert code == 1 and statuses == ["succeeded", "succeeded", "malformed"]


def test_shells_and_make_find_this_python_by_its_name(call, tmp_path):
    check = "__import__('subprocess').check_output(['sh', '-c', 'python -c \"print(2.0)\"'])"
    (tmp_path / "p.diff").write_text(replace_line("x = 4.0", f"x = float({check})"))
    code, out, _ = execute(call, tmp_path, "--diff", tmp_path / "p.diff")
    assert code == 0 and json.loads(out)["metric"]["value"] == pytest.approx(HEIGHT)


def test_a_patch_on_the_evaluator_is_rejected_and_names_it(call, tmp_path):
    (tmp_path / "p.diff").write_text("--- /dev/null\n+++ b/lib/evaluator.py\n@@ -0,0 +1 @@\n+x = 1\n")
    code, out, _ = execute(call, tmp_path, "--diff", tmp_path / "p.diff")
    record = json.loads(out)
    assert code == 1 and record["status"] == "rejected" and "lib/evaluator.py" in record["error"]["message"]


def test_replicates_run_under_seeds_of_their_own(call, tmp_path):
    code, out, _ = execute(call, tmp_path, "--baseline", "--replicates", "2")
    assert code == 0 and len({json.loads(line)["id"] for line in out.splitlines()}) == 2


def test_a_long_patch_is_cut_for_a_person():
    assert shown_lines("+x\n" * MAX_LINES) == ["+x"] * MAX_LINES
    assert shown_lines("+x\n" * (MAX_LINES + 9))[MAX_LINES:] == ["… and 9 more lines; --json prints all"]


def test_the_human_text_shows_metric_patch_and_reason(call, tmp_path):
    bucket = f"file://{tmp_path}/bucket"
    _, out, err = call("execute", TOY, "--bucket", bucket, "--idea", GOOD)
    assert "succeeded  height 37.6" in out and "+x = 2.0" in out and "implementer: rules" in err
    _, out, _ = call("execute", TOY, "--bucket", bucket, "--idea", "[Experiment] Fly. [Code Changes] Fly. [End]")
    assert "unpatchable" in out and "names no edit" in out


def test_patch_writes_a_new_folder_and_refuses_what_does_not_apply(call, tmp_path):
    (tmp_path / "p.diff").write_text(replace_line("x = 0.0", "x = 2.0"))
    argv = ("patch", "--base", TOY / "baseline", "--diff", tmp_path / "p.diff", "--env", TOY)
    code, out, _ = call(*argv, "--out", tmp_path / "new")
    assert code == 0 and "+x = 2.0" in out and "x = 2.0" in (tmp_path / "new" / "train.py").read_text()
    code, _, err = call(*argv, "--out", tmp_path / "new")
    assert "exists already" in sentence(code, err)
    code, _, err = call(*argv, "--out", "/proc/nowhere/new")
    assert "/proc/nowhere" in sentence(code, err)
    (tmp_path / "p.diff").write_text(replace_line("w = 0.0", "w = 2.0"))
    code, out, _ = call(*argv, "--out", tmp_path / "other", "--json")
    answer = json.loads(out)
    assert code == 1 and answer["status"] == "unpatchable" and "w = 0.0" in answer["error"]["message"]
    assert not (tmp_path / "other").exists()


def test_environments_are_listed_shown_and_written_as_a_dataset(call, tmp_path):
    assert "nanogpt" in [row["name"] for row in json.loads(call("env", "list", "--json")[1])]
    assert "preset   cpu" in call("env", "show", "nanogpt")[1]
    code, out, _ = call("env", "show", TOY, "--dataset", tmp_path / "data" / "d.jsonl")
    assert code == 2
    code, out, _ = call("env", "show", TOY, "--dataset", tmp_path / "d.jsonl", "--rows", "3")
    rows = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert code == 0 and len(rows) == 3 and "execution_reward" in out
    assert rows[0]["preset"] == "cpu" and rows[0]["bucket"] == f"file://{tmp_path}/.bucket" and rows[0]["prompt"]
    code, _, err = call("env", "show", TOY, "--dataset", tmp_path / "d.jsonl")
    assert "nothing is overwritten" in sentence(code, err)


def test_a_dataset_names_the_implementer_that_its_reward_opens(call, tmp_path):
    for options, expected in (((), "rules"), (("--implementer", "direct"), "direct")):
        file = tmp_path / f"{expected}.jsonl"
        assert call("env", "show", TOY, "--dataset", file, *options)[0] == 0
        assert BufferConfig.of_row(json.loads(file.read_text().splitlines()[0])).implementer == expected
    code, _, err = call("env", "show", TOY, "--dataset", tmp_path / "x.jsonl", "--implementer", "dirct")
    assert "direct" in sentence(code, err) and not (tmp_path / "x.jsonl").exists()


def test_a_dataset_and_the_bucket_next_to_it_can_be_loaded_from_one_folder(call, tmp_path):
    """TRL loads a folder, and what it trained on has left records there when a run is resumed."""
    code, _, err = call("env", "show", TOY, "--dataset", tmp_path / "d.jsonl", "--bucket", f"file://{tmp_path}/b")
    assert "TRL would load its records as data" in sentence(code, err) and not list(tmp_path.iterdir())
    call("env", "show", TOY, "--dataset", tmp_path / "d.jsonl", "--rows", "3")
    call("execute", TOY, "--bucket", tmp_path / ".bucket", "--idea", "none")
    assert list((tmp_path / ".bucket").rglob("*.json"))
    code = f"from datasets import load_dataset; print(len(load_dataset({str(tmp_path)!r})['train']))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"HF_HOME": f"{tmp_path}/.hf"}
    )
    assert loaded.stdout.strip() == "3", loaded.stderr[-500:]


def test_doctor_shows_the_sandbox_tests_the_bucket_and_hides_keys(call, monkeypatch, tmp_path):
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code, out, _ = call("doctor", "--json")
    facts = json.loads(out)
    assert facts["bucket"].startswith("create-once holds") and not list(Path(cache).rglob("proof/*"))
    assert facts["sandbox"] in ("bwrap", "namespaces", "none") and code == (1 if facts["sandbox"] == "none" else 0)
    assert set(facts["seals"].values()) <= {"yes"} or facts["sandbox"] != "bwrap"
    assert facts["slots_in_use"] == 0
    local.slots_folder().mkdir(mode=0o700, exist_ok=True)
    handle = os.open(local.slots_folder() / "cpu0", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert json.loads(call("doctor", "--json")[1])["slots_in_use"] == 1
    os.close(handle)
    assert facts["keys"]["HF_TOKEN"] == "set" and "hf_secret" not in out + call("doctor")[1]


def test_status_counts_the_experiments_of_a_bucket_and_refuses_an_unknown_target(call, tmp_path):
    execute(call, tmp_path, "--idea", GOOD)
    execute(call, tmp_path, "--idea", "none")
    facts = json.loads(call("status", tmp_path / "bucket", "--json")[1])
    assert facts["statuses"] == {"succeeded": 1, "malformed": 1} and facts["running"] == []
    for errors in (tmp_path / "gone", f"file://{tmp_path}/gone"):
        code, _, err = call("status", errors)
        assert "neither a run nor a bucket" in sentence(code, err)
    assert not (tmp_path / "gone").exists()


def test_a_cancelled_experiment_ends_and_runs_again_only_when_it_is_requested_again(call, tmp_path):
    (tmp_path / "slow.diff").write_text(replace_line("time.sleep(pause)", "time.sleep(3)"))
    argv = [sys.executable, "-m", "ideator_rl.cli", "execute", str(TOY), "--diff", str(tmp_path / "slow.diff")]
    child = subprocess.Popen([*argv, "--bucket", f"file://{tmp_path}/bucket"], stdout=subprocess.DEVNULL)
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    deadline = time.monotonic() + 90
    while not (running := [a for id in bucket.names("experiments") if (a := record_store.running_attempt(bucket, id))]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while not (bucket.list("beats") and experiment_runs_below(running[0].claim.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(running[0].claim.pid, signal.SIGSTOP)  # else it may be done before it is cancelled
    child.kill()
    child.wait()
    facts = json.loads(call("status", tmp_path / "bucket", "--json")[1])
    assert [row["attempt"] for row in facts["running"]] == [0]
    code, out, _ = call("cancel", tmp_path / "bucket")
    assert code == 0 and "cancelled 1 experiments" in out and "1 workers ended on this machine" in out
    code, out, _ = call("scheduler", "--bucket", tmp_path / "bucket", "--once")
    assert code == 0 and "succeeded" not in out
    code, out, _ = call(*argv[3:], "--bucket", f"file://{tmp_path}/bucket")
    assert code == 0 and "succeeded" in out


def claimed(bucket, id, pid, start):
    """An experiment that a process claimed."""
    spec = {"environment": "toy", "digest": "d", "preset": "cpu", "seed": 0, "replicate": 0, "tree": "t", "idea": "i"}
    spec |= {"patch": "", "implementer": "rules", "trusted": True, "hardware": "h", "implement_seconds": 0.0}
    record_store.Spec(id=id, created=0.0, **spec).save(bucket)
    claim = {"host": "here", "place": process_tree.host_identity(), "pid": pid, "start": start, "time": time.time()}
    bucket.create(f"experiments/{id}/attempts/0/claim.json", json.dumps(claim).encode())
    record_store.enqueue(bucket, record_store.QueueEntry(id, Resources(), 5))


def test_cancel_ends_the_claiming_process_and_not_another_with_the_same_pid(call, tmp_path):
    bucket = open_bucket(str(tmp_path / "bucket"))
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    starts = [process_tree.start_time(sleeper.pid) for sleeper in sleepers]
    claimed(bucket, "own", sleepers[0].pid, starts[0])
    claimed(bucket, "other", sleepers[1].pid, "1")
    threading.Thread(target=sleepers[0].wait, daemon=True).start()
    try:
        code, out, _ = call("cancel", tmp_path / "bucket", "--json")
        facts = {"trainer": None, "experiments": ["other", "own"], "ended_here": ["own"], "jobs": []}
        assert code == 0 and json.loads(out) == facts
        assert sleepers[1].poll() is None
        assert (
            "cancel" in record_store.attempts(bucket, "own")[-1].end.reason
            and record_store.running_attempt(bucket, "own") is None
        )
        # No run waits for them any more.
        assert json.loads(call("status", tmp_path / "bucket", "--json")[1])["statuses"] == {}
    finally:
        for sleeper in sleepers:
            sleeper.kill()


def test_cancel_of_a_run_ends_what_it_put_into_a_shared_bucket_and_nothing_else(toy_buffer, call, tmp_path):
    bucket = open_bucket(str(tmp_path / "bucket"))
    (tmp_path / "recipe.yaml").write_text(f"bucket: {tmp_path}/bucket\noutput_dir: {tmp_path}\n")
    here, other = record_store.run_name(str(tmp_path)), record_store.run_name(str(tmp_path / "other"))
    for id, run_folder, text in (
        ("own-baseline", here, ""),
        ("own-damaged", here, None),
        ("other-baseline", other, ""),
        ("other-machine", here, "Never proposed by this run."),
    ):
        claimed(bucket, id, 1, "0")
        body = bucket.get(f"experiments/{id}/spec.json").replace(b'"idea": "i"', f'"idea": "{text}"'.encode())
        bucket.put(f"experiments/{id}/spec.json", body if text is not None else b"no specification")
        record_store.enqueue(bucket, record_store.QueueEntry(id, Resources(), 5, run=run_folder))
    code, out, _ = call("cancel", tmp_path, "--json")
    assert code == 0 and json.loads(out)["experiments"] == ["own-baseline", "own-damaged"]
    assert sorted(bucket.list("queue")) == ["other-baseline", "other-machine"]


TRAINER = (
    "import sys, time; from pathlib import Path; from ideator_rl.storage import run_folder\n"
    "with run_folder.take(Path(sys.argv[1]), True): print('taken', flush=True); time.sleep(60)"
)


def test_cancel_ends_the_trainer_that_holds_the_run_and_no_other_process(toy_buffer, call, tmp_path):
    (tmp_path / ".lock").write_text(str(os.getpid()))  # of a run long dead, whose number this process got
    assert json.loads(call("cancel", tmp_path, "--json")[1])["trainer"] is None
    command = [sys.executable, "-c", TRAINER, str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdout.readline() == "taken\n"
    threading.Thread(target=child.wait, daemon=True).start()
    assert json.loads(call("status", tmp_path, "--json")[1])["process"] == child.pid
    code, out, _ = call("cancel", tmp_path)
    assert code == 0 and f"ended the run, process {child.pid}" in out and "--resume goes on" in out
    assert json.loads(call("status", tmp_path, "--json")[1])["process"] is None


def test_cancel_ends_no_trainer_whose_bucket_is_not_found(toy_buffer, call, tmp_path, monkeypatch):
    # An earlier release stored a relative bucket as it was typed.
    (tmp_path / "recipe.yaml").write_text(f"bucket: bucket\noutput_dir: {tmp_path}\n")
    ended = []
    monkeypatch.setattr(cancel, "find_trainer", lambda folder: Process(os.getpid(), "a start"))
    monkeypatch.setattr(cancel, "_end", ended.append)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = call("cancel", tmp_path)
    assert code and "neither a run nor a bucket" in err and not ended
    monkeypatch.chdir(tmp_path)
    open_bucket("bucket")
    assert call("cancel", tmp_path)[0] == 0 and ended


def test_train_runs_in_this_process_where_accelerate_would_start_one(monkeypatch, call, tmp_path):
    ran = []
    monkeypatch.setattr("ideator_rl.train.run", lambda argv: ran.append(argv) or 0)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["train", "quickstart", "--max_steps", "2", "--resume", "--num-processes", "1"]) == 0
    assert ran == [["--config", "quickstart", "--resume", "--max_steps", "2"]]


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = "import sys; from ideator_rl.cli import commands; commands.parser(); print({'yaml', 'numpy', 'torch'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_the_check_of_an_environment_proves_its_baseline(call):
    code, out, _ = call("env", "check", TOY, "--json", "--seeds", "2")
    checks = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and "45.6000 ± 0.0000" in checks["baseline"]["words"]
    assert "2 runs found again" in checks["replay"]["words"] and "1 files may be changed" in checks["rules"]["words"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_check_of_an_environment_finds_hidden_data_that_can_be_read(call, tmp_path):
    """Searches every file that the sandbox shows: all of Python's packages, a minute or two."""
    shutil.copytree(TOY, tmp_path / "env", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "env/prepare.py").write_text(
        "import random\ndef prepare(public, private, preset):\n"
        "    body = random.Random(5).randbytes(4000)\n"
        "    (private / 'val.bin').write_bytes(body)\n    (public / 'train.bin').write_bytes(body[:3000])\n"
    )
    manifest = tmp_path / "env/env.yaml"
    manifest.write_text(manifest.read_text() + "prepare: prepare.py\n")
    code, out, _ = call("env", "check", tmp_path / "env", "--json", "--seeds", "1")
    checks = {row["name"]: row for row in json.loads(out)}
    assert code == 1 and not checks["hidden data"]["passed"]
    if "not masked" not in checks["hidden data"]["words"]:
        assert "/data/train.bin" in checks["hidden data"]["words"] and checks["search"]["passed"]


def test_report_and_status_of_a_run(toy_buffer, call, tmp_path):
    import asyncio

    asyncio.run(toy_buffer.score([GOOD, "none"], step=0))
    code, out, _ = call("report", tmp_path, "--out", tmp_path / "r.html")
    assert code == 0 and "<html" in Path(tmp_path / "r.html").read_text()
    facts = json.loads(call("status", tmp_path, "--json")[1])
    assert facts["statuses"] == {"succeeded": 1, "malformed": 1} and facts["process"] is None
    assert facts["best"]["metric"]["value"] == pytest.approx(HEIGHT)
    assert "not under way" in call("status", tmp_path)[1]
