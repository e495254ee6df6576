"""Ideas that must pass a cheaper preset first."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TOY, run
from scripted import idea
from search_runs import RandomEdits, configured, go, rows

from ideator_rl.archive.archive import archive_of
from ideator_rl.config.base import ConfigError
from ideator_rl.config.fleet import Fleet
from ideator_rl.config.shared import CascadeConfig
from ideator_rl.environments.environment import load_environment
from ideator_rl.environments.feedback import feedback_of
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.executor.cascade_estimate import cascade_lines
from ideator_rl.executor.executor import Executor, ExecutorConfig
from ideator_rl.executor.fleet_estimate import fleet_lines
from ideator_rl.experiment import Experiment
from ideator_rl.patch import PatchError
from ideator_rl.patch.transfer import transfer
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.screen.pool import outcomes_of, read_pool
from ideator_rl.search.dry_run import dry_run
from ideator_rl.storage.bucket import open_bucket
from ideator_rl.storage.run_reader import read_run
from ideator_rl.training.recipe.recipe import load_recipe
from ideator_rl.training.session import buffer_config

CASCADE = CascadeConfig("t1", 0.48)


def executor(tmp_path, **keys):
    config = {"implementer": "envs.landscape.implementer.TokenEdits", "backend": "in_process"} | keys
    return Executor(ExecutorConfig("landscape", "t0", f"file://{tmp_path}/bucket", **config))


def test_a_search_runs_at_its_own_preset_what_passed_the_cheaper_one(tmp_path):
    folder = tmp_path / "run"
    config = configured(folder, cascade=CASCADE, max_experiments=12, patience=200)
    reason = go(config, RandomEdits())
    view = read_run(folder)
    own = [record for record in view.ran if not record.is_baseline]
    held = [record for record in view.experiments.values() if record.status == "not_promoted"]
    # Only what ran at the run's own preset counts.
    assert reason.budget == "max_experiments" and len(own) == 12 and held
    assert all(record.preset == "t0" and record.cascade["preset"] == "t1" for record in own + held)
    assert all(record.cascade["reward"] > 0.48 for record in own)
    assert all(record.reward == 0.0 and not record.tree for record in held)
    assert {"below", "failed"} == {record.error_kind for record in held}
    assert all(record.cascade["reward"] <= 0.48 and record.metric is None for record in held)
    # Both results are ordinary records in the bucket, and both times are in the record.
    bucket = open_bucket(f"file://{folder}/bucket")
    for record in own + held:
        cheap = record_store.load_record(bucket, record.cascade["id"])
        assert cheap.preset == "t1" and cheap.metric == record.cascade["metric"] and "cascade" in record.seconds
    assert {record_store.load_record(bucket, record.id).preset for record in own} == {"t0"}
    assert all(record_store.load_record(bucket, record.id) is None for record in held)
    # A resumed search goes on from its journal, and what it knows counts as before.
    more = configured(folder, cascade=CASCADE, max_experiments=14, patience=200)
    before = rows(folder)
    assert go(more, RandomEdits()).budget == "max_experiments" and rows(folder)[: len(before)] == before
    assert len([record for record in read_run(folder).ran if not record.is_baseline]) == 14


def test_a_screen_learns_from_ideas_that_did_not_pass_and_knows_them(tmp_path):
    buffer = RewardBuffer(configured(tmp_path, cascade=CascadeConfig("t1", 0.99)).buffer())
    texts = ["[Experiment] k00v1 k03v2 [Code Changes] apply [End]", "[Experiment] k01v1 [Code Changes] apply [End]"]

    async def outcomes_and_pool():
        await buffer.score(texts[:1])
        archive = archive_of(buffer)
        other_words = texts[0].replace("k00v1 k03v2", "k03v2 k00v1")
        pool = await read_pool([*texts, other_words], [()] * 3, archive, buffer, set())
        return outcomes_of(archive, buffer), pool

    (seen,), pool = run(outcomes_and_pool())
    buffer.close()
    assert seen.status == "not_promoted" and not seen.succeeded and seen.patch
    assert pool.fresh == [1], "a codebase that was held back is known, whatever the words"


def test_equal_ideas_run_once_and_a_threshold_is_part_of_the_outcome(tmp_path):
    text = "[Experiment] k00v1 k03v2 [Code Changes] apply [End]"

    def outcome(keep_above, preset="t1"):
        cascade = json.dumps({"preset": preset, "keep_above": keep_above}) if preset else ""
        return run(executor(tmp_path, cascade=cascade).execute(text))

    held, again, passed = outcome(0.99), outcome(0.99), outcome(-1.0)
    assert held.status == again.status == "not_promoted" and held.id == again.id
    assert again.replayed and not held.replayed and "t1" in held.error["message"]
    assert outcome(0.98).id != held.id
    assert (
        passed.status == "succeeded"
        and passed.cascade["id"] == held.cascade["id"]
        and passed.cascade["keep_above"] == -1
    )
    # At its own preset it is the experiment that it is without a cascade, and the stored record is the same.
    plain = outcome(0, preset="")
    assert (
        plain.id == passed.id
        and plain.replayed
        and plain.cascade == {}
        and "cascade" not in json.loads(plain.to_json())
    )
    assert Experiment.from_json(passed.to_json()) == passed
    # The limit itself does not pass: it is to be exceeded.
    assert outcome(passed.cascade["reward"]).status == "not_promoted"


def test_a_failure_at_the_cheaper_preset_holds_an_idea_back(tmp_path):
    cascade = json.dumps({"preset": "cpu", "keep_above": 0.025})
    config = ExecutorConfig(str(TOY), "slow", f"file://{tmp_path}/bucket", cascade=cascade, slots=2)
    place = Executor(config)

    async def all_of():
        return [await place.execute(idea(text)) for text in ("Set x to -6.0. Set y to 8.0.", "Set x to 1.0.")]

    failed, passed = run(all_of())
    place.close()
    assert (failed.status, failed.error_kind, failed.cascade["status"]) == ("not_promoted", "failed", "failed")
    assert "the point is off the bowl" in failed.error["message"] and "off the bowl" in failed.log
    assert failed.cascade["metric"] is None and failed.reward == 0.0 and "+x = -6.0" in failed.patch
    assert "pause = 0.4" in failed.patch
    assert passed.status == "succeeded" and passed.preset == "slow" and passed.cascade["metric"]["value"] == 36.6


def test_a_change_is_made_in_the_code_of_another_preset():
    base = {"a.py": "x = 1\ny = 1\nz = 1\n\nrun()\n", "b.py": "b\n", "c.py": "c\n"}
    other = base | {"a.py": "x = 9\ny = 9\nz = 1\n\nrun()\n"}
    tree = {"a.py": "x = 1\ny = 5\nz = 1\n\nrun(fast=True)\n", "b.py": "b2\n", "new.py": "n\n"}
    # A setting that the change sets itself keeps that value; the others are those of the preset.
    merged = {"a.py": "x = 9\ny = 5\nz = 1\n\nrun(fast=True)\n", "b.py": "b2\n", "new.py": "n\n"}
    assert transfer(base, tree, other) == merged
    assert transfer(base, tree, base) == tree and transfer(base, base, other) == other
    # A file without a newline at its end, and one that only the other preset has.
    assert transfer({"a": "1\n2"}, {"a": "1\n2\n3"}, {"a": "0\n2", "d": "d"}) == {"a": "0\n2\n3", "d": "d"}
    with pytest.raises(PatchError, match="a.py"):
        transfer({"a.py": "1\n2\n3\n"}, {"a.py": "1\nb\n3\n"}, {"a.py": "one\n"})


def test_unusable_cascades_are_refused(tmp_path):
    with pytest.raises(IdeatorError, match="own"):
        executor(tmp_path, cascade='{"preset": "t0", "keep_above": 0.1}')
    with pytest.raises(IdeatorError, match="no preset 't99'"):
        executor(tmp_path, cascade='{"preset": "t99", "keep_above": 0.1}')
    with pytest.raises(ConfigError, match="keep_above"):
        executor(tmp_path, cascade='{"preset": "t1"}')


def test_a_dry_run_shows_what_a_cascade_saves(tmp_path):
    environment = load_environment("nanogpt")
    hours = [environment.preset(name).hours(100)[1] for name in ("cpu", "cpu_shards")]
    cheap, own = ("cpu", "cpu_shards") if hours[0] < hours[1] else ("cpu_shards", "cpu")
    lines = cascade_lines(CascadeConfig(cheap, 0.3, 0.25), environment, own)
    after = min(hours) + 0.25 * max(hours)
    assert f"if 25% of 100 pass: {after:.4g} CPU-hours instead of {max(hours):.4g}" in lines[1] and len(lines) == 3
    assert f"over {1 - min(hours) / max(hours):.0%} pass" in lines[2]
    assert cascade_lines(None, environment, "cpu") == []
    toy = configured(tmp_path / "run", ideator="catalogue", env=str(TOY), preset="slow", backend="local",
                     implementer="rules", cascade=CascadeConfig("cpu", 0.3), max_ideas=2000)  # fmt: skip
    text = dry_run(toy)
    assert "if 10% of 2000 pass" in text and "it saves nothing: cpu is not cheaper than slow" in text
    # 12 seconds at each preset.
    assert f"at most 0.0 GPU-hours and {12 * (4000 + toy.baseline_replicates) / 3600:.1f} CPU-hours for" in text
    text = dry_run(replace(toy, max_ideas=None, max_experiments=2000))
    assert (
        f"{12 * (2000 + toy.baseline_replicates) / 3600:.1f} CPU-hours for experiments at slow; those at cpu come"
        in text
    )


def test_a_dry_run_says_that_fleet_hours_leave_a_cascade_out():
    environment = load_environment("nanogpt")
    preset, cheap = environment.preset("single_gpu"), environment.preset("cpu")
    fleet = Fleet(gpus=8, gpus_per_node=8, usd_per_gpu_hour=2.0)
    hours, usd = fleet_lines(preset, fleet, 16, 1, cheap=cheap)
    assert "measuring, cpu and confirming not included" in hours and "experiments at single_gpu;" in usd


def test_a_training_recipe_has_a_cascade():
    recipe = load_recipe(str(Path(__file__).parent / "toy_recipe.yaml"), ["--cascade", "{preset: slow, keep_above: 1}"])
    config = buffer_config(recipe)
    assert json.loads(config.cascade) == {"preset": "slow", "keep_above": 1.0, "pass_share": None}
    # A dataset's column holds it, and what is not set leaves the columns as they were.
    assert type(config).of_row(config.columns()) == config
    assert "cascade" not in buffer_config(load_recipe(str(Path(__file__).parent / "toy_recipe.yaml"))).columns()


def test_ideators_are_shown_the_cheaper_result_without_its_words():
    facts = {"status": "succeeded", "metric": {"name": "height", "value": 51.26}}
    record = Experiment("0", "not_promoted", "i", "toy", "slow", log="secret", text="secret", cascade=facts)
    assert feedback_of(record, "status") == "At the cheaper preset it ran, and did not pass: height 51.26."
    record.cascade = facts | {"status": "invalid"}
    assert feedback_of(record, "text") == "At the cheaper preset it ended as invalid."
    assert feedback_of(record, "none") == ""


RECIPE = f"""
env: {TOY}
preset: slow
cascade: {{preset: cpu, keep_above: 0.022}}
slots: 2
strategy: evolution
strategy_options: {{elites: 4, parents: 4, past: 5}}
epoch_size: 5
quorum: 1.0
batch: 3
max_experiments: 8
max_ideas: 40
patience: 1000
embedder: hashed
"""


def start(folder, *arguments):
    recipe = folder.parent / "search.yaml"
    recipe.write_text(RECIPE)
    line = [sys.executable, "-m", "ideator_rl.cli", "search", str(recipe), "--output_dir", str(folder), *arguments]
    with open(f"{folder}.log", "ab") as log:
        return subprocess.Popen(line, stdout=log, stderr=log, cwd=Path(__file__).parent.parent)


def outcomes(folder):
    columns = "step, position, completion, experiment_id, status, reward"
    with sqlite3.connect(folder / "buffer.sqlite") as db:
        return db.execute(f"select {columns} from rollouts order by step, position").fetchall()


def attempts(folder):
    bucket = open_bucket(f"file://{folder}/bucket")
    ids = [id for id in bucket.names("experiments") if bucket.get(f"experiments/{id}/spec.json")]
    return {id: len(record_store.attempts(bucket, id)) for id in ids}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_search_with_a_cascade_ends_as_an_untouched_one(tmp_path):
    began = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0, Path(f"{tmp_path}/whole.log").read_text()[-3000:]
    length, seed = time.monotonic() - began, random.randrange(10**6)
    print("seed", seed)
    rng, arguments = random.Random(seed), []
    for _ in range(3):
        process = start(tmp_path / "killed", *arguments)
        time.sleep(rng.uniform(0.3, 0.8) * length)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        arguments = ["--resume"] if (tmp_path / "killed" / "recipe.yaml").is_file() else []
    assert start(tmp_path / "killed", *arguments).wait() == 0, Path(f"{tmp_path}/killed.log").read_text()[-3000:]
    assert outcomes(tmp_path / "killed") == outcomes(tmp_path / "whole")
    assert attempts(tmp_path / "killed") == attempts(tmp_path / "whole"), "an experiment ran twice, or another one ran"
    statuses = {status for *_, status, _ in outcomes(tmp_path / "whole")}
    assert {"not_promoted", "succeeded"} <= statuses
