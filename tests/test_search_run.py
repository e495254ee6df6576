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
from ideator_rl.search.config import load_search
from ideator_rl.search.engine import StopReason
from ideator_rl.search.ideator import EXPLOIT, EXPLORE, FREE, Ask, Subject
from ideator_rl.search.ideators import get_ideator
from ideator_rl.search.run import SearchProgress, run_search
from ideator_rl.storage.run_folder import RunFolderError, take
from ideator_rl.storage.run_reader import read_run

KEYS = ("--slots", "2", "--epoch_size", "8", "--quorum", "1.0", "--batch", "2", "--embedder", "hashed")

CHAT = "{models: m, base_url: 'http://127.0.0.1:9/v1'}"


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text(f"env: {TOY}\noutput_dir: {tmp_path}/run\nstrategy: evolution\nmax_experiments: 9\n")
    return file


def test_a_search_is_run_inspected_refused_without_resume_extended_and_rerun(call, recipe, tmp_path):
    folder = tmp_path / "run"
    code, out, err = call("search", recipe, *KEYS)
    assert code == 0, err
    assert "Experiments: 9 charged" in out and "Ended by max_experiments" in out and "epoch 2: " in err
    assert "9 charged" in (folder / "report.html").read_text(), "the report has no figures of the search"
    assert (folder / "report.html").stat().st_size > 10_000 and (folder / "timings.json").is_file()
    windows = [json.loads(line) for line in (folder / "search.jsonl").read_text().splitlines()]
    assert windows and all(set(window) >= {"step", "ideas", "figures"} for window in windows)
    code, out, _ = call("status", folder, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["search"]["charged"] == facts["experiments"] == 9 and facts["process"] is None
    assert facts["search"]["ended_by"] == "max_experiments"
    assert "Repeats:" in call("status", folder)[1]
    assert "already holds a run" in sentence(*call("search", recipe, *KEYS)[::2])
    code, out, err = call("search", recipe, *KEYS, "--max_experiments", "11", "--resume", "--json")
    result = json.loads(out)
    assert code == 0 and result["charged"] == 11 and result["best"]["metric"]["value"] < result["baseline"]
    code, out, err = call("rerun", folder, "--best", "1", "--replicates", "2", "--slots", "2", "--json")
    assert code == 0 and len(json.loads(out)["values"]) == 2, err
    assert len(read_run(folder).ran) == 11


def test_a_search_is_not_resumed_with_a_bucket_that_lacks_its_results(call, recipe, tmp_path):
    arguments = ("--implementer", "envs.landscape.implementer.TokenEdits", "--backend", "in_process", "--preset", "t0")
    arguments = (*arguments, "--env", "landscape", "--ideator", f"{__name__}.Edits", "--resume")
    assert call("search", recipe, *arguments, "--max_experiments", "2")[0] == 0
    code, _, err = call("search", recipe, *arguments, "--bucket", f"file://{tmp_path}/other")
    assert "lacks the results of 2 of its 2 experiments" in sentence(code, err)
    shutil.copytree(tmp_path / "run" / "bucket", tmp_path / "moved")
    code, _, err = call("search", recipe, *arguments, "--max_experiments", "3", "--bucket", f"file://{tmp_path}/moved")
    assert code == 0, err


def test_run_search_takes_a_recipe_path_or_a_configuration_and_writes_no_report(recipe, tmp_path):
    overrides = ["--implementer", "envs.landscape.implementer.TokenEdits", "--backend", "in_process", "--preset", "t0"]
    overrides += ["--env", "landscape", "--ideator", f"{__name__}.Edits"]
    assert run_search(recipe, overrides=[*overrides, "--max_experiments", "2"]).budget == "max_experiments"
    config = load_search(str(recipe), [*overrides, "--max_experiments", "3"])
    assert run_search(config, resume=True) == StopReason(
        "max_experiments", "3 experiments were run, the most that the recipe allows"
    )
    assert len(read_run(tmp_path / "run").ran) == 3 and not (tmp_path / "run" / "report.html").exists()


def test_the_report_is_written_while_the_search_still_holds_its_folder(recipe, tmp_path):
    overrides = ["--implementer", "envs.landscape.implementer.TokenEdits", "--backend", "in_process", "--preset", "t0"]
    overrides += ["--env", "landscape", "--ideator", f"{__name__}.Edits", "--max_experiments", "2"]
    folders = []

    def at_end(folder):
        folders.append(folder)
        with pytest.raises(RunFolderError, match="at work in"), take(folder, resume=True):
            pass

    run_search(recipe, overrides=overrides, at_end=at_end)
    assert folders == [tmp_path / "run"]


def test_a_search_is_not_resumed_in_a_changed_environment(call, recipe, tmp_path):
    shutil.copytree(TOY, tmp_path / "toy")
    arguments = (*KEYS, "--env", tmp_path / "toy", "--resume")
    assert call("search", recipe, *arguments, "--max_experiments", "1")[0] == 0
    manifest = tmp_path / "toy" / "env.yaml"
    original, changed = manifest.read_text(), manifest.read_text().replace("x: 4.0", "x: 9.0")
    manifest.write_text(changed)
    code, _, err = call("search", recipe, *arguments, "--max_experiments", "2")
    assert "The environment toy has changed" in sentence(code, err) and "2 of its 2 results" in err
    manifest.write_text(f"{original}\n# a comment that decides no metric\n")
    assert call("search", recipe, *arguments, "--max_experiments", "2")[0] == 0


class Edits(RandomEdits):
    @classmethod
    def from_settings(cls, settings, subject, ledger):
        return cls()


class Acts(Edits):
    """Its endpoint answers with what would clear the screen."""

    async def ideas(self, ask, archive):
        raise IdeatorError("The endpoint says \x1b[2J\x1b]0;mine\x07 no.")


def test_control_characters_from_an_endpoint_do_not_reach_the_terminal(call, recipe):
    arguments = ("--implementer", "envs.landscape.implementer.TokenEdits", "--backend", "in_process", "--preset", "t0")
    code, _, err = call("search", recipe, *arguments, "--env", "landscape", "--ideator", f"{__name__}.Acts")
    assert code == 2 and "The endpoint says ⟨U+001B⟩]0;mine⟨U+0007⟩ no." in err and "\x1b" not in err


def test_the_progress_of_a_resumed_search_covers_all_sessions(tmp_path):
    config = configured(tmp_path, max_ideas=4)
    texts = [text({knob: 1}) for knob in range(4)]
    go(config, Lines(texts))
    buffer = RewardBuffer(config.buffer())
    values = [record.metric["value"] for record in buffer.history if record.metric]
    voice = SearchProgress(config)
    voice.buffer = buffer
    asyncio.run(buffer.score([texts[0], texts[0], "no idea"], step=1))
    parts = voice.parts()
    best = max(values) if buffer.executor.environment.metric.direction == "max" else min(values)
    assert len(values) > 1 and voice.share() is None
    assert parts[0] == "4 experiments" and parts[2:] == [
        "3 ideas done (1 failed, 2 reused)",
        f"best quality {best:.4f}",
    ]
    buffer.close()


def test_a_spent_coder_budget_ends_the_search_and_a_higher_one_runs_its_lost_ideas(call, recipe, tmp_path):
    arguments = (*KEYS, "--implementer", "scripted.PaidImplementer", "--strategy", "best_of_n", "--max_ideas", "6")
    code, out, err = call("search", recipe, *arguments, "--max_usd", "3")
    assert code == 0 and "Ended by max_usd" in out and out.rstrip().endswith(" with --resume."), err
    assert "Raise max_usd" in out and ".." not in out.splitlines()[-1]
    run = read_run(tmp_path / "run")
    assert len(run.ran) == 3 == run.spent["usd"] and {row.status for row in run.rollouts} == {"succeeded", "lost"}
    code, out, err = call("search", recipe, *arguments, "--max_usd", "20", "--resume")
    run = read_run(tmp_path / "run")
    assert code == 0 and "Ended by max_ideas" in out, err
    assert len(run.rollouts) == 6 == run.spent["usd"] and {row.status for row in run.rollouts} == {"succeeded"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--strategy", "evolutoin"), "None of the search strategies is named 'evolutoin'. Did you mean 'evolution'?"),
        (("--strategy", "top_k", "--strategy_options", "{shown: -1}"), "has shown: -1. Expected at least 0"),
        (("--strategy", "puct", "--strategy_options", "{elites: 0}"), "has elites: 0. Expected at least 1"),
        (("--strategy", "random", "--strategy_options", "{shown: -1}"), "has shown: -1. Expected at least 0"),
        (("--backend", "locl"), "Did you mean 'local'?"),
        (("--ideator", "chatt"), "Did you mean 'chat'?"),
        (("--ideator", "search_runs.text"), "Expected a class with `from_settings`"),
        (("--ideator", "chat", "--ideator_options", CHAT, "--prompts", "shrt"), "has no prompt 'shrt'. It has: "),
        (("--strategy_options", "{parent: 2}"), "Did you mean 'parents'"),
        (("--ideator", "oracle"), "None of the ideators is named 'oracle'"),
        (("--ideator_options", "{keeep: 1}"), "unknown key 'keeep'. Did you mean 'keep'?"),
        (("--ideator_options", "{keep: 2}"), "Expected a number from 0 to 1"),
        (("--env", "nowhere"), "nowhere"),
        (("--embedder", "nonsense"), "no embedder 'nonsense'"),
        (("--archive_from", "[nowhere]"), "neither a run nor a bucket"),
        (("--max_experiment", "3"), "Did you mean 'max_experiments'"),
    ],
)
def test_a_wrong_name_or_option_in_a_recipe_is_refused_with_one_sentence(call, recipe, arguments, message, tmp_path):
    code, _, err = call("search", recipe, *KEYS, *arguments)
    assert message in sentence(code, err)
    assert not (tmp_path / "run" / "recipe.yaml").exists(), "a corrected recipe could not be started without --resume"


