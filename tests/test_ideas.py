import pytest

from ideator_rl.ideas import MAX_CHARS, MalformedIdea, parse_idea

GOOD = "I think so. [Experiment] Try RMSNorm. [Code Changes] In train.py replace it. [End] and more"


def test_the_sections_of_a_completion_become_an_idea_and_its_thought():
    idea = parse_idea(GOOD)
    assert (idea.thought, idea.experiment, idea.changes) == ("I think so.", "Try RMSNorm.", "In train.py replace it.")
    assert parse_idea(idea.text) == parse_idea(GOOD.partition(". ")[2])


def test_equal_ideas_have_one_key_whatever_the_thought():
    assert parse_idea(GOOD).key == parse_idea("other thought " + GOOD.partition(". ")[2]).key
    assert parse_idea(GOOD).key != parse_idea(GOOD.replace("RMSNorm", "EMA")).key


def test_a_mark_that_is_mentioned_in_the_thought_does_not_start_the_idea():
    idea = parse_idea("Plan: [Experiment] draft [Experiment] real [Code Changes] change [End]")
    assert (idea.experiment, idea.thought) == ("real", "Plan: [Experiment] draft")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "(nothing)"),
        ("just words", "no [Experiment] and no [Code Changes] and no [End]"),
        ("[Experiment] a [Code Changes] b", "no [End]"),
        ("[End] [Code Changes] b [Experiment] a", "out of order"),
        ("[Experiment] a [Code Changes] b [Code Changes] c [End]", "repeated or out of order"),
        ("[Experiment] [Code Changes] b [End]", "nothing after [Experiment]"),
        ("[Experiment] a [Code Changes]  [End]", "nothing after [Code Changes]"),
        ("[Experiment] " + "a" * MAX_CHARS + " [Code Changes] b [End]", "Write it shorter"),
    ],
)
def test_a_completion_without_an_idea_is_an_error_that_names_what_is_missing(text, message):
    with pytest.raises(MalformedIdea, match="(?s)") as caught:
        parse_idea(text)
    assert message in str(caught.value)


def test_an_idea_with_broken_unicode_still_has_a_key():
    assert len(parse_idea("[Experiment] \udcff [Code Changes] b [End]").key) == 64


BLOCK = "train.py\n<<<<<<< SEARCH\nx = 1\n=======\nx = '[End]'\n>>>>>>> REPLACE"
HUNK = "--- a/train.py\n+++ b/train.py\n@@ -1,2 +1,2 @@\n-x = 1\n+x = '[Code Changes] [End]'\n y = 2"


@pytest.mark.parametrize("edits", [BLOCK, HUNK, f"{BLOCK}\n{HUNK}"])
def test_marks_inside_edits_are_code(edits):
    assert parse_idea(f"t [Experiment] e [Code Changes]\n{edits}\n[End] rest [End]").changes == edits


def test_edits_that_swallow_the_end_are_read_without_looking_for_edits():
    assert parse_idea("[Experiment] e [Code Changes]\n@@ -1 +1 @@\n-a\n+b [End]").changes == "@@ -1 +1 @@\n-a\n+b"
    assert parse_idea("<<<<<<< SEARCH never closed [Experiment] e [Code Changes] c [End]").changes == "c"
