"""Every family that OpenVINO can run: its engine predicts from the compiled form what the bundle does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from platen.compress.compile import compile_bundle
from platen.compress.openvino_graph import build_graph
from platen.core.errors import BundleError
from platen.engines.local import open_model
from platen.engines.options import EngineOptions
from platen.engines.protocol import GenerationRequest, SamplingParams
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.models.arch.families import families
from platen.models.bundle import save_bundle
from platen.tokens.tokenizer import Tokenizer

pytest.importorskip("openvino")

NEW, WINDOW = 16, 16
PROMPT = torch.randint(1, 320, (48,), generator=torch.Generator().manual_seed(0)).tolist()
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
TOLERANCE = {"bf16": 0.05, "int8": 0.12}
"""Of log-probabilities, which differ by 1 on average: OpenVINO computes in bfloat16 where the CPU can, rounds
activations to 8 bits beside int8 weights, and keeps keys and values in 8 bits."""
IN_INT8 = ("qwen2", "gemma3_text", "gpt2", "mixtral")
_SHAPE = {
    **{"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128},
}
_GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": WINDOW}
_LLAMA3 = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 32,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
_LONG = {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [2.0] * 6}
_PARTIAL = {"partial_rotary_factor": 0.75, "rope_scaling": _LONG}
_MULTIPLIERS = {
    **{"embedding_multiplier": 3.0, "residual_multiplier": 0.6, "attention_multiplier": 0.11},
    "logits_scaling": 1.5,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}
CASES: dict[str, dict[str, Any]] = {
    "llama": {"rope_scaling": _LLAMA3, "attention_bias": True, "mlp_bias": True},
    "llama linear": {"rope_scaling": {"type": "linear", "factor": 4.0}, "tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32, "rope_scaling": _YARN},
    "mistral": {"sliding_window": WINDOW},
    "gemma3_text": {
        **_GEMMA,
        "sliding_window_pattern": 2,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "rope_local_base_freq": 5000.0,
    },
    "phi3": {"sliding_window": None},
    "phi3 short": {**_PARTIAL, "original_max_position_embeddings": 128},
    "granite": _MULTIPLIERS,
    "smollm3": {},
    "olmo2": {},
    "gpt_neox": {"rotary_pct": 0.5},
    "gpt_neox serial": {"use_parallel_residual": False},
    "gpt2": {
        "n_embd": 64,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 128,
        "scale_attn_by_inverse_layer_idx": True,
    },
    "mixtral": _EXPERTS,
    "qwen3_moe": {**_EXPERTS, "head_dim": 32, "moe_intermediate_size": 64, "norm_topk_prob": False},
    "gemma2": {**_GEMMA, "attn_logit_softcapping": None},
}


def config(case: str) -> DecoderConfig:
    family = families()[case.split()[0]]
    raw = {"architectures": [family.architecture], "model_type": family.name, **_SHAPE, **CASES[case]}
    return replace(DecoderConfig.from_hf(raw), bos_token_id=None, eos_token_id=0, pad_token_id=0)


def random_model(shape: DecoderConfig) -> Decoder:
    """Weights far from a fresh network's regularity."""
    model = Decoder(shape).eval()
    random = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if "norm" in name:
            tensor += 0.1 * torch.randn(tensor.shape, generator=random)
        else:
            tensor.normal_(0, 0.08, generator=random)
    return model


async def answered(folder: Path, prompt: list[int]) -> tuple[list[int], Tensor]:
    """A greedy continuation, and the log-probabilities of all tokens but the first, prompt and response."""
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=1)
    request = GenerationRequest("r", tuple(prompt), params, prompt_logprobs=0)
    model = open_model(folder, EngineOptions(max_concurrent=1))
    tokens: list[int] = []
    found: list[float] = []
    try:
        async for event in model.engine.submit(request):
            tokens += event.token_ids
            found += [one.logprob for one in (*event.prompt_logprobs, *event.logprobs) if one is not None]
    finally:
        await model.engine.close()
    return tokens, torch.tensor(found)


