"""LoRA adapters over one set of base weights: rows of different adapters, and of none, share a step.

Adapters stay unmerged. Those whose ranks add up to a few dozen share a bin, whose matrices lie side by side:
one matmul computes all rows for all of a bin's adapters, a mask keeps each row's own adapter, and a second
matmul adds the result (after Punica, Chen et al. 2023, and S-LoRA, Sheng et al. 2023, whose gathering kernels
take longer on a CPU than the few numbers that are masked here). A row's numbers don't depend on the others'.
Letters in shapes: B rows, T tokens, I inputs, O outputs, r ranks of a bin together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from platen.engines.torch.cpu.packed import PackedLinear, can_pack, projection
from platen.models.adapter import Adapter, read_adapter
from platen.models.arch.decoder import Decoder
from platen.models.arch.parameters import projection_shapes

BIN_RANK = 64
"""Ranks that share a bin. Each costs every row a little; each further bin costs a step two more matmuls."""


class AdapterSet:
    """The adapters that a model can apply, and which of them the next forward pass applies."""

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self._packs = can_pack(model, model.dtype)
        self._bins: list[_Bin] = []
        self._hooks: list[RemovableHandle] = []
        self._one: Adapter | None = None
        self._many: list[tuple[_Bin, Tensor]] = []

    def read(self, folder: Path) -> Adapter:
        """An adapter from its folder, for this model. Raises BundleError."""
        model = self._model
        device = model.model.embed_tokens.weight.device
        return read_adapter(folder, model.config, dtype=model.dtype, device=device)

    @torch.inference_mode()
    def keep(self, adapters: Sequence[Adapter]) -> None:
        """Keep these ready and drop all others."""
        bins = []
        for bin in self._bins:
            stay = [adapter for adapter in bin.adapters if adapter in adapters]
            if len(stay) == len(bin.adapters):
                bins.append(bin)
            elif stay:
                bins.append(_Bin(stay, self._packs))
        there = {adapter for bin in bins for adapter in bin.adapters}
        for adapter in adapters:
            if adapter not in there:
                slot = next((i for i, b in enumerate(bins) if b.rank + adapter.rank <= BIN_RANK), None)
                if slot is None:
                    bins.append(_Bin([adapter], self._packs))
                else:
                    bins[slot] = _Bin([*bins[slot].adapters, adapter], self._packs)
        self._bins = bins
        self._watch(bool(bins))

    @property
    def size_bytes(self) -> int:
        return sum(adapter.size_bytes for bin in self._bins for adapter in bin.adapters)

    @contextmanager
    def decoding(self, rows: Sequence[Adapter | None]) -> Iterator[None]:
        """Within, row i of a forward pass has the adapter `rows[i]`."""
        if any(rows):
            self._many = [(bin, bin.mask(rows)) for bin in self._bins if bin.has_any(rows)]
        try:
            yield
        finally:
            self._many = []

    @contextmanager
    def prefilling(self, adapter: Adapter | None) -> Iterator[None]:
        """Within, all tokens have the adapter: many rows, for which unpacked matrices are as fast."""
        self._one = adapter
        try:
            yield
        finally:
            self._one = None

    def _watch(self, watch: bool) -> None:
        """Hook the projections, or remove the hooks: without adapters a step costs nothing more."""
        if watch == bool(self._hooks):
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if watch:
            for name in projection_shapes(self._model.config):
                module, slot = projection(self._model, name)
                self._hooks.append(module.register_forward_hook(self._adder(name, slot)))

    def _adder(self, name: str, slot: slice) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            x, own = arguments[0], output[..., slot]
            if self._one is not None and (pair := self._one.weights.get(name)) is not None:
                a, b = pair
                own.add_(F.linear(F.linear(x, a), b))
            for bin, mask in self._many:
                if (layer := bin.layers.get(name)) is not None:
                    narrow, wide = layer
                    own.add_(wide(narrow(x).mul_(mask)))

        return add


Linear = Callable[[Tensor], Tensor]


class _Bin:
    """Adapters whose matrices lie together: A (r, I) one below the other, B (O, r) side by side."""

    def __init__(self, adapters: Sequence[Adapter], packs: bool) -> None:
        self.adapters = list(adapters)
        self.rank = sum(adapter.rank for adapter in adapters)
        self._slots: dict[Adapter, slice] = {}
        start = 0
        for adapter in adapters:
            self._slots[adapter] = slice(start, start + adapter.rank)
            start += adapter.rank
        self.layers: dict[str, tuple[Linear, Linear]] = {}
        for name in sorted({name for adapter in adapters for name in adapter.weights}):
            a, b = self._side_by_side(name)
            pack = PackedLinear if packs else lambda weight: partial(F.linear, weight=weight)
            self.layers[name] = (pack(a), pack(b))

    def has_any(self, rows: Sequence[Adapter | None]) -> bool:
        return any(row in self._slots for row in rows)

    def mask(self, rows: Sequence[Adapter | None]) -> Tensor:
        """(B, 1, r): of each row, 1 at its own adapter's ranks."""
        like = next(iter(self.adapters[0].weights.values()))[0]
        mask = torch.zeros(len(rows), 1, self.rank, dtype=like.dtype, device=like.device)
        for index, row in enumerate(rows):
            if row in self._slots:
                mask[index, 0, self._slots[row]] = 1
        return mask

    def _side_by_side(self, name: str) -> tuple[Tensor, Tensor]:
        """The (r, I) and (O, r) matrices of a projection, 0 where an adapter leaves it alone."""
        a, b = next(adapter.weights[name] for adapter in self.adapters if name in adapter.weights)
        narrow = a.new_zeros(self.rank, a.shape[1])
        wide = b.new_zeros(b.shape[0], self.rank)
        for adapter, slot in self._slots.items():
            if name in adapter.weights:
                own_a, own_b = adapter.weights[name]
                narrow[slot.start : slot.start + own_a.shape[0]] = own_a
                wide[:, slot.start : slot.start + own_b.shape[1]] = own_b
        return narrow, wide
