"""A cause of loss that does not pass ends search, execute and rewards with one sentence; afterwards they go on."""

import json
from dataclasses import replace

import pytest
import yaml
from conftest import TOY, execute, run, sentence
from llm_server import Scripted, answer
from scripted import idea
from search_runs import RandomEdits, configured, go, rows, text
from test_refusals import HTML, NO_MODEL, WRONG_KEY

from ideator_rl.executor.losses import IN_A_ROW, REFUSED, Losses, RunStopped
from ideator_rl.implementers.coder import CoderImplementer
from ideator_rl.implementers.implementer import ImplementerUnavailable
from ideator_rl.llm import client
from ideator_rl.llm.probe import ProbeFailed
from ideator_rl.reward_buffer import BufferConfig, open_buffer
from ideator_rl.search.run import run_search
from ideator_rl.search.search_summary import read_search_summary
from ideator_rl.storage.bucket import BucketError
from rewards.execution import execution_reward

HEAD = "# Settings that differ from the default, one a line, such as k07: 0"
REFUSALS = {
    "401": (WRONG_KEY, "Incorrect API key"),
    "404": (NO_MODEL, "does not exist"),
    "HTML": (HTML, "login page"),
    "no JSON": ({"body": b"pong"}, "no chat completion"),
}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1234567890")


# The count.


def refused(permanent=True, repeated=False):
    return ImplementerUnavailable("The LLM refuses: status 401.", permanent, repeated)


@pytest.mark.parametrize(
    ("events", "key"),
    [
        ([refused()], None),
        ([refused(), refused()], REFUSED),
        ([refused(repeated=True)], REFUSED),
        ([refused(), None, refused()], None),
        ([refused()] * 2, None),  # one fault that two equal ideas share
        ([refused(), BucketError("down"), refused()], REFUSED),
        ([BucketError("down")] * 4, None),
        ([BucketError("down")] * 5, IN_A_ROW),
        ([BucketError("down")] * 4 + [None, *[refused(permanent=False)] * 4], None),
    ],
)
def test_the_second_permanent_fault_or_too_many_losses_in_a_row_stop_a_run(events, key):
    losses = Losses(limit=5)
    for event in events:
        losses.reset() if event is None else losses.count(event)
    assert (losses.stop.key if losses.stop else None) == key
    if key:
        losses.reset()
        with pytest.raises(RunStopped, match="--resume"):
            losses.refuse()


# The executor, from the command line.


def coder(server, **settings):
    return {"base_url": server.url, "models": "coder", "samples": 1, "revisions": 0, "retries": 3, **settings}


def run_ideas(call, tmp_path, server, ideas, *options, **settings):
    (tmp_path / "coder.yaml").write_text(yaml.safe_dump(coder(server, **settings)))
    (tmp_path / "ideas.jsonl").write_text("\n".join(json.dumps(text) for text in ideas))
    files = ("--coder", f"{tmp_path}/coder.yaml", "--ideas", f"{tmp_path}/ideas.jsonl")
    return execute(call, tmp_path, "--implementer", "llm", *files, *options)


IDEAS = [idea(f"Set x to {number}.0.") for number in range(8)]


@pytest.mark.parametrize(("step", "cause"), REFUSALS.values(), ids=REFUSALS)
def test_execute_asks_an_llm_that_refuses_for_nothing_after_two_calls(call, tmp_path, step, cause):
    with Scripted(step) as server:
        code, out, err = run_ideas(call, tmp_path, server, IDEAS)
        assert len(server.requests) <= 2 and not out
        assert cause in sentence(code, err.splitlines()[-1]) and "--no-probe" in err
        code, out, err = run_ideas(call, tmp_path, server, IDEAS, "--no-probe", concurrency=1)
        assert len(server.requests) <= 4 and cause in sentence(code, err.splitlines()[-1])
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["lost"] * 8


