"""The backend in_process: outcomes at once, records like those of other backends, and refusals."""

import asyncio
import uuid
from types import SimpleNamespace

import pytest

from ideator_rl.errors import IdeatorError
from ideator_rl.executor.backends import in_process
from ideator_rl.executor.executor import Executor
from ideator_rl.experiment import FAILED, INVALID, SUCCEEDED, UNPATCHABLE
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from tests.conftest import run

IMPLEMENTER = "envs.landscape.implementer.TokenEdits"


def config(tmp_path, **changes):
    defaults = {
        "environment": "landscape",
        "preset": "s0",
        "bucket": f"memory://{uuid.uuid4()}",
        "implementer": IMPLEMENTER,
        "backend": "in_process",
        "run_dir": str(tmp_path),
    }
    return BufferConfig(**{**defaults, **changes})


def idea(edits):
    return f"hm hm </think> [Experiment] {edits} [Code Changes] apply [End]"


def test_ideas_are_scored_at_once_and_repeated_ideas_are_replayed(tmp_path):
    buffer = RewardBuffer(config(tmp_path))
    texts = [idea("k00v1 k01v2"), idea("k01v2 k00v1"), "no idea", idea("k00v1 k01v2")]
    good, unsorted, _, again = run(buffer.score(texts))
    assert good.status == SUCCEEDED and good.isolation == "in_process" and good.reward == good.metric["value"]
    assert again.id == good.id and again.reward == good.reward
    assert unsorted.status == UNPATCHABLE and unsorted.reward == 0.0 and "ascending" in unsorted.error["message"]
    assert buffer.executor.scheduler.without_record == []
    (later,) = run(buffer.score([texts[0]]))
    assert later.replayed and later.metric == good.metric
    buffer.close()


def test_a_run_that_breaks_fails_the_idea(tmp_path):
    buffer = RewardBuffer(config(tmp_path, bucket=f"file://{tmp_path}/bucket"))
    texts = [idea(" ".join(f"k{knob:02d}v{value}" for knob in range(4, 14))) for value in range(4)]
    broken = [record for record in run(buffer.score(texts)) if record.status == FAILED]
    assert broken and all(record.reward == 0.0 and record.tree and record.metric is None for record in broken)
    buffer.close()
    reopened = RewardBuffer(config(tmp_path, bucket=f"file://{tmp_path}/bucket"))
    assert all(record.replayed for record in run(reopened.score(texts)))
    reopened.close()


def test_every_backend_gives_an_idea_the_same_outcome(tmp_path):
    in_process_executor = Executor(config(tmp_path))
    local_executor = Executor(config(tmp_path, bucket=f"file://{tmp_path}/bucket", backend="local", slots=2))

    async def both(executor):
        return [await executor.execute(idea(edits), replicate=1) for edits in ("k00v1 k01v2", "k04v0 k09v3")]

    for ours, local in zip(run(both(in_process_executor)), run(both(local_executor)), strict=True):
        assert (ours.status, ours.metric, ours.reward) == (local.status, local.metric, local.reward)
        assert ours.id != local.id and ours.tree == local.tree


def test_an_environment_whose_codebases_are_code_is_refused(tmp_path, toy):
    with pytest.raises(IdeatorError, match="its codebases are code"):
        Executor(config(tmp_path, environment=str(toy), preset="cpu", implementer="rules"))


def test_a_codebase_without_a_trusted_implementer_is_refused(tmp_path):
    patch = "--- a/edits.yaml\n+++ b/edits.yaml\n@@ -1 +1,2 @@\n # Settings that differ from the default, one a line, such as k07: 0\n+k00: 1\n"
    with pytest.raises(IdeatorError, match="a trusted implementer"):
        asyncio.run(Executor(config(tmp_path)).execute_patch(patch))
    direct = Executor(config(tmp_path, implementer="direct"))
    with pytest.raises(IdeatorError, match="a trusted implementer"):
        asyncio.run(direct.execute(f"[Experiment] by hand [Code Changes]\n{patch}\n[End]"))
    assert direct.bucket.names("experiments") == [], "a refused codebase would wait in the bucket for ever"


@pytest.mark.parametrize(("value", "recorded"), [(float("nan"), None), (float("inf"), None), (7.0, 7.0)])
def test_an_implausible_value_is_invalid_and_recorded_only_if_finite(tmp_path, monkeypatch, value, recorded):
    evaluator = SimpleNamespace(measured=lambda tree, settings, replicate: value)
    monkeypatch.setattr(in_process, "load_trusted", lambda path: evaluator)
    record = asyncio.run(Executor(config(tmp_path)).execute(idea("k00v1")))
    assert record.status == INVALID and "outside the plausible range" in record.error["message"]
    assert (record.metric and record.metric["value"]) == recorded
