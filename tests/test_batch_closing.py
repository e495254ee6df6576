"""When a batch closes and which groups it trains: cases worked by hand for quorum, deferral, last chances and masks."""

import pytest

from ideator_rl.errors import IdeatorError
from ideator_rl.training.batch_closing import ClosingRule, Layout, Outcome, TrainBatch

TWO_GROUPS = Layout(groups=2, group_size=4, rows_per_rank=8)


def parse(text):
    """One sign a row: a digit is its reward, `l` a lost experiment, `.` an awaited one; blanks separate groups."""
    signs = text.replace(" ", "")
    return [
        None if s == "." else Outcome([None], "lost") if s == "l" else Outcome([float(s)], "succeeded") for s in signs
    ]


def close(rule, index, rows, deferred=(), earlier_rows=None, layout=TWO_GROUPS):
    earlier = {batch: parse(text) for batch, text in (earlier_rows or {}).items()}
    return rule.close(index, layout, {index: parse(rows), **earlier}, list(deferred))


def slots(train_batch):
    return [(slot.slot, slot.batch, slot.group) for slot in train_batch.slots]


def test_a_complete_batch_trains_every_group_in_its_own_slot():
    train_batch = close(ClosingRule(), 3, "1234 5678")
    assert slots(train_batch) == [(0, 3, 0), (1, 3, 1)] and train_batch.deferred == [] == train_batch.dropped


def test_a_quorum_is_a_share_of_the_rows_rounded_up():
    rule = ClosingRule(quorum=0.9)
    assert not rule.has_quorum(parse("1234 56..")) and not rule.has_quorum(parse("1234 567."))  # 7 of 8 are under 90 %
    assert ClosingRule(quorum=0.75).has_quorum(parse("1234 56..")) and rule.has_quorum(parse("1234 567l"))


def test_a_batch_is_due_by_its_quorum_or_by_its_deadline():
    rule = ClosingRule(quorum=0.75, deadline=60)
    assert rule.is_due(parse("1234 56.."), 0) and rule.is_due(parse(".... ...."), 60)
    assert not rule.is_due(parse("1234 5..."), 59)
    assert not ClosingRule(quorum=0.75).is_due(parse("1234 5..."), 1e9), "no deadline"


def test_a_batch_closes_empty_only_when_every_outcome_has_come_and_not_all_are_lost():
    rule = ClosingRule()
    assert not rule.may_close_empty({1: parse("1lll llll"), 0: parse("12.. llll")}, lambda: True)
    assert rule.may_close_empty({1: parse("1lll llll")}, lambda: False)
    assert rule.may_close_empty({1: parse("llll llll")}, lambda: True), "the budget is spent"
    with pytest.raises(IdeatorError, match="Every experiment of this batch was lost"):
        rule.may_close_empty({1: parse("llll llll")}, lambda: False)


def test_an_incomplete_group_is_deferred_and_trained_later_in_a_free_slot():
    rule = ClosingRule(quorum=0.75, max_age=4)
    first = close(rule, 0, "1234 5...")
    assert slots(first) == [(0, 0, 0)] and first.deferred == [(0, 1)]
    second = close(rule, 1, "1... 5678", first.deferred, {0: "1234 5678"})
    assert slots(second) == [(1, 1, 1), (0, 0, 1)] and second.deferred == [(1, 0)]
    assert [outcome.rewards for outcome in second.slots[1].outcomes] == [[5.0], [6.0], [7.0], [8.0]]


def test_a_group_with_its_own_quorum_is_trained_with_its_missing_rows_masked():
    train_batch = close(ClosingRule(quorum=0.75), 0, "123. 5678")
    assert slots(train_batch) == [(0, 0, 0), (1, 0, 1)] and train_batch.slots[0].outcomes[3] is None


