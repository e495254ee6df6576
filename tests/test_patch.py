"""Trees, diffs between them, and every form of an undamaged patch."""

import random
from pathlib import Path

import pytest

from ideator_rl.patch import PatchError, apply_patch, diff, read_tree, tree_hash, write_tree

TREE = {
    "train.py": "import os\n\nlr = 0.1\nsteps = 10\n",
    "model/net.py": "def f(x):\n    return x\n",
    "a.txt": "a",
}

ODD_LINES = [
    "--- a", "+++ b", "-- a", "++ b", "@@ -1 +1 @@", "@@", "diff --git a/x b/x", "\\ No newline at end of file",
    "", "  ", " x", "x\u2028y", "x\x85y", "\fz", "crlf\r", "=======", "<<<<<<< SEARCH", ">>>>>>> REPLACE", "```",
    "-- ", "bar", "new file mode 120000", "GIT binary patch",
]  # fmt: skip
ODD_NAMES = [
    "x", "a/x", "b/x", "c/x", "b/a/x", "a b.txt", "deep/er/y.py", 'q"uote', "tab\tname", "é.py", "back\\slash",
    " lead", "trail ",
]  # fmt: skip


def refusal(tree, patch):
    with pytest.raises(PatchError) as caught:
        apply_patch(tree, patch)
    return caught.value


def odd_text(rng):
    lines = [rng.choice(ODD_LINES) for _ in range(rng.choice([0, 1, 2, 5, 20, 60]))]
    return "\n".join(lines) + rng.choice(["", "\n", "\n\n"]) if lines else ""


def edited(text, rng):
    lines = text.split("\n")
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(lines) + 1)
        lines[at : at + rng.randint(0, 1)] = [rng.choice(ODD_LINES)] * rng.randint(0, 1)
    return "\n".join(lines)


def test_a_diff_between_any_two_trees_leads_from_one_to_the_other():
    rng = random.Random(0)
    for _ in range(1500):
        base = {name: odd_text(rng) for name in rng.sample(ODD_NAMES, rng.randint(0, 5))}
        tree = {name: edited(text, rng) if rng.random() < 0.6 else text for name, text in base.items()}
        tree = {name: text for name, text in tree.items() if rng.random() < 0.8}
        tree |= {name: odd_text(rng) for name in rng.sample(ODD_NAMES, rng.randint(0, 2))}
        patch = diff(base, tree)
        assert patch == diff(dict(reversed(base.items())), tree)
        if base != tree:
            assert apply_patch(base, patch) == tree, patch


def test_equal_trees_have_an_empty_diff_and_an_equal_hash_in_any_order():
    assert diff(TREE, dict(TREE)) == ""
    assert tree_hash(TREE) == tree_hash(dict(reversed(TREE.items())))
    assert tree_hash({"a": "bc"}) != tree_hash({"ab": "c"})


def test_a_tree_written_to_disk_is_read_back_unchanged(tmp_path):
    tree = {"a/b/c.py": "x\r\n\u2028\n", "empty": "", "no_newline": "x"}
    write_tree(tree, tmp_path / "new")
    (tmp_path / "new/.git").mkdir()
    (tmp_path / "new/.git/config").write_bytes(b"\xff")
    (tmp_path / "new/a/__pycache__").mkdir()
    (tmp_path / "new/a/__pycache__/c.pyc").write_bytes(b"\0\xff")
    assert read_tree(tmp_path / "new") == tree


