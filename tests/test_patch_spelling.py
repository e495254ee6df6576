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
    assert keys("x = f\"{d['a']}\"") == keys("x = f'{d[\"a\"]}'")
    for other in ("f('b')", "f(b'a')", "f(r'a')", "f('''a''')", "f(a)", "f('a',)[0]"):
        assert keys("f('a')") != keys(other)


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
