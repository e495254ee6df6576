"""CPU and wall seconds of scoring: limits from the baseline's cost, training in a scorer is stopped, sleep too."""

import json
import shutil
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import replace_line, run

from ideator_rl.environments.environment import load_environment
from ideator_rl.environments.preset import Budget
from ideator_rl.evaluation import Audit, token_loss
from ideator_rl.executor import trials
from ideator_rl.reward_buffer import BufferConfig, open_buffer
from ideator_rl.sandbox import process_tree
from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.scoring import allowance
from ideator_rl.scoring.allowance import Address, Limits, Meter, ScorerLimit, ScorerSeconds, ScoringCost, larger, limits
from ideator_rl.scoring.measurement import Measurement, Subject, measure
from ideator_rl.scoring.scoring import OverAllowance, ScoringRun

CPU, WALL = Budget("cpu", 3.0, 30.0), Budget("wall", 300.0, 60.0)
COST = ScoringCost((ScorerSeconds(0.1, 0.2, 100), ScorerSeconds(0.05, 0.1, 10)), 2.0)
HOSTILE = Path(__file__).parent / "hostile" / "env"
BURN = """
import time
import numpy as np

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""


def test_limits_are_multiples_of_what_each_scorer_of_the_baseline_took():
    bounds = limits(COST, CPU)
    assert bounds.scorers == (ScorerLimit(0.45, 0.25, 0.01), ScorerLimit(0.35, 0.25, 0.05))
    assert bounds.wall == 50.0


def test_without_a_measured_baseline_the_limits_follow_from_the_budget():
    bounds = limits(None, CPU)
    assert bounds.wall == 60.0 and bounds.scorers == (ScorerLimit(0.5, 0.55, 0.0),)


def test_on_the_wall_clock_only_wall_seconds_are_limited():
    assert limits(COST, WALL) == Limits(None, 50.0)


def test_a_cost_is_stored_for_one_environment_preset_and_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(allowance, "cache_root", lambda: tmp_path)
    address = Address("env", "cpu", "a" * 64)
    allowance.store_cost(address, COST)
    assert allowance.load_cost(address) == COST
    assert allowance.load_cost(replace(address, digest="b" * 64)) is None
    assert allowance.load_cost(replace(address, preset="gpu")) is None
    monkeypatch.setattr(allowance, "_machine", lambda: "another")
    assert allowance.load_cost(address) is None


def test_a_cost_holds_for_one_python_and_one_release_of_what_scorers_import(monkeypatch, tmp_path):
    monkeypatch.setattr(allowance, "cache_root", lambda: tmp_path)
    address = Address("env", "cpu", "a" * 64, ("yaml", "json"))
    releases = {"numpy": "1", "yaml": "1"}
    monkeypatch.setattr(allowance, "_release", releases.__getitem__)
    allowance.store_cost(address, COST)
    for name, package in ((sys.prefix, "yaml"), ("/another/venv", None)):
        monkeypatch.setattr(sys, "prefix", name)
        if package:
            releases[package] = "2"
        allowance._software.cache_clear()
        assert allowance.load_cost(address) is None
        releases["yaml"] = "1"
    monkeypatch.undo()
    allowance._software.cache_clear()
    assert allowance._release("yaml").startswith("PyYAML ") and allowance._release("numpy") == np.__version__


def test_a_cost_without_tokens_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setattr(allowance, "cache_root", lambda: tmp_path)
    address = Address("env", "cpu", "a" * 64)
    allowance.store_cost(address, COST)
    address.path.write_text('{"scorers": [{"loading": 0.1, "passes": 0.2}], "wall": 2.0}')
    assert allowance.load_cost(address) is None


def test_the_larger_of_two_costs_is_taken_field_by_field_with_passes_compared_a_token():
    other = ScoringCost((ScorerSeconds(0.05, 0.3, 300), ScorerSeconds(0.06, 0.11, 10)), 3.0)
    expected = ScoringCost((ScorerSeconds(0.1, 0.2, 100), ScorerSeconds(0.06, 0.11, 10)), 3.0)
    assert larger(COST, other) == expected == larger(other, COST)


def test_a_meter_allows_passes_by_the_tokens_asked_so_far():
    used = [1.0]
    meter = Meter(lambda: used[0], lambda: 1.0, ScorerLimit(0.5, 0.25, 0.01))
    used[0] = 1.4
    assert meter.check(now=True) == "" and meter.warm() == ""
    meter.tokens = 25
    used[0] = 1.9
    assert meter.check(now=True) == ""
    used[0] = 2.1
    assert "for what it was asked so far" in meter.check(now=True)
    meter.tokens = 100
    assert meter.check(now=True) == ""
    used[0] = 0.0  # a process that just ended
    assert meter.seconds() == ScorerSeconds(pytest.approx(0.4), pytest.approx(0.7), 100)


def test_the_time_at_which_a_scorer_burns_does_not_show_in_the_message():
    def message(tokens):
        meter = Meter(lambda: 1e3, lambda: 0.0, ScorerLimit(1e4, 0.25, 0.01))
        meter.warm()
        meter._limit, meter.tokens = ScorerLimit(0.5, 0.25, 0.01), tokens
        return meter.check(now=True)

    assert message(10) == message(5000) != ""


@pytest.fixture
def scored(tmp_path):
    """Measures a model whose `load` has this body, within limits."""

    def measure(body, bounds):
        tree, artifact = tmp_path / "tree", tmp_path / "artifact"
        tree.mkdir()
        artifact.mkdir()
        code = BURN + "\ndef load(artifact):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        (tree / "model.py").write_text(code)
        for path in (tmp_path, tree, artifact, *tree.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        scoring = ScoringRun(artifact, tmp_path, tmp_path, "cpu", 0, {}, 4, best_sandbox(), tree, "model:load")
        scoring = replace(scoring, limits=bounds)
        tokens = np.random.default_rng(0).integers(0, 4, (64, 9))
        token_loss(scoring, tokens, 8, Audit(tolerance=0.1))
        return scoring.spent

    return measure


PLAIN = "return lambda tokens: np.zeros((*tokens.shape, 4), np.float32)"


def test_an_honest_model_is_measured_and_start_up_is_not_counted(scored):
    spent = scored(PLAIN, (ScorerLimit(0.4, 0.25, 0.0),))
    # The full pass, and two scorers that audit few windows.
    assert len(spent) == 3 and all(scorer.loading + scorer.passes < 0.3 for scorer in spent)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(f"burn(2.0)\n{PLAIN}", id="training in load"),
        pytest.param(
            f"import os\nif os.fork() == 0:\n    burn(2.0)\n    os._exit(0)\nos.wait()\n{PLAIN}",
            id="a child that ended",
        ),
        pytest.param(
            "calls = []\ndef model(tokens):\n    calls.append(1)\n    burn(1.2 * (len(calls) == 2))\n"
            "    return np.zeros((*tokens.shape, 4), np.float32)\nreturn model",
            id="before the first answer",
        ),
        pytest.param(
            f"import ctypes\nctypes.CDLL(None).prctl(15, b'a\\xff')\nburn(2.0)\n{PLAIN}",
            id="under a name that is no text",
        ),
    ],
)
def test_training_in_a_scorer_is_stopped(body, scored):
    with pytest.raises(OverAllowance):
        scored(body, (ScorerLimit(0.4, 0.25, 0.001),))


@pytest.fixture
def letters(tmp_path, monkeypatch):
    """A buffer over the environment of tests/hostile, whose evaluator uses scorers; its cost is stored apart."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    buffer = open_buffer(BufferConfig(str(HOSTILE), "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path), slots=1))
    yield buffer
    buffer.close()


