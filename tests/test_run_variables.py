import os

from ideator_rl.environments.environment import Preset, Resources, load_environment
from ideator_rl.environments.preset import Budget
from ideator_rl.executor.run_variables import filled_command, run_variables
from ideator_rl.sandbox.sandbox import BWRAP, NONE


def variables(level=BWRAP, **fields):
    preset = Preset("cpu", {}, Budget("cpu", 5.0, 10.0), fields.pop("resources", Resources()), **fields)
    return run_variables(load_environment("landscape"), preset, level, ("/workspace", "/data"), 5.0, 3)


def test_ranks_share_the_processors_and_meet_at_the_loopback():
    eight = variables(resources=Resources(cpus=64), ranks=8)
    assert eight["OMP_NUM_THREADS"] == eight["TORCHINDUCTOR_COMPILE_THREADS"] == "8"
    assert eight["NCCL_SOCKET_IFNAME"] == eight["GLOO_SOCKET_IFNAME"] == "lo"
    assert variables(resources=Resources(cpus=2), ranks=4)["OMP_NUM_THREADS"] == "1"
    assert "NCCL_SOCKET_IFNAME" not in variables()


def test_a_presets_variables_replace_defaults_of_libraries_and_nothing_else():
    changed = variables(variables={"OMP_NUM_THREADS": "3", "NCCL_DEBUG": "WARN", "IDEATOR_SEED": "9"})
    assert (changed["OMP_NUM_THREADS"], changed["NCCL_DEBUG"], changed["IDEATOR_SEED"]) == ("3", "WARN", "3")


def test_hubs_are_offline_unless_the_run_has_the_network():
    assert variables()["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in variables(resources=Resources(network=True))


def test_caches_are_of_one_run():
    assert variables()["TRITON_CACHE_DIR"] == "/tmp/cache/triton"
    # The machine's /tmp is shared and stays.
    assert variables(NONE)["TRITON_CACHE_DIR"] == "/workspace/.cache/triton"


def test_nothing_of_the_workers_own_variables_reaches_a_run(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/usr/lib:/root:{os.sep}usr/none")
    monkeypatch.setenv("IDEATOR_GPUS", "")
    assert "LD_LIBRARY_PATH" not in variables()
    # With GPUs, folders of the system that are visible inside may hold the driver's libraries.
    monkeypatch.setenv("IDEATOR_GPUS", "1,3")
    assert (variables()["LD_LIBRARY_PATH"], variables()["CUDA_VISIBLE_DEVICES"]) == ("/usr/lib", "0,1")


def test_a_command_names_what_a_script_takes_as_arguments():
    command = ("python", "a.py", "--out={artifact}/{seed}", "{budget}", "{data}", "{other}", "{}", "{'a': {seed}}")
    filled = ("python", "a.py", "--out=/workspace/artifact/3", "5.0", "/data", "{other}", "{}", "{'a': 3}")
    assert filled_command(command, variables()) == filled
