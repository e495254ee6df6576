"""Rewards that look at words: values by hand, what a kill changes (nothing), and what a policy might try."""

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
    """Experiments of ideas that speak of a lost node are lost; `asked` counts what is run."""
    execute, asked = buffer.executor.execute, []

    async def sometimes(completion, replicate=0):
        asked.append(completion)
        made = await execute(completion, replicate)
        if "lost" not in completion:
            return made
        return replace(made, status="lost", reward=None, error={"kind": "lost", "message": "Node died."})

    monkeypatch.setattr(buffer.executor, "execute", sometimes)
    return asked


def columns(buffer, rows, **more):
    given = {key: value for key, value in asdict(buffer.config).items() if value not in (None, "")}
    return {key: [value] * rows for key, value in (given | more).items()}


def together(functions, completions, step=None, ids=None, **given):
    """As stock TRL 1.16 calls them: all at once, each awaited."""
    state = None if step is None else SimpleNamespace(global_step=step)

    async def all_of_them():
        prompts = ["p"] * len(completions)
        return await asyncio.gather(
            *(each(prompts, completions, ids, trainer_state=state, **given) for each in functions)
        )

    return run(all_of_them())


def alone(function, completions, ids=None, **options):
    given = {name: [value] * len(completions) for name, value in options.items()}
    return together([function], completions, None, ids, **given)[0]


# Novelty.


