"""The warm-up: a short SFT that teaches the ideator the form of an idea, on ideas from the environment's catalogue.

Runs once, before RL; the result is a folder that appears whole or not at all, so a resumed run takes it as it is.
The prompts are those that RL will use, only the completion is learned, and the whole model is (adapters, where a recipe
wants them, start with RL on top of the result).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ideator_rl.training.models import made_whole, save_whole
from ideator_rl.training.recipe_keys import IdeatorConfig

Tick = Callable[[int, int, float, float], None]
"""Called with step, steps, loss, and seconds since the first step began."""


def warm_up(
    source: str, target: Path, prompt: Any, ideas: list[str], config: IdeatorConfig, seed: int, tick: Tick
) -> None:
    """Fine-tune the model at `source` on `ideas` as answers to `prompt`; write it to `target`.

    Args:
        prompt: text, or messages for a model with a chat template.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": prompt, "completion": _answer(prompt, text)} for text in ideas]
    gpu = torch.cuda.is_available()
    set_seed(seed)
    with tempfile.TemporaryDirectory() as unused:
        trainer: Any = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(source),
            train_dataset=Dataset.from_list(rows),
            callbacks=[_ticker(config.sft_steps, tick)],
            args=SFTConfig(
                output_dir=unused,
                max_steps=config.sft_steps,
                learning_rate=config.sft_learning_rate,
                per_device_train_batch_size=config.sft_batch_size,
                lr_scheduler_type="cosine",
                warmup_steps=max(1, config.sft_steps // 20),
                logging_steps=max(1, config.sft_steps // 10),
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=seed,
                bf16=gpu,
                use_cpu=not gpu,
                gradient_checkpointing=False,
                max_length=1024,
            ),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if trainer.is_world_process_zero():
        with made_whole(target) as scratch:
            save_whole(trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class, scratch)
    trainer.accelerator.wait_for_everyone()


def _ticker(steps: int, tick: Tick) -> Any:
    from transformers import TrainerCallback

    class Ticker(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.since = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                tick(state.global_step, steps, float(logs["loss"]), time.monotonic() - self.since)

    return Ticker()


def _answer(prompt: Any, text: str) -> Any:
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
