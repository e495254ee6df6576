"""What is trained when a batch closes: hand-worked cases of quorum, parking, last chances and masks."""

from ideator_rl.training.batch_assembly import Closing, Layout, Outcome, Rule

TWO = Layout(groups=2, group_size=4, rows_per_rank=8)


def known(text):
    """One sign a row: a digit is its reward, `l` a lost experiment, `.` one that is awaited; blanks separate groups."""
    signs = text.replace(" ", "")
    return [
        None if s == "." else Outcome([None], "lost") if s == "l" else Outcome([float(s)], "succeeded") for s in signs
    ]


def close(rule, index, rows, parked=(), before=None, layout=TWO):
    before = {batch: known(text) for batch, text in (before or {}).items()}
    return rule.close(index, layout, {index: known(rows), **before}, list(parked))


def seated(closing):
    return [(seat.slot, seat.batch, seat.group) for seat in closing.seats]


def test_a_full_batch_is_trained_where_it_stands():
    closing = close(Rule(), 3, "1234 5678")
    assert seated(closing) == [(0, 3, 0), (1, 3, 1)] and closing.parked == [] == closing.dropped


def test_a_quorum_is_a_fraction_of_the_rows_rounded_up():
    rule = Rule(quorum=0.9)
    assert not rule.enough(known("1234 56..")) and not rule.enough(known("1234 567."))  # 7 of 8 are under 90 %
    assert Rule(quorum=0.75).enough(known("1234 56..")) and rule.enough(known("1234 567l"))


def test_an_incomplete_group_is_parked_and_trained_later_in_a_free_place():
    rule = Rule(quorum=0.75, max_age=4)
    first = close(rule, 0, "1234 5...")
    assert seated(first) == [(0, 0, 0)] and first.parked == [(0, 1)]
    second = close(rule, 1, "1... 5678", first.parked, {0: "1234 5678"})
    assert seated(second) == [(1, 1, 1), (0, 0, 1)] and second.parked == [(1, 0)]
    assert [outcome.rewards for outcome in second.seats[1].outcomes] == [[5.0], [6.0], [7.0], [8.0]]


def test_a_group_with_its_own_quorum_is_trained_with_its_missing_rows_masked():
    closing = close(Rule(quorum=0.75), 0, "123. 5678")
    assert seated(closing) == [(0, 0, 0), (1, 0, 1)] and closing.seats[0].outcomes[3] is None


def test_a_parked_group_without_a_free_place_waits_and_is_dropped_at_its_last_chance():
    rule = Rule(quorum=0.75, max_age=2)
    assert close(rule, 1, "1234 5678", [(0, 1)], {0: "1234 5678"}).parked == [(0, 1)]
    last = close(rule, 2, "1234 5678", [(0, 1)], {0: "1234 5678"})
    assert last.parked == [] and last.dropped == [(0, 1)]


def test_at_its_last_chance_a_group_is_trained_with_what_has_come():
    rule = Rule(quorum=1.0, max_age=1)
    closing = close(rule, 1, "1234 5...", [(0, 0)], {0: "12.. 5678"})
    assert (1, 0, 0) in seated(closing) and closing.parked == [(1, 1)]
    too_little = close(rule, 1, "1234 5...", [(0, 0)], {0: "1... 5678"})
    assert too_little.dropped == [(0, 0)], "one reward has nothing to be compared with"


def test_a_group_that_was_lost_is_dropped_at_once_and_one_reward_is_no_comparison():
    closing = close(Rule(), 0, "llll 1lll")
    assert seated(closing) == [] and closing.dropped == [(0, 0), (0, 1)]


def test_lost_rows_are_final_and_count_for_the_quorum():
    assert seated(close(Rule(), 0, "12ll 5678")) == [(0, 0, 0), (1, 0, 1)]


def test_groups_change_places_only_where_their_rows_lie_at_the_same_ranks():
    layout = Layout(groups=2, group_size=4, rows_per_rank=4)  # a group a rank
    rule = Rule(quorum=0.75)
    closing = close(rule, 1, "1... 5678", [(0, 1)], {0: "1234 5678"}, layout)
    assert seated(closing) == [(1, 1, 1)] and (0, 1) in closing.parked, "its rows are another rank's"
    straddling = Layout(groups=3, group_size=4, rows_per_rank=6)
    assert [straddling.span(group) for group in range(3)] == [((0, 4),), ((0, 2), (1, 2)), ((1, 4),)]
    assert straddling.local(1, 0) == [4, 5] and straddling.local(1, 1) == [0, 1]


def test_the_oldest_parked_group_is_seated_first():
    closing = close(Rule(quorum=0.5), 2, "1... 5678", [(0, 1), (1, 0)], {0: "1234 5678", 1: "1234 5678"})
    assert (0, 0, 1) in seated(closing) and closing.parked == [(1, 0), (2, 0)]


def test_a_closing_comes_back_from_json_as_it_was():
    closing = close(Rule(quorum=0.75), 1, "123. 5l..", [(0, 1)], {0: "1234 5..."})
    assert Closing.of(closing.to_json()) == closing
