"""LoRA adapters: PEFT's own answers, for rows of many adapters in one batch."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from platen.compress.compile import compile_bundle
from platen.core.errors import BundleError
from platen.engines.batching.draft import DraftOptions
from platen.engines.batching.engine import BatchingEngine
from platen.engines.local import open_model
from platen.engines.options import EngineOptions
from platen.engines.protocol import GenerationRequest, SamplingParams, TokenEvent
from platen.models.adapter import read_adapter
from platen.models.arch.config import DecoderConfig
from tests.peft_adapters import save_adapter

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "all": {"r": 8, "lora_alpha": 32, "target_modules": ALL},
    "attention": {"r": 4, "lora_alpha": 24, "target_modules": ["q_proj", "v_proj"]},
    "stabilised": {"r": 16, "lora_alpha": 32, "target_modules": ALL, "use_rslora": True},
    "patterned": {
        "r": 4,
        "lora_alpha": 16,
        "target_modules": ["k_proj", "o_proj", "down_proj"],
        "rank_pattern": {r"layers\.1\..*down_proj": 12, "k_proj": 2},
        "alpha_pattern": {"o_proj": 40},
    },
    "one layer": {"r": 40, "lora_alpha": 40, "target_modules": ["up_proj"], "layers_to_transform": [1]},
}
PROMPT = [(i * 29) % 319 + 1 for i in range(40)]


@pytest.fixture(scope="module")
def adapters(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind."""
    return {
        name: save_adapter(
            tiny_bundle, tmp_path_factory.mktemp("adapter") / "folder", seed=seed, std=0.2, **options
        )
        for seed, (name, options) in enumerate(KINDS.items())
    }


