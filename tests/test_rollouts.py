"""Batches on disk: what comes back is what was sampled; what a kill cut short is not there."""

import random

import numpy as np
import pytest
import torch

from ideator_rl.errors import IdeatorError
from ideator_rl.training.rollouts import Batch, RolloutJournal, random_state, restore_random_state

CPU = torch.device("cpu")


def batch(index=3):
    tensors = {
        "completion_ids": torch.tensor([[5, 70000], [7, 0]]),
        "completion_mask": torch.tensor([[1, 1], [1, 0]]),
        "old_per_token_logps": torch.tensor([[-0.1, -2.5], [-1e-7, 0.0]]),
        "half": torch.tensor([0.5, 1.5], dtype=torch.bfloat16),
        "num_items_in_batch": torch.tensor(3),
    }
    return Batch(index, 2, [{"prompt": "p", "n": 1}], ["a", "ü😀"], [[5, 70000], [7]], tensors, random_state())


def test_a_batch_comes_back_with_types_and_bits_as_they_were(tmp_path):
    journal, sent = RolloutJournal(tmp_path, 0, 1), batch()
    assert not journal.holds(3)
    journal.write(sent)
    assert journal.holds(3)
    read = journal.read(3, CPU)
    assert (read.index, read.born, read.groups, read.completions, read.ids) == (
        3,
        2,
        sent.groups,
        sent.completions,
        sent.ids,
    )
    assert list(read.tensors) == list(sent.tensors), "TRL takes the first for one with rows"
    for name, tensor in sent.tensors.items():
        assert read.tensors[name].dtype == tensor.dtype and torch.equal(read.tensors[name], tensor), name


def test_the_random_state_goes_on_where_sampling_ended(tmp_path):
    journal = RolloutJournal(tmp_path, 0, 1)
    journal.write(batch())
    want = random.random(), np.random.rand(), torch.rand(3)
    restore_random_state(journal.read(3, CPU).random_state)
    assert (random.random(), np.random.rand()) == want[:2] and torch.equal(torch.rand(3), want[2])


def test_a_batch_without_its_words_or_its_tensors_is_not_held(tmp_path):
    journal = RolloutJournal(tmp_path, 0, 1)
    journal.write(batch())
    (tmp_path / "rollouts/000003/batch.json").unlink()
    assert not journal.holds(3)
    assert not RolloutJournal(tmp_path, 1, 2).holds(3), "the part of another rank is not there"


def test_another_number_of_processes_is_told(tmp_path):
    RolloutJournal(tmp_path, 0, 1).write(batch())
    with pytest.raises(IdeatorError, match="journaled by 1 processes and 2 want"):
        RolloutJournal(tmp_path, 0, 2).read(3, CPU)


def test_half_a_closing_is_none_and_the_next_one_is_whole(tmp_path):
    journal = RolloutJournal(tmp_path, 0, 1)
    journal.close({"index": 0})
    with open(tmp_path / "rollouts/closings.jsonl", "ab") as file:
        file.write(b'{"index": 1, "sea')
    assert journal.closings() == [{"index": 0}]
    journal.close({"index": 1})
    assert journal.closings() == [{"index": 0}, {"index": 1}]


def test_only_batches_below_an_index_are_forgotten(tmp_path):
    journal = RolloutJournal(tmp_path, 0, 1)
    for index in (1, 2, 3):
        journal.write(batch(index))
    journal.forget(3)
    assert [journal.holds(index) for index in (1, 2, 3)] == [False, False, True]
