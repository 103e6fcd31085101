"""Tensors to bytes and back, compared with Triton's own code, and every damage refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype

from platen.serve.api.oip.tensors import Tensor, from_raw, from_values, texts_tensor, to_plain, to_raw
from platen.web.errors import ApiError

NUMBERS = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64"]


@given(st.lists(st.text(max_size=9).map(str.encode)))
def test_bytes_are_written_as_triton_writes_them(elements: list[bytes]) -> None:
    tensor = Tensor("t", "BYTES", (len(elements),), elements)
    raw = to_raw(tensor)
    theirs = serialize_byte_tensor(np.array(elements, dtype=np.object_))
    assert raw == (theirs.item() if elements else b"")
    assert from_raw("t", "BYTES", [len(elements)], raw) == tensor
    assert list(deserialize_bytes_tensor(raw)) == elements


@pytest.mark.parametrize("datatype", [*NUMBERS, "BOOL"])
def test_numbers_are_written_as_triton_reads_them(datatype: str) -> None:
    plain = [True, False, True] if datatype == "BOOL" else [0, 1, 100]
    tensor = from_values("t", datatype, [3], plain)
    raw = to_raw(tensor)
    assert np.frombuffer(raw, triton_to_np_dtype(datatype)).tolist() == plain
    again = from_raw("t", datatype, [3], raw)
    assert list(to_plain(again)) == plain


def test_nested_data_is_read_row_by_row() -> None:
    tensor = from_values("t", "FP32", [2, 2], [[1, 2.5], [3, 4]])
    assert (tensor.shape, list(tensor.values)) == ((2, 2), [1, 2.5, 3, 4])
    assert from_values("t", "BYTES", [2, 1], [["a"], ["ü"]]).texts() == ["a", "ü"]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "complaint"),
    [
        ("INT64", [2], [1], "has 1 elements; the shape"),
        ("INT64", [1], [1.5], "not INT64"),
        ("INT64", [1], [True], "not INT64"),
        ("INT8", [1], [300], "out of INT8's range"),
        ("UINT8", [1], [-1], "out of UINT8's range"),
        ("BOOL", [1], [1], "not BOOL"),
        ("FP32", [1], ["x"], "not FP32"),
        ("BYTES", [1], [3], "not BYTES"),
        ("BYTES", [1], ["\ud800"], "surrogate"),
        ("BF16", [1], [1.0], "the datatype 'BF16'"),
        ("INT64", [-1], [1], "has the shape"),
        ("INT64", [1] * 17, [1], "has the shape"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    datatype: str, shape: list[int], data: list[object], complaint: str
) -> None:
    with pytest.raises(ApiError, match=complaint):
        from_values("t", datatype, shape, data)


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "complaint"),
    [
        ("FP32", [2], bytes(7), "has 7 bytes"),
        ("FP32", [2**31, 2**31], bytes(8), "has 8 bytes"),
        ("BYTES", [1], b"\x05\0\0\0abc", "middle of an element"),
        ("BYTES", [1], b"\x05\0", "middle of an element"),
        ("BYTES", [2], b"\x01\0\0\0a", "has 1 elements"),
        ("BF16", [1], bytes(2), "the datatype 'BF16'"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(
    datatype: str, shape: list[int], raw: bytes, complaint: str
) -> None:
    with pytest.raises(ApiError, match=complaint):
        from_raw("t", datatype, shape, raw)


def test_a_parameter_is_one_element_of_any_kind() -> None:
    assert from_values("t", "INT32", [1], [3]).scalar() == 3
    assert from_values("t", "BOOL", [1, 1], [[True]]).scalar() is True
    assert texts_tensor("t", [1], ["x"]).scalar() == "x"
    with pytest.raises(ApiError, match="has 2 elements; it should have one"):
        from_values("t", "INT32", [2], [3, 4]).scalar()
    with pytest.raises(ApiError, match="is INT32; it should be BYTES"):
        from_values("t", "INT32", [1], [3]).texts()
    with pytest.raises(ApiError, match="not UTF-8"):
        Tensor("t", "BYTES", (1,), [b"\xff"]).texts()
