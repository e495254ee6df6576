"""Advantages against enumeration, direct loops and TRL's own arithmetic."""

import ast
import functools
import importlib.util
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from advantage_rows import NAN, advantage, drawn, present_rows

from ideator_rl.training.advantages import ADVANTAGES
from ideator_rl.training.advantages.best_of_k import default_k
from ideator_rl.training.advantages.entropic import solve_beta

ALL = [(name, {}) for name in ADVANTAGES] + [("max_at_k", {"k": 3, "center": True, "scale": True})]


# --- TRL's arithmetic -------------------------------------------------------------------------------------------------


@functools.cache
def trls_statements():
    """The statements of the installed TRL between the summed rewards and the advantages, cut from its source.

    Importing it would take a quarter of a minute.
    """
    folder = Path(importlib.util.find_spec("trl").origin).parent / "trainer"
    trainer = list(ast.walk(ast.parse((folder / "grpo_trainer.py").read_text())))
    nanstd = [n for n in ast.parse((folder / "utils.py").read_text()).body if getattr(n, "name", "") == "nanstd"]
    branch = "self.multi_objective_aggregation == 'sum_then_normalize'"
    (summing,) = [n for n in trainer if isinstance(n, ast.If) and ast.unparse(n.test) == branch]
    masking = "advantages = torch.nan_to_num(advantages, nan=0.0)"
    (masked,) = [n for n in trainer if isinstance(n, ast.Assign) and ast.unparse(n) == masking]
    return compile(ast.Module([*nanstd, *summing.body, masked], []), "trl", "exec")


def trls_own(rewards, scale_rewards):
    flat = rewards.reshape(-1, 1)
    room = {
        "torch": torch,
        "self": SimpleNamespace(scale_rewards=scale_rewards, reward_weights=torch.ones(1)),
        "device": rewards.device,
        "rewards_per_func": flat,
        "unscorable_mask": torch.isnan(flat).all(dim=1),
        "num_generations": rewards.shape[1],
    }
    exec(trls_statements(), room)
    return room["advantages"].view_as(rewards)


@pytest.mark.parametrize(("name", "scale_rewards"), [("grpo", "group"), ("dr_grpo", "none")])
def test_grpo_is_bit_for_bit_what_trl_computes(name, scale_rewards):
    for size, seed in itertools.product((2, 3, 7, 16, 128, 256), range(5)):
        rewards = torch.cat([drawn(6, size, seed), torch.full((1, size), NAN), torch.full((1, size), 0.3072)])
        rewards[0, 1:] = NAN  # a group of one
        assert torch.equal(advantage(rewards, name), trls_own(rewards, scale_rewards))


def test_loo_compares_with_the_mean_of_the_others():
    rewards = drawn(20, 9)
    expected = torch.zeros_like(rewards)
    for p, group in enumerate(rewards.tolist()):
        rows = present_rows(group)
        for i, value in rows:
            other_rewards = [v for j, v in rows if j != i]
            expected[p, i] = value - sum(other_rewards) / len(other_rewards) if other_rewards else 0.0
    torch.testing.assert_close(advantage(rewards, "loo"), expected)


# --- best of k --------------------------------------------------------------------------------------------------------


def by_subsets(group, k):
    """n · mean over the k-subsets of (best with i − best of the rest of the subset), over the rows present."""
    rows = present_rows(group)
    values, n = [0.0] * len(group), len(rows)
    k = min(k, n)
    if n < 2:
        return values
    for subset in itertools.combinations(rows, k):
        for i, _ in subset:
            gain = max(v for _, v in subset) - max(v for j, v in subset if j != i)
            values[i] += n * gain / math.comb(n, k)
    return values


@pytest.mark.parametrize("k", [2, 3, 4, 8, 9])
def test_max_at_k_is_the_gain_of_the_best_of_every_subset_by_a_row(k):
    rewards = torch.cat([drawn(12, 9, seed=k), torch.rand(4, 9), torch.full((1, 9), 0.5)])
    expected = torch.tensor([by_subsets(group, k) for group in rewards.tolist()])
    torch.testing.assert_close(advantage(rewards, "max_at_k", k=k), expected, rtol=1e-5, atol=1e-7)


def expected_gradient(logits, worth, size, k, missing=(), **options):
    """Exactly, over all groups of a categorical policy: E[mean over rows present of A · ∇ log π]."""
    policy = torch.softmax(logits, dim=0)
    groups = torch.tensor(list(itertools.product(range(len(worth)), repeat=size)))
    rewards = worth[groups].float()
    rewards[:, list(missing)] = NAN
    weights = advantage(rewards, "max_at_k", k=k, **options).double()
    score = torch.nn.functional.one_hot(groups, len(worth)).double() - policy
    chance = policy[groups].prod(dim=1)
    return (chance[:, None] * (weights[:, :, None] * score).sum(dim=1)).sum(dim=0) / (size - len(missing))


