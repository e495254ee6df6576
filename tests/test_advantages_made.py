"""Cluster weights, and the advantage of a name with options: built-in, the user's own, wrong."""

import re
from pathlib import Path

import pytest
import torch
from advantage_rows import NAN, advantage, drawn, facts, present_rows

from ideator_rl.errors import IdeatorError
from ideator_rl.training.advantages import AdvantageError, check_cluster_weight, cluster_weighted, make_advantage

# --- clusters ---------------------------------------------------------------------------------------------------------


def test_ips_divides_by_how_often_the_cluster_was_sampled():
    rewards = torch.tensor([[1.0, 1.0, 0.5, 0.0, 1.0, NAN]])
    group_facts = facts(rewards, cells=[[3, 3, 3, 3, -1, 3]])  # of five rows present, four in one cluster
    torch.testing.assert_close(
        cluster_weighted(rewards, group_facts, "ips"),
        torch.tensor([[1.25, 1.25, 0.625, 0.0, 5.0, NAN]]),
        equal_nan=True,
    )
    floored = cluster_weighted(rewards, group_facts, "ips", floor=0.5)
    torch.testing.assert_close(floored, torch.tensor([[1.25, 1.25, 0.625, 0.0, 2.0, NAN]]), equal_nan=True)


def test_share_multiplies_by_the_share_of_the_others_in_other_clusters():
    rewards = torch.tensor([[1.0, 1.0, 0.5, 0.0, 1.0, NAN], [1.0, 0.5, NAN, NAN, NAN, NAN]])
    group_facts = facts(rewards, cells=[[3, 3, 7, 3, -1, -1], [2, 2, 2, 2, 2, 2]])
    expected = torch.tensor([[0.5, 0.5, 0.5, 0.0, 1.0, NAN], [0.02, 0.01, NAN, NAN, NAN, NAN]])
    torch.testing.assert_close(cluster_weighted(rewards, group_facts, "share"), expected, equal_nan=True)


@pytest.mark.parametrize("kind", ["ips", "share"])
def test_cluster_weights_are_those_of_a_direct_count(kind):
    rewards = drawn(20, 80, seed=9)
    cells = torch.randint(-2, 4, (20, 80), generator=torch.Generator().manual_seed(2))
    expected = torch.full_like(rewards, NAN)
    for p, group in enumerate(rewards.tolist()):
        rows = present_rows(group)
        for i, value in rows:
            own_cell = cells[p, i].item()
            size = sum(cells[p, j].item() == own_cell for j, _ in rows) if own_cell >= 0 else 1
            n = len(rows)
            expected[p, i] = value / max(size / n, 0.02) if kind == "ips" else value * max((n - size) / (n - 1), 0.02)
    weighted = cluster_weighted(rewards, facts(rewards, cells=cells.tolist()), kind)
    torch.testing.assert_close(weighted, expected, equal_nan=True)


def test_unknown_clusters_are_not_one_cluster():
    rewards = torch.ones(1, 4)
    torch.testing.assert_close(cluster_weighted(rewards, facts(rewards), "ips"), torch.full((1, 4), 4.0))


@pytest.mark.parametrize("kind", ["ips", "share"])
def test_of_equal_negative_rewards_the_rarer_cluster_earns_more(kind):
    rewards = torch.tensor([[-1.0, -1.0, -1.0, -3.0]])
    weighted = cluster_weighted(rewards, facts(rewards, cells=[[1, 1, 2, 1]]), kind)[0]
    assert weighted[2] > weighted[0] == weighted[1] > weighted[3] == 0


def test_unknown_cluster_weights_are_refused():
    with pytest.raises(AdvantageError, match="Did you mean 'share'"):
        check_cluster_weight("shares")
    for floor in (0.0, 1.5, True, "0.1"):
        with pytest.raises(AdvantageError, match="above 0"):
            check_cluster_weight("ips", floor)


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "size", "message"),
    [
        ("gprol", {}, None, "Did you mean 'grpo'"),
        ("xyz", {}, None, "Known: grpo, dr_grpo"),
        ("nowhere.at.all", {}, None, "cannot be imported"),
        ("math.floor", {}, None, "is part of Python's own library"),
        ("numpy.pi", {}, None, "is a float; expected a function"),
        ("numpy.linalg.inv", {}, None, "cannot be called as f"),
        ("max_at_k", {"kk": 4}, None, "Did you mean 'k'"),
        ("grpo", {"k": 4}, None, "Known: none"),
        ("max_at_k", {"k": 1}, None, "at least 2"),
        ("max_at_k", {"k": 4.0}, None, "whole number"),
        ("max_at_k", {"k": True}, None, "whole number"),
        ("max_at_k", {"k": 17}, 16, "but a group has 16"),
        ("max_at_k", {"center": 1}, None, "true or false"),
        ("entropic", {"gamma": 0}, None, "above 0"),
        ("entropic", {"gamma": NAN}, None, "above 0"),
        ("entropic", {"clip": -1.0}, None, "above 0"),
        ("entropic", {"beta_max": float("inf")}, None, "above 0"),
        ("anneal", {"end": 1.2}, None, "0 to 1"),
        ("anneal", {"start": 0.5, "end": 0.5}, None, "start must come before end"),
        ("grpo", {}, 1, "nothing to compare"),
    ],
)
def test_a_wrong_name_or_option_is_refused_before_a_run_starts(name, options, size, message):
    with pytest.raises(IdeatorError, match=re.escape(message)):
        make_advantage(name, options, size)


def test_an_option_of_null_is_its_default():
    rewards = drawn(4, 16)
    assert torch.equal(advantage(rewards, "max_at_k", k=None), advantage(rewards, "max_at_k"))


def test_the_example_of_the_docs_is_an_advantage(tmp_path, monkeypatch):
    page = (Path(__file__).parent.parent / "docs" / "reference" / "advantages.md").read_text()
    (tmp_path / "my_advantages.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1))
    monkeypatch.syspath_prepend(tmp_path)
    rewards = torch.tensor([[0.1, 0.4, NAN, 0.3, 0.2], [0.5, NAN, NAN, NAN, NAN]])
    values = advantage(rewards, "my_advantages.top_share", keep=0.5)
    assert values.tolist() == [[-1.0, 1.0, 0.0, 1.0, -1.0], [0.0] * 5]
    with pytest.raises(AdvantageError, match="cannot be called"):
        make_advantage("my_advantages.top_share", {"keeep": 0.5})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return rewards_PG[:, :1]", "expected a tensor of shape"),
        ("return rewards_PG / 0", "not finite"),
        ("return None", "returned NoneType"),
    ],
)
def test_the_result_of_an_own_advantage_is_checked(tmp_path, monkeypatch, body, message):
    module = f"own_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(f"def wrong(rewards_PG, facts):\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AdvantageError, match=message):
        advantage([[1.0, 2.0]], f"{module}.wrong")


def test_rewards_and_facts_that_do_not_fit_are_refused():
    rewards = torch.tensor([[1.0, 2.0]])
    with pytest.raises(AdvantageError, match="cell_PG of shape"):
        make_advantage("grpo")(rewards, facts(rewards, cells=[[1, 2, 3]]))
    with pytest.raises(AdvantageError, match="groups by completions"):
        make_advantage("grpo")(rewards[0], facts(rewards[0]))
    with pytest.raises(AdvantageError, match="infinite"):
        advantage([[1.0, float("inf")]], "grpo")
