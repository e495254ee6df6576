"""Checkpoints and the model in a run's folder: which checkpoint to resume from, and whether the run is complete."""

from __future__ import annotations

import re
import shutil
import time
import zipfile
from contextlib import suppress
from pathlib import Path

from ideator_rl.config.reader import MAX_DATA_BYTES, parse_json, read_text
from ideator_rl.errors import IdeatorError
from ideator_rl.llm.model_lookup import is_safetensors

CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
MODEL, SCRATCH, WARMUP = "model", "scratch", "warmup"
"""Folders of a run: the trained model, a model from scratch, and the model after its warm-up."""
BASELINE_DONE, POLL_SECONDS = ".baseline-known", 0.5
STATE = "trainer_state.json"
"""The file that the Trainer writes last."""


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, oldest first, whole or not."""
    return sorted(int(match[1]) for path in folder.iterdir() if (match := CHECKPOINT.match(path.name)))


def last_checkpoint(folder: Path, world: int | None = None) -> Path | None:
    """The newest whole checkpoint of a run of `world` processes; None accepts any number of them.

    Newer broken ones, left by a kill, are renamed to `broken-checkpoint-…`.

    Raises:
        IdeatorError: no checkpoint is whole for `world` processes, and one is whole for another number.
    """
    paths = [folder / f"checkpoint-{step}" for step in reversed(checkpoint_steps(folder))]
    last = next((path for path in paths if is_whole(path, world)), None)
    # Before anything is renamed: with the right number of processes, these checkpoints can be resumed.
    if last is None and world is not None:
        for path in paths:
            if (writers := _processes(path)) != world and is_whole(path, writers):
                raise IdeatorError(
                    f"{path} was written by {writers} processes, and {world} want to resume it. Start as many as "
                    f"before. If that was {world}, a kill cut the checkpoint short: move it away, and resume."
                )
    # Broken ones are kept for inspection, and renamed so that no later look finds them again.
    for path in paths[: None if last is None else paths.index(last)]:
        broken = path.with_name(f"broken-{path.name}")
        shutil.rmtree(broken, ignore_errors=True)
        with suppress(OSError):  # another rank may rename it at the same time
            path.rename(broken)
    return last


def _processes(checkpoint: Path) -> int:
    """The processes that wrote a checkpoint, from the names of their random states."""
    return len([*checkpoint.glob("rng_state_*.pth")]) or 1


def is_whole(checkpoint: Path, world: int | None = None) -> bool:
    """Whether a checkpoint has all that resuming needs: weights, optimizer, schedule, random states, and the state.

    The file names are those of transformers' Trainer, which leaves shards to accelerate's FSDP and to DeepSpeed.
    """
    try:
        # Transformers writes NaN for a loss that is none.
        parse_json(read_text(checkpoint / STATE, max_bytes=MAX_DATA_BYTES), STATE, finite=False)
        weights, deepspeed = [*checkpoint.glob("*.safetensors")], [*checkpoint.glob("global_step*/*")]
        fsdp = [*checkpoint.glob("pytorch_model_fsdp*")]
        archives = [checkpoint / "optimizer.pt", checkpoint / "optimizer.bin", checkpoint / "scheduler.pt"]
        archives = [path for path in archives if path.exists()] + [*checkpoint.glob("rng_state*.pth")]
        # DeepSpeed writes one optimizer shard a process, and keeps the schedule with it.
        shards = [path for path in deepspeed if path.name.endswith("_optim_states.pt")]
        has_optimizer = len(shards) >= (world or 1) if deepspeed else bool(list(checkpoint.glob("optimizer*")))
        # One process writes a file without a rank in its name; several write one each.
        random_states = [checkpoint / "rng_state.pth"] if world == 1 else []
        random_states += [checkpoint / f"rng_state_{rank}.pth" for rank in range(world or 0) if world != 1]
        # A kill or a power failure can cut any file short, so archives and weights are opened as well.
        return (
            bool(weights or deepspeed or fsdp)
            and has_optimizer
            and bool(list(checkpoint.glob("rng_state*.pth")))
            and ((checkpoint / "scheduler.pt").is_file() or bool(deepspeed))
            and all(path.is_file() for path in random_states)
            and all(is_safetensors(path) for path in weights)
            and all(zipfile.is_zipfile(path) for path in archives)
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError):
        return False


def is_complete(folder: Path, max_steps: int) -> bool:
    """Whether the run in a folder took its last step and saved its model."""
    last = last_checkpoint(folder)
    return last is not None and (folder / MODEL).is_dir() and 0 < max_steps <= int(last.name.rpartition("-")[2])


def clear_baseline_mark(folder: Path) -> None:
    """Called at rank 0 when a session begins: its baseline has not run yet."""
    (folder / BASELINE_DONE).unlink(missing_ok=True)


def mark_baseline_done(folder: Path) -> None:
    """Called at rank 0: the baseline has run, and the other ranks may begin."""
    (folder / BASELINE_DONE).touch()


def wait_for_baseline(folder: Path) -> None:
    """Called at the other ranks: a baseline may take hours, and joining a process group times out after minutes."""
    while not (folder / BASELINE_DONE).exists():
        time.sleep(POLL_SECONDS)
