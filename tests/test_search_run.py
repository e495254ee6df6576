"""`ideator-rl search` on the toy environment, whose experiments really run; and the ideator `catalogue`."""

import asyncio
import json
import random
import shutil
from dataclasses import replace

import pytest
from archives import archive
from conftest import TOY, sentence
from search_runs import Lines, RandomEdits, configured, go, text

from ideator_rl.archive.idea_edits import IdeaEdits
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.experiment import Experiment
from ideator_rl.ideas import parse_idea
from ideator_rl.patch import tree_hash
from ideator_rl.reward_buffer import RewardBuffer
from ideator_rl.search.ideator import EXPLOIT, EXPLORE, FREE, Ask, Subject
from ideator_rl.search.ideators import get_ideator
from ideator_rl.search.run import SearchProgress
from ideator_rl.storage.records import read_run

KEYS = ("--slots", "2", "--epoch_size", "8", "--quorum", "1.0", "--batch", "2", "--embedder", "hashed")

CHAT = "{models: m, base_url: 'http://127.0.0.1:9/v1'}"


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text(f"env: {TOY}\noutput_dir: {tmp_path}/run\nstrategy: evolution\nmax_experiments: 9\n")
    return file


def test_a_search_runs_is_looked_at_refused_twice_extended_and_re_run(call, recipe, tmp_path):
    folder = tmp_path / "run"
    code, out, err = call("search", recipe, *KEYS)
    assert code == 0, err
    assert "Experiments: 9 charged" in out and "Ended by max_experiments" in out and "epoch 2: " in err
    assert "9 charged" in (folder / "report.html").read_text(), "the report has no figures of the search"
    assert (folder / "report.html").stat().st_size > 10_000 and (folder / "timings.json").is_file()
    windows = [json.loads(line) for line in (folder / "search.jsonl").read_text().splitlines()]
    assert windows and all(set(each) >= {"step", "ideas", "figures"} for each in windows)
    code, out, _ = call("status", folder, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["search"]["charged"] == facts["experiments"] == 9 and facts["process"] is None
    assert facts["search"]["ended_by"] == "max_experiments"
    assert "Repeats:" in call("status", folder)[1]
    assert "already holds a run" in sentence(*call("search", recipe, *KEYS)[::2])
    code, out, err = call("search", recipe, *KEYS, "--max_experiments", "11", "--resume", "--json")
    told = json.loads(out)
    assert code == 0 and told["charged"] == 11 and told["best"]["metric"]["value"] < told["baseline"]
    code, out, err = call("rerun", folder, "--best", "1", "--replicates", "2", "--slots", "2", "--json")
    assert code == 0 and len(json.loads(out)["values"]) == 2, err
    assert len(read_run(folder).ran) == 11


def test_a_search_is_not_gone_on_with_in_a_bucket_that_lacks_its_results(call, recipe, tmp_path):
    words = ("--implementer", "envs.landscape.implementer.TokenEdits", "--backend", "in_process", "--preset", "t0")
    words = (*words, "--env", "landscape", "--ideator", f"{__name__}.Edits", "--resume")
    assert call("search", recipe, *words, "--max_experiments", "2")[0] == 0
    code, _, err = call("search", recipe, *words, "--bucket", f"file://{tmp_path}/other")
    assert "lacks the results of 2 of its 2 experiments" in sentence(code, err)
    shutil.copytree(tmp_path / "run" / "bucket", tmp_path / "moved")
    code, _, err = call("search", recipe, *words, "--max_experiments", "3", "--bucket", f"file://{tmp_path}/moved")
    assert code == 0, err


def test_a_search_is_not_gone_on_with_in_an_environment_that_has_changed(call, recipe, tmp_path):
    shutil.copytree(TOY, tmp_path / "toy")
    words = (*KEYS, "--env", tmp_path / "toy", "--resume")
    assert call("search", recipe, *words, "--max_experiments", "1")[0] == 0
    manifest = tmp_path / "toy" / "env.yaml"
    asked, changed = manifest.read_text(), manifest.read_text().replace("x: 4.0", "x: 9.0")
    manifest.write_text(changed)
    code, _, err = call("search", recipe, *words, "--max_experiments", "2")
    assert "The environment toy has changed" in sentence(code, err) and "2 of its 2 results" in err
    manifest.write_text(f"{asked}\n# nothing that decides a metric\n")
    assert call("search", recipe, *words, "--max_experiments", "2")[0] == 0


class Edits(RandomEdits):
    @classmethod
    def from_settings(cls, settings, subject, ledger):
        return cls()


class Acts(Edits):
    """Its endpoint answers with what would clear the screen."""

    async def ideas(self, ask, archive):
        raise IdeatorError("The endpoint says \x1b[2J\x1b]0;mine\x07 no.")


def test_what_an_endpoint_says_does_not_act_on_the_terminal(call, recipe):
    words = ("--implementer", "envs.landscape.implementer.TokenEdits", "--backend", "in_process", "--preset", "t0")
    code, _, err = call("search", recipe, *words, "--env", "landscape", "--ideator", f"{__name__}.Acts")
    assert code == 2 and "The endpoint says ⟨U+001B⟩]0;mine⟨U+0007⟩ no." in err and "\x1b" not in err


def test_the_progress_of_a_resumed_search_counts_each_codebase_once_and_knows_the_best_of_all_sittings(tmp_path):
    config = configured(tmp_path, max_ideas=4)
    texts = [text({knob: 1}) for knob in range(4)]
    go(config, Lines(texts))
    buffer = RewardBuffer(config.buffer())
    values = [record.metric["value"] for record in buffer.history if record.metric]
    voice = SearchProgress(config)
    voice.buffer = buffer
    asyncio.run(buffer.score([texts[0], texts[0], "no idea"], step=1))
    line = voice.line()
    assert " · 4 experiments · 3 ideas done (1 failed, 2 reused)" in line
    best = max(values) if buffer.executor.environment.metric.direction == "max" else min(values)
    assert len(values) > 1 and line.endswith(f"best quality {best:.4f}")
    buffer.close()


def test_a_coder_that_costs_ends_the_search_at_its_cap_and_what_it_left_is_run_once_the_cap_is_raised(
    call, recipe, tmp_path
):
    words = (*KEYS, "--implementer", "scripted.PaidImplementer", "--strategy", "best_of_n", "--max_ideas", "6")
    code, out, err = call("search", recipe, *words, "--max_usd", "3")
    assert code == 0 and "Ended by max_usd" in out and out.rstrip().endswith(" with --resume."), err
    assert "Raise max_usd" in out and ".." not in out.splitlines()[-1]
    run = read_run(tmp_path / "run")
    assert len(run.ran) == 3 == run.spent["usd"] and {row.status for row in run.rollouts} == {"succeeded", "lost"}
    code, out, err = call("search", recipe, *words, "--max_usd", "20", "--resume")
    run = read_run(tmp_path / "run")
    assert code == 0 and "Ended by max_ideas" in out, err
    assert len(run.rollouts) == 6 == run.spent["usd"] and {row.status for row in run.rollouts} == {"succeeded"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--strategy", "evolutoin"), "no search_strategies named 'evolutoin'. Did you mean 'evolution'?"),
        (("--strategy", "top_k", "--strategy_options", "{shown: -1}"), "has shown: -1. Expected at least 0"),
        (("--strategy", "puct", "--strategy_options", "{elites: 0}"), "has elites: 0. Expected at least 1"),
        (("--strategy", "random", "--strategy_options", "{shown: -1}"), "has shown: -1. Expected at least 0"),
        (("--backend", "locl"), "Did you mean 'local'?"),
        (("--ideator", "chatt"), "Did you mean 'chat'?"),
        (("--ideator", "search_runs.text"), "Expected a class with `from_settings`"),
        (("--ideator", "chat", "--ideator_options", CHAT, "--prompts", "shrt"), "has no prompt 'shrt'. It has: "),
        (("--strategy_options", "{parent: 2}"), "Did you mean 'parents'"),
        (("--ideator", "oracle"), "no ideators named 'oracle'"),
        (("--ideator_options", "{keeep: 1}"), "unknown key 'keeep'. Did you mean 'keep'?"),
        (("--ideator_options", "{keep: 2}"), "Expected a number from 0 to 1"),
        (("--env", "nowhere"), "nowhere"),
        (("--embedder", "nonsense"), "no embedder 'nonsense'"),
        (("--archive_from", "[nowhere]"), "neither a run nor a bucket"),
        (("--max_experiment", "3"), "Did you mean 'max_experiments'"),
    ],
)
def test_what_a_recipe_names_and_is_not_there_is_told_in_one_sentence(call, recipe, words, said, tmp_path):
    code, _, err = call("search", recipe, *KEYS, *words)
    assert said in sentence(code, err)
    assert not (tmp_path / "run" / "recipe.yaml").exists(), "a corrected recipe could not be started without --resume"


