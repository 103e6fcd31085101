"""The torch engine as it is served on a CPU: layers packed, the compiled kernels between them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import torch

from platen.core.cpu import find_compiler
from platen.engines.batching.draft import DraftOptions
from platen.engines.protocol import GenerationRequest, SamplingParams
from platen.engines.torch.cpu.accelerate import accelerate
from platen.engines.torch.cpu.kernels import kernels_for
from platen.tokens.tokenizer import Tokenizer
from tests.engines.torch.cpu.test_kernels import CONFIG, plain
from tests.engines.torch.test_torch_engine import PROMPTS, Make, Result, collect, greedy


@pytest.fixture
def make(tiny_tokenizer: Tokenizer) -> Make:
    model = plain()
    assert accelerate(model)
    return Make(model, tiny_tokenizer)


async def test_texts_written_together_are_those_of_transformers(make: Make) -> None:
    from transformers import GenerationConfig, LlamaForCausalLM
    from transformers import LlamaConfig as TheirConfig

    assert (kernels_for(CONFIG) is None) == (find_compiler() is None)
    theirs = LlamaForCausalLM(TheirConfig(**CONFIG.to_hf()))
    theirs.load_state_dict(plain().state_dict())
    theirs.generation_config.eos_token_id = None
    async with make(max_concurrent=4, prefill_chunk=32) as engine:
        requests = [
            GenerationRequest(f"r{i}", ids, greedy(20 + i, ignore_eos=True)) for i, ids in enumerate(PROMPTS)
        ]
        results = await asyncio.gather(*(collect(engine.submit(request)) for request in requests))
    for i, (ids, result) in enumerate(zip(PROMPTS, results, strict=True)):
        expected = theirs.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids)).long(),
            generation_config=GenerationConfig(do_sample=False, max_new_tokens=20 + i, pad_token_id=0),
        )
        assert result.token_ids == expected[0, len(ids) :].tolist()


async def test_seeded_texts_are_the_same_alone_together_with_prefixes_and_with_drafts(make: Make) -> None:
    def requests(name: str) -> list[GenerationRequest]:
        params = [SamplingParams(seed=i, max_tokens=30, temperature=0.7, ignore_eos=True) for i in range(10)]
        return [
            GenerationRequest(f"{name}{i}", ids, kind)
            for i, (ids, kind) in enumerate(zip(PROMPTS, params, strict=True))
        ]

    def ids(results: Sequence[Result]) -> list[list[int]]:
        return [result.token_ids for result in results]

    async with make(max_concurrent=8) as engine:
        alone = [await collect(engine.submit(request)) for request in requests("alone")]
        again = await asyncio.gather(*(collect(engine.submit(request)) for request in requests("again")))
        assert ids(again) == ids(alone)
    async with make(max_concurrent=8, draft=DraftOptions(tokens=8, match=1, step_tokens=64)) as engine:
        drafted = await asyncio.gather(*(collect(engine.submit(request)) for request in requests("drafted")))
        assert ids(drafted) == ids(alone)
        assert engine.stats().extra["draft_tokens"] > 10
