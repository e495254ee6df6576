import asyncio
import pickle
import random
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import asdict, replace
from statistics import fmean
from types import SimpleNamespace

import pytest
from archives import archive, record
from conftest import run
from scripted import idea

from ideator_rl.archive.baseline import Baseline
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.reward_buffer import open_buffer
from rewards.execution import execution_reward
from rewards.improvement import Bar, bar_of, improvement_reward
from rewards.support.experiments import refuse_if_all_lost


@pytest.fixture
def buffer(toy_config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # no noise was measured
    buffer = open_buffer(replace(toy_config, implementer="scripted.ScriptedImplementer"))
    yield buffer
    buffer.close()


def columns(buffer, rows, **more):
    batch_columns = {key: value for key, value in asdict(buffer.config).items() if value not in (None, "")}
    return {key: [value] * rows for key, value in (batch_columns | more).items()}


def at(step):
    return SimpleNamespace(global_step=step)


def reward(buffer, completions, step=None, **more):
    batch_columns = {**columns(buffer, len(completions)), **more}
    state = None if step is None else at(step)
    return run(improvement_reward(["p"] * len(completions), completions, trainer_state=state, **batch_columns))


async def read(stream):
    return [item async for item in stream]


def ten():
    """Elites of quality 0.1, 0.2, … 1.0."""
    return archive(*(record(f"t{i}", i / 10) for i in range(1, 11)))


def test_the_bar_is_the_kth_elite_and_the_scale_two_percent_of_the_range():
    bar = bar_of(ten(), 0.0, {"improvement_k": 3})
    assert (bar.level, bar.margin, bar.record_count) == (0.8, 0.0, 10) and bar.scale == pytest.approx(0.02 * 0.9)
    assert bar.earned(0.8) == bar.earned(0.5) == 0.0
    assert bar.earned(0.818) == pytest.approx(1.0) and bar.earned(0.89) == pytest.approx(5.0)
    assert bar.earned(2.0) == 10.0


def test_the_mean_of_the_parents_raises_the_bar_and_never_lowers_it():
    bar = Bar(level=0.8, margin=0.0, scale=0.1, cap=10.0, record_count=0)
    assert bar.earned(1.0, parents=0.9) == pytest.approx(1.0) and bar.earned(1.0, parents=0.1) == pytest.approx(2.0)


def test_the_noise_of_a_run_raises_the_bar():
    archived = ten()
    archived.baseline = Baseline(0.5, 2.0, spread=0.05)
    assert bar_of(archived, 0.0, {"improvement_k": 3}).margin == 0.05
    bar = bar_of(archived, 0.0, {"improvement_k": 3, "improvement_noise": 0.1, "improvement_scale": 0.5})
    assert bar.earned(0.9) == 0.0 and bar.earned(1.0) == pytest.approx(0.2)


def test_the_baseline_is_the_bar_before_there_are_k_elites_and_its_floor_after():
    archived = archive(record("a", 0.1), record("b", 0.9))
    archived.baseline = Baseline(0.5, 2.0, spread=None)
    assert bar_of(archived, 0.0).level == 0.5
    assert bar_of(archived, 0.0, {"improvement_k": 2}).level == 0.5
    assert bar_of(archived, 0.0, {"improvement_k": 1}).level == 0.9


def test_with_an_empty_archive_the_failure_reward_is_the_bar():
    assert bar_of(archive(), 0.0) == Bar(0.0, 0.0, 1.0, 10.0, 0)
    assert bar_of(archive(record("a")), -2.0) == Bar(-2.0, 0.0, 0.04, 10.0, 1)
    archived = archive()
    archived.baseline = Baseline(0.5, 2.0, spread=None)
    assert bar_of(archived, 0.0) == Bar(0.5, 0.0, 0.01, 10.0, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("improvement_k", 0), ("improvement_scale", 0), ("improvement_cap", -1), ("improvement_noise", float("nan")), ("improvement_k", "many")],
)  # fmt: skip
def test_an_option_out_of_its_range_is_refused(name, value):
    with pytest.raises(IdeatorError, match=f"column {name} holds .*; expected a (whole )?number of at least"):
        bar_of(archive(), 0.0, {name: value})


def test_ideas_earn_their_improvement_and_known_codebases_and_failures_0(buffer):
    run(buffer.baseline())  # height 0.5 + 9 + 36 + 0.1 = 45.6
    options = columns(buffer, 5, improvement_scale=0.01, improvement_k=2) | {"parents": [[]] * 5}
    ideas = [idea("x = 1.0"), idea("x = 2.0"), idea("x = 200.0"), "nothing", idea("x = 1.0", "again")]
    gain = (1 / 36.6 - 1 / 45.6) / 0.01
    first = reward(buffer, ideas, 0, **options)
    assert first == pytest.approx([gain, (1 / 37.6 - 1 / 45.6) / 0.01, 0.0, 0.0, gain])
    best = next(item for item in buffer.history if item.reward == pytest.approx(1 / 36.6))
    again = [idea("x =  1.0"), idea("y = -2.0"), idea("y = -2.0", "with parents"), idea("x = 2.0"), idea("y = 5.0")]
    second = reward(buffer, again, 1, **options | {"parents": [[], [], [best.id], [], []]})
    assert second == pytest.approx([0.0, (1 / 9.6 - 1 / 45.6) / 0.01, (1 / 9.6 - 1 / 36.6) / 0.01, 0.0, 0.0])
    child = next(item for item in buffer.history if item.reward == pytest.approx(1 / 9.6))
    assert buffer.lineage == [(child.id, (best.id,), 1)]


