"""Training and validation shards for nanogpt's presets `paper`, `single_gpu` and `cpu_shards`.

    public/train/*.bin    read in the order of their names
    private/{final,main,confirm}.bin

`paper` and `single_gpu` use the first 10B tokens of FineWeb in the published shards of GPT-2 tokens, from a folder or
the hub.  Each shard is checked before it is linked, so that a preparation that was killed goes on where it ended.
`cpu_shards` makes its shards from an installed package: see package_text.py.
"""

import json
from collections.abc import Callable
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np

from ideator_rl.environments.data import NeedsSource, PrepareOptions, SourceError, link_or_copy, load_trusted
from ideator_rl.files import cache_root, write_atomic

SHARDS = load_trusted(Path(__file__).with_name("shards.py"))
CHECKSUMS = load_trusted(Path(__file__).with_name("checksums.py"))

REPOSITORY = "kjj0/fineweb10B-gpt2"
VALIDATION, TRAINING = "fineweb_val_000000.bin", "fineweb_train_{:06d}.bin"
PUBLISHED = 103
"""Training shards in the repository."""
NEEDED = {"paper": 71, "single_gpu": 4}
"""Training shards: `paper` reads 70.5 in its whole schedule, `single_gpu` 2.3."""
SHARD_TOKENS = 100_000_000
"""Of every published shard but the last training shard."""
SPLITS = {"final": (0, 10_485_760), "main": (20_000_000, 1_048_576), "confirm": (60_000_000, 1_048_576)}
"""First token in the validation shard, and tokens that are predicted.  `final` is what the leaderboard measures."""
PACKAGE_SHARDS, PACKAGE_TOKENS = 2, 2_000_000
PACKAGE_SPLITS = {"final": (0, 131_072), "main": (140_000, 32_768), "confirm": (180_000, 32_768)}
CHUNK = 1 << 24
"""Bytes of a shard that are checked at once."""
TAIL = 4096
"""Tokens."""


def version(preset: str) -> str:
    """What decides the data.  A change of the data that these numbers do not state raises the first one."""
    if preset == "cpu_shards":
        text = load_trusted(Path(__file__).with_name("package_text.py"))
        source = f"transformers {installed('transformers')} {text.ENCODING} {PACKAGE_SHARDS}x{PACKAGE_TOKENS}"
        return f"1 {source} {PACKAGE_SPLITS}"
    return f"1 {REPOSITORY} {NEEDED[preset]}x{SHARD_TOKENS} {SPLITS}"


def sources(preset: str) -> list[Path]:
    """Host folders that hold the original text, to be hidden from experiments."""
    if preset == "cpu_shards":
        return [load_trusted(Path(__file__).with_name("prepare.py"))._package()]
    return [folder for folder in (_downloads(),) if folder.is_dir()]


def shared(preset: str) -> float:
    """The share of hidden pieces that the training text may hold: FineWeb repeats texts between its crawls."""
    return 0.0 if preset == "cpu_shards" else 0.125


def prepare(public: Path, private: Path, preset: str, options: PrepareOptions) -> None:
    """
    Raises:
        SourceError: shards are missing or not what they should be.
        NeedsSource: no folder was given, and no download was allowed.
    """
    (public / "train").mkdir(exist_ok=True)
    if preset == "cpu_shards":
        if options.source or options.download or options.shards:
            raise SourceError("cpu_shards reads an installed package. Leave out --from, --download and --shards.")
        _from_package(public, private, options.report)
        return
    count = _count(preset, options.shards)
    if options.source is None and not options.download:
        files = f"{VALIDATION} and {count} training shards of FineWeb ({(count + 1) * 0.2:.1f} GB)"
        raise NeedsSource(files, "--from DIR (or --download)")
    if options.source is not None and options.download:
        raise SourceError("Shards come from one place. Give --from DIR or --download, not both.")
    names = [VALIDATION, *(TRAINING.format(number) for number in range(1, count + 1))]
    if options.source is not None:
        _check_folder(options.source, names)
    _take(public, private, names, options)


def _count(preset: str, asked: int | None) -> int:
    """
    Raises:
        SourceError: fewer shards than the preset reads, or more than there are.
    """
    needed = NEEDED[preset]
    count = asked or needed
    if not needed <= count <= PUBLISHED:
        raise SourceError(
            f"--shards {count} is not possible for the preset {preset!r}: expected {needed} to {PUBLISHED}. "
            "Fewer would be read twice, and results would not compare."
        )
    return count


