"""The ideator `chat` with a scripted server: batches, models, bad answers, faults, caps."""

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
from ideator_rl.storage.run_reader import read_run

ENVIRONMENT = load_environment(TOY)
SUBJECT = Subject(ENVIRONMENT, "cpu")
OWN = ENVIRONMENT.prompt("cpu")


def chat_ideator(server, ledger=None, **settings):
    raw = {"base_url": server.url, "models": "m", "max_tokens": 100, "retries": 0, **settings}
    return get_ideator("chat", raw, SUBJECT, ledger)


def answers_to(server, ask, past=None, ledger=None, **settings):
    return run(chat_ideator(server, ledger, **settings).ideas(ask, past or archive()))


def reply_with(*changes, between="\n\n"):
    """A reply with one idea for each change."""
    return {"body": answer(between.join(idea(change, thought=f"Because of {change}.") for change in changes))}


def prompt_of_request(request):
    (message,) = request["messages"]
    return message["content"]


def prompt_of(server, number=0):
    return prompt_of_request(server.requests[number])


def changes(completions):
    """The code changes of each completion; None for a malformed one."""
    code_changes = []
    for text in completions:
        try:
            code_changes.append(parse_idea(text).changes)
        except MalformedIdea:
            code_changes.append(None)
    return code_changes


def test_one_call_returns_several_ideas_each_with_its_own_thought():
    with Scripted(reply_with("a = 1", "b = 2", "c = 3")) as server:
        answers = answers_to(server, Ask("free", 3))
    assert len(server.requests) == 1 and changes(answers) == ["a = 1", "b = 2", "c = 3"]
    assert [parse_idea(text).thought for text in answers] == [f"Because of {x}." for x in ("a = 1", "b = 2", "c = 3")]
    assert server.requests[0]["temperature"] == 1.0 and server.requests[0]["max_tokens"] == 100


def test_a_large_question_is_split_into_concurrent_calls():
    with Scripted({**reply_with(*"abcd"), "delay": 0.2}) as server:
        answers = answers_to(server, Ask("free", 10, salt="s"), ideas_per_call=4)
    assert server.most_inside == 3 and len({request["seed"] for request in server.requests}) == 3
    wanted = sorted(prompt.partition("Write ")[2][:1] for prompt in map(lambda n: prompt_of(server, n), range(3)))
    assert wanted == ["2", "4", "4"] and len(answers) == 10  # the short call returned four ideas as well


def test_models_are_picked_by_weight_and_a_question_always_picks_the_same():
    with Scripted(reply_with("a")) as server:
        weights = {"rare": 1, "often": 3, "never": 0}
        ideator = chat_ideator(server, models=weights, ideas_per_call=1)

        async def twice():
            for _ in range(2):
                for number in range(8):
                    await ideator.ideas(Ask("free", 25, salt=f"q{number}"), archive())

        run(twice())
    models = [request["model"] for request in server.requests]
    assert "never" not in models and 0.65 < models.count("often") / len(models) < 0.85
    of_seed = {(request["seed"], request["model"]) for request in server.requests}
    assert len(of_seed) == 200  # of 400 calls: each question twice, with one model


def test_a_free_question_for_one_idea_is_the_environments_own_prompt():
    with Scripted(reply_with("a")) as server:
        answers_to(server, Ask("free", 1))
        answers_to(server, Ask("free", 5), ideas_per_call=1)
    assert {prompt_of(server, number) for number in range(6)} == {OWN}


GOOD, BEST = record("good", 0.5), record("best", 0.8)
BAD = record("bad", error={"kind": "crash", "message": "x"})


def past_archive():
    """An archive of a baseline, two successes and a failure."""
    past = archive(GOOD, BEST, BAD)
    past.baseline = Baseline(0.5, 2.0, None)
    return past


def test_a_question_with_parents_for_one_idea_is_the_prompt_of_training():
    past, parents = past_archive(), (GOOD, BEST)
    with Scripted(reply_with("a")) as server:
        answers_to(server, Ask("exploit", 1, parents), past)
        answers_to(server, Ask("exploit", 1, parents, avoid=("x",)), past, as_trained=True)
    trained = parent_prompt(ENVIRONMENT, OWN, [(parent.idea, past.metric(parent)) for parent in parents], 2.0)
    assert prompt_of(server, 0) == prompt_of(server, 1) == trained


