"""Layers for inference on CPUs: few and large matmuls, with weights in the layout of the kernels.

PyTorch reorders a plain weight at every call, which for the few rows of a decoding batch takes longer than
the matmul. And every matmul is a barrier for the threads: queries, keys and values come out of one, gate and
up out of another. Decoding is bound by the memory traffic of the weights: those that 16 bits can hold, as
published models' do, are stored in 16 while the sums are float32. Letters in shapes as in
`platen.models.arch.decoder`; I inputs, O outputs.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from platen.core.cpu import features
from platen.engines.torch.cpu.kernels import NO_WINDOW, Kernels, Scoring, kernels_for, pack_weight
from platen.models.arch.attention import Angles, Attention, Visible, attend
from platen.models.arch.cache import Cache
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder, DecoderLayer
from platen.models.arch.layers import ACTIVATIONS, FeedForward, MixtureOfExperts, RMSNorm
from platen.models.arch.rope import rotate

_ROWS = 8
"""Rows that the layout is made for. With 8 a row's result does not depend on how many there are..."""
_LONG_ROW = 1024
"""...but for a single row of more inputs than this, which oneDNN sums up in another order."""
_MANY = 16
"""Tokens of a prompt from which on it pays to transpose all keys."""


class PackedLinear(nn.Module):
    """x (…, I) times the transpose of a weight (O, I), plus a bias (O) if it has one, plus `added` (…, O)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self._bias = bias
        self._long = weight.shape[1] > _LONG_ROW
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        if self._long and x.numel() == x.shape[-1]:
            twice = self._matmul(torch.cat((x, x)), None if added is None else torch.cat((added, added)))
            return twice[:1].view(*x.shape[:-1], -1)
        return self._matmul(x, added)

    def _matmul(self, x: Tensor, added: Tensor | None) -> Tensor:
        matmul = torch.ops.mkldnn._linear_pointwise
        if added is None:
            return matmul.default(x, self._packed, self._bias, "none", [], "")  # type: ignore[no-any-return]
        return matmul.binary(x, added, self._packed, self._bias, "add")  # type: ignore[no-any-return]


class Float16Linear(nn.Module):
    """The same with the weight stored in float16, for float32 inputs: matmuls are float32's.

    A row's result does not depend on how many there are, where the processor has AVX-512: FBGEMM's kernels
    for AVX2 sum the last one or two rows of some counts in another order.
    """

    usable = "fbgemm" in torch.backends.quantized.supported_engines and "avx512f" in features()
    LOSS = 2.0**-25
    """What a weight may lose, half of float16's smallest step: less than float32 rounds off a sum near 1."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.detach(), bias)

    @classmethod
    def can_hold(cls, weight: Tensor) -> bool:
        """Whether float16 can hold the weight. True of bfloat16's values, except very large ones."""
        if weight.dtype != torch.float32 or not cls.usable:
            return False
        return bool((weight.half().float() - weight).abs().max() <= cls.LOSS)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        matmul: Tensor = torch.ops.quantized.linear_dynamic_fp16.default(x, self._packed)
        return matmul if added is None else matmul.add_(added)


class BFloat16Linear(nn.Module):
    """The same for a weight of bfloat16's values, by our own kernel."""

    def __init__(self, weight: Tensor, kernels: Kernels, bias: Tensor | None = None) -> None:
        super().__init__()
        self._kernels, self._outputs, self._bias = kernels, weight.shape[0], bias
        self._packed = pack_weight(weight.detach())

    @classmethod
    def can_hold(cls, weight: Tensor) -> bool:
        if weight.dtype == torch.bfloat16:
            return True
        return weight.dtype == torch.float32 and torch.equal(weight.bfloat16().float(), weight)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        matmul = self._kernels.matmul(x, self._packed, self._outputs, added)
        return matmul if self._bias is None else matmul.add_(self._bias)


def packed_linear(
    weight: Tensor, dtype: torch.dtype, kernels: Kernels | None = None, bias: Tensor | None = None
) -> nn.Module:
    """The fastest layer for inputs of `dtype` that is as exact as the plain one of a weight (O, I)."""
    weight, bias = weight.detach(), None if bias is None else bias.detach().to(dtype)
    if kernels is not None and BFloat16Linear.can_hold(weight):
        return BFloat16Linear(weight, kernels, bias)
    weight = weight.to(dtype)
    return Float16Linear(weight, bias) if Float16Linear.can_hold(weight) else PackedLinear(weight, bias)


def side_by_side(linears: list[nn.Linear], dtype: torch.dtype, kernels: Kernels | None) -> nn.Module:
    """Several layers of the same inputs as one, with their outputs concatenated."""
    weight = torch.cat(tuple(linear.weight for linear in linears))
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    return packed_linear(weight, dtype, kernels, torch.cat(biases) if biases else None)


