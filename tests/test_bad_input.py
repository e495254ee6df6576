"""Made-up bad input at every door where people or buckets hand something in: a value, or one sentence; never a hang.

Two properties for each door.  Any text at all is taken or refused by an `IdeatorError` of one line.  A valid text with a
damage that no reader may overlook is refused.  The draws are the same in each run; `slow` draws twenty times more.
"""

import io
import json
import shutil
import sqlite3
import time
from contextlib import closing
from types import SimpleNamespace

import pytest
import yaml
from conftest import TOY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ideator_rl.cli import execute
from ideator_rl.cli.output import read_patch
from ideator_rl.environments.catalogue.catalogue import load_catalogue
from ideator_rl.environments.environment import load_environment
from ideator_rl.errors import IdeatorError
from ideator_rl.executor import record_store
from ideator_rl.experiment import Experiment
from ideator_rl.llm.recording import Recording
from ideator_rl.llm.settings import LLMSettings
from ideator_rl.search.config import load_search
from ideator_rl.storage.bucket import MemoryBucket, bucket_at, check_url
from ideator_rl.storage.journal import Journal
from ideator_rl.storage.journal_reader import JOURNAL
from ideator_rl.storage.ledger import Ledger
from ideator_rl.storage.run_reader import mapping, read_run
from ideator_rl.training.checkpoints import is_whole
from ideator_rl.training.collapse_watch import read_stops
from ideator_rl.training.recipe.processes import read_num_processes
from ideator_rl.training.recipe.recipe import load_recipe
from ideator_rl.training.sft.data import rows_from_file

SECONDS = 5.0
"""CPU seconds for one input at a loaded machine; most take milliseconds."""
IDEA = "[Experiment] Move x. [Code Changes] Set x to 2.0. [End]"
RECORD = Experiment("e", "failed", "an idea", "toy", "cpu", error={"kind": "failed", "message": "m"}, created=1.0)
CLAIM = {"host": "h", "place": "p", "pid": 1, "start": "0", "time": 1.0}
SPEC = {"id": "e", "environment": "toy", "digest": "d", "preset": "cpu", "seed": 0, "replicate": 0, "tree": "t",
        "idea": "i", "patch": "p", "implementer": "rules", "trusted": True, "hardware": "cpu",
        "implement_seconds": 0.0, "created": 1.0}  # fmt: skip


def recipe(path):
    return load_recipe(str(path))


def search(path):
    return load_search(str(path))


def environment(path):
    folder = path.parent / "env"
    if not folder.exists():
        shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "env.yaml").write_bytes(path.read_bytes())
    return load_environment(str(folder))


def catalogue(path):
    load_catalogue.cache_clear()
    return load_catalogue(path)


def coder(path):
    return LLMSettings.from_mapping(json.loads(execute._coder(str(path))))


def ideas(path):
    return execute._ideas(SimpleNamespace(idea=None, ideas=str(path)))


def patch(path):
    return read_patch(str(path))


def bucket_object(key, load):
    def door(path):
        bucket = MemoryBucket("memory://door")
        bucket.create(key, path.read_bytes())
        return load(bucket)

    return door


