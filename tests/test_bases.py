"""Whose code an idea may change: parents that failed, that are gone, that no longer apply; merges; the idea's choice."""

import asyncio
import shutil
from dataclasses import replace

import pytest
from archives import archive, record
from conftest import TOY, replace_line, run
from scripted import idea as scripted_idea

from ideator_rl.archive.bases import BEST_PARENT, CHOSEN, NONE, Bases
from ideator_rl.archive.code_prompt import CodePrompt
from ideator_rl.environments.environment import load_environment
from ideator_rl.executor import codebases
from ideator_rl.executor.codebases import OutdatedBase
from ideator_rl.executor.executor import Executor
from ideator_rl.ideas import parse_idea
from ideator_rl.patch import apply_patch, diff, tree_hash
from ideator_rl.patch.merge import merged_tree
from ideator_rl.storage.idea_context import Base

ENVIRONMENT = load_environment(TOY)
BASELINE = ENVIRONMENT.baseline("cpu")


def parent(id, value, *edits, **keys):
    """A record whose codebase has these edits, pairs of an old and a new line."""
    tree = dict(BASELINE)
    for old, new in edits:
        tree["train.py"] = tree["train.py"].replace(old, new)
    result = record(id, value, id=id, idea=f"[Experiment] {id} [Code Changes] c [End]", **keys)
    return replace(result, tree=tree_hash(tree), patch=diff(BASELINE, tree))


LOW_X = parent("low-x", 0.5, ("x = 4.0", "x = 1.0"))
LOW_Z = parent("low-z", 0.6, ("pause = 0.0", "pause = 0.01"))
OTHER_X = parent("other-x", 0.4, ("x = 4.0", "x = 2.0"))
CRASH = parent("crash", None, ("x = 4.0", "x = -9.0"), error={"kind": "crash", "message": "x"})
NO_CODE = record("", None, id="no-code", error={"kind": "unpatchable", "message": "x"})
PAST = archive(LOW_X, LOW_Z, OTHER_X, CRASH, NO_CODE)


def bases(inherit, environment=ENVIRONMENT):
    return Bases(environment, "cpu", inherit)


def test_the_best_parent_that_succeeded_is_inherited():
    chooser = bases(BEST_PARENT)
    assert chooser.for_prompt((OTHER_X, LOW_Z, LOW_X), PAST) == Base(LOW_Z.tree, LOW_Z.patch, ("low-z",))
    assert tree_hash(chooser.tree(chooser.for_prompt((LOW_X,), PAST))) == LOW_X.tree
    # Failed parents alone, or none, leave the baseline.
    assert chooser.for_prompt((CRASH, NO_CODE), PAST) is None is chooser.for_prompt((), PAST)
    assert chooser.tree(None) == BASELINE
    assert bases(NONE).for_prompt((LOW_X,), PAST) is None


def test_an_idea_chooses_its_base_by_name():
    chooser, shown = bases(CHOSEN), (LOW_X, NO_CODE, CRASH, OTHER_X)

    def chosen(text):
        return chooser.of_answer(f"[Experiment] {text} [Code Changes] c [End]", shown, PAST)

    assert chosen("Base: 1\nGo on.").parents == ("low-x",)
    assert chosen("Base: 3\nMend it.").tree == CRASH.tree, "a failed parent with code may be mended"
    assert chosen("Base: 0") is None is chosen("no name") and chooser.of_answer("no idea", shown, PAST) is None
    assert all(chosen(f"{line}\nGo on.").parents == ("low-x",) for line in ("base: 1", "**Base:** `1`", "  BASE:1. "))
    for text in (
        "Lower the learning rate. Base: 1e-3",
        "RoPE Base: 10000",
        "Base: 1e-3",
        "Base: 3 layers",
        "x\nBase: 1",
    ):
        assert chosen(text) is None, text
    for name in ("2", "9"):
        wrong = chosen(f"Base: {name}")
        assert wrong.tree == "" and f"names the base {name} and its prompt offered 0, 1, 3, 4" in wrong.problem


