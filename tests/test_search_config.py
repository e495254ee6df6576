"""The recipe of a search: the keys it accepts, and the errors for everything else."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ideator_rl.config.recipe_file import RecipeError
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.sandbox import choose, sandbox
from ideator_rl.screen.predictor import IdeatorModel
from ideator_rl.search import dry_run
from ideator_rl.search.config import load_search, refuse_endless, refuse_other
from ideator_rl.search.rerun import source_of_run
from ideator_rl.search.run import refuse_changed_environment
from ideator_rl.storage.bucket import open_bucket
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.run_folder import keep_recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("search_*.yaml"))


def written(tmp_path, **keys):
    keys = {"output_dir": str(tmp_path / "run"), "env": "toy", "max_experiments": 4, **keys}
    file = tmp_path / "search.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in keys.items() if value is not None))
    return str(file)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_read_and_dry_run(recipe, call):
    config = load_search(str(recipe))
    assert config.strategy in ("evolution", "top_k") and config.max_experiments is not None
    code, out, err = call("search", recipe.name, "--dry-run")
    assert code == 0 and f"experiments  at most {config.max_experiments + config.baseline_replicates}" in out, err
    assert ("ideas sampled for each that is run" in out) == (config.screen is not None)


def test_a_dry_run_has_no_json(capsys, call):
    with pytest.raises(SystemExit):
        call("search", RECIPES[0].name, "--dry-run", "--json")
    assert "argument --json: not allowed with argument --dry-run" in capsys.readouterr().err


def test_a_run_finds_its_bucket_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_search(written(tmp_path, bucket="shared"))
    (tmp_path / "run").mkdir()
    keep_recipe(tmp_path / "run", config.text())
    Journal(tmp_path / "run" / "buffer.sqlite").close()
    open_bucket(config.buffer().bucket)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert source_of_run(tmp_path / "run").bucket.url == (tmp_path / "shared").as_uri()
    assert not list(Path().iterdir())


def test_recordings_are_stored_by_their_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = {"coder": "{record: calls.jsonl}", "ideator_options": "{replay: ideas.jsonl, models: m}"}
    config = load_search(written(tmp_path, implementer="llm", ideator="chat", **keys))
    assert config.coder == {"record": str(tmp_path / "calls.jsonl")}
    assert config.ideator_options == {"replay": str(tmp_path / "ideas.jsonl"), "models": "m"}
    own = load_search(written(tmp_path, implementer="a.plugin", ideator="a.plugin", **keys))
    assert own.coder == {"record": "calls.jsonl"} and own.ideator_options["replay"] == "ideas.jsonl"


def test_every_key_may_be_overridden_and_the_resolved_recipe_is_one(tmp_path):
    config = load_search(written(tmp_path), ["--max-experiments", "9", "--strategy=puct", "--max_usd", "2"])
    assert (config.max_experiments, config.strategy, config.max_usd) == (9, "puct", 2.0)
    again = tmp_path / "again.yaml"
    again.write_text(config.text())
    assert load_search(str(again)) == config


def test_options_of_the_recipe_are_dropped_for_another_strategy(tmp_path):
    file = written(tmp_path, strategy="evolution", strategy_options="{elites: 6}")
    assert load_search(file, ["--seed", "2"]).strategy_options == {"elites": 6}
    assert load_search(file, ["--strategy", "best_of_n"]).strategy_options is None
    assert load_search(file, ["--strategy", "top_k", "--strategy_options", "{shown: 1}"]).strategy_options == {
        "shown": 1
    }


def test_the_schedule_is_scaled_by_default(tmp_path):
    config = load_search(written(tmp_path))
    assert (config.schedule, config.epoch_size, config.quorum) == ("scaled", None, None)
    assert (config.batch, config.flow) == (10, "epochs")


def test_a_single_source_needs_no_list(tmp_path):
    assert load_search(written(tmp_path, archive_from="runs/first")).archive_from == ["runs/first"]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"stratgy": "evolution"}, "unknown key 'stratgy'. Did you mean 'strategy'"),
        ({"learning_rate": 0.1}, "docs/reference/recipe_search.md lists the keys"),
        ({"max_experiments": "many"}, "Expected a whole number of at least 1 or null"),
        ({"max_experiments": 0}, "of at least 1"),
        ({"quorum": 1.5}, "Expected a number from 0 to 1"),
        ({"max_seconds": -1}, "at least 0"),
        ({"max_seconds": ".nan"}, "finite"),
        ({"max_seconds": 10**400}, "401 digits. Expected at most 300"),
        ({"flow": "steddy"}, "Expected epochs or steady"),
        ({"near_duplicates": "drop"}, "Expected count or reject or penalise or null"),
        ({"max_experiments": None}, "has no end"),
        ({"env": None}, "has no 'env'"),
        ({"output_dir": None}, "has no 'output_dir'"),
        ({"strategy_options": "elites"}, "Expected a mapping or null"),
        ({"archive_from": "[1]"}, "archive_from[0]: 1. Expected text"),
    ],
)
def test_an_unusable_recipe_is_refused_with_one_sentence(tmp_path, keys, text):
    with pytest.raises(RecipeError) as refusal:
        load_search(written(tmp_path, **keys))
    assert text in str(refusal.value)


def test_whole_numbers_of_300_digits_are_read_and_a_million_is_printed_in_full(tmp_path):
    assert load_search(written(tmp_path, max_experiments=10**299)).max_experiments == 10**299
    config = load_search(written(tmp_path, max_experiments=1234567, env="nanogpt"))
    assert "max_experiments 1234567," in dry_run.dry_run(config)


def test_a_dry_run_describes_a_steady_flow(tmp_path):
    config = load_search(written(tmp_path, env="nanogpt", flow="steady", epoch_size=8))
    assert "a steady flow, counted in epochs of 8 ideas" in dry_run.dry_run(config)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"max_gpu_hours": 1}, "preset cpu of nanogpt uses no GPU"),
        ({"max_usd": 1, "max_coder_tokens": 9}, "nothing counts towards max_usd or max_coder_tokens"),
        ({"max_usd": 1, "max_gpu_hours": 1}, "implementer rules call no paid service"),
        ({"max_usd": 1, "max_seconds": 1}, None),
        ({"max_usd": 1, "implementer": "scripted.PaidImplementer"}, None),
        ({"max_gpu_hours": 1, "preset": "single_gpu"}, None),
    ],
)
def test_a_search_without_an_effective_budget_is_refused_before_it_begins(tmp_path, call, keys, text):
    file = written(tmp_path, **{"env": "nanogpt", "max_experiments": None, **keys})
    config = load_search(file)
    if text is None:
        return refuse_endless(config, load_environment("nanogpt"))
    with pytest.raises(RecipeError, match=text):
        dry_run.dry_run(config)
    code, _, err = call("search", file)
    assert code == 2 and text in err and "Add one of max_experiments" in err
    assert not (config.folder / "recipe.yaml").exists()


def test_a_search_is_not_resumed_with_another_seed_or_in_a_training_run(tmp_path):
    config = load_search(written(tmp_path))
    refuse_other(config)
    config.folder.mkdir()
    (config.folder / "recipe.yaml").write_text(config.text())
    refuse_other(load_search(written(tmp_path), ["--max_experiments", "40", "--strategy", "puct"]))
    with pytest.raises(RecipeError, match="begun with seed: 0, and --resume asks for 3"):
        refuse_other(load_search(written(tmp_path), ["--seed", "3"]))
    (config.folder / "recipe.yaml").write_text("env: toy\nmax_steps: 3\n")
    with pytest.raises(RecipeError, match="is not a search"):
        refuse_other(config)


def test_a_kill_while_the_recipe_is_saved_leaves_the_old_recipe(tmp_path, monkeypatch):
    config = load_search(written(tmp_path))
    config.folder.mkdir()
    keep_recipe(config.folder, config.text())
    monkeypatch.setattr(os, "fsync", lambda handle: 1 / 0)  # killed when the text is written and has no name yet
    with pytest.raises(ZeroDivisionError):
        keep_recipe(config.folder, config.text())
    monkeypatch.undo()
    refuse_other(config)
    assert (config.folder / "recipe.yaml").read_text() == config.text()


@pytest.mark.parametrize(
    ("implementer", "refused"),
    [
        ("rules", False),
        ("envs.landscape.implementer.TokenEdits", False),
        ("direct", True),
    ],
)
def test_a_dry_run_without_a_sandbox_refuses_what_the_search_would_refuse(tmp_path, monkeypatch, implementer, refused):
    monkeypatch.setattr(choose, "best_sandbox", lambda: sandbox.Sandbox(sandbox.NONE, "there is none"))
    overrides = ["--env", "landscape", "--implementer", implementer]
    config = load_search(written(tmp_path), overrides)
    monkeypatch.setattr("ideator_rl.search.run.get_ideator", lambda *args: Silent())
    if refused:
        with pytest.raises(choose.SandboxError):
            dry_run.dry_run(config)
    else:
        assert "isolation none" in dry_run.dry_run(config)


class Silent:
    """Scripted: an ideator that is never asked."""

    name = "silent"

    def close(self):
        pass


class WithModel(Silent):
    """Scripted: an ideator with a model in this process."""

    async def ideas(self, ask, archive):
        raise AssertionError("a dry run asks for nothing")

    @classmethod
    def from_settings(cls, settings, subject, ledger):
        cls.inherit, cls.is_open = subject.inherit, True
        return cls()

    def local_model(self):
        return IdeatorModel("nowhere")

    def close(self):
        type(self).is_open = False


def test_a_dry_run_opens_ideator_and_predictor_as_the_search_does(tmp_path):
    keys = {"env": "nanogpt", "screen": "{predictor: hidden}", "inherit": "best_parent"}
    config = load_search(written(tmp_path, ideator=f"{__name__}.WithModel", **keys))
    assert "screen       8 ideas sampled for each" in dry_run.dry_run(config)
    assert (WithModel.inherit, WithModel.is_open) == ("best_parent", False)
    config = load_search(written(tmp_path, env="nanogpt", screen="{predictor: hidden}"))
    with pytest.raises(IdeatorError, match="the ideator here is 'catalogue'"):
        dry_run.dry_run(config)


@pytest.mark.parametrize(
    ("keys", "figures"),
    [
        # Three epochs of 8 are run whole, and then one in eight of 200 samples.
        ({"max_ideas": 224}, "about 50 of nanogpt"),
        ({"max_ideas": 224, "max_experiments": 30}, "at most 31 of nanogpt"),
        ({"max_ideas": 224, "max_epochs": 5}, "at most 41 of nanogpt"),
        ({"max_ideas": 20}, "at most 21 of nanogpt"),
    ],
)
def test_a_dry_run_counts_the_ideas_that_a_screen_runs(tmp_path, keys, figures):
    screen = {"screen": "{over: 8, after: 20}", "epoch_size": 8, "baseline_replicates": 1}
    config = load_search(written(tmp_path, **{"env": "nanogpt", "max_experiments": None, **screen, **keys}))
    text = dry_run.dry_run(config)
    count = int(figures.split()[-3])
    bound = figures.removesuffix(f" {count} of nanogpt")
    hours = load_environment("nanogpt").preset("cpu").hours(count)[1]
    assert f"experiments  {figures} (cpu)" in text and f"hardware     {bound} 0.0 GPU-hours and {hours:.1f} CPU" in text
    assert ("if a quarter of these succeed" in text) == (bound == "about")


@pytest.mark.parametrize("line", ["[a, b]: 1", "strategy_options: {[a]: 1}", "? {a: 1}\n: 2"])
def test_a_key_that_is_no_text_is_refused(tmp_path, line):
    file = tmp_path / "search.yaml"
    file.write_text(f"env: toy\n{line}\n")
    with pytest.raises(RecipeError, match="Expected a word"):
        load_search(str(file))


def test_a_search_of_another_environment_is_not_resumed(tmp_path):
    config = load_search(written(tmp_path, env="nanogpt", preset="cpu_shards"))
    environment = load_environment("nanogpt").at("cpu_shards")

    def refuse(*digests):
        records = [SimpleNamespace(hashes={"environment": digest}) for digest in digests]
        executor = SimpleNamespace(environment=environment)
        refuse_changed_environment(config, SimpleNamespace(executor=executor, history=records, baselines=()))

    now, of_earlier_versions = environment.digest("cpu_shards"), environment.digest("cpu_shards", modules=False)
    assert now != of_earlier_versions
    refuse(now, of_earlier_versions)
    with pytest.raises(RecipeError, match="1 of its 2 results are of another baseline"):
        refuse(now, "another")
