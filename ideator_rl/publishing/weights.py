"""The weights of a run as one plain model that AutoModelForCausalLM and vLLM load.

Contract:
- Source: the model saved at the run's end, or the newest whole checkpoint.  Adapters are merged into their base.
- The run is only read: a running one is not disturbed, and a broken checkpoint is skipped, not removed.
- Checked: an architecture that transformers has without custom code, a complete set of safetensors, and a tokenizer
  whose ids fit the embedding.  Not checked: that vLLM has this architecture, or that the weights are any good.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideator_rl.config.reader import read_json
from ideator_rl.llm.model_check import config_problem
from ideator_rl.llm.model_files import load_tokenizer, save_weights
from ideator_rl.llm.model_lookup import ADAPTER, CONFIG, INDEX, WEIGHTS, ModelError, first_line, weight_files
from ideator_rl.training.checkpoints import CHECKPOINT, MODEL, STATE, is_whole
from ideator_rl.training.models import build_ideator
from ideator_rl.training.recipe.recipe import Recipe

TOKENIZER = "tokenizer_config.json"
TOKENIZER_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""Names of transformers 5, and those of transformers 4 for the same classes."""


@dataclass(frozen=True)
class Source:
    """Where the weights are taken from."""

    folder: Path
    step: int | None = None
    """Of the checkpoint; None for the model that the run saved at its end."""

    @property
    def has_adapter(self) -> bool:
        return (self.folder / ADAPTER).is_file()

    @property
    def description(self) -> str:
        if self.step is None:
            return "the model saved at the run's end"
        return f"{self.folder.name}{', its adapter merged into its base' if self.has_adapter else ''}"


def newest_weights(run: Path, max_steps: int) -> Source:
    """The final model, unless the run was resumed after it and has not reached its end again.

    Raises:
        ModelError: neither a final model nor a whole checkpoint with weights.
    """
    checkpoints = {int(match[1]): path for path in run.iterdir() if (match := CHECKPOINT.match(path.name))}
    last = max((step for step, path in checkpoints.items() if is_whole(path)), default=None)
    final = run / MODEL / CONFIG
    # A final model older than the last checkpoint is of an earlier end, unless the run has taken all its steps.
    if final.is_file() and (
        last is None
        or 0 < max_steps <= last
        or final.stat().st_mtime_ns >= (checkpoints[last] / STATE).stat().st_mtime_ns
    ):
        return Source(run / MODEL)
    if last is None:
        raise ModelError(
            f"{run} holds neither a trained model nor a whole checkpoint. Go on with the run (--resume) until it has "
            "saved one: see save_steps in its recipe. Or export the trajectories alone, with --dataset-only."
        )
    if not any(checkpoints[last].glob("*.safetensors")):
        raise ModelError(
            f"{checkpoints[last]} holds its weights in pieces of several processes. Resume the run to its end, or "
            "gather them with the zero_to_fp32.py in that folder."
        )
    return Source(checkpoints[last], last)


def write_model(source: Source, run: Path, recipe: Recipe, out: Path, dtype: str | None) -> None:
    """Write the plain model of a source to `out`, a new folder.

    Args:
        dtype: "float32" or "bfloat16"; None for the one it was trained in.

    Raises:
        ModelError: weights, base or tokenizer cannot be read, or `make_loadable` refuses the result.
    """
    if source.step is None and dtype is None:
        shutil.copytree(source.folder, out, ignore=shutil.ignore_patterns("README.md"))
    else:
        import torch

        try:
            model = _merged(source, run, recipe) if source.has_adapter else _load(str(source.folder), "auto")
            tokenizer = load_tokenizer(source.folder)[0]
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelError(f"The model of {source.folder} cannot be read: {first_line(error)}") from error
        save_weights(model if dtype is None else model.to(getattr(torch, dtype)), tokenizer, out)
    make_loadable(out)


def make_loadable(folder: Path) -> None:
    """Add what transformers 4, and a vLLM built on it, need; then check the model.

    transformers 5 gives a tokenizer class a new name, which transformers 4 refuses, and writes RoPE numbers in a new
    place, where transformers 4 does not look and uses its defaults.  transformers 5 reads the old form of both too.

    Raises:
        ModelError: a file is missing, or two files do not fit together.
    """
    _rewrite(folder / TOKENIZER, _add_old_tokenizer_class)
    _rewrite(folder / CONFIG, _add_old_rope)
    if problem := _problem(folder):
        raise ModelError(f"The model in {folder.name} cannot be served: {problem}")


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of weights, by its name."""
    hashes = {}
    for path in weight_files(folder):
        with open(path, "rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _merged(source: Source, run: Path, recipe: Recipe) -> Any:
    """The adapter's numbers added to those of its base, in the base's dtype: as at the end of a run."""
    from peft import PeftModel

    ours = recipe.ours
    # The base is what `training.run` put the adapters on: a warm-up comes after a model from scratch.
    if ours.sft_steps or ours.scratch_model:
        base = str(run / ("warmup" if ours.sft_steps else "scratch"))
        if not Path(base).is_dir():
            raise ModelError(f"The adapters of {run} need their base {base}, which is gone. Restore that folder.")
    else:
        base = build_ideator(ours.model_name_or_path, None, [], run, recipe.seed)
    revision = None if ours.sft_steps else recipe.model.get("model_revision")
    model = _load(base, recipe.model.get("dtype") or "float32", **({"revision": revision} if revision else {}))
    return PeftModel.from_pretrained(model, str(source.folder)).merge_and_unload()  # type: ignore[operator]


def _load(name: str, dtype: str, **options: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **options)


def _problem(folder: Path) -> str | None:
    if not weight_files(folder):
        return f"it has no complete set of safetensors. Expected {WEIGHTS}, or {INDEX} with all of its files."
    return config_problem(folder)


def _rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    if path.is_file():
        settings = read_json(path, error=ModelError)
        if not isinstance(settings, dict):
            raise ModelError(f"{path} is no JSON object. Restore it from where the model came.")
        change(settings)
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _add_old_tokenizer_class(settings: dict[str, Any]) -> None:
    if settings.get("tokenizer_class") in TOKENIZER_CLASSES:
        settings["tokenizer_class"] = TOKENIZER_CLASSES[settings["tokenizer_class"]]


def _add_old_rope(config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return  # none, or one for each kind of layer, which has no older form
    config.setdefault("rope_theta", rope["rope_theta"])
    if rope.get("rope_type", "default") != "default":
        config.setdefault("rope_scaling", {key: value for key, value in rope.items() if key != "rope_theta"})
