"""The uploader: what a tracker gets of a run or a bucket, once, whatever is killed or away."""

import argparse
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from types import SimpleNamespace

import pytest
from conftest import sentence
from recorded import journal
from recorded import record as invented

from ideator_rl.cli import track
from ideator_rl.executor.record_store import save_record
from ideator_rl.executor.start_worker import worker_variables
from ideator_rl.experiment import FAILED, SUCCEEDED, Experiment
from ideator_rl.publishing.track import NONE, SUCCESSES, Cursor, TrackError, Uploader
from ideator_rl.publishing.tracked import BucketSource, RunSource
from ideator_rl.storage.bucket import open_bucket
from ideator_rl.text.redaction import HIDDEN


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """An index of the test's own, and no tracker that the machine's user has set up."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


def record(number, status=SUCCEEDED):
    metric = {"name": "loss", "value": number / 10, "direction": "min"} if status == SUCCEEDED else None
    return Experiment(
        hashlib.sha256(str(number).encode()).hexdigest()[:32],
        status,
        f"[Experiment] Try {number}. \x1b]0;title\x07 [Code Changes] Change. [End]",
        "toy",
        "cpu",
        metric=metric,
        error=None if metric else {"kind": "crash", "message": "no"},
        seconds={"run": 2.0},
        patch="--- a/x\n+++ b/x\n```\n",
        log="the end " + "hf_" + "x" * 30,
        implementer="rules",
        finished=float(number),
    )


def fill(tmp_path, count, status=SUCCEEDED):
    bucket = open_bucket(f"file://{tmp_path}/bucket")
    for number in range(count):
        save_record(bucket, record(number, status))
    return bucket


class Recorded:
    """A tracker in memory, which may be away."""

    def __init__(self):
        self.experiments, self.groups, self.away_after = [], [], None

    def send(self, experiment):
        if self.away_after is not None and len(self.experiments) >= self.away_after:
            raise ConnectionError("away")
        self.experiments.append(experiment)

    def send_group(self, news):
        self.groups.append(news)


def look(bucket, sink, tmp_path, last=True, runs="all"):
    """One session of an uploader."""
    cursor = Cursor(tmp_path / "track" / "sent.jsonl")
    try:
        return Uploader(BucketSource(bucket), sink, cursor, runs).look(last)
    finally:
        cursor.close()


def test_each_experiment_is_sent_once_with_what_is_known_of_it(tmp_path):
    bucket, sink = fill(tmp_path, 3), Recorded()
    assert look(bucket, sink, tmp_path) == 3 and look(bucket, sink, tmp_path) == 0
    save_record(bucket, record(3, FAILED))
    assert look(bucket, sink, tmp_path) == 1
    assert len({item.id for item in sink.experiments}) == len(sink.experiments) == 4
    first, last = next(item for item in sink.experiments if item.id == record(1).id), sink.experiments[-1]
    assert first.job_type == "toy/cpu" and first.summary == {"status": "succeeded", "loss": 0.1, "seconds/run": 2.0}
    assert first.name.startswith("Try 1. ⟨U+001B⟩") and len(first.name) <= 40 and first.group.startswith("bucket-")
    assert last.summary["error"] == "crash" and last.config["implementer"] == "rules"
    # Nothing in the texts acts on a terminal, and secrets are hidden.
    assert set(first.texts) == {"idea.txt", "patch.diff", "log.txt"} and "hf_x" not in first.texts["log.txt"]
    assert not any(re.search("[\x07\x1b]", text) for text in (first.name, *first.texts.values()))


def test_secrets_that_a_runs_recipe_names_are_sent_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_PHRASE", "from-the-recipe")
    secret = invented(
        "a", value=1.0, idea="[Experiment] from-the-recipe", patch="from-the-recipe", log="from-the-recipe"
    )
    source = RunSource(journal(tmp_path, [[secret], [invented("b", value=2.0)]]))
    # A run saves its recipe after its journal has begun.
    (tmp_path / "recipe.yaml").write_text("ideator: chat\nideator_options: {api_key_env: MY_PHRASE}\n")
    with closing(sqlite3.connect(tmp_path / "buffer.sqlite")) as database, database:
        database.execute("update rollouts set completion = completion || ' from-the-recipe ' || ?", ("hf_" + "x" * 30,))
    cursor, sink = Cursor(tmp_path / "track" / "sent.jsonl"), Recorded()
    Uploader(source, sink, cursor).look(last=True)
    cursor.close()
    sent = repr((sink.experiments, sink.groups))
    assert sent.count(HIDDEN) >= 6 and len(sink.groups[0].traces) == 2
    assert "from-the-recipe" not in sent and "hf_x" not in sent


def test_an_uploader_pauses_ten_times_as_long_as_a_look_computes(monkeypatch, tmp_path):
    clock, pauses = [0.0], []

    def look(uploader, last=True):
        clock[0] += [0.1, 7.0, 3600.0, 0.0][len(pauses)]
        return 1

    def closed(seconds):
        pauses.append(seconds)
        return len(pauses) == 3

    monkeypatch.setattr(track, "_look", look)
    monkeypatch.setattr(track, "_closed", closed)
    monkeypatch.setattr(track, "time", SimpleNamespace(process_time=lambda: clock[0]))
    assert track._follow(None, argparse.Namespace(until_closed=True), None) == 4
    assert 18 <= pauses[0] <= 22 and pauses[1:] == [pytest.approx(70), 600]


def test_what_could_not_be_sent_is_sent_at_the_next_look(tmp_path):
    bucket, sink = fill(tmp_path, 5), Recorded()
    cursor = Cursor(tmp_path / "track" / "sent.jsonl")
    uploader = Uploader(BucketSource(bucket), sink, cursor)
    sink.away_after = 2
    with pytest.raises(ConnectionError):
        uploader.look()
    sink.away_after = None
    assert uploader.look() == 3 and len({item.id for item in sink.experiments}) == 5
    assert len(sink.groups[-1].table) == 5
    cursor.close()


def test_a_line_of_the_cursor_that_a_kill_cut_short_costs_one_experiment(tmp_path):
    bucket, sink = fill(tmp_path, 3), Recorded()
    look(bucket, sink, tmp_path)
    file = tmp_path / "track" / "sent.jsonl"
    lines = file.read_text().split("\n")
    file.write_text("\n".join([*lines[:3], lines[3][:10]]))
    assert look(bucket, sink, tmp_path) == 1 and look(bucket, sink, tmp_path) == 0


def test_two_uploaders_do_not_send_to_one_tracker(tmp_path):
    cursor = Cursor(tmp_path / "track" / "sent.jsonl")
    with pytest.raises(TrackError, match="Another process"):
        Cursor(tmp_path / "track" / "sent.jsonl")
    cursor.close()


def test_the_table_is_sent_again_only_when_it_has_grown(tmp_path):
    bucket, sink = fill(tmp_path, 20), Recorded()
    cursor = Cursor(tmp_path / "track" / "sent.jsonl")
    uploader = Uploader(BucketSource(bucket), sink, cursor, NONE)
    tables = []
    for number in range(20, 24):
        uploader.look()
        tables.append(len(sink.groups))
        save_record(bucket, record(number))
    uploader.look(last=True)
    cursor.close()
    assert tables == [1, 1, 1, 2] and [len(news.table) for news in sink.groups] == [20, 23, 24]
    assert sink.experiments == [] and len({tuple(row) for news in sink.groups for row in news.table}) == 1


def test_runs_may_be_those_of_successes_alone(tmp_path):
    bucket, sink = fill(tmp_path, 2), Recorded()
    save_record(bucket, record(7, FAILED))
    assert look(bucket, sink, tmp_path, runs=SUCCESSES) == 2 and len(sink.groups[0].table) == 3


def test_wandb_gets_an_offline_run_for_each_experiment_and_a_table(call, tmp_path):
    wandb = pytest.importorskip("wandb")
    fill(tmp_path, 2)
    line = ("track", tmp_path / "bucket", "--to", "wandb", "--dir", tmp_path / "w")
    code, out, _ = call(*line)
    assert code == 0 and out.startswith("2 experiments sent to wandb as bucket-")
    runs = [path for path in (tmp_path / "w" / "wandb").glob("offline-run-*")]
    ids = [path.name.rpartition("-")[2] for path in runs]
    assert {record(0).id, record(1).id} < set(ids) and len(ids) == 3
    (own,) = (path for path in runs if path.name.endswith(record(1).id))
    stored = next(own.glob("*.wandb")).read_bytes()
    assert b"rules" in stored and b"loss" in stored and (own / "files" / "patch.diff").read_text().startswith("--- a/x")
    # As after a kill between a run and its line in the cursor.
    (cursor,) = (tmp_path / "w" / "track").glob("*.jsonl")
    cursor.write_text("".join(line for line in cursor.read_text().splitlines(True) if record(1).id not in line))
    assert call(*line)[1].startswith("1 experiments sent")
    assert len(list((tmp_path / "w" / "wandb").glob(f"offline-run-*-{record(1).id}"))) == 1
    wandb.teardown()


def test_trackio_gets_a_run_for_each_experiment_and_repeats_none(call, tmp_path):
    trackio = pytest.importorskip("trackio")
    fill(tmp_path, 2)
    project = f"p{tmp_path.parent.name}{os.getpid()}"
    for _ in range(2):
        line = ("track", tmp_path / "bucket", "--to", "trackio", "--dir", tmp_path, "--project", project)
        code, out, _ = call(*line)
        assert code == 0 and out.startswith("2 experiments sent") and "Trackio" not in out
        for cursor in (tmp_path / "track").glob("*.jsonl"):
            # As after a kill between the runs and their lines in the cursor.
            cursor.write_text("\n".join(line for line in cursor.read_text().split("\n") if '"id"' not in line))
    # trackio has read its folder when it was imported.
    with closing(sqlite3.connect(next(trackio.utils.TRACKIO_DIR.glob(f"{project}*.db")))) as database:
        rows = database.execute("select run_name, metrics from metrics order by id").fetchall()
    assert len(rows) == 3 and all("loss" in json.loads(text) for _, text in rows[:2])
    assert rows[2][0].endswith(" ideas") and json.loads(rows[2][1])["ideas"]["_type"] == "trackio.table"


def test_tensorboard_gets_a_folder_for_each_experiment(call, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fill(tmp_path, 2)
    assert call("track", tmp_path / "bucket", "--to", "tensorboard", "--dir", tmp_path)[0] == 0
    (group,) = (tmp_path / "tensorboard").iterdir()
    events = EventAccumulator(str(group / record(1).id)).Reload()
    assert [point.value for point in events.Scalars("loss")] == [pytest.approx(0.1)]
    assert b"Try 1" in EventAccumulator(str(group)).Reload().Tensors("ideas/text_summary")[0].tensor_proto.string_val[0]


def test_a_tracker_that_is_not_installed_and_a_target_without_experiments_are_refused(call, monkeypatch, tmp_path):
    code, _, err = call("track", tmp_path, "--to", "tensorboard")
    assert "neither a run nor a bucket" in sentence(code, err)
    monkeypatch.setattr("ideator_rl.training.tracking._is_installed", lambda name: False)
    code, _, err = call("track", tmp_path, "--to", "wandb")
    assert "--to names wandb, which is not installed" in sentence(code, err)


def test_no_worker_has_the_key_of_a_tracker(monkeypatch):
    for name in ("WANDB_API_KEY", "HF_TOKEN", "TRACKIO_WRITE_TOKEN"):
        monkeypatch.setenv(name, "secret-of-the-tracker")
    assert "secret-of-the-tracker" not in json.dumps(worker_variables({}))


@pytest.mark.slow
def test_the_uploader_of_a_run_ends_with_it_and_has_sent_everything(monkeypatch, tmp_path):
    from ideator_rl.search.run import run_search

    pytest.importorskip("wandb")
    recipe = tmp_path / "search.yaml"
    recipe.write_text(f"env: {os.path.dirname(__file__)}/toy_env\noutput_dir: {tmp_path}/run\nstrategy: best_of_n\n"
                      "max_ideas: 4\nbatch: 2\nepoch_size: 2\n")  # fmt: skip
    with track.tracking_process(tmp_path / "run", "wandb", "all"):
        run_search(str(recipe))
    assert "experiments sent to wandb" in (tmp_path / "run" / "track.log").read_text()
    ids = {path.name.rpartition("-")[2] for path in (tmp_path / "run" / "wandb").glob("offline-run-*")}
    from ideator_rl.storage.run_reader import read_run

    assert set(read_run(tmp_path / "run").experiments) < ids


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_an_uploader_that_is_killed_again_and_again_sends_three_hundred_experiments_once(
    monkeypatch, tmp_path, tracker
):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    fill(tmp_path, 300)
    line = [sys.executable, "-m", "ideator_rl.cli", "track", str(tmp_path / "bucket"), "--to", tracker]
    line += ["--dir", str(tmp_path)]
    for seconds in (4.0, 5.5, 7.0, 8.5):
        child = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        child.wait()
    began = time.monotonic()
    subprocess.run(line, check=True, capture_output=True)
    print(f"the rest was sent in {time.monotonic() - began:.1f} s")
    if tracker == "wandb":
        names = [path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")]
        names = [name for name in names if len(name) == 32]
    else:
        with closing(sqlite3.connect(tmp_path / "trackio" / "ideator_rl.db")) as database:
            names = [name for (name,) in database.execute("select run_name from metrics")]
        names = [name for name in names if not name.endswith(" ideas")]
    assert len(names) == len(set(names)) == 300
