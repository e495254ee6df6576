"""Code that the file spells otherwise: found by its tokens at one place, and changed in the file's own spelling."""

import random

import pytest
from patch_spelling import REFUSED, SPELLINGS, edit, same_code

from ideator_rl.patch import PatchError, apply_patch
from ideator_rl.patch.tokens import tokenize

CODE = """\
import os


def train(lr, steps):
    # The schedule is linear.
    lr = min(lr, 1.0)  # cap

    if lr < 0.5 and steps > 1:
        log("slow", lr)
    return optimise(
        "adam",
        lr,
        steps=steps,  # as given
    )
"""
TREE = {"train.py": CODE}


def block(search, replace):
    return f"train.py\n<<<<<<< SEARCH\n{search}=======\n{replace}>>>>>>> REPLACE\n"


def restored(search, replace, old, new):
    assert apply_patch(TREE, block(search, replace)) == {"train.py": CODE.replace(old, new)}


def refusal(patch, tree=TREE):
    with pytest.raises(PatchError) as caught:
        apply_patch(tree, patch)
    assert caught.value.kind == "unpatchable"
    return str(caught.value)


def test_a_changed_line_keeps_the_comment_that_the_copy_left_out():
    restored("    lr = min(lr, 1.0)\n    if lr < 0.5 and steps > 1:\n", "    lr = min(lr, 2.0)\n    if lr < 0.5 and steps > 1:\n",
             "1.0)", "2.0)")  # fmt: skip


def test_a_changed_line_keeps_the_quotes_of_the_file():
    restored(
        "        log('slow', lr)\n", "        log('slow', lr, steps)\n", "lr)\n    return", "lr, steps)\n    return"
    )


def test_a_call_that_the_copy_wraps_otherwise_keeps_its_form_and_its_comment():
    call = "    return optimise('adam', lr, steps={})\n"
    restored(call.format("steps"), call.format("steps + 1"), "steps=steps,", "steps=steps + 1,")


def test_entities_are_undone_on_both_sides():
    restored("    if lr &lt; 0.5 and steps &gt; 1:\n", "    if lr &lt; 0.7 and steps &gt; 1:\n", "0.5", "0.7")


def test_an_entity_that_the_file_holds_is_kept():
    tree = {"train.py": 'a = "&lt;"\nb = 1\n'}
    patch = block('a = "&lt;"\nb = 1\n', 'a = "&lt;"\nb = "&amp;"\n')
    assert apply_patch(tree, patch) == {"train.py": 'a = "&lt;"\nb = "&amp;"\n'}


def test_an_entity_in_a_hunk_that_does_not_show_whether_it_is_escaped_is_refused():
    escaped = block("    if lr &lt; 0.5 and steps > 1:\n", "    if lr &lt; 0.7 and steps > 1:\n")
    assert "not certain" in refusal(escaped + block("import os\n", "import os\nx = 1 &lt; 2\n"))


@pytest.mark.parametrize(
    "search",
    [
        "    lr = min(lr, 1.0)  # another remark entirely, of no line\n    if lr < 0.5 and steps > 1:\n",
        "    lr = min(lr, 1.0)\n    if lr < 0.5 or steps > 1:\n",
        "lr = min(lr, 1.0)\nif lr < 0.5 and steps > 1:\n    log('slow', lr)\n",
        "    lr = min(lr, 1.0)\n    if lr < 0.5 and steps > 1:\n    log('slow', lr)\n",
        "    lr = min(lr, 1.0) if lr < 0.5 and steps > 1:\n",
        "        log('slow',\n",
        "    # The schedule is linear\n",
    ],
)
def test_other_comments_tokens_indentation_or_halves_of_a_line_are_refused(search):
    refusal(block(search, "    x = 1\n"))


def test_two_places_are_refused_even_if_one_is_spelled_alike():
    twice = {"train.py": CODE + "\n\ndef other(lr, steps):\n    lr = min(lr, 1.0)\n\n    # note\n    if lr < 0.5 and steps > 1:\n        pass\n"}  # fmt: skip
    refusal(block("    lr = min(lr, 1.0)\n    if lr < 0.5 and steps > 1:\n", "    pass\n"), twice)


