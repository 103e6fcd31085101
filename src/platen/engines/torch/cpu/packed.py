"""The network in a form that only runs, on CPUs: few and large products, weights as the kernels read them.

PyTorch reorders a plain weight at every call, which for the few rows of a decoding batch takes longer than
the product itself. And every product is a barrier for the threads: queries, keys and values come out of one,
the two halves of the gated layer out of another. For a few rows, reading the weights is all the work: those
that 16 bits can hold, as published models' do, are kept in 16 while the sums are float32.
Letters in shapes as in `platen.models.arch.decoder`; I inputs, O outputs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from platen.engines.torch.cpu.kernels import Kernels, kernels_for, pack_weight
from platen.models.arch.cache import Cache
from platen.models.arch.decoder import Decoder, DecoderLayer
from platen.models.arch.layers import RMSNorm
from platen.models.arch.rope import rotate

_ROWS = 8
"""Rows that the layout is made for. With this one a row's result does not depend on how many there are..."""
_LONG_ROW = 1024
"""...but for a single row of more inputs than this, which oneDNN sums up in another order."""
_MANY = 16
"""Tokens of a prompt from which on it pays to turn all keys for them."""


class PackedLinear(nn.Module):
    """x (…, I) times the transpose of a weight (O, I), without bias; plus `added` (…, O) if given."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._long = weight.shape[1] > _LONG_ROW
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        if self._long and x.numel() == x.shape[-1]:
            twice = self._product(torch.cat((x, x)), None if added is None else torch.cat((added, added)))
            return twice[:1].view(*x.shape[:-1], -1)
        return self._product(x, added)

    def _product(self, x: Tensor, added: Tensor | None) -> Tensor:
        product = torch.ops.mkldnn._linear_pointwise
        if added is None:
            return product.default(x, self._packed, None, "none", [], "")  # type: ignore[no-any-return]
        return product.binary(x, added, self._packed, None, "add")  # type: ignore[no-any-return]


class Float16Linear(nn.Module):
    """The same with the weight stored in float16, for float32 inputs: products and sums are float32's.

    A row's result does not depend on how many there are.
    """

    LOSS = 2.0**-25
    """What a weight may lose, half of float16's smallest step: less than float32 rounds off a sum near 1."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.detach(), None)

    @classmethod
    def can_hold(cls, weight: Tensor) -> bool:
        """Whether float16 can hold the weight. True of bfloat16's values, but for enormous ones."""
        if weight.dtype != torch.float32 or "fbgemm" not in torch.backends.quantized.supported_engines:
            return False
        return bool((weight.half().float() - weight).abs().max() <= cls.LOSS)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16.default(x, self._packed)
        return product if added is None else product.add_(added)


class BFloat16Linear(nn.Module):
    """The same for a weight of bfloat16's values, by our own kernel."""

    def __init__(self, weight: Tensor, kernels: Kernels) -> None:
        super().__init__()
        self._kernels, self._outputs = kernels, weight.shape[0]
        self._packed = pack_weight(weight.detach())

    @classmethod
    def can_hold(cls, weight: Tensor) -> bool:
        return weight.dtype == torch.float32 and torch.equal(weight.bfloat16().float(), weight)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        return self._kernels.product(x, self._packed, self._outputs, added)


def packed_linear(weight: Tensor, kernels: Kernels | None = None) -> nn.Module:
    """The fastest layer for a weight (O, I) that multiplies as exactly as the plain one."""
    weight = weight.detach()
    if kernels is not None and BFloat16Linear.can_hold(weight):
        return BFloat16Linear(weight, kernels)
    return Float16Linear(weight) if Float16Linear.can_hold(weight) else PackedLinear(weight)


class PackedNorm(nn.Module):
    """RMSNorm in one pass or, without kernels, in four operations; PyTorch composes its own of eight."""

    def __init__(self, norm: RMSNorm, kernels: Kernels | None) -> None:
        super().__init__()
        self._gain = norm.weight.detach()
        self._eps, self._eps_tensor = norm.eps, torch.tensor(norm.eps)
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        if self._kernels is not None:
            return self._kernels.rms_norm(x, self._gain, self._eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self._eps_tensor, length, length, value=1 / x.shape[-1]).rsqrt_()
        return (x * scale).mul_(self._gain).to(x.dtype)


