"""A plugin package that was written against ideator_rl 0.1.0 still installs, imports and runs.

The package lies in `plugin_0_1_0/` as its author wrote it.  It is installed without pip and without a network: a folder
with the package and a dist-info that holds the entry points of its pyproject.toml, on PYTHONPATH.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PLUGIN = Path(__file__).parent / "plugin_0_1_0"
MODULES = sorted(path.stem for path in (PLUGIN / "old_plugin").glob("*.py") if path.stem != "__init__")
SEARCH = """
output_dir: search
env: hill
strategy: old_greedy
strategy_options: {shown: 2}
ideator: old_ladder
ideator_options: {top: 9.0}
implementer: old_careful
coder: {most: 9.5}
backend: old_counting
embedder: old_letters
epoch_size: 4
quorum: 1.0
batch: 2
max_experiments: 9
slots: 1
"""
TRAIN = """
output_dir: train
env: hill
implementer: old_careful
coder: {most: 50}
backend: old_counting
slots: 1
cpu_threads: 1
scratch_model: {vocab_size: 300, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 160}
sft_steps: 300
sft_learning_rate: 2.0e-2
sft_batch_size: 16
sft_examples: 200
reward_funcs: [old_altitude, old_brief, old_lean]
reward_options: {brief_words: 40}
prompt_strategy: old_newest
free_prompts: 0.5
advantage: old_top_share
advantage_options: {keep: 0.5}
diversity_embedder: old_letters
temperature: 0.4
max_steps: 3
per_device_train_batch_size: 8
num_generations: 4
max_completion_length: 64
learning_rate: 1.0e-3
lr_scheduler_type: constant
logging_steps: 1
save_steps: 3
report_to: none
seed: 1
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder for PYTHONPATH."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGIN / "old_plugin", site / "old_plugin", ignore=shutil.ignore_patterns("__pycache__"))
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = site / f"old_plugin-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return site


def run(installed, folder, *words):
    """A command with the plugin installed; its parts note their calls in `log.jsonl` of the folder."""
    variables = {**os.environ, "PYTHONPATH": str(installed), "OLD_PLUGIN_LOG": str(folder / "log.jsonl")}
    words = list(map(str, words))
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=240)


def ideator_rl(installed, folder, *words):
    return run(installed, folder, Path(sys.executable).with_name("ideator-rl"), *words)


