"""Examples for a warm-up that answer prompts with past ideas, read back by the rules that read a model's ideas."""

import re

import pytest

from ideator_rl.archive.recombination import MOST_EDITS, recombined_ideas
from ideator_rl.environments.catalogue.catalogue import environment_catalogue, idea_corpus
from ideator_rl.environments.environment import load_environment
from ideator_rl.ideas import parse_idea
from ideator_rl.patch import PatchError
from ideator_rl.training.recipe.keys import IdeatorConfig
from ideator_rl.training.sft.data import tokenizer_corpus, with_recombinations

COUNT = 200
SHOWN = re.compile(r"^Idea \d+, (\w+) ([\d.]+), ((?:not )?better) than the baseline:\n(.*)$", re.M)


@pytest.fixture(scope="module")
def nanogpt():
    return load_environment("nanogpt")


@pytest.fixture(scope="module")
def read(nanogpt):
    """Rows as choices: those of each shown idea, and those of the answer; all by the reader of ideas."""
    catalogue, base = environment_catalogue(nanogpt), nanogpt.baseline("cpu")

    def choices(text):
        return set(catalogue.read(parse_idea(text), base).choices)

    rows = recombined_ideas(nanogpt, "cpu", COUNT, 5)
    return [([choices(idea) for *_, idea in SHOWN.findall(prompt)], choices(answer)) for prompt, answer in rows]


def test_prompts_show_one_or_two_ideas_about_equally_often(read):
    counts = [len(parents) for parents, _ in read]
    assert set(counts) == {1, 2} and min(counts.count(1), counts.count(2)) > COUNT / 4


def test_an_answer_has_edits_of_the_shown_ideas_and_at_most_one_new_edit(read):
    new = [len({e.key for e in answer} - {e.key for parent in parents for e in parent}) for parents, answer in read]
    assert set(new) == {0, 1} and COUNT / 8 < new.count(1) < COUNT / 2
    keeps_a_value = [any(answer & parent for parent in parents) for parents, answer in read]
    assert sum(keeps_a_value) > COUNT / 2, "most answers keep an edit with its value"
    combines_two = [all(answer & parent for parent in parents) for parents, answer in read if len(parents) == 2]
    assert sum(combines_two) > len(combines_two) / 5, "some combine two ideas"


def test_the_edits_of_an_answer_come_from_different_families(nanogpt, read):
    edits = environment_catalogue(nanogpt).edits
    for _, answer in read:
        families = [edits[choice.key].family for choice in answer]
        assert 1 <= len(families) <= MOST_EDITS and len(set(families)) == len(families)


def test_no_answer_repeats_a_shown_idea(read):
    assert not any(answer in parents for parents, answer in read)


def test_nearly_every_answer_can_be_applied(nanogpt, read):
    catalogue, base = environment_catalogue(nanogpt), nanogpt.baseline("cpu")

    def changes(answer):
        try:
            return catalogue.apply(base, list(answer)) != base
        except PatchError:  # edits of different families that want one line
            return False

    assert sum(changes(answer) for _, answer in read) >= 0.95 * COUNT


def test_results_are_plausible_and_compared_correctly_with_the_baseline(nanogpt):
    low, high = nanogpt.metric.plausible
    for prompt, _ in recombined_ideas(nanogpt, "cpu", 50, 5):
        baseline = float(re.search(r"the baseline has ([\d.]+)\.\n", prompt)[1])
        for name, value, verdict, _ in SHOWN.findall(prompt):
            assert name == "val_loss" and low * 0.9 <= float(value) <= high * 1.1
            assert (verdict == "better") == (float(value) < baseline)


def test_rows_depend_on_the_seed(nanogpt):
    first = recombined_ideas(nanogpt, "cpu", 20, 1)
    assert first == recombined_ideas(nanogpt, "cpu", 20, 1)
    assert not set(first) & set(recombined_ideas(nanogpt, "cpu", 20, 2))


@pytest.mark.parametrize(("strategy", "free", "count"), [(None, 0.25, 0), ("top_k", 0.25, 30), ("puct", 1.0, 0)])
def test_a_warm_up_shows_past_ideas_as_often_as_the_recipe(nanogpt, strategy, free, count):
    config = IdeatorConfig(env="nanogpt", prompt_strategy=strategy, free_prompts=free, prompt_parents=1)
    own = nanogpt.prompt("cpu")
    bare = [(own, idea) for idea in idea_corpus(nanogpt, 40, 3)]
    rows = with_recombinations(bare, config, 3)
    assert len(rows) == 40 and rows[: 40 - count] == bare[: 40 - count]
    assert [len(SHOWN.findall(prompt)) for prompt, _ in rows] == [0] * (40 - count) + [1] * count


def test_a_chat_model_sees_past_ideas_in_a_message(nanogpt):
    config = IdeatorConfig(env="nanogpt", prompt_strategy="top_k", free_prompts=0.0)
    own = nanogpt.prompt("cpu")
    ideas = idea_corpus(nanogpt, 4, 3)
    text = with_recombinations([(own, idea) for idea in ideas], config, 3)
    chat = with_recombinations([([{"role": "user", "content": own}], idea) for idea in ideas], config, 3)
    assert chat == [([{"role": "user", "content": prompt}], answer) for prompt, answer in text]
    assert tokenizer_corpus(chat) == tokenizer_corpus(text), (
        "a tokenizer reads what the model will, whatever it is wrapped in"
    )
