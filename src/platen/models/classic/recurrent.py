"""Recurrent networks with their cells written out: Elman's RNN and the LSTM.

`Recurrent` is layers of them, in one direction or both, under the names that PyTorch gives its own layers'
weights, so either takes the other's. Letters in shapes: B rows, T steps, C inputs, H hidden units.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cell = Literal["rnn", "lstm"]
State = tuple[Tensor, Tensor]
"""(layers × directions, B, H) each: hidden state and memory; an RNN leaves the memory as it is."""


def rnn_step(projected: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """tanh(Wx + b + Uh + c); `projected` (B, H) is Wx + b, `weight` U (H, H), `bias` c."""
    return torch.tanh(projected + F.linear(hidden, weight, bias))


def lstm_step(projected: Tensor, state: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor) -> State:
    """One step of Hochreiter and Schmidhuber's LSTM with a forget gate; `projected` (B, 4H) is Wx + b.

    The four parts are the gates of input and forgetting, what is to be remembered, and the gate of output.
    """
    hidden, memory = state
    put, keep, new, show = (projected + F.linear(hidden, weight, bias)).chunk(4, dim=-1)
    memory = torch.sigmoid(keep) * memory + torch.sigmoid(put) * torch.tanh(new)
    return torch.sigmoid(show) * torch.tanh(memory), memory


class Recurrent(nn.Module):
    """Layers of one kind of cell over rows that may differ in length."""

    def __init__(
        self,
        cell: Cell,
        inputs: int,
        hidden: int,
        *,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """`dropout` acts in train mode on what a layer gives to the next."""
        super().__init__()
        self.cell, self.hidden, self.layers, self.dropout = cell, hidden, layers, dropout
        self.directions = 2 if bidirectional else 1
        rows = hidden * (4 if cell == "lstm" else 1)
        for layer in range(layers):
            width = inputs if layer == 0 else hidden * self.directions
            for suffix in self._suffixes(layer):
                shapes = {
                    "weight_ih": (rows, width),
                    "weight_hh": (rows, hidden),
                    "bias_ih": (rows,),
                    "bias_hh": (rows,),
                }
                for name, shape in shapes.items():
                    weight = torch.empty(shape).uniform_(-1, 1) / math.sqrt(hidden)
                    self.register_parameter(f"{name}{suffix}", nn.Parameter(weight))

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self.directions]

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """(B, T, C) to what the last layer gives (B, T, H × directions), and the state after each row's end.

        Steps from `lengths` (B,) on are padding: they give 0 and leave the state alone.
        """
        batch, steps = x.shape[:2]
        zeros = x.new_zeros(self.layers * self.directions, batch, self.hidden)
        hidden, memory = state or (zeros, zeros)
        real = None if lengths is None else (torch.arange(steps) < lengths[:, None])[..., None]
        ends: list[State] = []
        for layer in range(self.layers):
            given = []
            for direction, suffix in enumerate(self._suffixes(layer)):
                at = len(ends)
                out, end = self._run(x, suffix, direction == 1, (hidden[at], memory[at]), real)
                given.append(out)
                ends.append(end)
            x = torch.cat(given, dim=-1)
            if layer + 1 < self.layers:
                x = F.dropout(x, self.dropout, self.training)
        return x, (torch.stack([end[0] for end in ends]), torch.stack([end[1] for end in ends]))

    def _run(
        self, x: Tensor, suffix: str, backwards: bool, state: State, real: Tensor | None
    ) -> tuple[Tensor, State]:
        weights = (
            getattr(self, f"{name}{suffix}") for name in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")
        )
        input_weight, input_bias, weight, bias = weights
        projected = F.linear(x, input_weight, input_bias)
        given: list[Tensor] = []
        steps = range(x.shape[1])
        for t in reversed(steps) if backwards else steps:
            before, memory = state
            if self.cell == "lstm":
                after = lstm_step(projected[:, t], state, weight, bias)
            else:
                after = rnn_step(projected[:, t], before, weight, bias), memory
            if real is not None:
                now = real[:, t]
                after = torch.where(now, after[0], before), torch.where(now, after[1], memory)
            state = after
            given.append(after[0] if real is None else after[0] * real[:, t])
        return torch.stack(given[::-1] if backwards else given, dim=1), state