LOAD = "    table = read(artifact)"


def test_the_first_baseline_stores_its_cost_and_training_in_load_then_fails(letters, tmp_path):
    assert run(letters.baseline()).status == "succeeded"
    stored = list((tmp_path / "cache" / "ideator_rl" / "scoring").iterdir())
    assert len(stored) == 1 and stored[0].name.startswith("hostile-cpu-")
    burn = f"{LOAD}\n    import time\n    while time.process_time() < 2:\n        pass"
    record = run(letters.score_patch(replace_line(LOAD, burn)))
    assert record.status == "failed" and "CPU seconds to load" in record.error["message"]
    assert record.scoring["seconds_cpu"] < 1.5


def test_where_the_baseline_was_never_measured_the_first_experiment_that_needs_it_does(letters, tmp_path):
    slow = f"{LOAD}\n    import time\n    while time.process_time() < 2:\n        pass"
    record = run(letters.score_patch(replace_line(LOAD, slow)))
    assert record.status == "failed" and len(list((tmp_path / "cache" / "ideator_rl" / "scoring").iterdir())) == 1


def test_a_cost_from_a_time_when_the_machine_was_idle_is_measured_again_before_an_honest_model_fails(letters, tmp_path):
    assert run(letters.baseline()).status == "succeeded"
    (path,) = (tmp_path / "cache" / "ideator_rl" / "scoring").iterdir()
    stored = json.loads(path.read_text())
    # Loading for 0.4 s exceeds 2 x 0 + 0.25 s by less than a factor of two, as on a machine that is busier now.
    idle = {"scorers": [s | {"loading": 0.0} for s in stored["scorers"]], "wall": stored["wall"]}
    path.write_text(json.dumps(idle))
    burn = f"{LOAD}\n    import time\n    end = time.process_time() + 0.3\n    while time.process_time() < end:\n        pass"
    run(letters.score_patch(replace_line(LOAD, burn)))
    assert json.loads(path.read_text())["scorers"][0]["loading"] > 0
    path.write_text(json.dumps(idle))
    slow = burn.replace("0.3", "2.0")
    assert run(letters.score_patch(replace_line(LOAD, slow))).status == "failed"
    assert json.loads(path.read_text())["scorers"][0]["loading"] == 0


