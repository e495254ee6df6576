"""`ideator-rl best`: the codebase that was measured, its patch and a note; nothing is run."""

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from conftest import TOY, sentence
from recorded import baseline, journal, record
from report_page import HOSTILE, Page
from search_runs import RandomEdits, configured, go

from ideator_rl.environments.environment import load_environment
from ideator_rl.executor import record_store
from ideator_rl.patch import apply_patch, diff, read_tree, tree_hash, write_tree
from ideator_rl.storage.bucket import open_bucket
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_reader import read_run


def unpacked(page):
    """The long texts of every experiment of a report."""
    return json.loads(gzip.decompress(base64.b64decode(Page(page).script("texts"))))


@pytest.fixture
def toy_run(tmp_path):
    """A run on the toy environment with real codebases in its bucket: a baseline, two successes, one of them run again."""
    environment = load_environment(str(TOY))
    base = environment.baseline("cpu")
    bucket = open_bucket(f"file://{tmp_path}/run/bucket")
    digest = {"environment": environment.digest("cpu")}
    records = []
    for place, value in enumerate((3.0, 2.0)):
        tree = base | {"train.py": base["train.py"].replace("x = 4.0", f"x = {value}")}
        records.append(record(f"idea{place}", value=value, tree=tree_hash(tree), patch=diff(base, tree), hashes=digest,
                              idea=HOSTILE, seed=3))  # fmt: skip
        record_store.save_tree(bucket, tree_hash(tree), tree)
        (tmp_path / "run" / "bucket" / "experiments").mkdir(exist_ok=True)
    unchanged = [replace(baseline(n, 4.0 + n / 10), tree=tree_hash(base)) for n in range(3)]
    record_store.save_tree(bucket, tree_hash(base), base)
    (tmp_path / "run" / "recipe.yaml").write_text(f"env: {TOY}\nideator: chat\npreset: cpu\n")
    return journal(tmp_path / "run", [records], unchanged)


def test_best_writes_the_measured_codebase_its_patch_and_a_note(call, toy_run, tmp_path):
    code, out, err = call("best", toy_run, "--out", tmp_path / "home")
    assert code == 0 and "codebase" in out, err
    tree = read_tree(tmp_path / "home" / "codebase")
    best = read_run(toy_run).ranked[0]
    assert tree_hash(tree) == best.tree and "x = 2.0" in tree["train.py"]
    base = load_environment(str(TOY)).baseline("cpu")
    assert apply_patch(base, (tmp_path / "home" / "best.patch").read_text()) == tree
    text = (tmp_path / "home" / "NOTE.txt").read_text()
    assert "trusted code (measured)" in text
    assert "Not sure: it ran once." in text and "seed 3, replicate 0" in text and "isolation bwrap" in text
    assert "baseline: 4.1000; runs: 3, standard deviation 0.1; gain 2.1000" in text
    assert "execute" in text and "--seed 3" in text and f"rerun {toy_run} --best 1" in text
    # What the model wrote stays inside its indented part, and nothing in it acts on a terminal.
    assert "\u202e" not in text and "\x1b" not in text
    assert [line for line in text.splitlines() if "<script>" in line and not line.startswith("    ")] == []


def test_the_command_by_hand_is_one_that_a_shell_can_run(call, toy_run, tmp_path):
    """The supervisor fills in the fields of a measured run's command; a shell would pass the braces on."""
    shutil.copytree(TOY, tmp_path / "toy")
    manifest = tmp_path / "toy" / "env.yaml"
    command = 'command: [python, train.py, --out, "{artifact}/x.txt", --seed, "{seed}", --seconds, "{budget}"]'
    manifest.write_text(re.sub(r"^command: .*$", command, manifest.read_text(), flags=re.M))
    (toy_run / "recipe.yaml").write_text(f"env: {tmp_path / 'toy'}\nideator: chat\npreset: cpu\n")
    code, _, err = call("best", toy_run, "--out", tmp_path / "home")
    assert code == 0, err
    seconds = load_environment(str(TOY)).preset("cpu").budget.seconds
    text = (tmp_path / "home" / "NOTE.txt").read_text()
    assert f"python train.py --out /tmp/artifact/x.txt --seed 3 --seconds {seconds:g}\n" in text


def test_the_patch_is_one_that_git_applies(call, toy_run, tmp_path):
    assert call("best", toy_run, "--out", tmp_path / "home", "--rank", 2)[0] == 0
    write_tree(load_environment(str(TOY)).baseline("cpu"), tmp_path / "copy")
    command = ["git", "apply", str(tmp_path / "home" / "best.patch")]
    subprocess.run(command, cwd=tmp_path / "copy", check=True, capture_output=True)
    assert "x = 3.0" in (tmp_path / "copy" / "train.py").read_text()


