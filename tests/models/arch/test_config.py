"""config.json of real models is read; what would be computed wrongly is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from platen.core.errors import BundleError
from platen.models.arch.config import DecoderConfig, RopeScaling

TINYLLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.35.0",
    "use_cache": True,
    "vocab_size": 32000,
}
SMOLLM2_135M = TINYLLAMA | {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rope_interleaved": False,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
LLAMA_32_1B = TINYLLAMA | {
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
MISTRAL_7B_V03 = {
    "architectures": ["MistralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 32768,
}


@pytest.mark.parametrize(
    ("raw", "parameters"),
    [  # as counted on the models' own pages
        (TINYLLAMA, 1_100_048_384),
        (SMOLLM2_135M, 134_515_008),
        (LLAMA_32_1B, 1_235_814_400),
        (MISTRAL_7B_V03, 7_248_023_552),
    ],
    ids=["tinyllama", "smollm2-135m", "llama-3.2-1b", "mistral-7b-v0.3"],
)
def test_real_models(raw: dict[str, Any], parameters: int) -> None:
    config = DecoderConfig.from_hf(raw)
    assert config.num_parameters() == parameters
    assert DecoderConfig.from_hf(config.to_hf()) == config


def test_a_mistral_that_leaves_its_window_out_has_one() -> None:
    raw = {key: value for key, value in MISTRAL_7B_V03.items() if key != "sliding_window"}
    windows = [DecoderConfig.from_hf(raw).window(layer) for layer in range(32)]
    assert windows == [4096] * 32
    assert DecoderConfig.from_hf(MISTRAL_7B_V03).window(0) is None


def test_llama_32_details() -> None:
    config = DecoderConfig.from_hf(LLAMA_32_1B)
    assert config.rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192)
    assert config.eos_token_ids == (128001, 128008, 128009)
    assert config.head_dim == 64


def test_transformers_5_rope_parameters() -> None:
    raw = {key: value for key, value in LLAMA_32_1B.items() if key not in ("rope_theta", "rope_scaling")}
    raw["rope_parameters"] = dict(LLAMA_32_1B["rope_scaling"], rope_theta=500000.0)
    assert DecoderConfig.from_hf(raw) == DecoderConfig.from_hf(LLAMA_32_1B)


def test_transformers_reads_what_we_write() -> None:
    from transformers import LlamaConfig as TheirConfig

    theirs = TheirConfig(**DecoderConfig.from_hf(LLAMA_32_1B).to_hf())
    assert theirs.rope_parameters["rope_theta"] == 500000.0
    assert theirs.rope_parameters["rope_type"] == "llama3"
    assert DecoderConfig.from_hf(theirs.to_dict() | {"architectures": ["LlamaForCausalLM"]}) == (
        DecoderConfig.from_hf(LLAMA_32_1B)
    )


def test_a_mistral_without_key_value_heads_has_eight() -> None:
    from transformers import MistralConfig

    raw = MistralConfig(hidden_size=512, num_attention_heads=16, sliding_window=None).to_dict()
    raw["architectures"] = ["MistralForCausalLM"]
    assert DecoderConfig.from_hf(raw).num_key_value_heads == 8
    del raw["num_key_value_heads"]
    assert DecoderConfig.from_hf(raw).num_key_value_heads == 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architectures": ["BloomForCausalLM"]}, "BloomForCausalLM"),
        ({"architectures": None, "model_type": "mamba"}, "mamba"),
        ({"hidden_act": "laplace"}, "'laplace'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "proportional", "factor": 2.0}}, "'proportional'"),
        ({"rope_scaling": {"type": "linear"}}, "linear has no factor"),
        ({"rope_scaling": {"type": "longrope", "long_factor": []}}, "longrope has no short_factor"),
        ({"architectures": ["MixtralForCausalLM"], "num_experts_per_tok": 9}, "9 experts per token of 8"),
        ({"architectures": ["Qwen3MoeForCausalLM"], "decoder_sparse_step": "two"}, "Qwen3MoeForCausalLM"),
        ({"architectures": ["Gemma2ForCausalLM"], "use_bidirectional_attention": True}, "bidirectional"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"rope_scaling": "llama3"}, "not an object"),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": "much",
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                }
            },
            "much",
        ),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_key_value_heads": 5}, "not a multiple"),
    ],
)
def test_refused_by_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(BundleError, match=says):
        DecoderConfig.from_hf(TINYLLAMA | change)
