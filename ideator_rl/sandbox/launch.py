"""Runs inside the sandbox: imports what the environment preloads, sends a mark, then runs a script.

The parent starts the budget's clock at the mark.  It is sent before any code of the experiment is loaded, so that a
slow import takes nothing of the budget, and training cannot be hidden in it.  Standard library only: this file is
mounted alone.  `fork_server` runs scripts by the same function, so that both starts cost an experiment the same.

usage: launch.py READY_FD MODULE,MODULE FOLDER:FOLDER SCRIPT [ARG …]
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


def import_all(modules: str) -> None:
    """Import what is preloaded, and keep it out of later garbage collections."""
    for module in filter(None, modules.split(",")):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # else each collection walks all that was imported: 0.6 s of the experiment's CPU for torch


def run_script(ready: int, folders: list[str], script: str, arguments: list[str]) -> None:
    """Send the mark and run the script as `__main__`; ends the process with the script's exit status.

    Args:
        folders: put first on `sys.path`.
    """
    os.write(ready, b"1")
    os.close(ready)
    sys.argv = [script, *arguments]
    os.sysconf = _sysconf
    sys.path[:0] = folders
    status = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        status = _exit_status(error.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        status = 1
    os._exit(_finish() or status)


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
    import_all(sys.argv[2])
    run_script(int(sys.argv[1]), sys.argv[3].split(os.pathsep) if sys.argv[3] else [], sys.argv[4], sys.argv[5:])


if __name__ == "__main__":
    main()