@pytest.fixture(scope="module")
def subject():
    return Subject(load_environment("nanogpt"), "cpu")  # nothing is run: its catalogue is large enough to draw from


@pytest.fixture
def catalogue(subject):
    ideator = get_ideator("catalogue", None, subject)
    yield ideator
    ideator.close()


@pytest.fixture(scope="module")
def edits(subject):
    return IdeaEdits(subject.environment, subject.preset)


def answered(ideator, ask, known=None):
    return asyncio.run(ideator.ideas(ask, known or archive()))


def past(edits, count, key=None):
    """Successful records of ideas from the catalogue, of one edit if it is named."""
    rng, found = random.Random(3), []
    while len(found) < count:
        choices = edits.catalogue.sample(rng, 1 if key else 2)
        if key is None or choices[0].key == key:
            idea, tree = (
                edits.catalogue.describe(choices, rng).text,
                tree_hash(edits.catalogue.apply(edits.base, choices)),
            )
            metric = {"name": "val_loss", "value": 2.0, "direction": "min"}
            id = f"id{len(found)}"
            found.append(Experiment(id, "succeeded", idea, "nanogpt", "cpu", metric=metric, reward=0.5, tree=tree))
    return found


def test_the_catalogue_answers_a_question_with_new_ideas_that_it_can_read_and_the_same_ones_again(
    catalogue, edits, subject
):
    ask = Ask(FREE, 12, salt="1:0")
    ideas = answered(catalogue, ask)
    sets = {frozenset(edits.of(idea)) for idea in ideas}
    assert len(ideas) == 12 == len(sets) and frozenset() not in sets
    assert answered(get_ideator("catalogue", None, subject), ask) == ideas
    assert answered(get_ideator("catalogue", None, subject), Ask(FREE, 12, salt="1:1")) != ideas


