"""Each repair, with a similar patch that must be refused; then damaged patches of real codebases, of every kind."""

import random

import pytest
from patch_answers import ANSWERS
from patch_damage import DIFFS
from patch_edits import real_edit
from patch_hostile import HOSTILE, RULES, guarded
from patch_traps import TRAPS

from ideator_rl.patch import PatchError, apply_patch, judge

KINDS = {**DIFFS, **ANSWERS, **TRAPS}

CODE = """\
class Net:
    def first(self, x):
        y = x + 1
        if y:
            return y
        return x

    def second(self, x):
        z = x + 2
        if z:
            return z
        return x
"""
TREE = {"src/net.py": CODE, "src/util/io.py": "a = 1\n", "lib/util/io.py": "a = 1\n"}


def restored(patch, old, new, tree=TREE, path="src/net.py"):
    assert apply_patch(tree, patch) == tree | {path: tree[path].replace(old, new)}


def refusal(patch, tree=TREE):
    with pytest.raises(PatchError) as caught:
        apply_patch(tree, patch)
    assert caught.value.kind == "unpatchable"
    return str(caught.value)


def git(body, header="@@ -2,3 +2,3 @@", path="src/net.py"):
    return f"--- a/{path}\n+++ b/{path}\n{header}\n{body}"


def block(search, replace, path="src/net.py"):
    return f"{path}\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n"


CHANGE = "     def first(self, x):\n-        y = x + 1\n+        y = x + 9\n         if y:\n"
LAST = CODE.removesuffix("x\n") + "-x\n"
TWICE = "-        return x\n+        return -x\n"


@pytest.mark.parametrize("header", ["@@ -2,9 +2,1 @@", "@@ -77,3 +80,3 @@", "@@ -1 +1 @@", "@@ @@", "@@ ... @@ def f"])
def test_wrong_counts_and_line_numbers_are_repaired_by_context(header):
    restored(git(CHANGE, header), "x + 1", "x + 9")


def test_a_hunk_that_fits_twice_needs_a_line_number_that_can_be_trusted():
    assert apply_patch(TREE, git(TWICE, "@@ -12 +12 @@"))["src/net.py"] == LAST
    for header in ("@@ -11 +11 @@", "@@ -12 +14 @@", "@@ @@"):
        assert "2 positions (lines 6, 12)" in refusal(git(TWICE, header))


def test_a_line_number_is_trusted_only_with_the_drift_of_the_unambiguous_hunks():
    first = "@@ -3 +3 @@\n-        y = x + 1\n+        y = x + 9\n"
    moved = first.replace("-3 +3", "-13 +13")
    for patch in (git(first, "@@ -12 +12 @@\n" + TWICE[:-1]), git(moved, "@@ -22 +22 @@\n" + TWICE[:-1])):
        assert apply_patch(TREE, patch)["src/net.py"] == LAST.replace("x + 1", "x + 9")
    assert "2 positions" in refusal(git(moved, "@@ -12 +12 @@\n" + TWICE[:-1]))


def test_a_heading_decides_between_two_positions_if_one_is_under_it():
    assert apply_patch(TREE, git(TWICE, "@@ def second(self, x): @@"))["src/net.py"] == LAST
    assert "2 positions" in refusal(git(TWICE, "@@ class Net: @@"))


def test_a_change_without_any_line_of_the_file_is_refused():
    assert "no line of the present file" in refusal(git("+import os\n", "@@ -0,0 +1 @@"))
    assert "blank lines" in refusal(git("\n+import os\n", "@@ @@"))


@pytest.mark.parametrize("path", ["a/a/src/net.py", "repo/src/net.py", "net.py", "model/net.py", "./src/net.py"])
def test_wrong_folders_and_prefixes_lead_to_the_only_file_of_that_name(path):
    restored(git(CHANGE, path=path), "x + 1", "x + 9")
    restored(git(CHANGE, path=path).replace("a/", "", 1).replace("b/", "", 1), "x + 1", "x + 9")


def test_a_file_name_that_two_files_share_is_refused_unless_the_folder_decides():
    change = "-a = 1\n+a = 2\n"
    assert apply_patch(TREE, git(change, path="repo/src/util/io.py"))["src/util/io.py"] == "a = 2\n"
    for path in ("io.py", "util/io.py", "other/io.py"):
        assert "could be lib/util/io.py, src/util/io.py" in refusal(git(change, path=path))


def test_a_deletion_without_hunks_needs_the_exact_path():
    patch = "diff --git a/{0} b/{0}\ndeleted file mode 100644\n"
    assert "src/net.py" not in apply_patch(TREE, patch.format("src/net.py"))
    assert "no such file" in refusal(patch.format("model/net.py"))


def test_blanks_at_line_ends_may_differ_and_those_of_the_file_stay():
    tree = {"x.py": "a  \nb\nc\t\n"}
    assert apply_patch(tree, "--- x.py\n+++ x.py\n@@ @@\n a\n-b  \n+d\n c\n") == {"x.py": "a  \nd\nc\t\n"}
    padded = "--- x.py\n+++ x.py\n@@ @@\n a   \n-b  \n+d  \n c\t\n"
    assert apply_patch(tree, padded) == {"x.py": "a  \nd\nc\t\n"}
    assert "2 positions" in refusal("--- x.py\n+++ x.py\n@@ @@\n-a\n+b\n", {"x.py": "a  \na\t\n"})


