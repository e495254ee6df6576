"""Runs inside the sandbox: imports what the environment preloads, sends a mark, then runs a script.

The parent starts the budget's clock at the mark.  It is sent before any code of the experiment is loaded, so that a
slow import takes nothing of the budget, and training cannot be hidden in it.  Standard library only: this file is
mounted alone.  `fork_server` runs scripts by the same function, so that both starts cost an experiment the same.

With RANKS > 1, this process forks as many ranks and follows them.  Each imports; when all are ready, one mark is sent
and all are released.
- The first rank that fails ends the others, and its status is that of the run.
- When rank 0 has succeeded, the others have a grace to end, and what becomes of them does not count.
- `RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` are set as by torchrun.

usage: launch.py READY_FD GUARD_FD RANKS PACKAGES MODULE,MODULE FOLDER:FOLDER SCRIPT [ARG …]
       launch.py READY_FD GUARD_FD RANKS "" "" "" --program PROGRAM [ARG …]   for a command that is no Python script
where GUARD_FD is -1 if nothing is traced, and PACKAGES are folders as well
"""

import atexit
import contextlib
import gc
import importlib
import os
import pkgutil  # noqa: F401  runpy imports it when it runs a script: by then the workspace is on the path
import runpy
import sys
import threading
import time
import traceback

SYSCONF = os.sysconf
GRACE_SECONDS = 10.0
"""How long other ranks may run on when rank 0 has ended."""
MAX_REASON_BYTES = 1024
ADDRESS = "127.0.0.1"


class Gate:
    """What a process waits at when its imports are done, before any code of the experiment is loaded."""

    def __init__(self, ready: int, guard: int):
        self._ready, self._guard = ready, guard

    def wait(self) -> None:
        """Send the mark: from here on the experiment's budget runs, and its code may."""
        if self._guard >= 0:
            be_traced(self._guard)
        os.write(self._ready, b"1")
        os.close(self._ready)

    def report(self, reason: str) -> None:
        """Hand on in one line why the script failed."""


class RankGate(Gate):
    """The gate of one rank: its parent sends the mark when all ranks have arrived."""

    def __init__(self, report: int, release: int):
        self._report, self._release = report, release

    def wait(self) -> None:
        os.write(self._report, b"1")
        # Nothing can be read when the parent has ended.
        if not os.read(self._release, 1):
            os._exit(1)
        os.close(self._release)

    def report(self, reason: str) -> None:
        with contextlib.suppress(OSError):  # the script may have closed it
            os.write(self._report, b"0" + reason.encode(errors="replace")[:MAX_REASON_BYTES])


def open_gate(ready: int, guard: int, ranks: int) -> Gate:
    """The gate of this process; for more ranks than one, returns in each rank, and never in this process."""
    if ranks == 1:
        return Gate(ready, guard)
    # Before the fork: the tracer follows new processes only, and they inherit a filter.
    if guard >= 0:
        be_traced(guard)
    port, parent = _free_port(), os.getpid()
    release_read, release_write = os.pipe()
    pids: list[int] = []
    reports: list[int] = []
    for rank in range(ranks):
        report_read, report_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            die_with_parent(parent)
            for descriptor in (ready, release_write, report_read, *reports):
                os.close(descriptor)
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
            os.environ.update({name: str(number) for name, number in numbers.items()})
            os.environ.update({"MASTER_ADDR": ADDRESS, "MASTER_PORT": str(port)})
            # A line of output is one write, so that ranks do not mix within lines.
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]
            return RankGate(report_write, release_read)
        os.close(report_write)
        pids.append(pid)
        reports.append(report_read)
    os.close(release_read)
    # Each rank sends this byte when its imports are done.
    if all(os.read(report, 1) == b"1" for report in reports):
        os.write(ready, b"1")
        os.write(release_write, b"1" * ranks)
    # `release_write` stays open: where one has not arrived, the others wait until it has failed and they are ended.  If
    # they ended by themselves, one of them could be taken for the cause.
    os.close(ready)
    os._exit(follow_ranks(pids, reports))


def follow_ranks(pids: list[int], reports: list[int]) -> int:
    """Wait until the ranks have ended, by themselves or because one of them has; returns the exit status of the run.

    Args:
        reports: descriptors from which the reason of each rank that failed can be read.
    """
    import select

    running = {os.pidfd_open(pid): rank for rank, pid in enumerate(pids)}
    poll, status, deadline = select.poll(), 0, float("inf")
    for end in running:
        poll.register(end, select.POLLIN)
    while running and not status:
        left = deadline - time.monotonic()
        ended = poll.poll(None if left == float("inf") else max(0.0, 1000 * left))
        if not ended:
            ranks = ", ".join(str(rank) for rank in running.values())
            print(f"rank 0 ended {GRACE_SECONDS:g} s ago: ends {ranks}", file=sys.stderr, flush=True)
            break
        for end, _ in ended:
            poll.unregister(end)
            os.close(end)
            rank = running.pop(end)
            code = os.waitstatus_to_exitcode(os.waitpid(pids[rank], 0)[1])
            if rank == 0 and code == 0:
                deadline = time.monotonic() + GRACE_SECONDS
            elif code != 0 and deadline == float("inf") and not status:
                status, failed, failure = (128 - code if code < 0 else code), rank, code
    for rank in running.values():
        os.kill(pids[rank], 9)
    for end, rank in running.items():
        os.waitpid(pids[rank], 0)
        os.close(end)
    if status:
        # The last line of the output is the run's message.  After the others have ended, which may print too.
        reason = f"ended by signal {-failure}" if failure < 0 else f"ended with status {failure}"
        os.set_blocking(reports[failed], False)
        with contextlib.suppress(BlockingIOError):  # a process that the rank has started may hold it open
            reason = os.read(reports[failed], MAX_REASON_BYTES).decode(errors="replace").removeprefix("0") or reason
        print(f"rank {failed}: {reason}", file=sys.stderr, flush=True)
    return status


