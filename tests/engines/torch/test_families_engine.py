"""Families through the batching engine, served on a CPU: requests at once write what transformers writes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from platen.engines.protocol import GenerationRequest
from platen.engines.torch.cpu.accelerate import accelerate
from platen.models.bundle import open_bundle
from platen.tokens.tokenizer import Tokenizer
from tests.engines.torch.test_torch_engine import Make, collect, greedy, prompt
from tests.models.arch.small import make_theirs

TOKENS = 20
LONGROPE = {"original_max_position_embeddings": 40}
"""Some prompts are longer, and some sequences become so."""


@torch.no_grad()
def continuation(theirs: Any, ids: list[int]) -> list[int]:
    """By passes over all of it: with LongRoPE transformers' cache would keep keys of the other factors."""
    sequence = torch.tensor([ids])
    for _ in range(TOKENS):
        sequence = torch.cat((sequence, theirs(sequence, use_cache=False).logits[:, -1:].argmax(-1)), 1)
    return sequence[0, len(ids) :].tolist()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mistral", {}),
        ("qwen3", {"head_dim": 32}),
        ("gemma2", {"head_dim": 32}),
        ("gemma3", {"head_dim": 24}),
        ("gpt2", {}),
        ("gpt_neox", {}),
        ("qwen3_moe", {}),
        ("phi4-mini", LONGROPE),
    ],
)
async def test_concurrent_requests(
    name: str, change: dict[str, Any], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    theirs = make_theirs(name, **change)
    theirs.save_pretrained(tmp_path)
    tiny_tokenizer.save(tmp_path)
    model = open_bundle(tmp_path).model
    assert accelerate(model)
    prompts = [prompt(length, start) for start, length in enumerate((1, 5, 17, 30, 38, 61))]
    expected = [continuation(theirs, ids) for ids in prompts]
    async with Make(model, tiny_tokenizer)(max_concurrent=4, prefill_chunk=16) as engine:

        async def generate(turn: int) -> list[list[int]]:
            requests = [
                GenerationRequest(f"{turn}-{i}", ids, greedy(TOKENS, ignore_eos=True))
                for i, ids in enumerate(prompts)
            ]
            found = await asyncio.gather(*(collect(engine.submit(request)) for request in requests))
            return [result.token_ids for result in found]

        assert await generate(0) == expected
        assert engine.stats().extra["reused_tokens"] == 0
        assert await generate(1) == expected
        assert engine.stats().extra["reused_tokens"] > 64
