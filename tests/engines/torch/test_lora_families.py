"""Adapters of families whose own networks fuse, transpose or rename projections: PEFT's own logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from platen.engines.torch.cpu.accelerate import accelerate
from platen.engines.torch.lora import AdapterSet
from platen.models.bundle import open_bundle
from platen.tokens.tokenizer import Tokenizer
from tests.models.arch.small import make_theirs
from tests.peft_adapters import save_adapter

MODULES = {
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "gemma2": ["q_proj", "v_proj", "o_proj", "down_proj"],
    "olmo2": ["q_proj", "k_proj", "o_proj", "up_proj"],
}


@pytest.mark.parametrize("name", list(MODULES))
@torch.no_grad()
def test_peft_gives_the_same_logits(name: str, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    make_theirs(name).save_pretrained(base)
    tiny_tokenizer.save(base)
    options = {"r": 4, "lora_alpha": 16, "target_modules": MODULES[name]}
    folder = save_adapter(base, tmp_path / "adapter", seed=1, std=0.2, **options)
    plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    ids = torch.arange(3, 33)[None]
    without = plain(ids).logits
    expected = PeftModel.from_pretrained(plain, folder).eval()(ids).logits
    assert (expected - without).abs().max() > 0.1
    for packed in (False, True):
        model = open_bundle(base).model
        if packed:
            assert accelerate(model)
        adapters = AdapterSet(model)
        adapter = adapters.read(folder)
        adapters.keep([adapter])
        with adapters.prefilling(adapter):
            torch.testing.assert_close(model(ids), expected, atol=1e-4, rtol=0)
        with adapters.decoding([None, adapter]):
            both = model(ids.repeat(2, 1))
        torch.testing.assert_close(both, torch.cat((without, expected)), atol=1e-4, rtol=0)
