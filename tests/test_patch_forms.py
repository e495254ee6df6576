"""The forms of models' answers other than plain diffs, each with a similar one that must be refused."""

import pytest

from ideator_rl.patch import PatchError, apply_patch

CODE = """\
import os

LIMIT = 3


def first(x):
    y = x + 1
    if y:
        return y
    return x


def second(x):
    z = x + 2
    if z:
        return z
    return x
"""
TREE = {"src/net.py": CODE, "src/data.py": "def load(path):\n    return open(path)\n", "table.txt": "1: a\n2: b\n"}
MAIL = "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n"


def restored(patch, old, new, path="src/net.py"):
    assert apply_patch(TREE, patch) == TREE | {path: TREE[path].replace(old, new)}


def refusal(patch, tree=TREE):
    with pytest.raises(PatchError) as caught:
        apply_patch(tree, patch)
    assert caught.value.kind == "unpatchable"
    return str(caught.value)


def block(search, replace, path="src/net.py\n"):
    return f"{path}<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


def whole_file(text, path="src/net.py", info="python"):
    return f"{path}\n```{info}\n{text}```\n"


def numbered(text, form, start=1):
    return "\n".join(form.format(i, line) for i, line in enumerate(text.split("\n"), start))


FORMS = ["{} | {}", "{:>4}| {}", "{}|{}", "  {}: {}", "{}:{}", "{}\t{}", "{:>6}\t{}", "{}→{}"]
OLD, NEW = "    y = x + 1\n    if y:", "    y = x + 9\n    w = 0\n    if y:"


@pytest.mark.parametrize("form", FORMS)
def test_line_numbers_copied_from_the_prompt_are_removed(form):
    old, new = numbered(OLD, form, 7), numbered(NEW, form, 7)
    restored(block(old, new), OLD, NEW)
    restored(block(old, NEW), OLD, NEW)
    restored(block(old, old.replace("x + 1", "x + 9\n    w = 0")), OLD, NEW)
    lines = [form.format(7, "    y = x + 1"), form.format(7, "    y = x + 9"), form.format(8, "    if y:")]
    restored("--- a/src/net.py\n+++ b/src/net.py\n@@ -7,2 +7,2 @@\n-{}\n+{}\n {}\n".format(*lines), "x + 1", "x + 9")
    restored(whole_file(numbered(CODE.replace("x + 1", "x + 9"), form).rsplit("\n", 1)[0] + "\n"), "x + 1", "x + 9")


def test_copied_numbers_decide_between_two_positions():
    assert apply_patch(TREE, block("17 |     return x", "17 |     return -x"))["src/net.py"].endswith("return -x\n")
    assert "2 positions" in refusal(block("16 |     return x", "16 |     return -x"))


def test_numbers_that_belong_to_the_file_are_not_removed():
    restored(block("2: b", "2: c", "table.txt\n"), "2: b", "2: c", "table.txt")
    restored(whole_file("1: a\n2: c\n2: b\n", "table.txt"), "2: b", "2: c\n2: b", "table.txt")


@pytest.mark.parametrize("form", FORMS)
def test_numbers_on_the_added_lines_alone_are_refused(form):
    assert "line number" in refusal(block(OLD, numbered(NEW, form, 7)))
    assert "line number" in refusal(block("    y = x + 1", form.format(7, "    y = x + 9")))
    assert "begins with its number" in refusal(whole_file(numbered("a = 1\nb = 2", form) + "\n", "src/new.py"))


def test_numbers_out_of_order_and_lines_that_may_be_numbered_are_refused():
    assert "are not in the file" in refusal(block("7 |     y = x + 1\n9 |     if y:", "    y = 2"))
    assert "are not in the file" in refusal(block("7:     y = x + 1", "7:     y = {\n    6: 2,\n    }"))
    assert "are not in the file" in refusal(block("7:     y = x + 1", "7:     y = {\n    8: 2,\n    }"))


def test_hunks_and_blocks_without_a_path_go_to_the_only_file_where_all_fit():
    hunk = "@@ -7 +7 @@\n-    y = x + 1\n+    y = x + 9\n"
    restored(hunk, "x + 1", "x + 9")
    restored(f"I change this:\n```diff\n{hunk}```\n", "x + 1", "x + 9")
    restored(block(OLD, NEW, ""), OLD, NEW)
    twin = TREE | {"lib/net.py": CODE.replace("import os", "import sys")}
    assert "fits src/net.py, lib/net.py" in refusal(hunk, twin)
    two_hunks = hunk + "@@ -1,1 +1,2 @@\n import sys\n+import os\n"
    assert apply_patch(twin, two_hunks)["lib/net.py"].startswith("import sys\nimport os\n")
    assert "2 positions" in refusal("@@ @@\n-    return x\n+    return -x\n")
    assert "fits no file" in refusal("@@ -0,0 +1 @@\n+import sys\n")


