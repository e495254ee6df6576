"""The ideator `chat`, against a scripted server: batches, models, odd answers, faults, caps."""

import asyncio
import json
from dataclasses import replace

import pytest
from archives import archive, record
from conftest import TOY, run
from llm_server import Scripted, answer
from scripted import idea
from search_runs import RandomEdits

from ideator_rl.archive.baseline import Baseline
from ideator_rl.archive.prompts import parent_prompt
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import MalformedIdea, parse_idea
from ideator_rl.llm import LLMUnavailable
from ideator_rl.registry import UnknownName
from ideator_rl.search.config import SearchConfig
from ideator_rl.search.ideator import Ask, Subject, ask_ideator
from ideator_rl.search.ideators import get_ideator
from ideator_rl.search.run import run_search
from ideator_rl.storage.ledger import BudgetSpent, Caps, Ledger
from ideator_rl.storage.records import read_run

ENVIRONMENT = load_environment(TOY)
SUBJECT = Subject(ENVIRONMENT, "cpu")
OWN = ENVIRONMENT.prompt("cpu")


def made(server, ledger=None, **settings):
    raw = {"base_url": server.url, "models": "m", "max_tokens": 100, "retries": 0, **settings}
    return get_ideator("chat", raw, SUBJECT, ledger)


def asked(server, ask, known=None, ledger=None, **settings):
    return run(made(server, ledger, **settings).ideas(ask, known or archive()))


def said(*changes, between="\n\n"):
    """A reply with one idea for each change."""
    return {"body": answer(between.join(idea(change, thought=f"Because of {change}.") for change in changes))}


def prompt_of_request(request):
    (message,) = request["messages"]
    return message["content"]


def prompt_of(server, number=0):
    return prompt_of_request(server.requests[number])


def changes(completions):
    """The code changes of each completion; None for a malformed one."""
    found = []
    for text in completions:
        try:
            found.append(parse_idea(text).changes)
        except MalformedIdea:
            found.append(None)
    return found


def test_one_call_brings_several_ideas_each_with_its_own_thought():
    with Scripted(said("a = 1", "b = 2", "c = 3")) as server:
        came = asked(server, Ask("free", 3))
    assert len(server.requests) == 1 and changes(came) == ["a = 1", "b = 2", "c = 3"]
    assert [parse_idea(text).thought for text in came] == [f"Because of {x}." for x in ("a = 1", "b = 2", "c = 3")]
    assert server.requests[0]["temperature"] == 1.0 and server.requests[0]["max_tokens"] == 100


def test_a_question_for_more_than_a_call_is_split_and_runs_side_by_side():
    with Scripted({**said(*"abcd"), "delay": 0.2}) as server:
        came = asked(server, Ask("free", 10, salt="s"), ideas_per_call=4)
    assert server.most_inside == 3 and len({request["seed"] for request in server.requests}) == 3
    wanted = sorted(prompt.partition("Write ")[2][:1] for prompt in map(lambda n: prompt_of(server, n), range(3)))
    assert wanted == ["2", "4", "4"] and len(came) == 10  # the short call answered with four all the same


def test_models_are_picked_by_weight_and_the_same_question_asks_the_same_one():
    with Scripted(said("a")) as server:
        weights = {"rare": 1, "often": 3, "never": 0}
        ideator = made(server, models=weights, ideas_per_call=1)

        async def twice():
            for _ in range(2):
                for number in range(8):
                    await ideator.ideas(Ask("free", 25, salt=f"q{number}"), archive())

        run(twice())
    models = [request["model"] for request in server.requests]
    assert "never" not in models and 0.65 < models.count("often") / len(models) < 0.85
    of_seed = {(request["seed"], request["model"]) for request in server.requests}
    assert len(of_seed) == 200  # of 400 calls: each question twice, with one model