def test_a_link_or_binary_file_in_a_folder_is_rejected_by_name(tmp_path):
    (tmp_path / "f").write_bytes(b"\xff")
    with pytest.raises(PatchError, match="f: not UTF-8"):
        read_tree(tmp_path)
    (tmp_path / "f").write_bytes(b"a\0")
    with pytest.raises(PatchError, match="f: holds a NUL"):
        read_tree(tmp_path)
    (tmp_path / "f").unlink()
    (tmp_path / "folder").symlink_to("/etc")
    with pytest.raises(PatchError, match="folder: a link"):
        read_tree(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//x", ".git/hooks/post-checkout", "a\\..\\x"])
def test_nothing_is_written_outside_the_folder(tmp_path, name):
    with pytest.raises(PatchError) as caught:
        write_tree({name: "x"}, tmp_path / "new")
    assert caught.value.kind == "rejected"
    assert list(tmp_path.iterdir()) == []


def test_a_tree_is_not_written_into_a_folder_with_files(tmp_path):
    Path(tmp_path / "x").write_text("present")
    with pytest.raises(FileExistsError):
        write_tree({"y": ""}, tmp_path)


def test_a_git_diff_in_a_fence_in_prose_with_new_deleted_renamed_and_nested_files_applies():
    patch = """Here is the change:
```diff
diff --git a/train.py b/train.py
index 123..456 100644
--- a/train.py
+++ b/train.py
@@ -1,4 +1,4 @@
 import os

-lr = 0.1
+lr = 0.2
 steps = 10
diff --git a/a.txt b/a.txt
deleted file mode 100644
--- a/a.txt
+++ /dev/null
@@ -1 +0,0 @@
-a
\\ No newline at end of file
diff --git a/model/net.py b/model/core/net.py
similarity index 90%
rename from model/net.py
rename to model/core/net.py
--- a/model/net.py
+++ b/model/core/net.py
@@ -1,2 +1,2 @@
 def f(x):
-    return x
+    return 2 * x
diff --git a/util/new.py b/util/new.py
new file mode 100644
--- /dev/null
+++ b/util/new.py
@@ -0,0 +1,2 @@
+def g():
+    pass
```
- Doubled the learning rate.
"""
    assert apply_patch(TREE, patch) == {
        "train.py": TREE["train.py"].replace("0.1", "0.2"),
        "model/core/net.py": "def f(x):\n    return 2 * x\n",
        "util/new.py": "def g():\n    pass\n",
    }


def test_search_replace_blocks_apply_one_after_another_and_create_files():
    patch = """First `train.py`:

train.py
```python
<<<<<<< SEARCH
lr = 0.1
=======
lr = 0.2
>>>>>>> REPLACE
<<<<<<< SEARCH
lr = 0.2
steps = 10
=======
lr = 0.2
steps = 20
>>>>>>> REPLACE
```

**util/new.py**
<<<<<<< SEARCH
=======
x = 1
>>>>>>> REPLACE
"""
    tree = apply_patch(TREE, patch)
    assert tree["train.py"] == "import os\n\nlr = 0.2\nsteps = 20\n"
    assert tree["util/new.py"] == "x = 1\n"


def test_complete_files_replace_or_create_the_files_at_their_paths():
    patch = "### `train.py`\n```python\nimport os\n\nlr = 9\nsteps = 10\n```\n\nFile: util/new.py\n```\nx = 1\n```\n"
    tree = apply_patch(TREE, patch)
    assert tree == TREE | {"train.py": "import os\n\nlr = 9\nsteps = 10\n", "util/new.py": "x = 1\n"}


def test_an_excerpt_does_not_replace_a_file():
    assert "excerpt" in str(refusal(TREE, "train.py\n```python\nlr = 0.2\nsteps = 10\n```\n"))
    gap = "train.py\n```python\nimport os\n# ... rest unchanged\nlr = 0.2\nsteps = 10\n```\n"
    assert "leave nothing out" in str(refusal(TREE, gap))


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("", "the patch is empty"),
        (" \n\n", "the patch is empty"),
        ("I would raise the learning rate.", "no patch was found"),
        ("--- a/train.py\n+++ b/train.py\n", "without any change"),
        ("--- a/train.py\n+++ b/train.py\n@@ -3 +3 @@\n-lr = 0.1\n+lr = 0.1\n", "changes nothing"),
        ("--- a/train.py\n+++ b/train.py\n@@ -3 +3 @@\n-lr = 0.1\n+lr = \0\n", "NUL"),
        ("diff --git a/w.bin b/w.bin\nnew file mode 100644\nGIT binary patch\nliteral 4\nLc$\n", "binary"),
        ("Binary files a/w.bin and b/w.bin differ\n", "binary"),
        ("@@ -3 +3 @@\n-lr = 0.3\n+lr = 0.2\n", "no file is named above"),
        ("<<<<<<< SEARCH\nlr = 0.3\n=======\nlr = 0.2\n>>>>>>> REPLACE\n", "no file is named above"),
        ("train.py\n<<<<<<< SEARCH\nlr = 0.1\n=======\nlr = 0.2\n", "no closing"),
        ("train.py\n<<<<<<< SEARCH\nlr\n=======\n=======\nl\n>>>>>>> REPLACE\n", "2 lines ======="),
        ("train.py\n<<<<<<< SEARCH\n=======\nlr = 0.2\n>>>>>>> REPLACE\n", "SEARCH is empty"),
        ("--- a/nets.py\n+++ b/nets.py\n@@ -1 +1 @@\n-x\n+y\n", "no such file"),
        ("--- /dev/null\n+++ b/train.py\n@@ -0,0 +1 @@\n+x\n", "it exists already"),
        ("--- a/train.py\n+++ b/model/net.py\n@@ -3 +3 @@\n-lr = 0.1\n+lr = 1\n", "names two files"),
        ("--- a/train.py\n+++ /dev/null\n@@ -3 +0,0 @@\n-lr = 0.1\n", "leaves 3 of its lines"),
    ],
)
def test_a_patch_that_does_not_apply_is_refused_with_the_reason(patch, message):
    error = refusal(TREE, patch)
    assert error.kind == "unpatchable"
    assert message in str(error)


def test_an_answer_cut_off_in_its_fence_is_refused():
    cut = "```diff\n--- a/train.py\n+++ b/train.py\n@@ -1,4 +1,5 @@\n import os\n+import sys\n"
    assert "cut off" in str(refusal(TREE, cut))


def test_a_refusal_names_the_hunk_the_lines_looked_for_and_the_closest_lines():
    patch = "--- a/train.py\n+++ b/train.py\n@@ -2,3 +2,3 @@\n \n-lr = 0.3\n+lr = 0.4\n steps = 10\n"
    message = str(refusal(TREE, patch))
    assert "train.py, hunk 1 (@@ -2,3 +2,3 @@)" in message
    assert "    | lr = 0.3" in message
    assert "3| lr = 0.1" in message


def test_all_hunks_without_a_position_are_reported_together():
    patch = "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-foo\n+bar\n@@ -3 +3 @@\n-baz\n+bar\n"
    message = str(refusal(TREE, patch))
    assert "hunk 1" in message and "hunk 2" in message