def notes(folder, part):
    """What a part of the plugin noted, one mapping a call."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["part"] == part]


def records(run_folder):
    with closing(sqlite3.connect(run_folder / "buffer.sqlite")) as db:
        return [json.loads(text) for (text,) in db.execute("select record_json from experiments")]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_of_the_plugin_imports_what_it_imported_from_0_1_0(installed, tmp_path, module):
    done = run(installed, tmp_path, sys.executable, "-c", f"import old_plugin.{module}")
    assert done.returncode == 0, done.stderr


def test_the_names_that_the_plugin_looks_up_are_the_classes_that_it_imports(installed, tmp_path):
    code = "from old_plugin.backends import others; print(*(each.__name__ for each in others()))"
    done = run(installed, tmp_path, sys.executable, "-c", code)
    assert done.stdout.split() == ["LocalBackend", "InProcessBackend", "WatchedBucket"], done.stderr


def test_the_environment_of_the_plugin_is_listed_and_shown(installed, tmp_path):
    done = ideator_rl(installed, tmp_path, "env", "list", "--json")
    listed = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0 and {"hill", "landscape", "nanogpt"} <= listed.keys(), done.stderr
    assert listed["hill"]["presets"] == ["cpu"] and listed["hill"]["error"] is None
    shown = ideator_rl(installed, tmp_path, "env", "show", "hill")
    assert shown.returncode == 0 and "altitude" in shown.stdout, shown.stderr


def test_the_plugin_s_implementer_is_taken_by_execute(installed, tmp_path):
    idea = "[Experiment] Move x to 3.0. [Code Changes] Set x to 3.0. [End]"
    words = ("--idea", idea, "--implementer", "old_careful", "--bucket", f"file://{tmp_path}/bucket", "--json")
    done = ideator_rl(installed, tmp_path, "execute", "hill", *words)
    record = json.loads(done.stdout)
    assert done.returncode == 0 and record["metric"]["value"] == 14.0, done.stderr
    assert record["implementer"] == "old_careful" and [note["keys"] for note in notes(tmp_path, "careful")] == [["x"]]


@pytest.fixture(scope="module")
def searched(installed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    (folder / "search.yaml").write_text(SEARCH)
    done = ideator_rl(installed, folder, "search", "search.yaml", "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_a_search_is_made_of_the_plugin_s_parts(searched):
    folder, facts = searched
    assert facts["charged"] == 9 and facts["ended_by"] == "max_experiments" and facts["baseline"] == 5.0
    assert facts["kinds"].keys() == {"free", "exploit"} and facts["best"]["metric"]["value"] > 5.0
    known = [note["known"] for note in notes(folder, "greedy")]
    assert known[0] == 0 and max(known) >= 4 and {note["shown"] for note in notes(folder, "greedy")} == {2}
    assert [note["shown"] for note in notes(folder, "ladder")][-1] > 0 and notes(folder, "ladder closed")
    assert notes(folder, "letters"), "the embedder was not asked"
    ran = records(folder / "search")
    assert {record["implementer"] for record in ran} == {"baseline", "old_careful"}
    assert {record["environment"] for record in ran} == {"hill"}
    assert {"succeeded", "failed"} <= {record["status"] for record in ran}
    started = {note["id"] for note in notes(folder, "counting")}
    assert started == {record["id"] for record in ran if record["tree"]}, "another backend started experiments"


def test_a_search_is_resumed_with_the_plugin_s_parts(installed, searched, tmp_path):
    folder = Path(shutil.copytree(searched[0], tmp_path / "copy"))
    before = len(notes(folder, "greedy"))
    words = ("search", "search.yaml", "--resume", "--max_experiments", "11", "--json")
    done = ideator_rl(installed, folder, *words)
    assert done.returncode == 0 and json.loads(done.stdout)["charged"] == 11, done.stderr
    assert len(notes(folder, "greedy")) > before


def test_the_prompt_strategy_of_the_plugin_picks_parents_in_a_search_by_its_dotted_path(installed, tmp_path):
    (tmp_path / "search.yaml").write_text(SEARCH)
    words = ("--strategy", "old_plugin.prompt_strategies.Newest")
    words += ("--strategy_options", "{shown: 2, elites: 5, free: 0.0}")
    done = ideator_rl(installed, tmp_path, "search", "search.yaml", *words, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["kinds"]["exploit"] >= 2, done.stderr
    assert max(note["shown"] for note in notes(tmp_path, "newest")) == 2 and not notes(tmp_path, "greedy")


def test_a_dotted_path_names_what_an_entry_point_names(installed, tmp_path):
    (tmp_path / "search.yaml").write_text(SEARCH)
    words = ("--strategy", "old_plugin.search_strategies.Greedy", "--max_experiments", "2")
    words += ("--backend", "old_plugin.backends.Counting", "--implementer", "old_plugin.implementers.Careful")
    done = ideator_rl(installed, tmp_path, "search", "search.yaml", *words, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["charged"] == 2, done.stderr
    assert notes(tmp_path, "greedy") and notes(tmp_path, "counting") and notes(tmp_path, "careful")


def test_a_script_of_the_plugin_reads_the_run_by_the_library_s_functions(installed, searched, tmp_path):
    folder = Path(shutil.copytree(searched[0], tmp_path / "copy"))
    done = run(installed, folder, sys.executable, "-m", "old_plugin.look", "search")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["best"] == searched[1]["best"]["metric"]["value"] and facts["charged"] == 9
    assert facts["rows"] == searched[1]["ideas"] and {"succeeded", "failed"} <= set(facts["statuses"])
    assert facts["implementers"] == ["baseline", "old_careful"] and "hill" in facts["environments"]
    assert facts["best_by_bucket"] and facts["better"] and facts["baseline"] and facts["known"]
    assert facts["windows"][0]
    assert facts["reward"] == "old_plugin.rewards" and facts["report"] > 10_000 and "Baseline" in facts["summary"]


def test_a_script_of_the_plugin_searches_with_parts_that_it_makes_one_by_one(installed, tmp_path):
    (tmp_path / "search.yaml").write_text(SEARCH)
    done = run(installed, tmp_path, sys.executable, "-m", "old_plugin.look", "search.yaml", "by_hand")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"ended_by": "max_experiments", "rows": 2}
    assert notes(tmp_path, "newest") and notes(tmp_path, "counting") and len(records(tmp_path / "by_hand")) >= 3


def test_a_training_run_is_made_of_the_plugin_s_rewards_prompts_and_advantage(installed, tmp_path):
    (tmp_path / "train.yaml").write_text(TRAIN)
    done = run(installed, tmp_path, sys.executable, "-m", "ideator_rl.train", "--config", "train.yaml")
    assert done.returncode == 0, done.stderr
    ran = records(tmp_path / "train")
    assert {record["environment"] for record in ran} == {"hill"}
    assert len(notes(tmp_path, "altitude")) == 24 == len(notes(tmp_path, "lean"))
    assert {note["most"] for note in notes(tmp_path, "brief")} == {40}
    assert {note["keep"] for note in notes(tmp_path, "top_share")} == {0.5} and len(notes(tmp_path, "top_share")) == 3
    assert max(note["shown"] for note in notes(tmp_path, "newest")) >= 1, "no prompt showed a past idea"
    assert notes(tmp_path, "careful") and notes(tmp_path, "counting") and notes(tmp_path, "letters")
    logs = json.loads((tmp_path / "train" / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    means = [log["rewards/altitude_reward/mean"] for log in logs if "rewards/altitude_reward/mean" in log]
    noted = [note["reward"] for note in notes(tmp_path, "altitude")]
    assert max(noted) > 0 and means == pytest.approx([sum(noted[at : at + 8]) / 8 for at in (0, 8, 16)])
    assert any(log.get("rewards/lean_reward/mean", 0) > 0 for log in logs)


def test_a_wrong_option_of_a_reward_of_the_plugin_is_refused_before_the_start(installed, tmp_path):
    (tmp_path / "train.yaml").write_text(TRAIN.replace("brief_words: 40", "brief_words: 0"))
    done = run(installed, tmp_path, sys.executable, "-m", "ideator_rl.train", "--config", "train.yaml")
    assert done.returncode == 2 and "brief_words" in done.stderr and not (tmp_path / "train").exists()