@pytest.fixture(scope="module")
def subject():
    return Subject(
        load_environment("nanogpt"), "cpu"
    )  # no experiment is run: its catalogue is large enough to draw from


@pytest.fixture
def catalogue(subject):
    ideator = get_ideator("catalogue", None, subject)
    yield ideator
    ideator.close()


@pytest.fixture(scope="module")
def edits(subject):
    return IdeaEdits(subject.environment, subject.preset)


def answered(ideator, ask, past=None):
    return asyncio.run(ideator.ideas(ask, past or archive()))


def past(edits, count, key=None):
    """Successful records of ideas from the catalogue, of one edit if it is named."""
    rng, records = random.Random(3), []
    while len(records) < count:
        choices = edits.catalogue.sample(rng, 1 if key else 2)
        if key is None or choices[0].key == key:
            idea, tree = (
                edits.catalogue.describe(choices, rng).text,
                tree_hash(edits.catalogue.apply(edits.base, choices)),
            )
            metric = {"name": "val_loss", "value": 2.0, "direction": "min"}
            id = f"id{len(records)}"
            records.append(Experiment(id, "succeeded", idea, "nanogpt", "cpu", metric=metric, reward=0.5, tree=tree))
    return records


def test_the_catalogue_answers_a_question_with_distinct_ideas_that_depend_on_its_salt(catalogue, edits, subject):
    ask = Ask(FREE, 12, salt="1:0")
    ideas = answered(catalogue, ask)
    sets = {frozenset(edits.of(idea)) for idea in ideas}
    assert len(ideas) == 12 == len(sets) and frozenset() not in sets
    assert answered(get_ideator("catalogue", None, subject), ask) == ideas
    assert answered(get_ideator("catalogue", None, subject), Ask(FREE, 12, salt="1:1")) != ideas


