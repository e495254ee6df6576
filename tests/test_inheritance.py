"""Ideas that are written against the code of a past idea: whose code, which prompt, which patch is kept."""

import base64
import gzip
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from conftest import TOY
from inheriting import coding, improving, shown_values
from llm_server import Scripted
from pyarrow import parquet
from report_page import Page, page_of

from ideator_rl.checks.check import _prompts
from ideator_rl.cli.status import RunStatus
from ideator_rl.environments.environment import load_environment
from ideator_rl.environments.new import new_environment
from ideator_rl.patch import apply_patch, tree_hash
from ideator_rl.publishing.trajectories import write_trajectories
from ideator_rl.report.run_view import run_view
from ideator_rl.report.summary import run_summary
from ideator_rl.search.config import SearchConfig
from ideator_rl.search.ideator import Subject
from ideator_rl.search.ideators import get_ideator
from ideator_rl.search.run import run_search
from ideator_rl.storage.idea_context import inherited_patches, prompts_by_idea
from ideator_rl.storage.journal_reader import JournalReader
from ideator_rl.storage.run_reader import read_run
from ideator_rl.text.display import number
from ideator_rl.text.redaction import Redactor

ENVIRONMENT = load_environment(TOY)


def keys_of(folder, server):
    """A search of one idea a question, each on all that is known."""
    options = {"base_url": server.url, "models": "m", "retries": 0, "api_key_env": None, "ideas_per_call": 1}
    return {
        "output_dir": str(folder),
        "env": str(TOY),
        "implementer": "direct",
        "ideator": "chat",
        "ideator_options": options,
        "inherit": "best_parent",
        "strategy": "top_k",
        "strategy_options": {"free": 0, "shown": 1, "elites": 1},
        "epoch_size": 1,
        "quorum": 1.0,
        "batch": 1,
        "near_duplicates": None,
        "embedder": "hashed",
        "max_experiments": 4,
        "slots": 1,
        "probe": False,
    }


def searched(folder, server, **keys):
    run_search(SearchConfig(**{**keys_of(folder, server), **keys}))
    return read_run(folder)


def journal_of(folder):
    return JournalReader(folder / "buffer.sqlite")


def test_a_child_edits_its_parents_code_and_both_patches_are_kept(tmp_path):
    with Scripted(improving) as server:
        run = searched(tmp_path / "run", server)
    prompts = [request["messages"][-1]["content"] for request in server.requests]
    # One coordinate moves by one in every generation: each prompt showed the code that the last idea left.
    distances = [sum(abs(a - b) for a, b in zip(shown_values(p).values(), (1, -2, 3), strict=True)) for p in prompts]
    assert distances == [10.0, 9.0, 8.0, 7.0]
    with journal_of(tmp_path / "run") as journal:
        rows, kept = inherited_patches(journal), prompts_by_idea(journal)
    assert [kept[step, 0, 0] for step in range(4)] == prompts
    assert [row.step for row in rows] == [1, 2, 3] and not any(row.base.problem for row in rows)
    base = ENVIRONMENT.baseline("cpu")
    for row in rows:
        record = run.experiments[row.experiment_id]
        parent = run.experiments[row.base.parents[0]]
        assert parent.tree == row.base.tree and record.status == "succeeded"
        child = apply_patch(base, record.patch)
        assert tree_hash(child) == record.tree
        assert apply_patch(apply_patch(base, parent.patch), row.patch) == child
        # One line against the parent, as many as generations against the baseline.
        assert len(re.findall(r"^\+[xyz] = ", row.patch, re.M)) == 1
    assert "These are the files as idea 1 below left them." in prompts[1] and "```diff\n" in prompts[1]
    assert_generations_are_shown(tmp_path / "run", run, rows, prompts)


def assert_generations_are_shown(folder, run, inherited, prompts):
    """Report and export: whose code each idea changes, its patch to that code, and its prompt."""
    page = Page(page_of(folder))
    shown = page.experiments()
    view = run_view("run", run)
    numbers = [row.number for row in view.code_parents(view.row_of(view.best))]
    assert numbers and f"It builds on the code of experiment {numbers[0]}. Its prompt showed " in page.text
    place = {row["key"]: index for index, row in enumerate(shown)}
    kept = json.loads(gzip.decompress(base64.b64decode(page.script("prompts"))))
    last, chain = shown[place[inherited[-1].experiment_id]], []
    while last["code"]:
        chain.append(last)
        (parent,) = last["code"]
        last = shown[parent]
    assert len(chain) == len(inherited) == 3 and last["prompt"] == 0 and last["to_parent"] == ""
    assert [kept[row["prompt"]][0] for row in (last, *reversed(chain))] == prompts
    assert [row["to_parent"] for row in reversed(chain)] == [row.patch for row in inherited]
    assert_ancestors_are_named(run, inherited)
    write_trajectories(run, folder / "export", Redactor({}))
    table = parquet.read_table(folder / "export" / "data" / "trajectories.parquet").to_pylist()
    assert [row["prompt"] for row in table] == prompts
    assert [row["code_parents"] for row in table] == [[], *(list(row.base.parents) for row in inherited)]
    assert [row["patch_to_parent"] for row in table] == ["", *(row.patch for row in inherited)]