YAML_DOORS = {
    recipe: {"env": "nanogpt", "output_dir": "x", "model_name_or_path": "m", "max_steps": 3, "learning_rate": 0.1,
             "reward_options": {"length_cap": 3}, "coder": {"models": "m", "max_tokens": 5}},
    search: {"env": "nanogpt", "output_dir": "x", "max_experiments": 3, "strategy_options": {"parents": 2}},
    environment: yaml.safe_load((TOY / "env.yaml").read_text()),
    catalogue: yaml.safe_load((TOY / "edits.yaml").read_text()),
    coder: {"models": {"m": 1.0}, "temperature": 0.5, "prices": {"m": {"prompt": 1.0, "completion": 2.0}}},
    lambda path: read_num_processes(str(path)): {"num_processes": 2, "fsdp_config": {"x": 1}},
}  # fmt: skip
JSON_DOORS = {
    ideas: {"idea": IDEA, "more": [1.5]},
    bucket_object("experiments/e/result.json", lambda bucket: record_store.load_record(bucket, "e")): vars(RECORD),
    bucket_object("experiments/e/spec.json", lambda bucket: record_store.Spec.load(bucket, "e")): SPEC,
    bucket_object("experiments/e/attempts/0/claim.json", lambda bucket: record_store.attempts(bucket, "e")): CLAIM,
    bucket_object("trees/t.json", lambda bucket: record_store.load_tree(bucket, "t")): {"a.py": "x = 1\n"},
    lambda path: Ledger(path=path): {"usd": 1.5, "tokens": 20.0, "gpu_hours": 0.0, "flight": {}},
    lambda path: rows_from_file(path, "prompt"): {"completion": IDEA, "prompt": "p", "status": "succeeded"},
    read_stops: [{"step": 1, "action": "stop", "window": 2, "cause": "entropy"}],
}
LENIENT = (mapping, Recording)
"""Doors that skip what is damaged: a kill may have cut it."""


def ask(door, path, data):
    """What a door answers: the value, or the sentence of an expected error; its time is measured."""
    path.write_bytes(data)
    start = time.process_time()
    try:
        return door(path), None
    except IdeatorError as error:
        sentence = str(error)
        assert "\n" not in sentence and 10 < len(sentence) < 1500, sentence
        return None, sentence
    finally:
        assert time.process_time() - start < SECONDS


# Any text: YAML and JSON by chance, marks in a row, bytes.
_marks = st.text(alphabet="{}[]:,-&*!|>'\"#%@`?~ \n\tabc0123456789.eE+_\\", max_size=60)
_scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates())
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
any_bytes = st.one_of(
    st.binary(max_size=80),
    _marks.map(str.encode),
    _values.map(lambda value: yaml.safe_dump(value).encode()),
    _values.map(lambda value: json.dumps(value, default=str).encode()),
)

# Damages of one value of a valid text: words that are refused whatever key they stand for.
BAD_WORDS = (".nan", "-.inf", "1e999", "9" * 400, "!!python/name:os.system ''", "!mine 1", "*nowhere", "&a [*a]",
             '"\\0"', '"\\ud800"', "{k: 1, k: 2}", "[" * 60 + "]" * 60, "{? [1] : 2}", "\x07")  # fmt: skip
BAD_NUMBERS = ("NaN", "-Infinity", "1e999", "9" * 400, '{"k": 1, "k": 2}', "[" * 60 + "]" * 60, "nul", "'x'")
MARK = "DAMAGE_GOES_HERE"


def paths(value, path=()):
    """Where a nested value has leaves."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [leaf for key, inner in items for leaf in paths(inner, (*path, key))] or [path]


def replaced(value, path, new):
    """A copy with another value at a path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


@st.composite
def damaged_yaml(draw, valid):
    way = draw(st.sampled_from(("word", "word", "word", "bytes", "twice", "open")))
    text = yaml.safe_dump(valid)
    if way == "word":
        holed = yaml.safe_dump(replaced(valid, draw(st.sampled_from(paths(valid))), MARK), width=10**6)
        return holed.replace(MARK, draw(st.sampled_from(BAD_WORDS))).encode()
    if way == "bytes":
        cut = draw(st.integers(0, len(text)))
        return text[:cut].encode() + draw(st.sampled_from((b"\xff", b"\x00", b"\xc3("))) + text[cut:].encode()
    key = draw(st.sampled_from(sorted(valid)))
    return (text + (f"{key}: 1\n" if way == "twice" else "'open: [\n")).encode()


@st.composite
def damaged_json(draw, valid):
    way = draw(st.sampled_from(("word", "word", "cut", "bytes", "tail")))
    text = json.dumps(valid)
    if way == "word":
        holed = json.dumps(replaced(valid, draw(st.sampled_from(paths(valid))), MARK))
        return holed.replace(f'"{MARK}"', draw(st.sampled_from(BAD_NUMBERS))).encode()
    if way == "cut":
        return text[: draw(st.integers(1, len(text) - 1))].encode()
    cut = draw(st.integers(1, len(text) - 1))
    return text[:cut].encode() + b"\xff" + text[cut:].encode() if way == "bytes" else (text + "}").encode()


