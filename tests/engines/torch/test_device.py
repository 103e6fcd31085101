"""PyTorch's engine on a device other than the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from platen.core.errors import ConfigError
from platen.engines.batching.detokenize import TextAssembler
from platen.engines.batching.runner import Chunk
from platen.engines.batching.sampling import RandomStream
from platen.engines.batching.sequence import Sequence as Running
from platen.engines.local import open_model
from platen.engines.options import EngineOptions
from platen.engines.protocol import GenerationRequest
from platen.engines.torch.runner import TorchRunner
from platen.models import bundle as bundles
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder

CONFIG = DecoderConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
)


class Nothing:
    def push(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def running(name: str, prompt: Sequence[int]) -> Running:
    request = GenerationRequest(name, list(prompt))
    return Running(request, TextAssembler(Nothing(), ()), RandomStream(0), 8)


def test_all_that_a_step_computes_is_on_the_models_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands in for a GPU: there too, keys and values can't be put into a cache elsewhere."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # which knows no meta device
    copied: list[str] = []

    def to_cpu(tensor: torch.Tensor) -> torch.Tensor:
        copied.append(tensor.device.type)
        return torch.zeros(tensor.shape)

    monkeypatch.setattr(torch.Tensor, "cpu", to_cpu)
    with torch.inference_mode():
        with torch.device("meta"):
            model = Decoder(CONFIG)
        model = model.to_empty(device="meta")
        model.reset_tables(torch.device("meta"))
        runner = TorchRunner(model, max_rows=4, cache_bytes=2**26)
        sequences = [running("a", range(20)), running("b", range(7))]
        for sequence in sequences:
            assert runner.admit(sequence, reuse=True) == 0
            length = sequence.prompt_length
            logits = runner.forward([Chunk(sequence, 0, length, "last")])
            assert logits.shape == (1, 64)
            sequence.computed = length
            sequence.add(1)
        chunks = [Chunk(one, one.computed, one.computed + 1, "last") for one in sequences]
        logits = runner.forward(chunks)
        assert logits.shape == (2, 64)
    assert copied == ["meta"] * 3, "logits alone are copied, once a step"


def test_the_device_and_dtype_asked_for_reach_the_weights(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, bundles.Bundle]] = []
    whole = bundles.open_bundle

    def on_the_cpu(path: Path, *, dtype: torch.dtype | None, device: torch.device) -> bundles.Bundle:
        opened.append((str(device), whole(path, dtype=dtype)))
        return opened[-1][1]

    monkeypatch.setattr(bundles, "open_bundle", on_the_cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    import asyncio

    for device in ("auto", "cuda:1", "cpu"):
        model = open_model(tiny_bundle, EngineOptions(device=device, dtype="bfloat16"))
        asyncio.run(model.engine.close())
    assert [device for device, _ in opened] == ["cuda", "cuda:1", "cpu"]
    assert {bundle.model.dtype for _, bundle in opened} == {torch.bfloat16}
    with pytest.raises(ConfigError, match="no device cuda:2"):
        open_model(tiny_bundle, EngineOptions(device="cuda:2"))
    assert len(opened) == 3, "nothing is loaded for a device that is not there"