def test_half_a_header_or_a_path_above_the_fence_determines_the_file():
    hunk = "@@ -17 +17 @@\n-    return x\n+    return -x\n"
    for header in ("--- a/src/net.py\n", "+++ b/src/net.py\n", "diff --git a/src/net.py b/src/net.py\n"):
        assert apply_patch(TREE, header + hunk)["src/net.py"].endswith("return -x\n")
    assert apply_patch(TREE, f"**src/net.py**\n```diff\n{hunk}```\n")["src/net.py"].endswith("return -x\n")
    assert "are not in the file" in refusal(f"src/data.py\n```diff\n{hunk}```\n")


def test_hunks_in_a_fence_of_their_own_do_not_belong_to_the_file_of_the_fence_before():
    first = "```diff\n--- a/src/net.py\n+++ b/src/net.py\n@@ -3 +3 @@\n-LIMIT = 3\n+LIMIT = 4\n```\n"
    tree = apply_patch(TREE, first + "```diff\n@@ -2 +2 @@\n-    return open(path)\n+    return path\n```\n")
    assert "LIMIT = 4" in tree["src/net.py"] and "return path" in tree["src/data.py"]


MARKS = ["...", "    ...", "# ...", "    # ... existing code ...", "# rest unchanged", "    # (unchanged)", "…"]


@pytest.mark.parametrize("mark", MARKS)
def test_context_left_out_on_both_sides_stays_as_it_is(mark):
    old, new = "def first(x):\n    y = x + 1\n", "def first(x):\n    y = x + 9\n"
    restored(block(f"{old}{mark}\n    return x", f"{new}{mark}\n    return x"), "x + 1", "x + 9")
    diff = f"@@ -6,5 +6,5 @@\n def first(x):\n-    y = x + 1\n+    y = x + 9\n {mark}\n     return x\n"
    restored("--- a/src/net.py\n+++ b/src/net.py\n" + diff, "x + 1", "x + 9")
    head, tail = (
        "import os\n\nLIMIT = 4\n\n\ndef first(x):\n",
        "    z = x + 2\n    if z:\n        return z\n    return x\n",
    )
    restored(whole_file(f"{head}    y = x + 1\n{mark}\ndef second(x):\n{tail}"), "LIMIT = 3", "LIMIT = 4")


def test_lines_after_left_out_lines_must_occur_once_below_those_before():
    old, new = "def second(x):\n...\n    return x", "def second(x):\n...\n    return -x"
    assert apply_patch(TREE, block(old, new))["src/net.py"].endswith("return -x\n")
    old, new = "def first(x):\n...\n    return x", "def first(x):\n...\n    return -x"
    assert "2 positions" in refusal(block(old, new))
    assert "are not in the file" in refusal(
        block("def second(x):\n...\n    y = x + 1", "def second(x):\n...\n    y = 2")
    )
    deep = "    if y:\n        ...\n    if z:\n"
    assert "are not in the file" in refusal(block(deep + "        return z", deep + "        return 9"))


@pytest.mark.parametrize("mark", MARKS)
def test_lines_left_out_on_one_side_only_are_refused(mark):
    body = CODE.split("\n\n\n")[1]
    assert "replace code by a remark" in refusal(block(body, f"def first(x):\n{mark}\n    return x"))
    assert "are not in the file" in refusal(block(f"def first(x):\n{mark}\n    return x", body.replace("+ 1", "+ 9")))
    assert "leave nothing out" in refusal(whole_file(f"import os\n{mark}\ndef new(x):\n    return x\n"))
    assert "leave nothing out" in refusal(whole_file(f"import os\n{mark}\n", "src/new.py"))


def test_the_empty_body_of_new_code_is_no_mark():
    restored(
        block("LIMIT = 3", "class Loads(Protocol):\n    ...\n\n\nLIMIT = 3"),
        "LIMIT",
        "class Loads(Protocol):\n    ...\n\n\nLIMIT",
    )
    assert "remark" in refusal(block("def first(x):\n    y = x + 1\n    if y:", "def first(x):\n    ..."))