def _free_port() -> int:
    """A port that no process listens at now."""
    import _socket

    server = _socket.socket()
    try:
        server.bind((ADDRESS, 0))
        return server.getsockname()[1]
    finally:
        server.close()


def add_packages(folders: str) -> None:
    """Let this Python import from more folders of packages, before its own ones and after the standard library."""
    sites = [index for index, path in enumerate(sys.path) if path.endswith(("site-packages", "dist-packages"))]
    at = min(sites, default=len(sys.path))
    sys.path[at:at] = folders.split(":") if folders else []


def import_all(modules: str) -> None:
    """Import what is preloaded, and keep it out of later garbage collections."""
    for module in filter(None, modules.split(",")):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # else each collection walks all that was imported: 0.6 s of the experiment's CPU for torch


def run_script(gate: Gate, folders: list[str], script: str, arguments: list[str]) -> None:
    """Wait at the gate and run the script as `__main__`; ends the process with the script's exit status.

    Args:
        folders: put first on `sys.path`.
        script: its path, or `-m` for the module that is the first argument.
    """
    gate.wait()
    sys.argv = [script, *arguments]
    os.sysconf = _sysconf
    sys.path[:0] = folders
    status = 0
    try:
        if script == "-m":
            sys.argv = arguments
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        status = _exit_status(error.code)
        if not isinstance(error.code, int | None):
            gate.report(" ".join(str(error.code).split()))
    except BaseException as error:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        gate.report(one_line(error))
        status = 1
    os._exit(_finish() or status)


def one_line(error: BaseException) -> str:
    """An exception as Python shows it at the end of a traceback."""
    return " ".join("".join(traceback.format_exception_only(error)).split())


def be_traced(guard: int) -> None:
    """Wait until this process is traced (see `ideator_rl.sandbox.tracer`).

    Where that is not possible, the answer is a filter: calls that set the action for SIGCHLD have no effect then.
    """
    # Imported before the mark: the workspace is not on the path yet.
    import _socket

    channel = _socket.socket(fileno=guard)
    channel.send(b"1")
    answer = channel.recv(4096)
    channel.close()
    if not answer:
        raise OSError("the tracer ended")
    if answer != b"\0":
        number, _, program = answer.partition(b" ")
        load_filter(int(number), program)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends: where nothing is sandboxed, nothing else does."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != parent:
        os._exit(1)


def load_filter(number: int, instructions: bytes) -> None:
    """Install a filter of system calls for all threads.  Args: `number` of the system call `seccomp`."""
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    libc, program = ctypes.CDLL(None, use_errno=True), Program(len(instructions) // 8, instructions)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if libc.syscall(number, 1, 1, ctypes.byref(program)) != 0:  # SECCOMP_SET_MODE_FILTER, TSYNC
        raise OSError(ctypes.get_errno(), "cannot filter system calls")


def become(program: str, arguments: list[str]) -> None:
    """Run a program in this process; ends it where that fails, as a shell does."""
    import _signal

    # Python ignores these, and a program would inherit that.
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    try:
        os.execvp(program, [program, *arguments])
    except OSError as error:
        print(f"{program}: {error.strerror}", file=sys.stderr)
        os._exit(126 if isinstance(error, PermissionError) else 127)


def _sysconf(name: str | int) -> int:
    """`os.sysconf`, but for the counts of memory: the C library asks a call that the sandbox refuses, and returns
    garbage."""
    for parameter, field in (("SC_PHYS_PAGES", "MemTotal:"), ("SC_AVPHYS_PAGES", "MemAvailable:")):
        if name in (parameter, os.sysconf_names[parameter]):
            with open("/proc/meminfo") as file:
                lines = [line.split() for line in file]
            return next(int(line[1]) * 1024 // SYSCONF("SC_PAGE_SIZE") for line in lines if line[0] == field)
    return SYSCONF(name)


def _exit_status(code: object) -> int:
    if code is None or isinstance(code, int):
        return int(code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def _finish() -> int:
    """What a program expects at its end: threads joined, exit handlers run, output written.

    The interpreter itself is not torn down: that costs CPU time of the budget and changes nothing.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        return 120  # as Python does when the last output cannot be written
    return 0


def main() -> None:
    ready, guard, ranks, packages, modules, folders, script, *arguments = sys.argv[1:]
    gate = open_gate(int(ready), int(guard), int(ranks))
    add_packages(packages)
    try:
        import_all(modules)
    except Exception as error:
        gate.report(one_line(error))
        raise
    if script == "--program":
        gate.wait()
        become(arguments[0], arguments[1:])
    run_script(gate, folders.split(os.pathsep) if folders else [], script, arguments)


if __name__ == "__main__":
    main()
