"""From a `TrainBatch` to the tensors that TRL trains on: groups moved into their slots, missing rows masked.

A masked row takes no part in the loss: its `tool_mask` and its advantage are 0, and `num_items_in_batch` does not count
it.  Losses that divide by rows (`grpo`, `sapo`, `dr_grpo`, `luspo`) are multiplied by `row_scale` = rows / kept rows,
which corrects the divisor of the policy term and of the KL term.  `bnpo` divides by the tokens of a micro-batch, and is
right within each.  When no row is missing the tensors are those of stock TRL, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.training.advantages import Facts
from ideator_rl.training.batch_closing import Layout, TrainBatch
from ideator_rl.training.rollouts import Batch

PADDING = {"importance_sampling_ratio": 1, "ref_per_token_logps": -100}
"""Tensors whose padding is not 0: although it is masked, TRL takes the log of the first, and exp(second − log-prob)."""
PER_ROW_LOSSES = ("grpo", "sapo", "dr_grpo", "luspo")
Tensors = dict[str, torch.Tensor]


@dataclass
class Scores:
    """The rewards of a closed batch; P groups of G rows, F reward functions.  Missing is NaN."""

    rewards_PGF: torch.Tensor
    rewards_PG: torch.Tensor
    """Weighted sums."""
    targets_PG: torch.Tensor
    """What the rows are trained on: their rewards, or forecasts in the place of these."""
    facts: Facts

    @property
    def kept_PG(self) -> torch.Tensor:
        """The rows that are trained."""
        return ~torch.isnan(self.targets_PG)


def batch_scores(train_batch: TrainBatch, layout: Layout, weights_F: torch.Tensor, progress: float) -> Scores:
    """The batch's rewards as tensors.

    The arithmetic is TRL's (1.16, `GRPOTrainer._generate_and_score_completions`), so that nothing differs where no row
    is missing.

    Args:
        progress: share of the training that is done, for advantages.
    """
    # Rewards are put into the slots of their groups, and stay NaN elsewhere.
    P, G, F = layout.groups, layout.group_size, len(weights_F)
    rewards_PGF = torch.full((P, G, F), torch.nan, device=weights_F.device)
    forecasts_PG = torch.full((P, G), torch.nan, device=weights_F.device)
    success_PG = torch.zeros(P, G, dtype=torch.bool, device=weights_F.device)
    cell_PG = torch.full((P, G), -1, dtype=torch.long, device=weights_F.device)
    cell_numbers: dict[str, int] = {}
    for slot in train_batch.slots:
        for row, outcome in enumerate(slot.outcomes):
            if outcome is None or not outcome.is_trainable:
                continue
            if outcome.forecast is not None:
                forecasts_PG[slot.slot, row] = outcome.forecast
            values = [torch.nan if reward is None else reward for reward in outcome.rewards]
            rewards_PGF[slot.slot, row] = torch.tensor(values, dtype=torch.float32)
            # A batch whose functions run no experiments has no statuses: its rows count as successes.
            success_PG[slot.slot, row] = outcome.status in (SUCCEEDED, "")
            # Cells are names; advantages compare them only for equality.
            if outcome.cell:
                cell_PG[slot.slot, row] = cell_numbers.setdefault(outcome.cell, len(cell_numbers))
    # As in TRL: the weighted sum over the functions that gave a reward.
    rewards_BF = rewards_PGF.view(P * G, F)
    rewards_B = (rewards_BF * weights_F.unsqueeze(0)).nansum(dim=1)
    rewards_B[torch.isnan(rewards_BF).all(dim=1)] = torch.nan  # nansum returns 0 for a row of NaN alone
    rewards_PG = rewards_B.view(P, G)
    targets_PG = torch.where(torch.isnan(forecasts_PG), rewards_PG, forecasts_PG)
    if train_batch.is_dry:
        targets_PG = torch.full_like(targets_PG, torch.nan)
    return Scores(rewards_PGF, rewards_PG, targets_PG, Facts(success_PG, cell_PG, progress))


def batch_tensors(
    train_batch: TrainBatch,
    batches: Mapping[int, Batch],
    layout: Layout,
    rank: int,
    kept_PG: torch.Tensor,
    pad_token_id: int,
) -> Tensors:
    """A rank's rows of a closed batch, with deferred groups in their slots, and a mask where a row is missing."""
    # A shallow copy: `_move_rows` replaces tensors, and never writes into those of the stored batch.
    tensors = dict(batches[train_batch.index].tensors)
    for slot in train_batch.slots:
        if slot.batch != train_batch.index:
            to_rows, from_rows = layout.local_rows(slot.slot, rank), layout.local_rows(slot.group, rank)
            tensors = _move_rows(tensors, to_rows, batches[slot.batch].tensors, from_rows, pad_token_id)
    start = rank * layout.rows_per_rank
    kept_rows = kept_PG.reshape(-1)[start : start + layout.rows_per_rank]
    # Without `tool_mask` TRL takes another branch: it is added only where it changes something.
    if not bool(kept_PG.all()):
        mask = tensors["completion_mask"]
        tensors["tool_mask"] = tensors.get("tool_mask", torch.ones_like(mask)) * kept_rows.to(mask.dtype).unsqueeze(1)
    return tensors


def row_scale(kept_PG: torch.Tensor, loss_type: str) -> float:
    """The factor for a loss that divides by all rows, so that it divides by the kept ones."""
    count = int(kept_PG.sum())
    return kept_PG.numel() / count if count and loss_type in PER_ROW_LOSSES else 1.0


def _move_rows(
    tensors: Tensors, to_rows: list[int], source: Tensors, from_rows: list[int], pad_token_id: int
) -> Tensors:
    """`tensors` with `from_rows` of `source` at `to_rows`, both padded to the longer of the two."""
    moved: Tensors = {}
    for name, target in tensors.items():
        if target.ndim == 0:  # one value for the batch, such as num_items_in_batch
            moved[name] = target
            continue
        rows = source[name]
        if target.ndim > 1:
            length = max(target.shape[1], rows.shape[1])
            value = pad_token_id if name in ("prompt_ids", "completion_ids") else PADDING.get(name, 0)
            left = name.startswith("prompt_")  # TRL pads prompts on the left, completions on the right
            target, rows = (_pad(tensor, length, value, left) for tensor in (target, rows))
        target = target.clone()
        target[to_rows] = rows[from_rows]
        moved[name] = target
    return moved


def _pad(tensor: torch.Tensor, length: int, value: int, left: bool) -> torch.Tensor:
    missing = length - tensor.shape[1]
    sides = (missing, 0) if left else (0, missing)
    return torch.nn.functional.pad(tensor, sides, value=value) if missing else tensor


def batch_texts(train_batch: TrainBatch, batches: Mapping[int, Batch], layout: Layout) -> tuple[list[Any], list[Any]]:
    """Prompts and completions of a closed batch, row by row.

    The texts of a batch from the store are at rank 0 only, which is the rank that shows them.
    """
    batch = batches[train_batch.index]
    prompts, completions = batch.prompts(), list(batch.completions)
    for slot in train_batch.slots:
        source = batches[slot.batch]
        if slot.batch != train_batch.index and batch.completions and source.completions:
            for to, row in zip(layout.rows(slot.slot), layout.rows(slot.group), strict=True):
                prompts[to], completions[to] = source.prompts()[row], source.completions[row]
    return prompts, completions
