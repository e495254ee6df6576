"""The benchmark of edits, and its proof: edits of the arithmetic environment beat its baseline by far more than noise."""

from argparse import Namespace
from asyncio import run

import pytest

from ideator_rl.environments.catalogue.catalogue import environment_catalogue
from ideator_rl.environments.catalogue.edits import Choice
from ideator_rl.environments.data import load_trusted
from ideator_rl.environments.environment import Metric, load_environment
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer

ENVIRONMENT = load_environment("grpo_math")
CATALOGUE = environment_catalogue(ENVIRONMENT)
EDITS = load_trusted(ENVIRONMENT.root.parents[1] / "benchmarks" / "edits.py")
UP, DOWN = (Metric("accuracy", direction, (0.0, 1.0)) for direction in ("max", "min"))
IMPROVING = ["learning_rate=2e-4", "prompts=4", "epochs=4"]


def test_edits_are_selected_by_name_by_value_and_in_pairs():
    assert EDITS.wanted(CATALOGUE, ["group"], "one") == [(Choice("group", 4),)]
    assert len(EDITS.wanted(CATALOGUE, ["group"], "all")) == 3
    assert EDITS.wanted(CATALOGUE, ["cosine+epochs=2"], "all") == [(Choice("cosine"), Choice("epochs", 2))]
    assert {edits[0].key for edits in EDITS.wanted(CATALOGUE, [], "one")} == set(CATALOGUE.edits)


def _bold(values, metric=UP, baseline=(0.50, 0.51, 0.49, 0.50, 0.50)):
    return "**" in EDITS.table(list(baseline), [EDITS.Row((Choice("x"),), list(values), [])], metric)[-1]


def test_only_edits_that_beat_the_noise_in_the_metrics_direction_are_bold():
    assert _bold([0.55]) and not _bold([0.55], DOWN)
    assert _bold([0.45], DOWN) and not _bold([0.45])
    assert not _bold([0.52]) and _bold([0.52] * 9)  # the baseline's spread counts even where the edit has none
    assert not _bold([0.50, 0.60])  # its own spread counts too
    assert not _bold([0.55], baseline=(0.4, 0.5, 0.6))


def test_an_edit_whose_runs_all_failed_has_a_row_that_states_it():
    rows = [EDITS.Row((Choice("a"),), [], ["failed", "timed_out"]), EDITS.Row((Choice("b", 2),), [0.6], ["failed"])]
    lines = EDITS.table([0.5, 0.51], rows, UP)
    assert (
        lines[-2].startswith("| **b 2** | 1 (1 failed) | 0.6000 |") and lines[-1] == "| a | 0 | failed, timed_out | | |"
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_edits_beat_the_noise_of_the_baseline(tmp_path):
    arguments = Namespace(preset="cpu", seeds=5, runs=3, first=200)
    buffer = RewardBuffer(BufferConfig("grpo_math", "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path), slots=1))
    try:
        chosen = EDITS.wanted(CATALOGUE, IMPROVING, "all")
        baseline, rows = run(EDITS.measure(ENVIRONMENT, buffer, chosen, arguments))
    finally:
        buffer.close()
    assert len(baseline) >= 5
    lines = EDITS.table(baseline, rows, ENVIRONMENT.metric)
    assert [line for line in lines if line.startswith("| **")] == lines[4:] and len(lines) == 7, "\n".join(lines)