def test_an_explore_prompt_names_failures_and_asks_for_a_different_idea():
    with Scripted(reply_with("a")) as server:
        answers_to(server, Ask("explore", 4, (GOOD, BAD), descends=False), past_archive())
    text = prompt_of(server)
    assert "Idea 1, height 2, not better than the baseline:" in text and "Idea 2, failed: crash:" in text
    assert "different from all of these" in text and "does better than these" not in text
    assert "Write 4 different ideas" in text


def test_ideas_to_avoid_are_listed_one_per_line_without_filling_in_braces():
    avoid = (idea("a = 1").replace("Try it.", "Try {{ 7 * 6 }}\nand {task}."), "no form " + "x" * 500)
    with Scripted(reply_with("a")) as server:
        answers_to(server, Ask("free", 2, avoid=avoid))
    lines = prompt_of(server).splitlines()
    assert "- Try {{ 7 * 6 }} and {task}." in lines and sum(line.startswith("- no form xxx") for line in lines) == 1
    assert max(map(len, lines[lines.index("- Try {{ 7 * 6 }} and {task}.") :])) < 400


def test_as_trained_asks_for_one_idea_a_call_with_parents_of_its_own():
    records = [record(f"t{number}", 0.1 + number / 100) for number in range(20)]
    past = archive(*records)
    with Scripted(reply_with("a")) as server:
        answers = answers_to(server, Ask("exploit", 12, tuple(records), ("avoid me",), "s"), past, as_trained=True)
        again = answers_to(server, Ask("exploit", 12, tuple(records), (), "s"), past, as_trained=True)
        answers_to(server, Ask("explore", 1, tuple(records), descends=False), past, as_trained=True)
    pairs = [tuple(parent.id for parent in text.parents) for text in answers]
    assert len(answers) == 12 and {len(pair) for pair in pairs} == {2} and len(set(pairs)) > 6
    assert [tuple(parent.id for parent in text.parents) for text in again] == pairs
    assert all(prompt_of(server, number).count("Idea ") == 2 for number in range(24)) and prompt_of(server, 24) == OWN


def test_a_hundred_past_ideas_are_cut_to_the_context_with_one_warning(caplog):
    records = [record(f"t{n}", 0.1, idea=f"[Experiment] {'word ' * 400}{n} [Code Changes] x [End]") for n in range(100)]
    past = archive(*records)
    with Scripted(reply_with("a")) as server:
        for window in (20_000, 4000):
            answers_to(server, Ask("explore", 2, tuple(records), ("y" * 300,) * 40), past, context_tokens=window)
            assert len(prompt_of(server, -1).encode()) <= 3 * (window - 100)
        assert "Idea 100," in prompt_of(server, 0) and "…" in prompt_of(server, 0)  # cut, and all there
        ideator = chat_ideator(server, context_tokens=4000)
        caplog.clear()

        async def thrice():
            for _ in range(3):
                await ideator.ideas(Ask("explore", 2, tuple(records)), past)

        run(thrice())
    left = prompt_of(server, -1).count("\nIdea ")
    assert 10 < left < 100 and "Idea 1," in prompt_of(server, -1)
    (line,) = [entry.message for entry in caplog.records if "do not fit" in entry.message]
    assert f"{left} of them were shown, cut to 250" in line


def test_a_prompt_that_the_server_refuses_as_too_long_is_halved_until_it_fits():
    records = [record(f"t{n}", 0.1) for n in range(64)]
    too_long = {"status": 400, "body": {"error": {"message": "maximum context length is 2048 tokens"}}}

    def step(request):
        return too_long if len(request["messages"][0]["content"]) > 2500 else reply_with("a")

    with Scripted(step) as server:
        answers = answers_to(server, Ask("explore", 1, tuple(records)), archive(*records))
        assert changes(answers) == ["a"] and 1 < len(server.requests) <= 5
    with Scripted(too_long) as server, pytest.raises(IdeatorError, match="too long"):
        answers_to(server, Ask("free", 1))


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
        (f"Perhaps {idea('no')}\n<answer>{idea('a')} {idea('b')}</answer>", ["a", "b"]),
        (f"Perhaps {idea('no')} or so </think> then {idea('a')}", ["a"]),
        (" ".join(idea(str(number)) for number in range(9)), ["0", "1", "2", "3"]),
        ("[Experiment] [Code Changes] [End]", [None]),
        (f"{idea('a')} and \ud83d half a pair {idea('b')}", ["a", "b"]),
    ],
)  # fmt: skip
def test_complete_ideas_of_a_bad_answer_count_and_the_rest_is_malformed(reply, expected):
    with Scripted({"body": answer(reply)}) as server:
        assert changes(answers_to(server, Ask("free", 4))) == expected


