"""Bad input on the command line gives one sentence and a non-zero exit status, and loses no data."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import TOY, execute, replace_line, sentence

GOOD = "[Experiment] Move x. [Code Changes] Set x to 2.0. [End]"


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"", "is empty"), (b"\x00\xff\xfe", "not UTF-8"), (None, "cannot be read")],
)
def test_an_empty_binary_or_missing_diff_is_one_sentence(call, tmp_path, body, message):
    path = tmp_path / "p.diff"
    if body is not None:
        path.write_bytes(body)
    code, _, err = execute(call, tmp_path, "--diff", path)
    assert message in sentence(code, err)
    assert not (tmp_path / "bucket").exists()


def test_a_bucket_that_is_not_writable_an_unknown_preset_and_a_broken_environment_are_sentences(call, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = call("execute", TOY, "--bucket", f"file://{tmp_path}/file/b", "--baseline")
    assert "not writable" in sentence(code, err)
    code, _, err = call("execute", TOY, "--preset", "huge", "--baseline")
    assert "no preset 'huge'" in sentence(code, err)
    code, _, err = call("execute", "nanogpt", "--preset", "paper", "--baseline", "--bucket", tmp_path / "b")
    assert "ideator-rl env prepare nanogpt --preset paper --from" in sentence(code, err)
    shutil.copytree(TOY, tmp_path / "env")
    (tmp_path / "env" / "evaluator.py").unlink()
    code, _, err = call("execute", tmp_path / "env", "--baseline")
    assert "evaluator names evaluator.py, but there is no such file" in sentence(code, err)
    code, _, err = call("execute", TOY, "--implementer", "unknown", "--baseline", "--bucket", tmp_path / "b")
    assert "named 'unknown'" in sentence(code, err)


def test_text_of_a_model_is_recorded_and_cannot_act_on_the_terminal(call, tmp_path):
    code, out, _ = execute(call, tmp_path, "--idea", "half a character \udcff, \x1b[31mred\x07")
    record = json.loads(out)
    assert code == 1 and record["status"] == "malformed" and record["seconds"]["run"] == 0.0
    code, out, _ = call("execute", TOY, "--bucket", tmp_path / "bucket", "--idea", "\x1b[31mred\x07")
    assert code == 1 and "red" in out and not any(mark in out for mark in "\x1b\x07")


def test_a_bucket_of_one_process_is_refused(call, tmp_path):
    code, _, err = call("execute", TOY, "--bucket", "memory://x", "--baseline")
    assert "Use file://" in sentence(code, err)


def test_the_number_of_a_bad_line_of_ideas_is_in_the_error(call, tmp_path):
    (tmp_path / "ideas.jsonl").write_text(json.dumps(GOOD) + "\n{}\n")
    code, _, err = execute(call, tmp_path, "--ideas", tmp_path / "ideas.jsonl")
    assert "line 2" in sentence(code, err)
    (tmp_path / "ideas.jsonl").write_text("[" * 200_000)
    code, _, err = execute(call, tmp_path, "--ideas", tmp_path / "ideas.jsonl")
    assert "line 1 is nested too deeply" in sentence(code, err)


def test_a_patch_on_a_protected_file_is_rejected_before_it_is_run_too(call, tmp_path):
    (tmp_path / "p.diff").write_text("--- a/evaluator.py\n+++ b/evaluator.py\n@@ -1 +1 @@\n-a\n+b\n")
    argv = ("patch", "--base", TOY / "baseline", "--diff", tmp_path / "p.diff", "--out", tmp_path / "new", "--json")
    code, out, _ = call(*argv, "--env", TOY)
    answer = json.loads(out)
    assert code == 1 and answer["status"] == "rejected" and "evaluator.py" in answer["error"]["message"]
    assert json.loads(call(*argv)[1])["status"] == "unpatchable" and not (tmp_path / "new").exists()


@pytest.mark.parametrize("out_exists", [False, True])
def test_a_patch_that_an_encoding_cannot_hold_is_refused_and_leaves_nothing(out_exists, call, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a.py").write_text("y = 1\n")
    (tmp_path / "base" / "b.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = 1\n")
    (tmp_path / "p.diff").write_text("--- a/b.py\n+++ b/b.py\n@@ -2 +2 @@\n-x = 1\n+x = '→'\n")
    out = tmp_path / "new"
    if out_exists:
        out.mkdir()
    argv = ("patch", "--base", tmp_path / "base", "--diff", tmp_path / "p.diff", "--out", out)
    code, text, _ = call(*argv, "--json")
    answer = json.loads(text)
    assert code == 1 and answer["status"] == "rejected" and "which has no '→'" in answer["error"]["message"]
    code, _, err = call(*argv)
    assert code == 1 and err.startswith("rejected: b.py: ")
    assert out.exists() == out_exists and not (out_exists and any(out.iterdir()))


@pytest.fixture
def full_disk(monkeypatch):
    """Files open, and what is written to them does not fit."""
    from ideator_rl.cli import output as cli_output
    from ideator_rl.cli import patch as cli_patch

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opened(path, *argv, **kwargs):
        file = open(path, *argv, **kwargs)  # noqa: SIM115 - the code under test closes it
        file.write = refuse
        return file

    def half_a_tree(tree, folder):
        folder.mkdir(exist_ok=True)
        (folder / "half.py").write_text("")
        refuse()

    monkeypatch.setattr(cli_output, "open", opened, raising=False)
    monkeypatch.setattr(cli_patch, "write_tree", half_a_tree)


def test_a_full_disk_leaves_no_half_of_a_dataset_or_codebase(call, tmp_path, full_disk):
    code, _, err = call("env", "show", TOY, "--dataset", tmp_path / "d.jsonl")
    assert "No space left" in sentence(code, err) and not list(tmp_path.iterdir())
    (tmp_path / "p.diff").write_text(replace_line("x = 0.0", "x = 2.0"))
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        argv = ("--base", TOY / "baseline", "--diff", tmp_path / "p.diff", "--out", tmp_path / name)
        code, _, err = call("patch", *argv)
        assert f"{name} cannot be written: No space left" in sentence(code, err)
    assert not (tmp_path / "new").exists() and not list((tmp_path / "empty").iterdir())


def test_a_full_bucket_makes_the_experiment_lost_with_the_reason(call, tmp_path, monkeypatch):
    from ideator_rl.storage import bucket

    def refuse(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bucket.os, "fsync", refuse)
    code, out, err = call("execute", TOY, "--bucket", tmp_path / "bucket", "--baseline")
    assert code != 0 and "Free space there" in out + err and "Traceback" not in err


def test_a_wrong_recipe_is_refused_before_accelerate_is_imported(monkeypatch, call):
    monkeypatch.setattr(os, "execv", lambda *argv: pytest.fail("launched"))
    code, _, err = call("train", "recipes/quickstart.yaml", "--max_stepz", "2")
    assert "Did you mean 'max_steps'" in sentence(code, err)


def test_a_wrong_command_line_is_refused_by_the_real_program(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "ideator_rl.cli", "execute", str(TOY), "--bogus"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2 and "usage:" in process.stderr


def test_closed_streams_are_as_good_as_the_null_device(tmp_path):
    command = f"'{sys.executable}' -m ideator_rl.cli env list <&- >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_removed_working_folder_is_one_sentence(call, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, _, err = call("env", "list")
    assert "working folder was removed" in sentence(code, err)


def test_an_environment_may_be_named_by_its_manifest(call):
    assert call("env", "show", f"{TOY}/env.yaml")[0] == 0
