"""Results too good for one run: run again with another seed, measured on the second hidden split."""

import shutil

import pytest
import yaml
from conftest import replace_line, run

from ideator_rl.reward_buffer import BufferConfig, open_buffer

LINE = 'point = {"x": x, "y": y, "z": z}'


@pytest.fixture
def wary(toy, tmp_path):
    """The toy, where a height below 5 is suspicious; its second split is 0.1 higher."""
    root = tmp_path / "wary"
    shutil.copytree(toy, root)
    manifest = yaml.safe_load((root / "env.yaml").read_text())
    manifest["presets"]["cpu"]["suspicious"] = {"beyond": 5.0, "agree": 0.5}
    (root / "env.yaml").write_text(yaml.safe_dump(manifest))
    source = (root / "evaluator.py").read_text()
    (root / "evaluator.py").write_text(source.replace("return 0.5", "return (run.split == 'confirm') * 0.1 + 0.5"))
    buffer = open_buffer(BufferConfig(str(root), "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path), slots=2))
    yield buffer
    buffer.close()


def test_a_suspicious_result_that_repeats_counts_with_the_worse_of_its_two_values(wary):
    record = run(wary.score_patch(replace_line(LINE, 'point = {"x": 1.0, "y": -2.0, "z": 3.0}')))
    assert record.status == "succeeded" and record.seconds["confirm"] > 0
    assert record.metric["first"] == pytest.approx(0.5) and record.metric["second"] == pytest.approx(0.6)
    assert record.metric["value"] == record.metric["second"] and record.reward == pytest.approx(1 / 0.6)


def test_a_suspicious_result_that_depends_on_its_seed_is_invalid(wary):
    lucky = 'point = {"x": 1.0, "y": -2.0 + (os.environ["IDEATOR_SEED"] != "0"), "z": 3.0}'
    record = run(wary.score_patch(replace_line(LINE, lucky)))
    assert record.status == "invalid" and record.reward == 0.0 and "did not repeat" in record.error["message"]
    assert record.metric["first"] == pytest.approx(0.5) and record.metric["second"] == pytest.approx(1.6)


def test_a_suspicious_result_whose_second_run_crashes_is_invalid(wary):
    brittle = f'assert os.environ["IDEATOR_SEED"] == "0"; {LINE.replace(": y", ": -2").replace(": x", ": 1")}'
    record = run(wary.score_patch(replace_line(LINE, brittle)))
    assert record.status == "invalid" and record.metric["second"] is None and record.metric["value"] < 5


def test_an_ordinary_result_is_run_once(wary):
    record = run(wary.baseline())
    assert record.status == "succeeded" and "confirm" not in record.seconds and set(record.metric) == {
        "name", "value", "direction"}  # fmt: skip


@pytest.fixture
def controlled(wary, tmp_path):
    """The same, with a control run at a tenth of the budget of 2 s."""
    path = tmp_path / "wary" / "env.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["presets"]["cpu"]["suspicious"]["control"] = 0.1
    path.write_text(yaml.safe_dump(manifest))
    root, bucket = str(tmp_path / "wary"), f"file://{tmp_path}/controlled"
    buffer = open_buffer(BufferConfig(root, "cpu", bucket, run_dir=str(tmp_path / "run"), slots=2))
    yield buffer
    buffer.close()


def test_a_suspicious_result_that_a_tenth_of_the_budget_reaches_too_is_invalid(controlled):
    record = run(controlled.score_patch(replace_line(LINE, 'point = {"x": 1.0, "y": -2.0, "z": 3.0}')))
    assert record.status == "invalid" and "does not come from training" in record.error["message"]
    assert record.metric["second"] == record.metric["control"] == pytest.approx(0.6)


def test_a_suspicious_result_that_needs_its_budget_counts(controlled):
    trained = 'point = {"x": 3 - float(os.environ["IDEATOR_BUDGET_SECONDS"]), "y": -2.0, "z": 3.0}'
    record = run(controlled.score_patch(replace_line(LINE, trained)))
    assert record.status == "succeeded" and record.metric["control"] == pytest.approx(0.6 + 1.8**2)


def test_a_control_run_without_a_result_counts_as_worse(controlled):
    late = 'time.sleep(0); [None for _ in iter(lambda: time.process_time() > 0.9, True)]; point = {"x": 1.0, "y": -2.0, "z": 3.0}'
    record = run(controlled.score_patch(replace_line(LINE, late)))
    assert record.status == "succeeded" and record.metric["control"] is None
