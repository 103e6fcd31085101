"""The engine over vLLM itself, where a `vllm` command is on the PATH; one for CPUs does."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from platen.engines.local import LocalModel, open_model
from platen.engines.options import EngineOptions
from platen.engines.protocol import GenerationRequest, SamplingParams
from platen.engines.vllm.config import VllmConfig
from platen.models.resolve import resolve
from platen.tokens.tokenizer import Tokenizer
from tests.engines.test_conformance import collect, ids

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("vllm") is None, reason="vLLM is not installed"),
]
NEW = 16
SHAPES = {
    "qwen3": {"head_dim": 64, "num_key_value_heads": 1},
    "opt": {"ffn_dim": 256, "word_embed_proj_dim": 128, "do_layer_norm_before": True},
}
"""One of the decoder's families, and one that only transformers and vLLM have."""


@pytest.fixture(scope="module", params=SHAPES)
def folder(
    request: pytest.FixtureRequest, tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        request.param,
        **{"vocab_size": 320, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2},
        **{"bos_token_id": None, "eos_token_id": tiny_tokenizer.eos_id, "pad_token_id": None},
        **SHAPES[request.param],
    )
    out = tmp_path_factory.mktemp(request.param)
    AutoModelForCausalLM.from_config(config).save_pretrained(out)
    tiny_tokenizer.save(out)
    return out


@contextmanager
def opened(folder: Path) -> Iterator[LocalModel]:
    options = EngineOptions(max_concurrent=4, dtype="float32", vllm=VllmConfig(max_model_len=256))
    model = open_model(resolve(folder), options, engine="vllm")
    try:
        yield model
    finally:
        asyncio.run(model.engine.close())


def test_vllm_itself_answers_as_the_model_does(folder: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = ids(40)
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt])).logits[0]
        greedy = reference.generate(
            torch.tensor([prompt]), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False
        )[0, 40:].tolist()
    expected = logits.log_softmax(-1)
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    scored = GenerationRequest("scored", prompt, params, prompt_logprobs=0)
    with opened(folder) as model:

        async def ask() -> None:
            together = [GenerationRequest(f"r{i}", prompt, params) for i in range(4)]
            for tokens, text, last in await asyncio.gather(
                *(collect(model.engine.submit(request)) for request in together)
            ):
                assert tokens == greedy
                assert text == model.tokenizer.decode(greedy)
                assert last.finish_reason == "length"
            _, _, event = await collect(model.engine.submit(scored))
            for at, found in enumerate(event.prompt_logprobs[1:], start=1):
                assert found is not None
                assert found.logprob == pytest.approx(float(expected[at - 1, prompt[at]]), abs=2e-3)
            long = GenerationRequest("long", prompt, SamplingParams(max_tokens=200, ignore_eos=True, seed=1))
            stream = model.engine.submit(long)
            await anext(stream)
            model.engine.cancel("long")
            assert [event async for event in stream][-1].finish_reason == "cancelled"

        asyncio.run(ask())
