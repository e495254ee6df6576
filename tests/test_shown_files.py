"""What of a codebase is shown to a coder."""

import pytest

from ideator_rl.implementers.code_parts import definitions, distances, packages, parts
from ideator_rl.implementers.shown_files import View, shown_files, tokens

LONG = '"""A model."""\n\nimport torch\n\n' + "\n\n".join(
    f"def {name}(values):\n" + "".join(f"    {name}_{i} = values[{i}]\n" for i in range(30)) + f"    return {name}_0\n"
    for name in ("warmup", "rotary", "clipping", "decay")
)
BASE = {
    "train.py": "import model\nfrom tools import io\n\nmodel.run()\n",
    "model.py": "from layers.norm import Norm\n\n\ndef run():\n    return Norm()\n" + "# padding\n" * 40,
    "tools/io.py": "def read():\n    pass\n" + "# padding\n" * 20,
    "layers/__init__.py": "",
    "layers/norm.py": "class Norm:\n    eps = 1e-5\n" + "# padding\n" * 20,
    "unused.py": "x = 1\n",
    "notes.txt": "words\n" * 30,
}


def shown(base, budget, idea="Try it.", command=("python", "train.py"), numbered=False):
    return shown_files(base, View(command, idea, numbered), budget)


def test_a_codebase_that_fits_is_shown_whole_and_in_order_of_names():
    view = shown(BASE, 10_000)
    assert view.whole == tuple(sorted(BASE)) and not view.partly and not view.left_out
    assert all(text in view.text for text in BASE.values())
    assert view.text.index('path="layers/norm.py"') < view.text.index('path="train.py"')


def test_what_does_not_fit_is_dropped_from_the_farthest_import_on():
    order = ["train.py", "tools/io.py", "model.py", "layers/__init__.py", "layers/norm.py", "unused.py", "notes.txt"]
    away = distances(BASE, ["train.py"])
    assert [away.get(path) for path in order] == [0, 1, 1, 2, 2, None, None]
    view = shown(BASE, 400)
    assert set(order[:4]) <= set(view.whole) and "notes.txt" in view.left_out


def test_a_file_that_the_idea_names_is_shown_before_nearer_ones():
    assert "layers/norm.py" in shown(BASE, 220).left_out
    for name in ("layers/norm.py", "`norm.py`"):
        assert "layers/norm.py" in shown(BASE, 220, f"Lower eps in {name}, please.").whole


@pytest.mark.parametrize("idea", ["Change abnorm.py.", "Change other/norm.py.", "Change norm.pyx."])
def test_a_name_inside_another_name_does_not_count(idea):
    assert "layers/norm.py" in shown(BASE, 220, idea).left_out


def test_a_module_that_the_command_names_is_always_shown():
    assert "tools/io.py" in shown(BASE, 200, command=("python", "-m", "tools.io")).whole


@pytest.mark.parametrize("budget", [30, 60, 100, 150, 220, 400, 800])
@pytest.mark.parametrize("numbered", [False, True])
def test_the_budget_is_kept(budget, numbered):
    base = BASE | {"train.py": LONG, "other.py": LONG}
    assert tokens(shown(base, budget, "Change rotary in other.py.", numbered=numbered).text) <= budget


def test_what_is_left_out_is_listed_with_the_lines_of_its_definitions():
    wide = "    " + "y" * 200 + "\n"
    far = BASE | {"far.py": "class Far:\n" + wide * 50 + "\n\ndef near():\n" + wide * 1_000}
    text = shown(far, 1_000).text
    assert "do not fit in here:\nfar.py (1054 lines): class Far 1-51; def near 54-1054\n" in text


def test_room_that_is_left_shows_parts_of_files_that_do_not_fit():
    view = shown(BASE | {"model.py": LONG}, 800, "Use rotary positions.")
    assert view.partly == ("model.py",) and "def rotary(" in view.text and "layers/norm.py" in view.whole


def test_names_that_do_not_fit_are_counted():
    base = BASE | {f"extra/part_{i}.py": "y = 1\n" * 100 for i in range(200)}
    view = shown(base, 300)
    named = sum(f"{path} (" in view.text for path in view.left_out)
    assert named < len(view.left_out) and f"{len(view.left_out) - named} of them are not named" in view.text


def test_a_long_file_shows_its_head_and_what_the_idea_is_about_and_marks_the_rest():
    view = shown({"train.py": LONG}, 600, "Use rotary positions.")
    assert view.partly == ("train.py",)
    assert "import torch" in view.text and "def rotary(" in view.text and "def decay(" not in view.text
    first = LONG.split("\n").index("def clipping(values):") + 1
    assert f"[lines {first} to {len(LONG.splitlines())}, with def clipping, def decay, are not shown here]" in view.text


def test_a_budget_for_no_file_at_all_still_says_that_there_are_some():
    view = shown({"train.py": LONG}, 0)
    assert view.left_out == ("train.py",) and "1 of them are not named" in view.text


def test_numbers_are_those_of_the_file_even_behind_a_gap():
    view = shown({"train.py": LONG}, 800, "Use decay.", numbered=True)
    number = LONG.split("\n").index("def decay(values):") + 1
    assert f"\n{number:>3} | def decay(values):\n" in view.text


def test_the_parts_of_a_file_hold_every_line_once():
    long_class = "class Big:\n" + "".join(f"    def m{i}(self):\n" + "        pass\n" * 30 for i in range(4))
    for path, text in {**BASE, "a.py": LONG, "b.py": long_class, "c.py": "x = (", "d.md": "line\n\n" * 200}.items():
        at = 1
        for part in parts(path, text):
            assert part.first == at <= part.last
            at = part.last + 1
        assert at - 1 == text.count("\n") + (not text.endswith("\n") and text != "")


def test_a_class_that_is_too_long_is_cut_at_its_methods():
    text = "class Big:\n    x = 1\n" + "".join(f"    def m{i}(self):\n" + "        pass\n" * 30 for i in range(4))
    names = [part.name for part in parts("big.py", text)]
    assert names == ["class Big", "Big.m0", "Big.m1", "Big.m2", "Big.m3"]
    assert [part.name for part in definitions("big.py", text)] == ["class Big"]


def test_packages_are_those_imported_from_outside():
    base = BASE | {
        "more.py": "import os.path\nimport numpy as np\nfrom torch.nn import functional\nimport layers.norm\n"
    }
    assert packages(base) == ["numpy", "torch"]


def test_relative_imports_are_followed():
    base = {
        "a/b/one.py": "from .two import x\nfrom ..three import y\n",
        "a/b/two.py": "",
        "a/three.py": "",
        "two.py": "",
    }
    assert distances(base, ["a/b/one.py"]) == {"a/b/one.py": 0, "a/b/two.py": 1, "a/three.py": 1}