def true_gradient(logits, worth, k):
    logits = logits.clone().requires_grad_()
    policy = torch.softmax(logits, dim=0)
    groups = torch.tensor(list(itertools.product(range(len(worth)), repeat=k)))
    best = (policy[groups].prod(dim=1) * worth[groups].amax(dim=1)).sum()
    return torch.autograd.grad(best, logits)[0]


LOGITS = torch.tensor([0.3, -0.5, 0.9, -1.2], dtype=torch.float64)
WORTH = torch.tensor([0.0, 0.5, 0.5, 1.25], dtype=torch.float64)  # exact in float32, two of them tied


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("missing", [(), (1,), (0, 3)])
def test_the_gradient_of_max_at_k_is_that_of_the_expected_best_of_k(k, missing):
    target = true_gradient(LOGITS, WORTH, min(k, 5 - len(missing)))  # fewer rows than k: the best of all of them
    gradient = expected_gradient(LOGITS, WORTH, 5, k, missing)
    torch.testing.assert_close(gradient, target, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("option", ["center", "scale"])
def test_centering_or_scaling_max_at_k_biases_it(option):
    target = true_gradient(LOGITS, WORTH, 3)
    gradient = expected_gradient(LOGITS, WORTH, 5, 3, **{option: True})
    assert (gradient / gradient.norm() - target / target.norm()).norm() > 0.01


def test_max_at_k_centered_and_scaled_has_mean_zero_and_unit_size():
    values = advantage([[0.1, 0.2, 0.9, NAN, 0.4]], "max_at_k", k=2, center=True, scale=True)[0]
    rows = values[[0, 1, 2, 4]]
    assert values[3] == 0 and abs(rows.mean()) < 1e-6 and abs((rows**2).mean().sqrt() - 1) < 1e-3


def test_ties_have_equal_advantages_to_the_last_bit():
    values = advantage([[0.3, 0.1, 0.3, 0.2, 0.3, 0.1]], "max_at_k", k=3)[0]
    assert values[0] == values[2] == values[4] > values[3] > 0 and values[1] == values[5] == 0


def test_max_at_k_of_a_large_group_stays_exact():
    """Of 256 rewards 0, …, 255: C(n, 8) has 15 digits, and A of the best can be computed in whole numbers."""
    best = sum(math.comb(i - 1, 7) for i in range(2, 257)) * 256 / math.comb(256, 8)
    values = advantage([[float(i) for i in range(256)]], "max_at_k", k=8)[0]
    assert values[-1].item() == pytest.approx(best, rel=1e-6)


def test_the_default_k_grows_slower_than_the_group():
    assert [default_k(size) for size in (2, 4, 8, 16, 64, 128, 256)] == [2, 3, 3, 4, 6, 8, 10]
    rewards = drawn(4, 16)
    assert torch.equal(advantage(rewards, "max_at_k"), advantage(rewards, "max_at_k", k=4))


# --- entropic ---------------------------------------------------------------------------------------------------------


def kl_to_uniform(values, beta):
    best = max(values)
    weights = [math.exp(beta * (v - best)) for v in values]
    shares = [w / sum(weights) for w in weights]
    return sum(s * math.log(s * len(values)) for s in shares if s > 0)


def by_loops(group, success, gamma):
    rows = present_rows(group)
    if len(rows) < 2:
        return [0.0] * len(group)
    solved = [v for i, v in rows if success[i]]
    if len(set(solved)) < 2:
        solved = [v for _, v in rows]
    gamma = min(gamma, 0.5 * math.log(len(solved) / solved.count(max(solved))))
    low, high = -20.0, math.log10(1e4)  # of the logarithm of β
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if kl_to_uniform(solved, 10**middle) < gamma else (low, middle)
    beta = 10**low if len(set(solved)) > 1 else 0.0
    values, top = [0.0] * len(group), max(v for _, v in rows)
    for i, value in rows:
        other_weights = [math.exp(beta * (v - top)) for j, v in rows if j != i]
        values[i] = min(
            math.exp(beta * (value - top)) * len(other_weights) / sum(other_weights) - 1, len(other_weights)
        )
    return values


@pytest.mark.parametrize("gamma", [0.2, math.log(2), 2.0])
def test_entropic_weights_are_those_of_a_direct_loop(gamma):
    rewards = torch.cat([drawn(20, 12, seed=3), drawn(10, 12, seed=4, failing=0.9), torch.rand(10, 12)])
    success = torch.nan_to_num(rewards) > 0
    expected = torch.tensor([by_loops(g, s, gamma) for g, s in zip(rewards.tolist(), success.tolist(), strict=True)])
    torch.testing.assert_close(advantage(rewards, "entropic", gamma=gamma), expected, rtol=1e-4, atol=1e-4)


def test_beta_reaches_the_kl_over_successes_for_rewards_of_any_scale():
    values = torch.tensor([[0.50, 0.52, 0.55, 0.58, 0.61, 0.70, 0.0, 0.0]], dtype=torch.float64)
    for scale in (1e-2, 1.0, 1e6):
        beta = solve_beta(values * scale, values > 0, math.log(2), 1e4).item()
        assert kl_to_uniform([v * scale for v in values[0, :6].tolist()], beta) == pytest.approx(math.log(2))


def test_beta_does_not_depend_on_the_failures():
    rewards = [[0.0] * 10 + [0.50, 0.51, 0.52, 0.53, 0.54, 0.60]]
    values = advantage(rewards, "entropic")[0]
    assert values[-1] > 3 * values[-2] and values[10] < 0.5  # sharp among the successes
    blunt = advantage(rewards, "entropic", success=[[True] * 16])[0]
    assert blunt[10] > 0.5 and blunt[-1] < 2 * blunt[-2]  # over all rows: any success is as good as another


def test_equal_successes_are_compared_with_the_failures():
    values = advantage([[0.0, 0.0, 0.0, 0.5, 0.5, 0.5]], "entropic")[0]
    assert (values[:3] < 0).all() and (values[3:] > 0).all()


def test_entropic_stays_finite_where_beta_is_huge():
    rewards = torch.tensor([[0.5, 0.5, 0.5, 0.5 + 1e-6], [0.0, 1e30, 2e30, 3e30], [0.0, 0.0, 0.0, 1e-30]])
    values = advantage(rewards, "entropic", gamma=50.0, beta_max=1e12)
    assert torch.isfinite(values).all() and (values >= -1).all() and (values <= 3).all()
    assert (advantage(rewards, "entropic", clip=0.5) <= 0.5).all()


def test_differences_far_below_the_noise_are_not_blown_up():
    assert advantage([[0.5, 0.5, 0.5, 0.5 + 1e-7]], "entropic").abs().max() < 0.01


# --- anneal -----------------------------------------------------------------------------------------------------------


def test_anneal_goes_from_grpo_to_max_at_k_over_the_run():
    rewards = drawn(5, 16)
    first, last = advantage(rewards, "grpo"), advantage(rewards, "max_at_k", scale=True)
    assert torch.equal(advantage(rewards, "anneal", progress=0.0), first)
    assert torch.equal(advantage(rewards, "anneal", progress=1.0), last)
    torch.testing.assert_close(advantage(rewards, "anneal", progress=0.25), 0.75 * first + 0.25 * last)
    torch.testing.assert_close(
        advantage(rewards, "anneal", progress=0.5, start=0.4, end=0.8), 0.75 * first + 0.25 * last
    )
    assert torch.equal(advantage(rewards, "anneal", progress=0.3, start=0.4), first)
    unscaled = advantage(rewards, "anneal", progress=1.0, scale=False, k=2)
    assert torch.equal(unscaled, advantage(rewards, "max_at_k", k=2))


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), ALL)
def test_missing_rewards_change_no_advantage(name, options):
    """The rows present get what they would get in a group without the others."""
    rewards = drawn(30, 10, seed=7)
    values = advantage(
        rewards, name, progress=0.5, **{"k": 3, **options} if name in ("max_at_k", "anneal") else options
    )
    assert (values[torch.isnan(rewards)] == 0).all()
    for group, group_values in zip(rewards, values, strict=True):
        present = ~torch.isnan(group)
        if present.sum() >= 2:
            alone = {"k": 3, **options} if name in ("max_at_k", "anneal") else options
            expected = advantage(group[present][None], name, progress=0.5, **alone)[0]
            torch.testing.assert_close(group_values[present], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_groups_with_fewer_than_two_rewards_give_zeros(name, options):
    rewards = torch.tensor([[NAN] * 6, [0.7] + [NAN] * 5, [0.3072] * 6, [0.0] * 6])
    assert advantage(rewards, name, progress=0.5, **options).abs().max() < 1e-3


@pytest.mark.parametrize(("name", "options"), ALL)
def test_the_order_of_the_rows_does_not_matter(name, options):
    rewards = drawn(20, 16, seed=5)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    values = advantage(rewards, name, progress=0.5, **options)
    torch.testing.assert_close(
        advantage(rewards[:, order], name, progress=0.5, **options), values[:, order], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_shift_of_all_rewards_changes_nothing(name, options):
    """What the weighting of negative rewards leans on."""
    rewards = drawn(10, 8, seed=2)
    success = (torch.nan_to_num(rewards) > 0).tolist()
    values = advantage(rewards, name, progress=0.5, success=success, **options)
    shifted = advantage(rewards + 0.25, name, progress=0.5, success=success, **options)
    torch.testing.assert_close(shifted, values, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_equal_rewards_give_equal_advantages_and_are_not_changed(name, options):
    rewards = drawn(10, 16)
    before = rewards.clone()
    values = advantage(rewards, name, progress=0.5, **options)
    assert torch.equal(values, advantage(rewards, name, progress=0.5, **options)) and values.dtype == torch.float32
    assert torch.equal(torch.nan_to_num(rewards, nan=-1), torch.nan_to_num(before, nan=-1))


@pytest.mark.parametrize(("name", "options"), ALL)
def test_no_better_reward_has_a_smaller_advantage(name, options):
    values = advantage(torch.rand(10, 12).sort(dim=1).values, name, progress=0.5, **options)
    assert (values.diff(dim=1) >= -1e-6).all() and (values[:, -1] > values[:, 0]).all()
