"""Architectures that only transformers knows, through the batching engine; what can't be opened says why."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from platen.core.errors import BundleError
from platen.core.phases import no_phase
from platen.engines.choose import choose
from platen.engines.options import EngineOptions
from platen.engines.protocol import GenerationRequest
from platen.models.resolve import ResolvedModel, resolve
from platen.tokens.tokenizer import Tokenizer
from tests.engines.torch.test_torch_engine import collect, greedy, prompt

TOKENS = 12


def saved(model: Any, folder: Path, tokenizer: Tokenizer) -> ResolvedModel:
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return resolve(folder)


def bloom() -> Any:
    """Positions by ALiBi, which Platen's decoder doesn't have."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    config.seq_length = 128
    return BloomForCausalLM(config).eval()


def mamba() -> Any:
    """A state instead of keys and values."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, initializer_range=0.3)
    config.max_position_embeddings = 128
    return MambaForCausalLM(config).eval()


@torch.no_grad()
def continuation(theirs: Any, ids: list[int]) -> list[int]:
    sequence = torch.tensor([ids])
    for _ in range(TOKENS):
        sequence = torch.cat((sequence, theirs(sequence).logits[:, -1:].argmax(-1)), 1)
    return sequence[0, len(ids) :].tolist()


@pytest.mark.parametrize("make", [bloom, mamba])
async def test_it_writes_what_transformers_writes(
    make: Any, tiny_tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = make()
    choice = choose(saved(theirs, tmp_path, tiny_tokenizer), "auto")
    assert choice.spec.name == "transformers"
    engine = choice.spec.open(choice.model, EngineOptions(max_concurrent=2), no_phase)
    assert "slower" in caplog.text
    prompts = [prompt(length, start) for start, length in enumerate((1, 9, 30))]
    requests = [
        GenerationRequest(f"r{i}", ids, greedy(TOKENS, ignore_eos=True)) for i, ids in enumerate(prompts)
    ]
    try:
        found = await asyncio.gather(*(collect(engine.submit(request)) for request in requests))
    finally:
        await engine.close()
    assert [result.token_ids for result in found] == [continuation(theirs, ids) for ids in prompts]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Own"}}, "code of its own, which is never run"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "needs gptqmodel: pip install"),
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantized \(fp8\): serve its GGUF"),
        ({"architectures": ["NovelForCausalLM"], "model_type": "novel"}, "has no NovelForCausalLM"),
    ],
)
def test_what_cannot_be_opened_says_why(
    change: dict[str, Any], says: str, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = saved(bloom(), tmp_path, tiny_tokenizer)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, **change}))
    with pytest.raises(BundleError, match=says):
        choose(resolve(model.path), "auto")


def test_what_our_own_network_computes_is_left_to_it(tiny_bundle: Path) -> None:
    assert choose(resolve(tiny_bundle), "auto").spec.name == "torch"
    with pytest.raises(BundleError, match="--engine torch"):
        choose(resolve(tiny_bundle), "transformers")
