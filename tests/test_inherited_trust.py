"""Whose code a child of inherited code is: it runs without a sandbox only where the library wrote all of it."""

from dataclasses import replace

import pytest
from conftest import TOY, replace_line, run
from scripted import idea

from ideator_rl.executor.record_store import Spec
from ideator_rl.reward_buffer import BufferConfig, RewardBuffer
from ideator_rl.storage.idea_context import Base

BY_MODEL = f"[Experiment] e [Code Changes]\n{replace_line('x = 4.0', 'x = 1.0')}[End]"


@pytest.fixture
def score(tmp_path):
    """Runs an idea with an implementer, in the bucket of all; returns its base for children, and its specification."""

    def go(implementer, completion, base=None):
        config = BufferConfig(str(TOY), "cpu", f"file://{tmp_path}/b", run_dir=str(tmp_path), implementer=implementer)
        buffer = RewardBuffer(config)
        try:
            record = run(buffer.executor.execute(completion, 0, base))
            assert record.status == "succeeded"
            return Base(record.tree, record.patch, (record.id,)), Spec.load(buffer.executor.bucket, record.id)
        finally:
            buffer.close()

    return go


def test_a_child_of_the_librarys_code_is_its_code(score):
    first, spec = score("rules", idea("set x = 1.0"))
    child, of_child = score("rules", idea("set y = 1.0"), first)
    assert spec.trusted and of_child.trusted
    assert score("rules", idea("set z = 1.0"), child)[1].trusted


def test_a_child_of_a_models_code_is_not_the_librarys(score):
    """A run that was resumed with another implementer, or took the ideas of other runs, has such parents."""
    first, spec = score("direct", BY_MODEL)
    child, of_child = score("rules", idea("set y = 1.0"), first)
    assert not spec.trusted and not of_child.trusted
    assert not score("rules", idea("set z = 1.0"), child)[1].trusted


def test_code_of_a_parent_that_the_bucket_does_not_prove_is_not_the_librarys(score):
    first, _ = score("rules", idea("set x = 1.0"))
    other, _ = score("direct", f"[Experiment] e [Code Changes]\n{replace_line('x = 4.0', 'x = 2.0')}[End]")
    # Of a bucket that was emptied, and of a column that a person wrote.
    assert not score("rules", idea("set y = 1.0"), replace(first, parents=("f" * 64,)))[1].trusted
    assert not score("rules", idea("set y = 2.0"), replace(other, parents=first.parents))[1].trusted
    assert not score("rules", idea("set y = 3.0"), replace(first, parents=()))[1].trusted
    both = (*first.parents, *other.parents)
    assert not score("rules", idea("set z = 3.0"), replace(first, parents=both))[1].trusted