def _check_folder(folder: Path, names: list[str]) -> None:
    """Look at all names and headers first: a missing shard is better reported before an hour of copying.

    Raises:
        SourceError: shards are missing, cut off, or of another format or length.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SourceError(
            f"{folder} holds {len(names) - len(missing)} of the {len(names)} shards that are needed; the first that is "
            f"missing is {missing[0]}. Add all of them."
        )
    for name in names:
        _check_length(folder / name)


def _check_length(path: Path) -> None:
    last = path.name == TRAINING.format(PUBLISHED)
    count = SHARDS.read_header(path)
    if count != SHARD_TOKENS and not last:
        raise SourceError(f"{path} holds {count:,} tokens; every published shard holds {SHARD_TOKENS:,}.")


def _take(public: Path, private: Path, names: list[str], options: PrepareOptions) -> None:
    """Check each shard, then link it, the validation shard first.

    Raises:
        SourceError: a shard is not what it should be.
    """
    checksums = CHECKSUMS.Checksums(options.source)
    fetch = _downloader(checksums) if options.source is None else None
    for number, name in enumerate(names):
        # A training shard has its name here only after all checks.
        target = public / "train" / name
        if target.is_file() and name in checksums.recorded:
            checksums.add(name, checksums.recorded[name])
            continue
        path = fetch(name) if fetch else options.source / name
        _check_length(path)
        checksums.add(name, _checked(path))
        if number:
            link_or_copy(path, target)
        options.report(f"{number + 1} of {len(names)} shards: {name}")
        if number == 0:
            for split, (start, length) in SPLITS.items():
                # One token more: the last input has a target.
                SHARDS.write_shard(private / f"{split}.bin", SHARDS.read_tokens(path, start, length + 1))
    # Part of the identity of experiments: machines with other shards, or more of them, share no results.
    write_atomic(public.parent / "identity.txt", json.dumps(checksums.seen, sort_keys=True))
    # A call with fewer shards may follow a killed one with more.
    for stray in set((public / "train").iterdir()) - {public / "train" / name for name in names}:
        stray.unlink()


def _checked(path: Path) -> str:
    """The SHA-256 of a shard whose tokens are all GPT-2's.

    Raises:
        SourceError: a token is not in the vocabulary, or the end is empty.
    """
    digest = CHECKSUMS.sha256()
    with open(path, "rb") as file:
        digest.update(file.read(SHARDS.HEADER))
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            tokens = np.frombuffer(chunk, "<u2")
            if tokens.max() >= SHARDS.VOCAB:
                raise SourceError(
                    f"{path} holds the token {tokens.max()}; GPT-2's tokens end at {SHARDS.VOCAB - 1}. "
                    "It is damaged, or of another encoding: copy the file again."
                )
    # Some programs reserve the whole file before they download it: what did not arrive is zero.
    count = SHARDS.read_header(path)
    if len(np.unique(SHARDS.read_tokens(path, max(0, count - TAIL)))) < 2:
        raise SourceError(f"{path} ends in one token, repeated: its download did not end. Copy the file again.")
    return digest.hexdigest()


def _downloads() -> Path:
    return cache_root() / "downloads" / REPOSITORY.replace("/", "--")


def _downloader(checksums) -> Callable[[str], Path]:
    """A function that downloads a shard of the revision that was used first, or of the newest.

    Raises:
        SourceError: the hub cannot be reached, or has no such repository.
    """
    from huggingface_hub import HfApi, hf_hub_download

    try:
        info = HfApi().dataset_info(REPOSITORY, revision=checksums.revision, files_metadata=True)
    except Exception as error:
        raise SourceError(
            f"The hub did not answer about {REPOSITORY}: {type(error).__name__}: {error}. Download it elsewhere, and "
            "give its folder as --from DIR."
        ) from error
    checksums.revision = info.sha
    # The hub states the checksum of each large file: it holds where none is shipped or recorded.
    checksums.published = {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs}

    def fetch(name: str) -> Path:
        try:
            path = hf_hub_download(
                REPOSITORY, name, repo_type="dataset", revision=info.sha, local_dir=_downloads()
            )  # fmt: skip
        except Exception as error:
            raise SourceError(
                f"{name} could not be downloaded: {type(error).__name__}: {error}. Run the command again: it goes on."
            ) from error
        return Path(path)

    return fetch


def _from_package(public: Path, private: Path, report: Callable[[str], None]) -> None:
    text = load_trusted(Path(__file__).with_name("package_text.py"))
    tokenizer = text.encoder()
    hidden, training = text.texts()
    last = max(start + length + 1 for start, length in PACKAGE_SPLITS.values())
    tokens = text.tokens_of(hidden, tokenizer, last, report)
    for split, (start, length) in PACKAGE_SPLITS.items():
        SHARDS.write_shard(private / f"{split}.bin", tokens[start : start + length + 1])
    tokens = text.tokens_of(training, tokenizer, PACKAGE_SHARDS * PACKAGE_TOKENS, report)
    for number, shard in enumerate(np.split(tokens, PACKAGE_SHARDS), 1):
        SHARDS.write_shard(public / "train" / f"package_train_{number:06d}.bin", shard)