def test_a_lost_row_earns_none_and_a_batch_with_lost_rows_only_is_refused(buffer, monkeypatch):
    execute = buffer.executor.execute

    async def flaky(completion, replicate=0):
        record = await execute(completion, replicate)
        broken = "lost" in completion
        return (
            replace(record, status="lost", reward=None, error={"kind": "lost", "message": "Node died."})
            if broken
            else record
        )

    monkeypatch.setattr(buffer.executor, "execute", flaky)
    assert reward(buffer, [idea("x = 1.0", "lost"), idea("x = 2.0")], 0)[0] is None
    assert buffer.lineage == []
    earned = reward(buffer, [idea("x = 1.0"), idea("x = 2.0")], 1, parents=[["p"], ["p"]])
    assert earned[0] > 0 and earned[1] == 0.0  # the lost codebase does not count as seen
    assert [parents for _, parents, _ in buffer.lineage] == [("p",), ("p",)]
    with pytest.raises(IdeatorError, match="All 1 experiments of this batch were lost, the first because: Node died"):
        reward(buffer, [idea("y = 2.0", "lost")], 2)
    stream = improvement_reward.as_completed(["p"], [idea("y = 2.0", "lost")], **columns(buffer, 1))
    assert [(item.reward, item.status) for item in run(read(stream))] == [(None, "lost")]


def test_the_order_of_arrival_changes_nothing(buffer, monkeypatch):
    execute, ideas = buffer.executor.execute, [idea(f"x = {i}.0") for i in range(-2, 4)] + [idea("x = 1.0", "twice")]
    run(buffer.score([idea("y = 2.0"), idea("x = 3.0")], step=0))
    orders, earned = [], []
    for seed in range(3):
        rng = random.Random(seed)

        async def late(completion, replicate=0, rng=rng):
            record = await execute(completion, replicate)
            await asyncio.sleep(rng.random() / 10)
            return record

        monkeypatch.setattr(buffer.executor, "execute", late)
        stream = improvement_reward.as_completed(["p"] * 7, ideas, trainer_state=at(1), **columns(buffer, 7))
        rows = run(read(stream))
        orders.append([item.row for item in rows])
        earned.append([item.reward for item in sorted(rows, key=lambda item: item.row)])
    # The second and third time the batch is resumed, as after a crash: its own codebases must not count as seen.
    assert len(set(map(tuple, orders))) > 1 and earned[0] == earned[1] == earned[2]
    assert earned[0][5] == 0.0 and earned[0][3] == earned[0][6] > 0


def test_a_batch_that_another_process_resumes_earns_the_same(buffer):
    ideas, more = [idea("x = 1.0"), idea("y = 1.0")], [idea("x = 1.0"), idea("z = 3.0"), idea("y = 0.0")]
    reward(buffer, ideas, 0)
    before = reward(buffer, more, 1)
    reward(buffer, [idea("y = -2.0")], 2)  # raises the bar
    buffer.close()
    again = open_buffer(buffer.config)
    assert reward(again, more, 1) == before and before[0] == 0.0 and max(before) > 0
    assert reward(again, more, 3) == [0.0, 0.0, 0.0]
    again.close()


@pytest.mark.parametrize("reopened", [False, True], ids=["a step that is sampled anew", "a second run of one script"])
def test_a_known_codebase_earns_nothing_in_another_batch_of_the_same_step(buffer, reopened):
    assert reward(buffer, [idea("x = 1.0"), idea("y = 1.0")], 0)[0] > 0
    if reopened:
        buffer.close()
        buffer = open_buffer(buffer.config)
    assert reward(buffer, [idea("x = 1.0", "again"), idea("y = -2.0")], 0)[0] == 0.0
    buffer.close()


def test_a_stream_gives_every_row_once_with_its_record_and_cell(buffer):
    ideas = [idea("x = 1.0"), "nothing", idea("y = 1.0"), idea("w = 1.0"), idea("x = 200.0")]
    stream = execution_reward.as_completed(["p"] * 5, ideas, trainer_state=at(4), **columns(buffer, 5))
    rows = sorted(run(read(stream)), key=lambda item: item.row)
    assert [item.row for item in rows] == [0, 1, 2, 3, 4]
    assert [item.status for item in rows] == ["succeeded", "malformed", "succeeded", "unpatchable", "invalid"]
    assert [item.cell for item in rows] == ["train.py:x", "", "train.py:y", "", "train.py:x"]
    plain = run(execution_reward(["p"] * 5, ideas, trainer_state=at(5), **columns(buffer, 5)))
    assert [item.reward for item in rows] == plain and plain[0] == pytest.approx(1 / 36.6)
    assert all(item.experiment for item in rows)


