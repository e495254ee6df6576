"""Rewards that judge texts: values by hand, the same rewards after a kill, and ways a policy might cheat."""

import asyncio
import pickle
import re
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import run
from scripted import idea

from ideator_rl.errors import IdeatorError
from ideator_rl.registry import resolve_reward
from ideator_rl.reward_buffer import open_buffer
from rewards.execution import execution_reward
from rewards.format import format_reward
from rewards.improvement import improvement_reward
from rewards.length import length_reward
from rewards.novelty import novelty, novelty_reward
from rewards.shaping import Worth, shaping
from rewards.similarity import jaccard, similarity_penalty
from rewards.simplicity import simplicity_reward, size

SHAPING = {
    "format": format_reward,
    "length": length_reward,
    "novelty": novelty_reward,
    "similarity": similarity_penalty,
    "simplicity": simplicity_reward,
}


@pytest.fixture
def buffer(toy_config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    buffer = open_buffer(replace(toy_config, implementer="scripted.ScriptedImplementer"))
    yield buffer
    buffer.close()


@pytest.fixture
def flaky(buffer, monkeypatch):
    """Experiments of ideas with the word `lost` are lost; the list returned holds every completion that is run."""
    execute, completions_run = buffer.executor.execute, []

    async def sometimes(completion, replicate=0):
        completions_run.append(completion)
        record = await execute(completion, replicate)
        if "lost" not in completion:
            return record
        return replace(record, status="lost", reward=None, error={"kind": "lost", "message": "Node died."})

    monkeypatch.setattr(buffer.executor, "execute", sometimes)
    return completions_run


def columns(buffer, rows, **more):
    batch_columns = {key: value for key, value in asdict(buffer.config).items() if value not in (None, "")}
    return {key: [value] * rows for key, value in (batch_columns | more).items()}


def call_together(functions, completions, step=None, ids=None, **batch_columns):
    """As stock TRL 1.16 calls them: all at once, each awaited."""
    state = None if step is None else SimpleNamespace(global_step=step)

    async def all_of_them():
        prompts = ["p"] * len(completions)
        return await asyncio.gather(
            *(function(prompts, completions, ids, trainer_state=state, **batch_columns) for function in functions)
        )

    return run(all_of_them())


def call_alone(function, completions, ids=None, **options):
    batch_columns = {name: [value] * len(completions) for name, value in options.items()}
    return call_together([function], completions, None, ids, **batch_columns)[0]


# Novelty.


def unit(*rows):
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_novelty_is_the_mean_distance_to_the_nearest_by_hand():
    own, past = unit([1, 0], [0, 1], [1, 1]), unit([1, 0])
    half = 1 - np.sqrt(0.5)
    assert novelty(own, past, 1) == pytest.approx([0.0, half, half], abs=1e-6)
    assert novelty(own, past, 2) == pytest.approx([half / 2, (half + 1) / 2, half], abs=1e-6)
    assert novelty(own, past, 9) == pytest.approx([(half + 1) / 3, (half + 2) / 3, half], abs=1e-6)
    assert novelty(unit([1, 0]), past[:0], 5) == [1.0] and novelty(own[:0], past, 5).shape == (0,)
    assert novelty(unit([1, 0], [-1, 0]), past[:0], 1) == pytest.approx([1.0, 1.0]), (
        "an opposite is no newer than a stranger"
    )


def test_ideas_with_equal_changes_have_distance_0_whatever_their_words():
    own, past = unit([1, 0, 0], [0, 1, 0]), unit([0, 0, 1], [0, 0, 1])
    assert novelty(own, past, 1, np.array([1, 2, 3, 4])) == pytest.approx([1.0, 1.0])
    assert novelty(own, past, 1, np.array([1, 2, 1, 4])) == pytest.approx([0.0, 1.0])
    assert novelty(own, past, 3, np.array([1, 1, 1, 4])) == pytest.approx([1 / 3, 1 / 3])
    texts = [text_about("a", "Set x = 1"), text_about("b", "set  x = 1"), text_about("c", "Set x = 2")]
    assert call_alone(novelty_reward, texts, novelty_embedder="test_shaping.Letters", novelty_k=1) == [0.0, 0.0, 1.0]


def test_an_idea_without_words_for_the_embedder_earns_no_novelty():
    assert (
        call_alone(novelty_reward, [text_about("?!"), text_about("🙂 …"), text_about("___")], novelty_embedder="hashed")
        == [0.0] * 3
    )


class Letters:
    """An embedder that counts how often a text has an a, a b, or a c."""

    name = "letters"

    def embed(self, texts):
        rows = np.array([[text.count(letter) for letter in "abc"] for text in texts], np.float32).reshape(-1, 3)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(lengths > 0, lengths, 1)


def text_about(experiment, changes="x = 1.0"):
    return f"[Experiment] {experiment} [Code Changes] {changes} [End]"


def test_without_experiments_ideas_are_compared_within_their_batch_only():
    texts = [
        text_about("aa", "1"),
        text_about("bb", "2"),
        text_about("b", "3"),
        "a text without an idea",
        text_about("zzz", "4"),
    ]
    batch_columns = {"novelty_embedder": "test_shaping.Letters", "novelty_k": 1}
    assert call_alone(novelty_reward, texts, **batch_columns) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_only_a_successful_and_new_codebase_earns_novelty(buffer, flaky):
    batch_columns = columns(buffer, 5, novelty_embedder="test_shaping.Letters", novelty_k=1)
    first = [
        text_about("a", "x = 1.0"),
        text_about("b", "x = 200.0"),
        text_about("bc", "w = 0"),
        text_about("c lost", "x = 2.0"),
        "nothing",
    ]
    _, earned = call_together([execution_reward, novelty_reward], first, 0, **batch_columns)
    assert earned == [1.0, 0.0, 0.0, None, 0.0]
    second = [
        text_about("c", "x = 1.0"),
        text_about("ab", "x = 3.0"),
        text_about("a", "y = 1.0"),
        text_about("b", "z = 1.0"),
        text_about("b", "z = 2.0"),
    ]
    _, earned = call_together([execution_reward, novelty_reward], second, 1, **batch_columns)
    # The first has new words and an old codebase; the second lies between a and b; the others repeat words.
    assert earned == pytest.approx([0.0, 1 - np.sqrt(0.5), 0.0, 0.0, 0.0], abs=1e-6)
    batch_columns["novelty_of"] = ["proposed"] * 5
    third = [text_about("c", "x = 4.0"), text_about("bc", "v = 1"), *second[2:]]
    assert call_together([execution_reward, novelty_reward], third, 2, **batch_columns)[1] == pytest.approx(
        [0.0] * 5, abs=1e-6
    )


def test_an_idea_near_a_frequent_proposal_earns_little_novelty(buffer):
    batch_columns = columns(buffer, 4, novelty_embedder="test_shaping.Letters", novelty_k=3, novelty_of="proposed")
    call_together([execution_reward], [text_about("a")] * 3 + [text_about("b", "x = 2.0")], 0, **batch_columns)
    rewards = call_together(
        [novelty_reward], [text_about("a", "y = 1.0"), text_about("b", "y = 2.0"), "no", "no"], 1, **batch_columns
    )[0]
    assert rewards == pytest.approx([0.0, 2 / 3, 0, 0]), "b has one b and three a's before it, and an a beside it"


# Similarity.


def test_jaccard_by_hand():
    texts = [{"a", "b", "c"}, {"x"}, set()]
    assert jaccard(texts, [{"a", "b"}, {"b", "c", "d"}, set()]) == [[2 / 3, 0.5, 0.0], [0.0] * 3, [0.0] * 3]


def test_the_penalty_compares_with_the_proposals_of_the_step_before(buffer):
    batch_columns = columns(buffer, 2)
    call_together(
        [execution_reward],
        [text_about("raise the rate", "x = 1"), text_about("nothing alike", "y = 2")],
        3,
        **batch_columns,
    )
    call_together([execution_reward], [text_about("Raise the rate", "z = 5"), "no idea"], 5, **batch_columns)
    texts = [text_about("raise the RATE", "z = 5"), text_about("raise", "q = 7")]
    # Of step 5 only: {raise, the, rate, z, 5}; the second shares 1 of 7.
    assert call_together([similarity_penalty], texts, 7, **batch_columns)[0] == pytest.approx([-1.0, -1 / 7])
    more = batch_columns | {"similarity_steps": [9, 9]}
    # Of step 3 too: {raise, the, rate, x, 1} shares 3 of 7, {nothing, alike, y, 2} none.
    assert call_together([similarity_penalty], texts[:1] * 2, 7, **more)[0] == pytest.approx([-(1 + 3 / 7 + 0) / 3] * 2)
    to_nearest = more | {"similarity_to": ["nearest"] * 2}
    assert call_together([similarity_penalty], texts, 7, **to_nearest)[0] == pytest.approx([-1.0, -1 / 7])
    assert call_together([similarity_penalty], texts, 3, **batch_columns)[0] == [0.0, 0.0], "nothing came before step 3"


def test_a_text_without_an_idea_has_the_full_penalty(buffer):
    assert call_together([similarity_penalty], ["no idea", text_about("new")], 0, **columns(buffer, 2))[0] == [
        -1.0,
        0.0,
    ]


# Simplicity.

PATCH = """diff --git a/a.py b/a.py
--- a/a.py
+++ b/a.py
@@ -1,4 +1,5 @@
 x = 1
--- a comment in SQL
+y = 2
+++ z
 w = 3
 @@ no header @@
@@ -9 +10 @@
-old
+new
\\ No newline at end of file
diff --git a/b.py b/b.py
new file mode 100644
--- /dev/null
+++ b/b.py
@@ -0,0 +1,2 @@
+one
+""" + "x" * 250 + "\n"  # fmt: skip


def test_changed_lines_and_files_are_counted_and_a_long_line_counts_several_times():
    assert size(PATCH) == (5 + 1 + 3, 2) and size("") == (0, 0)


def test_a_small_patch_earns_more_a_failure_earns_0_and_no_idea_runs_twice(buffer, flaky):
    texts = [
        idea("x = 1.0"),
        idea("x = 200.0"),
        "nothing",
        idea("x = 2.0", "lost"),
        idea("w = 1.0"),
        idea("x = 1.0", "again"),
    ]
    for functions in ([execution_reward, simplicity_reward], [simplicity_reward, execution_reward]):
        flaky.clear()
        rewards_by_function = call_together(functions, texts, 0, **columns(buffer, 6))
        simple = rewards_by_function[functions.index(simplicity_reward)]
        # One line for one: 1 / (1 + 2/20).
        assert simple == pytest.approx([1 / 1.1, 0.0, 0.0, None, 0.0, 1 / 1.1])
        assert sorted(flaky) == sorted(texts) and len(buffer.history) % 6 == 0
    batch_columns = columns(buffer, 6, simplicity_lines=2.0)
    assert call_together([improvement_reward, simplicity_reward], texts, 1, **batch_columns)[1][0] == pytest.approx(0.5)


def test_simplicity_without_a_function_that_runs_experiments_is_refused(buffer):
    with pytest.raises(IdeatorError, match="simplicity_reward reads what the experiments .* .execution, simplicity"):
        call_together([simplicity_reward], [idea("x = 1.0")], 0, **columns(buffer, 1))


# All of them.


def test_in_a_stock_trainer_every_function_returns_none_for_a_lost_row(buffer, flaky):
    texts = [idea("x = 1.0", "a thought"), idea("x = 2.0", "lost for words"), "no idea", idea("y = 1.0")]
    batch_columns = columns(buffer, 4, novelty_embedder="hashed")
    for step, functions in enumerate(([execution_reward, *SHAPING.values()], [*SHAPING.values(), execution_reward])):
        rewards = call_together(functions, texts, step, ids=[[0] * 9] * 4, **batch_columns)
        assert all(row[1] is None and None not in (row[0], row[2], row[3]) for row in rewards)
    assert len(flaky) == 8


def test_streams_give_the_same_rewards_except_for_lost_rows(buffer, flaky):
    texts = [idea("x = 1.0", "a thought"), idea("x = 2.0", "lost"), "no idea", idea("y = 1.0")]
    batch_columns = columns(buffer, 4, novelty_embedder="hashed")
    functions = [*SHAPING.values(), execution_reward]
    plain = call_together(functions, texts, 0, **batch_columns)

    async def read(function):
        stream = function.as_completed(
            ["p"] * 4, texts, None, trainer_state=SimpleNamespace(global_step=0), **batch_columns
        )
        return {item.row: item.reward async for item in stream}

    async def all_of_them():
        return await asyncio.gather(*map(read, functions))

    for streamed, rewards in zip(run(all_of_them()), plain, strict=True):
        assert [streamed[row] for row in (0, 2, 3)] == [rewards[row] for row in (0, 2, 3)]


def test_a_batch_that_another_process_resumes_earns_the_same(buffer):
    batch_columns = columns(buffer, 3, novelty_embedder="hashed")
    functions = [execution_reward, novelty_reward, similarity_penalty, simplicity_reward]
    call_together(
        functions,
        [text_about("one way", "x = 1.0"), text_about("a second", "y = 1.0"), text_about("more", "x = 3.0")],
        0,
        **batch_columns,
    )
    texts = [
        text_about("a third way", "x = 1.0"),
        text_about("quite new", "z = 3.0"),
        text_about("a second", "y = 0.0"),
    ]
    before = call_together(functions, texts, 1, **batch_columns)
    call_together(functions, [text_about("a later thought", "z = 1.0")] * 3, 2, **batch_columns)
    buffer.close()
    again = open_buffer(buffer.config)
    assert call_together(functions, texts, 1, **batch_columns) == before and before[1][0] == 0.0 < before[1][1]
    again.close()


def test_functions_and_streams_can_be_pickled_and_resolved_by_name():
    for name, function in SHAPING.items():
        assert resolve_reward(name) is function
        assert pickle.loads(pickle.dumps(function)) is function
        assert pickle.loads(pickle.dumps(function.as_completed)) is function.as_completed
        assert function.__doc__ and function.options is not None


def test_the_reward_in_the_docs_works(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / "docs" / "how-to" / "own-reward.md").read_text()
    (tmp_path / "my_rewards.py").write_text(re.search(r"```python\n(.*?)```", text, re.S)[1])
    monkeypatch.syspath_prepend(tmp_path)
    brief = resolve_reward("my_rewards.brief_reward")
    assert call_alone(brief, ["one two", "one two three"], brief_words=2) == [1.0, 0.0]
    with pytest.raises(IdeatorError, match="brief_words holds 0; expected a whole number of at least 1"):
        call_alone(brief, ["one"], brief_words=0)


@pytest.mark.parametrize(
    ("function", "option", "message"),
    [
        (length_reward, {"length_cap": 0}, "length_cap holds 0; expected a number of at least 1"),
        (length_reward, {"length_unit": "pages"}, "expected tokens or words"),
        (length_reward, {"length_most": float("nan")}, "a number of at least 0"),
        (format_reward, {"format_strict": "yes"}, "expected true or false"),
        (novelty_reward, {"novelty_k": 2.5}, "a whole number of at least 1"),
        (novelty_reward, {"novelty_embedder": "no.such"}, "no embedder 'no.such'"),
        (similarity_penalty, {"similarity_steps": True}, "a whole number"),
        (simplicity_reward, {"simplicity_lines": 0}, "simplicity_lines"),
    ],
)  # fmt: skip
def test_an_option_out_of_its_range_is_refused_with_the_range(function, option, message):
    with pytest.raises(IdeatorError, match=message):
        call_alone(function, [idea("x = 1")], **option)


def test_an_option_that_differs_between_rows_is_refused():
    with pytest.raises(IdeatorError, match="length_cap differs between rows"):
        call_together([length_reward], ["a", "b"], length_cap=[10, 20])


def test_every_function_logs_its_metrics(buffer):
    logged = defaultdict(list)
    texts = [idea("x = 1.0", "two words"), idea("y = 1.0")]
    batch_columns = columns(buffer, 2, novelty_embedder="hashed", length_unit="words")
    functions = [execution_reward, *SHAPING.values()]
    call_together(functions, texts, 0, log_metric=lambda name, value: logged[name].append(value), **batch_columns)
    assert logged["length/thought"] == [1.0] and logged["simplicity/lines"] == [2, 2]
    assert logged["similarity/mean"] == [0.0] and 0 <= logged["novelty/mean"][0] <= 1


def test_worth_takes_the_names_of_0_1_0_with_a_warning():
    with pytest.warns(DeprecationWarning, match="by_text"):
        assert Worth(words=[1.0]) == Worth([1.0])
    with pytest.warns(DeprecationWarning, match="by_outcome"):
        assert Worth([1.0], judged=max).by_outcome is max


@pytest.mark.parametrize("count", [1, 3])
def test_a_function_that_returns_too_few_or_too_many_values_is_refused_in_stock_trl(count):
    @shaping({})
    def wrong(call):
        return Worth([1.0] * count)

    with pytest.raises(IdeatorError, match="wrong returned rewards for . rows of 2 completions"):
        run(wrong(prompts=["", ""], completions=["a", "b"]))