def test_the_catalogue_repeats_neither_past_nor_avoided_ideas(catalogue, edits, subject):
    ask = Ask(FREE, 12, salt="1:0")
    first = answered(catalogue, ask)
    avoiding = get_ideator("catalogue", None, subject)
    records = past(edits, 20)
    again = answered(avoiding, replace(ask, avoid=tuple(first[:6])), archive(*records))

    def trees(ideas):
        return {tree_hash(edits.catalogue.apply(edits.base, list(edits.of(idea)))) for idea in ideas}

    assert not trees(again) & trees(first[:6]) and not trees(again) & {record.tree for record in records}


def test_a_catalogue_that_remembers_earlier_answers_continues_as_if_it_had_not_been_killed(catalogue, subject):
    answers = answered(catalogue, Ask(FREE, 60, salt="1:0"))
    resumed = get_ideator("catalogue", None, subject)
    resumed.remember(answers)
    ask = Ask(FREE, 60, salt="1:1")
    going_on = answered(catalogue, ask)
    assert answered(resumed, ask) == going_on
    assert answered(get_ideator("catalogue", None, subject), ask) != going_on, "no idea was repeated: ask for more"


def test_an_exploiting_answer_recombines_one_or_two_shown_ideas_and_names_them(catalogue, edits):
    shown = tuple(past(edits, 5))
    sizes, answers_with_kept_edits = [], 0
    for number in range(30):
        for idea in answered(catalogue, Ask(EXPLOIT, 1, shown, salt=str(number)), archive(*shown)):
            keys = {choice.key for parent in idea.parents for choice in edits.of(parent.idea)}
            sizes.append(len(idea.parents))
            answers_with_kept_edits += bool(keys & {choice.key for choice in edits.of(idea)})
            assert all(parent in shown for parent in idea.parents)
    assert (
        set(sizes) == {1, 2} and answers_with_kept_edits >= 27
    )  # an edit is kept with 3/4, and there are two or more to keep


def test_an_exploring_answer_uses_the_least_used_edits_and_has_no_parents(catalogue, edits):
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


def test_the_ideator_catalogue_is_refused_without_a_catalogue(tmp_path):
    with pytest.raises(IdeatorError, match="has no catalogue"):
        get_ideator("catalogue", None, Subject(load_environment("landscape"), "t0"))


def test_ideas_of_the_catalogue_can_be_parsed(catalogue):
    assert all(parse_idea(idea).changes for idea in answered(catalogue, Ask(FREE, 5, salt="a")))


def test_a_search_whose_baseline_fails_is_mended_and_started_by_the_same_command(call, recipe, tmp_path):
    shutil.copytree(TOY, tmp_path / "env")
    script = tmp_path / "env" / "baseline" / "train.py"
    text = script.read_text()
    script.write_text(text.replace("time.sleep(pause)", "raise SystemExit('broken')"))
    words = ("search", recipe, *KEYS, "--env", tmp_path / "env", "--max_experiments", "2")
    code, _, err = call(*words)
    assert code == 2 and "give the same command again" in err
    script.write_text(text)
    code, _, err = call(*words)
    assert code == 0, err
