"""Ctrl-C, SIGTERM and SIGHUP end a command with one sentence, no process left behind, and exit status 130.

Records, journals and checkpoints survive a kill at any moment, so nothing has to be unwound: every process below this
one is killed.  A thread does that, because the main thread may be inside a library for seconds, or in an import that
swallows exceptions.  The other threads go on until the exit, but start no process any more.  Further signals change
nothing.

Only the entry points call `guard`: a program that imports this library keeps its own handlers.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType

from ideator_rl.sandbox import process_tree

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_SECONDS, KILL_SECONDS = 3.0, 5.0
"""For trackers to send what they hold, and for killed processes to be gone."""
BEFORE_EXIT_SECONDS = 20.0
"""For a command to end its processes in its own way."""
START_SECONDS = 0.25
"""For a thread that had begun to start a process when no more was to be started."""
START_EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}
"""What Python reports to audit hooks before it starts a process."""
LAUNCHER = "IDEATOR_RL_LAUNCHER"
"""Set for the processes of a launch: the launcher prints the sentence for all of them."""
LAUNCHERS = {b"accelerate", b"accelerate-launch", b"torchrun"}
LAUNCHER_MODULES = {b"accelerate.commands.launch", b"accelerate.commands.accelerate_cli", b"torch.distributed.run",
                    b"torch.distributed.launch"}  # fmt: skip
LINE_START = "\r\x1b[K\x1b[?25h"
"""Erases the progress line of a terminal, and shows the cursor."""


class _State:
    """Written by the main thread, read by the thread that waits for a signal."""

    program = "ideator-rl"
    guarded = False
    launches = False
    interrupted = False
    before_exit: Callable[[], None] | None = None

    @staticmethod
    def kept() -> str:
        return "the same line starts anew"


def keep(words: str | Callable[[], str]) -> None:
    """Set the end of the sentence: what is kept of the command that runs now, and how to go on."""
    _State.kept = staticmethod(words if callable(words) else lambda: words)  # type: ignore[method-assign]


def keep_run(folder: Path, results: str) -> None:
    """Set the end of the sentence for a run in this folder, which may not have begun."""
    from ideator_rl.storage.run_folder import MARK

    keep(
        lambda: (
            f"{results} are kept in {folder}, and the same line with --resume goes on"
            if (folder / MARK).exists()
            else "nothing was kept, and the same line starts anew"
        )
    )


def before_exit(function: Callable[[], None]) -> None:
    """Have a command end its processes in its own way, before those that are left are killed.

    It runs in a thread, while the main thread is stopped wherever it was: it must wait for no lock that this one may
    hold, such as that of a stream.
    """
    _State.before_exit = staticmethod(function)  # type: ignore[assignment]


def guard(program: str = "ideator-rl") -> None:
    """Install the handlers in this process, first of all; a signal that the caller ignores (nohup) stays ignored.

    Args:
        program: the sentence begins with this name.
    """
    _State.program, _State.guarded = program, True
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    threading.Thread(target=_wait, args=(read_end,), name="interrupt", daemon=True).start()
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _park)
    # A process that a library forks (a data loader's worker) has the pipe too: its signals are not this process's.
    os.register_at_fork(after_in_child=_forget)
    if os.environ.get(LAUNCHER) or _accelerate_launched():
        process_tree.die_with_parent(os.getppid(), signal.SIGTERM)
    # Processes whose parent has ended become children of this one, and end with it.
    process_tree.become_subreaper()
    # A launcher blocks them until here, so that no process of the launch ends with a traceback before.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def guard_launch() -> None:
    """Prepare a guarded process to start those of a launch: only this one prints the sentence."""
    if _State.guarded:
        _State.launches = True
        os.environ[LAUNCHER] = str(os.getpid())
        # Inherited by the processes that this thread starts.  The waiting thread receives this process's signals.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def park_if_interrupted() -> None:
    """Do not return while the process is being ended: for callers whose library has handlers of its own."""
    if _State.interrupted:
        _park()


def _park(number: int = 0, frame: FrameType | None = None) -> None:
    """The main thread must neither go on nor end the process in its own way."""
    while True:
        time.sleep(1)


def _forget() -> None:
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is _park:
            signal.signal(number, signal.SIG_DFL)


def _wait(read_end: int) -> None:
    # Signals that a library handles are written to the pipe too.
    while not {*os.read(read_end, 64)} & {*SIGNALS}:
        pass
    _State.interrupted = True
    with suppress(Exception):
        _print_sentence()
    with suppress(Exception):
        _end_processes()
    os._exit(INTERRUPTED)


def _print_sentence() -> None:
    # Silenced first, so that the sentence is the last line: what ends now would complain.  No lock of Python's streams
    # is taken, since the main thread may hold it.
    terminal, silence = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    if os.environ.get(LAUNCHER, str(os.getpid())) != str(os.getpid()) or os.environ.get("RANK", "0") != "0":
        return
    start = LINE_START if os.isatty(terminal) and os.environ.get("TERM", "dumb") != "dumb" else ""
    words = "".join(character if character.isprintable() else "?" for character in _State.kept())
    os.write(terminal, f"{start}{_State.program}: interrupted: {words}.\n".encode(errors="replace"))


def _end_processes() -> None:
    if _State.launches:
        # They end as this process does, and need the same time.
        children = process_tree.children(os.getpid())
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + EXIT_SECONDS + 1
        while time.monotonic() < deadline and any(map(process_tree.start_time, children)):
            time.sleep(0.05)
    else:
        for function, seconds in ((_State.before_exit, BEFORE_EXIT_SECONDS), (atexit._run_exitfuncs, EXIT_SECONDS)):
            if function is not None:
                hook = threading.Thread(target=function, daemon=True)
                hook.start()
                hook.join(seconds)
    # A scheduler's thread starts anew what is killed here, even between the last look at the processes and the exit.
    sys.addaudithook(_park_starts)
    time.sleep(START_SECONDS)
    process_tree.kill_tree(os.getpid(), KILL_SECONDS)


def _park_starts(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: a thread that would start a process waits for the exit of this one."""
    if event in START_EVENTS:
        _park()


def _accelerate_launched() -> bool:
    """Whether the parent is `accelerate launch` or torchrun: it may end without ending this process."""
    with suppress(OSError):
        return is_launcher(Path(f"/proc/{os.getppid()}/cmdline").read_bytes())
    return False


def is_launcher(command_line: bytes) -> bool:
    """Whether a command line, as /proc has it, starts processes of a launch: `torchrun`, `python -m torch…`.

    A shell or script that has one of these words in its path or text may end, and what it started goes on.
    """
    words = command_line.split(b"\0")
    names = {word.rpartition(b"/")[2] for word in [word for word in words if word[:1] != b"-"][:2]}
    modules = {module for flag, module in pairwise(words[:4]) if flag == b"-m"}
    return bool(names & LAUNCHERS or modules & LAUNCHER_MODULES)
