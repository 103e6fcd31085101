"""Typed tensors of the Open Inference Protocol: from JSON, from raw bytes and back.

Raw bytes are little-endian and row-major; before each element of BYTES stands its length in four bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platen.web.errors import ApiError

BYTES = "BYTES"
_NUMBERS: dict[str, str] = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_MAX_DIMENSIONS = 16


@dataclass(frozen=True)
class Tensor:
    """`values` are flat: numbers as an array, BYTES as a list."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | list[bytes]

    def texts(self) -> list[str]:
        """The elements of a BYTES tensor as text. Raises ApiError when they are something else."""
        if not isinstance(self.values, list):
            raise _wrong(self.name, f"is {self.datatype}; it should be {BYTES}")
        try:
            return [value.decode() for value in self.values]
        except UnicodeDecodeError:
            raise _wrong(self.name, "is not UTF-8") from None

    def scalar(self) -> bool | int | float | str:
        """The value of a tensor of one element."""
        if len(self.values) != 1:
            raise _wrong(self.name, f"has {len(self.values)} elements; it should have one")
        return self.texts()[0] if isinstance(self.values, list) else self.values.item()


def texts_tensor(name: str, shape: Sequence[int], texts: Sequence[str]) -> Tensor:
    return Tensor(name, BYTES, tuple(shape), [text.encode() for text in texts])


def from_values(name: str, datatype: str, shape: Sequence[int], data: Sequence[Any]) -> Tensor:
    """A tensor of plain values, flat or nested; texts or bytes for BYTES. Raises ApiError."""
    values = list(_flat(data))
    _check(name, datatype, shape, len(values))
    if datatype == BYTES:
        return Tensor(name, datatype, tuple(shape), [_as_bytes(name, value) for value in values])
    kinds: tuple[type, ...] = (bool,) if datatype == "BOOL" else (int, float) if "FP" in datatype else (int,)
    if not all(
        isinstance(value, kinds) and (datatype == "BOOL") == isinstance(value, bool) for value in values
    ):
        raise _wrong(name, f"has data that is not {datatype}")
    try:
        with np.errstate(over="ignore"):  # a number too large for its float type is infinite, as in JSON
            return Tensor(name, datatype, tuple(shape), np.array(values, dtype=_NUMBERS[datatype]))
    except OverflowError:
        raise _wrong(name, f"has numbers that are out of {datatype}'s range") from None


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Tensor:
    """A tensor of raw bytes. Raises ApiError."""
    if datatype == BYTES:
        elements = list(_elements(name, raw))
        _check(name, datatype, shape, len(elements))
        return Tensor(name, datatype, tuple(shape), elements)
    count = math.prod(shape)
    _check(name, datatype, shape, count)
    dtype = np.dtype(_NUMBERS[datatype])
    if len(raw) != count * dtype.itemsize:
        raise _wrong(name, f"has {len(raw)} bytes; {list(shape)} of {datatype} are {count * dtype.itemsize}")
    return Tensor(name, datatype, tuple(shape), np.frombuffer(raw, dtype=dtype))


def to_raw(tensor: Tensor) -> bytes:
    if isinstance(tensor.values, list):
        return b"".join(struct.pack("<I", len(value)) + value for value in tensor.values)
    return tensor.values.astype(_NUMBERS[tensor.datatype], copy=False).tobytes()


def to_plain(tensor: Tensor) -> NDArray[Any] | list[str]:
    """The elements as JSON has them, flat."""
    return tensor.texts() if isinstance(tensor.values, list) else tensor.values


def _check(name: str, datatype: str, shape: Sequence[int], found: int) -> None:
    if datatype != BYTES and datatype not in _NUMBERS:
        raise _wrong(name, f"has the datatype {datatype!r}; known are {BYTES}, {', '.join(_NUMBERS)}")
    if len(shape) > _MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise _wrong(name, f"has the shape {list(shape)}")
    if math.prod(shape) != found:
        raise _wrong(name, f"has {found} elements; the shape {list(shape)} has {math.prod(shape)}")


def _flat(data: Sequence[Any], depth: int = 1) -> Iterator[Any]:
    for value in data:
        if isinstance(value, list) and depth < _MAX_DIMENSIONS:
            yield from _flat(value, depth + 1)
        else:
            yield value


def _as_bytes(name: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
            raise _wrong(name, "has half of a surrogate pair, which is no character") from None
    raise _wrong(name, f"has data that is not {BYTES}")


def _elements(name: str, raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        end = at + 4
        if end <= len(raw):
            end += int.from_bytes(raw[at:end], "little")
        if end > len(raw) or end < at + 4:
            raise _wrong(name, "ends in the middle of an element")
        yield raw[at + 4 : end]
        at = end


def _wrong(name: str, what: str) -> ApiError:
    return ApiError(400, f"The tensor '{name}' {what}.", param=name, code="invalid_tensor")