def test_code_that_quotes_the_marks_does_not_end_an_idea():
    block = "train.py\n<<<<<<< SEARCH\n# [End]\n=======\n# [Experiment]\n>>>>>>> REPLACE\n"
    with Scripted({"body": answer(f"{idea(block)} {idea('b')}")}) as server:
        assert changes(answers_to(server, Ask("free", 2))) == [block.strip(), "b"]


def test_a_models_reasoning_is_the_thought_of_a_single_idea():
    with Scripted({"body": answer(f"<think>long [Experiment] thoughts</think>{idea('a')}")}) as server:
        (single,) = answers_to(server, Ask("free", 1))
        (of_several,) = answers_to(server, Ask("free", 3))
    assert "long (Experiment] thoughts" in parse_idea(single).thought and parse_idea(of_several).thought == ""


def test_refusals_and_cut_answers_cost_only_themselves():
    refused = {"body": answer(None, refusal="I cannot help with that.")}
    cut = {"body": answer(f"{idea('a')} [Experiment] and", finish="length")}
    with Scripted(refused, cut) as server:
        assert changes(answers_to(server, Ask("free", 2))) == [None]
        assert changes(answers_to(server, Ask("free", 2))) == ["a", None]


def test_passing_faults_are_retried(monkeypatch):
    monkeypatch.setattr("ideator_rl.llm.client.BACKOFF", 0.01)
    junk = {"body": b"<html>bad gateway</html>"}
    with Scripted({"status": 429}, {"status": 500}, {"drop": True}, junk, {"delay": 0.5}, reply_with("a")) as server:
        assert changes(answers_to(server, Ask("free", 1), retries=5, timeout=0.3)) == ["a"]
    assert len(server.requests) == 6


def test_a_lasting_fault_is_one_clear_sentence():
    with Scripted({"status": 500}) as server, pytest.raises(LLMUnavailable, match="was asked once and gave no answer"):
        answers_to(server, Ask("free", 1))
    with Scripted({"status": 401}) as server, pytest.raises(LLMUnavailable, match="refuses to answer"):
        answers_to(server, Ask("free", 20), ideas_per_call=5)


def test_failed_calls_leave_the_other_answers(caplog):
    with Scripted({"status": 500}, reply_with("a"), {"status": 500}, reply_with("b")) as server:
        answers = answers_to(server, Ask("free", 4), ideas_per_call=1)
    assert sorted(changes(answers)) == ["a", "b"] and "2 of 4 calls of a question failed" in caplog.text


def test_failed_questions_leave_the_other_answers(caplog):
    with Scripted(lambda request: reply_with("a") if prompt_of_request(request) == OWN else {"status": 500}) as server:
        asks = [Ask("free", 1, salt="s"), Ask("exploit", 1, (GOOD,), salt="t")]
        answers = run(ask_ideator(chat_ideator(server), asks, past_archive()))
        assert changes(answers[0]) == ["a"] and answers[1] == [] and "1 of 2 questions failed" in caplog.text
        with pytest.raises(LLMUnavailable):
            run(ask_ideator(chat_ideator(server), asks[1:], past_archive()))


def test_answers_have_parents_unless_they_explore():
    with Scripted(reply_with("a")) as server:
        exploit = answers_to(server, Ask("exploit", 1, (GOOD, BEST)), past_archive())
        explore = answers_to(server, Ask("explore", 1, (GOOD, BAD), descends=False), past_archive(), max_shown=1)
    assert exploit[0].parents == (GOOD, BEST) and explore[0].parents == ()


def test_cost_is_booked_on_the_ledger_and_a_cap_ends_the_questions():
    prices = {"m": {"prompt": 0, "completion": 1_000_000}}  # 1 USD a token
    ledger = Ledger(Caps(usd=112))
    with Scripted(reply_with("a")) as server:
        assert len(answers_to(server, Ask("free", 3), ledger=ledger, ideas_per_call=1, prices=prices)) == 3
        assert ledger.spent.usd == 15 and ledger.spent.tokens == 45  # five tokens an answer, as the server counts
        with pytest.raises(BudgetSpent, match="max_usd"):
            answers_to(server, Ask("free", 3), ledger=ledger, ideas_per_call=1, prices=prices)
    assert len(server.requests) == 3


def test_a_cap_in_the_middle_of_a_question_leaves_its_earlier_answers():
    prices = {"m": {"prompt": 0, "completion": 1_000_000}}
    ledger = Ledger(Caps(usd=107))
    with Scripted(reply_with("a")) as server:
        assert len(answers_to(server, Ask("free", 9), ledger=ledger, ideas_per_call=1, prices=prices)) == 2
    assert ledger.exhausted


