"""The data of math_grpo: MATH and GSM8K from files of the user, sums, the base model; and all of it in one experiment."""

import hashlib
import importlib.util
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from test_math_grpo import tiny_data

from ideator_rl.environments.data import NeedsSource, PrepareOptions, SourceError, load_trusted
from ideator_rl.environments.environment import load_environment
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer

ENVIRONMENT = load_environment("math_grpo")
PREPARE = load_trusted(ENVIRONMENT.root / "prepare.py")


def signed(body):
    digest = hashlib.sha256(body).hexdigest()
    return digest[:8], digest[-4:]


def write(folder, name, rows):
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / name).write_bytes(body)
    return signed(body)


def math_row(part, number, subject):
    return {
        "problem": f"{part} {number}", "solution": "secret", "answer": str(number), "subject": subject, "level": 1,
        "unique_id": f"{part}/{subject}/{number}.json",
    }  # fmt: skip


@pytest.fixture
def math(tmp_path, monkeypatch):
    """Files of the form and counts of PRM800K's splits, with checksums of their own, and a model below them."""
    folder = tmp_path / "math"
    folder.mkdir()
    subjects = [subject for subject, count in PREPARE.SUBJECTS.items() for _ in range(count)]
    train = [math_row("train", number, subject) for number, subject in enumerate(subjects)]
    others = [math_row("test", number, "Algebra") for number in range(4500)]
    main = [math_row("test", number, "Geometry") for number in range(5000, 5500)]
    checksums = {
        "train.jsonl": write(folder, "train.jsonl", train + others),
        "test.jsonl": write(folder, "test.jsonl", main),
    }
    monkeypatch.setitem(PREPARE.CHECKSUMS, "math", checksums)
    (folder / "base").mkdir()
    tiny_data(folder / "base")
    shutil.move(folder / "base" / "model", folder / "Qwen")
    return folder


def prepared(tmp_path, preset, source):
    lines, public, private = [], tmp_path / "data" / "public", tmp_path / "data" / "private"
    public.mkdir(parents=True, exist_ok=True)
    private.mkdir(exist_ok=True)
    PREPARE.prepare(public, private, preset, PrepareOptions(source, report=lines.append))
    return public, private, lines


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_math_has_7500_problems_to_train_on_and_500_500_and_5000_to_measure(math, tmp_path):
    public, private, lines = prepared(tmp_path, "paper", math)
    splits = {split: read(private / f"{split}.jsonl") for split in ("main", "confirm", "final")}
    train = read(public / "train.jsonl")
    assert [len(train), *map(len, splits.values())] == [7500, 500, 500, 5000]
    assert all(set(row) == {"problem", "answer"} for row in train)
    texts = {split: {row["problem"] for row in rows} for split, rows in splits.items()}
    assert not texts["main"] & texts["confirm"] and texts["main"] | texts["confirm"] < texts["final"]
    assert not texts["final"] & {row["problem"] for row in train}
    assert "<think> </think>" in (public / "template.txt").read_text()
    model, taken = math / "Qwen" / "model.safetensors", public / "model" / "model.safetensors"
    # Linked, but for a file that experiments could not read, which are another user.
    assert taken.stat().st_mode & 0o777 == 0o644 and taken.samefile(model) == bool(model.stat().st_mode & 0o004)
    recorded = json.loads((tmp_path / "data" / "identity.txt").read_text())
    assert (
        recorded["model.safetensors"] == hashlib.sha256((math / "Qwen" / "model.safetensors").read_bytes()).hexdigest()
    )
    assert "train: 7,500 problems" in lines


def test_other_files_than_the_published_ones_are_refused(math, tmp_path, monkeypatch):
    body = (math / "test.jsonl").read_bytes()
    (math / "test.jsonl").write_bytes(body.replace(b"secret", b"public", 1))
    with pytest.raises(SourceError, match="as published"):
        prepared(tmp_path, "paper", math)
    short = b"".join(body.splitlines(keepends=True)[1:])
    (math / "test.jsonl").write_bytes(short)
    monkeypatch.setitem(PREPARE.CHECKSUMS["math"], "test.jsonl", signed(short))
    with pytest.raises(SourceError, match="499 of MATH-500"):
        prepared(tmp_path, "paper", math)
    (math / "test.jsonl").unlink()
    with pytest.raises(SourceError, match=r"has no test\.jsonl"):
        prepared(tmp_path, "paper", math)
    with pytest.raises(NeedsSource, match="Qwen"):
        prepared(tmp_path, "paper", None)
    for preset, options in (("paper", {"shards": 2}), ("cpu_lm", {"download": True})):
        with pytest.raises(SourceError, match="Leave out"):
            PREPARE.prepare(tmp_path, tmp_path, preset, PrepareOptions(math, **options))


def test_a_source_with_no_model_or_two_or_a_broken_one_is_refused(math, tmp_path):
    shutil.copytree(math / "Qwen", math / "other")
    with pytest.raises(SourceError, match="holds 2 models"):
        prepared(tmp_path, "paper", math)
    shutil.rmtree(math / "other")
    weights = math / "Qwen" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(SourceError, match="cut short"):
        prepared(tmp_path, "paper", math)
    shutil.rmtree(math / "Qwen")
    with pytest.raises(SourceError, match="holds no model"):
        prepared(tmp_path, "paper", math)


def test_gsm8k_keeps_the_number_after_the_marks(math, tmp_path, monkeypatch):
    rows = [{"question": f"q{n}", "answer": f"so <<1+1=2>>\n#### 1,0{n:02}"} for n in range(1000)]
    checksums = {name: write(math, name, rows) for name in PREPARE.CHECKSUMS["gsm8k"]}
    monkeypatch.setitem(PREPARE.CHECKSUMS, "gsm8k", checksums)
    public, private, _ = prepared(tmp_path, "gsm8k", math)
    assert read(public / "train.jsonl")[7] == {"problem": "q7", "answer": "1007"}
    assert len(read(private / "main.jsonl")) == 500


def test_the_published_gsm8k_has_its_counts():
    folder = os.environ.get("IDEATOR_TEST_GSM8K")
    if folder is None:
        pytest.skip("needs the folder of GSM8K's two files in IDEATOR_TEST_GSM8K")
    splits = PREPARE.read_gsm8k(Path(folder))
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 7473, "main": 500, "confirm": 500, "final": 1319,
    }  # fmt: skip
    assert all(float(row["answer"]) is not None for rows in splits.values() for row in rows)


def test_no_sum_is_in_two_splits_and_every_answer_is_right():
    splits = PREPARE.sums()
    hidden = Counter(row["problem"] for split in ("main", "confirm") for row in splits[split])
    assert set(hidden.values()) == {1} and len(splits["train"]) >= 100
    assert set(hidden) == {row["problem"] for row in splits["final"]}
    assert not set(hidden) & {row["problem"] for row in splits["train"]}
    for row in [*splits["train"], *splits["final"]]:
        one, other = (PREPARE.NUMBERS.index(part.split()[0].lower()) + 1 for part in row["problem"].split(" plus "))
        assert row["answer"] == str(one + other)


TINY_PREPARE = """
import json, shutil
from pathlib import Path

def version(preset):
    return "tiny"

def prepare(public, private, preset):
    source = Path({source!r})
    shutil.copytree(source, public, dirs_exist_ok=True)
    (public / "model" / "model.safetensors").chmod(0o644)
    for split in ("main", "confirm", "final"):
        shutil.copyfile(source / "train.jsonl", private / f"{{split}}.jsonl")
    (private / "measure.json").write_text(json.dumps({{"max_tokens": 8, "temperature": 1.0, "samples": 2}}))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="needs the extra `math`")
def test_an_experiment_with_a_model_of_two_layers_is_trained_sampled_and_graded(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, root = tiny_data(tmp_path / "source"), tmp_path / "math_tiny"
    shutil.copytree(ENVIRONMENT.root, root, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "prepare.py").write_text(TINY_PREPARE.format(source=str(source)))
    keys = yaml.safe_load((root / "env.yaml").read_text())
    preset = keys["presets"]["cpu_lm"]
    preset["settings"] |= {"prompts": 2, "micro": 4, "max_length": 64, "reserve": 1, "steps": 2, "dtype": "float32"}
    keys |= {"name": "math_tiny", "presets": {"tiny": preset}}
    (root / "env.yaml").write_text(yaml.safe_dump(keys))
    buffer = RewardBuffer(BufferConfig(str(root), "tiny", f"file://{tmp_path}/bucket", run_dir=str(tmp_path)))
    try:
        record = asyncio_run(buffer.baseline(0))
    finally:
        buffer.close()
    assert record.status == "succeeded", record.error
    assert record.metric["value"] == 0.0 and record.scoring["answers"] == 40
    assert "2 steps" in record.log


def asyncio_run(awaitable):
    import asyncio

    async def result():
        return await awaitable

    return asyncio.run(result())
