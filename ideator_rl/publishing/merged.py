"""The weights of a run as one plain model: the final ones, or those of its newest whole checkpoint, adapters merged in.

Reads only: a run that is under way is not disturbed, and a broken checkpoint is passed over, not removed.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.publishing.servable import CONFIG, make_servable, weight_files
from ideator_rl.training.checkpoints import CHECKPOINT, MODEL, STATE, is_whole
from ideator_rl.training.models import ModelError, build_ideator, save_weights
from ideator_rl.training.recipe.recipe import Recipe

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Source:
    """Where the weights are taken from."""

    folder: Path
    step: int | None = None
    """Of the checkpoint; None for the model that the run saved at its end."""

    @property
    def adapter(self) -> bool:
        return (self.folder / ADAPTER).is_file()

    @property
    def words(self) -> str:
        if self.step is None:
            return "the model saved at the run's end"
        return f"{self.folder.name}{', its adapter merged into its base' if self.adapter else ''}"


def newest(run: Path, max_steps: int) -> Source:
    """The final model, unless the run went on after it and has not come to its end again.

    Raises:
        ModelError: neither a final model nor a whole checkpoint with weights.
    """
    steps = {int(match[1]): path for path in run.iterdir() if (match := CHECKPOINT.match(path.name))}
    last = max((step for step, path in steps.items() if is_whole(path)), default=None)
    final = run / MODEL / CONFIG
    if final.is_file() and (last is None or 0 < max_steps <= last or _age(final) >= _age(steps[last] / STATE)):
        return Source(run / MODEL)
    if last is None:
        raise ModelError(
            f"{run} holds neither a trained model nor a whole checkpoint. Go on with the run (--resume) until it has "
            "saved one: see save_steps in its recipe."
        )
    if not any(steps[last].glob("*.safetensors")):
        raise ModelError(
            f"{steps[last]} holds its weights in pieces of several processes. Resume the run to its end, or gather "
            "them with the zero_to_fp32.py that lies in it."
        )
    return Source(steps[last], last)


def write_model(source: Source, run: Path, recipe: Recipe, out: Path, dtype: str | None) -> None:
    """Write the plain model of a source to `out`, a new folder.

    Args:
        dtype: "float32" or "bfloat16"; None for the one it was trained in.

    Raises:
        ModelError: weights, base or tokenizer cannot be read, or the result could not be served.
    """
    if source.step is None and dtype is None:
        shutil.copytree(source.folder, out, ignore=shutil.ignore_patterns("README.md"))
    else:
        from transformers import AutoTokenizer

        try:
            model = _merged(source, run, recipe) if source.adapter else _load(str(source.folder), "auto")
            tokenizer = AutoTokenizer.from_pretrained(source.folder)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"The model of {source.folder} cannot be read: {first}") from error
        save_weights(_cast(model, dtype), tokenizer, out)
    make_servable(out)


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of weights, by its name."""
    found = {}
    for path in weight_files(folder):
        with open(path, "rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _merged(source: Source, run: Path, recipe: Recipe) -> Any:
    """The adapter's numbers added to the base's, in the base's dtype: as at the end of a run."""
    from peft import PeftModel

    revision = None if recipe.ours.sft_steps else recipe.model.get("model_revision")
    base = _load(_base(run, recipe), recipe.model.get("dtype") or "float32", revision)
    return PeftModel.from_pretrained(base, str(source.folder)).merge_and_unload()  # type: ignore[operator]


def _base(run: Path, recipe: Recipe) -> str:
    """What the adapters were put on: as `training.run.ideator` chose it."""
    ours = recipe.ours
    if ours.sft_steps or ours.scratch_model:
        folder = run / ("warmup" if ours.sft_steps else "scratch")
        if not folder.is_dir():
            raise ModelError(f"The adapters of {run} stand on {folder}, which is gone. Restore that folder.")
        return str(folder)
    return build_ideator(ours.model_name_or_path, None, [], run, recipe.seed)


def _load(name: str, dtype: str, revision: str | None = None) -> Any:
    from transformers import AutoModelForCausalLM

    more = {"revision": revision} if revision else {}
    return AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **more)


def _cast(model: Any, dtype: str | None) -> Any:
    import torch

    return model if dtype is None else model.to(getattr(torch, dtype))


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns
