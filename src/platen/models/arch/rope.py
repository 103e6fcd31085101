"""Rotary positions (Su et al., "RoFormer", 2021): frequencies of all scalings, tables, and the rotation.

Letters in shapes as in `platen.models.arch.decoder`; R: rotated dimensions of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from platen.models.arch.config import RopeScaling

FIRST_POSITIONS = 4096
"""Positions that tables begin with: for all of a window of 131,072 they would take hundreds of megabytes."""


def rope_frequencies(
    rotary_dim: int, theta: float, scaling: RopeScaling | None, *, long: bool = False
) -> Tensor:
    """Angle per position of each of the R / 2 pairs, float32.

    Pair i turns by theta^(-2i / R) a position, i from 0, which a scaling changes: see `RopeScaling`. `long`
    is for LongRoPE: whether the sequence is longer than the original context.
    """
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    # As models were trained: theta**-exponents differs in the last bit, which 100,000 positions multiply.
    frequencies = 1.0 / theta**exponents
    if scaling is None or scaling.kind == "dynamic":
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "longrope":
        return frequencies / torch.tensor(scaling.long_factors if long else scaling.short_factors)
    if scaling.kind == "yarn":
        kept = _kept_by_yarn(rotary_dim, theta, scaling)
    else:
        turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
        kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = kept.clamp(0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def _kept_by_yarn(rotary_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """How much of each pair's frequency is kept, before clamping: section 3.2 of the paper."""

    def pair_that_turns(times: float) -> float:
        wavelength = scaling.original_max_position_embeddings / (times * 2 * math.pi)
        return rotary_dim * math.log(wavelength) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    width = (last - first) or 0.001
    return 1 - (torch.arange(rotary_dim // 2, dtype=torch.float32) - first) / width


class RotaryTables(nn.Module):
    """Cosines and sines of the first positions, (positions, R), always float32; they grow as needed.

    The sines' first half is negative, as `rotate` wants them. `factor` multiplies both.
    They are no weights: casting the model leaves them in float32, because bfloat16 angles are wrong.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        frequencies: Callable[[], Tensor],
        rotary_dim: int,
        max_positions: int,
        *,
        factor: float = 1.0,
    ) -> None:
        super().__init__()
        self._frequencies, self._factor, self._max_positions = frequencies, factor, max_positions
        self._rotary_dim = rotary_dim
        self.reset(torch.get_default_device())

    def reset(self, device: torch.device) -> None:
        """Compute the tables anew on `device` (after a build on the meta device they are empty)."""
        self._compute(min(FIRST_POSITIONS, self._max_positions), device)

    def reach(self, positions: int) -> None:
        """Make sure that the tables hold so many positions, or as many as the network has."""
        held = self.cos.shape[0]
        if positions > held and held < self._max_positions:
            self._compute(min(max(positions, 2 * held), self._max_positions), self.cos.device)

    def _compute(self, positions: int, device: torch.device) -> None:
        if device.type == "meta":
            cos = sin = torch.empty(positions, self._rotary_dim, device=device)
        else:
            with torch.device("cpu"):
                angles = torch.outer(torch.arange(positions, dtype=torch.float32), self._frequencies())
                cos = (angles.cos() * self._factor).repeat(1, 2).to(device)
                sines = angles.sin() * self._factor
                sin = torch.cat((-sines, sines), dim=1).to(device)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotaryTables:
        before, positions = self.cos.device, self.cos.shape[0]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.cos.dtype != torch.float32 or self.cos.device != before:
            self._compute(positions, self.cos.device)
        return self


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + R/2) of x (B, H, T, D) by their angles: Hugging Face's half-split layout.

    Dimensions from R on are left as they are.
    """
    rotary_dim = cos.shape[-1]
    if rotary_dim < x.shape[-1]:
        return torch.cat((rotate(x[..., :rotary_dim], cos, sin), x[..., rotary_dim:]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.addcmul(x * cos, torch.cat((second, first), dim=-1), sin)
