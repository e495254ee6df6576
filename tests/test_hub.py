"""Pushing through the real huggingface_hub client to a scripted hub on loopback."""

import json
import os
import subprocess
import sys

import pytest
from exported_run import interrupted
from hub_server import Hub
from huggingface_hub import constants

from ideator_rl.publishing.hub import HubError, Names, full_names, push

TOKEN = "hf_" + "SecretOfTheTest0123456789"
NAMES = Names("somebody/ideator", "somebody/ideator-trajectories")


@pytest.fixture
def hub(monkeypatch):
    """A hub that this process's client talks to, without the storage protocol that needs a server of its own."""
    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def folders(tmp_path):
    """A model and a dataset, as small as can be."""
    model, dataset = tmp_path / "model", tmp_path / "dataset"
    (dataset / "data").mkdir(parents=True)
    model.mkdir()
    (model / "README.md").write_text("---\nlibrary_name: transformers\n---\n# A model\n")
    (model / "model.safetensors").write_bytes(b"weights" * 100)
    (dataset / "README.md").write_text("---\nlicense: unknown\n---\n# A dataset\n")
    (dataset / "data" / "trajectories.parquet").write_bytes(b"rows" * 100)
    return model, dataset


def test_a_run_is_pushed_as_two_repos_and_the_token_goes_in_the_header_only(tmp_path):
    run = interrupted(tmp_path / "run")
    with Hub() as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
        arguments = ["export", str(run), "--push-to-hub", "ideator", "--private", "--json"]
        result = subprocess.run(
            [sys.executable, "-m", "ideator_rl.cli", *arguments],
            env={**os.environ, **settings, "HF_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
        )
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["model"] == f"{hub.url}/somebody/ideator" and facts["rows"]["trajectories"] == 8
    model, dataset = hub.repos["model", NAMES.model], hub.repos["dataset", NAMES.dataset]
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json", "recipe.yaml", "reward.svg"} <= set(
        model
    )
    assert set(dataset) == {"README.md", "data/trajectories.parquet", "data/experiments.parquet"}
    assert b"- somebody/ideator-trajectories" in model["README.md"] and b"somebody/ideator)" in dataset["README.md"]
    assert hub.private == {("model", NAMES.model): True, ("dataset", NAMES.dataset): True}
    headers = {path: header for path, header in hub.authorizations}
    assert headers["/api/repos/create"] == headers[f"/api/models/{NAMES.model}/commit/main"] == f"Bearer {TOKEN}"
    assert not any(header for path, header in headers.items() if path.startswith("/lfs/")), "storage needs no token"
    sent = b"".join([*model.values(), *dataset.values()])
    assert TOKEN.encode() not in sent and TOKEN not in result.stdout + result.stderr
    leaks = [path for path in run.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert not leaks and not list(run.glob(".export-*"))


def test_pushing_again_sends_nothing_twice_and_replaces_older_weights(hub, folders):
    model, dataset = folders
    urls = push(NAMES, model, dataset, private=False)
    assert urls == (f"{hub.url}/{NAMES.model}", f"{hub.url}/datasets/{NAMES.dataset}")
    assert not any(hub.private.values()) and hub.repos["model", NAMES.model]["model.safetensors"] == b"weights" * 100
    hub.repos["model", NAMES.model]["notes.txt"] = b"of another author"
    hub.requests.clear()
    assert push(NAMES, model, dataset, private=False) == urls
    assert not any(request.startswith("PUT") for request in hub.requests)
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    push(NAMES, model, dataset, private=False)
    assert set(hub.repos["model", NAMES.model]) == {"README.md", "model-00001-of-00001.safetensors", "notes.txt"}


def test_a_second_search_leaves_nothing_of_the_first_ones_best_codebase(hub, folders):
    _, dataset = folders
    ours = ["best/codebase/old.py", "best/codebase/sub/old.py", "best/best.patch", "report.html", "recipe.yaml"]
    hub.repos["dataset", NAMES.dataset] = dict.fromkeys([*ours, "notes.txt"], b"old")
    hub.private["dataset", NAMES.dataset] = False
    (dataset / "best" / "codebase").mkdir(parents=True)
    (dataset / "best" / "codebase" / "new.py").write_text("x = 1\n")
    push(Names(None, NAMES.dataset), dataset, dataset, private=False)
    sent = {"README.md", "data/trajectories.parquet", "best/codebase/new.py"}
    assert set(hub.repos["dataset", NAMES.dataset]) == sent | {"notes.txt"}


def test_a_private_export_is_not_sent_to_a_public_repo(hub, folders):
    push(Names(None, NAMES.dataset), *folders, private=False)
    (folders[1] / "data" / "trajectories.parquet").write_bytes(b"secret rows")
    hub.requests.clear()
    with pytest.raises(HubError, match=r"is public, so --private does not hold.*/settings, name another repo, or") as e:
        push(NAMES, *folders, private=True)
    assert not any("commit" in request or "PUT" in request for request in hub.requests) and "\n" not in str(e.value)
    hub.private["dataset", NAMES.dataset] = True
    push(NAMES, *folders, private=True)
    assert hub.repos["dataset", NAMES.dataset]["data/trajectories.parquet"] == b"secret rows"


def test_a_dataset_alone_is_pushed_under_the_name_that_was_given(hub, folders):
    model, dataset = folders
    names = full_names(None, "ideas")
    assert names == Names(None, "somebody/ideas")
    assert push(names, model, dataset, private=True) == (None, f"{hub.url}/datasets/somebody/ideas")
    assert list(hub.repos) == [("dataset", "somebody/ideas")]


REFUSALS = {
    "a token that is not accepted": ("whoami", 401, "does not accept the token. Log in with `hf auth login`"),
    "a namespace of another user": ("repos/create", 403, "may not write there"),
    "payment": ("repos/create", 402, "billing"),
    "too many requests": ("repos/create", 429, "Wait some minutes"),
    "a hub that is down": ("repos/create", 503, "answers 503"),
    "no room for files": ("objects/batch", 403, "could not be sent: the token may not write there"),
    "a card that is refused": ("validate-yaml", 400, "could not be sent"),
}


@pytest.mark.parametrize("piece, status, reason", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_of_the_hub_is_one_sentence_without_the_token(hub, folders, piece, status, reason):
    hub.refuse = {piece: status}
    with pytest.raises(HubError) as error:
        push(full_names("ideator", None), *folders, private=False)
    message = str(error.value)
    assert reason in message and TOKEN not in message and "\n" not in message
    assert error.value.__cause__ is None


def test_a_push_that_ends_half_way_states_what_was_sent_and_can_be_repeated(hub, folders):
    hub.refuse = {f"/api/models/{NAMES.model}/commit": 500}
    with pytest.raises(
        HubError, match=r"model somebody/ideator could not be sent.*dataset is published already .*same line"
    ):
        push(NAMES, *folders, private=False)
    assert hub.repos["dataset", NAMES.dataset] and not hub.repos["model", NAMES.model]
    hub.refuse = {}
    push(NAMES, *folders, private=False)
    assert "model.safetensors" in hub.repos["model", NAMES.model]


def test_names_get_the_users_namespace_unless_they_have_one(hub):
    assert full_names("ideator", None) == NAMES
    assert full_names("lab/ideator", "data") == Names("lab/ideator", "somebody/data")


@pytest.mark.parametrize(
    "model, dataset", [("a/b/c", None), ("a--b", None), ("", None), ("x" * 90, None), ("ok", "-no")]
)
def test_an_invalid_name_is_refused_before_any_request(hub, model, dataset):
    with pytest.raises(HubError, match="cannot be the name of a repo"):
        full_names(model, dataset)
    assert hub.requests == []


def test_model_and_dataset_need_names_of_their_own(hub):
    with pytest.raises(HubError, match="cannot both be"):
        full_names("somebody/x", "somebody/x")


def test_a_missing_token_is_an_error(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match="There is no Hugging Face token. Log in with `hf auth login`, or set HF_TOKEN"):
        full_names("ideator", None)


def test_an_unreachable_hub_is_an_error(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="cannot be reached. Check the network"):
        full_names("ideator", None)


def test_an_offline_client_is_an_error(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="Unset HF_HUB_OFFLINE"):
        full_names("ideator", None)