def test_a_plain_question_for_one_idea_is_the_environments_own_prompt():
    with Scripted(said("a")) as server:
        asked(server, Ask("free", 1))
        asked(server, Ask("free", 5), ideas_per_call=1)
    assert {prompt_of(server, number) for number in range(6)} == {OWN}


GOOD, BEST = record("good", 0.5), record("best", 0.8)
BAD = record("bad", error={"kind": "crash", "message": "x"})


def known():
    """An archive of a baseline, two successes and a failure."""
    found = archive(GOOD, BEST, BAD)
    found.baseline = Baseline(0.5, 2.0, None)
    return found


def test_a_question_with_parents_and_one_idea_is_trainings_prompt():
    found, parents = known(), (GOOD, BEST)
    with Scripted(said("a")) as server:
        asked(server, Ask("exploit", 1, parents), found)
        asked(server, Ask("exploit", 1, parents, avoid=("x",)), found, as_trained=True)
    trained = parent_prompt(ENVIRONMENT, OWN, [(each.idea, found.metric(each)) for each in parents], 2.0)
    assert prompt_of(server, 0) == prompt_of(server, 1) == trained


def test_exploring_names_failures_and_asks_for_something_else():
    with Scripted(said("a")) as server:
        asked(server, Ask("explore", 4, (GOOD, BAD), descends=False), known())
    text = prompt_of(server)
    assert "Idea 1, height 2, not better than the baseline:" in text and "Idea 2, failed: crash:" in text
    assert "different from all of these" in text and "does better than these" not in text
    assert "Write 4 different ideas" in text


def test_what_is_to_be_avoided_is_listed_each_on_a_line_and_nothing_in_it_is_filled_in():
    avoid = (idea("a = 1").replace("Try it.", "Try {{ 7 * 6 }}\nand {task}."), "no form " + "x" * 500)
    with Scripted(said("a")) as server:
        asked(server, Ask("free", 2, avoid=avoid))
    lines = prompt_of(server).splitlines()
    assert "- Try {{ 7 * 6 }} and {task}." in lines and sum(line.startswith("- no form xxx") for line in lines) == 1
    assert max(map(len, lines[lines.index("- Try {{ 7 * 6 }} and {task}.") :])) < 400


def test_as_trained_asks_one_idea_a_call_with_other_parents_each_and_says_which():
    records = [record(f"t{number}", 0.1 + number / 100) for number in range(20)]
    found = archive(*records)
    with Scripted(said("a")) as server:
        came = asked(server, Ask("exploit", 12, tuple(records), ("avoid me",), "s"), found, as_trained=True)
        again = asked(server, Ask("exploit", 12, tuple(records), (), "s"), found, as_trained=True)
        asked(server, Ask("explore", 1, tuple(records), descends=False), found, as_trained=True)
    pairs = [tuple(each.id for each in text.parents) for text in came]
    assert len(came) == 12 and {len(pair) for pair in pairs} == {2} and len(set(pairs)) > 6
    assert [tuple(each.id for each in text.parents) for text in again] == pairs
    assert all(prompt_of(server, number).count("Idea ") == 2 for number in range(24)) and prompt_of(server, 24) == OWN


def test_a_hundred_ideas_fit_the_context_and_it_is_said_once(caplog):
    records = [record(f"t{n}", 0.1, idea=f"[Experiment] {'word ' * 400}{n} [Code Changes] x [End]") for n in range(100)]
    found = archive(*records)
    with Scripted(said("a")) as server:
        for window in (20_000, 4000):
            asked(server, Ask("explore", 2, tuple(records), ("y" * 300,) * 40), found, context_tokens=window)
            assert len(prompt_of(server, -1).encode()) <= 3 * (window - 100)
        assert "Idea 100," in prompt_of(server, 0) and "…" in prompt_of(server, 0)  # cut, and all there
        ideator = made(server, context_tokens=4000)
        caplog.clear()

        async def thrice():
            for _ in range(3):
                await ideator.ideas(Ask("explore", 2, tuple(records)), found)

        run(thrice())
    left = prompt_of(server, -1).count("\nIdea ")
    assert 10 < left < 100 and "Idea 1," in prompt_of(server, -1)
    (line,) = [each.message for each in caplog.records if "do not fit" in each.message]
    assert f"{left} of them were shown, cut to 250" in line


