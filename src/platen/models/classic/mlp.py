"""A multilayer perceptron: linear layers with a nonlinearity between them."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

Activation = Literal["sigmoid", "tanh", "relu", "elu", "silu"]
_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}


class MLP(nn.Module):
    """(B, inputs) to (B, outputs) through `hidden_layers` layers of `hidden` units; with 0 it is linear.

    `softmax` gives probabilities; leave it off to train with cross-entropy, which takes logits.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int = 2,
        outputs: int = 3,
        *,
        hidden_layers: int = 1,
        activation: Activation = "sigmoid",
        softmax: bool = False,
    ) -> None:
        super().__init__()
        widths = [inputs] + [hidden] * hidden_layers
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), _ACTIVATIONS[activation]()]
        layers.append(nn.Linear(widths[-1], outputs))
        if softmax:
            layers.append(nn.Softmax(dim=-1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]
