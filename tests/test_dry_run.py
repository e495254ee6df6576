from pathlib import Path

from ideator_rl.train import main

HERE = Path(__file__).parent
TOY = ["--config", str(HERE / "toy_recipe.yaml"), "--env", str(HERE / "toy_env"), "--dry-run"]


def test_a_dry_run_estimates_the_cost_and_starts_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*TOY, "--output_dir", str(folder), "--max_steps", "100", "--max_gpu_hours", "2"]) == 0
    out = capsys.readouterr().out
    assert "400 in 100 batches of 4" in out and "at most 401 of toy (cpu)" in out and not folder.exists()
    assert "0.0 GPU-hours and 1.3 CPU-hours" in out and "capped at 2 GPU-hours" in out  # 401 × (2 + 10) s


def test_a_dry_run_of_an_unusable_recipe_is_refused(capsys):
    assert main([*TOY, "--preset", "huge"]) == 2
    assert "no preset 'huge'" in capsys.readouterr().err


def test_a_dry_run_estimates_the_coders_cost_without_an_api_key(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    coder = '{"models": "some", "samples": 2, "revisions": 1, "max_tokens": 1000, "prices": {"some": {"prompt": 0, "completion": 10}}}'
    arguments = ["--implementer", "llm", "--coder", coder, "--max_steps", "100", "--max_usd", "9"]
    assert main([*TOY, "--output_dir", str(tmp_path / "run"), *arguments]) == 0
    out = capsys.readouterr().out
    # 400 ideas of 1,000 tokens at 10 USD a million; at most 2 drafts with 1 revision of each
    assert (
        "400 calls" in out
        and "4.00 USD if" in out
        and "at most 1,600 calls" in out
        and "16.00 USD; capped at 9 USD" in out
    )


def test_a_dry_run_with_unusable_settings_of_the_coder_is_refused(capsys):
    assert main([*TOY, "--implementer", "llm", "--coder", '{"models": "some", "sample": 2}']) == 2
    assert "samples" in capsys.readouterr().err


ACCELERATE = HERE.parent / "recipes" / "accelerate"


def test_a_dry_run_divides_by_the_processes_of_the_launch(tmp_path, capsys):
    line = [*TOY, "--output_dir", str(tmp_path / "run")]
    assert main([*line, "--accelerate-config", str(ACCELERATE / "cpu2.yaml")]) == 0
    out = capsys.readouterr().out
    assert "24 in 3 batches of 8" in out
    assert main([*line, "--accelerate-config", str(ACCELERATE / "zero3.yaml"), "--num-processes=3"]) == 0
    assert "36 in 3 batches of 12" in capsys.readouterr().out
    assert main([*line, "--num-processes", "2", "--num_generations", "16"]) == 2
    assert "generates 8 completions a batch" in capsys.readouterr().err


def test_the_command_prints_the_same_as_the_module(call, tmp_path):
    argv = ["--output_dir", tmp_path / "run", "--accelerate-config", ACCELERATE / "ddp.yaml", "--num-processes", "2"]
    status, out, _ = call("train", TOY[1], "--env", TOY[3], "--dry-run", *argv)
    assert status == 0 and "batches of 8" in out


def test_an_unusable_launch_is_refused(tmp_path, capsys):
    (tmp_path / "none.yaml").write_text("distributed_type: MULTI_GPU\n")
    (tmp_path / "list.yaml").write_text("- 2\n")
    for argv, text in (
        (["--num-processes", "0"], "--num-processes: expected a whole number from 1 up, got '0'"),
        (["--accelerate-config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--accelerate-config", str(tmp_path / "none.yaml")], "num_processes: None"),
        (["--accelerate-config", str(tmp_path / "list.yaml")], "must be a mapping"),
    ):
        assert main([*TOY, *argv]) == 2 and text in capsys.readouterr().err
    assert main([*TOY[:-1], "--num-processes", "2"]) == 2
    assert "are for --dry-run here" in capsys.readouterr().err


def test_a_dry_run_names_the_command_that_estimates_memory(tmp_path, capsys):
    line = [*TOY, "--output_dir", str(tmp_path / "run")]
    assert main(line) == 0 and "memory" not in capsys.readouterr().out  # made from scratch: on no hub
    assert main([*line, "--scratch_model", "null", "--model_name_or_path", "some/model"]) == 0
    assert "accelerate estimate-memory some/model" in capsys.readouterr().out


def test_a_dry_run_refuses_an_unknown_tracker(capsys):
    assert main([*TOY, "--report_to", "wanbd"]) == 2
    assert "Did you mean 'wandb'?" in capsys.readouterr().err
