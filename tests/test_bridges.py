"""Examples of OpenEvolve and ShinkaEvolve as environments: what is written, what runs, and that `reported` is marked.

The examples here are small ones of our own, with the interfaces of theirs; the public ones are tried by
benchmarks/peer_examples.py.
"""

import asyncio
import json
import re
from types import SimpleNamespace

import pytest
import yaml
from llm_server import Scripted, answer

from ideator_rl.environments.environment import load_environment
from ideator_rl.environments.new_reported import new_reported_environment
from ideator_rl.environments.peer_examples import read_openevolve, read_shinka
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import SUCCEEDED, Experiment
from ideator_rl.patch.evolve_blocks import change_inside, change_outside
from ideator_rl.report.groups import comparable
from ideator_rl.report.run_view import RunView
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from ideator_rl.search import rerun
from ideator_rl.storage.run_reader import Run

PROGRAM = '''"""Finds a point."""
# EVOLVE-BLOCK-START
def find():
    return 1.0
# EVOLVE-BLOCK-END


def run():
    return find()
'''
EVALUATOR = """import importlib.util
import os

from openevolve.evaluation_result import EvaluationResult
from measure import distance

TARGETS = os.path.join(os.path.dirname(__file__), "targets.csv")


def evaluate(program_path):
    spec = importlib.util.spec_from_file_location("program", program_path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    if program.run() == 0:
        return {"combined_score": 0.0, "error": "no point"}
    target = float(open(TARGETS).read())
    score = 10 - distance(program.run(), target)
    return EvaluationResult({"combined_score": score, "valid": True, "error": "none"}, {"hint": "go on"})
"""
SHINKA = """import argparse
from shinka.core import run_shinka_eval


def total(outputs):
    return {"combined_score": sum(outputs), "public": {"count": len(outputs)}, "private": {"secret": 7.0}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program_path")
    parser.add_argument("--results_dir")
    args = parser.parse_args()
    run_shinka_eval(
        program_path=args.program_path, results_dir=args.results_dir, experiment_fn_name="run", num_runs=2,
        get_experiment_kwargs=lambda number: {}, aggregate_metrics_fn=total,
        validate_fn=lambda output: (output < 9, "too large"), run_workers=1,
    )
"""
BETTER = "initial.py\n<<<<<<< SEARCH\n    return 1.0\n=======\n    return {value}\n>>>>>>> REPLACE\n"
OUTSIDE = "initial.py\n<<<<<<< SEARCH\n    return find()\n=======\n    return 4.0\n>>>>>>> REPLACE\n"


@pytest.fixture
def openevolve(tmp_path):
    folder = tmp_path / "oe"
    folder.mkdir()
    files = {"initial.py": PROGRAM, "evaluator.py": EVALUATOR, "targets.csv": "3.5\n", "unrelated.py": "x = 1\n"}
    files |= {"measure.py": "def distance(one, two):\n    return abs(one - two)\n"}
    files |= {"config.yaml": "prompt: {system_message: Find the point.}\nevaluator: {timeout: 20}\n"}
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def shinka(tmp_path):
    folder = tmp_path / "se"
    folder.mkdir()
    (folder / "initial.py").write_text(PROGRAM)
    (folder / "evaluate.py").write_text(SHINKA)
    (folder / "run_evo.py").write_text('search_task_sys_msg = """Return more."""\n')
    return folder


def records(environment, folder, *patches):
    """The record of the baseline, and those of patches."""
    buffer = RewardBuffer(BufferConfig(str(environment), "cpu", f"file://{folder}/bucket", run_dir=str(folder)))

    async def all_records():
        return await asyncio.gather(buffer.baseline(0), *(buffer.score_patch(patch) for patch in patches))

    try:
        return asyncio.run(all_records())
    finally:
        buffer.close()