def test_the_catalogue_does_not_say_what_is_known_or_to_be_avoided(catalogue, edits, subject):
    ask = Ask(FREE, 12, salt="1:0")
    first = answered(catalogue, ask)
    avoiding = get_ideator("catalogue", None, subject)
    records = past(edits, 20)
    again = answered(avoiding, replace(ask, avoid=tuple(first[:6])), archive(*records))

    def trees(ideas):
        return {tree_hash(edits.catalogue.apply(edits.base, list(edits.of(idea)))) for idea in ideas}

    assert not trees(again) & trees(first[:6]) and not trees(again) & {record.tree for record in records}


def test_the_catalogue_that_is_told_what_it_said_before_a_kill_goes_on_as_if_it_had_lived(catalogue, subject):
    said = answered(catalogue, Ask(FREE, 60, salt="1:0"))
    resumed = get_ideator("catalogue", None, subject)
    resumed.remember(said)
    ask = Ask(FREE, 60, salt="1:1")
    going_on = answered(catalogue, ask)
    assert answered(resumed, ask) == going_on
    assert answered(get_ideator("catalogue", None, subject), ask) != going_on, "nothing was said twice: ask for more"


def test_what_improves_is_made_of_one_or_two_of_the_shown_and_says_of_which(catalogue, edits):
    shown = tuple(past(edits, 5))
    sizes, kept = [], 0
    for number in range(30):
        for idea in answered(catalogue, Ask(EXPLOIT, 1, shown, salt=str(number)), archive(*shown)):
            keys = {choice.key for parent in idea.parents for choice in edits.of(parent.idea)}
            sizes.append(len(idea.parents))
            kept += bool(keys & {choice.key for choice in edits.of(idea)})
            assert all(parent in shown for parent in idea.parents)
    assert set(sizes) == {1, 2} and kept >= 27  # an edit is kept with 3/4, and there are two or more to keep


def test_what_explores_uses_what_the_shown_use_least_and_descends_from_none(catalogue, edits):
    shown = tuple(past(edits, 20, "learning_rate"))

    def uses(kind):
        ideas = [
            idea
            for number in range(60)
            for idea in answered(catalogue, Ask(kind, 1, shown if kind == EXPLORE else (), salt=str(number)))
        ]
        assert all(idea.parents == () for idea in ideas)
        return sum("learning_rate" in {choice.key for choice in edits.of(idea)} for idea in ideas)

    assert uses(EXPLORE) == 0 < uses(FREE)


def test_an_environment_without_a_catalogue_refuses_the_ideator(tmp_path):
    with pytest.raises(IdeatorError, match="has no catalogue"):
        get_ideator("catalogue", None, Subject(load_environment("landscape"), "t0"))


def test_ideas_of_the_catalogue_have_the_form(catalogue):
    assert all(parse_idea(idea).changes for idea in answered(catalogue, Ask(FREE, 5, salt="a")))
