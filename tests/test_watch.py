"""`status` and `status --watch`: a run or a bucket looked at again and again, cheaply and without harm."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from argparse import Namespace

import pytest
from conftest import execute, replace_line
from recorded import baseline, journal, record, text

from ideator_rl.cli import status as cli_status
from ideator_rl.cli import watch as cli_watch
from ideator_rl.cli.status import RunStatus
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_reader import NoRun, read_run

SCRIPTED_TRAINER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from recorded import record, text
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_folder import take
folder = Path({folder!r})
lock = take(folder, resume=True)
lock.__enter__()
book = Journal(folder / "buffer.sqlite")
for step in range(3):
    book.propose(step, [text(f"change {{i}} of step {{step}}") for i in range(4)])
    for i in range(4):
        while step == 1 and not (folder / "seen").exists():  # until the test saw the first step
            time.sleep(0.02)
        book.settle(step, i, record(f"{{step}}{{i}}", "failed" if i == 3 else "succeeded", value=None if i == 3 else 3.0 - step - i / 10))
"""  # fmt: skip


def command(folder):
    return [sys.executable, "-m", "ideator_rl.cli", "status", str(folder), "--watch"]


def start_trainer(folder):
    """A process that holds the run's lock and settles three steps; it waits in the second for the file `seen`."""
    (folder / "recipe.yaml").write_text("max_steps: 3\nenv: toy\n")
    Journal(folder / "buffer.sqlite").close()
    code = SCRIPTED_TRAINER.format(tests=os.path.dirname(__file__), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while not (folder / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def run_on_terminal(command, expected, action, term="xterm-256color", plain=True):
    """What a command writes on a terminal until it ends, and its exit status; `action` runs once it wrote `expected`."""
    terminal, command_side = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "110", "LINES": "40"}
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), command_side)
    process = subprocess.Popen(command, **streams, env=environment, close_fds=True)
    os.close(command_side)
    output, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the command closed its side
            break
        output += chunk
        if action and expected in output.decode(errors="replace"):
            action(process)
            action = None
    os.close(terminal)
    output = output.decode(errors="replace")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output) if plain else output, process.wait(timeout=30)


