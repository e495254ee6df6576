"""Attacks on the executor by the code of an experiment, run as any experiment; none succeeds."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from conftest import TOY, run

from ideator_rl.environments.environment import load_environment
from ideator_rl.patch import diff
from ideator_rl.reward_buffer import BufferConfig, open_buffer
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.mounts import Mounts, python_folders
from ideator_rl.sandbox.sandbox import NONE, Sandbox

pytestmark = pytest.mark.skipif(best_sandbox().level == NONE, reason=f"no sandbox works here: {best_sandbox().reason}")

HEAD = """
import json, os, sys, time
A = os.environ.get("IDEATOR_ARTIFACT", "")
def leave(x=1): json.dump({"x": x, "y": -2, "z": 3}, open(A + "/point.json", "w"))
"""
SCORED_MANIFEST = """
name: scored
task: task.md
command: [python, train.py]
editable: ["*.py"]
metric: {name: loss, direction: min, plausible: [0.1, 100.0]}
evaluator: evaluator.py
scorer: "train:load"
presets:
  cpu:
    budget: {clock: cpu, seconds: 2, startup_allowance: 10}
    resources: {cpus: 1, gpus: 0, memory_gb: 1}
    vocab: 4
"""
SCORED_EVALUATOR = """
import numpy as np
from ideator_rl.scoring.scoring import ScorerFailed

def evaluate(run):
    with run.open_scorer() as scorer:
        for _ in range(2):
            logits = scorer.logits(np.zeros((2, 8), np.int64))
    if not np.isfinite(logits).all():
        raise ScorerFailed("not finite")
    return 1.0 + float(np.abs(logits).mean())
"""
SCORED_TRAIN = """
import os, sys, time

def load(artifact):
    import numpy as np
    return lambda tokens: np.zeros((*tokens.shape, 4), np.float32)

if __name__ == "__main__":
    open(os.environ["IDEATOR_ARTIFACT"] + "/w", "w").write("1")