@pytest.fixture(scope="module")
def peft_logprobs(tiny_bundle: Path, adapters: dict[str, Path]) -> dict[str | None, torch.Tensor]:
    """Of each token of the prompt after those before it, by PEFT and transformers."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found: dict[str | None, torch.Tensor] = {}
    for name in (None, *adapters):
        model = AutoModelForCausalLM.from_pretrained(tiny_bundle)
        if name is not None:
            model = PeftModel.from_pretrained(model, adapters[name])
        with torch.inference_mode():
            logits = model.eval()(torch.tensor([PROMPT])).logits[0]
        found[name] = torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(PROMPT[1:])[:, None])[:, 0]
    return found


@asynccontextmanager
async def running(
    folder: Path, adapters: dict[str, Path], draft: DraftOptions | None = None
) -> AsyncIterator[BatchingEngine]:
    engine = open_model(folder, EngineOptions(draft=draft)).engine
    assert isinstance(engine, BatchingEngine)
    try:
        for name, adapter in adapters.items():
            engine.load_adapter(name, adapter)
        yield engine
    finally:
        await engine.close()


async def collect(stream: AsyncIterator[TokenEvent]) -> tuple[list[int], TokenEvent]:
    tokens: list[int] = []
    async for event in stream:
        tokens += event.token_ids
    return tokens, event


def only_scored(name: str, adapter: str | None) -> GenerationRequest:
    return GenerationRequest(name, PROMPT, SamplingParams(max_tokens=0), prompt_logprobs=0, adapter=adapter)


def sampled(name: str, adapter: str | None, seed: int = 3) -> GenerationRequest:
    params = SamplingParams(seed=seed, max_tokens=30, ignore_eos=True, logprobs=0)
    return GenerationRequest(name, PROMPT[:20], params, adapter=adapter)


async def test_prompts_are_scored_as_peft_scores_them(
    tiny_bundle: Path, adapters: dict[str, Path], peft_logprobs: dict[str | None, torch.Tensor]
) -> None:
    async with running(tiny_bundle, adapters) as engine:
        for name, expected in peft_logprobs.items():
            _, last = await collect(engine.submit(only_scored("r", name)))
            ours = torch.tensor([scored.logprob for scored in last.prompt_logprobs[1:] if scored])
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    for name, expected in peft_logprobs.items():
        assert name is None or (expected - peft_logprobs[None]).abs().max() > 0.1


async def test_drafts_leave_the_texts_of_adapters_as_they_are(
    tiny_bundle: Path, adapters: dict[str, Path]
) -> None:
    texts = []
    for draft in (None, DraftOptions(match=1, step_tokens=48)):
        async with running(tiny_bundle, adapters, draft) as engine:
            names, params = (None, *adapters), SamplingParams(temperature=0, max_tokens=80, ignore_eos=True)
            asked = [GenerationRequest(str(name), PROMPT, params, adapter=name) for name in names]
            streams = [engine.submit(request) for request in asked]
            texts.append([tokens for tokens, _ in await asyncio.gather(*map(collect, streams))])
            figures = engine.stats().extra
    assert texts[0] == texts[1]
    assert figures["draft_tokens_accepted"] > 0


async def test_rows_of_different_adapters_share_a_batch_and_write_what_peft_would(
    tiny_bundle: Path, adapters: dict[str, Path]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    async with running(tiny_bundle, adapters) as engine:
        names = [None, *adapters]
        streams = [engine.submit(greedy(f"{i}", name)) for i, name in enumerate(names * 2)]
        texts = [tokens for tokens, _ in await asyncio.gather(*map(collect, streams))]
        steps = engine.stats().extra["steps"]
    assert steps < 100  # twelve texts of thirty tokens, not one after another
    for name, text, again in zip(names, texts[: len(names)], texts[len(names) :], strict=True):
        assert text == again
        model = AutoModelForCausalLM.from_pretrained(tiny_bundle)
        if name is not None:
            model = PeftModel.from_pretrained(model, adapters[name])
        with torch.inference_mode():
            logits = model.eval()(torch.tensor([PROMPT[:20] + text])).logits[0, 19:-1]
        best, chosen = logits.max(-1).values, logits.gather(1, torch.tensor(text)[:, None])[:, 0]
        assert (best - chosen).max() < 1e-4, name
    assert len({tuple(text) for text in texts}) == len(names)


def greedy(name: str, adapter: str | None) -> GenerationRequest:
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    return GenerationRequest(name, PROMPT[:20], params, adapter=adapter)


async def test_a_seeded_text_is_the_same_alone_and_beside_other_adapters(
    tiny_bundle: Path, adapters: dict[str, Path]
) -> None:
    """Bit by bit, also with other adapters loaded."""
    alone = {}
    for name in (None, "all", "attention"):
        async with running(tiny_bundle, {name: adapters[name]} if name else {}) as engine:
            alone[name] = await scored(engine, sampled("r", name))
    async with running(tiny_bundle, adapters) as engine:
        requests = [sampled(f"{i}", name) for i, name in enumerate((*alone, *adapters))]
        together = await asyncio.gather(*(scored(engine, request) for request in requests))
    for index, name in enumerate(alone):
        assert together[index] == alone[name]


async def scored(engine: BatchingEngine, request: GenerationRequest) -> list[tuple[int, float]]:
    return [(s.token_id, s.logprob) async for event in engine.submit(request) for s in event.logprobs]


async def test_a_beginning_read_with_one_adapter_is_not_used_for_another(
    tiny_bundle: Path, adapters: dict[str, Path]
) -> None:
    async with running(tiny_bundle, adapters) as engine:

        async def cached(name: str | None) -> int:
            _, last = await collect(engine.submit(greedy("r", name)))
            assert last.usage is not None
            return last.usage.cached_tokens

        assert [await cached(name) for name in ("all", "attention", None)] == [0, 0, 0]
        assert [await cached(name) for name in ("all", "attention", None)] == [16, 16, 16]
        engine.load_adapter("all", adapters["stabilised"])  # another adapter under the same name
        assert await cached("all") == 0
        engine.load_adapter("all", adapters["all"])
        assert await cached("all") == 16


async def test_adapters_come_and_go_while_texts_are_written(
    tiny_bundle: Path, adapters: dict[str, Path]
) -> None:
    async with running(tiny_bundle, {"all": adapters["all"]}) as engine:
        expected, _ = await collect(engine.submit(greedy("before", "all")))
        stream = engine.submit(greedy("during", "all"))
        first = await anext(stream)
        engine.unload_adapter("all")
        engine.load_adapter("other", adapters["stabilised"])
        assert engine.adapters() == ("other",)
        with pytest.raises(ValueError, match="no adapter 'all'"):
            engine.submit(greedy("after", "all"))
        rest, _ = await collect(stream)
        assert [*first.token_ids, *rest] == expected
        await collect(engine.submit(greedy("other", "other")))
        engine.unload_adapter("other")
        await collect(engine.submit(greedy("base", None)))
        assert engine.stats().extra["adapter_bytes"] == 0
        with pytest.raises(KeyError):
            engine.unload_adapter("other")


def spoil_config(**changes: object) -> Any:
    def spoil(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return spoil


def spoil_weights(change: Any) -> Any:
    def spoil(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file)

    return spoil


def key(weights: dict[str, torch.Tensor]) -> str:
    return next(name for name in weights if "layers.0.self_attn.q_proj.lora_A" in name)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_config(peft_type="LOHA"), "type 'LOHA'"),
        (spoil_config(use_dora=True), "use_dora"),
        (spoil_config(modules_to_save=["lm_head"]), "modules_to_save"),
        (spoil_config(bias="all"), "bias"),
        (spoil_config(init_lora_weights="pissa_niter_4"), "init_lora_weights: pissa_niter_4"),
        (spoil_config(r=5), r"lora_A\.weight has shape \[8, 64\]; .* \[5, 64\]"),
        (spoil_config(r=0), "no rank"),
        (spoil_config(rank_pattern={"q_proj": "many"}), "impossible rank"),
        (spoil_weights(lambda w: w.update({key(w): torch.zeros(8, 48)})), r"has shape \[8, 48\]"),
        (spoil_weights(lambda w: w.pop(key(w))), "has no tensor .*q_proj.lora_A"),
        (spoil_weights(lambda w: w.clear()), "changes nothing"),
        (
            spoil_weights(lambda w: w.update({key(w).replace("layers.0", "layers.7"): torch.zeros(8, 32)})),
            "layers.7.self_attn.q_proj, which this model doesn't have",
        ),
        (spoil_weights(lambda w: w.update({"lm_head.weight": torch.zeros(2)})), "lm_head"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"no"), "is damaged"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "there is no"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    ],
)
def test_what_does_not_fit_is_refused(
    spoil: Any, says: str, tiny_bundle: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    config = DecoderConfig.from_hf(json.loads((tiny_bundle / "config.json").read_text()))
    folder = tmp_path / "adapter"
    shutil.copytree(adapters["all"], folder)
    spoil(folder)
    with pytest.raises(BundleError, match=says):
        read_adapter(folder, config, dtype=torch.float32)


async def test_a_compiled_engine_says_that_it_takes_none(
    tiny_bundle: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    compile_bundle(tiny_bundle, tmp_path, "openvino")
    async with running(tmp_path, {}) as engine:
        with pytest.raises(BundleError, match="the openvino engine takes no adapters"):
            engine.load_adapter("all", adapters["all"])
