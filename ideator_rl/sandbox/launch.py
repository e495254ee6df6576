"""Runs inside the sandbox: imports what the environment preloads, sends a mark, then runs the experiment's script.

The parent starts the budget's clock at the mark.  It is sent before any code of the experiment is loaded, so that a
slow import takes nothing of the budget, and training cannot be hidden in it.  Standard library only: this file is
mounted alone.

usage: launch.py READY_FD MODULE,MODULE SCRIPT [ARG …]
"""

import gc
import importlib
import os
import runpy
import sys


def main() -> None:
    ready, preload, script = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    for module in filter(None, preload.split(",")):
        importlib.import_module(module)
    gc.freeze()  # else the exit walks all that was imported: 0.6 s of the experiment's CPU for torch
    os.write(ready, b"1")
    os.close(ready)
    sys.argv = sys.argv[3:]
    sys.path.insert(0, os.getcwd())
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