def test_a_complete_file_may_have_its_path_after_the_fence():
    for info in ("python src/net.py", "python:src/net.py", 'python title="src/net.py"', "src/net.py"):
        restored(f"```{info}\n{CODE.replace('x + 1', 'x + 9')}```\n", "x + 1", "x + 9")


def test_a_complete_file_keeps_the_fences_in_it():
    text = "# Use\n\n```bash\nmake\n```\n\nThat is all.\n"
    assert apply_patch({}, whole_file(text, "README.md", "markdown")) == {"README.md": text}
    inner = 'def f():\n    """\n    ```\n    f()\n    ```\n    """\n'
    assert apply_patch({}, whole_file(inner, "f.py")) == {"f.py": inner}
    assert "never closed" in refusal("src/net.py\n```python\nx = 1\n\nsrc/data.py\n```python\ny = 2\n```\n")


def test_a_complete_file_that_resembles_one_in_another_folder_is_refused():
    assert "src/net.py reads much like" in refusal(whole_file(CODE.replace("x + 1", "x + 9"), "repo/src/net.py"))
    assert apply_patch(TREE, whole_file("x = 1\n", "lib/net.py"))["lib/net.py"] == "x = 1\n"


def test_a_new_file_loses_the_missing_folder_that_the_existing_files_lose():
    edit = "--- a/{0}src/net.py\n+++ b/{0}src/net.py\n@@ -3 +3 @@\n-LIMIT = 3\n+LIMIT = 4\n"
    new = "--- /dev/null\n+++ b/{0}src/new.py\n@@ -0,0 +1 @@\n+x = 1\n"
    assert apply_patch(TREE, new.format("repo/") + edit.format("repo/"))["src/new.py"] == "x = 1\n"
    assert "not certain" in refusal(new.format("") + edit.format("repo/"))


ENVELOPE = """\
*** Begin Patch
*** Update File: src/net.py
@@ def second(x):
     if z:
         return z
-    return x
+    return -x
*** End of File
*** Update File: src/data.py
*** Move to: src/load.py
-    return open(path)
+    return path
*** Add File: src/new.py
+x = 1
+
+y = 2
*** Delete File: table.txt
*** End Patch
"""


def test_an_envelope_updates_moves_adds_and_deletes():
    tree = apply_patch(TREE, f"```\n{ENVELOPE}```\n")
    assert tree == {
        "src/net.py": CODE[:-9] + "return -x\n",
        "src/load.py": "def load(path):\n    return path\n",
        "src/new.py": "x = 1\n\ny = 2\n",
    }


def test_headings_and_the_end_of_the_file_decide_positions_in_an_envelope():
    update = "*** Begin Patch\n*** Update File: src/net.py\n{}\n-    return x\n+    return -x\n{}*** End Patch\n"
    last = CODE[:-9] + "return -x\n"
    assert apply_patch(TREE, update.format("@@ def second(x):", ""))["src/net.py"] == last
    assert apply_patch(TREE, update.format("@@", "*** End of File\n"))["src/net.py"] == last
    assert "2 positions" in refusal(update.format("@@", ""))


def test_an_envelope_that_is_not_closed_or_lost_a_header_is_refused():
    assert "cut off" in refusal(ENVELOPE.replace("*** End Patch\n", ""))
    assert "are not in the file" in refusal(ENVELOPE.replace("*** Add File: src/new.py\n", "x\n"))


def test_an_envelope_with_fewer_lines_to_add_applies():
    assert apply_patch(TREE, ENVELOPE.replace("+x = 1\n+\n", ""))["src/new.py"] == "y = 2\n"


def test_a_series_of_mails_applies_one_after_another():
    head = MAIL + "From: me <me@x>\nSubject: [PATCH {}/2] Raise it\n\n---\n src/net.py | 2 +-\n\n"
    diff = "diff --git a/src/net.py b/src/net.py\n--- a/src/net.py\n+++ b/src/net.py\n@@ -3 +3 @@\n-LIMIT = {}\n+LIMIT = {}\n-- \n2.43.0\n\n"
    restored(head.format(1) + diff.format(3, 4) + head.format(2) + diff.format(4, 5), "LIMIT = 3", "LIMIT = 5")
    encoded = MAIL + "Content-Transfer-Encoding: quoted-printable\n\n" + diff.format(3, 4)
    assert "quoted-printable is not read" in refusal(encoded)


def test_a_context_diff_is_refused_by_name():
    patch = "*** a/src/net.py\n--- b/src/net.py\n***************\n*** 3 ****\n! LIMIT = 3\n--- 3 ----\n! LIMIT = 4\n"
    assert "a context diff" in refusal(patch)
