"""The network against transformers' LlamaForCausalLM, an implementation that is not ours."""

from __future__ import annotations

import math

import pytest
import torch

from platen.models.arch.attention import composed_attention
from platen.models.arch.cache import KVCache
from platen.models.arch.config import DecoderConfig, RopeScaling
from platen.models.arch.decoder import Decoder
from platen.models.arch.rope import rope_frequencies

VOCAB, TOKENS = 97, 20
SCALED = RopeScaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)


def make_config(kv_heads: int = 4, *, tied: bool = True, scaling: RopeScaling | None = None) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=kv_heads,
        head_dim=8,
        max_position_embeddings=64,
        rope_scaling=scaling,
        tie_word_embeddings=tied,
        initializer_range=0.2,  # far from the start's near-uniform logits, so that a slip shows
    )


@pytest.fixture(
    params=[
        pytest.param((kv, tied, scaling), id=f"{name}-{'tied' if tied else 'untied'}-{rope}")
        for kv, name in ((8, "mha"), (2, "gqa"), (1, "mqa"))
        for tied in (True, False)
        for scaling, rope in ((None, "rope"), (SCALED, "scaled"))
    ]
)
def pair(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    """Our network and transformers' with the same random weights."""
    from transformers import LlamaConfig as TheirConfig
    from transformers import LlamaForCausalLM

    kv_heads, tied, scaling = request.param
    torch.manual_seed(11)
    config = make_config(kv_heads, tied=tied, scaling=scaling)
    ours = Decoder(config).eval()
    theirs = LlamaForCausalLM(TheirConfig(**config.to_hf())).eval()
    result = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert set(result.missing_keys) <= ({"lm_head.weight"} if tied else set())
    return ours, theirs


@torch.no_grad()
def test_logits_equal_transformers(pair) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = pair
    ids = torch.randint(0, VOCAB, (3, TOKENS), generator=torch.Generator().manual_seed(0))
    expected = theirs(ids).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours(ids, logits_to_keep=2), expected[:, -2:], atol=1e-4, rtol=0)


@torch.no_grad()
def test_left_padded_batch_with_cache_equals_transformers(pair) -> None:  # type: ignore[no-untyped-def]
    """A prompt in two pieces, then token by token, beside transformers' pass over everything at once."""
    ours, theirs = pair
    ids = torch.randint(0, VOCAB, (3, TOKENS), generator=torch.Generator().manual_seed(1))
    real = torch.ones(3, TOKENS, dtype=torch.long)
    real[0, :5] = 0
    real[1, :11] = 0
    positions = (real.cumsum(-1) - 1).clamp(min=0)
    expected = theirs(ids, attention_mask=real, position_ids=positions).logits
    cache = KVCache(ours.config, batch_size=3, capacity=TOKENS)
    pieces = []
    for start, end in [(0, 12), (12, 15), *((at, at + 1) for at in range(15, TOKENS))]:
        pieces.append(ours(ids[:, start:end], attention_mask=real[:, :end], kv_cache=cache))
    assert cache.length == TOKENS
    shown = real.bool()
    torch.testing.assert_close(torch.cat(pieces, 1)[shown], expected[shown], atol=1e-4, rtol=0)


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    torch.manual_seed(3)
    model = Decoder(make_config(2)).eval()
    ids = torch.randint(0, VOCAB, (1, 7))
    padded = torch.cat((torch.zeros(1, 4, dtype=torch.long), ids), dim=1)
    mask = torch.tensor([[0] * 4 + [1] * 7])
    out = model(padded, attention_mask=mask)
    assert out.isfinite().all()
    torch.testing.assert_close(out[:, 4:], model(ids), atol=1e-5, rtol=0)


@torch.no_grad()
def test_cache_without_mask_equals_one_pass() -> None:
    torch.manual_seed(4)
    model = Decoder(make_config(2)).eval()
    ids = torch.randint(0, VOCAB, (2, 9))
    cache = KVCache(model.config, 2, 9)
    pieces = [model(ids[:, a:b], kv_cache=cache) for a, b in ((0, 3), (3, 8), (8, 9))]
    torch.testing.assert_close(torch.cat(pieces, 1), model(ids), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="holds 9 tokens; 10"):
        model(ids[:, :1], kv_cache=cache)


