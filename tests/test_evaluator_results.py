"""A mapping from `evaluate`: the metric, secondary metrics and text; plain mistakes, required values, old records."""

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml
from conftest import run

from ideator_rl.environments.environment import load_environment
from ideator_rl.environments.preset import Metric
from ideator_rl.experiment import FAILED, INVALID, SUCCEEDED, Experiment
from ideator_rl.reward_buffer import BufferConfig, open_buffer
from ideator_rl.scoring.evaluate import _call_evaluator
from ideator_rl.scoring.exposure import REPEATED, Exposure, repeats_private
from ideator_rl.scoring.result import MAX_SECONDARY, MAX_TEXT, BadResult, Result, read_result

LOSS = Metric("loss", "min", (0.0, 10.0))


def read(returned, metric=LOSS):
    return read_result(returned, metric, read, "evaluate(run) in evaluator.py")


def evaluate_in(folder, body, **metric):
    """The answer of an evaluator with this body of `evaluate`, in a folder of its own."""
    root = folder / f"{len(list(folder.iterdir()))}"  # one module a path
    root.mkdir()
    (root / "evaluator.py").write_text(f"import math\n\n\ndef evaluate(run):\n    {body}\n")
    scoring = SimpleNamespace(exposure=Exposure(), private=folder, notes={})
    metric = Metric("loss", "min", (0.0, 10.0), **metric)
    environment = SimpleNamespace(root=root, evaluator="evaluator.py", metric=metric)
    return _call_evaluator(scoring, environment) | {"notes": scoring.notes}


def test_a_number_and_a_mapping_are_read():
    import numpy as np

    assert read(2.5) == Result(2.5) and read(np.float32(2.5)) == Result(2.5) and read(np.array(2)) == Result(2.0)
    result = read({"loss": 2, "valid": True, "size": np.int64(3), "text": "slow", "why": "x"})
    assert result == Result(2.0, {"valid": 1.0, "size": 3.0}, "slow\nwhy: x")
    assert read({"metric": 1}) == Result(1.0)
    assert len(read({"loss": 1, "text": "\ud800 " * 5_000}).text) == MAX_TEXT


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("pass", "returned None (line 4); expected a number, or a mapping with 'loss'"),
        ("return [1.0]", "returned a value of the type list (line 5); expected a number, or a mapping with 'loss'"),
        ("return '1.0'", "a value of the type str (line 5)"),
        ("return {'los': 1.0}", "a mapping with 'los' (line 5); expected the metric as 'loss' or 'metric', once"),
        ("return {}", "a mapping with no key (line 5); expected the metric"),
        ("return {'loss': 1.0, 'metric': 2.0}", "both 'loss' and 'metric' (line 5); expected the metric"),
        ("return {'loss': None}", "for 'loss' None (line 5); expected a number"),
        ("return {'loss': {'mean': 1.0}}", "for 'loss' a value of the type dict (line 5); expected a number"),
        ("return {'loss': 1.0, 'sub': [1]}", "for 'sub' a value of the type list (line 5); expected a finite number"),
        ("return {'loss': 1.0, 'sub': math.nan}", "nan for 'sub' (line 5); expected a finite number or a text"),
        ("return {'loss': 1.0, 'sub': 10**400}", "for 'sub' a value of the type int (line 5)"),
        ("return {'loss': 1.0, 3: 1.0}", "a key that is no name (line 5); expected names"),
        ("return {'loss': 1.0, 'a\\nb': 1.0}", "a key that is no name (line 5); expected names"),
        (
            "return {'loss': 1.0} | {f's{i}': i for i in range(17)}",
            "17 secondary metrics (line 5); expected at most 16",
        ),
        ("if run is None:\n        return 1\n    return {}", "no key (line 4); expected the metric"),
    ],
)
def test_a_plain_mistake_names_line_and_expectation(tmp_path, body, message):
    answer = evaluate_in(tmp_path, body)
    assert set(answer) == {"failed", "notes"} and answer["failed"].startswith("evaluate(run) in evaluator.py returned ")
    assert message in answer["failed"], answer["failed"]


def test_a_value_of_the_experiment_is_in_no_message():
    for returned in ("SECRET", {"loss": "SECRET"}, {"loss": 1, "x": ["SECRET"]}, {"loss": 1, "SECRET\x1b": 1}):
        with pytest.raises(BadResult) as error:
            read(returned)
        # A text under the metric's name is no number; under any other name it would be feedback.
        assert "SECRET" not in str(error.value)


def test_a_metric_that_is_not_finite_is_invalid_as_ever(tmp_path):
    for body in ("return math.nan", "return {'loss': math.nan, 'sub': 1}"):
        answer = evaluate_in(tmp_path, body)
        assert answer["invalid"] == "loss is nan, outside the plausible range 0 to 10" and answer["metric"] is None


def test_a_required_value_that_differs_is_invalid(tmp_path):
    ok = evaluate_in(tmp_path, "return {'loss': 1.0, 'valid': True}", require={"valid": 1.0})
    assert "invalid" not in ok and ok["secondary"] == {"valid": 1.0}
    bad = evaluate_in(tmp_path, "return {'loss': 1.0, 'valid': 0}", require={"valid": 1.0})
    assert bad["invalid"] == "valid is 0; env.yaml requires 1" and bad["metric"] == 1.0
    for body in ("return 1.0", "return {'loss': 1.0}"):
        missing = evaluate_in(tmp_path, body, require={"valid": 1.0})
        assert "'valid'" in missing["failed"] and "env.yaml requires" in missing["failed"]


