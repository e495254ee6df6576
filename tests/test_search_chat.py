"""The recipe search_chat, run with a scripted model on loopback: both ways of writing code, on real experiments."""

import json
from pathlib import Path

import pytest
from llm_server import Scripted
from nanogpt_chat import STEPS, NanogptChat

from ideator_rl.environments.environment import load_environment
from ideator_rl.patch import apply_patch
from ideator_rl.storage.run_reader import read_run

RECIPE = Path(__file__).parent.parent / "recipes" / "search_chat.yaml"
DIRECT = ["--implementer", "direct", "--prompts", "direct", "--coder", "null"]


@pytest.mark.slow
@pytest.mark.parametrize("implementer", ["llm", "direct"])
def test_ideas_of_a_model_build_on_each_other(call, tmp_path, implementer):
    with Scripted(NanogptChat(direct=implementer == "direct")) as server:
        argv = DIRECT if implementer == "direct" else ["--coder.base_url", server.url]
        argv += [
            "--ideator_options.base_url",
            server.url,
            "--output_dir",
            str(tmp_path / "run"),
            "--embedder",
            "hashed",
        ]
        code, out, err = call("search", RECIPE, *argv, "--max_experiments", "8", "--json")
        requests = list(server.requests)
    assert code == 0, err
    run, facts = read_run(tmp_path / "run"), json.loads(out)
    assert len(run.ran) == 8 and len(run.baselines) == 2 and facts["best"]["metric"]["value"] < run.baseline
    # `heads` of 3 crashes; without a coder's second draft, `momentum` has no line to edit.
    crashed = [e for e in run.ran if e.status == "failed"]
    assert all("heads = 3" in e.patch and "shape" in e.error["message"] for e in crashed)
    # At least one idea changed the code of another, whose value stays in its own code.
    base = load_environment("nanogpt").baseline("cpu")
    children = [e for e in run.ran if run.code_parents(e)]
    assert children
    for child in children:
        [parent] = run.code_parents(child)
        patch = next(p for p in run.inherited.values() if p.experiment_id == child.id)
        assert apply_patch(apply_patch(base, parent.patch), patch.patch) == apply_patch(base, child.patch)
    prompts = ["\n".join(message["content"] for message in request["messages"]) for request in requests]
    ideas = [prompt for prompt in prompts if "Propose one experiment" in prompt]
    # Which of the past ideas is shown depends on what they measured.
    reasons = [reason for _, _, reason in STEPS]
    assert any("These are the files as idea" in prompt and any(map(prompt.__contains__, reasons)) for prompt in ideas)
    # One model for both: a coder is asked for every idea, or for none.
    assert len([prompt for prompt in prompts if "<idea " in prompt]) >= 8 or implementer == "direct"
    assert implementer == "llm" or not any("<idea " in prompt for prompt in prompts)
    assert run.spent["tokens"] > 0
