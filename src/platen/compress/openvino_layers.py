"""Norms, activations and feed-forward layers of every family as operations of an OpenVINO graph.

What they compute is that of `platen.models.arch.layers`. Letters in shapes as in
`platen.models.arch.decoder`; E: experts.
"""

from __future__ import annotations

from collections.abc import Callable

from openvino import opset15 as op

from platen.compress.openvino_weights import Node, WeightNodes, axis, ints, number
from platen.models.arch.config import Activation, DecoderConfig

ACTIVATIONS: dict[Activation, Callable[[Node], Node]] = {
    "silu": op.swish,
    "gelu": lambda x: op.gelu(x, "erf"),
    "gelu_tanh": lambda x: op.gelu(x, "tanh"),
    "relu": op.relu,
}


class LayerNodes:
    """What a layer has beside attention."""

    def __init__(self, config: DecoderConfig, weights: WeightNodes) -> None:
        self._config, self._weights = config, weights
        self._activation = ACTIVATIONS[config.activation]

    def norm(self, x: Node, name: str) -> Node:
        """A norm of the residual stream."""
        if self._config.norm == "rms":
            return self.rms_norm(x, name)
        normal = op.mvn(x, ints(-1), True, self._config.norm_eps, "INSIDE_SQRT")
        return op.add(
            op.multiply(normal, self._weights(name + ".weight")),
            self._weights(name + ".bias"),
        )

    def rms_norm(self, x: Node, name: str) -> Node:
        """RMSNorm over the last axis."""
        gain = self._weights(name + ".weight", offset=self._config.norm_offset)
        mean_square = op.reduce_mean(op.power(x, number(2)), ints(-1), True)
        root = op.sqrt(op.add(mean_square, number(self._config.norm_eps)))
        return op.multiply(gain, op.multiply(x, op.divide(number(1), root)))

    def feed_forward(self, x: Node, layer: int) -> Node:
        """The feed-forward layer of x (B, T, C)."""
        prefix = f"model.layers.{layer}.mlp."
        if self._config.has_experts(layer):
            return self._experts(x, prefix)
        return self._matrices(x, prefix)

    def _matrices(self, x: Node, prefix: str) -> Node:
        linear = self._weights.linear
        if self._config.gated_mlp:
            gate = self._activation(linear(x, prefix + "gate_proj"))
            inner = op.multiply(gate, linear(x, prefix + "up_proj"))
        else:
            inner = self._activation(linear(x, prefix + "up_proj"))
        return linear(inner, prefix + "down_proj")

    def _experts(self, x: Node, prefix: str) -> Node:
        """All experts' outputs, each times its weight for the token, which is 0 for those not chosen."""
        config = self._config
        probabilities = op.softmax(self._weights.linear(x, prefix + "gate"), -1)  # (B, T, E)
        chosen = op.topk(probabilities, axis(config.num_experts_per_tok), -1, "max", "value", "i64")
        weights = chosen.output(0)
        if config.norm_topk_prob:
            weights = op.divide(weights, op.reduce_sum(weights, ints(-1), True))
        none = op.multiply(probabilities, number(0))
        routed = op.scatter_elements_update(none, chosen.output(1), weights, axis(-1))
        out: Node = None
        for expert in range(config.num_experts):
            weight = op.slice(routed, ints(expert), ints(expert + 1), ints(1), ints(-1))
            given = op.multiply(self._matrices(x, f"{prefix}experts.{expert}."), weight)
            out = given if out is None else op.add(out, given)
        return out


def scaled(x: Node, factor: float) -> Node:
    """x times `factor`; x itself where that is 1."""
    return x if factor == 1.0 else op.multiply(x, number(factor))


def softcapped(x: Node, cap: float | None) -> Node:
    """cap * tanh(x / cap); x itself without one."""
    return x if cap is None else op.multiply(op.tanh(op.divide(x, number(cap))), number(cap))