def assert_ancestors_are_named(run, inherited):
    """Summary and `status`: the best idea is the last of four, and each built on the one before it."""
    ancestors = [run.experiments[id] for row in reversed(inherited) for id in row.base.parents]
    for rows in (None, 30):
        lines = run_summary(run, rows).split("\n")
        start = lines.index("  It builds on the code of:") + 1
        named = [line.split()[0] for line in lines[start : start + len(ancestors)]]
        assert named == [number(ancestor.metric["value"]) for ancestor in ancestors] and len(named) == 3
        assert "One step from" in lines[start] and "[Experiment]" not in lines[start] and not lines[start + 3].strip()
    status = RunStatus(run.folder)
    status.refresh()
    assert status.facts()["best_code_parents"] == [ancestors[0].id]


@pytest.mark.slow
def test_a_killed_search_ends_with_the_trees_of_an_untouched_one(tmp_path):
    with Scripted(improving) as server:
        untouched = searched(tmp_path / "untouched", server, max_experiments=8, strategy_options=TWO)
        recipe = SearchConfig(**{**keys_of(tmp_path / "killed", server), "max_experiments": 8, "strategy_options": TWO})
        (tmp_path / "recipe.yaml").write_text(recipe.text())
        line = [sys.executable, "-m", "ideator_rl.cli", "search", str(tmp_path / "recipe.yaml")]
        for wanted in (1, 3, 5):
            resume = ["--resume"] if (tmp_path / "killed" / "recipe.yaml").is_file() else []
            with subprocess.Popen([*line, *resume], cwd=TOY.parent.parent, stderr=subprocess.DEVNULL) as process:
                # Killed while an idea with a base is in flight or has just ended.
                wait_for(lambda count=wanted: proposals(tmp_path / "killed") > count)
                process.send_signal(signal.SIGKILL)
        assert subprocess.run([*line, "--resume"], cwd=TOY.parent.parent).returncode == 0
    killed = read_run(tmp_path / "killed")
    trees = [[run.experiments[row.experiment_id].tree for row in run.rollouts] for run in (untouched, killed)]
    assert trees[0] == trees[1] and len(set(trees[0])) == 8
    kept = []
    for folder in ("untouched", "killed"):
        with journal_of(tmp_path / folder) as journal:
            kept.append([(row.step, row.base, row.patch) for row in inherited_patches(journal)])
    assert kept[0] == kept[1] and len(kept[0]) == 7


TWO = {"free": 0, "shown": 2, "elites": 3}


def proposals(folder):
    try:
        with sqlite3.connect(f"file:{folder / 'buffer.sqlite'}?mode=ro", uri=True) as db:
            return db.execute("select count(*) from rollouts").fetchone()[0]
    except sqlite3.Error:
        return 0


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_coder_gets_the_parents_code(tmp_path):
    with Scripted(improving) as server, Scripted(coding) as coder:
        settings = {"base_url": coder.url, "models": "c", "api_key_env": None, "samples": 1, "revisions": 0}
        run = searched(tmp_path / "run", server, implementer="llm", coder=settings, max_experiments=3)
    seen = [shown_values(request["messages"][-1]["content"]) for request in coder.requests]
    assert seen == [shown_values(request["messages"][-1]["content"]) for request in server.requests]
    assert len({record.tree for record in run.experiments.values()}) == 4  # and the baseline


def test_without_inheritance_the_journal_has_no_bases(tmp_path):
    with Scripted(improving) as server:
        with pytest.raises(ValueError):  # the toy's own prompt shows no code, which the script reads
            shown_values(ENVIRONMENT.prompt("cpu"))
        searched(tmp_path / "run", server, inherit="none", prompts="full", patience=1, max_experiments=2)
    with sqlite3.connect(tmp_path / "run" / "buffer.sqlite") as db:
        assert db.execute("select count(*) from bases").fetchone() == (0,)


def test_a_chat_ideator_that_sees_no_code_is_told_apart(tmp_path):
    """By `env check`, and by a note at the start of a search."""
    copy = tmp_path / "toy"
    shutil.copytree(TOY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    manifest = (TOY / "env.yaml").read_text()
    blind = manifest.replace(", full: prompts/full.md", "")
    results = []
    for text in (manifest, blind, blind.replace("catalogue: edits.yaml\n", "")):
        (copy / "env.yaml").write_text(text)
        check = _prompts(load_environment(str(copy)), "cpu")
        results.append((check.passed, check.warned))
        if text is not manifest:
            assert "no prompt (short) shows the code" in check.words
    assert results == [(True, False), (True, True), (False, False)]
    settings = {"base_url": "http://127.0.0.1:9/v1", "models": "m", "api_key_env": None}
    notes = [get_ideator("chat", settings, Subject(ENVIRONMENT, "cpu", *how)).check() for how in NOTED]
    assert notes == [["The ideator sees no code: the prompt short does not show it. Set prompts: full."], [], []]


NOTED = ("short",), ("full",), ("short", "best_parent")


@pytest.mark.parametrize("kind", ["short", "direct"])
def test_a_new_environment_asks_with_its_code(tmp_path, kind):
    new_environment(tmp_path / "mine", None)
    environment = load_environment(str(tmp_path / "mine"))
    text = environment.prompt("cpu", kind)
    assert '<file path="train.py"' in text and "def load" in text
    assert ("<<<<<<< SEARCH" in text) == (kind == "direct")