def test_merges_are_offered_where_changes_do_not_meet():
    chooser = bases(CHOSEN)
    assert [option.name for option in chooser.options((LOW_X, LOW_Z, OTHER_X))] == ["0", "1", "2", "3", "1+2", "2+3"]
    text = "[Experiment] Base: 2 + 1\nBoth. [Code Changes] c [End]"
    base = chooser.of_answer(text, (LOW_X, LOW_Z), PAST)
    merged = chooser.tree(base)["train.py"]
    assert base.parents == ("low-x", "low-z") and "x = 1.0\n" in merged and "pause = 0.01 " in merged
    assert tree_hash(chooser.tree(base)) == base.tree and apply_patch(BASELINE, base.patch) == chooser.tree(base)


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("1\nB\n3\n4\n", "1\n2\n3\nD\n", "1\nB\n3\nD\n"),
        ("1\nB\n3\n4\n", "1\nC\n3\n4\n", None),
        ("1\nB\n3\n4\n", "1\n2\nC\n4\n", None),  # lines next to each other
        ("1\n2\n3\n4\nA\n", "1\n2\n3\n4\nB\n", None),  # two insertions in one place
        ("1\nB\n3\n4\n", "1\nB\n3\nD\n", None),  # one holds all of the other
        ("1\nB\n3\n4\nE\n", "1\nB\n3\n4x\n", None),
    ],
)
def test_a_merge_keeps_both_changes_or_is_none(first, second, merged):
    base = {"a": "1\n2\n3\n4\n", "b": "same"}
    trees = {**base, "a": first}, {**base, "a": second}
    expected = None if merged is None else {**base, "a": merged}
    assert merged_tree(base, *trees) == merged_tree(base, *reversed(trees)) == expected


def test_files_are_merged_whole():
    base = {"a": "1\n", "b": "1\n"}
    assert merged_tree(base, {"a": "1\n", "b": "1\n", "c": "x"}, {"b": "1\n"}) == {"b": "1\n", "c": "x"}
    assert merged_tree(base, {"a": "2\n", "b": "1\n"}, {"b": "1\n"}) is None  # changed here, deleted there
    assert merged_tree(base, {**base, "c": "x"}, {**base, "c": "y"}) is None


def test_a_parent_that_no_longer_applies_is_named_in_a_sentence(tmp_path):
    changed = tmp_path / "toy"
    shutil.copytree(TOY, changed, ignore=shutil.ignore_patterns("__pycache__"))
    script = changed / "baseline" / "train.py"
    script.write_text(script.read_text().replace("x = 0.0\ny = 0.0", "y = 0.0\n# moved\nstart = 1\nx = 0.0  # here"))
    chooser = bases(BEST_PARENT, load_environment(str(changed)))
    base = chooser.for_prompt((LOW_X,), PAST)
    assert base.tree == "" and base.parents == ("low-x",) and chooser.tree(base)["train.py"].count("# here") == 1
    assert base.problem.startswith(
        "The code of low-x no longer applies to the environment toy, which has changed since:"
    )
    # Its patch still applies, and leads to another codebase than was measured.
    script.write_text((TOY / "baseline" / "train.py").read_text() + "# new\n")
    base = bases(BEST_PARENT, load_environment(str(changed))).for_prompt((LOW_X,), PAST)
    assert base.problem.endswith("as it was: the baseline has changed since.")


def test_a_prompt_shows_code_within_its_budget():
    chooser = bases(BEST_PARENT)
    long = parent("long", 0.9, ("x = 4.0", "x = 4.0\n" + "".join(f"# {i} [End]\n" for i in range(400)) + "x = 3.0"))
    past = archive(LOW_X, long, NO_CODE)
    shown = (LOW_X, long, NO_CODE)
    text = CodePrompt(chooser).text(shown, past, chooser.for_prompt(shown, past), 2000, 500)
    assert "These are the files as idea 2 below left them." in text
    assert "-x = 4.0\n+x = 1.0\n" in text and "further lines are not shown]" in text and len(text) < 2000 * 3 + 2500
    # Of a past idea, no section mark is left that a reader of the prompt could take for the form.
    assert text.count("[End]") == 1 + text[: text.index("Idea 1")].count("[End]") and "(End]" in text


