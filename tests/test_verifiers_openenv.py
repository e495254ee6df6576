"""Our environments rolled out by the installed verifiers and served to the installed OpenEnv client."""

import asyncio
import shutil
import socket
import threading

import httpx
import pytest
from conftest import TOY
from llm_server import Scripted, answer

from ideator_rl.bridges.execution import ExecutionRewards, LostExperiment, numbers_of
from ideator_rl.errors import IdeatorError
from ideator_rl.reward_buffer import open_buffer

IDEA = """[Experiment] go down
[Code Changes]
train.py
<<<<<<< SEARCH
x = {before}
=======
x = {after}
>>>>>>> REPLACE
[End]"""
BETTER, BROKEN = IDEA.format(before=4.0, after=1.0), IDEA.format(before=4.0, after="1 / 0")


@pytest.fixture
def settings(tmp_path):
    yield {"env": str(TOY), "bucket": f"file://{tmp_path}/bucket", "slots": 1}
    from ideator_rl import reward_buffer

    for config, buffer in list(reward_buffer._open.items()):
        if str(tmp_path) in config.bucket:
            buffer.close()


def test_settings_are_checked_and_a_lost_experiment_has_no_reward(settings, monkeypatch):
    with pytest.raises(IdeatorError, match="Did you mean"):
        ExecutionRewards.of(settings | {"implementor": "direct"})
    rewards = ExecutionRewards.of(settings)
    assert "toy bowl" in rewards.prompt and open_buffer(rewards.buffer.config) is rewards.buffer

    async def lost(texts):
        from ideator_rl.experiment import Experiment

        return [Experiment("e", "lost", "", "toy", "cpu", error={"kind": "lost", "message": "node died"})]

    monkeypatch.setattr(rewards.buffer, "score", lost)
    with pytest.raises(LostExperiment, match="node died"):
        asyncio.run(rewards.record("text"))


def test_a_reported_metric_is_refused_unless_it_is_allowed(settings, tmp_path):
    shutil.copytree(TOY, tmp_path / "reported")
    manifest = tmp_path / "reported" / "env.yaml"
    manifest.write_text(manifest.read_text().replace("1000.0]}", "1000.0], source: reported}"))
    own = settings | {"env": str(tmp_path / "reported")}
    with pytest.raises(IdeatorError, match="allow_reported: true"):
        ExecutionRewards.of(own)
    assert ExecutionRewards.of(own | {"allow_reported": True}).prompt


def test_numbers_of_a_result_that_does_not_count_are_not_shown():
    from ideator_rl.experiment import Experiment

    metric = {"name": "height", "value": 2.0, "direction": "min"}
    fields = {"metric": metric, "secondary": {"area": 3.0}}
    assert numbers_of(Experiment("e", "succeeded", "", "toy", "cpu", **fields)) == {
        "succeeded": 1.0, "height": 2.0, "area": 3.0
    }  # fmt: skip
    assert numbers_of(Experiment("e", "invalid", "", "toy", "cpu", **fields)) == {"succeeded": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 200_000], ids=["a short prompt", "a prompt longer than an argument may be"])
def test_verifiers_rolls_out_our_environment(settings, tmp_path, monkeypatch, size):
    pytest.importorskip("verifiers.v1", reason="verifiers >= 0.4 is not installed")
    import verifiers.v1 as vf

    from ideator_rl_env import load_environment

    monkeypatch.setenv("IDEATOR_ASK_KEY", "secret-of-the-endpoint")
    shutil.copytree(TOY, tmp_path / "env")
    with (tmp_path / "env" / "prompts" / "short.md").open("a") as prompt:
        prompt.write(" more" * (size // 5))
    settings = settings | {"env": str(tmp_path / "env")}
    env = load_environment(**settings, rows=3)
    tasks = list(env.taskset)
    assert len({task.key for task in tasks}) == 3
    # By its id too, as the command line and prime-rl name it.
    assert type(vf.load_taskset(env.config.taskset)) is type(env.taskset)

    async def rollouts(url):
        client = vf.EvalClientConfig(base_url=url, api_key_var="NO_KEY_NEEDED")
        context = vf.ModelContext(client=client, model="m", sampling=vf.SamplingConfig())
        async with env.serving():
            slots = [slot for task in tasks for slot in env.slots(task)]
            return [await env.run_slot(slot, context) for slot in slots]

    looking = BETTER.replace("x = 1.0", "import os\nprint(dict(os.environ))\nx = 1.0")
    with Scripted(*({"body": answer(text)} for text in (looking, BROKEN, "no idea"))) as server:
        episodes = asyncio.run(rollouts(server.url))
    assert all(episode.ok for episode in episodes), [episode.errors for episode in episodes]
    traces = [episode.traces[0] for episode in episodes]
    assert [trace.reward > 0 for trace in traces] == [True, False, False]
    assert [trace.metrics["succeeded"] for trace in traces] == [1.0, 0.0, 0.0]
    assert traces[0].metrics["height"] == pytest.approx(1 / traces[0].reward)
    assert len(server.requests[0]["messages"][-1]["content"]) > size
    # The key of the endpoint is in no variable of an experiment.
    log = asyncio.run(ExecutionRewards.of(settings).record(looking)).log
    assert "IDEATOR_BUDGET_SECONDS" in log and "secret-of-the-endpoint" not in log


@pytest.mark.slow
def test_an_openenv_client_gets_the_reward_of_an_executed_idea(settings):
    pytest.importorskip("openenv.core", reason="openenv is not installed")
    uvicorn = pytest.importorskip("uvicorn")
    from openenv import GenericEnvClient

    from ideator_rl.bridges.openenv import create_app

    rewards = ExecutionRewards.of(settings)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # a client that comes early waits
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(create_app(rewards), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()

        async def episodes():
            async with GenericEnvClient(base_url=f"http://127.0.0.1:{port}") as client:
                first = await client.reset()
                return first, await client.step({"text": BETTER}), await client.step({"text": "no idea"})

        try:
            foreign = [{"Host": "rebound.example"}, {"Origin": "http://page.example"}]
            refused = [httpx.post(f"http://127.0.0.1:{port}/reset", json={}, headers=keys) for keys in foreign]
            first, better, malformed = asyncio.run(episodes())
        finally:
            server.should_exit = True
            thread.join(60)
    assert [answer.status_code for answer in refused] == [403, 403]
    assert "toy bowl" in first.observation["prompt"] and not first.done
    record = asyncio.run(rewards.record(BETTER))
    assert record.replayed and better.done and better.reward == record.reward > 0
    assert better.observation["numbers"] == numbers_of(record) and better.observation["status"] == "succeeded"
    assert malformed.reward == 0.0 and malformed.observation["status"] == "malformed"
    # The environment's level of feedback holds here too: no word of a message.
    assert malformed.observation["error"] == "malformed"
