"""Weights that an experiment left: files like the base's are taken, and hostile ones are refused before they are read."""

import json
import os
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ideator_rl.evaluation import ScorerFailed, weights

SHAPES = {"a": (3, 4), "b": (5,), "c": (2, 2)}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "artifact").mkdir()
    save_file(tensors(), tmp_path / "base.safetensors")
    return SimpleNamespace(artifact=tmp_path / "artifact")


def tensors():
    torch.manual_seed(0)
    return {
        "a": torch.randn(SHAPES["a"], dtype=torch.bfloat16),
        "b": torch.randn(SHAPES["b"]),
        "c": torch.randn(SHAPES["c"], dtype=torch.float16),
    }


def left(run):
    return run.artifact / "model.safetensors"


def base(run):
    return run.artifact.parent / "base.safetensors"


def header_of(path):
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_weights_like_the_base_are_taken(run):
    save_file({name: 2 * tensor for name, tensor in tensors().items()}, left(run), metadata={"format": "pt"})
    path = weights(run, base(run))
    assert torch.equal(load_file(path)["a"], 2 * tensors()["a"])


def test_a_base_of_several_files_is_one_base(run, tmp_path):
    (tmp_path / "folder").mkdir()
    for name, tensor in tensors().items():
        save_file({name: tensor}, tmp_path / "folder" / f"{name}.safetensors")
    save_file(tensors(), left(run))
    assert weights(run, tmp_path / "folder") == left(run)


def test_a_base_without_weights_is_an_error_of_the_environment(run, tmp_path):
    save_file(tensors(), left(run))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no"):
        weights(run, tmp_path / "empty")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_values_that_are_not_finite_are_refused(run, name, value):
    changed = tensors()
    changed[name].view(-1)[-1] = value
    save_file(changed, left(run))
    with pytest.raises(ScorerFailed, match=f"not finite, in '{name}'"):
        weights(run, base(run))


@pytest.mark.parametrize("kind", ["F64", "F32", "F16", "BF16"])
def test_the_largest_and_smallest_values_of_each_type_are_finite(run, kind):
    dtype = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    limits = torch.finfo(dtype)
    save_file({"x": torch.tensor([limits.max, limits.min, limits.tiny, 0.0, -0.0], dtype=dtype)}, left(run))
    assert weights(run, left(run)) == left(run)


def other_shape(header, data):
    header["a"]["shape"] = [4, 3]
    return header, data


def other_type(header, data):
    header["c"]["dtype"] = "BF16"
    return header, data


def missing_tensor(header, data):
    del header["b"]
    return header, data


def extra_tensor(header, data):
    header["z"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
    return header, data + bytes(4)


def empty_extra_tensor(header, data):
    header["z"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return header, data


def overlapping(header, data):
    begin, end = header["b"]["data_offsets"]
    header["a"]["data_offsets"] = [begin, begin + 24]
    return header, data


def equal_places(header, data):
    header["a"]["data_offsets"] = header["b"]["data_offsets"]
    return header, data


def gap(header, data):
    last = max((name for name in header if name in SHAPES), key=lambda name: header[name]["data_offsets"])
    header[last]["data_offsets"] = [n + 8 for n in header[last]["data_offsets"]]
    return header, data + bytes(8)


def trailing_bytes(header, data):
    return header, data + b"hidden"


def short_data(header, data):
    return header, data[:-1]


def beyond_the_end(header, data):
    header["b"]["data_offsets"] = [1 << 62, (1 << 62) + 20]
    return header, data


def negative_place(header, data):
    header["b"]["data_offsets"] = [-20, 0]
    return header, data


def shape_of_floats(header, data):
    header["b"]["shape"] = [5.0]
    return header, data


def place_of_booleans(header, data):
    header["b"]["data_offsets"] = [False, True]
    return header, data


def unknown_type(header, data):
    header["b"]["dtype"] = "C64"
    return header, data


def duplicate_name(header, data):
    text = json.dumps(header)
    return (text[:-1] + ', "b": ' + json.dumps(header["b"]) + "}").encode(), data


def nested_header(header, data):
    return b"[" * 60_000, data


def number_of_many_digits(header, data):
    return b'{"a": ' + b"9" * 60_000 + b"}", data


def not_utf8(header, data):
    return b'{"\xff": 1}', data


def header_is_a_list(header, data):
    return [header], data


def entry_is_a_number(header, data):
    header["b"] = 5
    return header, data


def metadata_of_a_number(header, data):
    header["__metadata__"] = {"format": 1}
    return header, data


def metadata_of_half_a_character(header, data):
    header["__metadata__"] = {"format": "\ud800"}
    return header, data


def infinite_metadata(header, data):
    header["__metadata__"] = {"x": float("inf")}
    return header, data


DAMAGE = [
    (other_shape, "another shape"), (other_type, "expected F16"), (missing_tensor, "lacks 1"), (extra_tensor, "holds 1"),
    (empty_extra_tensor, "holds 1"), (overlapping, "overlap"), (equal_places, "overlap"), (gap, "overlap"),
    (trailing_bytes, "bytes of data"), (short_data, "bytes of data"), (beyond_the_end, "overlap"),
    (negative_place, "natural numbers"), (shape_of_floats, "natural numbers"), (place_of_booleans, "natural numbers"),
    (unknown_type, "none of"), (duplicate_name, "duplicate"), (nested_header, "not JSON"),
    (number_of_many_digits, "not JSON"), (not_utf8, "not JSON"), (header_is_a_list, "no JSON object"),
    (entry_is_a_number, "no tensor"), (infinite_metadata, "Infinity"),
    (metadata_of_a_number, "no text"), (metadata_of_half_a_character, "no text"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=lambda value: getattr(value, "__name__", ""))
def test_a_damaged_file_is_refused(run, damage, message):
    save_file(tensors(), left(run))
    write(left(run), *damage(*header_of(left(run))))
    with pytest.raises(ScorerFailed, match=message):
        weights(run, base(run))


def test_a_header_of_2_to_the_60_bytes_is_refused_unread(run):
    left(run).write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(ScorerFailed, match="header of 1152921504606846976 bytes"):
        weights(run, base(run))


def test_a_header_longer_than_the_file_is_refused(run):
    left(run).write_bytes(struct.pack("<Q", 1000) + b"{}")
    with pytest.raises(ScorerFailed, match="ends within its header"):
        weights(run, base(run))


def test_a_sparse_file_of_a_terabyte_is_refused_unread(run):
    save_file(tensors(), left(run))
    os.truncate(left(run), 1 << 40)
    with pytest.raises(ScorerFailed, match="is 1099511627776 bytes"):
        weights(run, base(run))


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "nothing", "empty"])
def test_what_is_no_file_of_weights_is_refused(run, kind, tmp_path):
    if kind == "link":
        left(run).symlink_to(base(run))
    elif kind == "pipe":
        os.mkfifo(left(run))
    elif kind == "folder":
        left(run).mkdir()
    elif kind == "empty":
        left(run).touch()
    with pytest.raises(ScorerFailed, match="model.safetensors"):
        weights(run, base(run))


def test_the_finite_check_reads_every_chunk(run, monkeypatch):
    monkeypatch.setattr(sys.modules["ideator_rl.evaluation.weights"], "CHUNK_BYTES", 8)
    values = np.ones(1001, np.float32)
    save_file({"x": torch.from_numpy(values.copy())}, base(run))
    values[1000] = np.nan
    save_file({"x": torch.from_numpy(values)}, left(run))
    with pytest.raises(ScorerFailed, match="not finite"):
        weights(run, base(run))
