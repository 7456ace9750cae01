"""Reading headers, streaming, writing shards; every length of header is read, and what is no safetensors is told apart."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from unmask.errors import CheckpointError
from unmask.model.weights.shards import DTYPES, ShardWriter, compare, read, scan, scan_file


@pytest.mark.parametrize("length", range(1, 140))
def test_a_header_of_any_length_is_no_pickle(tmp_path: Path, length: int) -> None:
    """The first byte of a file is the low byte of its header's length: 0x80 in one of 32 files, as in pickles."""
    save_file({"n" * length: torch.ones(2)}, tmp_path / "x.safetensors")
    assert list(scan_file(tmp_path / "x.safetensors")) == ["n" * length]


def test_among_those_headers_is_one_that_begins_like_a_pickle(tmp_path: Path) -> None:
    first = set()
    for length in range(1, 140):
        save_file({"n" * length: torch.ones(2)}, tmp_path / "x.safetensors")
        first.add((tmp_path / "x.safetensors").read_bytes()[0])
    assert 0x80 in first


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_number_types(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({"x": torch.ones(3, 5).to(dtype)}, tmp_path / "x.safetensors")
    (stored,) = scan(tmp_path).values()
    assert stored.dtype == dtype and stored.shape == (3, 5) and stored.bytes == 15 * dtype.itemsize


def test_a_number_type_that_is_not_supported(tmp_path: Path) -> None:
    save_file({"x": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="x.safetensors: has tensors of type F8_E4M3; supported: BF16"):
        scan_file(tmp_path / "x.safetensors")


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12), limit=st.integers(1, 300))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tensors = {f"t{number}": torch.arange(size, dtype=torch.float32) + number for number, size in enumerate(sizes)}
    writer = ShardWriter(folder, "model", limit)
    for name, value in tensors.items():
        writer.add(name, value)
    writer.finish()
    again = {stored.name: tensor for stored, tensor in read(scan(folder).values())}
    assert again.keys() == tensors.keys() and all(torch.equal(again[name], value) for name, value in tensors.items())
    for path in folder.glob("*.safetensors"):
        held = load_file(path)
        assert len(held) == 1 or sum(value.numel() * 4 for value in held.values()) <= limit
    files = {path.name for path in folder.iterdir()}
    if len(files) == 1:
        assert files == {"model.safetensors"}
    else:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(sizes) * 4 and set(index["weight_map"].values()) < files


def test_one_file_of_any_name_will_do_and_two_will_not(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "any.safetensors")
    assert list(scan(tmp_path)) == ["x"]
    save_file({"y": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="there are 2 safetensors files, but no model.safetensors.index.json"):
        scan(tmp_path)
    for usual in ("weights", "model"):
        save_file({usual: torch.ones(1)}, tmp_path / f"{usual}.safetensors")
        assert list(scan(tmp_path)) == [usual]


def test_a_file_that_is_gone_or_cut_after_it_was_looked_at(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="x.safetensors: is no whole safetensors file .No such file"):
        scan_file(tmp_path / "x.safetensors")
    save_file({"x": torch.ones(1000)}, tmp_path / "x.safetensors")
    stored = scan(tmp_path)
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:100])
    with pytest.raises(CheckpointError, match="x.safetensors: is no whole safetensors file .*; copy it again"):
        list(read(stored.values()))


def test_differences_in_words() -> None:
    assert compare({"a": (1,), "b": (2,)}, {"b": (2,), "a": (1,)}) == ""
    assert compare({"a": (1,), "c": (2, 3)}, {"b": (2,), "c": (2,)}) == (
        "1 are missing, first b; 1 are unexpected, first a; 1 have another shape, first c with [2, 3], not [2]"
    )
