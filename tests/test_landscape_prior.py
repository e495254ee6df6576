"""The prior's corpus and tokenizer: the documented shares, and texts that the library can read."""

import random
import statistics

import pytest

from ideator_rl.archive.prompts import parent_prompt
from ideator_rl.environments.environment import load_environment
from ideator_rl.envs.landscape.edits import read_idea
from ideator_rl.envs.landscape.landscape import MOST_EDITS, POPULAR, SIMPLE_KNOBS
from ideator_rl.envs.landscape.prior import MOST_THOUGHT, completion, corpus, idea_text, recombine, tokenizer
from ideator_rl.ideas import parse_idea


@pytest.fixture(scope="module")
def rows():
    return corpus(4000, seed=1)


def test_every_answer_is_an_idea_and_a_seed_gives_one_corpus(rows):
    assert rows == corpus(4000, seed=1) != corpus(4000, seed=2)
    for _, text in rows:
        idea = parse_idea(text)
        assert 1 <= len(read_idea(idea.experiment)) <= MOST_EDITS and len(idea.thought.split()) - 1 <= MOST_THOUGHT


def test_the_corpus_has_the_documented_shares(rows):
    free = [set(read_idea(parse_idea(text).experiment)) for prompt, text in rows if prompt == "propose"]
    assert len(free) / len(rows) == pytest.approx(0.5, abs=0.03)
    assert sum(idea <= set(POPULAR) for idea in free) / len(free) == pytest.approx(0.38, abs=0.03)
    thought = {complexity: [] for complexity in range(MOST_EDITS + 1)}
    for _, text in rows:
        idea = parse_idea(text)
        complexity = sum(knob >= SIMPLE_KNOBS for knob, _ in read_idea(idea.experiment))
        thought[complexity].append(len(idea.thought.split()) - 1)
    for complexity in (0, 2, 5):
        assert statistics.fmean(thought[complexity]) == pytest.approx(2 * complexity + 1, abs=0.2)


def test_a_recombination_keeps_most_of_its_parents():
    rng, kept_edits = random.Random(0), []
    for _ in range(500):
        parents = [{4: 0, 5: 1, 6: 2}, {10: 3, 11: 0}]
        child = recombine(parents, rng)
        kept_edits.append(sum(child.get(knob) == value for parent in parents for knob, value in parent.items()))
        assert len(child) <= MOST_EDITS
    assert statistics.fmean(kept_edits) == pytest.approx(5 * 0.85 * 0.96, abs=0.15)


def test_the_tokenizer_has_one_token_per_word_and_skips_unknown_text():
    tokens, rng = tokenizer(), random.Random(0)
    text = completion({0: 1, 7: 0, 19: 3}, rng)
    assert len(tokens) == 93 and len(tokens(text)["input_ids"]) == len(text.replace("Code Changes", "Code").split())
    assert tokens.decode(tokens(text)["input_ids"], skip_special_tokens=True) == text
    environment = load_environment("landscape")
    prompt = parent_prompt(
        environment, environment.prompt("s0"), [(idea_text({4: 2}), 0.51), (idea_text({9: 1}), None)]
    )
    prompt_tokens = tokens.convert_ids_to_tokens(tokens(prompt)["input_ids"])
    shown_idea = ["[Experiment]", "k04v2", "[Code Changes]", "apply", "[End]"]
    assert prompt_tokens == [*shown_idea, *(token.replace("k04v2", "k09v1") for token in shown_idea), "improve"]
