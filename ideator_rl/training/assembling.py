"""From a closing to what TRL trains on: rows put in their places, missing ones masked, advantages computed.

A masked row takes no part in the loss: its `tool_mask` is 0 and its advantage 0, `num_items_in_batch` does not count
it, and for losses that divide by rows (`grpo`, `sapo`, `dr_grpo`, `luspo`) `row_scale` = rows / kept rows puts the
divisor of the policy's and the KL term right.  `bnpo` divides by the tokens of a micro-batch and is right within each.
When nothing is missing the tensors are those of stock TRL, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ideator_rl.experiment import SUCCEEDED
from ideator_rl.training.advantages import Facts
from ideator_rl.training.batch_assembly import Closing, Layout, Outcome
from ideator_rl.training.rollouts import Batch

PADDING = {"importance_sampling_ratio": 1, "ref_per_token_logps": -100}
"""Where 0 would do harm although it is masked: TRL takes the log of the first, and exp(second − log-prob)."""
PER_ROW_LOSSES = ("grpo", "sapo", "dr_grpo", "luspo")
Advantages = Callable[[torch.Tensor, Facts], torch.Tensor]
Tensors = dict[str, torch.Tensor]


@dataclass
class Scores:
    """The outcomes of a closed batch as tensors; P groups of G rows, F reward functions.  Missing is NaN."""

    rewards_PGF: torch.Tensor
    rewards_PG: torch.Tensor
    """Weighted sums."""
    facts: Facts

    @property
    def kept_PG(self) -> torch.Tensor:
        return ~torch.isnan(self.rewards_PG)


def scores(closing: Closing, layout: Layout, weights_F: torch.Tensor, progress: float) -> Scores:
    """Read a closing's rewards; the arithmetic is TRL's, so that nothing differs where nothing is missing."""
    P, G, F = layout.groups, layout.group_size, len(weights_F)
    rewards_PGF = torch.full((P, G, F), torch.nan, device=weights_F.device)
    success_PG = torch.zeros(P, G, dtype=torch.bool, device=weights_F.device)
    cell_PG = torch.full((P, G), -1, dtype=torch.long, device=weights_F.device)
    cells: dict[str, int] = {}
    for seat in closing.seats:
        for row, outcome in enumerate(seat.outcomes):
            if outcome is None or not outcome.scored:
                continue
            values = [torch.nan if reward is None else reward for reward in outcome.rewards]
            rewards_PGF[seat.slot, row] = torch.tensor(values, dtype=torch.float32)
            success_PG[seat.slot, row] = outcome.status in (SUCCEEDED, "")
            if outcome.cell:
                cell_PG[seat.slot, row] = cells.setdefault(outcome.cell, len(cells))
    rewards_BF = rewards_PGF.view(P * G, F)
    rewards_B = (rewards_BF * weights_F.unsqueeze(0)).nansum(dim=1)
    rewards_B[torch.isnan(rewards_BF).all(dim=1)] = torch.nan
    return Scores(rewards_PGF, rewards_B.view(P, G), Facts(success_PG, cell_PG, progress))


def assemble(
    closing: Closing, batches: dict[int, Batch], layout: Layout, rank: int, kept_PG: torch.Tensor, pad: int
) -> Tensors:
    """This rank's rows of a closed batch, groups from elsewhere in their places, and a mask where rows are left out.

    Args:
        pad: the padding token's id.
    """
    out = dict(batches[closing.index].tensors)
    for seat in closing.seats:
        if seat.batch != closing.index:
            places = layout.local(seat.slot, rank), layout.local(seat.group, rank)
            out = _moved(out, batches[seat.batch].tensors, *places, pad)
    start = rank * layout.rows_per_rank
    kept = kept_PG.reshape(-1)[start : start + layout.rows_per_rank]
    if not bool(kept_PG.all()):
        mask = out["completion_mask"]
        out["tool_mask"] = out.get("tool_mask", torch.ones_like(mask)) * kept.to(mask.dtype).unsqueeze(1)
    return out


def row_scale(kept_PG: torch.Tensor, loss_type: str) -> float:
    """What a loss that divides by all rows is to be multiplied by, so that it divides by the kept ones."""
    kept = int(kept_PG.sum())
    return kept_PG.numel() / kept if kept and loss_type in PER_ROW_LOSSES else 1.0


def _moved(out: Tensors, other: Tensors, slots: list[int], rows: list[int], pad: int) -> Tensors:
    """`out` with `rows` of another batch in place of `slots`, both padded to the longer of the two."""
    made: Tensors = {}
    for name, mine in out.items():
        if mine.ndim == 0:
            made[name] = mine
            continue
        theirs = other[name]
        if mine.ndim > 1:
            length = max(mine.shape[1], theirs.shape[1])
            value = pad if name in ("prompt_ids", "completion_ids") else PADDING.get(name, 0)
            mine, theirs = (_padded(each, length, value, name.startswith("prompt_")) for each in (mine, theirs))
        mine = mine.clone()
        mine[slots] = theirs[rows]
        made[name] = mine
    return made


def _padded(tensor: torch.Tensor, length: int, value: int, left: bool) -> torch.Tensor:
    missing = length - tensor.shape[1]
    sides = (missing, 0) if left else (0, missing)
    return torch.nn.functional.pad(tensor, sides, value=value) if missing else tensor


def texts(closing: Closing, batches: dict[int, Batch], layout: Layout) -> tuple[list[Any], list[Any]]:
    """Prompts and completions of what was trained, each in its place; of a batch from the journal in the first process
    only, and nowhere else are they shown."""
    own = batches[closing.index]
    prompts, completions = own.prompts(), list(own.completions)
    for seat in closing.seats:
        other = batches[seat.batch]
        if seat.batch != closing.index and own.completions and other.completions:
            for to, row in zip(layout.rows(seat.slot), layout.rows(seat.group), strict=True):
                prompts[to], completions[to] = other.prompts()[row], other.completions[row]
    return prompts, completions


def figures(closing: Closing, batches: dict[int, Batch], layout: Layout, all_scores: Scores) -> dict[str, float]:
    """What trackers are told of a closed batch; rewards and shares over trained rows."""
    outcomes = [each for seat in closing.seats for each in seat.outcomes if each is not None]
    rows = layout.groups * layout.group_size
    ages = [closing.index - seat.batch for seat in closing.seats]
    stale = [closing.index - batches[seat.batch].born for seat in closing.seats]
    told = {
        "pipeline/wait_seconds": closing.waited,
        "pipeline/staleness": sum(stale) / max(1, len(stale)),
        "pipeline/trained_share": float(all_scores.kept_PG.sum()) / rows,
        "pipeline/groups_parked": float(len(closing.parked)),
        "pipeline/groups_dropped": float(len(closing.dropped)),
        "pipeline/groups_from_before": float(sum(age > 0 for age in ages)),
    }
    return {**told, **_statuses([each for each in outcomes if each.status])}


def _statuses(outcomes: list[Outcome]) -> dict[str, float]:
    """Shares of outcomes, and the rewards of the successes apart: the mean over all rows hides which one moved."""
    if not outcomes:
        return {}
    names = sorted({each.status for each in outcomes})
    told = {f"execution/{name}": sum(each.status == name for each in outcomes) / len(outcomes) for name in names}
    known = [each for each in outcomes if each.scored]
    if known:
        told["execution/success"] = sum(each.status == SUCCEEDED for each in known) / len(known)
    gained = [each.measured for each in known if each.status == SUCCEEDED and each.measured is not None]
    if gained:
        told["execution/success_reward_mean"] = sum(gained) / len(gained)
        told["execution/success_reward_best"] = max(gained)
    return told


def trl_rewards(all_scores: Scores, names: list[str]) -> dict[str, Any]:
    """The reward figures that TRL logs, computed on what was trained: its own were taken before rewards were known."""
    told: dict[str, Any] = {}
    for index, name in enumerate(names):
        told |= _mean_and_spread(all_scores.rewards_PGF[..., index], f"rewards/{name}/mean", f"rewards/{name}/std")
    told |= _mean_and_spread(all_scores.rewards_PG, "reward", "reward_std")
    spreads = [row[~torch.isnan(row)] for row in all_scores.rewards_PG]
    flat = [bool(row.std(unbiased=False) < 1e-8) for row in spreads if len(row) > 1]
    told["frac_reward_zero_std"] = sum(flat) / len(flat) if flat else float("nan")
    return told


def _mean_and_spread(values: torch.Tensor, mean: str, spread: str) -> dict[str, float]:
    known = values[~torch.isnan(values)]
    return {
        mean: known.mean().item() if len(known) else float("nan"),
        spread: known.std().item() if len(known) > 1 else float("nan"),
    }
