"""The marks of thoughts that decoding loses: special tokens, and the opening mark of the prompt."""

import pytest

from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.llm.prompt_form import PromptForm
from ideator_rl.llm.sampled_text import marked_completions, sampled_text
from ideator_rl.text.thoughts import opening_mark

DRAFT, IDEA = "[Experiment] a [Code Changes] draft [End]", "[Experiment] a [Code Changes] b [End]"


class Tokenizer:
    """Ids are words; some are special."""

    all_special_tokens = ["[THINK]", "[/THINK]", "<s>", "</s>"]

    def decode(self, ids, skip_special_tokens):
        return " ".join(word for word in ids if not (skip_special_tokens and word in self.all_special_tokens))


class Plain(Tokenizer):
    all_special_tokens = ["</s>"]


def text_of(words, prompt="", is_cut=False, tokenizer=Plain):
    words = words.split()
    return sampled_text(tokenizer(), words, tokenizer().decode(words, True), prompt, is_cut)


def test_marks_of_thoughts_that_are_special_tokens_stay_in_the_text():
    text = text_of(f"[THINK] {DRAFT} [/THINK] {IDEA} </s>", tokenizer=Tokenizer)
    assert parse_idea(text).changes == "b" and "</s>" not in text


@pytest.mark.parametrize(
    "prompt",
    ["Hi<|im_start|>assistant\n<think>\n", "Hi[THINK]", "Hi<|start|>assistant<think>", "x" * 1000 + "<seed:think>"],
)
def test_a_completion_that_was_cut_inside_the_thoughts_of_its_prompt_holds_no_idea(prompt):
    with pytest.raises(MalformedIdea, match="never end"):
        parse_idea(text_of(f"Perhaps {DRAFT} but", prompt, is_cut=True))
    assert parse_idea(text_of(f"Perhaps {DRAFT} but </think> {IDEA} and", prompt, is_cut=True)).changes == "b"
    # A model that was warmed up to answer at once ends by itself.
    assert text_of(IDEA, prompt) == IDEA


@pytest.mark.parametrize("prompt", ["Hi", "<think>\n\n</think>\n\n", "Use <think> marks", ""])
def test_a_prompt_without_an_open_mark_opens_no_thoughts(prompt):
    assert opening_mark(prompt) == "" and text_of(IDEA, prompt, is_cut=True) == IDEA


@pytest.mark.parametrize("is_chat", [False, True])
def test_the_trainer_marks_completions_that_were_cut_inside_the_thoughts_of_their_prompt(is_chat):
    class Chat(Plain):
        def apply_chat_template(self, messages, enable_thinking, **_):
            return f"{messages[0]['content']}<think>{'' if enable_thinking else '</think>'}\n"

    def marked(words, length, thinking=True):
        form = PromptForm(Chat(), {"enable_thinking": thinking})
        prompt = [{"role": "user", "content": "Hi"}] if is_chat else "Hi<think>\n" if thinking else "Hi"
        completion = [{"role": "assistant", "content": words}] if is_chat else words
        (result,) = marked_completions(form, [{"prompt": prompt}], [completion], [words.split()], length)
        return result[0]["content"] if is_chat else result

    assert marked(DRAFT, 6) == f"<think>\n{DRAFT}"
    assert marked(DRAFT, 7) == marked(DRAFT, 6, thinking=False) == DRAFT
