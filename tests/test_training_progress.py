import io
import logging
import re
import time
from types import SimpleNamespace

import pytest
from rich.cells import cell_len

from ideator_rl import progress as progress_module
from ideator_rl.training.libraries import silence
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
    # Not `time.monotonic` itself: threads that earlier tests left would take values of this clock.
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
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


def waiting(seconds=30, **counts):
    progress = Progress()
    progress.steps, progress._training_since = 4, time.monotonic() - seconds
    progress.buffer = Buffer(running=2, waiting=1, done=1, failed=1, proposed=4, **counts)
    return progress


def drawn(terminal):
    """What the last picture shows, without its control codes."""
    last = terminal.getvalue().rpartition("\x1b[?25l")[2].rpartition("\x1b[2K")[2]
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in last.splitlines()]


def test_a_line_while_waiting_shows_what_runs_and_the_time_left():
    progress = waiting()
    assert progress.parts() == ["step 1/4", "2 running, 1 waiting", "1 done (1 failed, 0 reused)"]
    assert progress.left() == "about 7:30 left" and progress.share() == 0.0625


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


@pytest.mark.parametrize("force", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_log_gets_whole_lines_and_no_control_codes_whatever_rich_is_told(monkeypatch, capsys, force):
    monkeypatch.setenv(force, "1")
    monkeypatch.setenv("COLUMNS", "20")
    progress = waiting()
    progress.say("run folder " + "long/" * 40)
    progress.show()
    progress.end()
    err = capsys.readouterr().err
    assert err.count("\n") == 2 and "\x1b" not in err and "step 1/4 · 2 running, 1 waiting" in err


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "xterm-256color"}])
@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_picture_on_a_terminal_is_cut_to_its_width(monkeypatch, columns, variables):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns), **variables}.items():
        monkeypatch.setenv(name, value)
    progress = waiting(best=None)
    progress.say("run folder " + "very_long_name_" * 20)
    progress.show()
    lines = drawn(terminal)
    progress.end()
    assert len(lines) == 2 and all(cell_len(line) <= columns for line in lines), lines
    assert lines[0].startswith("step 1") and lines[1].startswith("2 running, 1 wait")
    if columns >= 80:
        assert lines[0].rstrip().endswith("about 7:30 left") and "━" in lines[0]
    assert "very_long_name_" in terminal.getvalue()
    if "NO_COLOR" in variables:
        assert not re.search(r"\x1b\[[0-9;]*3\d", terminal.getvalue())
    assert terminal.getvalue().endswith("\x1b[2K") or "\x1b[?25h" in terminal.getvalue()


def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "dumb")
    progress = waiting()
    progress.show()
    assert terminal.getvalue().count("\n") >= 1 and "\x1b" not in terminal.getvalue()


def test_nothing_in_a_name_acts_on_the_terminal(capsys):
    Progress().say("run folder \x1b[2J\x1b]0;x\x07[bold]:smile:")
    assert "\x1b" not in (err := capsys.readouterr().err) and "[bold]:smile:" in err


def test_of_several_ranks_the_first_prints(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    progress = waiting()
    progress.say("loading")
    progress.show()
    assert capsys.readouterr().err == ""


def test_the_warm_up_shows_its_own_time_left(capsys):
    progress = Progress()
    progress.warmup(50, 200, 1.25, 20.0)
    assert "warm-up 50/200 · loss 1.250 · about 1:00 of warm-up left" in capsys.readouterr().err
    progress.warmup(200, 200, 0.5, 80.0)
    assert "warm-up done: 200 steps, loss 0.500" in capsys.readouterr().err


def test_a_wait_is_shown_on_a_terminal_alone_and_erased(monkeypatch, capsys):
    Progress().wait("checking")
    assert capsys.readouterr().err == ""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    progress = Progress()
    progress.wait("checking")
    assert "checking" in terminal.getvalue()
    progress.end()
    assert terminal.getvalue().rstrip().endswith(("\x1b[2K", "\x1b[?25h"))


def test_a_library_that_sets_its_level_when_it_is_imported_shows_errors_alone(monkeypatch):
    for name in ("TOKENIZERS_PARALLELISM", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "")
    silence()
    stream = io.StringIO()
    logger = logging.getLogger("DeepSpeed")
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.addHandler(handler)
    try:
        logger.warning("Setting accelerator to CPU")
        logger.error("out of memory")
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == "out of memory\n"
