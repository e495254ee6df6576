"""The recipe of a search: one flat YAML, every key of which the command line may override.

An unknown key, a wrong type, a number out of its range or a search without an end fail within a second, with one
sentence, before anything is started.  The resolved recipe is saved beside the run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ideator_rl.config import RecipeError, check_keys, keys_of, read_recipe
from ideator_rl.environments.environment import Environment
from ideator_rl.reward_buffer import BufferConfig
from ideator_rl.storage.run_folder import MARK

EPOCHS, STEADY = "epochs", "steady"
COUNT, REJECT, PENALISE = "count", "reject", "penalise"
BUDGETS = ("max_experiments", "max_ideas", "max_epochs", "max_usd", "max_coder_tokens", "max_gpu_hours", "max_seconds")


@dataclass
class SearchConfig:
    """Every key of a search's recipe."""

    output_dir: str = ""
    """Folder of the run."""
    env: str = ""
    """Environment: a name, or the path of its folder."""
    preset: str = "cpu"
    seed: int = 0
    """Of the search's choices and of its experiments."""
    strategy: str = "evolution"
    """best_of_n, evolution, map_elites, puct, top_k, or a dotted path."""
    strategy_options: dict[str, Any] | None = None
    ideator: str = "catalogue"
    """catalogue, chat, local, or a dotted path."""
    ideator_options: dict[str, Any] | None = None
    flow: str = EPOCHS
    """epochs: the next begins when a quorum of results is in; steady: new ideas are asked for as results come."""
    epoch_size: int = 80
    """Ideas of an epoch; in a steady search, of a step in the records."""
    quorum: float = 0.3
    """Fraction of an epoch's results that starts the next."""
    batch: int = 10
    """The most ideas of one question to the ideator."""
    asks_at_once: int = 1
    """Questions that are posed together."""
    in_flight: int | None = None
    """Steady: ideas that are kept under way; null for twice as many as there are slots on this machine."""
    max_experiments: int | None = None
    """Distinct codebases to run; one that another run has paid for counts all the same."""
    max_ideas: int | None = None
    max_epochs: int | None = None
    max_usd: float | None = None
    """The most that ideator and coder may cost together."""
    max_coder_tokens: int | None = None
    max_gpu_hours: float | None = None
    max_seconds: float | None = None
    """Wall clock, over all sittings."""
    patience: int = 20
    """Questions in a row whose answers led to no new codebase, after which the search ends."""
    archive_from: list[str] = field(default_factory=list)
    """Runs' folders or buckets whose records are known from the start."""
    near_duplicates: str | None = COUNT
    """Ideas that say what another said: count, reject (not run), penalise (parents less often); null: nobody looks."""
    near_duplicate_similarity: float | None = None
    """Cosine of two descriptions from which on they say the same; null for what the embedder was calibrated at."""
    near_duplicate_penalty: float = 0.5
    """What a penalised idea's quality is lowered by for selection, in spans from worst to best."""
    embedder: str = "auto"
    """Of descriptions: auto, hashed, minilm, a hub name or folder, or a dotted path."""
    prompts: str = "short"
    """Which of the environment's prompts asks for an idea."""
    bucket: str = ""
    """URL of the bucket; empty for `<output_dir>/bucket`."""
    implementer: str = "rules"
    coder: dict[str, Any] | None = None
    """Settings of an implementer that asks an LLM; see docs/implementers.md."""
    reward_transform: str | None = None
    backend: str = "local"
    slots: int | None = None
    """CPU slots for experiments on this machine; null for the number of cores."""
    isolation: str = "auto"
    baseline_replicates: int = 1
    """Runs of the unchanged baseline, with seeds of their own."""

    @property
    def folder(self) -> Path:
        return Path(self.output_dir)

    def text(self) -> str:
        """The recipe as YAML: it can be run as it is."""
        given = {key: value for key, value in asdict(self).items() if value not in ("", []) or key == "env"}
        return yaml.safe_dump(given, sort_keys=False, allow_unicode=True)

    def buffer(self) -> BufferConfig:
        """Where and how the experiments are run."""
        return BufferConfig(
            environment=self.env,
            preset=self.preset,
            bucket=self.bucket or (self.folder.absolute() / "bucket").as_uri(),
            implementer=self.implementer,
            coder=json.dumps(self.coder, sort_keys=True) if self.coder else "",
            reward_transform=self.reward_transform,
            max_usd=self.max_usd,
            max_coder_tokens=self.max_coder_tokens,
            max_gpu_hours=self.max_gpu_hours,
            backend=self.backend,
            slots=self.slots,
            isolation=self.isolation,
            seed=self.seed,
            run_dir=self.output_dir,
        )


