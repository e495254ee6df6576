"""From a recipe to its trainer: TRL's configuration, the pipeline, learning rules, callbacks and progress lines."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import GRPOConfig, ModelConfig, get_peft_config, get_quantization_config

from ideator_rl.diversity.alarms import Alarm
from ideator_rl.files import atomic_folder
from ideator_rl.llm.model_files import load_tokenizer, repair_generation_config, save_weights
from ideator_rl.registry import resolve_reward
from ideator_rl.screen.predictor import IdeatorModel
from ideator_rl.text.display import number
from ideator_rl.text.redaction import Redactor
from ideator_rl.training.advantages import make_advantage
from ideator_rl.training.checkpoints import MODEL
from ideator_rl.training.collapse_watch import CollapseWatch
from ideator_rl.training.imitation import Draw
from ideator_rl.training.learning import Learning
from ideator_rl.training.metrics import FleetMetrics
from ideator_rl.training.prompts import Prompts
from ideator_rl.training.recipe.recipe import Recipe, RecipeError
from ideator_rl.training.rollouts import Batch
from ideator_rl.training.screening import BatchScreen
from ideator_rl.training.session import Session
from ideator_rl.training.tracking import PROJECT, run_name, send_alarm, send_traces, trackers
from ideator_rl.training.trainer import IdeatorGRPOTrainer


class RecipeTrainer(IdeatorGRPOTrainer):
    """The trainer of a recipe's run: times phases, logs fleet and cost, ends at a cap, and writes our model card."""

    def __init__(self, *args: Any, session: Session, **kwargs: Any):
        self.session = session
        super().__init__(*args, buffer=session.buffer, resume=session.resume, **kwargs)
        self._fleet = FleetMetrics(session.buffer) if session.buffer is not None else None
        self._traced = 0
        """The last step whose completions a tracker has; 0 at the start of a session, which logs nothing there."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with self.session.progress.phase("update"):
            return super().training_step(*args, **kwargs)

    def sample(self, index: int) -> Batch:
        with self.session.progress.phase("generation"):
            return super().sample(index)

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
        with self.session.progress.phase("experiments"):
            return super()._generate_and_score_completions(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self.model.training and self._fleet is not None:
            logs.update(self._fleet.read())
        super().log(logs, *args, **kwargs)
        if self._traced != self.state.global_step and self.is_world_process_zero():
            self._traced = self.state.global_step
            redactor = Redactor(self.session.recipe.ours.as_mapping())
            send_traces(self.args.report_to, self._trained_rows(), self.state.global_step, redactor)

    def _trained_rows(self) -> Iterator[tuple[Any, Any, dict[str, float]]]:
        """Prompt, completion and rewards of the rows of the last batch; a reward that a row lacks is left out."""
        logs = cast(Any, self._logs)
        for row, (prompt, completion) in enumerate(zip(logs["prompt"], logs["completion"], strict=True)):
            rewards = {name: values[row] for name, values in logs["rewards"].items() if not math.isnan(values[row])}
            yield prompt, completion, rewards

    def give_up(self) -> bool:
        if self.buffer is not None:
            # Of reward functions that run experiments without `rewards.support`, which raises by itself.
            self.buffer.executor.losses.refuse()
        return self.session.spent_cap() is not None or self.session.recipe.ours.max_losses_in_a_row is not None

    def step_back(self, index: int) -> bool:
        has_stepped = super().step_back(index)
        if self.is_world_process_zero():
            effect = "a fifth of the way back to the start" if has_stepped else "not moved, since they are in parts"
            self.session.progress.say(
                f"batch {index + 1}, warn: too few of its ideas are new to learn from their forecasts (screen.fresh); "
                f"it trains nothing, and the weights are {effect}. If it began like this, lower screen.fresh."
            )
        return has_stepped

    def reattach(self, submitted: set[int]) -> None:
        assert self.reward_runner is not None and self.session.buffer is not None
        self.reward_runner.call_soon(self.session.buffer.reattach, submitted)

    def drain(self) -> None:
        """Wait for rewards that no batch waits for any more: buffer, archive and report still store them."""
        if self.reward_runner is not None and self.session.buffer is not None:
            self.reward_runner.run(self.session.buffer.drain())

    def end_together(self) -> None:
        """Wait until every rank has called this: a launcher kills the others once one has exited with an error."""
        if self.pipeline is not None:
            # The store is gone when rank 0 has ended for another reason than a stop, and does not come here.
            with suppress(RuntimeError):
                self.pipeline.ranks.barrier("end")

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write our card: TRL's names a local base model "None"."""
        if self.is_world_process_zero():
            recipe = self.session.recipe
            (recipe.output_dir / "README.md").write_text(self.session.model_card(recipe), encoding="utf-8")


