"""Training whose ideas inherit code: what a row carries, what an idea is run on, and what a killed run repeats."""

import asyncio
import json
import os
import signal
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TOY, replace_line, run
from scripted import idea
from test_kill import Zygote
from tiny_policy import save_policy

from ideator_rl import reward_buffer
from ideator_rl.archive.archive import archive_of
from ideator_rl.archive.bases import CHOSEN, COLUMN, Option
from ideator_rl.archive.code_prompt import InheritingPrompts
from ideator_rl.archive.parents import TopK
from ideator_rl.config.recipe_file import RecipeError
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.patch import apply_patch, tree_hash
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from ideator_rl.storage.idea_context import Base, inherited_patches, prompts_by_idea
from ideator_rl.storage.journal_reader import JournalReader
from ideator_rl.storage.run_reader import read_run
from ideator_rl.training.imitation import EliteExamples
from ideator_rl.training.recipe.check_names import check_names
from ideator_rl.training.recipe.recipe import load_recipe
from ideator_rl.training.sft.data import with_recombinations
from rewards.execution import execution_reward

RECIPE = Path(__file__).parent / "toy_recipe.yaml"
ONE = TopK(shown=1, elites=1)


@pytest.fixture
def buffer(tmp_path):
    """A buffer whose ideas are edits of the code, and with one of them: x = 1."""
    config = BufferConfig(str(TOY), "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path), implementer="direct")
    buffer = RewardBuffer(config)
    run(buffer.baseline())
    run(buffer.score([edit("x = 4.0", "x = 1.0")], step=0))
    yield buffer
    buffer.close()


def edit(old, new, head=""):
    return f"[Experiment] {head}\ne [Code Changes]\n{replace_line(old, new)}[End]"


def prompts(buffer, **keys):
    return InheritingPrompts(buffer, keys.pop("strategy", ONE), **{"free": 0.0, "inherit": "best_parent", **keys})


def rewarded(buffer, rows, completions):
    """The rewards of groups of equal size, as stock TRL asks for them: the columns say where to run."""
    size = len(completions) // len(rows)
    columns = {name: [row[name] for row in rows for _ in range(size)] for name in rows[0]}
    asked = columns.pop("prompt")
    # The run's folder is this buffer's: it must not be opened twice.
    reward_buffer._open[buffer.config] = buffer
    columns |= {name: [value] * len(completions) for name, value in buffer.config.columns().items()}
    return asyncio.run(execution_reward(asked, completions, **columns))


def test_a_row_carries_the_code_that_its_prompt_shows(buffer):
    first = buffer.history[0]
    free, with_parent = (prompts(buffer, free=share).rows(1, 1)[0] for share in (1.0, 0.0))
    assert json.loads(json.dumps([free, with_parent])) == [free, with_parent]
    assert free[COLUMN] == [] and "x = 4.0" in free["prompt"] and free["parents"] == []
    [option] = map(Option.from_json, with_parent[COLUMN])
    assert option == Option("", Base(first.tree, first.patch, (first.id,)))
    assert "These are the files as idea 1 below left them." in with_parent["prompt"]
    assert "\nx = 1.0\n" in with_parent["prompt"] and "\nx = 4.0\n" not in with_parent["prompt"]


def test_ideas_of_a_group_are_run_on_the_code_of_its_row(buffer):
    first = buffer.history[0]
    rows = [prompts(buffer, free=share).rows(1, 1)[0] for share in (0.0, 1.0)]
    # Each edits another line of the parent's code; the third does not fit the baseline's.
    edits = [
        edit("y = 4.0", "y = -2.0"),
        edit("x = 1.0", "x = 0.0"),
        edit("x = 1.0", "x = 0.0"),
        edit("z = 4.0", "z = 3.0"),
    ]
    rewards = rewarded(buffer, rows, edits)
    journal = buffer.journal
    steps = {row.position: row for row in inherited_patches(journal) if row.step == 1}
    records = {record.id: record for record in journal.experiments()}
    baseline = buffer.executor.base
    assert sorted(steps) == [0, 1] and {row.base.tree for row in steps.values()} == {first.tree}
    for row in steps.values():
        record = records[row.experiment_id]
        assert tree_hash(apply_patch(baseline, record.patch)) == record.tree
        assert apply_patch(apply_patch(baseline, first.patch), row.patch) == apply_patch(baseline, record.patch)
    assert rewards[2] == 0.0 and rewards[0] > rewards[3] > 0
    asked = prompts_by_idea(journal)
    assert [asked[1, 0, position] for position in range(4)] == [row["prompt"] for row in rows for _ in range(2)]


def test_an_idea_of_a_group_names_its_base_among_those_that_the_prompt_offered(buffer):
    run(buffer.score([edit("z = 4.0", "z = 3.0")], step=1))
    [row] = prompts(buffer, inherit=CHOSEN, strategy=TopK(shown=2, elites=2)).rows(2, 1)
    assert [option["name"] for option in row[COLUMN]] == ["0", "1", "2", "1+2"]
    named = [f"Base: {row['parents'].index(buffer.history[0].id) + 1}", "Base: 2+1", "Base: 0", "Base: 9", ""]
    lines = [("x = 1.0", "x = 0.0"), ("z = 3.0", "z = 2.0"), *[("y = 4.0", f"y = {y}.0") for y in (1, 2, 3)]]
    rewarded(buffer, [row], [edit(*line, head) for line, head in zip(lines, named, strict=True)])
    kept = {row.position: row.base for row in inherited_patches(buffer.journal) if row.step == 2}
    assert sorted(kept) == [0, 1, 3] and len(kept[0].parents) == 1 and len(kept[1].parents) == 2
    assert kept[3].tree == "" and kept[3].problem.startswith("The idea names the base 9 and its prompt offered 0, 1, 2")
    statuses = [row.status for row in read_run(Path(buffer.config.run_dir)).rollouts if row.step == 2]
    assert statuses == ["succeeded"] * 5


def test_a_parent_whose_code_is_gone_costs_the_idea_nothing(buffer):
    """The environment has changed since the batch was sampled, or before it: as in a search."""
    first = buffer.history[0]
    buffer.history[0] = replace(first, tree="0" * 64)
    [row] = prompts(buffer).rows(1, 1)
    assert row[COLUMN][0]["tree"] == "" and row[COLUMN][0]["problem"].endswith("the baseline has changed since.")
    assert "\nx = 4.0\n" in row["prompt"], "the prompt shows the code that its ideas change"
    gone = row | {COLUMN: [Option("", Base("0" * 64, first.patch, (first.id,))).to_json()]}
    completions = [edit("y = 4.0", "y = 3.0"), edit("y = 4.0", "y = 2.0")]
    with pytest.raises(IdeatorError, match=f"The code of {first.id}, which this idea was written against, no longer"):
        rewarded(buffer, [gone], completions)


OPTION = {"name": "", "tree": "", "patch": "", "parents": [], "problem": ""}


@pytest.mark.parametrize(
    "value",
    [
        7,
        "base-2",
        [1],
        [{"name": "1"}],
        *([OPTION | more] for more in ({"tree": 1}, {"parents": 7}, {"parents": "ab"})),
    ],
)
def test_a_column_of_another_meaning_is_refused(buffer, value):
    [row] = prompts(buffer).rows(1, 1)
    with pytest.raises(IdeatorError, match=r"The column code_bases holds .* If it means something else, rename it\."):
        rewarded(buffer, [row | {COLUMN: value}], [edit("y = 4.0", "y = 3.0")])


def test_a_prompt_with_half_a_surrogate_pair_is_stored(buffer):
    [row] = prompts(buffer).rows(1, 1)
    rewards = rewarded(buffer, [row | {"prompt": "ask \ud800"}], [edit("y = 4.0", "y = 3.0")])
    assert rewards[0] > 0 and prompts_by_idea(buffer.journal)[1, 0, 0].startswith("ask ")


def test_an_imitated_idea_answers_the_prompt_it_was_written_for(buffer):
    rows = prompts(buffer).rows(1, 1)
    child = edit("y = 4.0", "y = -2.0")
    rewarded(buffer, rows, [child, child])
    draw = EliteExamples(buffer, prompts(buffer), cells=8, seed=0, keeps_prompts=True)
    by_completion = {example["completion"]: example["prompt"] for number in range(4) for example in draw(number)}
    assert by_completion[child] == rows[0]["prompt"] and len(by_completion) == 2
    assert len(archive_of(buffer)) == 2


def test_equal_ideas_on_two_codebases_are_no_replicates_of_one_another(tmp_path):
    where = {"run_dir": str(tmp_path), "replicates": 2, "implementer": "direct"}
    buffer = RewardBuffer(BufferConfig(str(TOY), "cpu", f"file://{tmp_path}/b", **where))
    try:
        run(buffer.score([edit("x = 4.0", "x = 1.0")], step=0))
        rows = [prompts(buffer, free=share).rows(1, 1)[0] for share in (0.0, 1.0)]
        rewarded(buffer, rows, [edit("y = 4.0", "y = 3.0")] * 4)
        runs = sorted((record.tree, record.replicate) for record in buffer.history[1:])
        assert len(runs) == 4 and [replicate for _, replicate in runs] == [0, 1, 0, 1]
    finally:
        buffer.close()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["--inherit", "best_parent"], "has inherit: best_parent and no prompt_strategy"),
        (["--inherit", "parent"], "inherit: 'parent'"),
        (["--code_tokens", "0"], "code_tokens"),
    ],
)
def test_a_recipe_that_cannot_inherit_is_refused(keys, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(RECIPE), keys)