def test_execute_with_a_mended_key_asks_for_what_was_lost_and_keeps_what_ran(call, tmp_path):
    cannot = {"body": answer("CANNOT: there is no y.")}
    with Scripted(cannot, cannot, cannot, cannot, WRONG_KEY) as server:
        code, out, err = run_ideas(call, tmp_path, server, IDEAS, concurrency=1)
        assert "Incorrect API key" in sentence(code, err.splitlines()[-1]) and len(server.requests) == 6
    statuses = [json.loads(line)["status"] for line in out.splitlines()]
    assert sorted(statuses) == ["lost"] * 5 + ["unpatchable"] * 3
    with Scripted(cannot) as server:
        code, out, _ = run_ideas(call, tmp_path, server, IDEAS)
        assert code == 1 and len(server.requests) == 1 + 5
        assert [json.loads(line)["status"] for line in out.splitlines()] == ["unpatchable"] * 8
    # All answers are in the bucket now: a server that is gone is neither probed nor asked.
    assert run_ideas(call, tmp_path, server, IDEAS)[0] == 1


def test_text_without_an_idea_or_a_patch_never_stops_a_run(toy_config):
    with Scripted({"body": answer("I would rather not.")}) as server:
        config = replace(toy_config, implementer="llm", coder=json.dumps(coder(server)), max_losses_in_a_row=2)
        buffer = open_buffer(config)
        records = run(buffer.score(["no idea at all"] * 5 + IDEAS[:5]))
        buffer.close()
    assert [record.status for record in records] == ["malformed"] * 5 + ["unpatchable"] * 5
    assert buffer.executor.losses.stop is None


# Search, its coder and its ideator.


def chat(server, **options):
    return {"ideator": "chat", "ideator_options": {"base_url": server.url, "models": "m", "retries": 3, **options}}


def search_config(tmp_path, server, *llms, **keys):
    recipe = {"max_experiments": 6, "max_usd": 1.0, "epoch_size": 6, "batch": 3, "isolation": "auto"}
    if "coder" in llms:
        recipe |= {"implementer": f"{__name__}.DataCoder", "coder": coder(server, concurrency=1)}
    if "ideator" in llms:
        recipe |= chat(server, ideas_per_call=3)
    else:
        recipe |= {"ideator": f"{__name__}.Edits"}
    return configured(tmp_path / "run", **{**recipe, **keys})


class DataCoder(CoderImplementer):
    """The codebases of the landscape are data, which may be read in this process whoever wrote them."""

    trusted = True


class Edits(RandomEdits):
    @classmethod
    def from_settings(cls, settings, subject, ledger):
        return cls()


def answering(request, asked=[0]):  # noqa: B006 - a counter
    """What a good LLM answers: to the coder's prompt a patch, to the ideator's three ideas."""
    asked[0] += 1
    knobs = [asked[0] * 3 % 20, asked[0] * 7 % 20, asked[0] * 11 % 20]
    if request["messages"][0]["role"] == "system":
        new = f"k{knobs[0]:02d}: {asked[0] // 20 % 4}"
        patch = f"edits.yaml\n<<<<<<< SEARCH\n{HEAD}\n=======\n{HEAD}\n{new}\n>>>>>>> REPLACE\n"
        return {"body": answer(patch)}
    return {"body": answer("\n".join(text({knob: asked[0] % 4}) for knob in knobs))}


@pytest.mark.parametrize("probe", [True, False])
@pytest.mark.parametrize("llm", ["coder", "ideator"])
@pytest.mark.parametrize(("step", "cause"), REFUSALS.values(), ids=REFUSALS)
def test_a_search_ends_within_two_calls_of_an_llm_that_refuses(tmp_path, step, cause, llm, probe):
    with Scripted(step) as server:
        config = search_config(tmp_path, server, llm, probe=probe)
        with pytest.raises(ProbeFailed if probe else RunStopped, match=cause):
            run_search(config)
        assert len(server.requests) <= 2
    assert (tmp_path / "run" / "recipe.yaml").exists() != probe  # a corrected recipe starts anew
    if step is not WRONG_KEY:  # what follows is the same for all
        return
    with Scripted(answering) as server:
        config = search_config(tmp_path, server, llm, probe=probe)
        assert run_search(config, resume=not probe).budget == "max_experiments"
    assert {status for _, _, status, _ in rows(tmp_path / "run")} <= {"succeeded", "failed"}


