"""Exports of trajectories without a model: of a search, and of a run that has saved none yet."""

import json
import shutil
import sqlite3

import pytest
import yaml
from conftest import sentence
from exported_run import exported_text, interrupted

from ideator_rl.publishing.export import published_run
from ideator_rl.storage.idea_context import Base, InheritedPatch
from ideator_rl.storage.run_reader import Run
from ideator_rl.text.redaction import Redactor


@pytest.fixture
def copy(tmp_path):
    return interrupted(tmp_path / "run")


def as_search(run):
    """The same records as those of a search, which has no weights."""
    for path in (*run.glob("checkpoint-*"), run / "warmup"):
        shutil.rmtree(path, ignore_errors=True)
    search = {"output_dir": "run", "env": "me/toy", "preset": "cpu", "implementer": "llm", "strategy": "evolution"}
    options = {"base_url": "http://me:pass@host/v1", "api_key_env": "MY_NAME_FOR_IT"}
    (run / "recipe.yaml").write_text(yaml.safe_dump({**search, "ideator": "chat", "ideator_options": options}))


def test_a_search_exports_its_trajectories_alone(copy, call, tmp_path, monkeypatch):
    from datasets import load_dataset

    as_search(copy)
    monkeypatch.setenv("MY_NAME_FOR_IT", "hush-hush-hush")
    with sqlite3.connect(copy / "buffer.sqlite") as db:
        db.execute("update rollouts set completion = completion || ' hush-hush-hush' where position = 0")
    code, out, err = call("export", copy, "--out", tmp_path / "out")
    assert code == 0 and "dataset:" in out and "model" not in out, err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dataset"]
    # The environment me/toy is on no machine, so nothing says which of its files are hidden.
    assert "without the best codebase" in err and not (tmp_path / "out" / "dataset" / "best").exists()
    page = (tmp_path / "out" / "dataset" / "report.html").read_text()
    assert "What was the best idea?" in page and str(copy.parent) not in page and "hush-hush-hush" not in page
    rows = load_dataset(str(tmp_path / "out" / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == 8
    card = (tmp_path / "out" / "dataset" / "README.md").read_text()
    assert "# Trajectories of a search on toy" in card and "the ideator `chat`" in card and "`evolution`" in card
    texts = exported_text(tmp_path / "out")
    assert "hush-hush-hush" not in texts and "me:pass" not in texts and "(hidden)" in texts


def test_a_training_run_without_a_checkpoint_exports_its_trajectories_on_request(copy, call, tmp_path):
    for path in copy.glob("checkpoint-*"):
        shutil.rmtree(path)
    assert "--dataset-only" in sentence(*call("export", copy, "--out", tmp_path / "out")[::2])
    code, out, _ = call("export", copy, "--out", tmp_path / "out", "--dataset-only", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["model"] is facts["weights"] is None and facts["rows"]["trajectories"] == 8
    code, _, err = call("export", copy, "--out", tmp_path / "two", "--dataset-only", "--dtype", "float32")
    assert "--dtype is about weights" in sentence(code, err)


def test_prompts_and_inherited_code_of_a_published_run_hold_no_secret(tmp_path):
    secret = "hf_" + "aB3dE5gH7jK9" * 3
    run = Run(tmp_path, {}, [], {})
    run.prompts = {(0, 0, 0): f"show {secret}"}
    base = Base("t", f"+{secret}", ("a",), f"no {secret}")
    run.inherited = {(0, 0): InheritedPatch(0, 0, "a", base, f"-{secret}")}
    public = published_run(run, Redactor({}))
    assert set(public.prompts) == {(0, 0, 0)} and set(public.inherited) == {(0, 0)}
    assert secret not in f"{public.prompts} {public.inherited}"