def test_a_folder_that_holds_something_is_not_overwritten(call, toy_run, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine.txt").write_text("mine")
    assert "nothing is overwritten" in sentence(*call("best", toy_run, "--out", tmp_path / "home")[::2])
    assert os.listdir(tmp_path / "home") == ["mine.txt"]


def test_a_rank_beyond_the_successes_and_a_run_without_one_are_refused(call, toy_run, tmp_path):
    assert "from 1 to 2" in sentence(*call("best", toy_run, "--out", tmp_path / "home", "--rank", 3)[::2])
    journal_only = tmp_path / "failed"
    journal_only.mkdir()
    journal(journal_only, [[record("a", "failed", error={"kind": "failed", "message": "no"})]])
    assert "No idea of" in sentence(*call("best", journal_only, "--out", tmp_path / "home")[::2])
    assert not (tmp_path / "home").exists()


def test_without_its_bucket_the_codebase_is_made_again_only_with_the_measured_hash(call, toy_run, tmp_path):
    shutil.rmtree(toy_run / "bucket")
    assert call("best", toy_run, "--out", tmp_path / "home")[0] == 0
    assert "made from environment and patch" in (tmp_path / "home" / "NOTE.txt").read_text()
    assert tree_hash(read_tree(tmp_path / "home" / "codebase")) == read_run(toy_run).ranked[0].tree
    assert not (toy_run / "bucket").exists(), "a bucket that is gone is not created"
    book = Journal(toy_run / "buffer.sqlite")
    book.record(replace(read_run(toy_run).ranked[0], tree="0" * 64))
    book.close()
    assert "cannot be read, nor made" in sentence(*call("best", toy_run, "--out", tmp_path / "second")[::2])


def test_an_export_of_a_search_holds_report_and_best_codebase_without_logs_and_secrets(
    call, toy_run, tmp_path, monkeypatch
):
    monkeypatch.setenv("MY_API_KEY", "hush-hush-hush")
    best = read_run(toy_run).ranked[0]
    book = Journal(toy_run / "buffer.sqlite")
    book.record(replace(best, log="a line of the log", idea="hush-hush-hush, and a seed of 3"))
    book.close()
    code, _, err = call("export", toy_run, "--out", tmp_path / "out")
    assert code == 0, err
    folder = tmp_path / "out" / "dataset"
    assert tree_hash(read_tree(folder / "best" / "codebase")) == best.tree
    assert "x = 2.0" in (folder / "best" / "best.patch").read_text()
    assert "(hidden), and a seed of 3" in (folder / "best" / "NOTE.txt").read_text()
    page = (folder / "report.html").read_text()
    log = 3
    texts = [row[0][log] for row in unpacked(page)]
    assert len(texts) == 5 and not any(texts) and "hush-hush-hush" not in page + json.dumps(unpacked(page))
    assert str(tmp_path) not in page + (folder / "best" / "NOTE.txt").read_text()


def test_a_changed_environment_is_named(call, toy_run, tmp_path):
    book = Journal(toy_run / "buffer.sqlite")
    book.record(replace(read_run(toy_run).ranked[0], hashes={"environment": "0" * 64}))
    book.close()
    code, out, _ = call("best", toy_run, "--out", tmp_path / "home", "--json")
    facts = json.loads(out)
    assert code == 0 and "has changed since" in facts["caveats"][0] and facts["successes"] == 2
    assert facts["mean"] == 2.0 and facts["baseline"]["mean"] == pytest.approx(4.1)


def test_a_bucket_of_several_presets_compares_with_the_baseline_of_the_ideas_own(call, toy_run):
    bucket = open_bucket(f"file://{toy_run}/bucket")
    run = read_run(toy_run)
    environment = load_environment(str(TOY))
    for e in run.experiments.values():
        # A run in progress has stored each as its worker would.
        record_store.save_record(bucket, e)
    digest = {"environment": environment.digest("cpu")}
    tree = {"train.py": "x = 0.0\n"}
    record_store.save_tree(bucket, tree_hash(tree), tree)
    others = [
        replace(baseline(0, 90.0), id="other-preset", preset="large", tree=tree_hash(tree), hashes=digest),
        replace(baseline(0, 70.0), id="other-version", tree=tree_hash(tree), hashes={"environment": "f" * 64}),
    ]
    for e in others:
        record_store.save_record(bucket, e)
    for n in range(3):
        own = replace(
            baseline(n, 4.0 + n / 10), id=f"own{n}", tree=tree_hash(environment.baseline("cpu")), hashes=digest
        )
        record_store.save_record(bucket, own)
    code, out, err = call("best", bucket.url, "--out", toy_run.parent / "home", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["mean"] == 2.0 and facts["baseline"]["values"] == pytest.approx([4.0, 4.1, 4.2])
    patch = (toy_run.parent / "home" / "best.patch").read_text()
    assert apply_patch(environment.baseline("cpu"), patch) == read_tree(toy_run.parent / "home" / "codebase")


def test_a_search_and_its_bucket_give_the_same_codebase(call, tmp_path):
    go(configured(tmp_path / "run", max_experiments=8), RandomEdits())
    code, out, err = call("best", tmp_path / "run", "--out", tmp_path / "one", "--json")
    assert code == 0, err
    code, second, err = call("best", f"file://{tmp_path}/run/bucket", "--out", tmp_path / "two", "--json")
    assert code == 0, err
    assert json.loads(out)["tree"] == json.loads(second)["tree"]
    assert read_tree(tmp_path / "one" / "codebase") == read_tree(tmp_path / "two" / "codebase")
