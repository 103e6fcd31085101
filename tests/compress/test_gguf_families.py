"""Every family as a GGUF file: llama.cpp predicts from it what the bundle does, and it comes back whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from platen.compress.gguf_file import write_gguf
from platen.core.errors import BundleError
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.models.arch.families import families
from platen.models.bundle import Bundle, open_bundle
from platen.models.gguf import GgufModel
from platen.models.gguf_config import config_of
from platen.models.gguf_import import import_gguf
from platen.tokens.gguf_header import read_header
from platen.tokens.tokenizer import Tokenizer

pytest.importorskip("gguf")

TOKENS, WINDOW = 48, 16
TOLERANCE = 0.02
"""Of logits, whose standard deviation is above a half: matrices are float16, and so is llama.cpp's cache."""
_SHAPE = {
    **{"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128},
}
_GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": WINDOW}
_LLAMA3 = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 32,
}
_LONG = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0],
}
_MULTIPLIERS = {
    **{"embedding_multiplier": 3.0, "residual_multiplier": 0.6, "attention_multiplier": 0.11},
    "logits_scaling": 1.5,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama tied": {"tie_word_embeddings": True, "attention_bias": True, "head_dim": 32},
    "llama llama3": {"rope_scaling": _LLAMA3},
    "llama linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "mistral": {"sliding_window": 64},
    "mixtral": _EXPERTS,
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {**_EXPERTS, "head_dim": 32, "moe_intermediate_size": 64},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3_text mixed": {
        **_GEMMA,
        "sliding_window_pattern": 2,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "rope_local_base_freq": 5000.0,
    },
    "phi3": {"sliding_window": None},
    "phi3 long": {
        "partial_rotary_factor": 0.75,
        "rope_scaling": _LONG,
        "original_max_position_embeddings": 32,
        "tie_word_embeddings": True,
    },
    "phi3 short": {
        "partial_rotary_factor": 0.75,
        "rope_scaling": _LONG,
        "max_position_embeddings": 2048,
        "original_max_position_embeddings": 1024,
    },
    "olmo2": {},
    "olmo2 tied": {"tie_word_embeddings": True},
    "granite": _MULTIPLIERS,
    "smollm3": {},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128},
    "gpt_neox": {"rotary_pct": 0.5},
    "gpt_neox serial": {"use_parallel_residual": False},
}


def config(case: str) -> DecoderConfig:
    family = families()[case.split()[0]]
    raw = {"architectures": [family.architecture], "model_type": family.name, **_SHAPE, **CASES[case]}
    return replace(DecoderConfig.from_hf(raw), bos_token_id=None, eos_token_id=0, pad_token_id=0)


def random_bundle(shape: DecoderConfig, tokenizer: Tokenizer) -> Bundle:
    """Weights far from a fresh network's regularity."""
    model = Decoder(shape).eval()
    random = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if "norm" in name:
            tensor += 0.1 * torch.randn(tensor.shape, generator=random)
        else:
            tensor.normal_(0, 0.08, generator=random)
    return Bundle(model=model, tokenizer=tokenizer, config=shape, path=Path("tiny"))


@pytest.fixture(scope="module", params=list(CASES))
def written(
    request: pytest.FixtureRequest, tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, Path]:
    """A small random bundle, and the file written of it."""
    bundle = random_bundle(config(request.param), tiny_tokenizer)
    file = tmp_path_factory.mktemp("written") / "model.gguf"
    write_gguf(bundle, file, "f16")
    return bundle, file


def test_the_cases_are_of_all_families() -> None:
    assert {case.split()[0] for case in CASES} == set(families())


@torch.no_grad()
def test_llama_cpp_predicts_the_same(written: tuple[Bundle, Path]) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")  # the extra edge, built from source
    bundle, file = written
    ids = torch.randint(1, 320, (TOKENS,), generator=torch.Generator().manual_seed(0))
    ours = bundle.model(ids[None])[0]
    assert ours.std() > 0.25
    model = llama_cpp.Llama(str(file), n_ctx=TOKENS + 16, logits_all=True, verbose=False)
    model.eval(ids.tolist())
    theirs = torch.tensor(model.scores[:TOKENS])
    apart = (ours - theirs).abs().max(dim=1).values
    if bundle.config.num_experts:  # two experts may be so close for a token that rounding chooses
        apart = apart.sort().values[:-2]
    assert float(apart.max()) < TOLERANCE
    greedy = [int(theirs[-1].argmax())]
    for _ in range(15):
        model.eval(greedy[-1:])
        greedy.append(int(model.scores[model.n_tokens - 1].argmax()))
    model.close()
    assert _follows(bundle.model, ids.tolist(), greedy)


