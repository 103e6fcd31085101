"""Weights of a GGUF file as a checkpoint's tensors: dequantized one after the other, never all in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from platen.core.errors import BundleError, MissingExtraError
from platen.models.arch.config import DecoderConfig
from platen.models.arch.tensors import Stored
from platen.models.gguf_rope import ROPE_TENSORS
from platen.models.gguf_tensors import GgufEntry, arranged, gguf_entries
from platen.models.weights import INDEX_FILE, WEIGHTS_FILE
from platen.tokens.gguf_header import GgufHeader, GgufTensor

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_SAFETENSORS = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
_AT_ONCE = 16 * 2**20
"""Numbers that are dequantized at a time."""


class GgufWeights:
    """The parameters of a network, read from the files of a model."""

    def __init__(self, shards: tuple[GgufHeader, ...], config: DecoderConfig, dtype: torch.dtype) -> None:
        """Raises BundleError when the files don't hold what the network needs, or hold more."""
        self._config, self._dtype = config, dtype
        self._held = {tensor.name: (shard.path, tensor) for shard in shards for tensor in shard.tensors}
        entries = gguf_entries(config)
        _check(shards[0].path, entries, {name: tensor.shape for name, (_, tensor) in self._held.items()})
        self._entry_of = {part: entry for entry in entries.values() for part in entry.parts}

    def stored(self, stored: Stored) -> Tensor:
        """One tensor of the checkpoint."""
        whole = stored.join({name: self._parameter(name) for name in stored.parts})
        return whole.to(self._dtype).contiguous()

    def _parameter(self, name: str) -> Tensor:
        entry = self._entry_of[name]
        path, tensor = self._held[entry.name]
        shape = entry.parts[name]
        if len(shape) == 1:
            whole = _dequantized(path, tensor, 0, 1, tensor.shape[-1])[0]
            first = entry.first_row(name)
            return arranged(self._config, name, torch.from_numpy(whole[first : first + shape[0]]), back=True)
        rows, columns = prod(shape[:-1]), shape[-1]
        out = torch.empty(rows, columns, dtype=self._dtype)
        step = max(1, _AT_ONCE // columns)
        for row in range(0, rows, step):
            count = min(step, rows - row)
            part = _dequantized(path, tensor, entry.first_row(name) + row, count, columns)
            out[row : row + count] = torch.from_numpy(part)
        if self._dtype == torch.float16 and not out.isfinite().all():
            kept = str(self._dtype).removeprefix("torch.")
            raise BundleError(
                f"{path}: {tensor.name} has numbers that {kept} can't hold",
                hint="Import it as --dtype bfloat16 or float32.",
            )
        return arranged(self._config, name, out.view(shape), back=True)


def _check(path: Path, entries: dict[str, GgufEntry], found: dict[str, tuple[int, ...]]) -> None:
    again = f"Serve the file itself: platen serve {path}"
    for name, entry in entries.items():
        if name not in found:
            raise BundleError(f"{path} has no tensor {name}", hint="Copy or download it again.")
        if found[name] != entry.shape:
            raise BundleError(
                f"{path}: the tensor {name} has the shape {list(found[name])}, not {list(entry.shape)}",
                hint=again,
            )
    more = sorted(found.keys() - entries.keys() - set(ROPE_TENSORS))
    if more:
        raise BundleError(f"{path} has a tensor {more[0]}, which the family doesn't have", hint=again)


def _dequantized(path: Path, tensor: GgufTensor, first: int, rows: int, columns: int) -> NDArray[np.float32]:
    """`rows` rows of a tensor from row `first` on, (rows, columns)."""
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("edge", f"importing {path}") from None
    try:
        kind = gguf.GGMLQuantizationType(tensor.kind)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        width = columns // block * size
        raw = np.fromfile(path, np.uint8, rows * width, offset=tensor.offset + first * width)
        if raw.size != rows * width:
            raise BundleError(f"{path} ends within {tensor.name}", hint="Copy or download it again.")
        values: NDArray[Any] = gguf.quants.dequantize(raw.reshape(rows, width), kind)
    except (ValueError, NotImplementedError, KeyError):
        raise BundleError(
            f"{path}: {tensor.name} is kept as {tensor.type_name}, which can't be dequantized here",
            hint=f"Serve the file itself: platen serve {path}",
        ) from None
    return values.astype(np.float32, copy=False)


@dataclass(frozen=True)
class _Shard:
    name: str
    tensors: dict[str, Stored]


def write_stored(
    folder: Path,
    tensors: dict[str, Stored],
    load: Callable[[Stored], Tensor],
    dtype: torch.dtype,
    max_shard_bytes: int,
    written: Callable[[int], None],
) -> None:
    """Write a checkpoint's tensors into safetensors files, loading one at a time; several have an index.

    `written` is told of bytes as they are written. Raises BundleError when the disk refuses.
    """
    size = torch.empty(0, dtype=dtype).element_size()
    shards = list(_shards(tensors, size, max_shard_bytes))
    try:
        for shard in shards:
            _write_shard(folder / shard.name, shard.tensors, load, dtype, written)
        if len(shards) > 1:
            total = sum(prod(stored.shape) for stored in tensors.values()) * size
            weight_map = {name: shard.name for shard in shards for name in shard.tensors}
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BundleError(
            f"{folder} can't be written: {error.strerror}", hint="Free disk space or write elsewhere."
        ) from None


def _shards(tensors: dict[str, Stored], size: int, most: int) -> Iterator[_Shard]:
    groups: list[dict[str, Stored]] = [{}]
    taken = 0
    for name, stored in tensors.items():
        wanted = prod(stored.shape) * size
        if groups[-1] and taken + wanted > most:
            groups.append({})
            taken = 0
        groups[-1][name] = stored
        taken += wanted
    for number, group in enumerate(groups, start=1):
        several = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        yield _Shard(WEIGHTS_FILE if len(groups) == 1 else several, group)


def _write_shard(
    file: Path,
    tensors: dict[str, Stored],
    load: Callable[[Stored], Tensor],
    dtype: torch.dtype,
    written: Callable[[int], None],
) -> None:
    """One file in safetensors' format: the header's length, the header in JSON, the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, size = 0, torch.empty(0, dtype=dtype).element_size()
    for name, stored in tensors.items():
        end = at + prod(stored.shape) * size
        header[name] = {
            "dtype": _SAFETENSORS[dtype],
            "shape": list(stored.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for stored in tensors.values():
            written(opened.write(load(stored).view(torch.uint8).numpy().data))