def test_an_example_of_openevolve_runs_unchanged_and_its_records_are_marked(openevolve, tmp_path, call):
    env = tmp_path / "env"
    code, out, err = call("env", "new", env, "--openevolve", openevolve / "initial.py", openevolve / "evaluator.py")
    assert code == 0 and "reported by evaluator.py" in out and "config.yaml: prompt.system_message" in out, err
    copied = {path.name: path.read_bytes() for path in (env / "baseline").iterdir()}
    originals = {path.name: path.read_bytes() for path in openevolve.iterdir()}
    driver = copied.pop("run_evaluator.py")
    assert copied == {name: originals[name] for name in ("initial.py", "evaluator.py", "measure.py", "targets.csv")}
    assert b'PROGRAM, EVALUATOR = "initial.py", "evaluator.py"' in driver
    environment = load_environment(env)
    prompt = environment.prompt("cpu")
    assert "Find the point." in prompt and "def find" in prompt and "EvaluationResult" not in prompt
    assert environment.preset("cpu").budget.seconds == 20 and environment.metric.label == "combined_score (reported)"
    baseline, better, none, outside = records(env, tmp_path, *(BETTER.format(value=n) for n in (3, 0)), OUTSIDE)
    assert baseline.status == SUCCEEDED, baseline.log
    assert baseline.metric == {
        "name": "combined_score", "value": 7.5, "direction": "max", "source": "reported"
    } and baseline.scoring["reported_by"] == "openevolve stand-in"  # fmt: skip
    assert better.metric["value"] == 9.5 and better.secondary == {"valid": 1.0}
    assert better.text == "hint: go on\nerror: none"
    assert none.status == "failed" and "reported no result: no point" in none.error["message"]
    assert outside.status == "rejected" and "line 9 of the baseline, outside of the EVOLVE" in outside.error["message"]


def test_an_example_of_shinka_runs_unchanged_and_an_incorrect_result_has_failed(shinka, tmp_path):
    example = read_shinka(shinka)
    written = new_reported_environment(tmp_path / "env", None, example)
    assert written.reported.task == "Return more." and example.is_stand_in
    baseline, wrong = records(tmp_path / "env", tmp_path, BETTER.format(value=9.5))
    assert baseline.secondary["count"] == 2.0 and "secret" not in baseline.secondary
    assert baseline.metric["value"] == 2.0 and baseline.metric["source"] == "reported", baseline
    assert wrong.status == "failed" and "Validation failed: too large" in wrong.error["message"]
    recipe = yaml.safe_load((tmp_path / "env" / "search.yaml").read_text())
    assert recipe["env"] == str(tmp_path / "env") and recipe["implementer"] == "direct"


def test_what_is_no_example_is_refused_with_a_reason(openevolve, shinka, call, tmp_path):
    program, evaluator = openevolve / "initial.py", openevolve / "evaluator.py"
    for files, reason in (
        ([program], "takes PROGRAM EVALUATOR"),
        ([evaluator, program], "has no function evaluate"),
        ([program, tmp_path / "none.py"], "there is no such file"),
        ([program, program], "both called initial.py"),
    ):
        with pytest.raises(IdeatorError, match=re.escape(reason)):
            read_openevolve(files)
    (shinka / "initial.jl").write_text("")
    code, _, err = call("env", "new", tmp_path / "env", "--shinka", shinka)
    assert code == 2 and "programs: initial.jl, initial.py" in err and not (tmp_path / "env").exists()


BLOCKS = "a\n# EVOLVE-BLOCK-START\nx\n# EVOLVE-BLOCK-END\nb\n# EVOLVE-BLOCK-START\ny\n# EVOLVE-BLOCK-END\nc\n"


@pytest.mark.parametrize(
    ("after", "line"),
    [
        (BLOCKS.replace("x", "x1\nx2").replace("y\n", ""), 0),
        (change_inside(BLOCKS, "new"), 0),
        (BLOCKS.replace("a\n", "A\n"), 1),
        (BLOCKS.replace("b\n", "B\n"), 4),
        (BLOCKS.replace("c\n", "C\n"), 9),
        (BLOCKS + "d\n", 9),
        (BLOCKS.replace("# EVOLVE-BLOCK-START\ny\n# EVOLVE-BLOCK-END\n", ""), 4),
        ("", 1),
    ],
)
def test_only_what_is_between_the_marks_may_change(after, line):
    reason = change_outside(BLOCKS, after)
    assert (f"differs at line {line} " in reason) if line else not reason


