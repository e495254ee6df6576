"""A protected file is never read for a patch; and a refused patch is neither parsed nor stored beyond a length."""

import asyncio
import time

import pytest

from ideator_rl.executor.codebases import MAX_REFUSED_PATCH, head_of_refused
from ideator_rl.patch import PatchError, Rules, patched_tree, read_tree, write_tree

SECRET = "ANSWERS = [17, 23]\ndef score(x):\n    return x * 41\n"
BASE = {"train.py": "lr = 1\nx = 2\n", "hidden/answers.py": SECRET, "scorer.py": SECRET, "lib/net.py": "y = 1\n"}
RULES = Rules(editable=("**",), protected=("hidden/", "scorer.py"))
MOVE = "diff --git a/{0} b/{1}\nsimilarity index 100%\n{2} from {0}\n{2} to {1}\n"
FILES = ("hidden/answers.py", "scorer.py")


def refusal(patch, kind="rejected", base=BASE):
    with pytest.raises(PatchError) as caught:
        patched_tree(base, patch, RULES)
    message = str(caught.value)
    assert caught.value.kind == kind, message
    assert not any(secret in message for secret in ("17", "41", "ANSWERS", "def score")), message
    return message


@pytest.mark.parametrize("verb", ["copy", "rename"])
@pytest.mark.parametrize("source", [*FILES, "answers.py", "a/hidden/answers.py", "./scorer.py", "Hidden/answers.py"])
def test_a_protected_file_is_no_source_of_a_copy_or_rename(verb, source):
    patch = MOVE.format(source, "lib/mine.py", verb)
    kind = "unpatchable" if source == "answers.py" else "rejected"  # without hunks a path must be exact
    refusal(patch, kind)
    refusal(patch + "--- a/x\n+++ b/lib/mine.py\n@@ -1,1 +1,1 @@\n-lr = 1\n+lr = 2\n".replace("a/x", "a/" + source))
    refusal(f"*** Begin Patch\n*** Update File: {source}\n*** Move to: lib/mine.py\n*** End Patch\n", kind)


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("line", ["ANSWERS = [1]", "    return x", "x = 2"])
def test_no_refusal_quotes_a_line_of_a_protected_file(path, line):
    name = path.rsplit("/", 1)[-1]
    for stated in (path, f"src/{name}", name):
        refusal(f"--- a/{stated}\n+++ b/{stated}\n@@ -1,1 +1,1 @@\n-{line}\n+z = 1\n")
        refusal(f"{stated}\n<<<<<<< SEARCH\n{line}\n=======\nz = 1\n>>>>>>> REPLACE\n")
    refusal(f"{path}\n```python\n{line}\n```\n")
    refusal(f"{path}\n```python\n# ... existing code ...\n{line}\n```\n")


def test_a_change_without_a_path_does_not_show_whether_a_protected_file_holds_a_line():
    messages = []
    for line in ("def score(x):", "def score(q):"):
        with pytest.raises(PatchError) as caught:
            patched_tree(BASE, f"@@ -2,1 +2,1 @@\n-{line}\n+z = 1\n", RULES)
        messages.append(str(caught.value).replace(line, ""))
    right, wrong = messages
    assert right == wrong


def test_a_whole_file_that_resembles_a_protected_one_is_no_test_of_its_text():
    copied = patched_tree(BASE, f"other/answers.py\n```python\n{SECRET}```\n", RULES)
    assert copied["other/answers.py"] == SECRET


def test_a_folder_that_no_codebase_is_read_from_may_not_be_written(tmp_path):
    for path in ("__pycache__/x.py", "lib/__PYCACHE__/x.py", "__pycache__"):
        assert "cache folder" in refusal(f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x = 1\n")
    tree = patched_tree(BASE, "--- /dev/null\n+++ b/lib/x.py\n@@ -0,0 +1 @@\n+x = 1\n", RULES)
    write_tree(tree, tmp_path / "tree")
    assert read_tree(tmp_path / "tree") == tree


@pytest.mark.parametrize("line", ["+x = 1\n", "-x = 1\n", "@@ -1,1 +1,1 @@\n", "--- a/x\n+++ b/x\n", "a\n", "```\n"])
def test_fifty_megabytes_are_refused_before_they_are_parsed(line):
    patch = "--- a/train.py\n+++ b/train.py\n@@ -1,1 +1,1 @@\n" + line * (50_000_000 // len(line))
    started = time.perf_counter()
    assert "max_bytes" in refusal(patch)
    assert time.perf_counter() - started < 0.5


def test_a_long_rewrite_of_a_large_baseline_is_read():
    base = {"big.py": "".join(f"x{i} = {i}\n" for i in range(150_000))}
    lines = base["big.py"].splitlines()
    patch = f"--- a/big.py\n+++ /dev/null\n@@ -1,{len(lines)} +0,0 @@\n" + "".join(f"-{line}\n" for line in lines)
    assert patched_tree(base, patch, RULES) == {}


def test_a_refused_patch_is_stored_by_its_head_length_and_hash():
    text = "é" * (MAX_REFUSED_PATCH + 1)
    head, other = head_of_refused(text), head_of_refused(text + "x")
    assert len(head) < MAX_REFUSED_PATCH + 200 and f"{len(text)} characters" in head
    assert head != other and head_of_refused("short") == "short"


def test_a_record_of_a_huge_patch_is_small(tmp_path):
    from ideator_rl.executor.executor import Executor, ExecutorConfig

    executor = Executor(ExecutorConfig(environment="nanogpt", preset="cpu", bucket=str(tmp_path)))
    patch = "--- a/train.py\n+++ b/train.py\n@@ -1,1 +1,1 @@\n" + "+x = 1\n" * 3_000_000
    record = asyncio.run(executor.execute_patch(patch))
    assert record.status == "rejected" and "max_bytes" in record.error["message"]
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 200_000