def test_a_model_that_sleeps_is_stopped_at_the_wall_limit(tmp_path):
    environment = load_environment(str(HOSTILE))
    (tmp_path / "artifact").mkdir()
    (tmp_path / "score").mkdir()
    (tmp_path / "score" / "train.py").write_text("import time\ndef load(artifact): time.sleep(60)\n")
    tmp_path.chmod(0o755)
    bounds = Limits(None, 1.5)
    subject = Subject(environment, environment.preset("cpu"), best_sandbox(), tmp_path, 0, "main", bounds)
    process_tree.become_subreaper()
    started = time.monotonic()
    ended = measure(subject)
    assert ended.status == "failed" and ended.message == "scoring took over 2 s" and ended.over_allowance
    assert time.monotonic() - started < 10


def test_a_repeated_measurement_asks_the_same_and_once_more(tmp_path):
    """Else a model that is caught could end itself: for another draw, or knowing the draw before its full pass."""
    seeds = tmp_path / "seeds"
    copy = Path(shutil.copytree(HOSTILE, tmp_path / "env"))
    lines = f"with open({str(seeds)!r}, 'a') as log:\n        print(*run.audit_seeds, file=log)"
    killed = "from ideator_rl.scoring.scoring import ScorerKilled"
    (copy / "evaluator.py").write_text(f"{killed}\ndef evaluate(run):\n    {lines}\n    raise ScorerKilled('gone')\n")
    environment = load_environment(str(copy))
    (tmp_path / "score").mkdir()
    process_tree.become_subreaper()
    for _ in range(2):
        subject = Subject(
            environment, environment.preset("cpu"), best_sandbox(), tmp_path, 0, "main", Limits(None, 60.0)
        )
        assert measure(subject).killed
    first, again, second, second_again = (
        [int(seed) for seed in line.split()] for line in seeds.read_text().splitlines()
    )
    assert len({*again, *second_again}) == 4
    assert first == again[:1] and second == second_again[:1]
    # At level `none` a scorer may read these files.
    left = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file() and path != seeds]
    assert not any(str(seed) in text for seed in {*again, *second_again} for text in left)


@pytest.mark.parametrize(("wider", "status"), [("invalid", "invalid"), ("failed", "failed")])
def test_what_is_not_believed_within_wider_limits_is_not_measured_again(wider, status, monkeypatch, tmp_path):
    environment = load_environment(str(HOSTILE))
    limited = Limits((ScorerLimit(1.0, 1.0, 0.0),), 60.0)
    subject = Subject(environment, environment.preset("cpu"), best_sandbox(), tmp_path, 0, "main", limited)
    asked = []
    monkeypatch.setattr(trials, "load_cost", lambda _: ScoringCost((), 1.0))
    monkeypatch.setattr(trials, "measure", lambda subject: asked.append(subject) or Measurement(wider))
    judge = trials.Trials._judge_again
    assert judge(object.__new__(trials.Trials), subject, Measurement("failed"), Address("e", "p", "d")).status == status
    assert [len(again.audit_seeds) for again in asked] == [2] and asked[0].audit_seeds[:1] == subject.audit_seeds


def test_each_repetition_within_other_limits_audits_once_more(monkeypatch, tmp_path):
    environment = load_environment(str(HOSTILE))
    limited = Limits((ScorerLimit(1.0, 1.0, 0.0),), 60.0)
    subject = Subject(environment, environment.preset("cpu"), best_sandbox(), tmp_path, 0, "main", limited)
    asked, attempt = [], object.__new__(trials.Trials)
    attempt.preset = subject.preset
    monkeypatch.setattr(trials, "load_cost", lambda _: COST)
    monkeypatch.setattr(trials, "store_cost", lambda *_: None)
    monkeypatch.setattr(trials, "measure", lambda subject: asked.append(subject) or Measurement("succeeded"))
    monkeypatch.setattr(trials.Trials, "_measure_baseline", lambda *_: COST)
    attempt._judge_again(subject, Measurement("failed"), Address("e", "p", "d"))
    wider, judged = (again.audit_seeds for again in asked)
    assert wider[:1] == subject.audit_seeds and judged[:2] == wider and len({*judged}) == 3
