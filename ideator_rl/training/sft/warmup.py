"""The warm-up: a short SFT, through TRL's SFTTrainer, on rows of a prompt and the completion that answers it.

Runs once, before RL; the result is a folder that appears whole or not at all, so a resumed run takes it as it is.  Only
the completion is learned.  The whole model is trained, unless adapters are asked for, which are then merged in: what
comes out is a plain model either way, and RL's own adapters start on top of it.  Equal rows, seed, machine and number
of processes give equal weights; there is nothing to resume.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.errors import IdeatorError
from ideator_rl.files import atomic_folder
from ideator_rl.training.models import save_weights
from ideator_rl.training.recipe.keys import IdeatorConfig
from ideator_rl.training.sft.data import Row, with_parents

Tick = Callable[[int, int, float, float], None]
"""Called with step, steps, loss, and seconds since the first step began; in the first process only."""


@dataclass(frozen=True)
class Fit:
    """How a warm-up trains."""

    steps: int
    learning_rate: float
    batch_size: int
    """Rows of one process and step."""
    seed: int
    dtype: str = "float32"
    """Of the weights, while they are trained and as they are saved."""
    adapters: Any = None
    """A peft configuration; None to train the whole model."""
    checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""


def warm_up(
    source: str, target: Path, prompt: Any, ideas: list[str], config: IdeatorConfig, seed: int, tick: Tick
) -> None:
    """Fine-tune the model at `source` on `ideas` as answers to `prompt`; write it to `target`.

    Where the recipe's prompts will carry past ideas, a share of `ideas` gives way to answers to such prompts.

    Args:
        prompt: text, or messages for a model with a chat template.
    """
    fit = Fit(config.sft_steps, config.sft_learning_rate, config.sft_batch_size, seed)
    fine_tune(source, target, with_parents([(prompt, text) for text in ideas], config, seed), fit, tick)


def fine_tune(source: str, target: Path, rows: list[Row], fit: Fit, tick: Tick, card: str | None = None) -> None:
    """Fine-tune the model at `source` on `rows`; write it, and a card if there is one, to `target`.

    Every process of a launch calls this; the first writes.

    Raises:
        IdeatorError: the launch does not gather the weights.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, set_seed
    from trl import SFTTrainer

    set_seed(fit.seed)
    with tempfile.TemporaryDirectory() as unused:
        args = _arguments(unused, fit)  # before the model: it tells from_pretrained how the weights are sharded
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        trainer: Any = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, fit.dtype)),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": p, "completion": _answer(p, c)} for p, c in rows]),
            callbacks=[_ticker(fit.steps, tick)],
            peft_config=fit.adapters,
            args=args,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        first = trainer.is_world_process_zero()
        with atomic_folder(target) if first else _nowhere(unused) as folder:
            _save(trainer, source, folder, fit)
            if card is not None and first:
                (folder / "README.md").write_text(card, encoding="utf-8")
    trainer.accelerator.wait_for_everyone()


def _arguments(folder: str, fit: Fit) -> Any:
    import torch
    from trl import SFTConfig

    gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=folder,
        max_steps=fit.steps,
        learning_rate=fit.learning_rate,
        per_device_train_batch_size=fit.batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, fit.steps // 20),
        logging_steps=max(1, fit.steps // 10),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=fit.seed,
        bf16=gpu,
        use_cpu=not gpu,
        gradient_checkpointing=fit.checkpointing,
        max_length=None,  # an idea that was cut teaches not to end
    )


def _save(trainer: Any, source: str, folder: Path, fit: Fit) -> None:
    """Weights gathered from every process, however sharded; adapters merged into a fresh copy of their base."""
    import torch
    from transformers import AutoModelForCausalLM

    if fit.adapters is None:
        trainer.accelerator.unwrap_model(trainer.model).config.use_cache = True  # training had switched it off
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
            base = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, fit.dtype))
            merged: Any = PeftModel.from_pretrained(base, adapters)
            save_weights(merged.merge_and_unload(), trainer.processing_class, folder)


@contextmanager
def _nowhere(folder: str) -> Iterator[Path]:
    """Where a process saves that is not to write: the libraries write nothing there."""
    yield Path(folder)


def _ticker(steps: int, tick: Tick) -> Any:
    from transformers import TrainerCallback

    class Ticker(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.since = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs and state.is_world_process_zero:
                tick(state.global_step, steps, float(logs["loss"]), time.monotonic() - self.since)

    return Ticker()


def _answer(prompt: Any, text: str) -> Any:
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
