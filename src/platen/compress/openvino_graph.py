"""The Llama network as an OpenVINO graph, built operation by operation from a model's weights.

The graph has the inputs and the stateful key/value cache that OpenVINO GenAI looks for, so that its
continuous-batching pipeline can put paged attention in place of the plain one. Building it here, not by
tracing, keeps conversion independent of the versions of two other libraries, and takes seconds. Letters in
shapes as in `platen.models.arch.decoder`: B rows, T new tokens, S tokens to look at, C hidden size, H query
heads, K key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset15 as op
from openvino.op.util import Variable, VariableInfo
from torch import Tensor

from platen.models.arch.config import DecoderConfig
from platen.models.arch.rope import rope_frequencies

Node = Any
INT4_GROUP = 64
"""Weights that share one scale in `int4`; smaller groups are more exact and a little larger."""
_LOWEST = np.float32(
    -65504.0
)  # the mask's minus infinity; float16's lowest, so that any runtime type holds it


def build_graph(config: DecoderConfig, weights: Mapping[str, Tensor], precision: str) -> ov.Model:
    """The network as a stateful graph: `input_ids`, `position_ids` (B, T), `attention_mask` (B, S) and
    `beam_idx` (B,) in, `logits` (B, T, V) in float32 out.

    `weights` are a Llama's by their transformers names, in any float type. Matrices are kept in `precision`:

    - `bf16` as they come in it, in float16 otherwise.
    - `int8`: one scale and zero point for each output channel.
    - `int4`: one scale for each 64 weights of an output channel, symmetric; embedding and output layer
      in int8.

    Gains are kept in float16. The runtime chooses what it computes in.
    """
    return _Builder(config, weights, precision).build()


class _Builder:
    def __init__(self, config: DecoderConfig, weights: Mapping[str, Tensor], precision: str) -> None:
        self._config, self._weights, self._precision = config, weights, precision
        self._sinks: list[Node] = []
        self._inputs = {
            "input_ids": op.parameter([-1, -1], np.int64),
            "attention_mask": op.parameter([-1, -1], np.int64),
            "position_ids": op.parameter([-1, -1], np.int64),
            "beam_idx": op.parameter([-1], np.int32),
        }
        for name, node in self._inputs.items():
            node.set_friendly_name(name)
            node.output(0).set_names({name})
        shape = op.shape_of(self._inputs["input_ids"])
        self._rows = op.gather(shape, _ints(0), _axis(0))  # B, as a vector of one
        self._new = op.gather(shape, _ints(1), _axis(0))  # T
        self._cos, self._sin = self._rotary()
        self._mask: Node = None

    def build(self) -> ov.Model:
        config = self._config
        embedding = self._weight("model.embed_tokens.weight")
        x = op.gather(embedding, op.convert(self._inputs["input_ids"], "i32"), _axis(0))  # (B, T, C)
        for layer in range(config.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            x = op.add(x, self._attention(self._norm(x, prefix + "input_layernorm"), layer))
            x = op.add(x, self._mlp(self._norm(x, prefix + "post_attention_layernorm"), prefix + "mlp."))
        x = self._norm(x, "model.norm")
        head = embedding if config.tie_word_embeddings else self._weight("lm_head.weight")
        logits = op.matmul(x, head, False, True)
        logits.output(0).set_names({"logits"})
        model = ov.Model([op.result(logits)], self._sinks, list(self._inputs.values()), "llama")
        for number, node in enumerate(model.get_ordered_ops()):
            if node.get_friendly_name().startswith(node.get_type_name()):
                # OpenVINO numbers nodes from the process's start on; the same bundle is to give the same.
                node.set_friendly_name(f"{node.get_type_name()}_{number}")
        return model

    def _weight(self, name: str) -> Node:
        """A weight as stored, then converted: patterns that runtimes know, to compute on the stored form."""
        tensor = self._weights[name].detach().cpu()
        ends = name.startswith(("model.embed_tokens", "lm_head"))
        if tensor.dim() == 1 or self._precision == "bf16":
            node = _stored(tensor)
        elif self._precision == "int4" and not ends and tensor.shape[1] % INT4_GROUP == 0:
            node = _int4(tensor.float())
        else:
            node = _int8(tensor.float())
        node.set_friendly_name(name)
        return node

    def _linear(self, x: Node, name: str) -> Node:
        return op.matmul(x, self._weight(name + ".weight"), False, True)

    def _norm(self, x: Node, name: str) -> Node:
        mean_square = op.reduce_mean(op.power(x, _float(2)), _ints(-1), True)
        root = op.sqrt(op.add(mean_square, _float(self._config.norm_eps)))
        return op.multiply(self._weight(name + ".weight"), op.multiply(x, op.divide(_float(1), root)))

    def _mlp(self, x: Node, prefix: str) -> Node:
        gated = op.multiply(
            op.swish(self._linear(x, prefix + "gate_proj")), self._linear(x, prefix + "up_proj")
        )
        return self._linear(gated, prefix + "down_proj")

    def _rotary(self) -> tuple[Node, Node]:
        """Cosines and sines of the new tokens' angles, (B, 1, T, D)."""
        config = self._config
        frequencies = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling).numpy()
        positions = op.convert(op.unsqueeze(self._inputs["position_ids"], _ints(-1)), "f32")
        half = op.multiply(positions, op.constant(frequencies))
        angles = op.unsqueeze(op.concat([half, half], -1), _ints(1))
        return op.cos(angles), op.sin(angles)

    def _rotate(self, x: Node) -> Node:
        size = self._config.head_dim
        first = op.slice(x, _ints(0), _ints(size // 2), _ints(1), _ints(3))
        second = op.slice(x, _ints(size // 2), _ints(size), _ints(1), _ints(3))
        turned = op.concat([op.multiply(second, _float(-1)), first], -1)
        return op.add(op.multiply(x, self._cos), op.multiply(turned, self._sin))

    def _attention(self, x: Node, layer: int) -> Node:
        config, prefix = self._config, f"model.layers.{layer}.self_attn."
        queries, groups = config.num_attention_heads, config.num_key_value_heads
        q = self._rotate(self._heads(self._linear(x, prefix + "q_proj"), queries))  # (B, H, T, D)
        k = self._rotate(self._heads(self._linear(x, prefix + "k_proj"), groups))  # (B, K, T, D)
        v = self._heads(self._linear(x, prefix + "v_proj"), groups)
        k, v = self._cached(k, f"{layer}.key"), self._cached(v, f"{layer}.value")  # (B, K, S, D)
        if self._mask is None:
            self._mask = self._causal_mask(k)
        y = op.scaled_dot_product_attention(q, self._repeated(k), self._repeated(v), self._mask, causal=False)
        y = op.transpose(y, _ints(0, 2, 1, 3))
        return self._linear(op.reshape(y, _ints(0, 0, queries * config.head_dim), True), prefix + "o_proj")

    def _heads(self, x: Node, heads: int) -> Node:
        split = op.reshape(x, _ints(0, 0, heads, self._config.head_dim), True)
        return op.transpose(split, _ints(0, 2, 1, 3))

    def _cached(self, new: Node, name: str) -> Node:
        """The cache's content and `new` after it; the cache keeps both."""
        heads, size = self._config.num_key_value_heads, self._config.head_dim
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, heads, -1, size])
        info.data_type = ov.Type.f32
        info.variable_id = f"past_key_values.{name}present.{name}"
        variable = Variable(info)
        empty = op.broadcast(_float(0), op.concat([self._rows, _ints(heads), _ints(0), _ints(size)], 0))
        held = op.gather(op.read_value(empty, variable), self._inputs["beam_idx"], _axis(0))
        everything = op.concat([held, new], 2)
        self._sinks.append(op.assign(everything, variable))
        return everything

    def _repeated(self, x: Node) -> Node:
        """Each key/value head once for every query head that shares it: (B, K, S, D) to (B, H, S, D)."""
        heads, groups = self._config.num_attention_heads, self._config.num_key_value_heads
        if heads == groups:
            return x
        length, size = op.gather(op.shape_of(x), _ints(2), _axis(0)), self._config.head_dim
        shape = op.concat([self._rows, _ints(groups), _ints(heads // groups), length, _ints(size)], 0)
        repeated = op.broadcast(op.unsqueeze(x, _ints(2)), shape, "BIDIRECTIONAL")
        return op.reshape(repeated, _ints(0, heads, -1, size), True)

    def _causal_mask(self, keys: Node) -> Node:
        """0 where a token may look and the lowest number elsewhere, (B, 1, T, S)."""
        total = op.gather(op.shape_of(keys), _ints(2), _axis(0))
        stop = op.squeeze(total, _axis(0))
        columns = op.range(_axis(0), stop, _axis(1), "i64")
        rows = op.range(op.squeeze(op.subtract(total, self._new), _axis(0)), stop, _axis(1), "i64")
        before = op.less_equal(op.unsqueeze(columns, _ints(0)), op.unsqueeze(rows, _ints(1)))
        real = op.unsqueeze(op.convert(self._inputs["attention_mask"], "boolean"), _ints(1, 2))
        seen = op.logical_and(op.unsqueeze(before, _ints(0, 1)), real)
        return op.select(seen, _float(0), op.constant(_LOWEST))


def _stored(tensor: Tensor) -> Node:
    if tensor.dtype == torch.bfloat16:
        bits = tensor.contiguous().view(torch.int16).numpy()
        return op.convert(op.constant(ov.Tensor(bits, list(tensor.shape), ov.Type.bf16)), "f32")
    return op.convert(op.constant(tensor.to(torch.float16).numpy()), "f32")


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
    stored = op.constant(ov.Tensor(packed, list(groups.shape), ov.Type.i4))
    scaled = op.multiply(op.convert(stored, "f16"), op.constant(scale.to(torch.float16).numpy()))
    return op.convert(op.reshape(scaled, _ints(rows, columns), False), "f32")


def _half(tensor: Tensor) -> Node:
    return op.convert(op.constant(tensor.numpy()), "f16")


def _ints(*values: int) -> Node:
    return op.constant(np.array(values, dtype=np.int64))


def _axis(value: int) -> Node:
    return op.constant(np.int64(value))


def _float(value: float) -> Node:
    return op.constant(np.float32(value))
