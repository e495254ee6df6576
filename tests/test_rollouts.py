"""Batches on disk: what comes back is what was sampled; what a kill cut short is not there."""

import random
from dataclasses import replace

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
    journal = RolloutJournal(tmp_path, 0, 2)
    journal.write(batch())
    assert not RolloutJournal(tmp_path, 1, 2).holds(3), "the part of another rank is not there"
    (tmp_path / "rollouts/000003/batch.json").unlink()
    assert not journal.holds(3)


def test_another_number_of_processes_is_told_to_each_of_them(tmp_path):
    RolloutJournal(tmp_path, 0, 1).write(batch())
    for rank in (0, 1):
        with pytest.raises(IdeatorError, match="journaled by 1 processes and 2 want"):
            RolloutJournal(tmp_path, rank, 2).holds(3)


def test_parts_of_two_samplings_are_not_one_batch(tmp_path):
    """Two kills: first only rank 0 wrote; then all sampled anew, and rank 0 was hit between its words and its tensors."""
    first, second = RolloutJournal(tmp_path, 0, 2), RolloutJournal(tmp_path, 1, 2)
    first.write(replace(batch(), uid="a"))
    second.write(replace(batch(), uid="b"))
    assert first.holds(3) and not second.holds(3)
    words = tmp_path / "rollouts/000003/batch.json"
    words.write_text(words.read_text().replace('"a"', '"b"', 1))
    assert not first.holds(3) and second.holds(3)
    first.write(replace(batch(), uid="b"))
    assert first.holds(3) and second.holds(3) and first.read(3, CPU).uid == "b"


def test_half_a_closing_is_none_and_the_next_one_is_whole(tmp_path):
    journal = RolloutJournal(tmp_path, 0, 1)
    first, second = ({"index": index, "examples": [], "x": "y" * 9000} for index in (0, 1))
    journal.close(first)
    for half in (b'{"index": 1, "sea', b"z" * 10_000):
        with open(tmp_path / "rollouts/closings.jsonl", "ab") as file:
            file.write(half)
        assert journal.closings() == [first]
    journal.close(second)
    assert journal.closings() == [first, second]


def test_what_was_imitated_beside_a_batch_goes_with_it(tmp_path):
    journal, examples = RolloutJournal(tmp_path, 0, 1), [{"prompt": "p", "completion": "c" * 1000}]
    journal.close({"index": 2, "examples": examples})
    assert journal.closings() == [{"index": 2, "examples": []}] and journal.examples(2) == examples
    journal.forget(3)
    assert journal.examples(2) == []


def test_only_batches_below_an_index_are_forgotten(tmp_path):
    journal = RolloutJournal(tmp_path, 0, 1)
    for index in (1, 2, 3):
        journal.write(batch(index))
    journal.forget(3)
    assert [journal.holds(index) for index in (1, 2, 3)] == [False, False, True]


@pytest.mark.parametrize("name", ["000003/batch.json", "000003/rank0.safetensors", "closings.jsonl"])
def test_a_damaged_file_is_named(tmp_path, name):
    journal = RolloutJournal(tmp_path, 0, 1)
    journal.write(batch())
    for index in (2, 3):
        journal.close({"index": index, "examples": []})
    path = tmp_path / "rollouts" / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + (b"\n{}\n" if name.endswith("jsonl") else b""))
    with pytest.raises(IdeatorError, match=f"{path.name} is damaged"):
        journal.holds(3)
        journal.read(3, CPU)
        journal.closings()
