"""The judge decides by the resulting tree, whatever form the patch had."""

import pytest

from ideator_rl.patch import PatchError, Rules, apply_patch, judge

BASE = {
    "train.py": "lr = 1\n",
    "evaluator.py": "score = 1\n",
    "model/net.py": "x = 1\n",
    "README.md": "hello\n",
}
RULES = Rules(editable=("**/*.py", "configs/**"), protected=("evaluator.py", "hidden/"), max_bytes=1000)


def rejection(tree, rules=RULES, base=BASE):
    with pytest.raises(PatchError) as caught:
        judge(base, tree, rules)
    assert caught.value.kind == "rejected"
    return str(caught.value)


def outcome(patch):
    """The result of a patch: the kind of its refusal, or the resulting tree."""
    try:
        tree = apply_patch(BASE, patch)
        judge(BASE, tree, RULES)
    except PatchError as error:
        return error.kind
    return tree


def test_editable_files_may_be_changed_added_and_deleted():
    judge(BASE, BASE | {"train.py": "lr = 2\n", "a/b/c.py": "", "configs/deep/x.yaml": "a: 1"}, RULES)
    judge(BASE, {name: text for name, text in BASE.items() if name != "train.py"}, RULES)


@pytest.mark.parametrize("path", ["evaluator.py", "hidden/answers.py", "hidden/a/b.py", "Evaluator.py", "HIDDEN/x.py"])
def test_a_protected_file_may_not_be_added_changed_or_deleted(path):
    assert "protected" in rejection(BASE | {path: "score = 2\n"})
    base = BASE | {path: "score = 0\n"}
    assert "protected" in rejection({name: text for name, text in base.items() if name != path}, base=base)


def test_a_file_that_is_not_editable_is_rejected_with_the_rule():
    message = rejection(BASE | {"README.md": "bye\n"})
    assert "README.md" in message and "**/*.py" in message


@pytest.mark.parametrize(
    "path",
    ["../x.py", "/etc/x.py", "a/../x.py", "./x.py", "a//x.py", "x.py/", "", "a\\b.py", "a\nb.py", "a\u202eb.py",
     ".git/hooks/x.py", "a/.GIT/x.py", ".git /x.py", "\ud800.py"],
)  # fmt: skip
def test_a_path_that_is_not_plain_and_relative_is_rejected(path):
    rejection(BASE | {path: "x"}, Rules(editable=("**",)))


def test_names_that_collide_on_some_disks_are_rejected():
    for path in ("Train.py", "MODEL/other.py"):
        assert "differ only in case" in rejection(BASE | {path: "x"})
    assert "is a file" in rejection(BASE | {"train.py/x.py": "x"})


def test_caps_on_files_bytes_and_paths_hold():
    assert "at most 2 may" in rejection(BASE | {f"{i}.py": "" for i in range(3)}, Rules(("**",), max_files=2))
    assert "1001 bytes" in rejection(BASE | {"x.py": "x" * 1001})
    assert "1002 bytes together" in rejection(BASE | {"x.py": "é" * 250, "y.py": "x" * 502})
    assert "a path of 203 bytes" in rejection(BASE | {"x" * 200 + ".py": ""})


def test_a_file_that_is_not_text_is_rejected():
    assert "NUL" in rejection(BASE | {"x.py": "a\0"})
    assert "UTF-8" in rejection(BASE | {"x.py": "\udcff"})


@pytest.mark.parametrize(
    ("glob", "matching", "different"),
    [
        ("*.py", ["a.py", ".py"], ["a/b.py", "a.pyc"]),
        ("**/*.py", ["a.py", "a/b/c.py"], ["a.pyx"]),
        ("src/**", ["src/a", "src/a/b"], ["src", "srcs/a"]),
        ("src/", ["src/a", "src/a/b"], ["src"]),
        ("a/**/z.py", ["a/z.py", "a/b/c/z.py"], ["a/bz.py", "z.py"]),
        ("**", ["a", "a/b"], []),
        ("?[ab].py", ["xa.py"], ["x/.py", "xc.py", "a.py"]),
        ("[!a].py", ["b.py"], ["a.py", "/.py"]),
        ("a+b(.py", ["a+b(.py"], ["aab(.py"]),
    ],
)
def test_globs_match_by_path_component(glob, matching, different):
    rules = Rules(editable=(glob,))
    for path in matching:
        judge({path: "1"}, {path: "2"}, rules)
    for path in different:
        rejection({path: "2"}, rules, {path: "1"})


HIDDEN_HUNK = """\
diff --git a/train.py b/train.py
--- a/train.py
+++ b/train.py
@@ -1,1 +1,1 @@
-lr = 1
+lr = 2
--- a/evaluator.py
+++ b/evaluator.py
@@ -1,1 +1,1 @@
-score = 1
+score = 9
"""
RENAME = "diff --git a/{0} b/{1}\nsimilarity index 100%\nrename from {0}\nrename to {1}\n"
NEW = "diff --git a/{0} b/{0}\nnew file mode {1}\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+{2}\n"


@pytest.mark.parametrize(
    ("patch", "kind"),
    [
        (HIDDEN_HUNK, "rejected"),
        (RENAME.format("train.py", "evaluator.py"), "unpatchable"),
        (RENAME.format("evaluator.py", "other.py"), "rejected"),
        (RENAME.format("train.py", "hidden/x.py"), "rejected"),
        (RENAME.format("train.py", "../x.py"), "rejected"),
        (RENAME.format("train.py", "model"), "rejected"),
        (RENAME.replace("rename", "copy").format("train.py", "/etc/x.py"), "rejected"),
        (NEW.format("../../x.py", 100644, "x"), "rejected"),
        (NEW.format("/etc/x.py", 100644, "x"), "rejected"),
        ("--- /dev/null\n+++ /etc/x.py\n@@ -0,0 +1 @@\n+x\n", "rejected"),
        ("--- a/../train.py\n+++ b/../train.py\n@@ -1 +1 @@\n-lr = 1\n+lr = 2\n", "rejected"),
        (NEW.format(".git/hooks/post-checkout", 100755, "x"), "rejected"),
        (NEW.format("link.py", 120000, "/etc/passwd"), "rejected"),
        (NEW.format("sub", 160000, "Subproject commit 0123"), "rejected"),
        ("diff --git a/train.py b/train.py\nindex 1..2 120000\n--- a/train.py\n+++ b/train.py\n", "rejected"),
        (NEW.format("model/net.py/x.py", 100644, "x"), "rejected"),
        (NEW.format('"EVALUATOR.PY"', 100644, "x"), "rejected"),
        ('--- /dev/null\n+++ "b/\\056\\056/x.py"\n@@ -0,0 +1 @@\n+x\n', "rejected"),
        ("--- a/other/evaluator.py\n+++ b/other/evaluator.py\n@@ -1 +1 @@\n-score = 1\n+score = 2\n", "rejected"),
        ("evaluator.py\n```python\nscore = 1\nscore = 9\n```\n", "rejected"),
        ("../evaluator.py\n<<<<<<< SEARCH\nscore = 1\n=======\nscore = 9\n>>>>>>> REPLACE\n", "rejected"),
        ("--- a/evaluator.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-score = 1\n", "rejected"),
    ],
)  # fmt: skip
def test_hostile_patches_are_refused(patch, kind):
    assert outcome(patch) == kind
