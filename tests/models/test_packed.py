"""Packed layers give what plain ones give, for any number of rows."""

from __future__ import annotations

import copy

import pytest
import torch

from platen.models.llama import Llama
from platen.models.packed import PackedLinear, can_pack, pack


def test_a_packed_model_gives_the_same_logits(tiny_llama: Llama) -> None:
    model = copy.deepcopy(tiny_llama)
    ids = torch.arange(1, 61).reshape(3, 20)
    with torch.inference_mode():
        expected = model(ids)
        assert can_pack(model)
        pack(model)
        torch.testing.assert_close(model(ids), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("outputs", "inputs"), [(1536, 576), (576, 1536), (16, 2048), (64, 32), (4096, 192)])
def test_a_row_is_the_same_in_any_company(outputs: int, inputs: int) -> None:
    """Or a seeded request would read otherwise in a full batch."""
    torch.manual_seed(0)
    layer = PackedLinear(torch.randn(outputs, inputs))
    x = torch.randn(64, inputs)
    with torch.inference_mode():
        together = layer(x)
        for rows in (1, 2, 3, 5, 8, 16, 33):
            assert torch.equal(layer(x[:rows].contiguous()), together[:rows]), rows
