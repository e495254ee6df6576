"""Which files of a codebase a coder is shown."""

import re

import pytest

from ideator_rl.patch.import_graph import import_distances, third_party_packages
from ideator_rl.patch.shown_files import shown_files, tokens

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
    return shown_files(base, command, idea, budget, numbered)


@pytest.mark.parametrize("count", range(2, 9))
def test_a_budget_of_the_size_of_all_files_shows_them_all(count):
    base = {f"part_{number}.py": "x" * number + "\n" for number in range(count)}
    everything = shown(base, 1 << 40)
    assert paths(everything) == sorted(base) and shown(base, tokens(everything)) == everything
    assert "do not fit" in shown(base, tokens(everything) - 1)


def paths(text, cut=False):
    """The files that are shown completely; with `cut`, those that are cut."""
    headers = re.findall(r'^<file path="(.+)" lines="\d+"( shown="in part")?>$', text, re.M)
    return [path for path, mark in headers if bool(mark) == cut]


def test_a_codebase_that_fits_is_shown_complete_and_sorted_by_path():
    text = shown(BASE, 10_000)
    assert paths(text) == sorted(BASE) and "do not fit" not in text
    assert all(content in text for content in BASE.values())


def test_files_at_the_largest_import_distance_are_left_out_first():
    order = ["train.py", "tools/io.py", "model.py", "layers/__init__.py", "layers/norm.py", "unused.py", "notes.txt"]
    distances = import_distances(BASE, ["train.py"])
    assert [distances.get(path) for path in order] == [0, 1, 1, 2, 2, None, None]
    text = shown(BASE, 400)
    assert set(order[:4]) <= set(paths(text)) and "\nnotes.txt (30 lines)\n" in text and not paths(text, cut=True)


def test_a_file_that_the_idea_names_is_shown_before_files_at_a_smaller_distance():
    assert "layers/norm.py" not in paths(shown(BASE, 220))
    for name in ("layers/norm.py", "`norm.py`"):
        assert "layers/norm.py" in paths(shown(BASE, 220, f"Lower eps in {name}, please."))


@pytest.mark.parametrize("idea", ["Change abnorm.py.", "Change other/norm.py.", "Change norm.pyx."])
def test_a_file_name_inside_a_longer_name_does_not_count(idea):
    assert "layers/norm.py" not in paths(shown(BASE, 220, idea))


def test_a_file_name_that_two_files_share_does_not_count_without_its_folder():
    base = BASE | {"other/norm.py": "y = 2\n" * 40}
    assert "layers/norm.py" not in paths(shown(base, 220, "Change norm.py."))
    assert "layers/norm.py" in paths(shown(base, 220, "Change layers/norm.py."))


def test_a_module_that_the_command_runs_is_always_shown():
    assert "tools/io.py" in paths(shown(BASE, 200, command=("python", "-m", "tools.io")))


@pytest.mark.parametrize("budget", [30, 60, 100, 150, 220, 400, 800])
@pytest.mark.parametrize("numbered", [False, True])
def test_the_text_stays_within_the_budget(budget, numbered):
    base = BASE | {"train.py": LONG, "other.py": LONG}
    assert tokens(shown(base, budget, "Change value_3 in other.py.", numbered=numbered)) <= budget


def test_the_same_files_in_another_order_give_the_same_text():
    base = BASE | {"train.py": LONG, "other.py": LONG}
    backwards = dict(reversed(base.items()))
    for budget in (100, 300, 500):
        assert shown(base, budget, "Change other.py.") == shown(backwards, budget, "Change other.py.")


def test_files_that_are_left_out_are_listed_by_name():
    base = BASE | {"far.py": "y = 1\n" * 2_000}
    assert "do not fit in here:\nfar.py (2000 lines)\n" in shown(base, 1_000)


def test_files_whose_names_do_not_fit_are_counted():
    base = BASE | {f"extra/part_{i}.py": "y = 1\n" * 100 for i in range(200)}
    text = shown(base, 300)
    left_out = [path for path in base if path not in paths(text)]
    listed = sum(f"\n{path} (" in text for path in left_out)
    assert 0 < listed < len(left_out) and f"{len(left_out) - listed} of them are not named" in text


def test_an_essential_file_that_is_too_long_is_cut_after_a_line_with_a_mark():
    text = shown({"train.py": LONG}, 300)
    count = text.count("\nvalue_")
    mark = f"value_{count - 1} = {count - 1}\n[lines {count + 5} to {LONG_LINES} are not shown here]\n</file>\n"
    assert 20 < count < 120 and paths(text, cut=True) == ["train.py"] and text.endswith(mark)


def test_each_essential_file_gets_a_share_and_long_ones_what_short_ones_leave():
    base = BASE | {"train.py": LONG, "other.py": LONG, "small.py": "x = 1\n"}
    text = shown(base, 700, "Change other.py and small.py.")
    assert paths(text, cut=True) == ["other.py", "train.py"] and "small.py" in paths(text)
    assert tokens(text) > 600


def test_a_file_that_is_not_essential_is_never_cut():
    text = shown(BASE | {"model.py": LONG}, 450)
    assert not paths(text, cut=True) and "model.py" not in paths(text) and "layers/norm.py" in paths(text)


def test_a_budget_for_no_file_at_all_still_counts_the_files():
    text = shown({"train.py": LONG}, 0)
    assert not paths(text) and "1 of them are not named" in text


def test_lines_are_numbered_as_in_the_file():
    number = LONG.split("\n").index("value_20 = 20") + 1
    assert f"\n{number:>3} | value_20 = 20\n" in shown({"train.py": LONG}, 600, numbered=True)


def test_third_party_packages_are_those_from_outside_the_codebase():
    base = BASE | {
        "more.py": "import os.path, __main__\nimport numpy as np\nfrom torch.nn import functional\nimport layers.norm\n"
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
