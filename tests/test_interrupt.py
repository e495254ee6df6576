"""Ctrl-C, SIGTERM and SIGHUP at any moment: one sentence, exit status 130, and nothing left running."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ideator_rl.cli import interrupt, main
from ideator_rl.cli.interrupt import keep_run

ROOT = Path(__file__).parent.parent
TOY = ROOT / "tests" / "toy_env"
RECIPE = ROOT / "tests" / "toy_recipe.yaml"
CLI = [sys.executable, "-m", "ideator_rl.cli"]
TRAIN = [*CLI, "train", str(RECIPE), "--env", str(TOY), "--output_dir", "run"]
SEARCH = [*CLI, "search", "search_nanogpt_cpu", "--env", str(TOY), "--output_dir", "run", "--max_experiments", "40"]
EXECUTE = [*CLI, "execute", str(TOY), "--baseline", "--replicates", "40", "--bucket", "bucket"]
SFT = [*CLI, "sft", str(RECIPE), "--env", str(TOY), "--output_dir", "run", "--sft_steps", "400"]
STATUS = [*CLI, "status", "run", "--watch"]
TWO = ["--accelerate-config", str(ROOT / "recipes" / "accelerate" / "cpu2.yaml")]
SENTENCE = re.compile(r"(?:.*\n)*?ideator-rl: interrupted: [^\n]+\.\n\Z")
FIRST_SECONDS = 0.15
"""Python itself starts meanwhile: it ends by the signal, without a sentence."""


def start(command, folder, **variables):
    """A command as the leader of a process group, as a shell starts it; workers inherit TMPDIR."""
    scratch = folder / "scratch"
    scratch.mkdir(mode=0o755, exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(scratch), "TERM": "dumb", "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def left_over(folder):
    """Processes with the command's scratch folder in their variables or their command line."""
    marker, found = str(folder / "scratch").encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            words = (process / "cmdline").read_bytes()
            if state not in "ZX" and marker in (process / "environ").read_bytes() + words:
                found.append(f"{process.name} {words.replace(bytes(1), b' ').decode(errors='replace')[:200]}")
        except OSError:
            continue
    return found


def check_end(process, folder, seconds=60.0):
    """The command ends by itself now, as it should."""
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 130, output[-3000:]
    assert SENTENCE.match(output) and "Traceback" not in output, output[-3000:]
    assert not left_over(folder)
    return output


def wait_for_handlers(process):
    """Return once the command catches SIGTERM, which it does before its imports; until then it dies of it."""
    status = Path(f"/proc/{process.pid}/status")
    for _ in range(6000):
        caught = int(re.search(r"SigCgt:\t(\w+)", status.read_text()).group(1), 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)
    raise AssertionError("SIGTERM is not caught after a minute")


def read_until(process, text):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    raise AssertionError("".join(lines))


@pytest.mark.parametrize(
    "command, launches",
    [
        (["python", "/venv/bin/accelerate", "launch", "-m", "ideator_rl.train"], True),
        (["python", "-P", "/venv/bin/torchrun", "train.py"], True),
        (["python", "-m", "torch.distributed.run", "train.py"], True),
        (["python", "-m", "accelerate.commands.launch", "train.py"], True),
        (["bash", "-c", "pip install accelerate && ideator-rl train quickstart &"], False),
        (["bash", "/home/me/accelerate/torchrun_all.sh"], False),
    ],
)
def test_only_a_launcher_takes_its_processes_along_at_its_end(command, launches):
    assert interrupt.is_launcher("\0".join([*command, ""]).encode()) is launches


def test_a_program_that_runs_a_command_in_a_thread_keeps_its_signal_handlers(capsys):
    handlers = [signal.getsignal(number) for number in interrupt.SIGNALS]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, ["env", "list"]).result() == 0
    assert [signal.getsignal(number) for number in interrupt.SIGNALS] == handlers
    assert "nanogpt" in capsys.readouterr().out


def test_ctrl_c_ends_the_experiments_and_states_what_is_kept(tmp_path):
    # Slow experiments: the first line of progress comes after a second or two, and they must not be over by then.
    process = start([*EXECUTE, "--preset", "slow"], tmp_path)
    read_until(process, " running")
    os.killpg(process.pid, signal.SIGINT)
    assert "finished experiments are kept, and the same line finds their results" in check_end(process, tmp_path)


@pytest.mark.parametrize("command", [TRAIN, STATUS], ids=["train", "status"])
def test_a_signal_during_the_imports_ends_a_command_like_any_other(command, tmp_path):
    process = start(command, tmp_path)
    wait_for_handlers(process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    check_end(process, tmp_path)


RESTARTER = """
import subprocess, threading
from ideator_rl.cli import interrupt

def restart():
    while True:
        subprocess.Popen(["sleep", "60"]).wait()

interrupt.guard()
for _ in range(8):
    threading.Thread(target=restart, daemon=True).start()
print("running", flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("repeat", range(3))
def test_what_a_thread_starts_anew_meanwhile_is_not_left_over(repeat, tmp_path):
    process = start([sys.executable, "-c", RESTARTER], tmp_path)
    read_until(process, "running")
    process.send_signal(signal.SIGTERM)
    check_end(process, tmp_path)


WRITER = """
import os, threading
from pathlib import Path
from ideator_rl.cli import interrupt
from ideator_rl.files import atomic_folder

interrupt.guard()
with atomic_folder(Path("out")) as scratch:
    (scratch / "weights").write_text("half")
    if os.fork() == 0:
        raise SystemExit  # a fork that ends removes nothing of its parent's
    os.wait()
    assert (scratch / "weights").exists()
    print("running", flush=True)
    threading.Event().wait()
"""


def test_a_folder_that_was_not_finished_is_removed(tmp_path):
    process = start([sys.executable, "-c", WRITER], tmp_path)
    read_until(process, "running")
    process.send_signal(signal.SIGTERM)
    check_end(process, tmp_path)
    assert os.listdir(tmp_path) == ["scratch"]


def test_the_sentence_of_a_run_depends_on_whether_it_has_begun(tmp_path):
    keep_run(tmp_path, "checkpoints")
    assert interrupt._State.kept() == "nothing was kept, and the same line starts anew"
    (tmp_path / "recipe.yaml").touch()
    assert interrupt._State.kept() == f"checkpoints are kept in {tmp_path}, and the same line with --resume goes on"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    "command",
    [TRAIN, SEARCH, EXECUTE, SFT, TRAIN + TWO, SFT + TWO],
    ids=["train", "search", "execute", "sft", "train two", "sft two"],
)
def test_ctrl_c_at_a_random_moment(command, seed, tmp_path):
    rng = random.Random(f"{command}{seed}")
    process = start(command, tmp_path)
    # Half of the moments are in the start, where the imports are.
    moment = rng.uniform(FIRST_SECONDS, 3 if rng.random() < 0.5 else 30)
    time.sleep(moment)
    if process.poll() is not None:
        output = process.communicate()[0]
        assert process.returncode == 0, output[-3000:]
        pytest.skip(f"the command had ended after {moment:.1f} s")
    # From the terminal or to this process alone, once or twice.
    number, group = rng.choice([signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]), rng.random() < 0.7
    for _ in range(rng.choice([1, 2])):
        if process.poll() is None:
            (os.killpg if group else os.kill)(process.pid, number)
            time.sleep(rng.uniform(0, 0.3))
    check_end(process, tmp_path)