def test_a_deferred_group_without_a_free_slot_waits_and_is_dropped_at_its_last_chance():
    rule = ClosingRule(quorum=0.75, max_age=2)
    assert close(rule, 1, "1234 5678", [(0, 1)], {0: "1234 5678"}).deferred == [(0, 1)]
    last = close(rule, 2, "1234 5678", [(0, 1)], {0: "1234 5678"})
    assert last.deferred == [] and last.dropped == [(0, 1)]


def test_at_its_last_chance_a_group_is_trained_with_the_rewards_it_has():
    rule = ClosingRule(quorum=1.0, max_age=1)
    train_batch = close(rule, 1, "1234 5...", [(0, 0)], {0: "12.. 5678"})
    assert (1, 0, 0) in slots(train_batch) and train_batch.deferred == [(1, 1)]
    too_few = close(rule, 1, "1234 5...", [(0, 0)], {0: "1... 5678"})
    assert too_few.dropped == [(0, 0)], "one reward has no other to be compared with"


@pytest.mark.parametrize(
    ("rows", "trained"),
    [("12.. ....", [(0, 3, 0)]), ("1... ....", []), ("11.. ....", []), ("1234 56..", [(0, 3, 0)])],
)
def test_past_its_deadline_a_batch_without_a_ready_group_trains_those_with_two_different_rewards(rows, trained):
    rule = ClosingRule(deadline=60)
    overdue = rule.close(3, TWO_GROUPS, {3: parse(rows)}, seconds=60)
    assert slots(overdue) == trained and (3, 1) in overdue.deferred, "a ready group leaves the others deferred"
    early = rule.close(3, TWO_GROUPS, {3: parse(rows)}, seconds=59)
    assert slots(early) == (trained if "1234" in rows else [])


def test_past_its_deadline_a_batch_trains_a_deferred_group_with_two_different_rewards():
    overdue = ClosingRule(deadline=60).close(1, TWO_GROUPS, {1: parse(8 * "."), 0: parse("12.. 5678")}, [(0, 0)], 0, 60)
    assert slots(overdue) == [(0, 0, 0)] and overdue.deferred == [(1, 0), (1, 1)]


def test_a_lost_group_and_a_group_with_a_single_reward_are_dropped_at_once():
    train_batch = close(ClosingRule(), 0, "llll 1lll")
    assert slots(train_batch) == [] and train_batch.dropped == [(0, 0), (0, 1)]


def test_lost_rows_are_final_and_count_for_the_quorum():
    assert slots(close(ClosingRule(), 0, "12ll 5678")) == [(0, 0, 0), (1, 0, 1)]


def test_a_group_takes_a_slot_only_if_its_rows_are_at_the_same_ranks():
    one_group_a_rank = Layout(groups=2, group_size=4, rows_per_rank=4)
    rule = ClosingRule(quorum=0.75)
    train_batch = close(rule, 1, "1... 5678", [(0, 1)], {0: "1234 5678"}, one_group_a_rank)
    assert slots(train_batch) == [(1, 1, 1)] and (0, 1) in train_batch.deferred, "its rows are at another rank"
    straddling = Layout(groups=3, group_size=4, rows_per_rank=6)
    assert [straddling.rows_by_rank(group) for group in range(3)] == [((0, 4),), ((0, 2), (1, 2)), ((1, 4),)]
    assert straddling.local_rows(1, 0) == [4, 5] and straddling.local_rows(1, 1) == [0, 1]


def test_the_oldest_deferred_group_gets_a_free_slot_first():
    earlier = {0: "1234 5678", 1: "1234 5678"}
    train_batch = close(ClosingRule(quorum=0.5), 2, "1... 5678", [(0, 1), (1, 0)], earlier)
    assert (0, 0, 1) in slots(train_batch) and train_batch.deferred == [(1, 0), (2, 0)]


def test_a_train_batch_is_read_from_json_as_it_was_written():
    train_batch = close(ClosingRule(quorum=0.75), 1, "123. 5l..", [(0, 1)], {0: "1234 5..."})
    body = train_batch.to_json()
    assert TrainBatch.from_json(body) == train_batch
    assert {"seats", "parked"} <= set(body), "runs of 0.1.0 have these names on disk"
