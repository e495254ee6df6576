"""The predictor `hidden`: what it reads of the ideator's model, and where there is no model."""

import random

import numpy as np
import pytest
import torch
from search_runs import RandomEdits, configured, go
from test_screen import EFFECT, idea, outcomes
from tiny_policy import save_policy
from transformers import AutoTokenizer, LlamaForCausalLM

from ideator_rl.errors import IdeatorError
from ideator_rl.llm.model_lookup import ModelError
from ideator_rl.screen import Candidate, PredictorContext, ScreenConfig, load_predictor
from ideator_rl.screen.hidden import HiddenStates
from ideator_rl.screen.predictor import IdeatorModel
from ideator_rl.search.ideators.local import LocalIdeator, LocalSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return IdeatorModel(save_policy(tmp_path_factory.mktemp("policy")), device="cpu")


def test_states_are_the_mean_over_the_tokens_of_a_late_layer(model):
    text = "[Experiment] Set the rate. [Code Changes] rate = 0.5 [End]"
    state = torch.get_rng_state()
    states = HiddenStates(model)
    vector = states.mean_state(text)
    assert torch.equal(torch.get_rng_state(), state), "loading a model draws none of the run's random numbers"
    ids = AutoTokenizer.from_pretrained(model.source)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        layers = LlamaForCausalLM.from_pretrained(model.source)(ids, output_hidden_states=True).hidden_states
    assert np.allclose(vector, layers[2][0, 1:].mean(0).numpy(), atol=1e-6), "of two layers, the last"
    states.mean_state("something else, and longer " * 3)
    assert np.array_equal(states.mean_state(text), vector)
    assert np.isfinite(states.mean_state("word " * 500)).all(), "what the model cannot read at once is left out"
    assert np.isfinite(states.mean_state("")).all()


def test_hidden_states_order_unseen_ideas_and_a_new_process_forecasts_the_same(model):
    seen, rng = outcomes(160), random.Random(99)
    ideas = [idea(rng) for _ in range(60)]
    candidates = [Candidate(text) for text, _ in ideas]
    first, second = (load_predictor("hidden", PredictorContext(model=model)) for _ in range(2))
    first.fit(seen)
    forecast = first.predict(candidates)
    quality = [0.5 + sum(EFFECT[word] for word in words) for _, words in ideas]
    assert np.corrcoef(forecast.mean, quality)[0, 1] > 0.4
    # What was fitted or forecast before, and in which order, is no matter.
    second.fit(outcomes(20, seed=5))
    second.predict(candidates[::-1][:30])
    second.fit(random.Random(1).sample(seen, len(seen)))
    again = second.predict(candidates)
    for name in ("success", "mean", "sd"):
        assert np.array_equal(getattr(forecast, name), getattr(again, name))


def test_without_a_model_a_sentence_names_the_ideator_and_the_remedy(tmp_path):
    with pytest.raises(IdeatorError, match="'catalogue'. Use ideator: local, or screen: {predictor: tokens}"):
        load_predictor("hidden", PredictorContext(ideator="catalogue"))
    with pytest.raises(IdeatorError, match="the ideator here is 'random edits'"):
        go(configured(tmp_path, screen=ScreenConfig(predictor="hidden"), max_experiments=4), RandomEdits())
    with pytest.raises(ModelError, match="cannot load|cannot be loaded"):
        HiddenStates(IdeatorModel(str(tmp_path / "none"))).mean_state("text")


def test_the_local_ideator_names_its_model(model):
    settings = LocalSettings(model=model.source, device="cpu", dtype="float32")
    assert LocalIdeator(settings, None).local_model() == IdeatorModel(model.source, None, "float32", "cpu")