def load_search(path: str, overrides: list[str] | None = None) -> SearchConfig:
    """Read a search's recipe and apply `--key value` overrides.

    Options belong to the strategy or ideator that they stand beside: who names another on the command line, and no
    options, gets none.

    Raises:
        RecipeError: no such file, an unknown key, a wrong type, a number out of its range, or no end to the search.
    """
    raw, file = read_recipe(path, overrides), read_recipe(path)
    for name in ("strategy", "ideator"):
        options = f"{name}_options"
        if raw.get(name) != file.get(name) and raw.get(options) == file.get(options):
            raw.pop(options, None)
    whose = "docs/search.md lists the keys of a search; a recipe for training is for `ideator-rl train`."
    check_keys(raw, keys_of(SearchConfig), path, whose)
    config = SearchConfig(**raw)
    for problem in problems(config):
        raise RecipeError(f"The recipe {path} {problem}")
    return config


AT_LEAST: dict[str, float] = {
    "seed": 0, "epoch_size": 1, "batch": 1, "asks_at_once": 1, "in_flight": 1, "max_experiments": 1, "max_ideas": 1,
    "max_epochs": 1, "max_usd": 0, "max_coder_tokens": 0, "max_gpu_hours": 0, "max_seconds": 0, "patience": 1,
    "slots": 1, "baseline_replicates": 1, "quorum": 0, "near_duplicate_similarity": 0, "near_duplicate_penalty": 0,
}  # fmt: skip
AT_MOST: dict[str, float] = {"quorum": 1, "near_duplicate_similarity": 1}
ONE_OF = {"flow": (EPOCHS, STEADY), "near_duplicates": (COUNT, REJECT, PENALISE, None), "isolation": ("auto", "none")}


def problems(config: SearchConfig) -> Iterator[str]:
    """What is wrong, as the end of a sentence that begins with the recipe's name."""
    if not config.env:
        yield "has no 'env'. Add `env: NAME`; `ideator-rl env list` shows names."
    if not config.output_dir:
        yield "has no 'output_dir'. Add a folder for the run, for example `output_dir: runs/search`."
    for key, value in asdict(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"has {key}: {value}. Expected a finite number."
        if key in AT_LEAST and value is not None and value < AT_LEAST[key]:
            yield f"has {key}: {value}. Expected at least {AT_LEAST[key]:g}."
        if key in AT_MOST and value is not None and value > AT_MOST[key]:
            yield f"has {key}: {value}. Expected at most {AT_MOST[key]:g}."
        if key in ONE_OF and value not in ONE_OF[key]:
            yield f"has {key}: {value!r}. Expected {' or '.join(str(one or 'null') for one in ONE_OF[key])}."
    if all(getattr(config, name) is None for name in BUDGETS):
        yield f"has no end. Add one of {', '.join(BUDGETS)}, for example `max_experiments: 48`."
    if not all(isinstance(name, str) for name in config.archive_from):
        yield f"has archive_from: {config.archive_from!r}. Expected folders of runs or URLs of buckets."


FIXED = ("env", "preset", "seed", "reward_transform", "epoch_size", "archive_from")
"""What a search keeps for all its life: its records and epochs would not fit together otherwise."""


def refuse_other(config: SearchConfig) -> None:
    """
    Raises:
        RecipeError: the run in the recipe's folder is no search, or was begun with another value of a fixed key.
    """
    saved = config.folder / MARK
    if not saved.is_file():
        return
    before, now = yaml.safe_load(saved.read_text(encoding="utf-8")) or {}, yaml.safe_load(config.text())
    if "strategy" not in before:
        raise RecipeError(f"The run in {config.output_dir} is no search. Give another --output_dir.")
    for key in FIXED:
        if before.get(key) != now.get(key):
            raise RecipeError(
                f"The search in {config.output_dir} was begun with {key}: {before.get(key)!r}, and --resume asks for "
                f"{now.get(key)!r}. Leave it as it was, or begin a new run."
            )


COSTS_NOTHING = ({"catalogue", "local"}, {"rules", "direct"})
"""Ideators and implementers that ask nobody who is paid."""


def refuse_endless(config: SearchConfig, environment: Environment) -> None:
    """
    Raises:
        RecipeError: nothing that this search does counts towards any of its budgets.
    """
    ideators, implementers = COSTS_NOTHING
    never: dict[str, str] = {}
    if not environment.preset(config.preset).resources.gpus:
        never["max_gpu_hours"] = f"preset {config.preset} of {environment.name} uses no GPU"
    if config.ideator in ideators and config.implementer in implementers:
        why = f"ideator {config.ideator} and implementer {config.implementer} ask nobody who is paid"
        never |= {"max_usd": why, "max_coder_tokens": why}
    given = [name for name in BUDGETS if getattr(config, name) is not None]
    if all(name in never for name in given):
        why = "; ".join(dict.fromkeys(never[name] for name in given))
        raise RecipeError(
            f"The search would have no end: nothing counts towards {' or '.join(given)}, since {why}. Add one of "
            f"{', '.join(name for name in BUDGETS if name not in never)}."
        )