def test_the_records_are_read_again_only_when_the_run_wrote_something(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(cli_status, "read_run", lambda folder: reads.append(folder) or read_run(folder))
    book = Journal(tmp_path / "buffer.sqlite")
    book.propose(0, [text("x"), text("y")])
    book.settle(0, 0, record("a", value=3.0))
    status = RunStatus(tmp_path)
    time.sleep(2 * cli_status.SETTLED_NANOSECONDS / 1e9)
    for _ in range(3):
        status.refresh()
    assert len(reads) == 1
    time.sleep(0.02)  # file times are kept in steps of some milliseconds
    book.settle(0, 1, record("b", value=2.0))
    status.refresh()
    assert len(reads) == 2 and status.facts()["statuses"] == {"succeeded": 2}
    book.close()


def test_a_write_that_a_file_time_may_hide_is_seen_at_the_next_look(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(cli_status, "read_run", lambda folder: reads.append(folder) or read_run(folder))
    Journal(tmp_path / "buffer.sqlite").close()
    later = time.time() + 3600  # the last write is never long enough ago
    os.utime(tmp_path / "buffer.sqlite", (later, later))
    status = RunStatus(tmp_path)
    status.refresh()
    status.refresh()
    assert len(reads) == 2


def test_a_short_summary_fits_a_terminal_and_keeps_the_last_steps(tmp_path):
    steps = [[record(f"{step}", value=9.0 - step, patch="+x\n" * 99, idea="word " * 99)] for step in range(60)]
    status = RunStatus(journal(tmp_path, steps, [baseline(0, 4.0)]))
    status.refresh()
    complete, short = status.text().splitlines(), status.text(40).splitlines()
    assert len(short) <= 40 < len(complete) and set(short) - set(complete) == {line for line in short if "word" in line}
    assert any(line.startswith("  60 ") for line in short) and not any(line.startswith("   1 ") for line in short)


def test_a_broken_journal_is_one_clear_sentence(tmp_path):
    (tmp_path / "buffer.sqlite").write_text("no database" * 100)
    with pytest.raises(NoRun, match="cannot be read"):
        RunStatus(tmp_path).refresh()


def test_a_run_without_a_trainer_on_this_machine_is_summarised_once(tmp_path, call):
    journal(tmp_path, [[record("a", value=3.0), record("b", "failed"), None]], [baseline(0, 4.0)])
    (tmp_path / "recipe.yaml").write_text("max_steps: 4\nenv: toy\n")
    watched = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=60)
    assert watched.returncode == 0 and watched.stderr == ""
    assert watched.stdout.startswith("not under way on this machine; a trainer on another machine cannot be seen")
    assert "Outcomes: 1 succeeded, 1 failed, 1 running" in watched.stdout
    assert (0, watched.stdout, "") == call("status", tmp_path)
    (tmp_path / "timings.json").write_text('{"total": 9.5}')
    assert call("status", tmp_path, "--watch")[1].startswith("not under way\n")


def test_a_run_is_redrawn_on_the_terminal_until_it_ends(tmp_path):
    trainer = start_trainer(tmp_path)
    output, code = run_on_terminal(command(tmp_path), "3 succeeded", lambda _: (tmp_path / "seen").touch())
    assert trainer.wait() == 0 and code == 0
    assert f"under way, process {trainer.pid}" in output
    last = output[output.rindex("not under way") :]
    assert "Outcomes: 9 succeeded, 3 failed" in last and "Best idea height: 0.8000" in last
    assert [line.split()[0] for line in last.splitlines() if re.match(r" +\d", line)] == ["1", "2", "3"]


def test_a_terminal_that_cannot_redraw_gets_a_line_for_each_change_and_the_summary_at_the_end(tmp_path):
    trainer = start_trainer(tmp_path)
    output, code = run_on_terminal(command(tmp_path), "3 succeeded", lambda _: (tmp_path / "seen").touch(), term="dumb")
    assert trainer.wait() == 0 and code == 0
    assert "\x1b" not in output and f"under way, process {trainer.pid} · step 2 of 3 · 3 succeeded, 1 failed" in output
    assert output.index("not under way") < output.index("Outcomes: 9 succeeded, 3 failed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_a_kill_ends_the_watching_and_the_run_goes_on(tmp_path, number):
    trainer = start_trainer(tmp_path)
    output, code = run_on_terminal(
        command(tmp_path), "3 succeeded", lambda process: process.send_signal(number), plain=False
    )
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l"), "the cursor is visible again"
    last = output.rstrip().splitlines()[-1]
    assert code == 130 and last.endswith("interrupted: nothing was changed, and a run that is under way goes on.")
    assert trainer.poll() is None, "the run goes on"
    trainer.kill()
    trainer.wait()


def test_a_watch_started_before_the_run_waits_for_it_with_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli_watch, "LOOK_SECONDS", 0.01)
    folder = tmp_path / "run"
    looks = []

    def find_status(target, wait):
        looks.append(target)
        if len(looks) == 3:
            folder.mkdir()
            journal(folder, [[record("a", value=3.0)]])
        return find(target, wait)

    find = cli_status._find_status
    monkeypatch.setattr(cli_status, "_find_status", find_status)
    assert cli_status.main(Namespace(target=str(folder), watch=True, json=False)) == 0
    out, err = capsys.readouterr()
    assert len(looks) == 3 and "Outcomes: 1 succeeded" in out
    assert err == f"{folder} holds no run yet: waiting for one to begin. Ctrl-C ends the wait.\n"


def test_what_can_be_no_run_is_refused_at_once(call):
    assert call("status", "s4://lab/runs", "--watch")[0] == 2


def test_texts_of_a_model_cannot_act_on_the_terminal_that_shows_the_run(tmp_path):
    evil = record("a", value=3.0, idea="\x1b]0;title\x07\x1b[31mred\u202e", environment="[bold]toy")
    output, code = run_on_terminal(command(journal(tmp_path, [[evil]])), "", None, plain=False)
    assert code == 0 and "\x1b]0" not in output and "\x1b[31m" not in output and "\u202e" not in output
    assert "⟨U+001B⟩]0;title⟨U+0007⟩red⟨U+202E⟩" in output


def test_a_bucket_is_watched_until_nothing_runs_or_waits(call, tmp_path):
    (tmp_path / "x.diff").write_text(replace_line("x = 4.0", "x = 1.0"))
    execute(call, tmp_path, "--diff", tmp_path / "x.diff")
    code, out, _ = call("status", f"file://{tmp_path}/bucket", "--watch")
    assert code == 0 and out == "1 succeeded · nothing runs or waits\n"


def test_watch_and_json_exclude_each_other(call, tmp_path, capsys):
    journal(tmp_path, [])
    with pytest.raises(SystemExit):
        call("status", tmp_path, "--watch", "--json")
    assert "not allowed with" in capsys.readouterr().err
    assert json.loads(call("status", tmp_path, "--json")[1])["experiments"] == 0