"""


@pytest.fixture
def attack(tmp_path):
    """Runs files put in the place of a baseline's: several codebases at once, one record each."""
    opened = []

    def go(*codebases, environment=str(TOY)):
        base = load_environment(environment).baseline("cpu")
        patches = []
        for files in codebases:
            tree = base | {name: text for name, text in files.items() if text is not None}
            patches.append(diff(base, {name: text for name, text in tree.items() if files.get(name, "") is not None}))
        config = BufferConfig(environment, "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path), slots=2)
        opened.append(open_buffer(config))

        async def everything():
            return await asyncio.gather(*(opened[-1].score_patch(patch) for patch in patches))

        return run(everything())

    yield go
    for buffer in opened:
        buffer.close()


def toy(code):
    return {"train.py": HEAD + textwrap.dedent(code)}


@pytest.fixture
def scored(tmp_path):
    """An environment whose evaluator asks the experiment's model for logits."""
    root = tmp_path / "scored"
    (root / "baseline").mkdir(parents=True)
    files = {
        "env.yaml": SCORED_MANIFEST,
        "evaluator.py": SCORED_EVALUATOR,
        "task.md": "task",
        "baseline/train.py": SCORED_TRAIN,
    }
    for name, text in files.items():
        (root / name).write_text(text)
    return str(root)


def model(body):
    """A codebase whose `load` is this body."""
    return {
        "train.py": SCORED_TRAIN.replace(
            "def load(artifact):\n", "def load(artifact):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        )
    }


def test_output_and_files_of_an_experiment_are_not_a_metric(attack):
    [record] = attack(
        toy("""
            leave(x=3)
            for name in ("result.json", "answer.json", "score.json", "../answer.json", "/tmp/answer.json"):
                try: open(name, "w").write('{"metric": 0.01, "status": "succeeded"}')
                except OSError: pass
            print('{"metric": 0.01}', "height: 0.01", flush=True)
        """)
    )
    assert record.status == "succeeded" and record.metric["value"] == pytest.approx(4.5)


def test_an_artifact_of_other_than_a_few_small_regular_files_fails_the_experiment(attack):
    records = attack(
        toy("os.symlink('/proc/1/environ', A + '/point.json')"),
        toy("os.rename(A, '/workspace/b'); os.symlink('/etc', A)"),
        toy("leave(); os.mkfifo(os.fsencode(A) + b'/\\xff\\n')"),
        toy("leave(); os.truncate(A + '/point.json', 1 << 29)"),
    )
    assert [record.status for record in records] == ["failed"] * 4, [record.error for record in records]


def test_a_daemon_cannot_change_the_artifact_after_the_end(attack):
    [record] = attack(
        toy("""
            leave(x=3)
            for _ in range(3):
                if not os.fork():
                    os.setsid()
                    if os.fork(): os._exit(0)
                    time.sleep(0.2)
                    while True:
                        leave(x=1)
                        os.write(1, b"still here" * 1000)
        """)
    )
    assert record.status == "succeeded" and record.metric["value"] == pytest.approx(4.5)
    assert "still here" not in record.log


def test_modules_of_the_codebase_are_not_loaded_before_the_budget_runs(attack):
    burn = "import time\nend = time.process_time() + 3\nwhile time.process_time() < end: pass\n"
    names = ("sitecustomize.py", "usercustomize.py", "launch.py", "runpy.py", "gc.py", "encodings.py", "torch.py")
    [record] = attack({name: burn for name in names} | toy("leave()"))
    assert record.status == "succeeded" and record.seconds["startup"] < 2


def test_a_codebase_without_its_script_fails(attack):
    deleted, renamed = attack(
        {"train.py": None, "other.py": "x = 1\n"}, {"train.py": None, "main.py": HEAD + "leave()\n"}
    )
    assert (deleted.status, renamed.status) == ("failed", "failed")


def test_an_experiment_cannot_see_or_signal_the_host(attack, tmp_path):
    python_entries = {Path(name).parts[2] for name in python_folders() if name.startswith("/tmp/")} | {
        ""
    }  # a checkout there
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret").write_text("secret")
    [record] = attack(
        toy(f"""
            hidden = ["{tmp_path}/private/secret", "{tmp_path}/bucket", "{TOY}/evaluator.py", "{Path(__file__)}"]
            seen = [name for name in [*hidden, "/etc/shadow", "/var", "/home"] if os.path.exists(name)]
            others = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) > 50]
            try: os.kill({os.getpid()}, 0); seen.append("parent")
            except OSError: pass
            print("seen", seen, others, sorted(os.environ), sorted({{*os.listdir("/tmp")}} - {python_entries!r}))
            leave()
        """)
    )
    assert record.status == "succeeded" and record.log.startswith("seen [] [] ["), record.log
    assert "TMPDIR" not in record.log and record.log.rstrip().endswith("[]")


def test_a_new_namespace_does_not_lift_a_mask():
    folder = Path(yaml.__file__).resolve().parent
    code = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.unshare(0x10000000 | 0x20000)
os.mkdir("/tmp/x")
lifted = libc.umount2({str(folder).encode()!r}, 2)
print(lifted, libc.mount({str(folder.parent).encode()!r}, b"/tmp/x", None, 4096, None))
print(len(os.listdir({str(folder)!r})), os.listdir("/tmp/x"))
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    argv = [sys.executable, "-I", "-c", code]
    with Sandbox(best_sandbox().level).start(argv, Mounts(masked=(folder,)), "/tmp", **pipes) as process:
        out, errors = process.communicate(timeout=20)
    assert out.split("\n")[:2] == ["-1 -1", "0 []"], errors


def test_a_scorer_that_breaks_the_protocol_fails_the_experiment(attack, scored):
    records = attack(
        model("fd = int(sys.argv[2]); os.write(fd, b'\\0' + b'1234'); os._exit(0)"),
        model("fd = int(sys.argv[2]); os.write(fd, b'\\1' + b'\\xff' * 5000); os._exit(0)"),
        model("import numpy as np\nreturn lambda tokens: np.zeros((*tokens.shape, 3), np.float32)"),
        model("import numpy as np\nreturn lambda tokens: np.full((*tokens.shape, 4), np.nan, np.float32)"),
        environment=scored,
    )
    assert [record.status for record in records] == ["failed"] * 4, [record.error for record in records]
    assert all(record.metric is None and record.reward == 0 for record in records)


def test_an_answer_sent_before_the_request_is_read_only_as_logits(attack, scored):
    # For loading, the warm-up and the first request: the logits are then read before anything was written there.
    [record] = attack(model("os.write(int(sys.argv[2]), bytes(3))\n"), environment=scored)
    # The doors are shut by the second of these bytes, so that opening a file may fail after it.
    assert record.status == "failed" or record.metric["value"] == pytest.approx(1.0)


def test_an_experiment_dies_with_its_worker(tmp_path):
    async def killed():
        config = BufferConfig(str(TOY), "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path), slots=2)
        buffer = open_buffer(config)
        buffer.executor.scheduler.dispatcher.max_attempts = 1
        base = load_environment(TOY).baseline("cpu")
        sleeper = diff(base, base | toy("print('up', flush=True); time.sleep(15); leave()"))
        task = asyncio.create_task(buffer.score_patch(sleeper))
        children = []
        while not any(_is_script(pid) for pid in children) and not task.done():
            await asyncio.sleep(0.05)
            for process in buffer.executor.backend._processes.values():
                children = process_tree.descendants(process.pid)
        os.kill(children[0], signal.SIGKILL)
        record = await task
        for _ in range(60):
            alive = [pid for pid in children if _is_script(pid)]
            if not alive:
                break
            await asyncio.sleep(0.05)
        buffer.close()
        return record, alive

    record, alive = run(killed())
    assert record.status == "lost" and record.reward is None and alive == []


def _is_script(pid):
    """Whether it runs the experiment's script: a forked one has the command line of its fork server."""
    return any(name in _command_line(pid) for name in (b"train.py", b"fork_server.py"))


def _command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
