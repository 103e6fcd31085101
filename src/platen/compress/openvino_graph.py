"""A decoder as an OpenVINO graph, built operation by operation from a model's weights.

The graph has the inputs and the stateful key/value cache that OpenVINO GenAI looks for, so that its
continuous-batching pipeline can put paged attention in place of the plain one. Building it here, not by
tracing, keeps conversion independent of the versions of two other libraries, and takes seconds. Letters in
shapes as in `platen.models.arch.decoder`: B rows, T new tokens, S tokens to look at, C hidden size, H query
heads, K key/value heads, D head size, R rotated dimensions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openvino as ov
from openvino import opset15 as op
from openvino.op.util import Variable, VariableInfo
from torch import Tensor

from platen.compress.openvino_layers import LayerNodes, scaled, softcapped
from platen.compress.openvino_weights import Node, WeightNodes, axis, ints, number
from platen.core.errors import BundleError
from platen.models.arch.config import DecoderConfig, RopeScaling
from platen.models.arch.rope import rope_frequencies

_LOWEST = np.float32(
    -65504.0
)  # the mask's minus infinity; float16's lowest, so that any runtime type holds it
Angles = tuple[Node, Node]
"""Cosines and sines, (B, 1, T, R)."""


def build_graph(config: DecoderConfig, weights: Mapping[str, Tensor], precision: str) -> ov.Model:
    """The network as a stateful graph: `input_ids`, `position_ids` (B, T), `attention_mask` (B, S) and
    `beam_idx` (B,) in, `logits` (B, T, V) in float32 out.

    `weights` are by the names in `platen.models.arch.parameters`, in any float type. Matrices are kept in
    `precision`:

    - `bf16` as they come in it, in float16 otherwise.
    - `int8`: one scale and zero point for each output channel.
    - `int4`: one scale for each 64 weights of an output channel, symmetric; embedding and output layer
      in int8.

    Gains, biases, learned positions and routers are kept in 16 bits, gains that are added to 1 in float32.
    The runtime chooses what it computes in.

    Raises BundleError for a network that paged attention can't compute.
    """
    if reason := _impossible(config):
        raise BundleError(
            f"OpenVINO can't run this {config.family} model: {reason}",
            hint="Serve the bundle itself (platen serve --engine torch), or compile it to gguf.",
        )
    return _Builder(config, WeightNodes(weights, precision)).build()


def _impossible(config: DecoderConfig) -> str | None:
    """What of a network can't be computed; None: nothing."""
    if config.attention_softcap is not None:
        return "its attention scores are soft-capped, which paged attention doesn't do"
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "longrope":
        original, window = scaling.original_max_position_embeddings, config.max_position_embeddings
        if original < window:
            return (
                f"its rotation (longrope) changes for sequences of more than {original} tokens, and a graph "
                "that computes many sequences at once has one rotation"
            )
    return None


