"""Norms and feed-forward layers of a decoder. Letters in shapes as in `platen.models.arch.decoder`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from platen.models.arch.config import Activation, DecoderConfig


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that the projections come out in, so that rotating them doesn't widen them again."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


class RMSNorm(nn.Module):
    """Root mean square layer normalisation (Zhang and Sennrich, 2019): one gain a feature, no shift.

    The gain is `offset` plus the weight.
    """

    def __init__(self, size: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), 1 - offset))
        self.eps, self.offset = eps, offset

    @property
    def gain(self) -> Tensor:
        """In float32 where something is added: bfloat16 near 1 would lose most of a small weight."""
        return self.weight.float() + self.offset if self.offset else self.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.offset:
            normal = F.rms_norm(x.float(), self.weight.shape, self.gain, self.eps)
        else:
            normal = F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return normal.to(compute_dtype(x))  # once, not in each of the projections that read it


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al., 2016), with a shift."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normal = F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return normal.to(compute_dtype(x))


def make_norm(config: DecoderConfig) -> RMSNorm | LayerNorm:
    """A norm of the residual stream."""
    if config.norm == "layer":
        return LayerNorm(config.hidden_size, config.norm_eps)
    return RMSNorm(config.hidden_size, config.norm_eps, config.norm_offset)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
}


class FeedForward(nn.Module):
    """Two matrices with an activation between them, or three: gated (Shazeer, "GLU Variants", 2020)."""

    def __init__(self, config: DecoderConfig, inner: int | None = None, *, bias: bool | None = None) -> None:
        super().__init__()
        inner = config.intermediate_size if inner is None else inner
        bias = config.mlp_bias if bias is None else bias
        self.gate_proj = nn.Linear(config.hidden_size, inner, bias=bias) if config.gated_mlp else None
        self.up_proj = nn.Linear(config.hidden_size, inner, bias=bias)
        self.down_proj = nn.Linear(inner, config.hidden_size, bias=bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_proj is None:
            return self.down_proj(self.activation(self.up_proj(x)))  # type: ignore[no-any-return]
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class MixtureOfExperts(nn.Module):
    """Each token goes through the few experts that a router chooses for it (Shazeer et al., 2017).

    Their outputs are weighed by the router's probabilities, which with `norm_topk_prob` are made to add up
    to 1.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        inner = config.moe_intermediate_size
        self.experts = nn.ModuleList(
            FeedForward(config, inner, bias=False) for _ in range(config.num_experts)
        )
        self.chosen, self.normalise = config.num_experts_per_tok, config.norm_topk_prob

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        probabilities = self.gate(tokens).softmax(dim=-1, dtype=torch.float32)
        weights, experts = probabilities.topk(self.chosen, dim=-1)  # (tokens, chosen)
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        weights = weights.to(x.dtype)
        out = torch.zeros_like(tokens)
        for number in experts.unique().tolist():
            token, rank = (experts == number).nonzero(as_tuple=True)
            out.index_add_(0, token, self.experts[number](tokens[token]) * weights[token, rank, None])
        return out.view_as(x)
