"""The implementer `llm`, against a scripted client: which answers give a codebase, and the errors of the others."""

import asyncio
import re

import pytest
from conftest import TOY, replace_line, run
from scripted import idea

from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.ideas import parse_idea
from ideator_rl.implementers.coder import HALVINGS, CoderImplementer, CoderSettings
from ideator_rl.implementers.coder_prompt import prompts_version
from ideator_rl.implementers.implementer import ImplementerUnavailable, NotImplementable
from ideator_rl.llm import ContextTooLong, LLMUnavailable, Reply
from ideator_rl.llm.recording import RecordingError
from ideator_rl.patch import apply_patch
from ideator_rl.storage.ledger import BudgetSpent, Ledger
from ideator_rl.text.thoughts import split_thoughts

GOOD = replace_line("x = 4.0", "x = 1.0")
UNFIT = replace_line("x = 99.0", "x = 1.0")
FORGED = "evaluator.py\n```python\ndef evaluate(run):\n    return 0.0\n```\n"
ENVIRONMENT = load_environment(TOY)
BASE = ENVIRONMENT.baseline("cpu")


class ScriptedClient:
    """A fake code LLM: `script` takes draft, revision and messages, and returns a text, a Reply or an error.

    A pair (seconds, answer) delays the answer.
    """

    version = "scripted 1"

    def __init__(self, script):
        self.script, self.calls, self.cancelled = script, [], []

    async def complete(self, messages, *, salt, **more):
        draft, revision = map(int, re.fullmatch(r"[0-9a-f]{64} draft (\d+), revision (\d+)", salt).groups())
        self.calls.append((draft, revision, messages))
        answer = self.script(draft, revision, messages)
        if isinstance(answer, tuple):
            try:
                await asyncio.sleep(answer[0])
            except asyncio.CancelledError:
                self.cancelled.append(draft)
                raise
            answer = answer[1]
        if isinstance(answer, Exception):
            raise answer
        return reply(answer) if isinstance(answer, str) else answer

    def questions(self, draft):
        return [messages[-1]["content"] for number, _, messages in self.calls if number == draft]


def reply(text, finish="stop"):
    fields = {"model": "m", "prompt_tokens": 100, "completion_tokens": 10, "usd": 0.5, "seconds": 0.0}
    return Reply(text=text, finish=finish if text else "empty", estimated=False, **fields)


def implement(script, samples=1, revisions=2, text="Set x to 1.0.", budget=20_000, base=BASE, replay=False, **settings):
    """The implementation of an idea, and the client that was called."""
    client = ScriptedClient(script if callable(script) else lambda draft, revision, messages: script[revision])
    coder = CoderImplementer(client, CoderSettings(samples, revisions, **settings), budget, replay)

    async def implement_idea():
        implementation = await coder.implement(parse_idea(idea(text)), base, ENVIRONMENT, "cpu")
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return implementation

    return run(implement_idea()), client


def refusal(error, script, **more):
    with pytest.raises(error) as caught:
        implement(script, **more)
    return caught.value


# --- drafts and revisions


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"Here you are:\n\n```\n{GOOD}```\nThat does it.",
        f"<think>First I would write\n{UNFIT}but no.</think>\n{GOOD}",
        f"I would write\n{UNFIT}but no.\n</think>\n\n{GOOD}",
        "--- a/train.py\n+++ b/train.py\n@@ -5,3 +5,3 @@\n-x = 4.0\n+x = 1.0\n y = 4.0\n z = 4.0\n",
    ],
    ids=["plain", "fenced in prose", "thoughts", "thoughts without their opening mark", "diff"],
)
def test_a_valid_answer_becomes_a_diff_of_the_baseline_with_its_cost(answer):
    implementation, client = implement([answer])
    assert apply_patch(BASE, implementation.patch)["train.py"] == BASE["train.py"].replace("x = 4.0", "x = 1.0")
    assert implementation.patch.startswith("diff --git a/train.py") and len(client.calls) == 1
    assert implementation.usage == {"usd": 0.5, "prompt_tokens": 100, "completion_tokens": 10, "calls": 1}


def test_a_revision_repeats_the_answer_and_its_error():
    implementation, client = implement([UNFIT, FORGED, GOOD])
    assert (
        "+x = 1.0" in implementation.patch and implementation.usage["calls"] == 3 and implementation.usage["usd"] == 1.5
    )
    assert "x = 99.0" in client.questions(0)[1] and "evaluator.py: protected" in client.questions(0)[2]
    _, _, messages = client.calls[2]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] == FORGED.strip()
    assert messages[:2] == client.calls[0][2], "the prefix cache of a server serves revisions too"


def test_an_answer_that_was_cut_off_is_never_applied_even_if_its_beginning_parses():
    implementation, client = implement([reply(GOOD, "length"), replace_line("x = 4.0", "x = 2.0")])
    assert (
        "+x = 2.0" in implementation.patch
        and "cut off" in client.questions(0)[1]
        and "shorter" in client.questions(0)[1]
    )
    error = refusal(NotImplementable, [reply(GOOD, "length")] * 3)
    assert error.kind == "unpatchable" and "cut off" in str(error)


