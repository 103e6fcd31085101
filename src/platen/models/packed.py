"""Linear layers whose weights lie in memory as oneDNN reads them: for models that only run, on CPUs.

PyTorch reorders a plain weight at every call, which for the few rows of a decoding batch takes longer than
the product itself: reordered once, a float32 product of 8 rows is 2 to 4 times as fast.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from platen.models.llama import Llama

_ROWS = 8
"""Rows that the layout is made for. With this one a row's result does not depend on how many there are..."""
_LONG_ROW = 1024
"""...but for a single row of more inputs than this, which oneDNN sums up in another order."""


class PackedLinear(nn.Module):
    """x (…, I) times the transpose of a weight (O, I), without bias."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._long = weight.shape[1] > _LONG_ROW
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)

    def forward(self, x: Tensor) -> Tensor:
        if self._long and x.numel() == x.shape[-1]:
            return self._product(torch.cat((x, x)))[:1].view(*x.shape[:-1], -1)
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")  # type: ignore[no-any-return]


def can_pack(model: Llama) -> bool:
    """Whether the layers of a model can be packed, or those beside a packed model's."""
    weight = model.model.embed_tokens.weight
    on_cpu = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    return on_cpu and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def pack(model: Llama) -> None:
    """Exchange the model's linear layers for packed ones. It can then be neither trained nor saved.

    A tied output layer becomes a matrix of its own, so memory grows by the embedding's size.
    """
    linears = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    weights = [model.output_weight, *(child.weight for *_, child in linears)]
    # Weight beside weight: within one, threads wait for each other 200 times over, which on a busy machine
    # takes 5 times as long as the work.
    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="platen-pack") as pool:
        model.packed_output, *packed = pool.map(PackedLinear, weights)
    for (parent, name, _), layer in zip(linears, packed, strict=True):
        setattr(parent, name, layer)