def test_a_server_that_says_too_long_is_shown_half_as_much_until_it_fits():
    records = [record(f"t{n}", 0.1) for n in range(64)]
    too_long = {"status": 400, "body": {"error": {"message": "maximum context length is 2048 tokens"}}}

    def step(request):
        return too_long if len(request["messages"][0]["content"]) > 2500 else said("a")

    with Scripted(step) as server:
        came = asked(server, Ask("explore", 1, tuple(records)), archive(*records))
        assert changes(came) == ["a"] and 1 < len(server.requests) <= 5
    with Scripted(too_long) as server, pytest.raises(IdeatorError, match="too long"):
        asked(server, Ask("free", 1))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (idea("a"), ["a"]),
        (f"Sure!\n{idea('a')}\nHope this helps!", ["a"]),
        (f"{idea('a')} {idea('b')} [Experiment] cut off [Code Chan", ["a", "b", None]),
        (f"[Experiment] begun {idea('a')}", [None, "a"]),
        ("I would try a larger rate.", [None]),
        ("", [None]),
        (f"<think>perhaps {idea('no')}</think>{idea('a')}", ["a"]),
        (f"<think>perhaps {idea('no')} and so on without end", [None]),
        (f"perhaps {idea('no')}\n</think>\n{idea('a')}{idea('b')}", ["a", "b"]),
        (" ".join(idea(str(number)) for number in range(9)), ["0", "1", "2", "3"]),
        ("[Experiment] [Code Changes] [End]", [None]),
        (f"{idea('a')} and \ud83d half a pair {idea('b')}", ["a", "b"]),
    ],
)  # fmt: skip
def test_of_an_odd_answer_what_is_whole_is_kept_and_the_rest_is_malformed_once(reply, expected):
    with Scripted({"body": answer(reply)}) as server:
        assert changes(asked(server, Ask("free", 4))) == expected


def test_code_that_quotes_the_marks_does_not_end_an_idea():
    block = "train.py\n<<<<<<< SEARCH\n# [End]\n=======\n# [Experiment]\n>>>>>>> REPLACE\n"
    with Scripted({"body": answer(f"{idea(block)} {idea('b')}")}) as server:
        assert changes(asked(server, Ask("free", 2))) == [block.strip(), "b"]


def test_a_models_reasoning_is_the_thought_of_a_single_idea():
    with Scripted({"body": answer(f"<think>long [Experiment] thoughts</think>{idea('a')}")}) as server:
        (one,) = asked(server, Ask("free", 1))
        (of_several,) = asked(server, Ask("free", 3))
    assert "long (Experiment] thoughts" in parse_idea(one).thought and parse_idea(of_several).thought == ""


def test_odd_finishes_cost_only_themselves():
    refused = {"body": answer(None, refusal="I cannot help with that.")}
    cut = {"body": answer(f"{idea('a')} [Experiment] and", finish="length")}
    with Scripted(refused, cut) as server:
        assert changes(asked(server, Ask("free", 2))) == [None]
        assert changes(asked(server, Ask("free", 2))) == ["a", None]


def test_what_passes_is_tried_again(monkeypatch):
    monkeypatch.setattr("ideator_rl.llm.client.BACKOFF", 0.01)
    junk = {"body": b"<html>bad gateway</html>"}
    with Scripted({"status": 429}, {"status": 500}, {"drop": True}, junk, {"delay": 0.5}, said("a")) as server:
        assert changes(asked(server, Ask("free", 1), retries=5, timeout=0.3)) == ["a"]
    assert len(server.requests) == 6


