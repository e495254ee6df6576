"""Runs inside the sandbox: imports what the environment preloads, sends a mark, then runs a script.

The parent starts the budget's clock at the mark.  It is sent before any code of the experiment is loaded, so that a
slow import takes nothing of the budget, and training cannot be hidden in it.  Standard library only: this file is
mounted alone.  `fork_server` runs scripts by the same function, so that both starts cost an experiment the same.

usage: launch.py READY_FD GUARD_FD PACKAGES MODULE,MODULE FOLDER:FOLDER SCRIPT [ARG …]
       launch.py READY_FD GUARD_FD "" "" "" --program PROGRAM [ARG …]   for a command that is no Python script
where GUARD_FD is -1 if nothing is traced, and PACKAGES are folders as well
"""

import atexit
import gc
import importlib
import os
import pkgutil  # noqa: F401  runpy imports it when it runs a script: by then the workspace is on the path
import runpy
import sys
import threading

SYSCONF = os.sysconf


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


def run_script(ready: int, guard: int, folders: list[str], script: str, arguments: list[str]) -> None:
    """Send the mark and run the script as `__main__`; ends the process with the script's exit status.

    Args:
        folders: put first on `sys.path`.
        script: its path, or `-m` for the module that is the first argument.
    """
    send_mark(ready, guard)
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
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        status = 1
    os._exit(_finish() or status)


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


def send_mark(ready: int, guard: int) -> None:
    """From here on the experiment's budget runs, and its code may."""
    if guard >= 0:
        be_traced(guard)
    os.write(ready, b"1")
    os.close(ready)


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
    ready, guard, packages, modules, folders, script, *arguments = sys.argv[1:]
    add_packages(packages)
    import_all(modules)
    if script == "--program":
        send_mark(int(ready), int(guard))
        become(arguments[0], arguments[1:])
    run_script(int(ready), int(guard), folders.split(os.pathsep) if folders else [], script, arguments)


if __name__ == "__main__":
    main()