def test_a_file_with_blocks_is_not_deleted_and_one_without_is_free():
    assert "may not be deleted" in change_outside(BLOCKS, None)
    assert change_outside("a\n# EVOLVE-BLOCK-START\nx\n", None) == ""


def test_reported_metrics_are_never_compared_with_measured_ones(tmp_path):
    def run(**source):
        metric = {"name": "score", "value": 1.0, "direction": "max", **source}
        record = Experiment("e", SUCCEEDED, "idea", "env", "cpu", metric=metric, tree="t")
        return RunView("run", Run(tmp_path, {}, [], {"e": record}), [])

    measured, reported, second = run(), run(source="reported"), run(source="reported")
    assert [len(views) for views in comparable([measured, reported, second])] == [1, 2]
    assert reported.run.metric == "score (reported)" and measured.run.metric == "score"


def test_a_bucket_with_reported_and_measured_metrics_is_not_ranked(monkeypatch):
    def records(*sources):
        metrics = [{"name": "score", "value": 1.0, "direction": "max", **source} for source in sources]
        return [Experiment(f"e{i}", SUCCEEDED, "idea", "env", "cpu", metric=m, tree=f"t{i}", patch="p")
                for i, m in enumerate(metrics)]  # fmt: skip

    for sources, count in (({}, {}), 2), (({}, {"source": "reported"}), 0):
        monkeypatch.setattr(rerun, "read_results", lambda *_, sources=sources: records(*sources))
        if count:
            assert len(rerun.Source(None).best(5)) == count
            continue
        with pytest.raises(IdeatorError, match=re.escape("env/cpu by score, env/cpu by score (reported)")):
            rerun.Source(SimpleNamespace(url="file:///b")).best(5)


def test_an_example_takes_no_file_through_a_link(openevolve, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "id_rsa").write_text("PRIVATE")
    (openevolve / "data").symlink_to(tmp_path / "home")
    evaluator = openevolve / "evaluator.py"
    evaluator.write_text(evaluator.read_text() + "\nNAMED = ['data/id_rsa', 'data']\n")
    files = read_openevolve([openevolve / "initial.py", evaluator]).files
    assert "targets.csv" in files and not any("PRIVATE" in text for text in files.values())


@pytest.mark.slow
def test_a_bridge_passes_the_check_and_a_search_of_twenty(openevolve, tmp_path, call):
    env = tmp_path / "env"
    new_reported_environment(env, None, read_openevolve([openevolve / "initial.py", openevolve / "evaluator.py"]))
    code, out, _ = call("env", "check", env, "--json")
    checks = {check["name"]: check for check in json.loads(out)}
    assert code == 0 and checks["metric"]["warned"] and "reported" in checks["baseline"]["words"], checks
    texts = [f"[Experiment] go to {n} [Code Changes] {BETTER.format(value=n / 7)}[End]" for n in range(40)]
    with Scripted(*({"body": answer(text)} for text in texts)) as server:
        options = f"{{base_url: '{server.url}', models: m, api_key_env: null, ideas_per_call: 1}}"
        keys = ("--output_dir", tmp_path / "run", "--ideator_options", options, "--slots", "2", "--embedder", "hashed")
        code, out, err = call("search", env / "search.yaml", *keys)
    assert code == 0 and "Best idea combined_score (reported)" in out, err
    assert "combined_score (reported)" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(("kind", "secondary"), [("score", "mean_nearest"), ("predictions", "absolute_error")])
def test_a_new_environment_of_each_kind_is_complete(kind, secondary, tmp_path, call):
    env = tmp_path / "env"
    assert call("env", "new", env, "--kind", kind)[0] == 0
    baseline, better = records(env, tmp_path, (env / "known_good.patch").read_text())
    assert baseline.status == better.status == SUCCEEDED, baseline.log + better.log
    assert load_environment(env).metric.better(better.metric["value"], baseline.metric["value"])
    assert secondary in baseline.secondary and "source" not in baseline.metric
    assert yaml.safe_load((env / "search.yaml").read_text())["env"] == str(env)
    assert "SEARCH" in load_environment(env).prompt("cpu") and "def main" in load_environment(env).prompt("cpu")
    assert "expected lm, predictions, score" in call("env", "new", tmp_path / "other", "--kind", "else")[2]
