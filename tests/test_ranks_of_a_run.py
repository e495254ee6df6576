"""Runs of several ranks: one mark, one clock, and one end for all."""

import os
import shutil
import time

import pytest
import yaml
from conftest import replace_line, run

from ideator_rl.environments.environment import Budget, Resources
from ideator_rl.reward_buffer import BufferConfig, open_buffer
from ideator_rl.sandbox import launch, process_tree
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.sandbox.mounts import Mounts
from ideator_rl.sandbox.sandbox import WORKSPACE, experiment_uid
from ideator_rl.sandbox.sealed_run import Command
from ideator_rl.sandbox.sealed_run import run as sealed_run

RANK = "import os, sys, time\nrank = int(os.environ['RANK'])\n"


@pytest.fixture
def go(tmp_path, no_other_children):
    """Runs code in two ranks."""
    workspace = tmp_path / "run"
    (workspace / "artifact").mkdir(parents=True)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and "pytest" in folder.name:
            folder.chmod(0o755)
    for folder in (workspace, workspace / "artifact"):
        os.chown(folder, experiment_uid(best_sandbox().level), -1)

    def start(code, seconds=5.0, clock="cpu", preload=(), ranks=2, memory_gb=1.0):
        (workspace / "main.py").write_text(RANK + code)
        variables = {"PATH": "/usr/bin:/bin"}
        command = Command(("python", "main.py"), preload, variables, ranks=ranks)
        resources, budget = Resources(1, 0, memory_gb), Budget(clock, seconds, 30.0)
        return sealed_run(best_sandbox(), command, Mounts({workspace: WORKSPACE}), budget, resources)

    return start


def test_ranks_have_the_variables_of_torchrun(go):
    code = "names = 'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR'\n"
    code += "print(*(os.environ[name] for name in names), 0 < int(os.environ['MASTER_PORT']) < 65536)"
    ended = go(code, ranks=3)
    assert (ended.status, ended.message) == ("ok", "")
    assert sorted(ended.log.splitlines()) == [f"{rank} {rank} 3 3 127.0.0.1 True" for rank in range(3)]


@pytest.mark.slow
def test_two_gloo_ranks_reduce_a_tensor_in_the_sandbox(go):
    code = (
        "import torch\n"
        "torch.distributed.init_process_group('gloo')\n"
        "total = torch.tensor([rank + 1.0])\n"
        "torch.distributed.all_reduce(total)\n"
        "print(rank, total.item())\n"
        "torch.distributed.destroy_process_group()\n"
    )
    ended = go(code, seconds=20.0, preload=("torch",))
    assert ended.status == "ok", ended.log
    assert sorted(ended.log.splitlines()) == ["0 3.0", "1 3.0"]
    assert ended.startup > ended.cpu  # both imported before the mark


def test_a_rank_that_fails_ends_the_others_and_its_exception_is_the_message(go):
    ended = go("if rank == 1: raise ValueError('no such shard')\nprint('waits', flush=True)\ntime.sleep(60)")
    assert (ended.status, ended.message) == ("failed", "ended with status 1: rank 1: ValueError: no such shard")
    assert ended.wall < 30 and not ended.killed


def test_the_text_that_a_rank_exits_with_is_the_message(go):
    ended = go("if rank == 1: sys.exit('no such\\nshard')\ntime.sleep(60)")
    assert ended.message == "ended with status 1: rank 1: no such shard"


def test_a_rank_that_fails_before_the_mark_is_the_one_that_is_named(capfd):
    ready, write = os.pipe()
    if not (launcher := os.fork()):
        gate = launch.open_gate(write, -1, 2)
        if os.environ["RANK"] == "1":
            gate.report("no such module")
            time.sleep(0.2)  # as the end of an interpreter takes
            os._exit(1)
        gate.wait()
        os._exit(0)
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(launcher, 0)[1]) == 1
    assert os.read(ready, 1) == b""  # no mark
    os.close(ready)
    assert capfd.readouterr().err == "rank 1: no such module\n"


