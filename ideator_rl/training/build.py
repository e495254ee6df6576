"""A trainer for a recipe: TRL's configuration, this library's pipeline and learning rules, a card, and a voice."""

from __future__ import annotations

import shutil
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback, set_seed
from trl import GRPOConfig, ModelConfig, get_peft_config, get_quantization_config

from ideator_rl.files import atomic_folder
from ideator_rl.publishing.card import model_card
from ideator_rl.registry import resolve_reward
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.training.advantages import make_advantage
from ideator_rl.training.checkpoints import MODEL
from ideator_rl.training.collapse_action import Action
from ideator_rl.training.collapse_watch import CollapseWatch
from ideator_rl.training.fleet_figures import FleetFigures
from ideator_rl.training.imitation import Draw
from ideator_rl.training.models import save_whole
from ideator_rl.training.pipeline_config import PipelineConfig
from ideator_rl.training.progress import Progress
from ideator_rl.training.prompts import Prompts
from ideator_rl.training.recipe.recipe import Recipe, RecipeError
from ideator_rl.training.rollouts import Batch
from ideator_rl.training.tracking import labels, tracking
from ideator_rl.training.trainer import IdeatorGRPOTrainer, Learning


class IdeatorTrainer(IdeatorGRPOTrainer):
    """The trainer of a run: times its phases, winds down at a cap, and knows where its model came from."""

    def __init__(self, *args: Any, recipe: Recipe, progress: Progress, **kwargs: Any):
        self.recipe, self.progress = recipe, progress
        super().__init__(*args, **kwargs)
        self._fleet = FleetFigures(self.buffer) if self.buffer is not None else None

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with self.progress.phase("update"):
            return super().training_step(*args, **kwargs)

    def sample(self, index: int) -> Batch:
        with self.progress.phase("generation"):
            return super().sample(index)

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
        with self.progress.phase("experiments"):
            return super()._generate_and_score_completions(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self.model.training and self._fleet is not None:
            logs.update(self._fleet.read())
        super().log(logs, *args, **kwargs)

    def give_up(self) -> bool:
        return self.refusal is not None

    @property
    def refusal(self) -> str | None:
        """Why nothing more may be started, from the ledger; None in processes that run no experiments."""
        return self.buffer.executor.ledger.exhausted if self.buffer is not None else None

    def reattach(self, submitted: set[int]) -> None:
        assert self.rewarding is not None and self.buffer is not None
        self.rewarding.soon(self.buffer.reattach, submitted)

    def drain(self) -> None:
        """Wait for rewards that no batch waits for any more: they belong to buffer, archive and report."""
        if self.rewarding is not None and self.buffer is not None:
            self.rewarding.call(self.buffer.drain())

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The stock card calls a local base model "None"."""
        if self.is_world_process_zero():
            (self.recipe.output_dir / "README.md").write_text(model_card(self.recipe), encoding="utf-8")


class _Steps(TrainerCallback):
    """Keeps the progress line's step, and says what came of each one."""

    def __init__(self, trainer: IdeatorTrainer, progress: Progress):
        self._trainer, self._progress = trainer, progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._progress.begin(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress.stepped(state.global_step)
        refusal = self._trainer.refusal
        if _anywhere(refusal is not None):
            control.should_save = control.should_training_stop = True
            if state.is_world_process_zero:
                self._progress.say(f"winding down after step {state.global_step}: {refusal}")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "reward" in logs and state.is_world_process_zero:
            self._progress.say(f"step {state.global_step}/{state.max_steps} done · {_said(logs)}")


def build_trainer(
    recipe: Recipe,
    source: str,
    rows: list[dict[str, Any]],
    progress: Progress,
    buffer: RewardBuffer | None = None,
    prompts: Prompts | None = None,
    imitate: Draw | None = None,
    resume: bool = False,
) -> IdeatorTrainer:
    """A trainer for the model at `source` on `rows` of prompts.

    Args:
        buffer: runs the experiments; in the first process only.
        prompts: where each batch's prompts come from, in the place of the rows; asked in the first process only.
        imitate: the best ideas found, to imitate; asked in the first process only.

    Raises:
        RecipeError: TRL refuses a value.
        IdeatorError: there is no such reward function or advantage, or its options are unusable.
    """
    rewards = [resolve_reward(name) for name in recipe.ours.reward_funcs]
    model = ModelConfig(**recipe.model)
    set_seed(recipe.seed)  # new adapters are drawn before the Trainer sets its own
    try:
        trainer = IdeatorTrainer(
            recipe=recipe,
            progress=progress,
            buffer=buffer,
            reward_columns=None if buffer is None else buffer.config.columns() | (recipe.ours.reward_options or {}),
            model=source,
            reward_funcs=rewards,
            args=grpo_config(recipe, model, resume),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(source),
            quantization_config=get_quantization_config(model),
            peft_config=get_peft_config(model),
            pipeline=pipeline_config(recipe),
            learning=learning(recipe, imitate),
            prompts=prompts,
            resume=resume,
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(f"TRL refuses this recipe: {error}") from error
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Steps(trainer, progress))
    if recipe.ours.diversity:
        embedder, action = recipe.ours.diversity_embedder, collapse_action(recipe)
        trainer.add_callback(CollapseWatch(trainer, action, buffer=buffer, embedder=embedder, say=progress.say))
    return trainer


def collapse_action(recipe: Recipe) -> Action:
    """Raises: IdeatorError for an unknown one, or numbers that lead nowhere."""
    ours = recipe.ours
    return Action(
        ours.collapse_action,
        ours.collapse_factor,
        ours.collapse_ceiling,
        ours.collapse_advantage,
        ours.collapse_advantage_options,
    )


def pipeline_config(recipe: Recipe) -> PipelineConfig:
    """Raises: IdeatorError for a number out of its range."""
    ours = recipe.ours
    return PipelineConfig(ours.max_staleness, ours.quorum, ours.deadline, ours.max_age)


def learning(recipe: Recipe, imitate: Draw | None = None) -> Learning:
    """Raises: IdeatorError for an unknown advantage or unusable options."""
    ours = recipe.ours
    advantage = (
        make_advantage(ours.advantage, ours.advantage_options, recipe.num_generations) if ours.advantage else None
    )
    return Learning(advantage, ours.cluster_weight, imitate, ours.imitation_weight)


def grpo_config(recipe: Recipe, model: ModelConfig, resume: bool = False) -> GRPOConfig:
    """TRL's configuration; without a GPU, defaults that assume one are taken back unless the recipe gives them."""
    values = dict(recipe.grpo)
    if not torch.cuda.is_available():
        values.setdefault("use_cpu", True)
        values.setdefault("bf16", False)
    values |= {"report_to": tracking(recipe, resume), **labels(recipe)}
    values.setdefault("disable_tqdm", True)  # our own progress line tells more
    config = GRPOConfig(**values)
    given: dict[str, Any] = {"dtype": model.dtype or "float32", "attn_implementation": model.attn_implementation}
    if not recipe.ours.sft_steps:
        given["revision"] = model.model_revision  # names a hub model, not the folder of its warm-up
    config.model_init_kwargs = {**given, **recipe.grpo.get("model_init_kwargs", {})}
    return config


def save_model(trainer: IdeatorTrainer) -> None:
    """The trained model as a plain folder, adapters merged in; it appears whole or not at all.  Asked at every rank."""
    folder = trainer.recipe.output_dir / MODEL
    if trainer.is_fsdp_enabled or _zero3(trainer):
        # Gathers the shards; adapters stay adapters, `ideator-rl export` merges them.
        part = folder.with_name(f".{folder.name}.part")
        trainer.save_model(str(part))
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
        return
    if not trainer.is_world_process_zero():
        return
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with atomic_folder(folder) as scratch:
        save_whole(model, trainer.processing_class, scratch)
        (scratch / "README.md").write_text(model_card(trainer.recipe), encoding="utf-8")


def _zero3(trainer: IdeatorTrainer) -> bool:
    plugin = trainer.accelerator.state.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    return plugin is not None and plugin.zero_stage == 3


def _anywhere(here: bool) -> bool:
    """Whether it is so in any process: all of them must stop at the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return here
    found: list[bool] = [False] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, here)
    return any(found)


def _said(logs: dict[str, Any]) -> str:
    words = [f"mean reward {logs['reward']:.4f}" if logs["reward"] is not None else "no reward"]
    if (success := logs.get("execution/success")) is not None:
        words.append(f"success {success:.0%}")
    if (best := logs.get("reward_best")) is not None:
        words.append(f"best reward {best:.4f}")
    if (length := logs.get("completions/mean_length")) is not None:
        words.append(f"{length:.0f} tokens")
    return " · ".join(words)
