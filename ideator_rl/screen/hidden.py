"""The predictor `hidden`: ridge regressions on the hidden states of the run's own ideator.

    idea → frozen model → a layer at three quarters of the depth → mean over the idea's tokens → standardised directions

The model is the ideator as the run started with it: the weights that training begins with, or those of the ideator
`local`.  It is a second copy in memory, and is never trained: states of changing weights could not be compared with
each other, and would be lost with a kill.

Guarantees: features are a function of the idea's text and the files of the model.  Texts are read one at a time,
without a prompt, so that neither the batch nor the order changes a rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ideator_rl.errors import IdeatorError
from ideator_rl.llm.model_files import load_tokenizer, quiet_transformers
from ideator_rl.llm.model_lookup import ModelError, first_line
from ideator_rl.screen.predictor import Candidate, IdeatorModel, PredictorContext
from ideator_rl.screen.predictors import VectorPredictor

DEPTH = 0.75
"""Share of the layers below the one that is read: the last ones turn to the next token."""


class HiddenPredictor(VectorPredictor):
    """Features are the main directions of the ideas' hidden states, each number in units of its spread.

    Raises:
        IdeatorError: the ideator has no model in this process.
    """

    is_standardised = True

    def __init__(self, context: PredictorContext):
        super().__init__(context)
        if context.model is None:
            ideator = f"the ideator here is {context.ideator!r}" if context.ideator else "no model was given"
            raise IdeatorError(
                f"The predictor hidden reads the hidden states of the ideator's own model, and {ideator}. Use "
                "ideator: local, or screen: {predictor: tokens} or {predictor: embedding}."
            )
        self._states = HiddenStates(context.model)

    def text_of(self, candidate: Candidate) -> str:
        return candidate.idea

    def vectors_of(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._states.mean_state(text) for text in texts])


class HiddenStates:
    """Reads a model's hidden states; it is loaded at the first text."""

    def __init__(self, source: IdeatorModel):
        self._source = source
        self._model: Any = None
        self._tokenizer: Any = None
        self._room: int | None = None
        """Tokens that the model can read at once; what is beyond is left out."""

    def mean_state(self, text: str) -> np.ndarray:
        """[D] mean hidden state of a text's tokens.

        Raises:
            ModelError: the model cannot be loaded.
        """
        import torch

        if self._model is None:
            self._load()
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"][: self._room] or [
            self._tokenizer.eos_token_id
        ]
        with torch.no_grad():
            tokens = torch.tensor([ids], device=self._model.device)
            states = self._model(input_ids=tokens, output_hidden_states=True, use_cache=False).hidden_states
        # The first is the embedding; the others are those of the layers.
        state_TD = states[math.ceil(DEPTH * (len(states) - 1))][0].float()
        # Models park attention at the first token, whose state is large and the same for every text.
        mean_D = state_TD[min(1, len(ids) - 1) :].mean(dim=0)
        return np.nan_to_num(mean_D.cpu().numpy())

    def _load(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        source = self._source
        quiet_transformers()
        self._tokenizer = load_tokenizer(source.source, source.revision)[0]
        device = source.device or ("cuda" if torch.cuda.is_available() else "cpu")
        # The run's random numbers must be the same whether or not a process had to load a model.
        with torch.random.fork_rng():
            try:
                model: Any = AutoModelForCausalLM.from_pretrained(
                    source.source, revision=source.revision, dtype=source.dtype, trust_remote_code=False
                )
            except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
                raise ModelError(
                    f"The predictor hidden cannot load {source.source}: {first_line(error)} Expected the folder or hub "
                    "name of a causal language model."
                ) from error
        self._room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        # Without its head: logits of a large vocabulary cost more than the layers.
        self._model = model.base_model.to(device).eval()
