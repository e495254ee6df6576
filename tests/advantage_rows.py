"""Rewards as a run gives them, and their advantage in one call."""

import math

import torch

from ideator_rl.training.advantages import Facts, make_advantage

NAN = float("nan")


def facts(rewards, success=None, cells=None, progress=0.0):
    success = torch.tensor(success) if success is not None else torch.nan_to_num(rewards) > 0
    cells = torch.tensor(cells) if cells is not None else torch.full(rewards.shape, -1)
    return Facts(success, cells, progress)


def advantage(rewards, name, group_size=None, progress=0.0, success=None, **options):
    rewards = torch.as_tensor(rewards, dtype=torch.float32)
    return make_advantage(name, options, group_size)(rewards, facts(rewards, success, progress=progress))


def drawn(groups, size, seed=0, missing=0.2, failing=0.3):
    """Rewards as a run gives them: close to each other, some exactly equal, some failed (0), some missing."""
    draw = torch.Generator().manual_seed(seed)
    rewards = 0.3072 + 0.005 * torch.randint(0, 6, (groups, size), generator=draw).float()
    rewards[torch.rand(groups, size, generator=draw) < failing] = 0.0
    rewards[torch.rand(groups, size, generator=draw) < missing] = NAN
    return rewards


def present_rows(group):
    return [(row, value) for row, value in enumerate(group) if not math.isnan(value)]