def test_answers_are_recorded_and_replayed_without_a_server(tmp_path):
    file = str(tmp_path / "ideas.jsonl")
    with Scripted(reply_with("a", "b")) as server:
        first = answers_to(server, Ask("free", 2, salt="s"), record=file)
        assert answers_to(server, Ask("free", 2, salt="s"), record=file) == first and len(server.requests) == 1
    assert answers_to(server, Ask("free", 2, salt="s"), replay=file) == first


def test_a_cancelled_question_leaves_no_task_behind():
    async def cancelled(server):
        task = asyncio.create_task(chat_ideator(server).ideas(Ask("free", 30), archive()))
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
def test_wrong_settings_are_refused(settings, sentence):
    with pytest.raises(IdeatorError, match=sentence.replace("(", r"\(")):
        get_ideator("chat", {"models": "m", "base_url": "http://127.0.0.1:1/v1", **settings}, SUBJECT)


def test_an_environments_own_template_replaces_ours(tmp_path):
    (tmp_path / "explore.md").write_text("{prompt} ELSE {ideas}")
    own = replace(ENVIRONMENT, prompt_files={**ENVIRONMENT.prompt_files, "explore": str(tmp_path / "explore.md")})
    with Scripted(reply_with("a")) as server:
        ideator = get_ideator("chat", {"base_url": server.url, "models": "m"}, Subject(own, "cpu"))
        run(ideator.ideas(Ask("explore", 1, (GOOD,)), past_archive()))
    assert prompt_of(server).startswith(f"{OWN} ELSE Idea 1, height 2")


class Half:
    """A class without the methods of an ideator."""

    @classmethod
    def from_settings(cls, settings, subject, ledger):
        ideator = cls()
        ideator.arguments = settings, subject, ledger
        return ideator


class Mine(Half, RandomEdits):
    """An ideator of a user."""


def test_an_ideator_is_resolved_by_name_or_dotted_path():
    ledger = Ledger()
    assert get_ideator(f"{__name__}.Mine", {"x": 1}, SUBJECT, ledger).arguments == ({"x": 1}, SUBJECT, ledger)
    with pytest.raises(UnknownName, match="None of the ideators is named 'caht'. Did you mean 'chat'"):
        get_ideator("caht", {}, SUBJECT)
    with pytest.raises(IdeatorError, match="Half has no name and no ideas and no close; docs/how-to/ideators.md"):
        get_ideator(f"{__name__}.Half", {}, SUBJECT)


def test_a_search_ends_at_its_usd_cap_and_continues_with_a_higher_one(tmp_path):
    """Each answer holds two new ideas and junk, and costs 5 USD of the 100 that it could."""
    prompts = []

    def step(request):
        prompts.append(prompt_of_request(request))
        at = 2 * len(prompts)
        complete_ideas = [
            f"[Experiment] Move x. [Code Changes] Set x to {number / 8}. [End]" for number in (at, at + 1)
        ]
        return {"body": answer("\n".join([*complete_ideas, "[Experiment] and"]))}

    with Scripted(step) as server:
        options = {
            "base_url": server.url, "models": "m", "max_tokens": 100, "retries": 0, "ideas_per_call": 3,
            "prices": {"m": {"prompt": 0, "completion": 1_000_000}},
        }  # fmt: skip
        recipe = {
            "output_dir": str(tmp_path / "run"), "env": str(TOY), "strategy": "evolution", "epoch_size": 6, "batch": 3,
            "quorum": 1.0, "slots": 2, "embedder": "hashed", "ideator": "chat", "ideator_options": options, "probe": False,
        }  # fmt: skip
        reason = run_search(SearchConfig(**recipe, max_usd=108), resume=False)
        assert reason.budget == "max_usd" and "max_usd" in reason.text and len(prompts) == 2
        reason = run_search(SearchConfig(**recipe, max_usd=123), resume=True)
        assert reason.budget == "max_usd" and len(prompts) == 5
    run_records = read_run(tmp_path / "run")
    assert [rollout.status for rollout in run_records.rollouts] == ["succeeded", "succeeded", "malformed"] * 5
    assert json.loads((tmp_path / "run" / "ledger.json").read_text())["usd"] == 25
    assert prompts[0].startswith(OWN) and "and" in prompts[0] and prompts[1].count("\n- ") == 3
    assert any("does better than these" in prompt or "different from all of these" in prompt for prompt in prompts[2:])