@pytest.mark.parametrize(
    "answer", ["", "   \n", "<think>I think and think", "<think>done</think>", f"{UNFIT}\n<think>\nNo"]
)
def test_an_empty_answer_is_revised(answer):
    implementation, client = implement([answer, GOOD])
    assert "+x = 1.0" in implementation.patch and "held no text" in client.questions(0)[1]
    assert client.calls[1][2][2]["content"], "servers refuse an empty message"


def test_a_refusal_ends_a_draft_but_not_the_others():
    implementation, client = implement(
        lambda d, r, m: reply("I cannot.", "refused") if d == 0 else (0.01, GOOD), samples=2
    )
    assert "+x = 1.0" in implementation.patch and len(client.questions(0)) == 1
    assert "refused" in str(refusal(NotImplementable, [reply("I cannot.", "refused")]))


@pytest.mark.parametrize(
    "answer",
    [
        "CANNOT: there is no GPU here.",
        "Sorry.\n\n**CANNOT:** there is no GPU here.",
        "```\nCANNOT: there is no GPU here.\n```",
    ],
)
def test_a_coder_that_declines_the_idea_is_not_called_again(answer):
    error = refusal(NotImplementable, [answer])
    assert error.usage["calls"] == 1 and "there is no GPU here." in str(error) and error.kind == "unpatchable"


def test_a_codebase_equal_to_the_baseline_is_refused():
    there_and_back = GOOD + replace_line("x = 1.0", "x = 4.0")
    assert "changes nothing" in str(refusal(NotImplementable, [there_and_back] * 3))


def test_thoughts_are_removed_but_not_code_that_contains_their_tags():
    code = "train.py\n<<<<<<< SEARCH\nx = 4.0\n=======\nx = '''\n</think>\n'''\n>>>>>>> REPLACE\n"
    assert split_thoughts(code).answer == code
    hunk = "--- a/t.py\n+++ b/t.py\n@@ -1,2 +1,2 @@\n </think>\n-a\n+b\n"
    assert split_thoughts(hunk).answer == hunk
    assert split_thoughts(f"<think>a</think>{code}").answer == code
    assert split_thoughts(f"so {code}\n</think>\n{code}").answer.strip() == code.strip()


# --- the race


def test_the_first_valid_draft_wins_and_the_others_are_cancelled_and_awaited():
    implementation, client = implement(lambda d, r, m: (0.02, GOOD) if d == 3 else (30.0, GOOD), samples=5)
    assert "+x = 1.0" in implementation.patch and sorted(client.cancelled) == [0, 1, 2, 4]
    assert implementation.usage["calls"] == 1


def numbered(draft):
    return replace_line("x = 4.0", f"x = {draft}.5")


def test_of_drafts_that_are_valid_at_the_same_time_the_lowest_number_wins():
    for _ in range(5):
        implementation, _ = implement(lambda d, r, m: UNFIT if d == 0 else numbered(d), samples=8)
        assert "+x = 1.5" in implementation.patch


def test_the_usage_includes_the_answers_of_losing_drafts():
    implementation, _ = implement(lambda d, r, m: (0.0, GOOD) if r else UNFIT, samples=4)
    assert implementation.usage["calls"] >= 5 and implementation.usage["usd"] == implementation.usage["calls"] / 2


def test_a_replay_gives_the_same_winner_although_all_answers_are_available_at_once():
    """In the record, draft 2 was valid after one revision, before any other draft was."""
    record = {(d, 0): UNFIT for d in range(4)} | {(2, 1): numbered(2)}
    delays = {0: 0.05, 1: 0.06, 2: 0.01, 3: 0.07}
    live, _ = implement(lambda d, r, m: (delays[d], record.get((d, r), GOOD)), samples=4)
    missing = LLMUnavailable("not in the record")
    again, _ = implement(lambda d, r, m: record.get((d, r), missing), samples=4, replay=True)
    assert live.patch == again.patch and "+x = 2.5" in live.patch


def test_no_draft_runs_on_after_implement_was_cancelled():
    client = ScriptedClient(lambda d, r, m: (30.0, GOOD))
    coder = CoderImplementer(client, CoderSettings(3, 0), 20_000)

    async def implement_idea():
        task = asyncio.create_task(coder.implement(parse_idea(idea("Try.")), BASE, ENVIRONMENT, "cpu"))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(implement_idea())
    assert sorted(client.cancelled) == [0, 1, 2]


def test_an_error_of_our_own_code_is_raised_even_if_other_drafts_fail():
    assert "broken" in str(refusal(RuntimeError, lambda d, r, m: RuntimeError("broken") if d else UNFIT, samples=3))


# --- outcomes


