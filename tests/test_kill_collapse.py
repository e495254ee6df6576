"""Kill -9 around an action against collapse; and the same action in two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_kill import Zygote, rollouts
from test_ranks import together

ROOT = Path(__file__).parent.parent
SETTINGS = ["--preset", "cpu", "--max_steps", "6", "--per_device_train_batch_size", "8", "--num_generations", "4"]
SETTINGS += ["--diversity_embedder", "one_direction.OneDirection", "--collapse_action", "raise_temperature"]
SETTINGS += ["--collapse_factor", "1.3", "--save_total_limit", "9", "--report_to", "none"]


@pytest.fixture(scope="module")
def zygote():
    zygote = Zygote()
    yield zygote
    zygote.close()


def log_of(folder, step=6):
    return json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())["log_history"]


def temperatures(folder):
    return [each["collapse/temperature"] for each in log_of(folder) if "collapse/temperature" in each]


@pytest.mark.slow
def test_a_run_killed_after_it_was_made_hotter_ends_like_one_that_nobody_touched(zygote, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert zygote.ask(wait=zygote.start(whole, *SETTINGS)) == 0, Path(f"{whole}.log").read_text()[-3000:]
    pid = zygote.start(killed, *SETTINGS)
    until = time.monotonic() + 120
    while not (killed / "collapse.json").exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)  # the deed is on disk; the checkpoint of its step is not
    assert zygote.ask(wait=pid) == -signal.SIGKILL
    assert not (killed / "checkpoint-6").exists()
    assert zygote.ask(wait=zygote.start(killed, *SETTINGS, "--resume")) == 0, Path(f"{killed}.log").read_text()[-3000:]
    assert (killed / "collapse.json").read_text() == (whole / "collapse.json").read_text()
    assert temperatures(killed) == temperatures(whole) == [1.0] * 3 + [1.3] * 3
    assert rollouts(killed) == rollouts(whole)


@pytest.mark.slow
def test_every_process_does_what_the_first_has_decided(tmp_path):
    said, codes = together(
        tmp_path,
        """
        from collections import defaultdict
        from types import SimpleNamespace
        import ideator_rl.training.collapse_watch as module
        from ideator_rl.errors import IdeatorError
        args = SimpleNamespace(gradient_accumulation_steps=1, steps_per_generation=1, output_dir=sys.argv[0] + ".run")
        state = SimpleNamespace(global_step=0, is_world_process_zero=rank == 0)
        trainer = SimpleNamespace(args=args, num_iterations=1, num_generations=4, _advantage=None, temperature=1.0)
        decided = module.asdict(module.Done(1, 3, "switch_advantage", "vendi", None, "max_at_k", {"k": 2}))
        watch = module.CollapseWatch(trainer, module.Action("switch_advantage"), embedder="hashed", say=lambda _: None)
        watch._look = lambda state: decided if rank == 0 else None
        control = SimpleNamespace()
        watch.on_train_begin(args, state, control)
        before, state.global_step = trainer._advantage, 1
        watch.on_step_end(args, state, control)
        broken = module.CollapseWatch(trainer, embedder="no such embedder")
        try:
            broken.on_train_begin(args, state, control)
            failed = ""
        except IdeatorError as error:
            failed = str(error)
        print(json.dumps([before, trainer._advantage is not None, failed]))
        """,
    )
    assert codes == [0, 0]
    for before, switched, failed in said:
        assert before is None and switched and "There is no embedder 'no such embedder'" in failed


@pytest.mark.slow
def test_two_processes_get_hotter_together(tmp_path):
    toy, env, launch = ROOT / "tests" / "toy_recipe.yaml", ROOT / "tests" / "toy_env", ROOT / "recipes" / "accelerate"
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch / "cpu2.yaml")]
    line += ["-m", "ideator_rl.train", "--config", str(toy), "--env", str(env), "--output_dir", str(tmp_path / "run")]
    more = ["--per_device_train_batch_size", "4"]
    done = subprocess.run(
        [*line, *SETTINGS, *more], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "collapse: the temperature is 1.3 from now on (largest_cluster)" in done.stderr
    assert temperatures(tmp_path / "run") == [1.0] * 3 + [1.3] * 3
