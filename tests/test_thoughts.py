"""The reader of thoughts: every form in which models mark them, and code and words that only look like it."""

import time

import pytest
from conftest import run
from scripted import idea

from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.implementers.direct import DirectImplementer
from ideator_rl.text.thoughts import split_thoughts


def block(old, new):
    return f"train.py\n<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"


DRAFT, EDIT = block("x = 4.0", "x = 9.0"), block("x = 4.0", "x = 1.0")
DRAFT_IDEA, IDEA = idea("x = 9"), idea("x = 1")

TAGS = ["think", "thinking", "thought", "reasoning", "seed:think", "THINK", "Thought", "reflection", "scratchpad",
        "antThinking", "inner_monologue", "analysis"]  # fmt: skip
PAIRS = [
    *((f"<{name}>", f"</{name}>") for name in TAGS),
    ("[THINK]", "[/THINK]"),
    ("<think duration='3'>", "</think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("◁think▷", "◁/think▷"),
    ("<|reasoning_start|>", "<|reasoning_end|>"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("\ufeff\u200b<think>", "</think>"),
    ("**<think>**", "</think>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>text<|message|>"),
    ("analysisWe see. ", "assistantfinal"),
    ("Sure, a moment.\n<think>", "</think>"),
    ("Sure. <think>", "</think>"),
    ("<think>a</think>\n<think>", "</think>"),
    ("<thinking><reflection>a</reflection>", "</thinking>"),
    ("", "</think>"),
    ("", "\n</think>\n"),
    ("", "[/THINK]"),
    ("", "<|end_of_thought|>"),
]


@pytest.mark.parametrize("draft", ["Perhaps\n\n{}\nbut no.", "{}"], ids=["prose", "bare"])
@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_what_a_thought_quotes_is_no_answer(opening, closing, draft):
    for quoted, answer in ((DRAFT, EDIT), (DRAFT_IDEA, IDEA), (EDIT, "CANNOT: no.")):
        thoughts = split_thoughts(f"{opening}{draft.format(quoted)}{closing}\n{answer}")
        assert thoughts.ended and quoted.strip() not in thoughts.answer and answer.strip() in thoughts.answer
    assert parse_idea(f"{opening}{draft.format(DRAFT_IDEA)}{closing}{IDEA}").changes == "x = 1"


@pytest.mark.parametrize("opening", [opening for opening, _ in PAIRS if opening])
def test_thoughts_without_an_end_leave_no_answer(opening):
    text = f"{opening} perhaps\n{DRAFT}\n{DRAFT_IDEA}"
    assert not split_thoughts(text).ended and DRAFT not in split_thoughts(text).answer
    with pytest.raises(MalformedIdea, match="thoughts never end.*Allow longer answers"):
        parse_idea(text)


CODE = [
    block("x = 4.0", "x = '''\n</think>\n'''"),
    block('START = "<think>"', 'START, END = "<think>", "</think>"'),
    block("<think>", "<thinking>\n"),
    block("x", "'<|channel|>analysis<|message|>'\n<|channel|>final<|message|>"),
    "--- a/t.py\n+++ b/t.py\n@@ -1,2 +1,2 @@\n </think>\n-<think>\n\n+[THINK]\n",
    "t.py\n```python\nMARK = '''\n<think>\n'''\n```\n",
    "*** Begin Patch\n*** Add File: t.py\n+</think>\n</think>\n*** End Patch\n",
]


@pytest.mark.parametrize("code", CODE)
def test_marks_inside_code_are_code(code):
    assert split_thoughts(code).answer == code
    assert split_thoughts(f"<think>Not\n{DRAFT}</think>{code}").answer == code
    assert split_thoughts(f"Not\n{DRAFT}, so no.</think>\n{code}").answer == "\n" + code
    assert parse_idea(f"[Experiment] e [Code Changes]\n{code}\n[End]").changes == code.strip()


@pytest.mark.parametrize(
    "words",
    [
        "Reward each answer with <think> and </think> in it",
        "Reward `<think>` at the start and `</think>` after it.",
        'Count "</think>" in the completion.',
        "The </think> tag earns 1.",
        "Wrap the reasoning in <think> tags.",
        "Wrap it in <think>...</think>",
        "[Thought] heads a section",
        "<no_think> switches it off",
    ],
)
def test_words_about_marks_are_words(words):
    assert split_thoughts(words).answer == words
    parsed = parse_idea(f"[Experiment] {words} [Code Changes] {words} [End]")
    assert (parsed.experiment, parsed.changes) == (words, words)


def test_a_thought_without_marks_may_precede_an_idea():
    assert parse_idea(f"I think so. {IDEA}").thought == "I think so."


@pytest.mark.parametrize("separator", ["so okay </think> then", "\n<answer>", "\n<|begin_of_solution|>\n"])
def test_an_idea_before_the_place_where_an_answer_begins_is_a_draft(separator):
    assert parse_idea(f"Perhaps {DRAFT_IDEA} {separator} {IDEA}").changes == "x = 1"
    assert parse_idea(f"Perhaps {IDEA} {separator} done.").changes == "x = 1"


def test_a_coder_that_begins_to_think_again_after_an_edit_has_no_answer():
    thoughts = split_thoughts(f"{EDIT}\n<think>\nNo, that is wrong")
    assert not thoughts.ended


def test_the_thought_of_an_idea_is_all_text_before_it():
    assert parse_idea(f"<think>hm {DRAFT_IDEA}</think> So: {IDEA}").thought == f"<think>hm {DRAFT_IDEA}</think> So:"


def test_an_edit_in_a_thought_inside_an_idea_is_not_applied():
    changes = f"<think>\n{DRAFT}</think>\n{EDIT}"
    implementation = run(DirectImplementer().implement(parse_idea(idea(changes)), {}, None, "cpu"))
    assert implementation.patch.strip() == EDIT.strip()


def test_a_swallowed_closing_mark_is_found_behind_an_open_fence_or_block():
    for unclosed in ("```python\nx = 9\n", "train.py\n<<<<<<< SEARCH\nx = 9\n"):
        assert split_thoughts(f"<think>draft\n{unclosed}</think>\n{EDIT}").answer == "\n" + EDIT


@pytest.mark.parametrize("piece", ["<think>", "</think>", "`<think> ", "<think>a</thought>", "<|channel|>", "a </think> b ", "```\n"])  # fmt: skip
def test_a_text_of_marks_alone_is_read_in_linear_time(piece):
    seconds = []
    for size in (2_000, 20_000):
        runs = []
        for _ in range(3):  # the least: a garbage collection of the whole suite's objects may fall into one
            started = time.process_time()
            split_thoughts(piece * (size // len(piece)))
            runs.append(time.process_time() - started)
        seconds.append(min(runs))
    assert seconds[1] < 40 * seconds[0] + 0.05