def test_failed_drafts_count_against_the_idea_and_the_most_common_reason_is_reported():
    error = refusal(NotImplementable, lambda d, r, m: "" if d == 0 else UNFIT.replace("99", f"9{d}"), samples=4)
    assert error.kind == "unpatchable" and error.usage["calls"] == 12 and error.patch == UNFIT.replace("99", "93")
    assert "Most often (3 of 4): the patch did not apply" in str(error) and "x = 93.0" in str(error)


def test_a_broken_rule_is_rejected():
    error = refusal(NotImplementable, [FORGED] * 3)
    assert error.kind == "rejected" and "evaluator.py: protected" in str(error)


def test_an_endpoint_that_is_down_is_not_the_fault_of_the_idea():
    error = refusal(ImplementerUnavailable, lambda d, r, m: LLMUnavailable("502 Bad Gateway"), samples=3)
    assert "502 Bad Gateway" in str(error)


def test_a_recording_that_cannot_be_written_is_not_the_fault_of_the_idea():
    assert "disk full" in str(refusal(ImplementerUnavailable, lambda d, r, m: RecordingError("disk full")))


def test_a_spent_budget_is_the_cause_even_if_other_drafts_had_an_outage():
    down = {0: LLMUnavailable("502"), 1: BudgetSpent("cap of 1 USD")}
    error = refusal(ImplementerUnavailable, lambda d, r, m: down[d], samples=2)
    assert isinstance(error.__cause__, BudgetSpent)


def test_only_a_draft_answered_to_its_end_counts_against_the_idea():
    down = LLMUnavailable("502")
    refusal(NotImplementable, lambda d, r, m: UNFIT if d == 0 else down, samples=3)
    refusal(ImplementerUnavailable, lambda d, r, m: UNFIT if r == 0 else down, samples=3)


# --- the context


LONG = BASE | {
    f"other_{file}.py": "".join(f"def part_{i}():\n    return {i}\n\n\n" for i in range(10 * file, 10 * file + 10))
    for file in range(40)
}


def test_a_context_too_long_for_the_server_is_halved_until_it_fits():
    def script(draft, revision, messages):
        return ContextTooLong("too long") if len(messages[1]["content"]) > 4_000 else GOOD

    implementation, client = implement(script, base=LONG)
    sizes = [len(messages[1]["content"]) for _, _, messages in client.calls]
    assert (
        "+x = 1.0" in implementation.patch and 2 < len(sizes) <= HALVINGS + 1 and sizes == sorted(sizes, reverse=True)
    )
    assert "x = 4.0" in client.calls[-1][2][1]["content"], "the script of the command is always shown"


def test_a_replay_finds_the_answers_to_shortened_prompts():
    def recorded(draft, revision, messages):
        return LLMUnavailable("not in the record") if len(messages[1]["content"]) > 4_000 else GOOD

    assert "+x = 1.0" in implement(recorded, base=LONG, replay=True)[0].patch
    refusal(ImplementerUnavailable, recorded, base=LONG)


def test_a_prompt_that_never_fits_is_not_the_fault_of_the_idea():
    error = refusal(ImplementerUnavailable, lambda d, r, m: ContextTooLong("at most 512 tokens"), base=LONG)
    assert "at most 512 tokens" in str(error)


def test_the_prompt_stays_within_the_context():
    _, client = implement([GOOD], base=LONG, budget=3_000)
    messages = client.calls[0][2]
    assert sum(len(m["content"]) for m in messages) < 3_000 * 3 and "x = 4.0" in messages[1]["content"]
    assert "def part_399" in implement([GOOD], base=LONG)[1].calls[0][2][1]["content"]


# --- settings


def test_the_version_changes_with_every_setting_that_an_answer_depends_on():
    def version(budget=100, name="scripted 1", **settings):
        client = ScriptedClient([GOOD])
        client.version = name
        return CoderImplementer(client, CoderSettings(**settings), budget).version(ENVIRONMENT)

    changed = [version(samples=3), version(revisions=1), version(edit_format="diff"), version(200), version(name="b")]
    assert version() == version() and len({version(), *changed}) == 6


def test_the_version_changes_with_the_prompts(tmp_path, monkeypatch):
    from ideator_rl.implementers import coder_prompt

    before = prompts_version()
    (tmp_path / "system.md.j2").write_text("Another prompt.")
    monkeypatch.setattr(coder_prompt, "FOLDER", tmp_path)
    assert prompts_version() != before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample": 3}, "Did you mean 'samples'?"),
        ({"base_ulr": "http://localhost"}, "Did you mean 'base_url'?"),
        ({"samples": "3"}, "Expected a whole number"),
        ({"samples": 0}, "from 1 to 1000"),
        ({"samples": True}, "Expected a whole number"),
        ({"edit_format": "whole"}, "Expected blocks or diff or auto"),
    ],
)
def test_unusable_settings_are_refused_with_a_hint(settings, message):
    with pytest.raises(IdeatorError) as caught:
        CoderImplementer.from_settings(settings, Ledger())
    assert message in str(caught.value)
