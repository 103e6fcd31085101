"""Packed layers and kernels of every family give what the plain network gives, and nothing else is let in."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from platen.core.cpu import find_compiler
from platen.engines.torch.cpu import accelerate as door
from platen.engines.torch.cpu import packed as packed_layers
from platen.engines.torch.cpu.accelerate import accelerate
from platen.engines.torch.cpu.kernels import Kernels, kernels_for
from platen.engines.torch.cpu.packed import PackedLayer
from platen.models.arch.cache import KVCache
from platen.models.arch.decoder import Decoder
from platen.models.bundle import open_bundle
from platen.tokens.tokenizer import Tokenizer
from tests.models.arch.small import CASES, make_theirs

TOKENS = 40


def opened(name: str, tokenizer: Tokenizer, folder: Path, **change: object) -> Decoder:
    """A small network of the family, with weights as models are published: bfloat16's values."""
    make_theirs(name, **change).bfloat16().save_pretrained(folder)
    tokenizer.save(folder)
    return open_bundle(folder, dtype=torch.float32).model


def logits(model: Decoder, *, padded: bool = False) -> Tensor:
    """Of a prompt, a few more tokens at once, and the rest one by one; (2, TOKENS, V)."""
    ids = torch.randint(3, 320, (2, TOKENS), generator=torch.Generator().manual_seed(4))
    real = torch.ones_like(ids)
    real[1, : 7 if padded else 0] = 0
    cache = KVCache(model.config, 2, TOKENS)
    found = []
    for start, end in [(0, 21), (21, 25), *((at, at + 1) for at in range(25, TOKENS))]:
        mask = real[:, :end] if padded else None
        found.append(model(ids[:, start:end], attention_mask=mask, kv_cache=cache))
    return torch.cat(found, 1)[:, 7:]


@pytest.mark.parametrize("with_kernels", [True, False], ids=["kernels", "packed"])
@pytest.mark.parametrize("name", list(CASES))
@torch.inference_mode()
def test_the_same_logits(
    name: str, with_kernels: bool, tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_kernels:
        monkeypatch.setattr(packed_layers, "kernels_for", lambda config: None)
    change = {"head_dim": 32} if "head_dim" in CASES[name].change else {}
    model = opened(name, tiny_tokenizer, tmp_path, **change)
    plain, packed = copy.deepcopy(model), model
    assert accelerate(packed)
    assert all(isinstance(layer, PackedLayer) for layer in packed.model.layers)
    assert (kernels_for(packed.config) is None) == (find_compiler() is None)
    for padded in (False, True):
        torch.testing.assert_close(
            logits(packed, padded=padded), logits(plain, padded=padded), atol=1e-4, rtol=0
        )
    ids = torch.arange(3, 33)[None]
    torch.testing.assert_close(packed(ids), plain(ids), atol=1e-4, rtol=0)


def test_a_kernel_that_computes_wrongly_is_not_used(
    tiny_tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = opened("llama", tiny_tokenizer, tmp_path)
    if kernels_for(model.config) is None:
        pytest.skip("no C++ compiler")
    right = Kernels.attend_prompt

    def wrong(*arguments: object) -> Tensor:
        return right(*arguments) * 1.1  # type: ignore[arg-type]

    monkeypatch.setattr(Kernels, "attend_prompt", wrong)
    ids = torch.arange(3, 33)[None]
    with torch.inference_mode():
        expected = model(ids)
        assert not accelerate(model)
        assert torch.equal(model(ids), expected)
    assert "layer 0 differs" in caplog.text


def test_it_can_be_turned_off(
    tiny_llama: Decoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = copy.deepcopy(tiny_llama)
    monkeypatch.setenv(door.SETTING, "0")
    caplog.set_level(logging.INFO)
    assert not accelerate(model)
    assert not any(isinstance(layer, PackedLayer) for layer in model.model.layers)
    assert "PLATEN_CPU_KERNELS=0" in caplog.text
