"""Predictors: what a screen asks for the outcome of ideas that were not run.

    predictor = load_predictor("tokens", PredictorContext(environment, "cpu"))
    predictor.fit(seen)                         # outcomes of this run
    forecast = predictor.predict(candidates)    # forecast.success, .mean, .sd: arrays [N]

Contract of `fit`: a pure function of `seen` and the context's seed.  A resumed run fits the same predictor.  A
predictor sees texts, patches and outcomes; it never reads the environment's internals.

A predictor of your own is a class with `fit` and `predict`, created with a `PredictorContext`, and named by its dotted
path or an entry point of the group `ideator_rl.predictors`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from ideator_rl.environments.environment import Environment
from ideator_rl.experiment import LOST, NEAR_DUPLICATE, SUCCEEDED, Experiment
from ideator_rl.registry import PluginError, plugin_code, require_members, resolve

BUILT_IN = {
    "tokens": "ideator_rl.screen.predictors.TokensPredictor",
    "embedding": "ideator_rl.screen.predictors.EmbeddingPredictor",
    "hidden": "ideator_rl.screen.hidden.HiddenPredictor",
}


@dataclass(frozen=True)
class Candidate:
    """An idea that may be run."""

    idea: str
    """In the form that `parse_idea` reads."""
    patch: str = ""
    """Unified diff; empty where it costs money to have it written before the choice."""
    parents: tuple[str, ...] = ()
    """Experiment ids of the ideas that it was made from."""


@dataclass(frozen=True)
class Seen(Candidate):
    """An idea with its outcome."""

    id: str = ""
    """Of its experiment."""
    status: str = SUCCEEDED
    reward: float | None = None
    """On the reward scale; of a failure, the environment's failure reward."""
    replicate: int = 0

    @property
    def succeeded(self) -> bool:
        return self.status == SUCCEEDED and self.reward is not None

    @classmethod
    def of(cls, record: Experiment, parents: Sequence[str] = (), with_patch: bool = True) -> Seen:
        """A record as a predictor sees it.

        Args:
            parents: experiment ids.
            with_patch: false where candidates have no patch: their features must be those of the outcomes.
        """
        patch = record.patch if with_patch else ""
        return cls(record.idea, patch, tuple(parents), record.id, record.status, record.reward, record.replicate)


def usable(records: Iterable[Experiment]) -> list[Experiment]:
    """The records whose outcome is the idea's own: no baselines, and none that are lost, near-duplicate or mended."""
    # The idea of a crash that was mended has the outcome of its next run.
    searched = (record for record in records if record.idea and not record.is_baseline and not record.debugged)
    return [record for record in searched if record.status != LOST and record.error_kind != NEAR_DUPLICATE]


@dataclass(frozen=True)
class Forecast:
    """Forecast outcomes of N candidates."""

    success: np.ndarray
    """[N] chance that the experiment succeeds."""
    mean: np.ndarray
    """[N] expected reward of a success."""
    sd: np.ndarray
    """[N] standard deviation of the measured reward of a success around `mean`."""
    noise: float = 0.0
    """The part of `sd` that all ideas share: noise, and what the features do not explain.  Expected improvement leaves
    it out, since with it an idea of low mean is worth almost as much as a good one."""

    @property
    def doubt(self) -> np.ndarray:
        """[N] standard deviation of the expected reward itself: `sd` without the noise."""
        return np.sqrt(np.maximum(self.sd**2 - self.noise**2, 0.0))

    def __len__(self) -> int:
        return len(self.success)


@dataclass(frozen=True)
class IdeatorModel:
    """A causal language model that this process can load: the ideator as the run started with it."""

    source: str
    """Folder or hub name that transformers loads."""
    revision: str | None = None
    dtype: str = "auto"
    """Data type of the weights; `auto` for the saved one."""
    device: str | None = None
    """Torch device; None for a GPU if there is one."""


@dataclass(frozen=True)
class PredictorContext:
    """What a predictor is created with."""

    environment: Environment | None = None
    """None where only texts and patches are known: catalogue edits are then no features."""
    preset: str = ""
    seed: int = 0
    embedder: str = "auto"
    """Name for `diversity.embedding.get_embedder`."""
    ideator: str = ""
    """Name of the run's ideator, for messages."""
    model: IdeatorModel | None = None
    """Of the ideator; None where it has none here, as the catalogue and chat endpoints."""


@runtime_checkable
class Predictor(Protocol):
    """Forecasts outcomes of ideas from outcomes of other ideas."""

    def fit(self, seen: Sequence[Seen]) -> None:
        """Learn from these outcomes alone; what an earlier call learnt is forgotten."""
        ...

    def predict(self, candidates: Sequence[Candidate]) -> Forecast:
        """Forecasts in the order of the candidates; called after `fit`."""
        ...


def load_predictor(name: str, context: PredictorContext | None = None) -> Predictor:
    """A predictor by name, entry point of the group `ideator_rl.predictors`, or dotted path of a class.

    Raises:
        UnknownName: no predictor has this name.
        PluginError: the class lacks `fit` or `predict`, or cannot be created with a context.
    """
    kind = resolve("predictors", name, BUILT_IN)
    require_members("predictors", name, kind, "fit", "predict")
    # A module has attributes too: only a class can be created with a context.
    if not isinstance(kind, type):
        raise PluginError(
            f"The predictor {name!r} is {type(kind).__name__}. Expected a class with `fit` and `predict`."
        )
    with plugin_code(f"The predictor {name!r}, created with its context,"):
        predictor: Predictor = kind(context or PredictorContext())
    return predictor