def properties(path, examples):
    """Draw inputs for every door; returns how many were asked."""
    rules = settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    count = 0

    def check(door, inputs, must_refuse):
        @rules
        @given(inputs)
        def drawn(data):
            nonlocal count
            count += 1
            value, sentence = ask(door, path, data)
            assert sentence is not None or not must_refuse, f"{door} took {data[:300]!r} as {value!r}"

        drawn()

    for door in (*YAML_DOORS, *JSON_DOORS, *LENIENT, is_whole_state, patch):
        check(door, any_bytes, must_refuse=False)
    for damaged, doors in ((damaged_yaml, YAML_DOORS), (damaged_json, JSON_DOORS)):
        for door, valid in doors.items():
            check(door, damaged(valid), must_refuse=True)
    return count


def is_whole_state(path):
    (path.parent / "checkpoint-1").mkdir(exist_ok=True)
    shutil.copy(path, path.parent / "checkpoint-1" / "trainer_state.json")
    shutil.copy(path, path.parent / "checkpoint-1" / "model.safetensors")
    return is_whole(path.parent / "checkpoint-1")


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "input"


def test_every_door_is_open_to_what_is_valid(path):
    for door, valid in YAML_DOORS.items():
        assert ask(door, path, yaml.safe_dump(valid).encode())[1] is None, door
    for door, valid in JSON_DOORS.items():
        _, sentence = ask(door, path, json.dumps(valid).encode())
        assert sentence is None or "another hash" in sentence, sentence


def test_bad_input_is_one_sentence_at_every_door(path):
    assert properties(path, examples=14) >= 400


@pytest.mark.slow
def test_much_bad_input_is_one_sentence_at_every_door(path):
    assert properties(path, examples=300) >= 6_000


ENV = YAML_DOORS[environment]
RANGES = {
    ("schema",): st.integers().filter(lambda n: n != 1),
    ("name",): st.sampled_from(("", "../../x", "/x", ".x", "a/b", "a\nb", "x" * 200, " ")),
    ("task",): st.sampled_from(("../task.md", "/etc/passwd", "~/x", "", "a\nb")),
    ("evaluator",): st.sampled_from(("../evaluator.py", "/etc/passwd", "nowhere.py", "baseline")),
    ("settings_file",): st.sampled_from(("/etc/passwd", "../env.yaml", "x")),
    ("command",): st.sampled_from(([], "python train.py", [""], [3], [None], {})),
    ("metric", "name"): st.sampled_from(("", " ", "a\nb", 3)),
    ("metric", "plausible"): st.sampled_from(([1, 0], [0], [0, 1, 2], ["0", "1"], [1, 1], None)),
    ("reward", "failure"): st.sampled_from(("x", [], True)),
    ("presets", "cpu", "budget", "seconds"): st.one_of(st.integers(max_value=0), st.just(-0.5), st.just("4")),
    ("presets", "cpu", "budget", "startup_allowance"): st.integers(max_value=-1),
    ("presets", "cpu", "resources", "cpus"): st.one_of(st.integers(max_value=0), st.just(1.5)),
    ("presets", "cpu", "resources", "gpus"): st.integers(max_value=-1),
    ("presets", "cpu", "resources", "memory_gb"): st.one_of(st.integers(max_value=0), st.just(-1.0)),
    ("presets", "cpu", "resources", "processes"): st.integers(max_value=0),
    ("presets", "cpu", "vocab"): st.integers(max_value=1),
    ("presets", "cpu", "suspicious"): st.sampled_from(({"beyond": 1}, {"beyond": 1, "agree": -1}, {"x": 1}, 3)),
    ("presets", "cpu", "settings", "x"): st.sampled_from(("a\nb", "text", "12:30", {"a": "b\nc"})),
}


