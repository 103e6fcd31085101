"""Packed layers give what plain ones give, for any number of rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from platen.engines.torch.cpu.accelerate import accelerate
from platen.engines.torch.cpu.kernels import load_kernels
from platen.engines.torch.cpu.packed import BFloat16Linear, Float16Linear, PackedLinear
from platen.models.arch.decoder import Decoder


@pytest.mark.parametrize("published", [False, True], ids=["float32 weights", "bfloat16 weights"])
def test_a_packed_model_gives_the_same_logits(tiny_llama: Decoder, published: bool) -> None:
    model = copy.deepcopy(tiny_llama)
    if published:
        model.bfloat16().float()
    ids = torch.arange(1, 61).reshape(3, 20)
    with torch.inference_mode():
        expected = model(ids)
        assert accelerate(model)
        torch.testing.assert_close(model(ids), expected, atol=1e-5, rtol=1e-5)


needs_float16 = pytest.mark.skipif(not Float16Linear.usable, reason="no FBGEMM for AVX-512")


def bfloat16_linear(weight: torch.Tensor) -> BFloat16Linear:
    kernels = load_kernels()
    if kernels is None:
        pytest.skip("no C++ compiler")
    return BFloat16Linear(weight, kernels)


@pytest.mark.parametrize(
    "kind", [PackedLinear, pytest.param(Float16Linear, marks=needs_float16), bfloat16_linear]
)
@pytest.mark.parametrize(("outputs", "inputs"), [(1536, 576), (576, 1536), (16, 2048), (64, 32), (4096, 192)])
def test_a_row_is_the_same_in_any_company(
    kind: Callable[[torch.Tensor], nn.Module], outputs: int, inputs: int
) -> None:
    """Or a seeded request would read otherwise in a full batch."""
    torch.manual_seed(0)
    layer = kind(torch.randn(outputs, inputs).bfloat16().float())
    x, added = torch.randn(64, inputs), torch.randn(64, outputs)
    with torch.inference_mode():
        together = layer(x, added)
        for rows in (1, 2, 3, 5, 8, 16, 33):
            some = layer(x[:rows].contiguous(), added[:rows].contiguous())
            assert torch.equal(some, together[:rows]), rows


@needs_float16
def test_half_the_bits_lose_nothing_of_what_bfloat16_holds() -> None:
    torch.manual_seed(0)
    weight = (torch.randn(64, 96) * 0.02).bfloat16().float()
    x = torch.randn(5, 96)
    assert Float16Linear.can_hold(weight)
    exact = x.double() @ weight.double().T
    torch.testing.assert_close(Float16Linear(weight)(x).double(), exact, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "weight",
    [torch.tensor([[0.1]]), torch.tensor([[1e6]]), torch.tensor([[math.nan]]), torch.ones(1, 1).double()],
)
def test_what_float16_cannot_hold_is_kept_in_float32(weight: torch.Tensor) -> None:
    assert not Float16Linear.can_hold(weight)
    assert Float16Linear.can_hold(torch.tensor([[0.5, -1.25]])) == Float16Linear.usable
