import io
import time

from ideator_rl.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Buffer:
    def __init__(self, **counts):
        self._counts = {
            "running": 0,
            "waiting": 0,
            "done": 0,
            "failed": 0,
            "reused": 0,
            "proposed": 0,
            "best": None,
            **counts,
        }

    def counts(self):
        return self._counts


def test_nested_phases_count_each_second_once(monkeypatch):
    clock = iter([0.0, 0.0, 1.0, 1.0, 2.0, 7.0, 10.0, 10.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    progress = Progress()
    with progress.phase("update"), progress.phase("generation"), progress.phase("experiments"):
        pass
    assert dict(progress.seconds) == {"experiments": 1.0, "generation": 5.0, "update": 4.0}
    assert progress.timings() == {"experiments": 1.0, "generation": 5.0, "update": 4.0, "other": 0.0, "total": 10.0}


def test_the_share_done_counts_the_finished_experiments_of_the_current_step():
    buffer = Buffer()
    progress = Progress()
    progress.buffer = buffer
    progress.step, progress.steps, progress._first_step = 2, 6, 2
    shares = []
    for proposed, finished in ((0, 0), (8, 0), (8, 4), (8, 8)):
        buffer._counts.update(proposed=proposed, done=finished)
        shares.append(progress._share_done())
    progress.stepped(3)
    for proposed, finished in ((8, 8), (16, 8), (16, 12)):
        buffer._counts.update(proposed=proposed, done=finished)
        shares.append(progress._share_done())
    assert shares == [0.0, 0.0, 0.125, 0.25, 0.25, 0.25, 0.375]


def test_a_line_while_waiting_shows_what_runs_and_the_time_left():
    progress = Progress()
    progress.steps, progress._training_since = 4, time.monotonic() - 30
    buffer = Buffer(running=2, waiting=1, done=1, failed=1, proposed=4)
    progress.buffer = buffer
    assert progress.line() == "step 1/4 · experiments: 2 running, 1 waiting, 1 done (1 failed, 0 reused)"
    assert progress.left() == " · about 7:30 left"


def test_a_log_file_gets_a_line_only_when_it_has_changed(monkeypatch, capsys):
    monkeypatch.setattr("ideator_rl.progress.INTERVAL_SECONDS", 0.01)
    buffer = Buffer(running=1, proposed=4)
    progress = Progress()
    progress.buffer = buffer
    progress.begin(0, 2)
    time.sleep(0.2)
    buffer._counts["done"] = 1
    time.sleep(0.2)
    progress.end()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "0 done" in lines[0] and "1 done" in lines[1] and "\r" not in "".join(lines)


def test_a_terminal_overwrites_a_passing_line(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    progress = Progress()
    progress.say("passing", passing=True)
    progress.say("stays")
    assert terminal.getvalue() == "\r\x1b[K[0:00] passing\r\x1b[K[0:00] stays\n"
    assert not Progress().end()


def test_the_warm_up_shows_its_own_time_left(capsys):
    Progress().warmup(50, 200, 1.25, 20.0)
    assert "warm-up step 50/200 · loss 1.250 · about 1:00 of warm-up left" in capsys.readouterr().err
