from pathlib import Path

import pytest
from search_runs import configured

from ideator_rl.config.fleet import Fleet
from ideator_rl.environments.environment import load_environment
from ideator_rl.executor.fleet_estimate import at_once
from ideator_rl.search.dry_run import dry_run as dry_run_of_search
from ideator_rl.train import main

HERE = Path(__file__).parent
TOY = ["--config", str(HERE / "toy_recipe.yaml"), "--env", str(HERE / "toy_env"), "--dry-run"]


def test_a_dry_run_estimates_the_cost_and_starts_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*TOY, "--output_dir", str(folder), "--max_steps", "100", "--max_gpu_hours", "2"]) == 0
    out = capsys.readouterr().out
    assert "400 in 100 batches of 4" in out and "at most 401 of toy (cpu)" in out and not folder.exists()
    assert "0.0 GPU-hours and 1.3 CPU-hours" in out and "capped at 2 GPU-hours" in out  # 401 × (2 + 10) s


def test_a_dry_run_counts_every_batch_of_an_optimizer_step(tmp_path, capsys):
    keys = ["--max_steps", "100", "--gradient_accumulation_steps", "4", "--steps_per_generation", "1"]
    assert main([*TOY, "--output_dir", str(tmp_path / "run"), *keys]) == 0
    out = capsys.readouterr().out
    assert "1600 in 400 batches of 4" in out and "at most 1601 of toy (cpu)" in out


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


def test_a_dry_run_counts_the_experiments_of_debug_rounds(tmp_path, capsys):
    coder = ["--implementer", "llm", "--coder", '{"models": "some", "debug_rounds": 2}']
    assert main([*TOY, "--output_dir", str(tmp_path / "run"), *coder, "--max_steps", "100"]) == 0
    out = capsys.readouterr().out
    assert "at most 1201 of toy (cpu)" in out and "up to 3 for an idea whose code crashes (debug_rounds)" in out
    assert "4.0 CPU-hours" in out  # 1201 × (2 + 10) s


@pytest.mark.parametrize("budget, experiments, ideas", [("max_ideas", 201, 100), ("max_experiments", 101, 100)])
def test_a_dry_run_of_a_search_counts_the_experiments_of_debug_rounds(tmp_path, budget, experiments, ideas):
    coder = {"models": "some", "debug_rounds": 1}
    config = configured(tmp_path / "run", env=str(HERE / "toy_env"), preset="cpu", ideator="catalogue", backend="local",
                        implementer="llm", coder=coder, baseline_replicates=1,
                        **{"max_experiments": None, budget: 100})  # fmt: skip
    text = dry_run_of_search(config)
    assert f"at most {experiments} of toy (cpu)" in text and f"for {ideas} ideas" in text


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


ZERO3 = ["--dry-run", "--accelerate-config", str(ACCELERATE / "zero3.yaml")]


def paper(recipe, *more):
    return main(["--config", f"qwen3_30b_{recipe}.yaml", *ZERO3, *more])


def test_the_papers_runs_state_gpus_hours_tokens_and_usd_for_the_fleet(capsys):
    assert paper("nanogpt") == 0
    out = capsys.readouterr().out
    # 68 batches in 16 rounds of 8 experiments and one round for 3 baselines, of 1,800 s each; 8,707 × 8 × 0.5 GPU-hours
    assert "64 GPUs, 8 a machine: 8 experiments of 8 GPUs at once; at most 544.5 hours for 68 batches" in out
    assert "at most 34828.0 GPU-hours" in out and "at most 87,070 USD for the GPU-hours of experiments at" in out
    assert "8 processes, one GPU each; at most 71.3 M tokens sampled" in out  # 8,704 × 8,192
    assert paper("grpo_math") == 0
    out = capsys.readouterr().out
    # 40 batches in 4 rounds of 64 experiments and one round more, of 3,900 s each
    assert "64 experiments of 1 GPUs at once; at most 174.4 hours for 40 batches" in out
    assert "at most 83.9 M tokens sampled" in out  # 10,240 × 8,192


def test_a_run_that_does_not_fit_its_fleet_is_refused(capsys):
    assert paper("nanogpt", "--fleet", "{gpus: 64, gpus_per_node: 4}") == 2
    assert "needs 8 GPUs on one machine, and a machine of `fleet` has 4." in capsys.readouterr().err
    assert paper("nanogpt", "--fleet", "{gpus: 4}") == 2
    assert paper("grpo_math", "--fleet", "{gpus: 1, memory_gb_per_node: 128}") == 2
    assert "needs 225 GB of memory on one machine" in capsys.readouterr().err
    assert paper("grpo_math", "--max_gpu_hours", "200") == 2
    assert (
        "the first batch of 256 experiments of the preset paper takes up to 277.3 GPU-hours" in capsys.readouterr().err
    )
    assert paper("grpo_math", "--fleet", "{gpu: 1}") == 2
    assert "'gpu'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fleet", "slots"),
    [({"gpus": 16}, 2), ({"gpus": 20}, 2), ({"gpus": 8}, 1), ({"gpus": 32, "cpus_per_node": 80}, 4)],
)
def test_experiments_at_once_are_those_of_whole_machines(fleet, slots):
    preset = load_environment("nanogpt").preset("paper")
    assert at_once(preset, Fleet(**fleet)) == slots


def test_a_dry_run_counts_what_a_screen_runs(tmp_path, capsys):
    screen = ["--screen", "{over: 4, after: 20}", "--num_generations", "16", "--per_device_train_batch_size", "16"]
    keys = ["--output_dir", str(tmp_path / "run"), "--max_steps", "5", *screen]
    assert main(["--config", "quickstart", "--dry-run", *keys]) == 0
    # Two batches of 16 give 20 outcomes; 4 ideas are run of each of the other three.
    assert "4 of the 16 ideas of a batch are run, after 20 outcomes; 44 in all" in capsys.readouterr().out
    # A batch that is sampled ahead knows fewer outcomes.
    assert main(["--config", "quickstart", "--dry-run", *keys, "--max_staleness", "1"]) == 0
    assert "56 in all" in capsys.readouterr().out
