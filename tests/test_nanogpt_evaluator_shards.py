"""nanogpt's evaluator for shards: which tokens count, which classes, and leaks small enough for the mean gap."""

import math
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from ideator_rl.environments.data import load_trusted
from ideator_rl.environments.environment import load_environment
from ideator_rl.evaluation import Implausible, ScorerFailed

ENVIRONMENT = load_environment("nanogpt").at("cpu_shards")
EVALUATOR = load_trusted(ENVIRONMENT.root / ENVIRONMENT.evaluator)
SHARDS = EVALUATOR.SHARDS
VOCAB, CLASSES = 57, 64
"""Tokens, and a model's classes, in place of 50,257 and 50,304."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A private and a public folder in one, of random tokens."""
    monkeypatch.setattr(SHARDS, "VOCAB", VOCAB)
    (tmp_path / "train").mkdir()
    for number, name in enumerate(["main", "confirm", "final", "train/1"]):
        tokens = np.random.default_rng(number).integers(0, VOCAB, 16_385)
        SHARDS.write_shard(tmp_path / f"{name}.bin", tokens)
    return tmp_path


class Answering:
    """Stands for a scorer process: a model in this one."""

    received = seconds_loading = 0
    positions_in_slot = 1 << 18
    memory = None

    def __init__(self, model, context):
        self._model, self.context = model, context

    def load(self):
        pass

    def stream(self, requests, ahead=True):
        for request in requests:
            logits = self._model(np.asarray(request.tokens))
            yield logits if request.positions is None else logits[:, request.positions]


def loss_of(make_model, folder, split="main", context=None):
    """The loss of a fresh `make_model()` in each scorer, and the notes."""
    opened = []

    @contextmanager
    def open_scorer(public=None, least=None):
        opened.append((len(public), least))
        yield Answering(make_model(), context)

    run = SimpleNamespace(
        private=folder,
        public=folder,
        preset="cpu_shards",
        split=split,
        audit_seeds=(None,),
        spent=[],
        notes={},
        open_scorer=open_scorer,
    )
    loss = EVALUATOR.evaluate(run)
    assert set(opened) == {(16_385, VOCAB)}
    return loss, run.notes


def uniform(high=0.0):
    """Equal logits for the tokens, another one for the classes that no token has."""
    row = np.r_[np.zeros(VOCAB), np.full(CLASSES - VOCAB, high)].astype(np.float32)
    return lambda tokens: np.broadcast_to(row, (*tokens.shape, CLASSES)).copy()


def leaking(gain):
    """Knows the next token where it was sent: worth `gain` nats a token."""

    def logits(tokens):
        out = uniform()(tokens)
        rows, places = np.indices(tokens[:, 1:].shape)
        out[rows, places, tokens[:, 1:]] = math.log((VOCAB - 1) / (VOCAB * math.exp(-gain) - 1))
        return out

    return logits


@pytest.mark.parametrize("high", [0.0, 40.0])
def test_classes_above_the_vocabulary_do_not_count(folder, high):
    loss, notes = loss_of(lambda: uniform(high), folder)
    assert loss == pytest.approx(math.log(VOCAB), abs=1e-5)
    assert notes["tokens"] == 16_384 and notes["context"] == 128 and notes["audit_gap"] == 0


def test_a_model_states_its_context_and_all_tokens_still_count_once(folder):
    loss, notes = loss_of(uniform, folder, context=1000)
    assert notes["tokens"] == 16_384 and notes["context"] == 1000 and loss == pytest.approx(math.log(VOCAB), abs=1e-5)


@pytest.mark.parametrize("split", ["main", "confirm", "final"])
def test_each_split_is_a_file_of_its_own(folder, split):
    tokens = SHARDS.read_tokens(folder / f"{split}.bin")
    row = np.zeros(CLASSES, np.float32)
    row[5] = 3.0
    expected = np.mean(np.log(np.exp(row[:VOCAB]).sum()) - row[tokens[1:]])
    loss, _ = loss_of(lambda: lambda ids: np.broadcast_to(row, (*ids.shape, CLASSES)).copy(), folder, split)
    assert loss == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("gain", [0.01, 0.09])
def test_a_leak_that_the_old_tolerance_let_through_is_caught(folder, gain):
    with pytest.raises(Implausible):
        loss_of(lambda: leaking(gain), folder)


def test_too_few_classes_and_missing_files_fail(folder):
    with pytest.raises(ScorerFailed):
        loss_of(lambda: lambda ids: np.zeros((*ids.shape, VOCAB - 1), np.float32), folder)
    with pytest.raises(FileNotFoundError):
        loss_of(uniform, folder, "other")