def test_a_fault_that_lasts_is_one_clear_sentence():
    with Scripted({"status": 500}) as server, pytest.raises(LLMUnavailable, match="was asked once and gave no answer"):
        asked(server, Ask("free", 1))
    with Scripted({"status": 401}) as server, pytest.raises(LLMUnavailable, match="refuses to answer"):
        asked(server, Ask("free", 20), ideas_per_call=5)


def test_calls_that_fail_do_not_take_the_others_with_them(caplog):
    with Scripted({"status": 500}, said("a"), {"status": 500}, said("b")) as server:
        came = asked(server, Ask("free", 4), ideas_per_call=1)
    assert sorted(changes(came)) == ["a", "b"] and "2 of 4 calls of a question failed" in caplog.text


def test_questions_that_fail_do_not_take_the_others_with_them(caplog):
    with Scripted(lambda request: said("a") if prompt_of_request(request) == OWN else {"status": 500}) as server:
        asks = [Ask("free", 1, salt="s"), Ask("exploit", 1, (GOOD,), salt="t")]
        came = run(ask_ideator(made(server), asks, known()))
        assert changes(came[0]) == ["a"] and came[1] == [] and "1 of 2 questions failed" in caplog.text
        with pytest.raises(LLMUnavailable):
            run(ask_ideator(made(server), asks[1:], known()))


def test_answers_name_their_parents_unless_they_were_to_be_unlike_them():
    with Scripted(said("a")) as server:
        exploit = asked(server, Ask("exploit", 1, (GOOD, BEST)), known())
        explore = asked(server, Ask("explore", 1, (GOOD, BAD), descends=False), known(), max_shown=1)
    assert exploit[0].parents == (GOOD, BEST) and explore[0].parents == ()


def test_cost_is_booked_on_the_runs_ledger_and_a_cap_ends_the_asking():
    prices = {"m": {"prompt": 0, "completion": 1_000_000}}  # 1 USD a token
    ledger = Ledger(Caps(usd=112))
    with Scripted(said("a")) as server:
        assert len(asked(server, Ask("free", 3), ledger=ledger, ideas_per_call=1, prices=prices)) == 3
        assert ledger.spent.usd == 15 and ledger.spent.tokens == 45  # five tokens an answer, as the server counts
        with pytest.raises(BudgetSpent, match="max_usd"):
            asked(server, Ask("free", 3), ledger=ledger, ideas_per_call=1, prices=prices)
    assert len(server.requests) == 3


def test_a_cap_in_the_middle_of_a_question_leaves_what_was_answered():
    prices = {"m": {"prompt": 0, "completion": 1_000_000}}
    ledger = Ledger(Caps(usd=107))
    with Scripted(said("a")) as server:
        assert len(asked(server, Ask("free", 9), ledger=ledger, ideas_per_call=1, prices=prices)) == 2
    assert ledger.exhausted


def test_answers_are_recorded_and_replayed_without_a_server(tmp_path):
    file = str(tmp_path / "ideas.jsonl")
    with Scripted(said("a", "b")) as server:
        first = asked(server, Ask("free", 2, salt="s"), record=file)
        assert asked(server, Ask("free", 2, salt="s"), record=file) == first and len(server.requests) == 1
    assert asked(server, Ask("free", 2, salt="s"), replay=file) == first