def test_a_text_is_left_out_once_a_model_got_hidden_data_or_where_it_repeats_them(tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    secret = "".join(chr(97 + i * 7 % 26) + str(i) for i in range(90))
    (private / "a.bin").write_text("0" * 77 + secret)
    assert repeats_private(f"the answer is {secret[20 : 20 + REPEATED]}", private)
    assert not repeats_private(f"the answer is {secret[20:40]}", private) and not repeats_private("", private)
    body = f"return {{'loss': 1.0, 'text': {secret!r}}}"
    assert evaluate_in(tmp_path, body)["text"] == ""  # the evaluator itself lies in that folder
    leaking = evaluate_in(tmp_path, "run.exposure.hidden = True; return {'loss': 1.0, 'text': 'fine'}")
    assert leaking["text"] == "" and leaking["notes"] == {"text": "left out: a model had got hidden data"}


def test_records_have_secondary_metrics_and_old_ones_stay_as_they_were():
    old = Experiment("i", SUCCEEDED, "idea", "env", "cpu", metric={"name": "loss", "value": 1.0, "direction": "min"})
    assert "secondary" not in old.to_json() and "text" not in json.loads(old.to_json())
    new = Experiment.from_json(old.to_json())
    assert new == old and new.secondary == {} and new.text == ""
    new.secondary, new.text = {"valid": 1.0}, "fine"
    assert Experiment.from_json(new.to_json()) == new
    new.check()
    new.secondary["valid"] = float("nan")
    with pytest.raises(ValueError, match="no finite number"):
        new.check()


@pytest.fixture
def many(toy, tmp_path):
    """The toy, whose evaluator returns a mapping."""
    root = tmp_path / "many"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("__pycache__"))
    source = (root / "evaluator.py").read_text()
    height = "0.5 + (x - 1) ** 2 + (y + 2) ** 2 + 0.1 * (z - 3) ** 2"
    mapping = f'{{"height": {height}, "far": abs(x) / 3, "low": z < 5, "text": f"x is {{x:.1f}}"}}'
    (root / "evaluator.py").write_text(source.replace(f"return {height}", f"return {mapping}"))
    manifest = yaml.safe_load((root / "env.yaml").read_text())
    manifest["metric"]["require"] = {"low": 1}
    (root / "env.yaml").write_text(yaml.safe_dump(manifest))
    return root


def test_a_run_with_a_mapping_is_recorded_and_printed(many, tmp_path, call):
    buffer = open_buffer(BufferConfig(str(many), "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path), slots=2))
    record = run(buffer.baseline())
    assert record.status == SUCCEEDED and record.secondary == {"far": pytest.approx(4 / 3), "low": 1.0}
    assert record.text == "x is 4.0"
    from ideator_rl.executor.record_store import load_record

    assert load_record(buffer.executor.bucket, record.id).secondary == record.secondary
    broken = run(buffer.score_patch("train.py\n<<<<<<< SEARCH\n" 'point = {"x": x, "y": y, "z": z}\n=======\n'
                                    'point = {"x": x, "y": y, "z": 9.0}\n>>>>>>> REPLACE\n'))  # fmt: skip
    assert broken.status == INVALID and broken.error["message"] == "low is 0; env.yaml requires 1"
    buffer.close()
    code, out, _ = call("execute", many, "--bucket", f"file://{tmp_path}/bucket", "--baseline")
    assert code == 0 and "far 1.3333" in out and "low 1.0000" in out and "x is 4.0" in out


def test_required_values_are_part_of_the_digest_and_no_others_change(many, toy, tmp_path):
    assert load_environment(many).digest("cpu") != load_environment(toy).digest("cpu")
    manifest = yaml.safe_load((many / "env.yaml").read_text())
    before = load_environment(many).digest("cpu")
    manifest["metric"]["require"] = {}
    (many / "env.yaml").write_text(yaml.safe_dump(manifest))
    without = load_environment(many).digest("cpu")
    del manifest["metric"]["require"]
    (many / "env.yaml").write_text(yaml.safe_dump(manifest))
    assert load_environment(many).digest("cpu") == without != before


def test_a_mapping_in_process(tmp_path, monkeypatch):
    import uuid

    from ideator_rl.executor.backends import in_process
    from ideator_rl.executor.executor import Executor

    returned = {"quality": 0.5, "cost": 3, "text": "slow"}
    evaluator = SimpleNamespace(measured=lambda tree, settings, replicate: returned)
    monkeypatch.setattr(in_process, "load_trusted", lambda path: evaluator)
    config = BufferConfig("landscape", "s0", f"memory://{uuid.uuid4()}", backend="in_process", run_dir=str(tmp_path),
                          implementer="envs.landscape.implementer.TokenEdits")  # fmt: skip
    record = run(Executor(config).execute("[Experiment] k00v1 [Code Changes] apply [End]"))
    assert record.status == SUCCEEDED and record.secondary == {"cost": 3.0} and record.text == "slow"
    returned["cost"] = [3]
    record = run(Executor(config).execute("[Experiment] k00v2 [Code Changes] apply [End]"))
    assert record.status == FAILED and "'cost'" in record.error["message"]


def test_more_numbers_than_a_record_takes_are_refused():
    assert len(read({"loss": 1} | {f"s{i}": i for i in range(MAX_SECONDARY)}).secondary) == MAX_SECONDARY
