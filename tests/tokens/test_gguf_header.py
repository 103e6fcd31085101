"""Heads of GGUF files, written by the gguf package: an independent implementation of the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from platen.core.errors import BundleError
from platen.tokens.gguf_header import read_header, read_shards

gguf = pytest.importorskip("gguf")


def write(file: Path, tensors: dict[str, np.ndarray[Any, Any]], **fields: Any) -> Path:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_float32("llama.rope.freq_base", 0.5)
    writer.add_array("tokenizer.ggml.tokens", ["a", "ü", "日本"])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.5, -2.0])
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    for key, value in fields.items():
        writer.add_uint16(key.replace("__", "."), value)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_fields_and_tensors(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    file = write(tmp_path / "a.gguf", {"first": values[:, :2].copy(), "second": values.astype(np.float16)})
    header = read_header(file)
    assert header.architecture == "llama"
    assert header.of_architecture("block_count") == 3
    assert header.of_architecture("rope.freq_base") == 0.5
    assert header.of_architecture("no.such", 7) == 7
    assert header.of_tokenizer("tokens") == ["a", "ü", "日本"]
    assert header.of_tokenizer("scores") == (0.0, -1.5, -2.0)
    assert header.of_tokenizer("add_bos_token") is False
    first, second = header.tensors
    assert (first.name, first.shape, first.type_name, first.elements) == ("first", (3, 2), "f32", 6)
    assert (second.name, second.shape, second.type_name) == ("second", (3, 4), "f16")
    read = np.fromfile(file, np.float16, 12, offset=second.offset).reshape(3, 4)
    np.testing.assert_array_equal(read, values)


def test_several_files(tmp_path: Path) -> None:
    one = {"t": np.zeros((2, 2), np.float32)}
    first = write(tmp_path / "m-00001-of-00002.gguf", one, split__count=2, split__no=0)
    write(tmp_path / "m-00002-of-00002.gguf", one, split__count=2, split__no=1)
    shards = read_shards(read_header(first))
    assert [shard.path.name for shard in shards] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    with pytest.raises(BundleError, match="not the first"):
        read_shards(read_header(tmp_path / "m-00002-of-00002.gguf"))
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(BundleError, match="No such file"):
        read_shards(read_header(first))


@pytest.mark.parametrize("kept", [0, 3, 20, 60, 200])
def test_a_damaged_file_is_named(kept: int, tmp_path: Path) -> None:
    file = write(tmp_path / "a.gguf", {})
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BundleError, match=r"a\.gguf"):
        read_header(file)


def test_other_versions_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gguf", {})
    whole = file.read_bytes()
    file.write_bytes(whole[:4] + (1).to_bytes(4, "little") + whole[8:])
    with pytest.raises(BundleError, match="version 1"):
        read_header(file)
    file.write_bytes(whole[:4] + (3).to_bytes(4, "big") + whole[8:])
    with pytest.raises(BundleError, match="big-endian"):
        read_header(file)
