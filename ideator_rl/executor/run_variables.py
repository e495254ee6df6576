"""The environment variables of an experiment's processes: an allow-list, of which nothing comes from the worker's own.

Those of a preset's `variables` replace defaults of libraries, and none that decides where files are or what is counted.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from ideator_rl.environments.environment import Environment, Preset, joined_folders
from ideator_rl.executor.share import visible_names
from ideator_rl.sandbox.mounts import CUDA_VARIABLE, allotted_gpus, gpus_inside, package_folders
from ideator_rl.sandbox.sandbox import NONE

LIBRARIES = "LD_LIBRARY_PATH"
COMMAND_FIELDS = {
    "data": "IDEATOR_DATA",
    "artifact": "IDEATOR_ARTIFACT",
    "budget": "IDEATOR_BUDGET_SECONDS",
    "seed": "IDEATOR_SEED",
}
"""What a command of env.yaml may name in braces, and the variable that has the value."""


def run_variables(
    environment: Environment, preset: Preset, level: str, folders: tuple[str, str], seconds: float, seed: int
) -> dict[str, str]:
    """The variables of a run.  The launcher adds those of each rank.

    Args:
        level: of the sandbox.
        folders: the workspace and the public data, as the processes see them.
        seconds: of the budget.
    """
    workspace, data = folders
    variables = _libraries(preset, f"{workspace}/.cache" if level == NONE else "/tmp/cache")
    variables |= preset.variables
    variables |= {
        # With this Python, which make and shell scripts call by its name.
        "PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin",
        "HOME": workspace,
        "USER": "experiment",
        "LANG": "C.UTF-8",
        "IDEATOR_DATA": data,
        "IDEATOR_ARTIFACT": f"{workspace}/artifact",
        "IDEATOR_BUDGET_SECONDS": str(seconds),
        "IDEATOR_SEED": str(seed),
    }
    variables |= _gpus(level)
    import_folders = environment.import_folders
    # So that a module that is run with -m, and Python that a script starts, import from them too.
    paths = [*(joined_folders(workspace, import_folders) if len(import_folders) > 1 else ()), *package_folders()]
    if paths:
        variables["PYTHONPATH"] = os.pathsep.join(paths)
    return variables


def filled_command(command: tuple[str, ...], variables: dict[str, str]) -> tuple[str, ...]:
    """The command with `{data}`, `{artifact}`, `{budget}` and `{seed}` filled in, for scripts that take arguments."""
    values = {field: variables[name] for field, name in COMMAND_FIELDS.items()}
    # One pass, so that braces in a value stay as they are; other braces are the command's own.
    return tuple(re.sub(r"\{(\w+)\}", lambda field: values.get(field[1], field[0]), word) for word in command)


def _libraries(preset: Preset, cache: str) -> dict[str, str]:
    """What libraries would else decide by the machine's processors, by the home, or by trying the network."""
    threads = str(max(1, preset.resources.cpus // preset.ranks))
    variables = {
        "OMP_NUM_THREADS": threads,
        # Each rank would start up to 32 processes that compile.
        "TORCHINDUCTOR_COMPILE_THREADS": threads,
        # Of one run, and gone with it: what experiments share would carry code from one to the next.
        "XDG_CACHE_HOME": cache,
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "CUDA_CACHE_PATH": f"{cache}/cuda",
    }
    if not preset.resources.network:
        variables["HF_HUB_OFFLINE"] = "1"
    if preset.ranks > 1:
        # All ranks are on this machine, and without the network there is no other interface.
        variables |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return variables


def _gpus(level: str) -> dict[str, str]:
    gpus = [int(number) for number in allotted_gpus()]
    if level == NONE:
        # All devices are there: without a variable, an experiment without GPUs would see all of them.
        variables = {CUDA_VARIABLE: visible_names(gpus)}
    elif gpus:
        variables = {CUDA_VARIABLE: gpus_inside()}
    else:
        return {}
    # Containers have the driver's libraries in a folder that only this variable names.  A sandbox shows /usr.
    folders = [folder for folder in os.environ.get(LIBRARIES, "").split(os.pathsep) if folder.startswith("/usr/")]
    visible = [folder for folder in folders if gpus and Path(folder).is_dir()]
    return variables | ({LIBRARIES: os.pathsep.join(visible)} if visible else {})