@torch.no_grad()
def test_later_tokens_do_not_reach_earlier_logits() -> None:
    torch.manual_seed(5)
    model = Decoder(make_config()).eval()
    ids = torch.randint(0, VOCAB, (1, 10))
    changed = ids.clone()
    changed[0, 6] = (changed[0, 6] + 1) % VOCAB
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_rope_frequencies_by_hand() -> None:
    """theta^(-2i/d) from i = 0: the first pair turns by one radian a position."""
    frequencies = rope_frequencies(4, 10_000.0, None)
    torch.testing.assert_close(frequencies, torch.tensor([1.0, 0.01]))
    # Wavelengths 6.3 and 628 tokens; 16 / 4 = 4 is shorter than both, 16 / 1 = 16 lies between:
    # the first is blended, (16 / 6.283 - 1) / 3 = 0.5155 kept, the second slowed by 8.
    kept = (16 / (2 * math.pi) - 1) / 3
    expected = torch.tensor([kept + (1 - kept) / 8, 0.01 / 8])
    torch.testing.assert_close(rope_frequencies(4, 10_000.0, SCALED), expected)


def test_llama_3_8b_counts_its_published_parameters() -> None:
    config = DecoderConfig(
        128_256, 4096, 14_336, 32, 32, 8, 128, max_position_embeddings=8192, rope_theta=5e5
    )
    with torch.device("meta"):
        model = Decoder(config)
    assert sum(p.numel() for p in model.parameters()) == 8_030_261_248
    assert config.num_parameters() == 8_030_261_248


@pytest.mark.parametrize("kv_heads", [8, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_num_parameters_counts_the_network(kv_heads: int, tied: bool) -> None:
    config = make_config(kv_heads, tied=tied)
    assert config.num_parameters() == sum(p.numel() for p in Decoder(config).parameters())


def test_initial_weights() -> None:
    model = Decoder(make_config())
    assert model.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.2, rel=0.05)
    assert torch.equal(model.model.norm.weight, torch.ones(64))


def test_casting_leaves_rotary_tables_exact() -> None:
    model = Decoder(make_config())
    cos = model.model.rotary.cos.clone()
    model.to(torch.bfloat16)
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert torch.equal(model.model.rotary.cos, cos)
    assert model(torch.tensor([[1, 2]])).dtype == torch.bfloat16


@pytest.mark.parametrize("kv_heads", [6, 2, 1])
def test_composed_attention_equals_the_fused_one(kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 9, 8, generator=generator) for heads in (6, kv_heads, kv_heads))
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(composed_attention(q, k, v), fused)


def test_training_and_serving_agree_in_bfloat16() -> None:
    """With gradients a bfloat16 network may take another way through attention, to the same place."""
    torch.manual_seed(9)
    model = Decoder(make_config(2)).to(torch.bfloat16)
    ids = torch.randint(0, VOCAB, (2, 16))
    with torch.no_grad():
        served = model(ids).float()
    exact = model.float()(ids)
    trained = model.to(torch.bfloat16)(ids).float()
    assert (trained - exact).abs().mean() < 2 * (served - exact).abs().mean()


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(6)
    model = Decoder(make_config(), dropout=0.5)
    ids = torch.randint(0, VOCAB, (1, 8))
    assert not torch.equal(model.train()(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))


def test_compiles_without_graph_breaks() -> None:
    model = Decoder(make_config(2))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    ids = torch.randint(0, VOCAB, (2, 8))
    torch.testing.assert_close(compiled(ids), model(ids))


def test_trains() -> None:
    """A few steps of plain gradient descent on one batch lower its loss, and every weight gets a gradient."""
    torch.manual_seed(8)
    model = Decoder(make_config(2, tied=False))
    ids = torch.randint(0, VOCAB, (4, 16))
    losses = []
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