class PackedLayer(nn.Module):
    """What `DecoderLayer` computes."""

    def __init__(self, layer: DecoderLayer, kernels: Kernels | None) -> None:
        super().__init__()
        self._kernels = kernels
        attention, mlp = layer.self_attn, layer.mlp
        self._layer, self._head_dim = attention.layer, attention.head_dim
        queries, keys = attention.q_proj.out_features, attention.k_proj.out_features
        self._heads = (queries // self._head_dim, keys // self._head_dim)
        self._before_attention = PackedNorm(layer.input_layernorm, kernels)
        self._before_mlp = PackedNorm(layer.post_attention_layernorm, kernels)
        self.qkv = packed_linear(
            torch.cat((attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)), kernels
        )
        self.out = packed_linear(attention.o_proj.weight, kernels)
        self.gate_up = packed_linear(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)), kernels)
        self.down = packed_linear(mlp.down_proj.weight, kernels)
        inner = mlp.gate_proj.out_features
        self.projections: dict[str, tuple[nn.Module, slice]] = {
            "self_attn.q_proj": (self.qkv, slice(0, queries)),
            "self_attn.k_proj": (self.qkv, slice(queries, queries + keys)),
            "self_attn.v_proj": (self.qkv, slice(queries + keys, None)),
            "self_attn.o_proj": (self.out, slice(None)),
            "mlp.gate_proj": (self.gate_up, slice(0, inner)),
            "mlp.up_proj": (self.gate_up, slice(inner, None)),
            "mlp.down_proj": (self.down, slice(None)),
        }

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, causal: bool, cache: Cache | None
    ) -> Tensor:
        qkv = self.qkv(self._before_attention(x))
        if self._kernels is None or cache is None:
            y = self._attention(*self._split(qkv, cos, sin, cache), mask, causal)
        else:
            y = self._with_kernels(self._kernels, qkv, cos, sin, mask, cache)
        x = self.out(y, x)
        return self.down(self._gated(self.gate_up(self._before_mlp(x))), x)  # type: ignore[no-any-return]

    def _with_kernels(
        self, kernels: Kernels, qkv: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: Cache
    ) -> Tensor:
        """From queries, keys and values side by side to the heads' outputs, (B, T, H * D)."""
        tokens = qkv.shape[1]
        keys, values, starts = cache.room(self._layer, tokens)
        queries = kernels.rotate_and_keep(qkv, cos, sin, keys, values, starts)
        if mask is not None and mask.dim() == 4 and not cache.ragged:  # padding: not just what comes before
            end = cache.length + tokens
            return self._attention(queries, keys[:, :, :end], values[:, :, :end], mask, causal=False)
        if cache.ragged or tokens < _MANY:
            return kernels.attend(queries, keys, values, starts)
        return kernels.attend_prompt(queries, keys, values, cache.length)

    def _split(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D) and all keys and values (B, K, S, D)."""
        rows, tokens, _ = qkv.shape
        queries, keys = self._heads
        heads = qkv.view(rows, tokens, queries + 2 * keys, self._head_dim).transpose(1, 2)
        turned = rotate(heads[:, : queries + keys], cos, sin)
        q, k, v = turned[:, :queries], turned[:, queries:], heads[:, queries + keys :]
        return (q, k, v) if cache is None else (q, *cache.update(self._layer, k, v))

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """(B, T, H * D)."""
        rows, heads, tokens, size = q.shape
        if tokens == 1:  # the heads of a group look at the same keys: as rows of one product
            q = q.reshape(rows, k.shape[1], -1, size)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(rows, 1, -1)
        grouped = heads != k.shape[1]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
        return y.transpose(1, 2).reshape(rows, tokens, -1)

    def _gated(self, gate_up: Tensor) -> Tensor:
        if self._kernels is not None:
            return self._kernels.gated(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)


def can_pack(model: Decoder) -> bool:
    """Whether the layers of a model can be packed, or those beside a packed model's."""
    weight = model.model.embed_tokens.weight
    on_cpu = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    return on_cpu and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def pack(model: Decoder) -> None:
    """Exchange the model's layers for packed ones. It can then be neither trained nor saved.

    A tied output layer becomes a matrix of its own, so memory grows by the embedding's size.
    """
    layers = model.model.layers
    in_float32 = model.model.embed_tokens.weight.dtype == torch.float32
    kernels = kernels_for(model.config) if in_float32 else None

    def packed_layer(layer: nn.Module) -> PackedLayer:
        assert isinstance(layer, DecoderLayer)
        return PackedLayer(layer, kernels)

    # Layer beside layer: within one weight, threads wait for each other 200 times over, which on a busy
    # machine takes 5 times as long as the work.
    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="platen-pack") as pool:
        output = pool.submit(packed_linear, model.output_weight, kernels)
        for number, layer in enumerate(pool.map(packed_layer, layers)):
            layers[number] = layer
        model.packed_output = output.result()
    model.model.norm = PackedNorm(model.model.norm, kernels)  # type: ignore[assignment]


def projection(model: Decoder, name: str) -> tuple[nn.Module, slice]:
    """The module that computes a projection, such as `model.layers.0.mlp.up_proj`, and which of its outputs.

    The module's first argument is the projection's input.
    """
    *parents, layer_number, block, short = name.split(".")
    layer = model.get_submodule(".".join((*parents, layer_number)))
    if isinstance(layer, PackedLayer):
        return layer.projections[f"{block}.{short}"]
    return model.get_submodule(name), slice(None)
