"""The evaluator and the data of nanogpt: honest models pass, cheats are caught, the texts are apart."""

import importlib.util
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from ideator_rl.environments.data import load_trusted
from ideator_rl.environments.environment import load_environment
from ideator_rl.evaluation import Audit, Implausible, ScorerFailed, nats

ENVIRONMENT = load_environment("nanogpt")
EVALUATOR = load_trusted(ENVIRONMENT.root / "evaluator.py")
PREPARE = load_trusted(ENVIRONMENT.root / "prepare.py")
VOCAB = 256


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    words = np.frombuffer(b"the quick brown fox jumps over a lazy dog. ", np.uint8)
    text = np.random.default_rng(0).choice(np.split(words, 43), 80_000).tobytes()
    (folder / "val.bin").write_bytes(text)
    (folder / "train.bin").write_bytes(text)
    return folder


class Answering:
    """Stands for a scorer process: a model in this one."""

    received = seconds_loading = 0
    positions_in_slot = 1 << 18
    memory = None

    def __init__(self, model):
        self._model = model

    def load(self):
        pass

    def stream(self, requests, ahead=True):
        for request in requests:
            logits = self._model(request.tokens)
            yield logits if request.positions is None else logits[:, request.positions]


def run_of(make_model, private):
    """A run whose every scorer is a fresh `make_model()`."""

    @contextmanager
    def open_scorer(public=None):
        assert public is not None
        yield Answering(make_model())

    return SimpleNamespace(
        private=private,
        public=private,
        preset="cpu",
        split="main",
        audit_seeds=(None,),
        spent=[],
        notes={},
        open_scorer=open_scorer,
    )


def unigram():
    """An honest model that knows which bytes there are."""
    known = np.zeros(VOCAB, np.float32)
    known[list(set(b"the quick brown fox jumps over a lazy dog. "))] = 9.0
    return lambda tokens: np.broadcast_to(known, (*tokens.shape, VOCAB)).copy()


def peeking():
    """Reads each target from the next input."""

    def logits(tokens):
        out = np.zeros((*tokens.shape, VOCAB), np.float32)
        rows, places = np.indices(tokens[:, 1:].shape)
        out[rows, places, tokens[:, 1:]] = 9.0
        return out

    return logits


def peeking_once():
    """Honest but for one place in the window."""
    honest, cheating = unigram(), peeking()

    def logits(tokens):
        out = honest(tokens)
        if tokens.shape[1] > 41:
            out[:, 40] = cheating(tokens)[:, 40]
        return out

    return logits


def test_an_honest_model_passes_the_audit_with_its_loss(private, monkeypatch):
    monkeypatch.setitem(EVALUATOR.AUDIT, "cpu", Audit(tolerance=0.01))
    loss = EVALUATOR.evaluate(run_of(unigram, private))
    assert 3.0 < loss < 3.4


def test_a_model_that_looks_ahead_is_caught(private, monkeypatch):
    monkeypatch.setitem(EVALUATOR.AUDIT, "cpu", Audit(tolerance=0.01))
    with pytest.raises(Implausible, match="saw only what precedes"):
        EVALUATOR.evaluate(run_of(peeking, private))


def test_a_model_that_looks_ahead_at_one_position_is_caught(private, monkeypatch):
    monkeypatch.setitem(EVALUATOR.AUDIT, "cpu", Audit(tolerance=0.01))
    for _ in range(20):
        with pytest.raises(Implausible):
            EVALUATOR.evaluate(run_of(peeking_once, private))


def test_infinite_logits_fail_the_experiment(private):
    def diverged():
        return lambda tokens: np.full((*tokens.shape, VOCAB), np.nan, np.float32)

    with pytest.raises(ScorerFailed, match="not finite"):
        EVALUATOR.evaluate(run_of(diverged, private))


def test_loss_is_what_torch_computes():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 30, (3, 5, VOCAB)).astype(np.float32)
    targets = rng.integers(0, VOCAB, (3, 5))
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).flatten(0, 1), torch.from_numpy(targets).flatten(), reduction="none"
    )
    np.testing.assert_allclose(nats(logits, targets).ravel(), expected, rtol=1e-5, atol=1e-5)


def test_windows_are_disjoint_and_the_same_at_every_call(private):
    one, other = EVALUATOR.windows(private, "cpu"), EVALUATOR.windows(private, "cpu")
    assert one.shape == (512, 65) and (one == other).all()


def test_the_second_split_shares_no_window_with_the_first(tmp_path):
    places = np.arange(80_000 // 65)
    (tmp_path / "val.bin").write_bytes(b"".join(bytes([i % 251, i // 251]) * 32 + b"." for i in places))
    main, confirm = ({bytes(row[:2].astype(np.uint8)) for row in EVALUATOR.windows(tmp_path, "cpu", split)}
                     for split in ("main", "confirm"))  # fmt: skip
    assert len(main) == len(confirm) == 512 and not main & confirm


def test_training_and_validation_share_no_file_and_no_long_run_of_text(tmp_path):
    hidden, public = PREPARE._split(PREPARE._package())
    assert not set(hidden) & set(public)
    for name in ("public", "private"):
        (tmp_path / name).mkdir()
    PREPARE.prepare(tmp_path / "public", tmp_path / "private", "cpu")
    train = (tmp_path / "public/train.bin").read_bytes()
    validation = (tmp_path / "private/val.bin").read_bytes()
    assert len(train) == PREPARE.TRAIN_BYTES and len(validation) == PREPARE.VAL_BYTES
    starts = np.random.default_rng(0).integers(0, len(validation) - 512, 500)
    assert not any(validation[i : i + 512] in train for i in starts)


def test_the_masked_folder_is_the_installed_package():
    origin = importlib.util.find_spec("transformers").origin
    assert [str(p) for p in PREPARE.sources()] == [origin.removesuffix("/__init__.py")]


def test_a_preset_without_data_is_refused(tmp_path):
    with pytest.raises(NotImplementedError, match="'paper' of nanogpt has no data pipeline"):
        PREPARE.prepare(tmp_path, tmp_path, "paper")
