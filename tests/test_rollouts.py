"""Batches on disk: they are read as they were sampled, and a part that a kill cut short does not count."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from ideator_rl.errors import IdeatorError
from ideator_rl.training.batch_closing import TrainBatch
from ideator_rl.training.rollouts import Batch, RolloutStore, random_state, restore_random_state

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


def test_a_batch_is_read_with_the_types_and_bits_it_was_written_with(tmp_path):
    store, sent = RolloutStore(tmp_path, 0, 1), batch()
    assert not store.has(3)
    store.write(sent)
    assert store.has(3)
    read = store.read(3, CPU)
    assert (read.index, read.policy_version) == (3, 2)
    assert (read.groups, read.completions, read.ids) == (sent.groups, sent.completions, sent.ids)
    assert list(read.tensors) == list(sent.tensors), "TRL takes the number of rows from the first"
    for name, tensor in sent.tensors.items():
        assert read.tensors[name].dtype == tensor.dtype and torch.equal(read.tensors[name], tensor), name


def test_the_random_state_continues_where_sampling_ended(tmp_path):
    store = RolloutStore(tmp_path, 0, 1)
    store.write(batch())
    want = random.random(), np.random.rand(), torch.rand(3)
    restore_random_state(store.read(3, CPU).random_state)
    assert (random.random(), np.random.rand()) == want[:2] and torch.equal(torch.rand(3), want[2])


def test_a_batch_without_its_texts_or_its_tensors_does_not_count(tmp_path):
    store = RolloutStore(tmp_path, 0, 2)
    store.write(batch())
    assert not RolloutStore(tmp_path, 1, 2).has(3), "the other rank has not written its part"
    (tmp_path / "rollouts/000003/batch.json").unlink()
    assert not store.has(3)


def test_another_number_of_processes_is_refused_at_every_rank(tmp_path):
    RolloutStore(tmp_path, 0, 1).write(batch())
    for rank in (0, 1):
        with pytest.raises(IdeatorError, match="stored by 1 processes and 2 want"):
            RolloutStore(tmp_path, rank, 2).has(3)


def test_parts_of_two_samplings_are_not_one_batch(tmp_path):
    """Two kills: first only rank 0 wrote; then all sampled again, and rank 0 died between its texts and its tensors."""
    first, second = RolloutStore(tmp_path, 0, 2), RolloutStore(tmp_path, 1, 2)
    first.write(replace(batch(), uid="a"))
    second.write(replace(batch(), uid="b"))
    assert first.has(3) and not second.has(3)
    texts = tmp_path / "rollouts/000003/batch.json"
    texts.write_text(texts.read_text().replace('"a"', '"b"', 1))
    assert not first.has(3) and second.has(3)
    first.write(replace(batch(), uid="b"))
    assert first.has(3) and second.has(3) and first.read(3, CPU).uid == "b"


def test_an_incomplete_line_is_left_out_and_does_not_spoil_the_next(tmp_path):
    store = RolloutStore(tmp_path, 0, 1)
    first, second = (TrainBatch(index, [], [], [], metrics={"x": [0.5] * 3000}) for index in (0, 1))
    store.append(first)
    for half in (b'{"index": 1, "sea', b"z" * 10_000):
        with open(tmp_path / "rollouts/closings.jsonl", "ab") as file:
            file.write(half)
        assert store.train_batches() == [first]
    store.append(second)
    assert store.train_batches() == [first, second]


def test_examples_are_stored_and_removed_with_their_batch(tmp_path):
    store, examples = RolloutStore(tmp_path, 0, 1), [{"prompt": "p", "completion": "c" * 1000}]
    store.append(TrainBatch(2, [], [], [], examples=examples))
    assert store.train_batches() == [TrainBatch(2, [], [], [])] and store.examples(2) == examples
    store.forget(3)
    assert store.examples(2) == []


def test_only_batches_below_an_index_are_removed(tmp_path):
    store = RolloutStore(tmp_path, 0, 1)
    for index in (1, 2, 3):
        store.write(batch(index))
    store.forget(3)
    assert [store.has(index) for index in (1, 2, 3)] == [False, False, True]


def test_every_rank_removes_its_batches_above_an_index(tmp_path):
    stores = [RolloutStore(tmp_path, rank, 2) for rank in (1, 0)]
    for index in (1, 2, 3):
        for store in stores:
            store.write(batch(index))
    for store in stores:
        store.forget_after(1)
        assert [store.has(index) for index in (1, 2, 3)] == [True, False, False]
    assert [folder.name for folder in (tmp_path / "rollouts").iterdir()] == ["000001"]


@pytest.mark.parametrize("name", ["000003/batch.json", "000003/rank0.safetensors", "closings.jsonl"])
def test_an_error_names_the_damaged_file(tmp_path, name):
    store = RolloutStore(tmp_path, 0, 1)
    store.write(batch())
    for index in (2, 3):
        store.append(TrainBatch(index, [], [], []))
    path = tmp_path / "rollouts" / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + (b"\n{}\n" if name.endswith("jsonl") else b""))
    with pytest.raises(IdeatorError, match=f"{path.name} is damaged"):
        store.has(3)
        store.read(3, CPU)
        store.train_batches()