def test_a_block_cannot_come_to_fit_code_that_an_earlier_block_wrote():
    first = block("import os\n", "import os\n\n\ndef f():\n    run( 'x',\n        2)\n")
    refusal(first + block("    run('x', 2)\n", "    run('x', 3)\n"))


def test_files_that_are_not_python_are_searched_as_they_are():
    with pytest.raises(PatchError):
        apply_patch(
            {"a.yaml": "a: 'x'\n\nb: 1\n"}, block("a: 'x'\nb: 1\n", "a: 'x'\nb: 2\n").replace("train.py", "a.yaml")
        )


def test_equal_code_has_equal_tokens_and_other_code_has_not():
    def keys(text):
        return [token.key for token in tokenize(text.split("\n")).tokens]

    assert keys("f('a', [1,\n 2,],)  # x") == keys('f(\n"a", [1, 2])')
    assert keys("f('a',)[{1,}], [2,], g('b')(c,)") == keys("f('a')[{1}], [2], g('b')(c)")
    assert keys("x = f\"{a}\", r'b'") == keys("x = f'{a}', r\"b\"")
    for other in ("f('b')", "f(b'a')", "f(r'a')", "f('''a''')", "f(a)"):
        assert keys("f('a')") != keys(other)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("y = (x)", "y = (x,)"),
        ("f((x))", "f((x,))"),
        ("return (x)", "return (x,)"),
        ("y = x[0]", "y = x[0,]"),
        ("f(x)[0]", "f(x)[0,]"),
        ("'ab'[0]", "'ab'[0,]"),
        ("case (x):", "case (x,):"),
        ("'%s' % (x)", "'%s' % (x,)"),
        ("y = x\n(x)", "y = x\n(x,)"),
        ('r"\\\'a"', 'r"\'a"'),
        ('f"{x}\'s"', "f'{x}\"s'"),
        ('"\\\\\'"', '"\\\'"'),
        ('"""a  """', '"""a"""'),
        ('"""  """', '""""""'),
        ('"""don\'t"""', '"""don"t"""'),
        ('"""\n  a\n"""', '"""\na\n"""'),
    ],
)
def test_what_means_something_else_has_other_tokens(first, second):
    keys = [[token.key for token in tokenize(text.split("\n")).tokens] for text in (first, second)]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("kind", [*SPELLINGS, *REFUSED])
def test_misspelled_patches_of_real_files_are_restored_or_refused(kind):
    good = repairable = 0
    for seed in range(4):
        rng = random.Random(f"{kind} {seed} test")
        damaged = {**SPELLINGS, **REFUSED}[kind](rng, edit(rng))
        if damaged is None:
            continue
        repairable += damaged.repairable
        try:
            result = apply_patch(damaged.base, damaged.patch)
        except PatchError:
            continue
        assert same_code(result, damaged.meant), f"{kind}, seed {seed}: accepted with another meaning"
        good += damaged.repairable
    assert good >= repairable - 1


STAGES = """\
def build(cfg):
    # encoder blocks
    layers = make(cfg.width, cfg.depth)
    dropout = 0.1
    # decoder blocks
    heads = make(cfg.width, cfg.heads)
    rate = 0.1  # uses lr 0.1
    # stage 1
    x = step(heads)
    lr = 0.1
    # do not use dropout here
    # do not use dropout there
    return layers, heads
"""
PLACES = {
    "{}    layers = make(cfg.width, cfg.depth)\n    dropout = 0.1\n": ("dropout = 0.1", "dropout = 0.3"),
    "{}    x = step(heads)\n    lr = 0.1\n": ("    lr = 0.1", "    lr = 0.3"),
    "    heads = make(cfg.width, cfg.heads)\n    rate = 0.1  {}": ("rate = 0.1", "rate = 0.3"),
    "    lr = 0.1\n{}    return layers, heads\n": ("    lr = 0.1", "    lr = 0.3"),
}