class PackedNorm(nn.Module):
    """RMSNorm in one pass or, without kernels, in four operations; PyTorch composes its own of eight."""

    def __init__(self, norm: RMSNorm, dtype: torch.dtype, kernels: Kernels | None) -> None:
        super().__init__()
        gain = norm.gain.detach()
        self.gain = gain.to(torch.promote_types(gain.dtype, dtype))
        self.eps, self._eps_tensor = norm.eps, torch.tensor(norm.eps)
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        if self._kernels is not None and x.is_contiguous():
            return self._kernels.rms_norm(x, self.gain, self.eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self._eps_tensor, length, length, value=1 / x.shape[-1]).rsqrt_()
        return (x * scale).mul_(self.gain).to(x.dtype)


def packed_norm(norm: nn.Module | None, dtype: torch.dtype, kernels: Kernels | None) -> nn.Module | None:
    """PyTorch's LayerNorm is one operation already."""
    if isinstance(norm, RMSNorm):
        return PackedNorm(norm, dtype, kernels)
    return None if norm is None else copy.deepcopy(norm).to(dtype)


class PackedEmbedding(nn.Module):
    """Rows, in `dtype`, of a table (V, C) that keeps its own: only those that are used are converted."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.dtype = weight.detach().clone(), dtype  # or all of the mapped file would stay

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).to(self.dtype)


class PackedFeedForward(nn.Module):
    """What `FeedForward` computes, plus `added` if given."""

    def __init__(
        self, mlp: FeedForward, config: DecoderConfig, dtype: torch.dtype, kernels: Kernels | None
    ) -> None:
        super().__init__()
        gated = mlp.gate_proj is not None
        self.inner = mlp.up_proj.out_features
        self.up = side_by_side([*([mlp.gate_proj] if mlp.gate_proj else []), mlp.up_proj], dtype, kernels)
        self.down = packed_linear(mlp.down_proj.weight, dtype, kernels, mlp.down_proj.bias)
        self._gated, self._activation = gated, ACTIVATIONS[config.activation]
        self._gelu = config.activation == "gelu_tanh"
        has_kernel = gated and config.activation in ("silu", "gelu_tanh") and self.inner % 16 == 0
        self._kernels = kernels if has_kernel else None

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        return self.down(self._activated(self.up(x)), added)  # type: ignore[no-any-return]

    def _activated(self, up: Tensor) -> Tensor:
        if self._kernels is not None:
            return self._kernels.gated(up, gelu=self._gelu)
        if not self._gated:
            return self._activation(up)
        gate, up = up.chunk(2, dim=-1)
        return self._activation(gate).mul_(up)


def packed_experts(
    mlp: MixtureOfExperts, config: DecoderConfig, dtype: torch.dtype, kernels: Kernels | None
) -> nn.Module:
    """The same mixture with its router and experts packed."""
    packed = copy.copy(mlp)
    experts = [
        PackedFeedForward(expert, config, dtype, kernels)  # type: ignore[arg-type]
        for expert in mlp.experts
    ]
    packed._modules = {
        "gate": packed_linear(mlp.gate.weight, dtype, kernels),
        "experts": nn.ModuleList(experts),
    }
    return packed


class PackedLayer(nn.Module):
    """What `DecoderLayer` computes, in `dtype` whatever its weights have."""

    def __init__(
        self, layer: DecoderLayer, config: DecoderConfig, dtype: torch.dtype, kernels: Kernels | None
    ) -> None:
        super().__init__()
        self._kernels = kernels
        attention, mlp = layer.self_attn, layer.mlp
        self._attention_of(attention, config, dtype, kernels)
        norms = [None if norm is None else packed_norm(norm, dtype, kernels) for norm in layer.norms]
        self._before_attention, self._after_attention, self._before_mlp, self._after_mlp = norms
        self._parallel, self._multiplier = layer.parallel, layer.multiplier
        self.mlp: nn.Module
        if isinstance(mlp, FeedForward):
            self.mlp = PackedFeedForward(mlp, config, dtype, kernels)
            gate = self.mlp.inner if mlp.gate_proj is not None else 0
            self.projections["mlp.gate_proj"] = (self.mlp.up, slice(0, gate))
            self.projections["mlp.up_proj"] = (self.mlp.up, slice(gate, None))
            self.projections["mlp.down_proj"] = (self.mlp.down, slice(None))
        else:
            assert isinstance(mlp, MixtureOfExperts)
            self.mlp = packed_experts(mlp, config, dtype, kernels)

    def _attention_of(
        self, attention: Attention, config: DecoderConfig, dtype: torch.dtype, kernels: Kernels | None
    ) -> None:
        self._layer, self._head_dim = attention.layer, attention.head_dim
        queries, keys = config.query_size, config.key_size
        self._sizes = (queries, keys)
        self._scale, self._window, self._softcap = attention.scale, attention.window, attention.softcap
        self._scoring = Scoring(attention.scale, attention.softcap or 0.0, attention.window or NO_WINDOW)
        # Kernels normalise single heads; the heads of a projection together are as wide as any norm.
        by_projection = kernels if not (queries | keys) % 16 else None
        own = None if attention.norm_by_head else by_projection
        self._query_norm = packed_norm(attention.q_norm, dtype, own)
        self._key_norm = packed_norm(attention.k_norm, dtype, own)
        self._norm_by_head = attention.norm_by_head
        self.qkv = side_by_side([attention.q_proj, attention.k_proj, attention.v_proj], dtype, kernels)
        self.out = packed_linear(attention.o_proj.weight, dtype, kernels, attention.o_proj.bias)
        self.projections: dict[str, tuple[nn.Module, slice]] = {
            "self_attn.q_proj": (self.qkv, slice(0, queries)),
            "self_attn.k_proj": (self.qkv, slice(queries, queries + keys)),
            "self_attn.v_proj": (self.qkv, slice(queries + keys, None)),
            "self_attn.o_proj": (self.out, slice(None)),
        }

    def forward(self, x: Tensor, angles: Angles | None, visible: Visible, cache: Cache | None) -> Tensor:
        qkv = self.qkv(_normal(self._before_attention, x))
        if self._query_norm is not None and not self._norm_by_head:
            self._normalise_projections(qkv)
        if self._kernels is None or cache is None:
            y = self._joined(self._split(qkv, angles, cache), visible)
        else:
            y = self._with_kernels(self._kernels, qkv, angles, visible, cache)
        attended = self._added(self.out, y, x, self._after_attention)
        before = x if self._parallel else attended
        return self._added(self.mlp, _normal(self._before_mlp, before), attended, self._after_mlp)

    def _added(self, branch: nn.Module, y: Tensor, x: Tensor, norm: nn.Module | None) -> Tensor:
        """x plus what a branch gives for y; in one go where nothing is done to it before."""
        if norm is None and self._multiplier == 1.0 and not isinstance(branch, MixtureOfExperts):
            return branch(y, x)  # type: ignore[no-any-return]
        out = _normal(norm, branch(y))
        return x + (out if self._multiplier == 1.0 else out * self._multiplier)

    def _normalise_projections(self, qkv: Tensor) -> None:
        queries, keys = self._sizes
        for norm, first, size in ((self._query_norm, 0, queries), (self._key_norm, queries, keys)):
            assert norm is not None
            part = qkv[..., first : first + size]
            part.copy_(norm(part.contiguous()))

    def _with_kernels(
        self, kernels: Kernels, qkv: Tensor, angles: Angles | None, visible: Visible, cache: Cache
    ) -> Tensor:
        """From concatenated queries, keys and values to the heads' outputs, (B, T, H * D)."""
        tokens = qkv.shape[1]
        keys, values, starts = cache.room(self._layer, tokens)
        gains, eps = None, 0.0
        if isinstance(self._query_norm, PackedNorm) and self._norm_by_head:
            assert isinstance(self._key_norm, PackedNorm)
            gains, eps = (self._query_norm.gain, self._key_norm.gain), self._query_norm.eps
        queries = kernels.rotate_and_keep(qkv, angles, keys, values, starts, gains, eps)
        if visible.padded:  # not just what comes before
            end = cache.length + tokens
            return self._joined((queries, keys[:, :, :end], values[:, :, :end]), visible)
        if cache.ragged or tokens < _MANY:
            return kernels.attend(queries, keys, values, starts, self._scoring)
        return kernels.attend_prompt(queries, keys, values, cache.length, self._scoring)

    def _split(
        self, qkv: Tensor, angles: Angles | None, cache: Cache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D) and all keys and values (B, K, S, D)."""
        sizes = [*self._sizes, self._sizes[1]]
        q, k, v = (part.view(*part.shape[:2], -1, self._head_dim) for part in torch.split(qkv, sizes, -1))
        if self._query_norm is not None and self._key_norm is not None and self._norm_by_head:
            q, k = self._query_norm(q), self._key_norm(k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        return (q, k, v) if cache is None else (q, *cache.update(self._layer, k, v))

    def _joined(self, qkv: tuple[Tensor, Tensor, Tensor], visible: Visible) -> Tensor:
        """(B, T, H * D)."""
        y = attend(*qkv, visible, scale=self._scale, window=self._window, softcap=self._softcap)
        return y.transpose(1, 2).flatten(2)


def _normal(norm: nn.Module | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def can_pack(model: Decoder, dtype: torch.dtype) -> bool:
    """Whether the layers of a model can be packed to compute in `dtype`, or those beside a packed model's."""
    on_cpu = model.model.embed_tokens.weight.device.type == "cpu"
    if not on_cpu or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(has_bfloat16()))


def usable_kernels(config: DecoderConfig, dtype: torch.dtype) -> Kernels | None:
    """The compiled kernels, if they compute in `dtype` and the network's sizes."""
    return kernels_for(config) if dtype == torch.float32 else None


def projection(model: Decoder, name: str) -> tuple[nn.Module, slice]:
    """The module that computes a projection, such as `model.layers.0.mlp.up_proj`, and which of its outputs.

    The module's first argument is the projection's input.
    """
    *parents, layer_number, block, short = name.split(".")
    layer = model.get_submodule(".".join((*parents, layer_number)))
    if isinstance(layer, PackedLayer):
        return layer.projections[f"{block}.{short}"]
    return model.get_submodule(name), slice(None)