def test_line_ends_of_the_other_kind_become_those_of_the_file():
    crlf = {"src/net.py": CODE.replace("\n", "\r\n")}
    restored(git(CHANGE), "x + 1", "x + 9", crlf)
    restored(git(CHANGE).replace("\n", "\r\n"), "x + 1", "x + 9", crlf)
    restored(git(CHANGE).replace("\n", "\r\n"), "x + 1", "x + 9")
    restored(block("        y = x + 1", "        y = x + 9"), "x + 1", "x + 9", crlf)


def test_a_change_of_line_ends_alone_is_applied_unchanged():
    assert apply_patch({"f": "a\r\nb\r\n"}, "--- f\n+++ f\n@@ @@\n-a\r\n+a\n b\r\n") == {"f": "a\nb\r\n"}


def test_a_patch_that_lost_its_end_and_the_spaces_of_empty_lines_applies():
    patch = git("         return x\n\n     def second(self, x):\n-        z = x + 2\n+        z = x + 8\n\n")
    restored(patch.strip(), "x + 2", "x + 8")


def test_context_lines_that_lost_their_mark_are_read_as_context():
    lost = git("    def first(self, x):\n-        y = x + 1\n+        y = x + 9\n        if y:\n")
    restored(lost, "x + 1", "x + 9")
    restored(git("class Net:\n" + CHANGE), "x + 1", "x + 9")
    assert "are not in the file" in refusal(lost.replace("-        y", "-       y"))


def test_no_change_below_a_lost_mark_is_dropped_silently():
    patch = git("-        y = x + 1\n+        y = x + 9\nNot in the file\n-        z = x + 2\n+        z = x + 8\n")
    assert "are not in the file" in refusal(patch)


def test_added_lines_that_lost_their_mark_are_never_dropped():
    lost = "-        y = x + 1\n+        y = x + 9\n{}w = 2\n         if y:\n"
    for header in ("@@ -3,2 +3,3 @@", "@@ -3,1 +3,1 @@", "@@ @@"):
        assert "are not in the file" in refusal(git(lost.format(""), header))
        assert "are not in the file" in refusal("```diff\n" + git(lost.format("\n"), header) + "```\n")
    assert "adds and removes no line" in refusal("--- /dev/null\n+++ b/src/new.py\n@@ -0,0 +1,2 @@\nx = 1\ny = 2\n")


def test_one_drift_of_indentation_is_repaired_and_two_are_refused():
    restored(block("y = x + 1\nif y:\n    return y", "y = x + 9\nif y:\n    return y"), "x + 1", "x + 9")
    for unit in ("\t", "  ", "        "):
        change = f" {unit}def first(self, x):\n-{unit * 2}y = x + 1\n+{unit * 2}y = x + 9\n {unit * 2}if y:\n"
        restored(git(change), "x + 1", "x + 9")
    assert "are not in the file" in refusal(block("y = x + 1\n  if y:\n    return y", "y = 9"))


def test_blocks_stripped_at_both_ends_get_their_first_indentation_back():
    restored(block("y = x + 1\n        if y:", "y = x + 9\n        if y:"), "x + 1", "x + 9")
    assert "in several ways" in refusal(block("y = x + 1", "if x:\n            y = 2"))


def test_hunks_that_change_the_same_lines_are_refused_and_equal_ones_count_once():
    hunk = "@@ -3 +3 @@\n-        y = x + 1\n+        y = x + 9\n"
    restored(git(hunk.split("\n", 1)[1] + hunk, "@@ -3 +3 @@"), "x + 1", "x + 9")
    assert "both change line 3" in refusal(git(hunk.replace("9", "8"), hunk.rstrip("\n")))


def test_a_block_that_an_earlier_block_made_ambiguous_is_refused():
    first = block("        y = x + 1", "        z = x + 2\n        y = z")
    assert "put this one first" in refusal(first + block("        z = x + 2", "        z = x + 3"))


def test_a_patch_that_would_take_long_to_search_is_refused_soon():
    tree = {"src/net.py": "x\n" * 20_000 + "y\n"}
    hunks = "".join(f"@@ -{i} +{i + 1} @@\n-x\n+z\n" for i in range(1, 1000))
    assert "too many or too long hunks" in refusal(git(hunks, "").replace("py\n\n", "py\n"), tree)


def test_git_format_patch_mail_applies():
    restored("From: me\n---\n src/net.py | 2 +-\n\n" + git(CHANGE) + "-- \n2.43.0\n", "x + 1", "x + 9")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_patches_of_real_files_are_restored_or_refused(kind):
    good = repairable = 0
    for seed in range(12):
        rng, case = random.Random(f"{kind} {seed}"), real_edit(f"{kind} {seed}")
        damaged = KINDS[kind](rng, case)
        if damaged is None:
            continue
        repairable += damaged.repairable
        try:
            result = apply_patch(damaged.base, damaged.patch)
        except PatchError:
            continue
        assert result == damaged.meant, f"{kind}, seed {seed}: accepted with another meaning"
        good += damaged.repairable
    assert good >= repairable - 1


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_patches_of_real_codebases_are_refused(kind):
    for seed in range(3):
        rng, case = random.Random(f"{kind} {seed}"), real_edit(f"{kind} {seed}")
        base, patch = HOSTILE[kind](rng, guarded(case.base))
        with pytest.raises(PatchError):
            judge(base, apply_patch(base, patch), RULES)
