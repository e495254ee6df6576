"""A collapse stops a run at the same step in every process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_ranks import run_ranks

ROOT = Path(__file__).parent.parent
SETTINGS = ["--preset", "cpu", "--max_steps", "6", "--per_device_train_batch_size", "4", "--num_generations", "4"]
SETTINGS += ["--diversity_embedder", "one_direction.OneDirection", "--collapse_action", "stop"]
SETTINGS += ["--save_total_limit", "9"]


@pytest.mark.slow
def test_every_rank_stops_when_rank_zero_decides_it(tmp_path):
    results, codes = run_ranks(
        tmp_path,
        """
        from types import SimpleNamespace
        import ideator_rl.training.collapse_watch as module
        from ideator_rl.errors import IdeatorError
        args = SimpleNamespace(gradient_accumulation_steps=1, steps_per_generation=1, output_dir=sys.argv[0] + ".run")
        state = SimpleNamespace(global_step=0, is_world_process_zero=rank == 0)
        dataset = SimpleNamespace(column_names=[])
        trainer = SimpleNamespace(args=args, num_iterations=1, train_dataset=dataset)
        watch = module.CollapseWatch(trainer, "stop", embedder="hashed", say=lambda _: None)
        watch._look = lambda args, state: "vendi" if rank == 0 else None
        control = SimpleNamespace(should_training_stop=False)
        watch.on_train_begin(args, state, control)
        state.global_step = 1
        watch.on_step_end(args, state, control)
        broken = module.CollapseWatch(trainer, embedder="no such embedder")
        try:
            broken.on_train_begin(args, state, control)
            error_text = ""
        except IdeatorError as error:
            error_text = str(error)
        print(json.dumps([control.should_training_stop, error_text]))
        """,
    )
    assert codes == [0, 0]
    for stops, error_text in results:
        assert stops and "There is no embedder 'no such embedder'" in error_text


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path):
    toy, env, launch = ROOT / "tests" / "toy_recipe.yaml", ROOT / "tests" / "toy_env", ROOT / "recipes" / "accelerate"
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch / "cpu2.yaml")]
    line += ["-m", "ideator_rl.train", "--config", str(toy), "--env", str(env), "--output_dir", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    run = subprocess.run([*line, *SETTINGS], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "collapse: training stops (largest_cluster)" in run.stderr
    (stop,) = json.loads((tmp_path / "run" / "collapse.json").read_text())
    assert stop["action"] == "stop" and (tmp_path / "run" / f"checkpoint-{stop['step']}").is_dir()
    assert not (tmp_path / "run" / f"checkpoint-{stop['step'] + 1}").exists()
