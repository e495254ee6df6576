"""Runs that ideator_rl 0.1.0 made are read, reported, resumed, run again and exported by the version under test.

The runs and what 0.1.0 printed about them lie in `run_0_1_0/`, whose README has how they were made.
"""

import json

import pytest
import yaml
from old_runs import FIXTURE, claims, command, expected, printed, rollouts, unpack

from ideator_rl.training.recipe.keys import REMOVED_KEYS

RUNS = ("search", "search_killed", "train", "train_killed")
EXPECTED = expected()
BEST = {"search": "6.4000", "search_killed": "13.6000", "train": "25.6000", "train_killed": "25.6000"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All runs, to be read only."""
    return unpack(tmp_path_factory.mktemp("old") / "runs")


def assert_kept(before, now, where=""):
    """Everything that 0.1.0 printed is still there with its value; more keys may be there."""
    if isinstance(before, dict):
        assert isinstance(now, dict) and not before.keys() - now.keys(), f"{where}: {sorted(before)} became {now}"
        for key, value in before.items():
            assert_kept(value, now[key], f"{where}.{key}")
    elif isinstance(before, list):
        assert isinstance(now, list) and len(now) == len(before), f"{where}: {before} became {now}"
        for index, (one, other) in enumerate(zip(before, now, strict=True)):
            assert_kept(one, other, f"{where}[{index}]")
    else:
        assert now == pytest.approx(before), where


@pytest.fixture
def status(runs, call, monkeypatch):
    """`ideator-rl status …` among the runs, in this process: the command has been imported by then."""
    monkeypatch.chdir(runs)

    def output(*words):
        code, out, err = call("status", *words)
        assert code == 0, err
        return out

    return output


@pytest.mark.parametrize("run", RUNS)
def test_status_prints_what_0_1_0_printed(status, run):
    before = json.loads(json.dumps(EXPECTED["status"][run]))
    if before["search"]:
        before["search"].pop("words")  # sentences, which may be worded anew
    assert_kept(before, json.loads(status(run, "--json")))


@pytest.mark.parametrize("run", RUNS)
def test_the_status_of_a_bucket_has_the_counts_that_0_1_0_had(runs, status, run):
    facts = json.loads(status((runs / run / "bucket").as_uri(), "--json"))
    assert_kept(EXPECTED["bucket"][run], facts)
    assert sum(facts["statuses"].values()) >= 8


@pytest.mark.parametrize("run", RUNS)
def test_status_in_words_names_the_best_metric(status, run):
    summary = status(run)
    assert BEST[run] in summary and "45.6000" in summary


@pytest.mark.parametrize("run", RUNS)
def test_the_reading_function_gives_the_rows_records_and_ranks_of_0_1_0(runs, run):
    from ideator_rl.diagnostics.records import read_run  # the import that docs/reference/diversity.md shows

    before, now = EXPECTED["read"][run], read_run(runs / run)
    rows = [[r.step, r.position, r.completion, r.status, r.reward, r.metric, r.experiment_id] for r in now.rollouts]
    assert rows == [[*row[:6], row[6] or ""] for row in EXPECTED["rollouts"][run]]
    assert {
        id: [e.status, e.implementer, e.replicate, e.metric and e.metric["value"], e.error and e.error["kind"]]
        for id, e in now.experiments.items()
    } == before["experiments"]
    assert [e.id for e in now.ranked] == before["ranked"] and [e.id for e in now.ran] == before["ran"]
    assert (now.baseline, now.direction, now.metric) == (before["baseline"], "min", "height")
    assert [[child, list(parents), step] for child, parents, step in now.lineage] == before["lineage"]
    assert now.values(now.ranked[0]) == before["best_values"] and now.ranked[0].patch == before["best_patch"]


@pytest.mark.slow
def test_one_report_of_all_runs_shows_the_best_idea_of_each(runs, tmp_path):
    done = command(runs, "report", *RUNS, "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    for run in RUNS:
        assert BEST[run] in page and EXPECTED["read"][run]["ranked"][0] in page, run


@pytest.mark.slow
def test_a_search_that_had_ended_is_extended_by_the_ideas_that_0_1_0_would_have_had(tmp_path):
    folder = unpack(tmp_path / "runs", "search")
    before = claims(folder / "search")
    words = ("search", "search.yaml", "--resume", "--max_experiments", "14")
    facts = printed(folder, *words)
    assert (facts["charged"], facts["ended_by"]) == (14, "max_experiments")
    assert facts["best"]["metric"]["value"] == 6.4 and facts["baseline"] == 45.6
    assert rollouts(folder / "search") == EXPECTED["resumed"]["search"]
    assert yaml.safe_load((folder / "search" / "recipe.yaml").read_text())["schedule"] == "paper"
    added = set(claims(folder / "search")) - set(before)
    assert len(added) == 2, "an experiment whose result was there was run again"
    assert command(folder, *words).returncode == 0 and len(claims(folder / "search")) == len(before) + 2


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_end_that_0_1_0_would_have_reached(tmp_path):
    folder = unpack(tmp_path / "runs", "search_killed")
    before = claims(folder / "search_killed")
    facts = printed(folder, "search", "search_killed.yaml", "--resume")
    assert (facts["charged"], facts["ended_by"]) == (12, "max_experiments")
    assert rollouts(folder / "search_killed") == EXPECTED["resumed"]["search_killed"]
    known = EXPECTED["bucket"]["search_killed"]["statuses"]
    assert len(claims(folder / "search_killed")) - len(before) == 13 - known["succeeded"] - known["failed"]


@pytest.mark.slow
def test_a_killed_training_run_replays_its_batch_and_ends_as_it_would_have_under_0_1_0(tmp_path):
    folder = unpack(tmp_path / "runs", "train_killed")
    run, before = folder / "train_killed", claims(folder / "train_killed")
    done = command(folder, "train", "train_killed.yaml", "--resume")
    assert done.returncode == 0 and "checkpoint-2" in done.stderr, done.stderr
    assert rollouts(run) == EXPECTED["resumed"]["train_killed"]
    assert len(claims(run)) == len(before) + 1, "one experiment waited in the bucket"
    assert (run / "checkpoint-3" / "trainer_state.json").is_file() and (run / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_complete_training_run_is_extended_by_a_step(tmp_path):
    folder = unpack(tmp_path / "runs", "train")
    before = (folder / "train" / "model" / "model.safetensors").read_bytes()
    done = command(folder, "train", "train.yaml", "--resume", "--max_steps", "3")
    assert done.returncode == 0 and "checkpoint-2" in done.stderr, done.stderr
    rows = rollouts(folder / "train")
    assert rows[:8] == EXPECTED["rollouts"]["train"] and [row[0] for row in rows[8:]] == [2] * 4
    assert "running" not in {row[3] for row in rows}
    assert (folder / "train" / "model" / "model.safetensors").read_bytes() != before, "the third step changed nothing"


def test_a_rerun_finds_the_values_that_0_1_0_had_stored_and_runs_nothing(tmp_path):
    folder = unpack(tmp_path / "runs", "search")
    before = claims(folder / "search")
    facts = printed(folder, "rerun", "search", "--best", "1", "--replicates", "1")
    assert (facts["first"], facts["values"], facts["baseline"]) == (6.4, [6.4], [45.6])
    assert facts["id"] == EXPECTED["read"]["search"]["ranked"][0] and claims(folder / "search") == before


@pytest.mark.slow
def test_a_new_search_takes_the_records_of_an_old_run_and_of_an_old_bucket(tmp_path):
    folder = unpack(tmp_path / "runs", "search", "train")
    sources = f"[search, {(folder / 'train' / 'bucket').as_uri()}]"
    words = ("--output_dir", "new", "--archive_from", sources, "--max_experiments", "6")
    facts = printed(folder, "search", "search.yaml", *words)
    assert facts["charged"] == 6 and facts["elsewhere"] > 0, "the first ideas of this seed are those of the old search"
    assert len(claims(folder / "new")) == 1 + 6 - facts["elsewhere"], "a codebase that was known was run again"


def front_matter(card):
    return yaml.safe_load(card.read_text().split("---\n")[1])


def headings(card):
    return [line for line in card.read_text().splitlines() if line.startswith("#")]


@pytest.mark.slow
def test_the_export_of_an_old_run_has_the_files_the_cards_and_the_columns_that_0_1_0_exported(tmp_path):
    from pyarrow import parquet

    before = json.loads((FIXTURE.parent / "export_0_1_0.json").read_text())
    folder = unpack(tmp_path / "runs", "train")
    facts = printed(folder, "export", "train", "--out", "out", "--license", "apache-2.0")
    out = folder / "out"
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == before["files"]
    assert facts.keys() >= set(before["printed_keys"]) and facts["rows"] == before["rows"]
    assert front_matter(out / "model" / "README.md") == before["model_card"]
    assert front_matter(out / "dataset" / "README.md") == before["dataset_card"]
    for card in ("model", "dataset"):
        assert headings(out / card / "README.md") == before[f"{card}_card_headings"]
    for name, columns in before["columns"].items():
        schema = parquet.read_schema(out / "dataset" / "data" / f"{name}.parquet")
        # Later versions add columns: all of 0.1.0 stay, with their types and in their order.
        assert [column for field in schema if (column := [field.name, str(field.type)]) in columns] == columns, name
    recipe = yaml.safe_load((out / "model" / "recipe.yaml").read_text())
    assert recipe.keys() >= set(before["recipe_keys"]) - set(REMOVED_KEYS)
    weights = (folder / "train" / "model" / "model.safetensors").read_bytes()
    assert (out / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_a_bucket_without_the_results_of_an_old_search_is_refused_in_one_sentence(tmp_path):
    folder = unpack(tmp_path / "runs", "search")
    words = ("--resume", "--max_experiments", "14", "--bucket", (tmp_path / "other").as_uri())
    done = command(folder, "search", "search.yaml", *words)
    assert done.returncode == 2 and "lacks the results of 12 of its 12" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and rollouts(folder / "search") == EXPECTED["rollouts"]["search"]