class _StepReporter(TrainerCallback):
    """Moves the progress line on, prints a line for each step, and ends the run when a cap is spent."""

    def __init__(self, session: Session):
        self._session, self._progress = session, session.progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._progress.begin(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress.stepped(state.global_step)
        reason = self._session.spent_cap()
        # Only rank 0 has the ledger, and all ranks must stop at the same step.
        if _any_rank(reason is not None):
            control.should_save = control.should_training_stop = True
            if state.is_world_process_zero:
                self._progress.say(f"winding down after step {state.global_step}: {reason}")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "reward" in logs and state.is_world_process_zero:
            self._progress.say(f"step {state.global_step}/{state.max_steps}: {step_text(logs)}")


def build_trainer(
    session: Session,
    source: str,
    rows: list[dict[str, Any]],
    prompts: Prompts | None = None,
    imitate: Draw | None = None,
) -> RecipeTrainer:
    """The trainer of a session.

    Args:
        source: folder or hub name of the model to train.
        rows: the training dataset: a prompt each.
        prompts: returns each batch's prompts instead of the rows; called at rank 0 only.
        imitate: returns the best ideas so far, to imitate; called at rank 0 only.

    Raises:
        RecipeError: TRL refuses a value.
        IdeatorError: there is no such reward function or advantage, or its options are unusable.
    """
    recipe, progress = session.recipe, session.progress
    rewards = [resolve_reward(name) for name in recipe.ours.reward_funcs]
    model = ModelConfig(**recipe.model)
    # Other ranks call no reward functions, and need no columns for them.
    columns = session.buffer.config.columns() | (recipe.ours.reward_options or {}) if session.buffer else None
    set_seed(recipe.seed)  # new adapters get random weights before the Trainer sets its own seed
    try:
        trainer = RecipeTrainer(
            session=session,
            reward_columns=columns,
            chooser=batch_screen(session, source, lambda alarm: send_alarm(trainer.args.report_to, alarm)),
            model=source,
            reward_funcs=rewards,
            args=grpo_config(recipe, model),
            train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(source, _revision(recipe))[0],
            quantization_config=get_quantization_config(model),
            peft_config=get_peft_config(model),
            callbacks=[_StepReporter(session)],
            pipeline=recipe.ours,
            learning=learning(recipe, imitate),
            prompts=prompts,
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(f"TRL refuses this recipe: {error}") from error
    _refuse_screen_under_deepspeed(recipe, trainer)
    # Else transformers refuses to save the model at the end.
    repair_generation_config(trainer.model.generation_config)
    trainer.remove_callback(PrinterCallback)  # it prints every log as a raw dictionary
    if recipe.ours.diversity:
        trainer.add_callback(
            CollapseWatch(
                trainer,
                recipe.ours.collapse_action,
                embedder=recipe.ours.diversity_embedder,
                say=progress.say,
                buffer=session.buffer,
                alert=partial(send_alarm, trainer.args.report_to),
            )
        )
    return trainer


def learning(recipe: Recipe, imitate: Draw | None = None) -> Learning:
    """
    Raises:
        IdeatorError: an unknown advantage, or unusable options.
    """
    ours = recipe.ours
    advantage = (
        make_advantage(ours.advantage, ours.advantage_options, recipe.num_generations) if ours.advantage else None
    )
    learn = ours.screen.learn if ours.screen else ""
    weights = ours.cluster_weight, imitate, ours.imitation_weight
    return Learning(advantage, *weights, is_frozen=learn == "none", from_forecasts=learn == "predicted")


def batch_screen(session: Session, source: str, alert: Callable[[Alarm], None]) -> BatchScreen | None:
    """The screen of a session; None without one, and at every rank but 0."""
    recipe, buffer = session.recipe, session.buffer
    if recipe.ours.screen is None or buffer is None:
        return None
    return BatchScreen(
        recipe.ours.screen,
        buffer,
        share=recipe.executed_share,
        budget=recipe.screened_budget,
        staleness=recipe.ours.max_staleness,
        embedder=recipe.ours.diversity_embedder,
        # A resumed run starts from the same files again, whatever its newest checkpoint.
        model=IdeatorModel(source, _revision(recipe), ModelConfig(**recipe.model).dtype or "float32"),
        say=session.progress.say,
        alert=alert,
    )


def grpo_config(recipe: Recipe, model: ModelConfig) -> GRPOConfig:
    """TRL's configuration; without a GPU its defaults that need one are off, unless the recipe sets them."""
    values = dict(recipe.grpo)
    # TRL's defaults assume a GPU.
    if not torch.cuda.is_available():
        values.setdefault("use_cpu", True)
        values.setdefault("bf16", False)
    values["report_to"] = trackers(recipe)
    values["run_name"] = values.get("run_name") or run_name(recipe.output_dir, values["report_to"])
    values["project"] = values.get("project") or PROJECT
    values.setdefault("disable_tqdm", True)  # it would break our own progress line
    config = GRPOConfig(**values)
    init: dict[str, Any] = {"dtype": model.dtype or "float32", "attn_implementation": model.attn_implementation}
    init["revision"] = _revision(recipe)
    config.model_init_kwargs = {**init, **recipe.grpo.get("model_init_kwargs", {})}
    return config


def check_trl(recipe: Recipe) -> None:
    """Try the recipe's values on TRL's configuration, before a model is loaded.

    Raises:
        RecipeError: TRL refuses one of them.
    """
    try:
        grpo_config(recipe, ModelConfig(**recipe.model))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"TRL refuses this recipe: {error}") from error


def _revision(recipe: Recipe) -> str | None:
    """Of the hub model; None for the folder of a warm-up, which has none."""
    return None if recipe.ours.sft_steps else recipe.model.get("model_revision")


def save_model(trainer: RecipeTrainer) -> None:
    """Save the trained model as a plain folder, adapters merged in, whole or not at all; to be called at every rank."""
    recipe = trainer.session.recipe
    folder = recipe.output_dir / MODEL
    if trainer.is_fsdp_enabled or _is_zero3(trainer):
        # Every rank helps to gather the shards.  Adapters stay adapters: `ideator-rl export` merges them.
        unfinished = folder.with_name(f".{folder.name}.part")
        trainer.save_model(str(unfinished))
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        return
    if not trainer.is_world_process_zero():
        return
    # Without shards rank 0 has the whole model.
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    # Adapters of peft: the saved folder should load without it.
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with atomic_folder(folder) as scratch:
        save_weights(model, trainer.processing_class, scratch)
        (scratch / "README.md").write_text(trainer.session.model_card(recipe), encoding="utf-8")


def _refuse_screen_under_deepspeed(recipe: Recipe, trainer: RecipeTrainer) -> None:
    screen = recipe.ours.screen
    if screen and screen.learn != "executed" and trainer.is_deepspeed_enabled:
        # It steps without new gradients too: stage 3 applies the last ones again, stage 2 momentum and weight decay.
        raise RecipeError(
            f"The recipe has screen.learn: {screen.learn}, with which some batches train nothing, and DeepSpeed moves "
            "the weights for these too. Use screen.learn: executed, or FSDP (recipes/accelerate/fsdp.yaml)."
        )
    if screen and screen.predictor == "hidden" and _is_zero3(trainer):
        # Its copy of the model would be cut in parts as well, which no single process can read.
        raise RecipeError(
            "The recipe has screen.predictor: hidden, which cannot run under DeepSpeed's stage 3. Use tokens or "
            "embedding."
        )


def _is_zero3(trainer: RecipeTrainer) -> bool:
    plugin = trainer.accelerator.state.deepspeed_plugin if trainer.is_deepspeed_enabled else None
    return plugin is not None and plugin.zero_stage == 3


def _any_rank(flag: bool) -> bool:
    """Whether the flag is set at any rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    flags: list[bool] = [False] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(flags, flag)
    return any(flags)


def step_text(logs: dict[str, Any]) -> str:
    """A step's result for the progress line."""
    parts = [f"mean reward {number(logs['reward'])}" if logs["reward"] is not None else "no reward"]
    if (best := logs.get("reward_best")) is not None:
        parts[0] += f", best {number(best)}"
    if (success := logs.get("execution/success")) is not None:
        parts.append(f"success {success:.0%}")
    if (length := logs.get("completions/mean_length")) is not None:
        parts.append(f"{length:.0f} tokens")
    return " · ".join(parts)
