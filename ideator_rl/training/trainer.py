"""The trainer: stock `GRPOTrainer`, timed.  Passes functions in, wraps with `super()`, copies nothing.

Private names of TRL that are touched stand in `tests/test_trl_contract.py`, each with what breaks without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer, ModelConfig, get_peft_config, get_quantization_config

from ideator_rl.registry import resolve_reward
from ideator_rl.reward_buffer import live_buffers
from ideator_rl.training.card import model_card
from ideator_rl.training.models import made_whole, save_whole
from ideator_rl.training.progress import Progress
from ideator_rl.training.recipe import Recipe, RecipeError


class IdeatorTrainer(GRPOTrainer):
    """GRPOTrainer that tells a stop-watch where its wall clock went, and a model card where its model came from."""

    def __init__(self, *args: Any, recipe: Recipe, progress: Progress, **kwargs: Any):
        self.recipe, self.progress = recipe, progress
        super().__init__(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with self.progress.phase("update"):
            return super().training_step(*args, **kwargs)

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
        with self.progress.phase("generation"):
            return super()._generate_and_score_completions(*args, **kwargs)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self.progress.phase("experiments"):
            return super()._calculate_rewards(*args, **kwargs)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The stock card calls a local base model "None"."""
        if self.is_world_process_zero():
            (self.recipe.output_dir / "README.md").write_text(model_card(self.recipe), encoding="utf-8")


class _Steps(TrainerCallback):
    """Keeps the progress line's step, and says what came of each one."""

    def __init__(self, progress: Progress):
        self._progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._progress.begin(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress.stepped(state.global_step)
        refusals = [words for buffer in live_buffers() if (words := buffer.executor.ledger.exhausted)]
        if _anywhere(bool(refusals)):
            control.should_save = control.should_training_stop = True
            if state.is_world_process_zero:
                why = refusals[0] if refusals else "Another process of this run has used up the budget."
                self._progress.say(f"winding down after step {state.global_step}: {why}")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "reward" in logs and state.is_world_process_zero:
            self._progress.say(f"step {state.global_step}/{state.max_steps} done · {_said(logs)}")


def build_trainer(recipe: Recipe, source: str, rows: list[dict[str, Any]], progress: Progress) -> IdeatorTrainer:
    """A trainer for the model at `source` on `rows` (prompt and the reward functions' columns).

    Raises:
        RecipeError: TRL refuses a value.
        UnknownName: there is no such reward function.
    """
    rewards = [resolve_reward(name) for name in recipe.ours.reward_funcs]
    model = ModelConfig(**recipe.model)
    set_seed(recipe.seed)  # new adapters are drawn before the Trainer sets its own
    try:
        config = grpo_config(recipe, model)
        trainer = IdeatorTrainer(
            recipe=recipe,
            progress=progress,
            model=source,
            reward_funcs=rewards,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(source),
            quantization_config=get_quantization_config(model),
            peft_config=get_peft_config(model),
            callbacks=[_Steps(progress)],
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(f"TRL refuses this recipe: {error}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def grpo_config(recipe: Recipe, model: ModelConfig) -> GRPOConfig:
    """TRL's configuration; without a GPU, defaults that assume one are taken back unless the recipe gives them."""
    values = dict(recipe.grpo)
    if not torch.cuda.is_available():
        values.setdefault("use_cpu", True)
        values.setdefault("bf16", False)
    values.setdefault("report_to", "none")
    values.setdefault("disable_tqdm", True)  # our own progress line tells more
    config = GRPOConfig(**values)
    given: dict[str, Any] = {"dtype": model.dtype or "float32", "attn_implementation": model.attn_implementation}
    if not recipe.ours.sft_steps:
        given["revision"] = model.model_revision  # names a hub model, not the folder of its warm-up
    config.model_init_kwargs = {**given, **recipe.grpo.get("model_init_kwargs", {})}
    return config


def save_model(trainer: IdeatorTrainer, folder: Path) -> None:
    """The trained model as a plain folder, adapters merged in; it appears whole or not at all."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with made_whole(folder) as scratch:
        save_whole(model, trainer.processing_class, scratch)
        (scratch / "README.md").write_text(model_card(trainer.recipe), encoding="utf-8")


def _anywhere(here: bool) -> bool:
    """Whether it is so in any process: all of them must stop at the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return here
    found: list[bool] = [False] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, here)
    return any(found)


def _said(logs: dict[str, Any]) -> str:
    words = [f"mean reward {logs['reward']:.4f}"]
    if (success := logs.get("execution/success")) is not None:
        words.append(f"success {success:.0%}")
    if (best := logs.get("execution/success_reward_best")) is not None:
        words.append(f"best reward {best:.4f}")
    if (length := logs.get("completions/mean_length")) is not None:
        words.append(f"{length:.0f} tokens")
    return " · ".join(words)