class _Builder:
    def __init__(self, config: DecoderConfig, weights: WeightNodes) -> None:
        self._config, self._weights = config, weights
        self._layers = LayerNodes(config, weights)
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
        self._rows = op.gather(shape, ints(0), axis(0))  # B, as a vector of one
        self._new = op.gather(shape, ints(1), axis(0))  # T
        self._angles: dict[bool, Angles] = {}  # by whether they are the local ones
        self._masks: dict[int | None, Node] = {}  # by window

    def build(self) -> ov.Model:
        config = self._config
        embedding = self._weights("model.embed_tokens.weight")
        x = op.gather(embedding, op.convert(self._inputs["input_ids"], "i32"), axis(0))  # (B, T, C)
        x = scaled(x, config.embedding_multiplier)
        if config.positions == "learned":
            places = op.convert(self._inputs["position_ids"], "i32")
            x = op.add(x, op.gather(self._weights("model.embed_positions.weight"), places, axis(0)))
        for layer in range(config.num_hidden_layers):
            x = self._layer(x, layer)
        x = scaled(self._layers.norm(x, "model.norm"), 1 / config.logits_divisor)
        head = embedding if config.tie_word_embeddings else self._weights("lm_head.weight")
        logits = softcapped(op.matmul(x, head, False, True), config.final_softcap)
        logits.output(0).set_names({"logits"})
        model = ov.Model([op.result(logits)], self._sinks, list(self._inputs.values()), config.family)
        for position, node in enumerate(model.get_ordered_ops()):
            if node.get_friendly_name().startswith(node.get_type_name()):
                # OpenVINO numbers nodes from the process's start on; the same bundle is to give the same.
                node.set_friendly_name(f"{node.get_type_name()}_{position}")
        return model

    def _layer(self, x: Node, layer: int) -> Node:
        """Attention and feed-forward layer, each with its norms, added to the residual stream."""
        config = self._config
        before, after = config.norm_placement != "post", config.norm_placement != "pre"
        before_mlp = "pre_feedforward_layernorm" if after else "post_attention_layernorm"

        def norm(x: Node, name: str, wanted: bool) -> Node:
            return self._layers.norm(x, f"model.layers.{layer}.{name}") if wanted else x

        attended = self._attention(norm(x, "input_layernorm", before), layer)
        attended = norm(attended, "post_attention_layernorm", after)
        stream = op.add(x, scaled(attended, config.residual_multiplier))
        mlp_input = x if config.parallel_residual else stream
        given = self._layers.feed_forward(norm(mlp_input, before_mlp, before), layer)
        given = norm(given, "post_feedforward_layernorm", after and not config.parallel_residual)
        return op.add(stream, scaled(given, config.residual_multiplier))

    def _rotary(self, local: bool) -> Angles:
        """Cosines and sines of the new tokens' angles."""
        config = self._config
        theta, scaling = config.rope_theta, config.rope_scaling
        if local and config.local_rope_theta is not None:
            theta, scaling = config.local_rope_theta, None
        frequencies = rope_frequencies(config.rotary_dim, theta, scaling).numpy()
        positions = op.convert(op.unsqueeze(self._inputs["position_ids"], ints(-1)), "f32")
        half = op.multiply(positions, op.constant(frequencies))
        angles = op.unsqueeze(op.concat([half, half], -1), ints(1))
        factor = (scaling or RopeScaling()).attention_factor
        return scaled(op.cos(angles), factor), scaled(op.sin(angles), factor)

    def _rotated(self, x: Node, layer: int) -> Node:
        """The pairs (i, i + R / 2) of x (B, heads, T, D) turned by their angles, the rest as it is."""
        config = self._config
        if config.theta(layer) is None:
            return x
        local = config.is_local(layer)
        if local not in self._angles:
            self._angles[local] = self._rotary(local)
        cos, sin = self._angles[local]
        size, whole = config.rotary_dim, config.head_dim
        rest = None if size == whole else op.slice(x, ints(size), ints(whole), ints(1), ints(3))
        if rest is not None:
            x = op.slice(x, ints(0), ints(size), ints(1), ints(3))
        first = op.slice(x, ints(0), ints(size // 2), ints(1), ints(3))
        second = op.slice(x, ints(size // 2), ints(size), ints(1), ints(3))
        turned = op.concat([op.multiply(second, number(-1)), first], -1)
        rotated = op.add(op.multiply(x, cos), op.multiply(turned, sin))
        return rotated if rest is None else op.concat([rotated, rest], -1)

    def _attention(self, x: Node, layer: int) -> Node:
        config, prefix = self._config, f"model.layers.{layer}.self_attn."
        queries, groups = config.num_attention_heads, config.num_key_value_heads
        q = self._rotated(self._heads(x, prefix + "q", queries), layer)  # (B, H, T, D)
        k = self._rotated(self._heads(x, prefix + "k", groups), layer)  # (B, K, T, D)
        v = self._heads(x, prefix + "v", groups)
        k, v = self._cached(k, f"{layer}.key"), self._cached(v, f"{layer}.value")  # (B, K, S, D)
        window = config.window(layer)
        if window not in self._masks:
            self._masks[window] = self._mask(k, window)
        plain = config.scale(layer) == config.head_dim**-0.5
        y = op.scaled_dot_product_attention(
            q,
            self._repeated(k),
            self._repeated(v),
            self._masks[window],
            None if plain else number(config.scale(layer)),
            causal=False,
        )
        y = op.reshape(op.transpose(y, ints(0, 2, 1, 3)), ints(0, 0, queries * config.head_dim), True)
        return self._weights.linear(y, prefix + "o_proj")

    def _heads(self, x: Node, name: str, heads: int) -> Node:
        """The projection `name` of x, cut into heads: (B, T, C) to (B, heads, T, D)."""
        x = self._weights.linear(x, name + "_proj")
        normed = None if name.endswith("v") else self._config.qk_norm
        if normed == "projection":
            x = self._layers.rms_norm(x, name + "_norm")
        x = op.reshape(x, ints(0, 0, heads, self._config.head_dim), True)
        if normed == "head":
            x = self._layers.rms_norm(x, name + "_norm")
        return op.transpose(x, ints(0, 2, 1, 3))

    def _cached(self, new: Node, name: str) -> Node:
        """The cache's content and `new` after it; the cache keeps both."""
        heads, size = self._config.num_key_value_heads, self._config.head_dim
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, heads, -1, size])
        info.data_type = ov.Type.f32
        info.variable_id = f"past_key_values.{name}present.{name}"
        variable = Variable(info)
        empty = op.broadcast(number(0), op.concat([self._rows, ints(heads), ints(0), ints(size)], 0))
        held = op.gather(op.read_value(empty, variable), self._inputs["beam_idx"], axis(0))
        everything = op.concat([held, new], 2)
        self._sinks.append(op.assign(everything, variable))
        return everything

    def _repeated(self, x: Node) -> Node:
        """Each key/value head once for every query head that shares it: (B, K, S, D) to (B, H, S, D)."""
        heads, groups = self._config.num_attention_heads, self._config.num_key_value_heads
        if heads == groups:
            return x
        length, size = op.gather(op.shape_of(x), ints(2), axis(0)), self._config.head_dim
        shape = op.concat([self._rows, ints(groups), ints(heads // groups), length, ints(size)], 0)
        repeated = op.broadcast(op.unsqueeze(x, ints(2)), shape, "BIDIRECTIONAL")
        return op.reshape(repeated, ints(0, heads, -1, size), True)

    def _mask(self, keys: Node, window: int | None) -> Node:
        """0 where a token may look and the lowest number elsewhere, (B, 1, T, S).

        Paged attention takes the place of masks too: it is told windows by `engines.openvino.runner`.
        """
        total = op.gather(op.shape_of(keys), ints(2), axis(0))
        stop = op.squeeze(total, axis(0))
        columns = op.range(axis(0), stop, axis(1), "i64")
        rows = op.range(op.squeeze(op.subtract(total, self._new), axis(0)), stop, axis(1), "i64")
        rows, columns = op.unsqueeze(rows, ints(1)), op.unsqueeze(columns, ints(0))
        seen = op.less_equal(columns, rows)
        if window is not None:
            seen = op.logical_and(seen, op.greater(columns, op.subtract(rows, ints(window))))
        real = op.unsqueeze(op.convert(self._inputs["attention_mask"], "boolean"), ints(1, 2))
        seen = op.logical_and(op.unsqueeze(seen, ints(0, 1)), real)
        return op.select(seen, number(0), op.constant(_LOWEST))