@pytest.mark.parametrize("llm", ["coder", "ideator"])
def test_a_key_that_is_revoked_in_the_middle_of_a_search_ends_it_and_resume_goes_on(tmp_path, llm):
    with Scripted(*[answering] * 3, WRONG_KEY) as server:
        with pytest.raises(RunStopped, match="Incorrect API key.*--resume"):
            run_search(search_config(tmp_path, server, llm, probe=False, max_experiments=20))
        assert len(server.requests) == 5
    assert read_search_summary(tmp_path / "run").ended_by == REFUSED
    before = rows(tmp_path / "run")
    kept = [row for row in before if row[2] != "lost"]
    assert kept and (llm == "ideator") == (kept == before)
    with Scripted(answering) as server:
        reason = run_search(search_config(tmp_path, server, llm, max_experiments=20, max_ideas=30), resume=True)
    after = rows(tmp_path / "run")
    assert reason.budget in ("max_ideas", "max_experiments") and set(kept) <= set(after)
    assert {row[:2] for row in before} <= {row[:2] for row in after}
    assert not any(status == "lost" for _, _, status, _ in after)


def test_one_wrong_model_among_several_ends_a_search_by_its_ideator(tmp_path):
    def step(request):
        return NO_MODEL if request["model"] == "bad" else answering(request)

    with Scripted(step) as server:
        options = chat(server, models={"good": 2, "bad": 1}, ideas_per_call=1)
        config = search_config(tmp_path, server, max_experiments=200, probe=False, **options)
        with pytest.raises(RunStopped, match="does not exist"):
            run_search(config)
        assert [request["model"] for request in server.requests].count("bad") <= 3


class Unreachable:
    """Fails for good after a few ideas, without a word on whether it will pass."""

    name, trusted, calls = "unreachable", True, 0

    @classmethod
    def from_settings(cls, settings, ledger):
        return cls()

    def version(self, environment):
        return self.name

    async def implement(self, idea, base, environment, preset):
        type(self).calls += 1
        raise ImplementerUnavailable("The coder's queue is full.")


@pytest.mark.parametrize(("limit", "batch"), [(None, 3), (5, 3)])
def test_losses_in_a_row_of_any_cause_end_a_search_and_resume_goes_on(tmp_path, limit, batch):
    keys = {"batch": batch, "max_losses_in_a_row": limit, "implementer": f"{__name__}.Unreachable"}
    limits = {"max_experiments": 30, "max_ideas": 30}
    with pytest.raises(RunStopped, match=rf"{limit or batch} ideas in a row were lost.*The coder's queue is full"):
        go(configured(tmp_path, **keys, **limits), RandomEdits())
    assert len(rows(tmp_path)) < 30 and {row[2] for row in rows(tmp_path)} == {"lost"}
    assert read_search_summary(tmp_path).ended_by == IN_A_ROW
    go(configured(tmp_path, **limits), RandomEdits())
    assert len(rows(tmp_path)) == 30 and not any(row[2] == "lost" for row in rows(tmp_path))


# Rewards, in stock TRL and in this library's trainer.


def call_reward(config, completions):
    columns = {name: [value] * len(completions) for name, value in config.columns().items()}
    return execution_reward(prompts=["p"] * len(completions), completions=completions, **columns)


def test_the_reward_function_raises_once_an_llm_refuses_and_works_again_with_a_mended_key(tmp_path):
    config = BufferConfig(str(TOY), "cpu", f"file://{tmp_path}/bucket", implementer="llm", run_dir=str(tmp_path))
    with Scripted(WRONG_KEY) as server:
        config = replace(config, coder=json.dumps(coder(server, concurrency=1)))
        with pytest.raises(RunStopped, match="Incorrect API key"):
            run(call_reward(config, IDEAS))
        assert len(server.requests) == 2
        server.script = ({"body": answer("CANNOT: there is no y.")},)
        assert run(call_reward(config, IDEAS)) == [0.0] * 8
        open_buffer(config).close()