def test_inheriting_needs_a_reward_that_runs_ideas_in_this_library():
    recipe = load_recipe(
        str(RECIPE), ["--inherit", "chosen", "--prompt_strategy", "top_k", "--reward_funcs", "[length]"]
    )
    with pytest.raises(IdeatorError, match="no reward function of it runs ideas on inherited code"):
        check_names(recipe)


def test_prompts_of_the_warmup_show_the_code_that_their_ideas_change():
    keys = ["--inherit", "best_parent", "--prompt_strategy", "top_k", "--free_prompts", "0.5"]
    recipe, environment = load_recipe(str(RECIPE), [*keys, "--env", str(TOY)]), load_environment(TOY)
    own = recipe.prompt(environment)
    assert "\nx = 4.0\n" in own and "x = 4.0" not in load_recipe(str(RECIPE)).prompt(environment)
    rows = with_recombinations([(own, idea("set x = 1.0"))] * 8, recipe.ours, 0)
    assert sum("Idea 1," in prompt for prompt, _ in rows) == 4
    assert all("\nx = 4.0\n" in prompt for prompt, _ in rows)


SETTINGS = ["--prompt_strategy", "top_k", "--inherit", "best_parent", "--free_prompts", "0.0", "--prompt_parents", "1"]
SETTINGS += ["--prompt_elites", "1", "--report_to", "none", "--sft_steps", "0", "--scratch_model", "null"]
SETTINGS += ["--per_device_train_batch_size", "3", "--num_generations", "3", "--max_completion_length", "8"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts runs whose ideas are scripted; their model is tiny, and was not warmed up."""
    zygote, policy = Zygote(), save_policy(tmp_path_factory.mktemp("policy"))

    def go(folder, *words):
        argv = ["--config", str(RECIPE), "--env", str(TOY), "--output_dir", str(folder), "--model_name_or_path", policy]
        return zygote.ask(argv=[*argv, *SETTINGS, *words], log=f"{folder}.log", scripted=True)

    go.zygote = zygote
    yield go
    zygote.close()


def ended(start, folder, *words):
    assert start.zygote.ask(wait=start(folder, *words)) == 0, Path(f"{folder}.log").read_text()[-3000:]


def inherited_of(folder):
    """What the ideas of a run were written against, and what came of it."""
    with JournalReader(folder / "buffer.sqlite") as journal:
        return [(row.step, row.position, row.experiment_id, row.base, row.patch) for row in inherited_patches(journal)]


def test_a_run_trains_on_ideas_about_inherited_code(start, tmp_path):
    folder = tmp_path / "run"
    ended(start, folder, "--max_steps", "4")
    finished, rows = read_run(folder), inherited_of(folder)
    by_step = {step: {base.tree for at, _, _, base, _ in rows if at == step} for step, *_ in rows}
    assert sorted(by_step) == [1, 2, 3] and all(len(trees) == 1 for trees in by_step.values()), "one base a group"
    assert len(rows) == 9 and len(set.union(*by_step.values())) > 1, "later batches build on later code"
    baseline = load_environment(TOY).baseline("cpu")
    for _, _, id, base, patch in rows:
        record, parent = finished.experiments[id], finished.experiments[base.parents[0]]
        assert parent.tree == base.tree and bool(patch) == bool(record.tree)
        if patch:
            child = apply_patch(apply_patch(baseline, parent.patch), patch)
            assert tree_hash(child) == record.tree == tree_hash(apply_patch(baseline, record.patch))
    stored = json.loads((folder / "rollouts/000003/batch.json").read_text())["groups"]
    assert [[option["tree"] for option in row[COLUMN]] for row in stored] == [list(by_step[3])]
    assert "These are the files as idea 1 below left them." in stored[0]["prompt"]


def proposals(folder):
    try:
        with sqlite3.connect(f"file:{folder / 'buffer.sqlite'}?mode=ro", uri=True) as db:
            return db.execute("select count(*) from rollouts").fetchone()[0]
    except sqlite3.Error:  # no file yet, or no tables
        return 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_repeats_the_bases_and_the_trees_of_an_untouched_one(start, tmp_path):
    words, resume, codes = ["--preset", "slow", "--max_steps", "5"], [], []
    ended(start, tmp_path / "untouched", *words)
    for wanted in (1, 5, 11):
        pid = start(tmp_path / "killed", *words, *resume)
        end = time.monotonic() + 200
        # Ideas of a batch are in the journal: some of its experiments run.
        while proposals(tmp_path / "killed") < wanted and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        codes.append(start.zygote.ask(wait=pid))
        resume = ["--resume"]
    ended(start, tmp_path / "killed", *words, *resume)
    assert codes == [-signal.SIGKILL] * 3
    runs = [read_run(tmp_path / name) for name in ("untouched", "killed")]
    bases = [inherited_of(tmp_path / name) for name in ("untouched", "killed")]
    assert bases[0] == bases[1] and len(bases[0]) == 12
    trees = [[run.experiments[row.experiment_id].tree for row in run.rollouts] for run in runs]
    assert trees[0] == trees[1] and len(trees[0]) == 15


def test_rules_of_an_idea_apply_to_the_code_of_its_row(toy_buffer):
    run(toy_buffer.score([idea("set x = 1.0")], step=0))
    rows = prompts(toy_buffer).rows(1, 1)
    rewarded(toy_buffer, rows, [idea("set y = 1.0"), idea("set x = 1.0")])
    first, second = toy_buffer.history[1:]
    assert "+x = 1.0" in first.patch + second.patch and "+y = 1.0" in first.patch + second.patch
    assert {first.status, second.status} == {"succeeded", "unpatchable"}, "the second changes nothing of its parent"
