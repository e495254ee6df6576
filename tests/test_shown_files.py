"""Which files of a codebase a coder is shown."""

import pytest

from ideator_rl.implementers.import_graph import import_distances, third_party_packages
from ideator_rl.implementers.shown_files import View, shown_files, tokens

LONG = '"""A model."""\n\nimport torch\n\n' + "".join(f"value_{number} = {number}\n" for number in range(120))
LONG_LINES = LONG.count("\n")
BASE = {
    "train.py": "import model\nfrom tools import io\n\nmodel.run()\n",
    "model.py": "from layers.norm import Norm\n\n\ndef run():\n    return Norm()\n" + "# padding\n" * 40,
    "tools/io.py": "def read():\n    pass\n" + "# padding\n" * 20,
    "layers/__init__.py": "",
    "layers/norm.py": "class Norm:\n    eps = 1e-5\n" + "# padding\n" * 20,
    "unused.py": "x = 1\n",
    "notes.txt": "note\n" * 30,
}


def shown(base, budget, idea="Try it.", command=("python", "train.py"), numbered=False):
    return shown_files(base, View(command, idea, numbered), budget)


def test_a_codebase_that_fits_is_shown_complete_and_sorted_by_path():
    view = shown(BASE, 10_000)
    assert view.complete == tuple(sorted(BASE)) and not view.cut and not view.left_out
    assert all(text in view.text for text in BASE.values())
    assert view.text.index('path="layers/norm.py"') < view.text.index('path="train.py"')


def test_files_at_the_largest_import_distance_are_left_out_first():
    order = ["train.py", "tools/io.py", "model.py", "layers/__init__.py", "layers/norm.py", "unused.py", "notes.txt"]
    distances = import_distances(BASE, ["train.py"])
    assert [distances.get(path) for path in order] == [0, 1, 1, 2, 2, None, None]
    view = shown(BASE, 400)
    assert set(order[:4]) <= set(view.complete) and "notes.txt" in view.left_out and not view.cut


def test_a_file_that_the_idea_names_is_shown_before_files_at_a_smaller_distance():
    assert "layers/norm.py" in shown(BASE, 220).left_out
    for name in ("layers/norm.py", "`norm.py`"):
        assert "layers/norm.py" in shown(BASE, 220, f"Lower eps in {name}, please.").complete


@pytest.mark.parametrize("idea", ["Change abnorm.py.", "Change other/norm.py.", "Change norm.pyx."])
def test_a_file_name_inside_a_longer_name_does_not_count(idea):
    assert "layers/norm.py" in shown(BASE, 220, idea).left_out


def test_a_file_name_that_two_files_share_does_not_count_without_its_folder():
    base = BASE | {"other/norm.py": "y = 2\n" * 40}
    assert "layers/norm.py" in shown(base, 220, "Change norm.py.").left_out
    assert "layers/norm.py" in shown(base, 220, "Change layers/norm.py.").complete


def test_a_module_that_the_command_runs_is_always_shown():
    assert "tools/io.py" in shown(BASE, 200, command=("python", "-m", "tools.io")).complete


@pytest.mark.parametrize("budget", [30, 60, 100, 150, 220, 400, 800])
@pytest.mark.parametrize("numbered", [False, True])
def test_the_text_stays_within_the_budget(budget, numbered):
    base = BASE | {"train.py": LONG, "other.py": LONG}
    assert tokens(shown(base, budget, "Change value_3 in other.py.", numbered=numbered).text) <= budget


def test_the_same_files_in_another_order_give_the_same_text():
    base = BASE | {"train.py": LONG, "other.py": LONG}
    backwards = dict(reversed(base.items()))
    for budget in (100, 300, 500):
        assert shown(base, budget, "Change other.py.") == shown(backwards, budget, "Change other.py.")


def test_files_that_are_left_out_are_listed_by_name():
    base = BASE | {"far.py": "y = 1\n" * 2_000}
    assert "do not fit in here:\nfar.py (2000 lines)\n" in shown(base, 1_000).text


def test_files_whose_names_do_not_fit_are_counted():
    base = BASE | {f"extra/part_{i}.py": "y = 1\n" * 100 for i in range(200)}
    view = shown(base, 300)
    listed = sum(f"{path} (" in view.text for path in view.left_out)
    assert listed < len(view.left_out) and f"{len(view.left_out) - listed} of them are not named" in view.text


def test_an_essential_file_that_is_too_long_is_cut_after_a_line_with_a_mark():
    view = shown({"train.py": LONG}, 300)
    assert view.cut == ("train.py",) and not view.left_out
    count = view.text.count("\nvalue_")
    mark = f"value_{count - 1} = {count - 1}\n[lines {count + 5} to {LONG_LINES} are not shown here]\n</file>\n"
    assert 20 < count < 120 and f'lines="{LONG_LINES}" shown="in part"' in view.text and view.text.endswith(mark)


def test_each_essential_file_gets_a_share_and_long_ones_what_short_ones_leave():
    base = BASE | {"train.py": LONG, "other.py": LONG, "small.py": "x = 1\n"}
    view = shown(base, 700, "Change other.py and small.py.")
    assert view.cut == ("other.py", "train.py") and "small.py" in view.complete
    assert tokens(view.text) > 600


def test_a_file_that_is_not_essential_is_never_cut():
    view = shown(BASE | {"model.py": LONG}, 450)
    assert not view.cut and "model.py" in view.left_out and "layers/norm.py" in view.complete


def test_a_budget_for_no_file_at_all_still_counts_the_files():
    view = shown({"train.py": LONG}, 0)
    assert view.left_out == ("train.py",) and "1 of them are not named" in view.text


def test_lines_are_numbered_as_in_the_file():
    number = LONG.split("\n").index("value_20 = 20") + 1
    assert f"\n{number:>3} | value_20 = 20\n" in shown({"train.py": LONG}, 600, numbered=True).text


def test_third_party_packages_are_those_from_outside_the_codebase():
    base = BASE | {
        "more.py": "import os.path\nimport numpy as np\nfrom torch.nn import functional\nimport layers.norm\n"
    }
    assert third_party_packages(base) == ["numpy", "torch"]


def test_relative_imports_are_followed():
    base = {
        "a/b/one.py": "from .two import x\nfrom ..three import y\n",
        "a/b/two.py": "",
        "a/three.py": "",
        "two.py": "",
    }
    assert import_distances(base, ["a/b/one.py"]) == {"a/b/one.py": 0, "a/b/two.py": 1, "a/three.py": 1}
