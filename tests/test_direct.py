"""Ideas that hold their own edits."""

import json

import pytest
from conftest import TOY, execute, run

from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import parse_idea
from ideator_rl.implementers.direct import DirectImplementer
from ideator_rl.implementers.implementer import NotImplementable, estimate_cost, get_implementer, writes_trusted_code
from ideator_rl.patch import patched_tree

BLOCK = "train.py\n<<<<<<< SEARCH\nx = 4.0\n=======\nx = 1.0\n>>>>>>> REPLACE"
DIFF = "--- a/train.py\n+++ b/train.py\n@@ -5,3 +5,3 @@\n-x = 4.0\n+x = 1.0\n y = 4.0\n z = 4.0"


def idea(changes):
    return f"I think so. [Experiment] Lower x. [Code Changes]{changes}[End]"


def implemented(changes):
    """The tree that an idea's own edits lead to."""
    environment = load_environment(TOY)
    base = environment.baseline("cpu")
    implementation = run(DirectImplementer().implement(parse_idea(idea(changes)), base, environment, "cpu"))
    assert implementation.usage == {}
    return base, patched_tree(base, implementation.patch, environment.rules)


def complete_file():
    text = load_environment(TOY).baseline("cpu")["train.py"]
    return "train.py\n```python\n" + text.replace("x = 4.0", "x = 1.0") + "```"


@pytest.mark.parametrize(
    "changes",
    [
        f"\n{BLOCK}\n",
        f" {BLOCK} ",
        f" Lower it.\n\n```\n{BLOCK}\n```\nThat is all.\n",
        f"\ntrain.py\n```python\n{BLOCK.partition(chr(10))[2]}\n```\n",
        f"\n{DIFF}\n",
        f"\n```diff\n{DIFF}\n```\n",
        f"\n{DIFF}\n \n",
        f"\n{complete_file()}\n",
    ],
    ids=[
        "block",
        "on the mark's line",
        "fenced in prose",
        "path above",
        "diff",
        "fenced diff",
        "blank end",
        "whole file",
    ],
)
def test_edits_in_an_idea_become_the_patch(changes):
    base, tree = implemented(changes)
    assert tree == base | {"train.py": base["train.py"].replace("x = 4.0", "x = 1.0")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (" Set x to 1.0. ", "no patch was found"),
        ("\ntrain.py\n<<<<<<< SEARCH\nx = 4.0\n=======\n", "no closing"),
        ("\n--- a/train.py\n+++ b/train.py\n", "without any change"),
    ],
)
def test_an_idea_without_a_readable_edit_is_refused_with_the_expected_form(changes, message):
    with pytest.raises(NotImplementable, match="must hold the edits") as caught:
        implemented(changes)
    assert message in str(caught.value) and caught.value.kind == "unpatchable" and caught.value.patch == changes.strip()


def test_a_symbolic_link_in_an_idea_is_rejected():
    with pytest.raises(NotImplementable) as caught:
        implemented("\ndiff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc/passwd\n")
    assert caught.value.kind == "rejected"


def test_direct_is_available_by_name_and_not_trusted():
    implementation = get_implementer("direct")
    assert isinstance(implementation, DirectImplementer) and not implementation.trusted


class MinimalImplementer:
    """A plugin that declares only what it must."""

    name = "minimal"

    async def implement(self, idea, base, environment, preset): ...


def test_a_class_with_no_optional_member_gets_the_defaults_of_the_interface(monkeypatch):
    monkeypatch.setattr("ideator_rl.implementers.implementer.BUILT_IN", {"minimal": f"{__name__}.MinimalImplementer"})
    implementer = get_implementer("minimal")
    assert isinstance(implementer, MinimalImplementer) and implementer.trusted is False
    assert not writes_trusted_code("minimal")
    assert estimate_cost("minimal", None, 10, load_environment(TOY), "cpu") is None
    with pytest.raises(IdeatorError, match="MinimalImplementer takes no `coder` settings; got samples"):
        get_implementer("minimal", {"samples": 3})


def test_execute_runs_an_idea_that_holds_its_own_edits(call, tmp_path):
    code, out, err = execute(call, tmp_path, "--implementer", "direct", "--idea", idea(f"\n{BLOCK}\n"))
    record = json.loads(out)
    assert code == 0 and record["status"] == "succeeded" and "+x = 1.0" in record["patch"] and record["cost"] == {}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        (" Set x to 1.0. ", "unpatchable"),
        (f"\n{BLOCK.replace('x = 4.0', 'x = 5.0')}\n", "unpatchable"),
        ("\nevaluator.py\n```python\ndef evaluate(run):\n    return 0.0\n```\n", "rejected"),
    ],
)
def test_execute_reports_why_an_idea_has_no_codebase(call, tmp_path, changes, status):
    code, out, err = execute(call, tmp_path, "--implementer", "direct", "--idea", idea(changes))
    assert code == 1 and json.loads(out)["status"] == status