def test_a_rank_that_is_killed_ends_the_run_as_if_killed_by_the_machine(go):
    ended = go("if rank == 1: os.kill(os.getpid(), 9)\ntime.sleep(60)")
    assert (ended.status, ended.message) == ("failed", "ended with status 137: rank 1: ended by signal 9")
    assert ended.killed


def test_a_rank_that_hangs_does_not_outlive_the_budget(go):
    code = "if rank == 0:\n    while True: pass\ntime.sleep(600)"
    ended = go(code, seconds=0.5)
    assert ended.status == "timed_out" and ended.cpu < 1.5
    ended = go("time.sleep(600)", seconds=0.5, clock="wall")
    assert ended.status == "timed_out"


def test_cpu_seconds_of_all_ranks_count_against_one_budget(go):
    burn = "end = time.process_time() + 0.4\nwhile time.process_time() < end: pass\n"
    ended = go(burn, seconds=5.0)
    # A starved machine reads the mark late: what the ranks burnt before it counts as their start.
    assert ended.status == "ok" and ended.cpu > 0.5  # more than one rank's 0.4
    assert go(burn, seconds=0.5).status == "timed_out"


def test_children_of_a_rank_that_ignores_their_end_are_counted(go):
    code = (
        "import signal\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "read, write = os.pipe()\n"
        "if rank == 1 and not os.fork():\n"
        "    while time.process_time() < 0.3: pass\n"
        "    os._exit(0)\n"
        "os.close(write)\n"
        "os.read(read, 1)  # until the child has ended\n"
    )
    assert go(code).cpu > 0.15


def test_a_rank_that_waits_when_rank_0_has_ended_is_ended_after_a_grace(monkeypatch, capfd):
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.2)
    pids, (release, write) = [], os.pipe()
    for rank in range(2):
        if not (pid := os.fork()):
            os.close(write)
            os.read(release, rank)  # rank 1 waits for ever
            os._exit(0)
        pids.append(pid)
    began = time.monotonic()
    assert launch.follow_ranks(pids, []) == 0
    assert time.monotonic() - began >= 0.2
    assert capfd.readouterr().err == "rank 0 ended 0.2 s ago: ends 1\n"
    for descriptor in (release, write):
        os.close(descriptor)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[1], 0)


def test_a_rank_that_fails_after_rank_0_has_succeeded_changes_nothing(go):
    ended = go("if rank == 1:\n    time.sleep(0.4)\n    sys.exit(3)")
    assert (ended.status, ended.message) == ("ok", "")


def test_a_preload_that_fails_in_a_rank_is_not_the_experiments_fault(go):
    ended = go("print('never')", preload=("no_such_module",))
    assert ended.status == "lost" and "no_such_module" in ended.message and "never" not in ended.log


def test_no_descriptor_of_a_rank_sends_a_mark_or_releases_the_others(go):
    # A mark that is sent late would hide what was computed before it.
    code = (
        "while time.process_time() < 0.6: pass\n"
        "for number in range(3, 64):\n"
        "    try: os.write(number, b'1' * 8)\n"
        "    except OSError: pass\n"
    )
    ended = go(code)
    assert ended.status == "ok" and ended.startup < 0.6 and ended.cpu > 0.6


def test_a_codebase_that_shadows_a_preloaded_module_runs_in_no_rank_before_the_mark(go, tmp_path):
    (tmp_path / "run" / "colorsys.py").write_text("print('shadow')\nend = 1\nwhile end: end += 1")
    ended = go("import colorsys; print(colorsys.rgb_to_hsv(0, 0, 0))", preload=("colorsys",))
    assert ended.status == "ok" and ended.log == "(0.0, 0.0, 0)\n" * 2


def test_a_rank_that_kills_the_launcher_ends_the_run_and_leaves_no_process(go):
    code = "if rank == 1:\n    os.setsid()\n    os.kill(os.getppid(), 9)\ntime.sleep(600)"
    ended = go(code, clock="wall", seconds=300.0)
    assert ended.status == "failed" and ended.wall < 60
    assert process_tree.children(os.getpid()) == []