def unit(*rows):
    made = np.array(rows, np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


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


def test_equal_changes_are_one_place_whatever_is_said_of_them():
    own, past = unit([1, 0, 0], [0, 1, 0]), unit([0, 0, 1], [0, 0, 1])
    assert novelty(own, past, 1, np.array([1, 2, 3, 4])) == pytest.approx([1.0, 1.0])
    assert novelty(own, past, 1, np.array([1, 2, 1, 4])) == pytest.approx([0.0, 1.0])
    assert novelty(own, past, 3, np.array([1, 1, 1, 4])) == pytest.approx([1 / 3, 1 / 3])
    texts = [about("a", "Set x = 1"), about("b", "set  x = 1"), about("c", "Set x = 2")]
    assert alone(novelty_reward, texts, novelty_embedder="test_shaping.Letters", novelty_k=1) == [0.0, 0.0, 1.0]


def test_words_that_an_embedder_cannot_read_are_not_new():
    assert alone(novelty_reward, [about("?!"), about("🙂 …"), about("___")], novelty_embedder="hashed") == [0.0] * 3


class Letters:
    """Stands for an embedder: how often a text has an a, a b, or a c."""

    name = "letters"

    def embed(self, texts):
        rows = np.array([[text.count(each) for each in "abc"] for text in texts], np.float32).reshape(-1, 3)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(lengths > 0, lengths, 1)


def about(words, changes="x = 1.0"):
    return f"[Experiment] {words} [Code Changes] {changes} [End]"


def test_without_experiments_the_batch_is_all_there_is_to_compare_with():
    texts = [about("aa", "1"), about("bb", "2"), about("b", "3"), "a text without an idea", about("zzz", "4")]
    given = {"novelty_embedder": "test_shaping.Letters", "novelty_k": 1}
    assert alone(novelty_reward, texts, **given) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_only_what_ran_and_was_not_known_earns_novelty(buffer, flaky):
    given = columns(buffer, 5, novelty_embedder="test_shaping.Letters", novelty_k=1)
    first = [
        about("a", "x = 1.0"),
        about("b", "x = 200.0"),
        about("bc", "w = 0"),
        about("c lost", "x = 2.0"),
        "nothing",
    ]
    _, earned = together([execution_reward, novelty_reward], first, 0, **given)
    assert earned == [1.0, 0.0, 0.0, None, 0.0]
    second = [
        about("c", "x = 1.0"),
        about("ab", "x = 3.0"),
        about("a", "y = 1.0"),
        about("b", "z = 1.0"),
        about("b", "z = 2.0"),
    ]
    _, earned = together([execution_reward, novelty_reward], second, 1, **given)
    # The first has new words and an old codebase; the second lies between a and b; the others repeat words.
    assert earned == pytest.approx([0.0, 1 - np.sqrt(0.5), 0.0, 0.0, 0.0], abs=1e-6)
    given["novelty_of"] = ["proposed"] * 5
    third = [about("c", "x = 4.0"), about("bc", "v = 1"), *second[2:]]
    assert together([execution_reward, novelty_reward], third, 2, **given)[1] == pytest.approx([0.0] * 5, abs=1e-6)


def test_what_was_proposed_often_is_a_crowded_place(buffer):
    given = columns(buffer, 4, novelty_embedder="test_shaping.Letters", novelty_k=3, novelty_of="proposed")
    together([execution_reward], [about("a")] * 3 + [about("b", "x = 2.0")], 0, **given)
    rewards = together([novelty_reward], [about("a", "y = 1.0"), about("b", "y = 2.0"), "no", "no"], 1, **given)[0]
    assert rewards == pytest.approx([0.0, 2 / 3, 0, 0]), "b has one b and three a's before it, and an a beside it"


# Similarity.


def test_jaccard_by_hand():
    texts = [{"a", "b", "c"}, {"x"}, set()]
    assert jaccard(texts, [{"a", "b"}, {"b", "c", "d"}, set()]) == [[2 / 3, 0.5, 0.0], [0.0] * 3, [0.0] * 3]


def test_the_penalty_is_for_what_the_step_before_proposed(buffer):
    given = columns(buffer, 2)
    together([execution_reward], [about("raise the rate", "x = 1"), about("nothing alike", "y = 2")], 3, **given)
    together([execution_reward], [about("Raise the rate", "z = 5"), "no idea"], 5, **given)
    words = [about("raise the RATE", "z = 5"), about("raise", "q = 7")]
    # Of step 5 only: {raise, the, rate, z, 5}; the second shares 1 of 7.
    assert together([similarity_penalty], words, 7, **given)[0] == pytest.approx([-1.0, -1 / 7])
    more = given | {"similarity_steps": [9, 9]}
    # Of step 3 too: {raise, the, rate, x, 1} shares 3 of 7, {nothing, alike, y, 2} none.
    assert together([similarity_penalty], words[:1] * 2, 7, **more)[0] == pytest.approx([-(1 + 3 / 7 + 0) / 3] * 2)
    near = more | {"similarity_to": ["nearest"] * 2}
    assert together([similarity_penalty], words, 7, **near)[0] == pytest.approx([-1.0, -1 / 7])
    assert together([similarity_penalty], words, 3, **given)[0] == [0.0, 0.0], "nothing came before step 3"


def test_to_have_no_form_is_no_way_out_of_the_penalty(buffer):
    assert together([similarity_penalty], ["no idea", about("new")], 0, **columns(buffer, 2))[0] == [-1.0, 0.0]


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


def test_changed_lines_and_files_are_counted_and_a_page_in_one_line_is_a_page():
    assert size(PATCH) == (5 + 1 + 3, 2) and size("") == (0, 0)


def test_a_small_patch_earns_more_and_a_failure_nothing_and_nothing_runs_twice(buffer, flaky):
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
        found = together(functions, texts, 0, **columns(buffer, 6))
        simple = found[functions.index(simplicity_reward)]
        # One line for one: 1 / (1 + 2/20).
        assert simple == pytest.approx([1 / 1.1, 0.0, 0.0, None, 0.0, 1 / 1.1])
        assert sorted(flaky) == sorted(texts) and len(buffer.history) % 6 == 0
    given = columns(buffer, 6, simplicity_lines=2.0)
    assert together([improvement_reward, simplicity_reward], texts, 1, **given)[1][0] == pytest.approx(0.5)


def test_simplicity_without_experiments_is_told(buffer):
    with pytest.raises(IdeatorError, match="simplicity_reward reads what the experiments .* .execution, simplicity"):
        together([simplicity_reward], [idea("x = 1.0")], 0, **columns(buffer, 1))


# All of them.


def test_a_lost_row_has_none_from_every_function_of_a_stock_trainer(buffer, flaky):
    texts = [idea("x = 1.0", "a thought"), idea("x = 2.0", "lost for words"), "no idea", idea("y = 1.0")]
    given = columns(buffer, 4, novelty_embedder="hashed")
    for step, functions in enumerate(([execution_reward, *SHAPING.values()], [*SHAPING.values(), execution_reward])):
        rewards = together(functions, texts, step, ids=[[0] * 9] * 4, **given)
        assert all(each[1] is None and None not in (each[0], each[2], each[3]) for each in rewards)
    assert len(flaky) == 8


def test_streams_say_the_same_but_leave_the_lost_to_their_trainer(buffer, flaky):
    texts = [idea("x = 1.0", "a thought"), idea("x = 2.0", "lost"), "no idea", idea("y = 1.0")]
    given = columns(buffer, 4, novelty_embedder="hashed")
    functions = [*SHAPING.values(), execution_reward]
    plain = together(functions, texts, 0, **given)

    async def read(function):
        stream = function.as_completed(["p"] * 4, texts, None, trainer_state=SimpleNamespace(global_step=0), **given)
        return {each.row: each.reward async for each in stream}

    async def all_of_them():
        return await asyncio.gather(*map(read, functions))

    for found, rewards in zip(run(all_of_them()), plain, strict=True):
        assert [found[row] for row in (0, 2, 3)] == [rewards[row] for row in (0, 2, 3)]


def test_a_batch_that_is_taken_up_by_another_process_earns_the_same(buffer):
    given = columns(buffer, 3, novelty_embedder="hashed")
    functions = [execution_reward, novelty_reward, similarity_penalty, simplicity_reward]
    together(
        functions, [about("one way", "x = 1.0"), about("a second", "y = 1.0"), about("more", "x = 3.0")], 0, **given
    )
    texts = [about("a third way", "x = 1.0"), about("quite new", "z = 3.0"), about("a second", "y = 0.0")]
    before = together(functions, texts, 1, **given)
    together(functions, [about("a later thought", "z = 1.0")] * 3, 2, **given)
    buffer.close()
    again = open_buffer(buffer.config)
    assert together(functions, texts, 1, **given) == before and before[1][0] == 0.0 < before[1][1]
    again.close()


def test_the_functions_and_their_streams_can_be_pickled_and_found_by_name():
    for name, function in SHAPING.items():
        assert resolve_reward(name) is function
        assert pickle.loads(pickle.dumps(function)) is function
        assert pickle.loads(pickle.dumps(function.as_completed)) is function.as_completed
        assert function.__doc__ and function.options is not None


def test_the_reward_of_the_docs_works_as_it_stands(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / "docs" / "how-to" / "own-reward.md").read_text()
    (tmp_path / "my_rewards.py").write_text(re.search(r"```python\n(.*?)```", text, re.S)[1])
    monkeypatch.syspath_prepend(tmp_path)
    brief = resolve_reward("my_rewards.brief_reward")
    assert alone(brief, ["one two", "one two three"], brief_words=2) == [1.0, 0.0]
    with pytest.raises(IdeatorError, match="brief_words holds 0; expected a whole number of at least 1"):
        alone(brief, ["one"], brief_words=0)


@pytest.mark.parametrize(
    ("function", "option", "told"),
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
def test_an_option_that_cannot_be_is_told(function, option, told):
    with pytest.raises(IdeatorError, match=told):
        alone(function, [idea("x = 1")], **option)


def test_an_option_that_differs_between_rows_is_told():
    with pytest.raises(IdeatorError, match="length_cap differs between rows"):
        together([length_reward], ["a", "b"], length_cap=[10, 20])


def test_metrics_are_told(buffer):
    told = defaultdict(list)
    texts = [idea("x = 1.0", "two words"), idea("y = 1.0")]
    given = columns(buffer, 2, novelty_embedder="hashed", length_unit="words")
    functions = [execution_reward, *SHAPING.values()]
    together(functions, texts, 0, log_metric=lambda name, value: told[name].append(value), **given)
    assert told["length/thought"] == [1.0] and told["simplicity/lines"] == [2, 2]
    assert told["similarity/mean"] == [0.0] and 0 <= told["novelty/mean"][0] <= 1