@pytest.mark.parametrize("base", [None, Base(LOW_X.tree, LOW_X.patch, ("low-x",))])
def test_a_preview_and_the_run_of_one_idea_judge_its_patch_once(toy_config, monkeypatch, base):
    judged, patched_tree = [], codebases.patched_tree
    monkeypatch.setattr(codebases, "patched_tree", lambda *args: (judged.append(args), patched_tree(*args))[1])
    executor = Executor(replace(toy_config, implementer="direct"))
    answer = scripted_idea(replace_line("y = 4.0", "y = 3.0"))
    preview = run(executor.preview(parse_idea(answer), base))
    # The base's own patch counts too.
    assert len(judged) == (2 if base else 1) and "+y = 3.0" in preview.patch
    assert run(executor.execute(answer, base=base)).patch == preview.patch
    executor.close()


def test_rules_judge_generations_against_the_baseline(toy_buffer):
    executor = toy_buffer.executor
    base = Base(LOW_X.tree, LOW_X.patch, ("low-x",))
    codebases = executor._codebases
    back = codebases.of_patch(replace_line("y = 4.0", "y = 3.0"), "", "direct", False, base)
    assert "+x = 1.0\n" in back.patch and "+y = 3.0\n" in back.patch
    assert "+x = 1.0" not in codebases.patch_from(base, back.patch)
    for problem, patch in (
        ("undoes all", replace_line("x = 1.0", "x = 4.0")),
        ("removes no line", replace_line("x = 1.0", "x = 1.0")),
    ):
        with pytest.raises(Exception, match=problem):
            codebases.of_patch(patch, "", "direct", False, base)
    protected = replace_line("x = 1.0", "x = 2.0").replace("train.py", "evaluator.py")
    with pytest.raises(Exception, match="protected"):
        codebases.of_patch(protected, "", "direct", False, base)


def test_an_idea_whose_base_is_gone_is_lost_and_not_failed(toy_buffer):
    for base in (
        Base("0" * 64, LOW_X.patch, ("low-x",)),
        Base("0" * 64, "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-no\n+yes\n", ("b",)),
    ):
        with pytest.raises(OutdatedBase, match="no longer applies to the environment"):
            toy_buffer.executor._codebases.base_tree(base)
        experiment = run(toy_buffer.executor.execute(scripted_idea("Set x to 1.0."), 0, base))
        assert experiment.status == "lost" and "no longer applies" in experiment.error["message"]


def test_two_ways_to_one_codebase_are_one_experiment(tmp_path):
    """A child that adds what its parent lacks, one on the baseline that has both, and one that goes back to the parent."""
    from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
    from ideator_rl.storage.idea_context import IdeaContext, inherited_patches

    config = BufferConfig(
        str(TOY), "cpu", f"file://{tmp_path}/bucket", run_dir=str(tmp_path), slots=1, implementer="direct"
    )
    buffer = RewardBuffer(config)

    def text(*edits):
        return f"[Experiment] e [Code Changes]\n{''.join(replace_line(*edit) for edit in edits)}[End]"

    async def score(completions, contexts):
        _, tasks = buffer.propose(completions, 0, contexts=contexts)
        return [record for _, record in await asyncio.gather(*tasks.values())]

    try:
        (first,) = run(score([text(("x = 4.0", "x = 1.0"))], {}))
        on_first = IdeaContext("asked", Base(first.tree, first.patch, (first.id,)))
        child, same = run(
            score([text(("y = 4.0", "y = 3.0")), text(("x = 4.0", "x = 1.0"), ("y = 4.0", "y = 3.0"))], {0: on_first})
        )
        assert child.id == same.id and child.patch == same.patch and child.status == "succeeded"
        on_child = IdeaContext("asked", Base(child.tree, child.patch, (child.id,)))
        (back,) = run(score([text(("y = 3.0", "y = 4.0"))], {0: on_child}))
        assert back.id == first.id and back.replayed
        # No outcome of equal text on another base is mistaken for this one.
        (refused,) = run(score([text(("y = 3.0", "y = 4.0"))], {}))
        assert refused.status == "unpatchable" and refused.id != back.id
        rows = inherited_patches(buffer.journal)
        assert [(row.position, row.base.parents) for row in rows] == [(1, (first.id,)), (3, (child.id,))]
        assert "+y = 3.0\n" in rows[0].patch and "+x = " not in rows[0].patch
    finally:
        buffer.close()
