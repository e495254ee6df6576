"""The warm-up: a short SFT by TRL's SFTTrainer on rows of a prompt and the completion that answers it.

Contract:
- Runs once, before RL.  The result is a folder that appears complete or not at all, so a resumed run reuses it.
- The loss is on completions only.  All weights are trained, or adapters, which are then merged: the result is a plain
  model either way, and RL adds its own adapters to it.
- Equal rows, seed, machine and number of processes give equal weights.  An interrupted warm-up starts anew.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.files import atomic_folder
from ideator_rl.llm.model_files import dtype_of, load_tokenizer, repair_generation_config, save_weights
from ideator_rl.training.recipe.keys import IdeatorConfig
from ideator_rl.training.sft.data import Row, with_recombinations

ReportLoss = Callable[[int, int, float, float], None]
"""Called in the first process with step, steps, loss, and seconds since the training began."""


@dataclass(frozen=True)
class FitSettings:
    """Hyperparameters of a warm-up."""

    steps: int
    learning_rate: float
    batch_size: int
    """Rows of one process and step."""
    seed: int
    dtype: str = "float32"
    """Of the weights, in training and as saved."""
    adapters: Any = None
    """A peft configuration; None to train the whole model."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the chat template, the same as in training (`chat_template_kwargs`)."""


def warm_up(
    source: str,
    target: Path,
    prompt: Any,
    ideas: list[str],
    config: IdeatorConfig,
    seed: int,
    report: ReportLoss,
    template_arguments: Mapping[str, Any] | None = None,
) -> None:
    """Fine-tune the model at `source` on `ideas` as answers to `prompt`; write it to `target`.

    If the recipe's prompts will show past ideas, a share of `ideas` is replaced by answers to such prompts.

    Args:
        prompt: text, or messages for a model with a chat template.
        template_arguments: of that template.
    """
    settings = FitSettings(
        config.sft_steps,
        config.sft_learning_rate,
        config.sft_batch_size,
        seed,
        template_arguments=template_arguments or {},
    )
    rows = with_recombinations([(prompt, idea) for idea in ideas], config, seed)
    fine_tune(source, target, rows, settings, report)


def fine_tune(
    source: str, target: Path, rows: list[Row], settings: FitSettings, report: ReportLoss, card: str | None = None
) -> None:
    """Fine-tune the model at `source` on `rows`; write it, and a card if there is one, to `target`.

    Every process of a launch calls this; the first writes.

    Raises:
        IdeatorError: the launch does not gather the weights.
    """
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PrinterCallback, set_seed
    from trl import SFTTrainer

    set_seed(settings.seed)
    with tempfile.TemporaryDirectory() as unused:
        args = _arguments(unused, settings)  # before the model: it tells from_pretrained how to shard the weights
        tokenizer, _ = load_tokenizer(source)
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype_of(settings.dtype))
        repair_generation_config(model.generation_config)  # else transformers refuses to save the model at the end
        trainer: Any = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([_dataset_row(row, settings.template_arguments) for row in rows]),
            callbacks=[_loss_callback(settings.steps, report)],
            peft_config=settings.adapters,
            args=args,
        )
        # Its lines of JSON would break into the progress output.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        is_first = trainer.is_world_process_zero()
        # All processes gather sharded weights; the libraries write them in the first process only.
        with atomic_folder(target) if is_first else nullcontext(Path(unused)) as folder:
            _save(trainer, source, folder, settings)
            if card is not None and is_first:
                (folder / "README.md").write_text(card, encoding="utf-8")
    # The other processes load the model next, so they wait until the folder is complete.
    trainer.accelerator.wait_for_everyone()


def _arguments(folder: str, settings: FitSettings) -> Any:
    import torch
    from trl import SFTConfig

    gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=folder,
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, settings.steps // 20),
        logging_steps=max(1, settings.steps // 10),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        bf16=gpu,
        use_cpu=not gpu,
        gradient_checkpointing=settings.gradient_checkpointing,
        max_length=None,  # a cut idea teaches not to end
    )


def _save(trainer: Any, source: str, folder: Path, settings: FitSettings) -> None:
    """Weights gathered from every process, however sharded; adapters merged into a fresh copy of their base."""
    from transformers import AutoModelForCausalLM

    if settings.adapters is None:
        # Every process takes part in gathering; only the first writes files.
        trainer.accelerator.unwrap_model(trainer.model).config.use_cache = True  # training disabled it
        trainer.save_model(str(folder))
        if trainer.is_world_process_zero() and not list(folder.glob("*.safetensors")):
            raise IdeatorError(
                "The warm-up's weights are in pieces of several processes and were not gathered. Under ZeRO-3 the "
                "accelerate config needs zero3_save_16bit_model: true."
            )
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle, with this machine's paths
        return
    from peft import PeftModel

    with tempfile.TemporaryDirectory() as adapters:
        trainer.save_model(adapters)
        if trainer.is_world_process_zero():
            # Merged into the stored base: the one in memory may be sharded or in another dtype.
            base = AutoModelForCausalLM.from_pretrained(source, dtype=dtype_of(settings.dtype))
            merged: Any = PeftModel.from_pretrained(base, adapters)
            save_weights(merged.merge_and_unload(), trainer.processing_class, folder)


def _loss_callback(steps: int, report: ReportLoss) -> Any:
    from transformers import TrainerCallback

    class LossCallback(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs and state.is_world_process_zero:
                report(state.global_step, steps, float(logs["loss"]), time.monotonic() - self.started)

    return LossCallback()


def _dataset_row(row: Row, template_arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A row of TRL's SFT, which reads the arguments of the chat template from a column of that name."""
    prompt, completion = row
    if isinstance(prompt, str):
        return {"prompt": prompt, "completion": completion}
    answer = [{"role": "assistant", "content": completion}]
    arguments = {"chat_template_kwargs": dict(template_arguments)} if template_arguments else {}
    return {"prompt": prompt, "completion": answer, **arguments}
