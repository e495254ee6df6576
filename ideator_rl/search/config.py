"""The recipe of a search: one flat YAML, every key of which the command line may override.

An unknown key, a wrong type, a number out of its range or a search without an end fail within a second, with one
sentence, before anything is started.  The run folder stores the resolved recipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ideator_rl.archive.bases import Inherit
from ideator_rl.config.backend_config import read_backend_config
from ideator_rl.config.base import Amount, Count, CountOrZero, Fraction, Names, read_config
from ideator_rl.config.fleet import read_fleet
from ideator_rl.config.recipe_file import RecipeError, read_recipe, read_saved
from ideator_rl.config.shared import RunSettings
from ideator_rl.config.yaml_reader import dump_yaml, parse_yaml
from ideator_rl.environments.environment import Environment
from ideator_rl.llm.settings import absolute_recordings
from ideator_rl.reward_buffer import BufferConfig
from ideator_rl.screen.config import ScreenConfig
from ideator_rl.storage.bucket import absolute_url, check_url
from ideator_rl.storage.run_folder import MARK

EPOCHS, STEADY = "epochs", "steady"
PAPER = "paper"
COUNT, REJECT, PENALISE = "count", "reject", "penalise"
BUDGETS = ("max_experiments", "max_ideas", "max_epochs", "max_usd", "max_coder_tokens", "max_gpu_hours", "max_seconds")


@dataclass(frozen=True)
class SearchConfig(RunSettings):
    """Every key of a search's recipe."""

    output_dir: str = ""
    """Folder of the run."""
    env: str = ""
    """Environment: a name, or the path of its folder."""
    preset: str = "cpu"
    """The environment's preset: one scale of it, with its own budget and resources."""
    prompts: str = "short"
    """Kind of the environment's prompt that asks for an idea."""
    bucket: str = ""
    """URL of the bucket, a folder or an object store: docs/how-to/buckets.md; empty for `<output_dir>/bucket`."""
    coder: dict[str, Any] | None = None
    """Settings of an implementer that asks an LLM; see docs/how-to/implementers.md."""
    baseline_replicates: Count = 1
    """Runs of the unchanged baseline, with different seeds."""
    seed: CountOrZero = 0
    """Seed of the search's choices and of its experiments."""
    strategy: str = "evolution"
    """best_of_n, evolution, map_elites, puct, top_k, random, or a dotted path."""
    strategy_options: dict[str, Any] | None = None
    """Options of the strategy by name; see docs/reference/search.md."""
    ideator: str = "catalogue"
    """catalogue, chat, local, or a dotted path."""
    ideator_options: dict[str, Any] | None = None
    """Settings of the ideator; see docs/how-to/ideators.md."""
    inherit: Inherit = "none"
    """Whose code an idea changes. none: the baseline's; best_parent: that of the best idea in its prompt; chosen: that
    which the idea names."""
    flow: Literal["epochs", "steady"] = "epochs"
    """epochs: the next epoch begins when a quorum of results is in; steady: each result leads to new ideas."""
    schedule: Literal["scaled", "paper"] = "scaled"
    """Of the strategy evolution. scaled: its numbers follow from the ideas that the budget allows; paper: those for 800
    ideas. A number that the recipe sets wins; a resumed search keeps its own."""
    epoch_size: Count | None = None
    """Ideas of an epoch; in a steady search, of a step in the records. null: by the schedule; 80 for other
    strategies."""
    quorum: Fraction | None = None
    """Fraction of an epoch's results that starts the next. null: by the schedule; 0.3 for other strategies."""
    batch: Count = 10
    """Ideas per question to the ideator, at most."""
    asks_at_once: Count = 1
    """Questions that are asked at the same time; with a screen that chooses, `over` times as many."""
    in_flight: Count | None = None
    """Steady: ideas that run or wait at the same time; null for twice the number of slots on this machine."""
    max_experiments: Count | None = None
    """Distinct codebases to run; one whose result another run has paid for counts too."""
    max_ideas: Count | None = None
    """Ideas to ask for."""
    max_epochs: Count | None = None
    """Epochs to run."""
    max_seconds: Amount | None = None
    """Wall-clock seconds, over all sessions."""
    patience: Count = 20
    """Questions in a row that lead to no new codebase, after which the search ends."""
    archive_from: Names = Field(default_factory=list)
    """Folders of runs, or URLs of buckets, whose records the archive starts with."""
    near_duplicates: Literal["count", "reject", "penalise", None] = "count"
    """What happens to ideas that mean the same as an earlier one: count, reject (not run), penalise (parents less
    often); null: not measured."""
    near_duplicate_similarity: Fraction | None = None
    """Cosine similarity from which two descriptions mean the same; null for the embedder's calibrated value."""
    near_duplicate_penalty: Amount = 0.5
    """How far a penalised idea's quality is lowered for selection, in spans from worst to best."""
    screen: ScreenConfig | None = None
    """Samples several ideas for each that is run, and runs those with the best forecasts; null: off."""
    embedder: str = "auto"
    """Embeds descriptions: auto, hashed, minilm, a hub name or folder, or a dotted path."""

    @property
    def folder(self) -> Path:
        return Path(self.output_dir)

    def text(self) -> str:
        """The recipe as YAML: it can be run as it is."""
        values = {key: value for key, value in self.as_mapping().items() if value not in ("", []) or key == "env"}
        return dump_yaml(values)

    def buffer(self) -> BufferConfig:
        """Where and how the experiments are run."""
        return BufferConfig(
            environment=self.env,
            preset=self.preset,
            bucket=self.bucket or (self.folder.absolute() / "bucket").as_uri(),
            coder=json.dumps(self.coder, sort_keys=True) if self.coder else "",
            seed=self.seed,
            run_dir=self.output_dir,
            **self.experiment_settings() | {"max_losses_in_a_row": self.loss_limit},
        )

    @property
    def loss_limit(self) -> int:
        """Losses in a row that end the search: by default one batch, or all ideas of a smaller search."""
        limits = (self.batch, self.max_ideas, self.max_experiments, self.epoch_size)
        return self.max_losses_in_a_row or min(limit for limit in limits if limit is not None)


