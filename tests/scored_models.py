"""A text, and runs whose model is a few lines of code that real scorer processes load."""

import textwrap

import numpy as np
import pytest

from ideator_rl.sandbox.choose import best_sandbox
from ideator_rl.scoring.scoring import ScoringRun

VOCAB, LENGTH = 12, 16
HEAD = """
import os
import numpy as np
V = 12
TABLE = np.load(os.path.join(os.path.dirname(os.path.abspath(__file__)), "table.npy"))

def honest(tokens):
    return TABLE[tokens]

def ahead(tokens, sure=6.0):
    out = honest(tokens).copy()
    rows, places = np.indices(tokens[:, 1:].shape)
    out[rows, places, tokens[:, 1:]] += sure
    return out
"""


@pytest.fixture(scope="module")
def text():
    """Windows of a Markov chain, and the table of its logits."""
    rng = np.random.default_rng(0)
    table = rng.normal(0, 1.5, (VOCAB, VOCAB)).astype(np.float32)
    chances = np.exp(table) / np.exp(table).sum(-1, keepdims=True)
    tokens = [0]
    for _ in range(240 * (LENGTH + 1) - 1):
        tokens.append(int(rng.choice(VOCAB, p=chances[tokens[-1]])))
    return np.array(tokens, np.int32).reshape(-1, LENGTH + 1), table


@pytest.fixture
def run_of(text, tmp_path):
    """A run whose codebase is this body of `load`; its scorers are real processes in the sandbox."""

    def make(body):
        tree, artifact = tmp_path / "tree", tmp_path / "artifact"
        tree.mkdir()
        artifact.mkdir()
        np.save(tree / "table.npy", text[1])
        code = HEAD + "\ndef load(artifact):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        (tree / "model.py").write_text(code)
        for path in (tmp_path, tree, artifact, *tree.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return ScoringRun(artifact, tmp_path, tmp_path, "cpu", 0, {}, VOCAB, best_sandbox(), tree, "model:load")

    return make
