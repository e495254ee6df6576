"""`status --watch` and what it stands on: a run followed without reading anything twice."""

import json
import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from conftest import execute, replace_line
from recorded import baseline, journal, record, text

from ideator_rl.cli import watch as cli_watch
from ideator_rl.diversity.alarms import CLUSTER, STANDSTILL
from ideator_rl.report.follow import Living
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.records import NoRun, read_run

SCRIPTED_TRAINER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from recorded import record, text
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_folder import take
folder = Path({folder!r})
lock = take(folder, resume=True)
book = Journal(folder / "buffer.sqlite")
for step in range(3):
    book.propose(step, [text(f"change {{i}} of step {{step}}") for i in range(4)])
    for i in range(4):
        while step == 1 and not (folder / "seen").exists():  # until the test saw the first step
            time.sleep(0.02)
        book.settle(step, i, record(f"{{step}}{{i}}", "failed" if i == 3 else "succeeded", value=None if i == 3 else 3.0 - step - i / 10))
"""  # fmt: skip


def same(living, folder):
    """What was followed is what the records say."""
    run = read_run(folder)
    steps = run.by_step()
    assert living.baseline == [e.metric["value"] for e in run.baselines]
    assert sum(living.counts.values()) == len(run.rollouts)
    assert living.counts["succeeded"] == sum(step.succeeded for step in steps)
    assert [(step, success) for step, success, _ in living.by_step()] == [(one.step, one.success) for one in steps]
    assert living.experiments == len(run.ran)
    assert (living.best.experiment_id if living.best else None) == (run.ranked[0].id if run.ranked else None)


def test_a_run_is_followed_and_nothing_is_read_twice(tmp_path):
    book = Journal(tmp_path / "buffer.sqlite")
    book.record(baseline(0, 4.0))
    book.propose(0, [text(f"{i}") for i in range(3)])
    book.settle(0, 0, record("a", value=3.0))
    living = Living(tmp_path)
    assert living.look() and not living.look()
    same(living, tmp_path)
    assert living.counts["running"] == 2 and living.latest(5)[0].words.startswith("[Experiment] Try it.")
    with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
        broken = db.execute("select id, record_json from experiments").fetchall()
        db.execute("update experiments set record_json = 'unreadable'")
    book.settle(0, 1, record("b", value=2.0))
    book.settle(0, 2, record("c", "failed"))
    book.propose(1, [text("x")])
    assert (
        living.look()
        and living.best.experiment_id == "b"
        and living.counts == {"succeeded": 2, "failed": 1, "running": 1}
    )
    with sqlite3.connect(tmp_path / "buffer.sqlite") as db:
        db.executemany("update experiments set record_json = ?2 where id = ?1", broken)
    book.settle(1, 0, record("d", "lost"))
    living.look()
    same(living, tmp_path)
    living.close()
    book.close()


def test_a_step_that_is_proposed_again_replaces_its_ideas(tmp_path):
    book = Journal(tmp_path / "buffer.sqlite")
    book.propose(0, [text("x"), text("y")])
    living = Living(tmp_path)
    living.look()
    book.close()
    book = Journal(tmp_path / "buffer.sqlite")
    book.propose(0, [text("z"), text("y")])
    book.settle(0, 0, record("a", value=1.0))
    living.look()
    assert living.counts == {"succeeded": 1, "running": 1}
    same(living, tmp_path)
    book.close()


def test_a_collapse_is_seen_while_it_happens(tmp_path):
    steps = [[record(f"{step}-{i}", value=2.0, tree="one") for i in range(8)] for step in range(6)]
    living = Living(journal(tmp_path, steps))
    living.look()
    assert living.alarms == []
    living.judge()
    assert CLUSTER in {alarm.kind for alarm in living.alarms}
    picture = cli_watch.RunPicture(living)
    assert "stop: For 3 windows one cluster" in picture.line()


def test_the_direction_is_known_from_the_first_metric_however_late_it_comes(tmp_path):
    steps = [[record(f"f{i}", "failed") for i in range(8)]]
    for step in range(12):
        rising = {"name": "score", "value": 1.0 + step, "direction": "max"}
        steps.append([replace(record(f"{step}-{i}"), metric=rising) for i in range(8)])
    living = Living(journal(tmp_path, steps[:1]))
    living.look()
    living.judge(ended=True)
    book = Journal(tmp_path / "buffer.sqlite")
    for step, ones in enumerate(steps[1:], 1):
        book.propose(step, [text(f"change {i} of step {step}") for i in range(8)])
        for i, one in enumerate(ones):
            book.settle(step, i, one)
    book.close()
    living.look()
    living.judge(ended=True)
    assert STANDSTILL not in [alarm.kind for alarm in living.alarms], "the best of every step is better than the last"
    living.close()


def test_an_idea_without_an_outcome_hides_no_collapse_of_a_run_that_ended(tmp_path):
    steps = [[record(f"{step}-{i}", value=2.0, tree="one") for i in range(8)] for step in range(6)]
    book = Journal(journal(tmp_path, steps) / "buffer.sqlite")
    book.go_on(0)
    book.propose(0, [text("left by a process that died")])
    book.close()
    living = Living(tmp_path)
    living.look()
    assert living.judge() == 0 and living.alarms == [], "its step may still change"
    assert living.judge(ended=True) == 0
    assert CLUSTER in {alarm.kind for alarm in living.alarms}
    living.close()


def test_a_broken_journal_is_one_clear_sentence(tmp_path):
    (tmp_path / "buffer.sqlite").write_text("no database" * 100)
    with pytest.raises(NoRun, match="cannot be read"):
        Living(tmp_path).look()


def command(folder):
    return [sys.executable, "-m", "ideator_rl.cli", "status", str(folder), "--watch"]


def test_a_run_that_is_over_is_told_in_one_plain_line_where_nobody_looks(tmp_path):
    journal(tmp_path, [[record("a", value=3.0), record("b", "failed"), None]], [baseline(0, 4.0)])
    (tmp_path / "recipe.yaml").write_text("max_steps: 4\nenv: toy\n")
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == (
        "steps 1 of 4 · 1 succeeded, 1 failed, 1 running · best height 3.0000 in step 1, as measured once; "
        "baseline 4.0000 · not under way\n"
    )


def screen(command, seen, act, term="xterm-256color", plain=True):
    """What a command writes on a terminal until it ends, and its exit status; `act` is called once it wrote `seen`."""
    own, theirs = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "110", "LINES": "40"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True)
    os.close(theirs)
    told, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([own], [], [], 0.5)[0]:
            continue
        try:
            piece = os.read(own, 65536)
        except OSError:  # the other end is closed
            break
        told += piece
        if act and seen in told.decode(errors="replace"):
            act(process)
            act = None
    os.close(own)
    words = told.decode(errors="replace")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", words) if plain else words, process.wait(timeout=30)


def scripted(folder):
    (folder / "recipe.yaml").write_text("max_steps: 3\nenv: toy\n")
    Journal(folder / "buffer.sqlite").close()
    tests = os.path.dirname(__file__)
    code = SCRIPTED_TRAINER.format(tests=tests, folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while not (folder / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def test_a_living_run_is_drawn_until_it_ends(tmp_path):
    trainer = scripted(tmp_path)
    told, code = screen(command(tmp_path), "3 succeeded", lambda _: (tmp_path / "seen").touch())
    assert trainer.wait() == 0 and code == 0
    assert f"process {trainer.pid}" in told and "steps 2 of 3" in told
    end = told[told.rindex("steps ") :]
    assert end.startswith("steps 3 of 3") and "9 succeeded" in end and "3 failed" in end
    assert "best height 0.8000 in step 3" in end and "success by step  ▆▆▆" in end and "Try it." in end


def test_a_terminal_that_cannot_draw_over_what_it_shows_has_lines_while_the_run_goes(tmp_path):
    trainer = scripted(tmp_path)
    told, code = screen(command(tmp_path), "3 succeeded", lambda _: (tmp_path / "seen").touch(), term="dumb")
    assert trainer.wait() == 0 and code == 0
    lines = told.split()
    assert "\x1b" not in told and lines.count("steps") >= 2, "the first is written before the run ends"
    assert "9 succeeded, 3 failed" in told and told.endswith("not under way\r\n")


def test_a_re_run_is_no_experiment_of_the_search(tmp_path):
    again = record("a2", value=3.1, tree="tree-a", replicate=100)
    journal(tmp_path, [[record("a", value=3.0), record("b", value=3.5)]], [baseline(0, 4.0), again])
    living = Living(tmp_path)
    living.look()
    assert living.experiments == len(read_run(tmp_path).ran) == 2
    living.close()


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_a_kill_leaves_quietly_and_ends_nothing(tmp_path, asked):
    trainer = scripted(tmp_path)
    told, code = screen(command(tmp_path), "3 succeeded", lambda process: process.send_signal(asked), plain=False)
    assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l"), "the cursor is there again"
    assert code == 0 and "Traceback" not in told and "interrupted" not in told
    assert trainer.poll() is None, "the run goes on"
    trainer.kill()
    trainer.wait()


def test_an_interrupt_that_the_interpreter_drops_is_obeyed_at_the_next_look(monkeypatch):
    class Dropping:
        def __del__(self):  # what is raised here is told and goes no further
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    class Picture:
        looked = 0

        def looks(self):
            for _ in range(5):
                self.looked += 1
                yield True
                Dropping()

        def line(self):
            return f"look {self.looked}"

    picture, dropped, before = Picture(), [], signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    assert cli_watch._follow(picture) == 0
    assert picture.looked == 2 and [each.exc_type for each in dropped] == [KeyboardInterrupt]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_bucket_is_watched_until_nothing_runs_or_waits(call, tmp_path):
    (tmp_path / "x.diff").write_text(replace_line("x = 4.0", "x = 1.0"))
    execute(call, tmp_path, "--diff", tmp_path / "x.diff")
    code, out, _ = call("status", f"file://{tmp_path}/bucket", "--watch")
    assert code == 0 and out == "1 succeeded · nothing runs or waits\n"


def test_watching_and_json_are_one_or_the_other(call, tmp_path, capsys):
    journal(tmp_path, [])
    with pytest.raises(SystemExit):
        call("status", tmp_path, "--watch", "--json")
    assert "not allowed with" in capsys.readouterr().err
    assert json.loads(call("status", tmp_path, "--json")[1])["experiments"] == 0