def load_search(path: str, overrides: list[str] | None = None) -> SearchConfig:
    """Read a search's recipe and apply `--key value` overrides.

    Options belong to one strategy or ideator: an override that names another, and no options, drops them.

    Raises:
        RecipeError: no such file, an unknown key, a wrong type, a number out of its range, or no end to the search.
    """
    raw, file = read_recipe(path, SearchConfig, overrides), read_recipe(path, SearchConfig)
    for name in ("strategy", "ideator"):
        options = f"{name}_options"
        if raw.get(name) != file.get(name) and raw.get(options) == file.get(options):
            raw.pop(options, None)
    hint = "docs/reference/recipe_search.md lists the keys of a search; training recipes are for `ideator-rl train`."
    config = read_config(SearchConfig, raw, f"The recipe {path} has", RecipeError, hint)
    if config.bucket:
        check_url(config.bucket)
    # The run's folder stores these paths, and a later command may be called from another folder.
    config = replace(config, bucket=absolute_url(config.bucket))
    # Another implementer or ideator may mean something else by these keys.
    if config.implementer == "llm":
        config = replace(config, coder=absolute_recordings(config.coder))
    if config.ideator == "chat":
        config = replace(config, ideator_options=absolute_recordings(config.ideator_options))
    read_backend_config(config.backend_config)  # for its error
    read_fleet(config.fleet)
    for problem in problems(config):
        raise RecipeError(f"The recipe {path} has {problem}")
    return config


def problems(config: SearchConfig) -> Iterator[str]:
    """What is missing, as the end of a sentence that begins with `The recipe has`."""
    if not config.env:
        yield "no 'env'. Add `env: NAME`; `ideator-rl env list` shows names."
    if not config.output_dir:
        yield "no 'output_dir'. Add a folder for the run, for example `output_dir: runs/search`."
    if all(getattr(config, name) is None for name in BUDGETS):
        yield f"no end. Add one of {', '.join(BUDGETS)}, for example `max_experiments: 48`."


FIXED = ("env", "preset", "hardware", "seed", "reward_transform", "schedule", "epoch_size", "archive_from", "cascade")
"""Keys that a resumed search cannot change: its records and epochs would not fit together."""


def saved_recipe(folder: Path) -> dict[str, Any] | None:
    """The recipe that a run's folder holds; None for a new folder."""
    saved = folder / MARK
    return read_saved(saved) if saved.is_file() else None


def refuse_other(config: SearchConfig) -> None:
    """
    Raises:
        RecipeError: the run in the recipe's folder is not a search, or was begun with another value of a fixed key.
    """
    before, now = saved_recipe(config.folder), parse_yaml(config.text(), "The recipe", RecipeError)
    if before is None:
        return
    if "strategy" not in before:
        raise RecipeError(f"The run in {config.output_dir} is not a search. Give another --output_dir.")
    # Recipes of version 0.1.0 have no such key: its schedule was the paper's.
    before = {"schedule": PAPER, **before}
    for key in FIXED:
        if before.get(key) != now.get(key):
            raise RecipeError(
                f"The search in {config.output_dir} was begun with {key}: {before.get(key)!r}, and --resume asks for "
                f"{now.get(key)!r}. Leave it as it was, or begin a new run."
            )


FREE = ({"catalogue", "local"}, {"rules", "direct"})
"""Ideators and implementers that call no paid service."""


def refuse_endless(config: SearchConfig, environment: Environment) -> None:
    """
    Raises:
        RecipeError: nothing that this search does counts towards any of its budgets.
    """
    ideators, implementers = FREE
    unused: dict[str, str] = {}
    """Budgets that this search never uses up, with the reason."""
    if not environment.preset(config.preset).resources.gpus:
        unused["max_gpu_hours"] = f"preset {config.preset} of {environment.name} uses no GPU"
    if config.ideator in ideators and config.implementer in implementers:
        reason = f"ideator {config.ideator} and implementer {config.implementer} call no paid service"
        unused |= {"max_usd": reason, "max_coder_tokens": reason}
    budgets = [name for name in BUDGETS if getattr(config, name) is not None]
    if all(name in unused for name in budgets):
        reasons = "; ".join(dict.fromkeys(unused[name] for name in budgets))
        raise RecipeError(
            f"The search would have no end: nothing counts towards {' or '.join(budgets)}, since {reasons}. Add one of "
            f"{', '.join(name for name in BUDGETS if name not in unused)}."
        )