@pytest.mark.parametrize(
    ("place", "comment", "applies"),
    [
        (0, "# encoder blocsk", True),
        (0, "# encodr blocks", True),
        (0, "# decoder blocks", False),  # is elsewhere
        (0, "# decodr blocks", False),  # as like to that one
        (0, "# layers blocks", False),
        (0, "# encoder and blocks", False),
        (0, "# blocks", False),  # which of the two
        (1, "# stgae 1", True),
        (1, "# stage 2", False),
        (1, "# step 1", False),
        (2, "# uses lr 0.2", False),
        (2, "# usse lr 0.1", True),
        (3, "# do not use dropout ther", False),  # which of the two
    ],
)
def test_a_mistyped_comment_is_a_copy_only_if_it_can_be_no_other(place, comment, applies):
    pattern, (old, new) = list(PLACES.items())[place]
    search = pattern.format(comment if pattern.startswith("    heads") else f"    {comment}\n")
    search += "\n" * (not search.endswith("\n"))
    patch = block(search, search.replace(old, new))
    if applies:
        assert apply_patch({"train.py": STAGES}, patch) == {"train.py": STAGES.replace(old, new, 1)}
    else:
        refusal(patch, {"train.py": STAGES})


def test_a_hunk_does_not_land_under_another_comment_however_its_header_reads():
    for comment, code, lines in (
        ("decoder blocks", "layers = make(cfg.width, cfg.depth)", ("dropout = 0.1", "dropout = 0.3")),
        ("stage 2", "x = step(heads)", ("lr = 0.1", "lr = 0.3")),
    ):
        body = f"     # {comment}\n     {code}\n-    {lines[0]}\n+    {lines[1]}\n"
        for start in (2, 5, 8):
            refusal(f"--- a/train.py\n+++ b/train.py\n@@ -{start},3 +{start},3 @@\n{body}", {"train.py": STAGES})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("f(args=(x))", "f(args=(x,))"),
        ("(x.size(0))", "(x.size(0),)"),
        ("x[0]", "x[0,]"),
        ('r"\\\'a"', 'r"\'a"'),
        ('f"{x}\'s"', "f'{x}\"s'"),
        ('"""don\'t  """', '"""don"t"""'),
        ("f(x, 1)", "f(x, 1,)"),
        ("f(x, 1)", "f(y, 1,)"),
        ("'a\\\"b'", "'a\"b'"),
    ],
)
def test_a_change_that_only_tokens_hide_is_written_with_the_others_of_its_hunk(old, new):
    text = "def f(x):\n    # note\n    y = {}\n    z = 1\n    return y\n"
    search = text.format(old).replace("    # note\n", "")
    replacement = search.replace(old, new).replace("z = 1", "z = 2")
    expected = text.format(new).replace("z = 1", "z = 2")
    assert apply_patch({"train.py": text.format(old)}, block(search, replacement)) == {"train.py": expected}


def test_an_added_line_is_not_taken_for_a_removed_one_that_is_written_otherwise():
    text = "def f(x):\n    # note\n    y = g(x, 1)  # sum\n    return y\n"
    hunk = " def f(x):\n-    y = g(x, 1)\n-    return y\n+    if x:\n+        y = g(x, 1,)\n+    return y\n"
    tree = apply_patch({"train.py": text}, f"--- a/train.py\n+++ b/train.py\n@@ -1,3 +1,4 @@\n{hunk}")
    assert "g(x, 1,)" in tree["train.py"]


def test_a_comma_whose_bracket_begins_above_a_hunk_may_be_copied_but_makes_no_tuple():
    call = "y = f(\n    x,\n)\n# note\nz = 1\n"
    search = "    x,\n)\nz = 1\n"
    assert apply_patch({"train.py": call}, block(search, search.replace("z = 1", "z = 2"))) == {
        "train.py": call.replace("z = 1", "z = 2")
    }
    refusal(block(search, search.replace("z = 1", "z = 2")), {"train.py": "y = (\n    x\n)\n# note\nz = 1\n"})


def test_a_line_break_that_would_leave_its_brackets_is_not_kept():
    text = "def f(x):\n    # note\n    y = [\n        (\n        x\n    )]\n    return y\n"
    search = "def f(x):\n    y = [(x)]\n"
    tree = apply_patch({"train.py": text}, block(search, search.replace("[(x)]", "g(x)[0]")))
    assert tree == {"train.py": "def f(x):\n    # note\n    y = g(x)[0]\n    return y\n"}
