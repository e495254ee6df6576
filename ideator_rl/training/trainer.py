"""The trainer: stock `GRPOTrainer`, timed.  Passes functions in, wraps with `super()`, copies nothing.

Private names of TRL that are touched stand in `tests/test_trl_contract.py`, each with what breaks without it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from ideator_rl.registry import resolve_reward
from ideator_rl.training.progress import Progress
from ideator_rl.training.recipe import Recipe, grpo_config

LORA_KEYS = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "lora_target_modules": "all-linear"}


class TimedGRPOTrainer(GRPOTrainer):
    """GRPOTrainer that tells a stop-watch where its wall clock went."""

    progress: Progress

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        before = self.progress.seconds["generation"] + self.progress.seconds["experiments"]
        with self.progress.phase("step"):
            loss = super().training_step(*args, **kwargs)
        inside = self.progress.seconds["generation"] + self.progress.seconds["experiments"] - before
        self.progress.seconds["step"] -= inside
        return loss

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
        before = self.progress.seconds["experiments"]
        with self.progress.phase("generation"):
            out = super()._generate_and_score_completions(*args, **kwargs)
        self.progress.seconds["generation"] -= self.progress.seconds["experiments"] - before
        return out

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self.progress.phase("experiments"):
            return super()._calculate_rewards(*args, **kwargs)


class _Steps(TrainerCallback):
    """Keeps the progress line's step, and says what came of each one."""

    def __init__(self, progress: Progress, said: Callable[[dict[str, Any]], str]):
        self._progress, self._said = progress, said

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._progress.begin(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress.step = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "reward" in logs and state.is_world_process_zero:
            self._progress.say(f"step {state.global_step}/{state.max_steps} done · {self._said(logs)}")


def build_trainer(recipe: Recipe, source: str, rows: list[dict[str, Any]], progress: Progress) -> TimedGRPOTrainer:
    """A trainer for the model at `source` on `rows` (prompt and the reward functions' columns)."""
    config = grpo_config(recipe)
    config.disable_tqdm = True  # our own progress line tells more
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = {"dtype": "dtype", "attn_implementation": "attn_implementation", "model_revision": "revision"}
    given = {theirs: recipe.model[ours] for ours, theirs in names.items() if ours in recipe.model}
    given.setdefault("dtype", "bfloat16" if config.bf16 else "float32")
    config.model_init_kwargs = {**given, **(config.model_init_kwargs or {})}
    TimedGRPOTrainer.progress = progress
    trainer = TimedGRPOTrainer(
        model=source,
        reward_funcs=[resolve_reward(name) for name in recipe.ours.reward_funcs],
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_peft(recipe),
        callbacks=[_Steps(progress, _said)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def save_model(trainer: TimedGRPOTrainer, folder: Path) -> None:
    """The trained model as a plain folder, adapters merged in."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    tokenizer: Any = trainer.processing_class
    tokenizer.save_pretrained(folder)


def _peft(recipe: Recipe) -> Any:
    if not recipe.model.get("use_peft"):
        return None
    from peft import LoraConfig

    given = {key: recipe.model.get(key, default) for key, default in LORA_KEYS.items()}
    names = {"lora_r": "r", "lora_target_modules": "target_modules"}
    return LoraConfig(task_type="CAUSAL_LM", **{names.get(key, key): value for key, value in given.items()})


def _said(logs: dict[str, Any]) -> str:
    words = [f"mean reward {logs['reward']:.4f}"]
    if (success := logs.get("execution/success")) is not None:
        words.append(f"success {success:.0%}")
    if (best := logs.get("execution/success_reward_best")) is not None:
        words.append(f"best reward {best:.4f}")
    if (length := logs.get("completions/mean_length")) is not None:
        words.append(f"{length:.0f} tokens")
    return " · ".join(words)