@torch.no_grad()
def expected(model: Decoder, tokens: list[int]) -> Tensor:
    """The log-probability of each token but the first after those before it."""
    logits = model(torch.tensor([tokens[:-1]]))[0]
    assert logits.std() > 0.25
    found: Tensor = logits.log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    return found


def graph_logits(graph: Any, ids: list[int]) -> Tensor:
    """Logits (T, V) of the graph as it is built, without paged attention, in float32."""
    import openvino as ov

    request = ov.Core().compile_model(graph, "CPU", EXACT).create_infer_request()
    rows = {"input_ids": [ids], "attention_mask": [[1] * len(ids)], "position_ids": [list(range(len(ids)))]}
    inputs = {name: np.array(values, np.int64) for name, values in rows.items()}
    return torch.tensor(request.infer({**inputs, "beam_idx": np.zeros(1, np.int32)})["logits"])[0]


def without_windows(model: Decoder) -> Decoder:
    other = Decoder(replace(model.config, sliding_window=None)).eval()
    other.load_state_dict(model.state_dict())
    return other


def test_the_cases_are_of_all_families() -> None:
    assert {case.split()[0] for case in CASES} == set(families())


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_the_graph_is_the_decoder(case: str) -> None:
    model = random_model(config(case))
    model.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
    found = graph_logits(build_graph(model.config, model.state_dict(), "bf16"), PROMPT)
    torch.testing.assert_close(found, model(torch.tensor([PROMPT]))[0], rtol=0, atol=5e-4)


@pytest.mark.parametrize(
    ("case", "precision"), [*((name, "bf16") for name in families()), *((name, "int8") for name in IN_INT8)]
)
def test_the_engine_predicts_the_same(
    case: str, precision: str, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = random_model(config(case))
    save_bundle(tmp_path / "bundle", model, tiny_tokenizer)
    compile_bundle(tmp_path / "bundle", tmp_path / "compiled", "openvino", precision)
    tokens, found = asyncio.run(answered(tmp_path / "compiled", PROMPT))
    assert len(tokens) == NEW
    apart = (found - expected(model, PROMPT + tokens)).abs()
    if model.config.num_experts:  # two experts may be so close for a token that rounding chooses
        apart = apart.sort().values[:-6]
    assert float(apart.max()) < TOLERANCE[precision]
    if any(model.config.window(layer) for layer in range(model.config.num_hidden_layers)):
        unlimited = expected(without_windows(model), PROMPT + tokens)
        assert float((found - unlimited).abs().max()) > 5 * TOLERANCE[precision], "the window counts"


@torch.no_grad()
def test_int4_keeps_what_it_was_given() -> None:
    """The 4 bits themselves: they lie in memory that only the graph knows."""
    model = random_model(config("llama"))
    graphs = [build_graph(model.config, model.state_dict(), "int4") for _ in range(2)]
    first, second = (graph_logits(graph, PROMPT) for graph in graphs)
    assert torch.equal(first, second)
    exact = model(torch.tensor([PROMPT]))[0]
    assert torch.corrcoef(torch.stack((first.flatten(), exact.flatten())))[0, 1] > 0.95


@pytest.mark.parametrize(
    ("case", "change", "reason"),
    [
        ("gemma2", {"attention_softcap": 50.0}, "gemma2 model: its attention scores are soft-capped"),
        ("phi3 short", {"max_position_embeddings": 256}, "phi3 model: its rotation .longrope"),
    ],
)
def test_what_paged_attention_can_not_compute_is_refused(
    case: str, change: dict[str, Any], reason: str
) -> None:
    model = random_model(replace(config(case), **change))
    with pytest.raises(BundleError, match=reason) as refused:
        build_graph(model.config, model.state_dict(), "bf16")
    assert "--engine torch" in (refused.value.hint or "")