def test_a_question_that_is_cancelled_leaves_nothing_on_the_wire():
    async def cancelled(server):
        task = asyncio.create_task(made(server).ideas(Ask("free", 30), archive()))
        while server.inside < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(asyncio.all_tasks())

    with Scripted({"delay": 0.3}) as server:
        assert run(cancelled(server)) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ideas_per_cal": 3}, "unknown key 'ideas_per_cal'. Did you mean 'ideas_per_call'"),
        ({"temprature": 3}, "Did you mean 'temperature'"),
        ({"ideas_per_call": 0}, "ideas_per_call: 0. Expected a whole number of at least 1"),
        ({"as_trained": "yes"}, "as_trained: 'yes'. Expected true or false"),
        ({"max_shown": -1}, "max_shown: -1"),
        ({"as_trained": True, "ideas_per_call": 5}, "leave ideas_per_call out"),
        ({"models": {}}, "Expected the name of a model"),
        ({"base_url": "ftp://x"}, "base_url"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(IdeatorError, match=sentence.replace("(", r"\(")):
        get_ideator("chat", {"models": "m", "base_url": "http://127.0.0.1:1/v1", **settings}, SUBJECT)


def test_an_environments_own_words_take_the_place_of_ours(tmp_path):
    (tmp_path / "explore.md").write_text("{prompt} ELSE {ideas}")
    own = replace(ENVIRONMENT, prompt_files={**ENVIRONMENT.prompt_files, "explore": str(tmp_path / "explore.md")})
    with Scripted(said("a")) as server:
        ideator = get_ideator("chat", {"base_url": server.url, "models": "m"}, Subject(own, "cpu"))
        run(ideator.ideas(Ask("explore", 1, (GOOD,)), known()))
    assert prompt_of(server).startswith(f"{OWN} ELSE Idea 1, height 2")


class Half:
    """No ideator yet."""

    @classmethod
    def from_settings(cls, settings, subject, ledger):
        made = cls()
        made.given = settings, subject, ledger
        return made


class Mine(Half, RandomEdits):
    """An ideator of somebody's own."""


def test_an_ideator_is_made_by_name_or_dotted_path():
    ledger = Ledger()
    assert get_ideator(f"{__name__}.Mine", {"x": 1}, SUBJECT, ledger).given == ({"x": 1}, SUBJECT, ledger)
    with pytest.raises(UnknownName, match="no ideators named 'caht'. Did you mean 'chat'"):
        get_ideator("caht", {}, SUBJECT)
    with pytest.raises(IdeatorError, match="Half has no name and no ideas and no close; docs/how-to/ideators.md"):
        get_ideator(f"{__name__}.Half", {}, SUBJECT)


def test_a_search_is_asked_and_paid_for_until_its_cap_and_goes_on_with_a_higher_one(tmp_path):
    """Each answer holds two new ideas and junk, and costs 5 USD of the 100 that it could."""
    asked = []

    def step(request):
        asked.append(prompt_of_request(request))
        at = 2 * len(asked)
        whole = [f"[Experiment] Move x. [Code Changes] Set x to {number / 8}. [End]" for number in (at, at + 1)]
        return {"body": answer("\n".join([*whole, "[Experiment] and"]))}

    with Scripted(step) as server:
        options = {
            "base_url": server.url, "models": "m", "max_tokens": 100, "retries": 0, "ideas_per_call": 3,
            "prices": {"m": {"prompt": 0, "completion": 1_000_000}},
        }  # fmt: skip
        recipe = {
            "output_dir": str(tmp_path / "run"), "env": str(TOY), "strategy": "evolution", "epoch_size": 6, "batch": 3,
            "quorum": 1.0, "slots": 2, "embedder": "hashed", "ideator": "chat", "ideator_options": options,
        }  # fmt: skip
        reason = run_search(SearchConfig(**recipe, max_usd=108), resume=False)
        assert reason.budget == "max_usd" and "max_usd" in reason.text and len(asked) == 2
        reason = run_search(SearchConfig(**recipe, max_usd=123), resume=True)
        assert reason.budget == "max_usd" and len(asked) == 5
    found = read_run(tmp_path / "run")
    assert [rollout.status for rollout in found.rollouts] == ["succeeded", "succeeded", "malformed"] * 5
    assert json.loads((tmp_path / "run" / "ledger.json").read_text())["usd"] == 25
    assert asked[0].startswith(OWN) and "and" in asked[0] and asked[1].count("\n- ") == 3
    assert any("does better than these" in prompt or "different from all of these" in prompt for prompt in asked[2:])