def _follows(model: Decoder, prompt: list[int], tokens: list[int]) -> bool:
    """Whether each token is the likeliest, or as likely as rounding can tell."""
    logits: Tensor = model(torch.tensor([prompt + tokens[:-1]]))[0, len(prompt) - 1 :]
    chosen = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    return bool((logits.max(dim=1).values - chosen < TOLERANCE).all())


def test_metadata_are_the_network_again(written: tuple[Bundle, Path]) -> None:
    bundle, file = written
    header = read_header(file)
    found = config_of(header, {tensor.name: tensor.shape for tensor in header.tensors})
    expected = bundle.config
    if expected.family == "mistral":  # a Llama, of one window
        expected = replace(
            expected, family="llama", max_position_embeddings=64, sliding_window=None, window_layers=()
        )
    if header.architecture in ("olmo2", "gptneox"):  # the file has an output layer always
        expected = replace(expected, tie_word_embeddings=False)
    assert _comparable(found) == _comparable(expected)


def _comparable(config: DecoderConfig) -> DecoderConfig:
    """Without what a file doesn't say; numbers as float32 has them."""
    rounded = {
        name: float(torch.tensor(value))
        for name in ("norm_eps", "residual_multiplier", "attention_scale", "logits_divisor", "rotary_factor")
        if (value := getattr(config, name)) is not None
    }
    scaling = config.rope_scaling
    if scaling is not None:
        factors = {
            name: tuple(torch.tensor(getattr(scaling, name)).tolist())
            for name in ("short_factors", "long_factors")
        }
        # Windows all as wide as the context are none, so what llama3 takes for the original context is free.
        scaling = replace(scaling, attention_factor=round(scaling.attention_factor, 5), **factors)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    return replace(
        config, **rounded, **special, rope_scaling=scaling, initializer_range=0.0, intermediate_size=1
    )


def test_it_comes_back_whole(written: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, file = written
    reported: list[tuple[int, int]] = []
    import_gguf(
        file,
        tmp_path,
        dtype="float32",
        max_shard_bytes=100_000,
        report=lambda done, total: reported.append((done, total)),
    )
    assert reported[-1][0] == reported[-1][1] > 0
    back = open_bundle(tmp_path)
    assert back.tokenizer.raw == GgufModel.open(file).tokenizer().raw
    text = "To be, or not to be"
    assert back.tokenizer.encode(text) == bundle.tokenizer.encode(text)
    assert 0 in back.config.eos_token_ids
    tensors = back.model.state_dict()
    for name, tensor in bundle.model.state_dict().items():
        expected = tensor.half().float() if tensor.dim() > 1 and "embed_positions" not in name else tensor
        router = name.endswith("mlp.gate.weight")
        torch.testing.assert_close(tensors[name], tensor if router else expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("case", "change", "reason"),
    [
        ("gemma2", {"attention_scale": 0.1}, "scores multiplied by 0.1"),
        ("gpt2", {"scale_by_inverse_layer": True}, "layer's number"),
        ("qwen3_moe", {"norm_topk_prob": False}, "add up to 1"),
        ("qwen3_moe", {"dense_layers": (1,)}, "without experts"),
        ("smollm3", {"unrotated_layers": (0,)}, "every fourth"),
        ("llama", {"activation": "relu"}, "relu"),
        ("olmo2", {"attention_bias": True}, "biases"),
        ("phi3", {"head_dim": 32}, "another width"),
    ],
)
def test_what_llama_cpp_can_not_compute_is_refused(
    case: str, change: dict[str, Any], reason: str, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    bundle = random_bundle(replace(config(case), **change), tiny_tokenizer)
    with pytest.raises(BundleError, match=reason):
        write_gguf(bundle, tmp_path / "model.gguf", "f16")