def test_a_stream_yields_a_row_before_the_next_outcome(buffer):
    async def scenario():
        slow = asyncio.Event()
        execute = buffer.executor.execute

        async def waits(completion, replicate=0):
            if "y = 1.0" in completion:
                await slow.wait()
            return await execute(completion, replicate)

        buffer.executor.execute = waits
        stream = execution_reward.as_completed(["p"] * 2, [idea("y = 1.0"), idea("x = 1.0")], **columns(buffer, 2))
        first = await anext(stream)
        slow.set()
        return first.row, [item.row async for item in stream]

    assert run(scenario()) == (1, [0])


def test_rows_of_two_environments_are_run_in_one_batch(buffer, tmp_path):
    second = open_buffer(replace(buffer.config, preset="slow", run_dir=str(tmp_path / "other")))
    mixed = {
        key: [value, second_value]
        for (key, [value]), [second_value] in zip(columns(buffer, 1).items(), columns(second, 1).values(), strict=True)
    }
    rows = run(read(execution_reward.as_completed(["p"] * 2, [idea("x = 1.0"), idea("x = 2.0")], **mixed)))
    assert {item.row: item.reward for item in rows} == pytest.approx({0: 1 / 36.6, 1: 1 / 37.6})
    assert [len(buffer.history), len(second.history)] == [1, 1]
    second.close()


def test_an_error_in_a_stream_reaches_its_reader(buffer):
    batch_columns = columns(buffer, 1) | {"environment": ["nowhere"]}
    with pytest.raises(IdeatorError, match="There is no environment 'nowhere'"):
        run(read(execution_reward.as_completed(["p"], [idea("x = 1.0")], **batch_columns)))
    with pytest.raises(IdeatorError, match="no column preset"):
        run(read(improvement_reward.as_completed(["p"], ["x"], environment=["e"], bucket=["b"])))


def test_the_execution_rewards_are_logged_with_the_improvement(buffer):
    logged, extra = defaultdict(list), {}
    run(buffer.score([idea("x = 1.0")], step=0))
    ideas = [idea("x = 1.0"), idea("y = -2.0"), "nothing", idea("x = 2.0")]
    batch_columns = columns(buffer, 4)
    run(
        improvement_reward(
            ["p"] * 4,
            ideas,
            trainer_state=at(1),
            log_metric=lambda name, value: logged[name].append(value),
            log_extra=extra.__setitem__,
            **batch_columns,
        )
    )
    metrics = {name: fmean(values) for name, values in logged.items()}  # as TRL takes them
    assert metrics["execution/success"] == 0.75 and metrics["execution/success_reward_best"] == pytest.approx(1 / 9.6)
    assert metrics["improvement/known"] == 0.25 and metrics["improvement/improved"] == 0.5
    assert extra["execution_reward"] == pytest.approx([1 / 36.6, 1 / 9.6, 0.0, 1 / 37.6])
    assert extra["status"] == ["succeeded", "succeeded", "malformed", "succeeded"]


def test_the_functions_and_their_streams_can_be_pickled():
    for function in (execution_reward, improvement_reward):
        assert pickle.loads(pickle.dumps(function)) is function
        assert pickle.loads(pickle.dumps(function.as_completed)) is function.as_completed


def test_metrics_are_logged_for_the_rows_before_a_reader_stops(buffer):
    logged = defaultdict(list)

    async def first_two():
        rows = []
        stream = improvement_reward.as_completed(
            ["p"] * 3,
            ["nothing", "nothing either", idea("x = 2.0")],
            trainer_state=at(0),
            log_metric=lambda name, value: logged[name].append(value),
            **columns(buffer, 3),
        )
        async for item in stream:
            rows.append(item.row)
            if len(rows) == 2:
                break
        await stream.aclose()
        return rows

    assert sorted(run(first_two())) == [0, 1]
    assert logged["improvement/known"] == [0.0, 0.0] == logged["improvement/improved"]
    assert len(logged["improvement/level"]) == 1 and not logged["execution/success"]


@pytest.mark.parametrize(
    ("statuses", "refused"),
    [
        (["lost", "malformed", "malformed"], False),
        (["lost", "lost", "malformed"], True),
        (["lost", "succeeded"], False),
        (["lost"], True),
        (["malformed", "malformed"], False),
    ],
)
def test_a_batch_is_refused_if_everything_that_ran_was_lost_unless_it_was_one_idea_of_several(statuses, refused):
    records = [
        Experiment(f"{at}", status, "", "toy", "cpu", tree="" if status == "malformed" else f"{at}")
        for at, status in enumerate(statuses)
    ]
    with pytest.raises(IdeatorError, match="were lost") if refused else nullcontext():
        refuse_if_all_lost(records)