def test_a_rank_that_stops_the_others_only_spends_the_budget(go):
    code = "if rank == 1:\n    os.kill(os.getppid(), 19)\n    sys.exit(1)\ntime.sleep(600)"
    ended = go(code, clock="wall", seconds=0.5)
    assert ended.status == "timed_out" and not ended.artifact_complete


def test_memory_that_ranks_share_counts_once(go):
    code = (
        "import mmap\n"
        "with open('/dev/shm/shared', 'a+b') as file:\n"
        "    file.truncate(150_000_000)\n"
        "    shared = mmap.mmap(file.fileno(), 150_000_000)\n"
        "for page in range(0, len(shared), 4096): shared[page] = 1\n"
        "time.sleep({})\n"
    )
    assert go(code.format(0.5), memory_gb=0.25).message == ""
    assert "memory limit" in go(code.format(60), memory_gb=0.1).message


def test_a_program_that_is_no_script_has_ranks_too(tmp_path, no_other_children):
    workspace = tmp_path / "run"
    workspace.mkdir()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and "pytest" in folder.name:
            folder.chmod(0o755)
    command = Command(("/bin/sh", "-c", "echo $RANK of $WORLD_SIZE"), (), {"PATH": "/usr/bin:/bin"}, ranks=2)
    mounts = Mounts({workspace: WORKSPACE})
    ended = sealed_run(best_sandbox(), command, mounts, Budget("cpu", 5.0, 10.0), Resources())
    assert sorted(ended.log.splitlines()) == ["0 of 2", "1 of 2"]


@pytest.fixture
def pair(toy, tmp_path):
    """The toy, whose preset has two ranks, sizes and a variable of its own."""
    root = tmp_path / "pair"
    shutil.copytree(toy, root)
    manifest = yaml.safe_load((root / "env.yaml").read_text())
    preset = manifest["presets"]["cpu"]
    preset |= {"ranks": 2, "variables": {"GREETING": "hello"}}
    preset["resources"] |= {"cpus": 2, "shm_gb": 0.001, "tmp_gb": 0.002, "artifact_gb": 2.0}
    (root / "env.yaml").write_text(yaml.safe_dump(manifest))
    buffer = open_buffer(BufferConfig(str(root), "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path), slots=2))
    yield buffer
    buffer.close()


def test_an_experiment_has_the_ranks_sizes_and_variables_of_its_preset(pair):
    code = (
        "import resource\n"
        "rank = os.environ['RANK']\n"
        "sizes = [os.statvfs(f) for f in ('/dev/shm', '/tmp')]\n"
        "sizes = [round(s.f_blocks * s.f_bsize / 1e6) for s in sizes]\n"
        "facts = [os.environ['GREETING'], os.environ['OMP_NUM_THREADS'], *sizes]\n"
        "print(rank, *facts, resource.getrlimit(resource.RLIMIT_FSIZE)[0])\n"
        "if rank == '1': raise SystemExit\n"
    )
    record = run(
        pair.score_patch(replace_line('point = {"x": x, "y": y, "z": z}', code + 'point = {"x": x, "y": y, "z": z}'))
    )
    assert record.status == "succeeded", record.error
    lines = sorted(line for line in record.log.splitlines() if "hello" in line)
    assert lines == [f"{rank} hello 1 1 2 2000000000" for rank in range(2)]


def test_a_rank_that_an_idea_breaks_fails_the_experiment(pair):
    broken = 'assert os.environ["RANK"] == "0", "no data"; point = {"x": x, "y": y, "z": z}\ntime.sleep(9)'
    record = run(pair.score_patch(replace_line('point = {"x": x, "y": y, "z": z}', broken)))
    assert record.status == "failed"
    assert record.error["message"] == "ended with status 1: rank 1: AssertionError: no data"
