from pathlib import Path

from ideator_rl.train import main

HERE = Path(__file__).parent
TOY = ["--config", str(HERE / "toy_recipe.yaml"), "--env", str(HERE / "toy_env"), "--dry-run"]


def test_a_dry_run_says_what_a_run_would_cost_and_starts_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*TOY, "--output_dir", str(folder), "--max_steps", "100", "--max_gpu_hours", "2"]) == 0
    out = capsys.readouterr().out
    assert "400 in 100 batches of 4" in out and "at most 401 of toy (cpu)" in out and not folder.exists()
    assert "0.0 GPU-hours and 1.3 CPU-hours" in out and "capped at 2 GPU-hours" in out  # 401 × (2 + 10) s


def test_a_dry_run_of_an_unusable_recipe_is_refused(capsys):
    assert main([*TOY, "--preset", "huge"]) == 2
    assert "no preset 'huge'" in capsys.readouterr().err
