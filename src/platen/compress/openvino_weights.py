"""A model's weights as nodes of an OpenVINO graph: stored in 16, 8 or 4 bits, then converted.

The patterns are those that runtimes know, so that they compute on the stored form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset15 as op
from torch import Tensor

Node = Any
INT4_GROUP = 64
"""Weights that share one scale in `int4`; smaller groups are more exact and a little larger."""
_ENDS = ("model.embed_tokens.", "lm_head.")
"""Names of what `int4` keeps in 8 bits."""
_KEPT = ("embed_positions.weight", "mlp.gate.weight")
"""Names of matrices that stay in 16 bits: small, and the router's choice of experts is a step."""


class WeightNodes:
    """The weights by their names in `platen.models.arch.parameters`, in the `precision` of `build_graph`."""

    def __init__(self, weights: Mapping[str, Tensor], precision: str) -> None:
        self._weights, self._precision = weights, precision

    def __call__(self, name: str, *, offset: float = 0.0) -> Node:
        """A weight; `offset` is added before it is stored."""
        tensor = self._weights[name].detach().cpu().contiguous()  # some formats are read transposed
        if offset:  # in float32: near 1, 16 bits would lose most of a small weight
            node = op.constant((tensor.float() + offset).numpy())
        elif tensor.dim() == 1 or self._precision == "bf16" or name.endswith(_KEPT):
            node = _stored(tensor)
        elif self._precision == "int4" and not name.startswith(_ENDS) and tensor.shape[1] % INT4_GROUP == 0:
            node = _int4(tensor.float())
        else:
            node = _int8(tensor.float())
        node.set_friendly_name(name)
        return node

    def linear(self, x: Node, name: str) -> Node:
        """The projection `name` of x, with its bias where it has one."""
        y = op.matmul(x, self(name + ".weight"), False, True)
        return op.add(y, self(name + ".bias")) if name + ".bias" in self._weights else y


def _stored(tensor: Tensor) -> Node:
    if tensor.dtype == torch.bfloat16:
        bits = tensor.view(torch.int16).numpy()
        return op.convert(_constant(bits, list(tensor.shape), ov.Type.bf16), "f32")
    return op.convert(op.constant(tensor.to(torch.float16).numpy()), "f32")


def _constant(bits: Any, shape: list[int], kind: ov.Type) -> Node:
    """A constant of a type that NumPy doesn't have. A tensor made around an array would not keep it alive."""
    tensor = ov.Tensor(kind, ov.Shape(shape))
    tensor.data.reshape(-1).view(bits.dtype)[:] = bits.reshape(-1)
    return op.constant(tensor)


def _int8(matrix: Tensor) -> Node:
    """Unsigned 8 bits: (stored - zero) * scale, the range of each row (O, I) onto 0 to 255."""
    low, high = matrix.amin(1, keepdim=True).clamp(max=0), matrix.amax(1, keepdim=True).clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-7)
    zero = (-low / scale).round().clamp(0, 255)
    stored = (matrix / scale + zero).round().clamp(0, 255).to(torch.uint8)
    centred = op.subtract(_half(stored), _half(zero.to(torch.uint8)))
    return op.convert(op.multiply(centred, op.constant(scale.to(torch.float16).numpy())), "f32")


def _int4(matrix: Tensor) -> Node:
    """Signed 4 bits in groups: the largest magnitude of each group onto -8 or 7, whichever wastes less."""
    rows, columns = matrix.shape
    groups = matrix.view(rows, columns // INT4_GROUP, INT4_GROUP)
    peak = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    scale = (peak / -8).to(torch.float16).float()
    scale = torch.where(scale == 0, torch.full_like(scale, 1e-7), scale)
    quantized = (groups / scale).round().clamp(-8, 7).to(torch.int8).numpy().reshape(-1)
    nibbles = quantized.astype(np.uint8) & 15
    packed = (nibbles[0::2] | (nibbles[1::2] << 4)).astype(np.uint8)
    stored = _constant(packed, list(groups.shape), ov.Type.i4)
    scaled = op.multiply(op.convert(stored, "f16"), op.constant(scale.to(torch.float16).numpy()))
    return op.convert(op.reshape(scaled, ints(rows, columns), False), "f32")


def _half(tensor: Tensor) -> Node:
    return op.convert(op.constant(tensor.numpy()), "f16")


def ints(*values: int) -> Node:
    return op.constant(np.array(values, dtype=np.int64))


def axis(value: int) -> Node:
    return op.constant(np.int64(value))


def number(value: float) -> Node:
    return op.constant(np.float32(value))