def with_value(value, path, new):
    """As `replaced`, for a path whose end need not exist."""
    key = path[0]
    inner = value.get(key, {})
    return {**value, key: new if len(path) == 1 else with_value(inner, path[1:], new)}


@settings(max_examples=120, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(RANGES)).flatmap(lambda keys: st.tuples(st.just(keys), RANGES[keys])))
def test_a_value_of_a_manifest_that_no_environment_can_have_is_refused(path, drawn):
    keys, value = drawn
    answer, sentence = ask(environment, path, yaml.safe_dump(with_value(ENV, keys, value)).encode())
    assert sentence is not None, f"{keys}: {value!r} was taken"
    assert keys[-1] in sentence or "baseline" in sentence or "no such file" in sentence, sentence


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(st.one_of(st.text(max_size=40), st.text(alphabet="file:/%0~[]?#@.\0 abc", max_size=20)))
def test_any_text_as_a_url_of_a_bucket_is_taken_or_one_sentence(text):
    for look in (check_url, bucket_at):
        try:
            look(text)
        except IdeatorError as error:
            assert "\n" not in str(error)


WRONG_CELLS = ("update rollouts set status='splendid'", "update rollouts set metric=9e999", "update rollouts set position='x'",
               "update rollouts set idea=x'ff00'", "update rollouts set reward='much'",
               "update experiments set record_json='{'", "update experiments set record_json='[]'",
               "update experiments set record_json='{\"id\": \"e\", \"status\": \"splendid\"}'",
               "update experiments set record_json=null", "update lineage set parents_json='{'",
               "update lineage set parents_json='[[1]]'", "drop table rollouts", "drop table experiments")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with one row of each table of its journal."""
    folder = tmp_path_factory.mktemp("run")
    journal = Journal(folder / JOURNAL)
    journal.propose(0, [IDEA])
    journal.settle(0, 0, RECORD)
    journal.descend("e", ("p",), 0)
    journal.close()
    (folder / "recipe.yaml").write_text("env: toy\n")
    return folder


@pytest.mark.parametrize("statement", WRONG_CELLS)
def test_a_journal_with_a_wrong_cell_is_one_sentence(run, tmp_path, call, statement):
    shutil.copytree(run, tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run" / JOURNAL)) as db:
        db.execute(statement)
        db.commit()
    with pytest.raises(IdeatorError) as caught:
        read_run(tmp_path / "run")
    assert "\n" not in str(caught.value)
    code, out, err = call("status", tmp_path / "run")
    assert code == 2 and "Traceback" not in out + err


@settings(max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_journal_with_other_bytes_is_read_or_one_sentence(run, tmp_path, data):
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder)
    body = bytearray((folder / JOURNAL).read_bytes())
    for _ in range(data.draw(st.integers(1, 30))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    (folder / JOURNAL).write_bytes(bytes(body[: data.draw(st.integers(0, len(body)))]))
    for look in (read_run, lambda folder: Journal(folder / JOURNAL).rollouts()):
        try:
            look(folder)
        except IdeatorError as error:
            assert "\n" not in str(error) and "Free space" not in str(error)


@pytest.mark.parametrize("damage", ["gone", "empty"])
def test_a_run_whose_journal_is_lost_says_so_when_it_is_resumed(run, tmp_path, damage):
    from ideator_rl.storage.run_folder import lost_journal

    shutil.copytree(run, tmp_path / "run")
    assert lost_journal(tmp_path / "run") is None
    (tmp_path / "run" / JOURNAL).write_bytes(b"") if damage == "empty" else (tmp_path / "run" / JOURNAL).unlink()
    assert lost_journal(tmp_path / "run") is None, "it had not begun"
    (tmp_path / "run" / "ledger.json").write_text("{}")
    assert f"is {damage}" in lost_journal(tmp_path / "run")


def test_ideas_from_a_pipe_of_the_shell_are_read(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    import os

    read, write = os.pipe()
    os.write(write, json.dumps(IDEA).encode())
    os.close(write)
    assert execute._ideas(SimpleNamespace(idea=None, ideas=f"/dev/fd/{read}")) == [IDEA]
    os.close(read)
