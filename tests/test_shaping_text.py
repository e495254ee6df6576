"""Rewards for form and for the length of a thought: values by hand, and what a policy might try."""

from pathlib import Path

import pytest
from scripted import idea
from test_shaping import call_alone

from rewards.format import format_reward, holds_idea
from rewards.length import length_reward, thought_length

# Form.


def test_an_idea_earns_one_and_any_other_text_nothing():
    texts = [
        idea("x = 1"),
        "[Experiment] only words",
        "",
        idea("x = 1") + " and on",
        "[Experiment] [Code Changes] [End]",
    ]
    assert call_alone(format_reward, texts) == [1.0, 0.0, 0.0, 1.0, 0.0]


def test_messages_are_read_as_text():
    assert call_alone(format_reward, [[{"role": "assistant", "content": idea("x = 1")}]]) == [1.0]


@pytest.mark.parametrize(
    ("text", "strict"),
    [
        (idea("x = 1") + " \n", True),
        (idea("x = 1", "I think."), True),
        (idea("x = 1") + " and on", False),
        (idea("x = 1") + idea("x = 2"), False),
        (idea("x = 1") + "[End]", False),
        (idea("x = 1", "[Experiment] no, rather this:"), False),
        (idea("x = 1", f"<think>The form: {idea('x')}</think>"), True),
        (idea("x = 1", f"The form: {idea('x')}</think>"), True),
        (idea("a.py\n<<<<<<< SEARCH\n[End]\n=======\n[Experiment]\n>>>>>>> REPLACE\n"), True),
    ],
)
def test_the_strict_form_is_one_idea_without_text_after_it(text, strict):
    assert holds_idea(text) and holds_idea(text, strict=True) == strict
    assert call_alone(format_reward, [text], format_strict=True) == [float(strict)]


# Thought.


def test_the_bonus_grows_with_the_thought_up_to_its_cap():
    ten_words = "one two three four five six seven eight nine ten"
    texts = [idea("x = 1"), idea("x = 1", ten_words), idea("x = 1", ten_words + " eleven twelve"), ten_words]
    assert call_alone(length_reward, texts, length_cap=10, length_unit="words") == pytest.approx([0.0, 0.3, 0.3, 0.0])
    assert call_alone(length_reward, texts, length_cap=40, length_most=0.2) == pytest.approx([0.0, 0.05, 0.06, 0.0])


def test_tokens_are_counted_by_the_share_of_visible_characters_before_the_idea():
    text = "abc defg [Experiment] ab [Code Changes] cd [End]"  # 7 of 7 + 12 + 2 + 13 + 2 + 5 visible characters
    assert thought_length(text, tokens=41) == pytest.approx(41 * 7 / 41)
    assert call_alone(length_reward, [text], ids=[[0] * 20], length_cap=10)[0] == pytest.approx(0.3 * 20 * 7 / 41 / 10)
    assert call_alone(length_reward, [text], ids=[[0] * 20], length_cap=10, length_unit="words")[0] == pytest.approx(
        0.06
    )


@pytest.mark.parametrize("tokens", [None, 2000], ids=["words", "tokens"])
@pytest.mark.parametrize(
    "padding",
    [
        " " * 5000,
        "\n\t\u00a0\u2003" * 1000,
        "\u200b " * 1000,
        ". . ! ? … " * 500,
        "hmm " * 1000,
        "a" * 8000,
        "Let us think about this with care. " * 200,
        "Hmm. hmm! HMM? hmm… " * 200,
        "[Experiment] " * 500,
        "[End] " * 500,
    ],
    ids=[
        "spaces",
        "odd spaces",
        "nothing wide",
        "points",
        "one word",
        "one letter",
        "a sentence",
        "case",
        "marks",
        "ends",
    ],
)
def test_padding_earns_next_to_nothing(padding, tokens):
    plain = "The rate is too low for so few steps, so I raise it and warm up."
    assert thought_length(idea("x = 1", f"{plain} {padding}"), tokens) < 100


def test_the_plain_bonus_pays_for_repeats():
    text = idea("x = 1", "hm um " * 10)
    assert thought_length(text) == pytest.approx(20 * 2 / 18) and thought_length(text, repeats=True) == 20.0
    assert call_alone(length_reward, [text], length_cap=40, length_unit="words", length_repeats=True) == [0.15]


def test_prose_earns_nearly_all_of_its_length():
    prose = " ".join((Path(__file__).parent.parent / "CONTRIBUTING.md").read_text().split()[:300])
    assert thought_length(idea("x = 1", prose)) > 0.9 * 300
    assert thought_length(idea("x = 1", prose), 1000) > 0.9 * 970


def test_text_after_or_inside_the_idea_is_not_thought():
    long = " ".join(f"word{n}" for n in range(500))
    assert thought_length(idea("x = 1") + long) == thought_length(f"[Experiment] {long} [Code Changes] x [End]") == 0.0
    assert thought_length(f"few ten_words {idea('x = 1')} {long} {idea('x = 2')}") == 2.0


def test_reasoning_that_trl_parsed_into_its_own_field_is_thought():
    parsed = [{"role": "assistant", "content": idea("x = 1", "so"), "reasoning_content": "one two three"}]
    mute = [{"role": "assistant", "reasoning_content": "[Experiment] a [Code Changes] b [End]"}]
    split = [{"role": "assistant", "content": idea("x = 1"), "thinking": "one two"}, {"role": "tool", "content": None}]
    options = {"length_cap": 8, "length_unit": "words"}
    assert call_alone(length_reward, [parsed, mute, split], **options) == pytest.approx([0.15, 0.0, 0.075])
    assert call_alone(format_reward, [parsed, mute]) == [1.0, 0.0]


def test_tokens_without_text_count_no_more_than_letters():
    assert thought_length(idea("x = 1", "So be it."), tokens=100_000) <= len("Sobeit.")
