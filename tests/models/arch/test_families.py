"""Every family against transformers: checkpoints both ways, logits, caches, padding, windows, parameters."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from platen.models.arch import attention
from platen.models.arch.attention import Visible
from platen.models.arch.cache import KVCache
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.models.arch.families import families
from platen.models.arch.parameters import parameter_shapes
from platen.models.arch.tensors import from_stored
from platen.models.bundle import open_bundle, save_bundle
from platen.tokens.tokenizer import Tokenizer
from tests.models.arch.small import CASES, WINDOW, make_theirs

TOKENS = 24
TOLERANCE: dict[str, Any] = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module", params=list(CASES))
def pair(
    request: pytest.FixtureRequest, tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Decoder, Any]:
    """transformers' network, and ours opened from what transformers saved."""
    theirs = make_theirs(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    tiny_tokenizer.save(folder)
    return open_bundle(folder).model, theirs


@cache
def tokens(rows: int = 3) -> Tensor:
    return torch.randint(3, 320, (rows, TOKENS), generator=torch.Generator().manual_seed(0))


def test_the_cases_are_of_all_families() -> None:
    from transformers import AutoConfig

    kinds = {AutoConfig.for_model(name).__class__.__name__ for name in families()}
    assert {case.config for case in CASES.values()} == kinds


@torch.no_grad()
def test_logits(pair: tuple[Decoder, Any]) -> None:
    ours, theirs = pair
    assert WINDOW < TOKENS
    expected = theirs(tokens()).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(ours(tokens()), expected, **TOLERANCE)
    short = tokens()[:, :WINDOW]
    torch.testing.assert_close(ours(short), theirs(short).logits, **TOLERANCE)


@torch.no_grad()
def test_left_padded_batch_with_cache(pair: tuple[Decoder, Any]) -> None:
    """A prompt in two chunks, then token by token, beside transformers' pass over everything at once."""
    ours, theirs = pair
    real = torch.ones(3, TOKENS, dtype=torch.long)
    real[0, :5] = 0
    real[1, :11] = 0
    positions = (real.cumsum(-1) - 1).clamp(min=0)
    expected = theirs(tokens(), attention_mask=real, position_ids=positions).logits
    cache = KVCache(ours.config, batch_size=3, capacity=TOKENS)
    found = []
    for start, end in [(0, 12), (12, 15), *((at, at + 1) for at in range(15, TOKENS))]:
        found.append(ours(tokens()[:, start:end], attention_mask=real[:, :end], kv_cache=cache))
    shown = real.bool()
    torch.testing.assert_close(torch.cat(found, 1)[shown], expected[shown], **TOLERANCE)


@torch.no_grad()
def test_greedy_continuation(pair: tuple[Decoder, Any]) -> None:
    """64 tokens: those of transformers' generate, and the logits of the whole sequence at once."""
    ours, theirs = pair
    prompt = tokens()[:1, :10]
    sequence = prompt
    cache = KVCache(ours.config, 1, 80)
    logits = ours(prompt, kv_cache=cache)
    for _ in range(64):
        sequence = torch.cat((sequence, logits[:, -1:].argmax(-1)), 1)
        logits = ours(sequence[:, -1:], kv_cache=cache)
    theirs.generation_config.eos_token_id = None
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=64
    )
    assert sequence.tolist() == expected.tolist()
    torch.testing.assert_close(logits[:, -1], ours(sequence)[:, -1], **TOLERANCE)


def test_parameters_are_those_of_transformers(pair: tuple[Decoder, Any]) -> None:
    ours, theirs = pair
    count = sum(parameter.numel() for parameter in theirs.parameters())
    assert ours.config.num_parameters() == count
    assert sum(parameter.numel() for parameter in ours.parameters()) == count
    shapes = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
    assert list(shapes.items()) == list(parameter_shapes(ours.config).items())


@torch.no_grad()
def test_transformers_opens_what_we_save(
    pair: tuple[Decoder, Any], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    ours, theirs = pair
    save_bundle(tmp_path, ours, tiny_tokenizer)
    reopened = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(reopened) is type(theirs)
    torch.testing.assert_close(reopened(tokens()).logits, theirs(tokens()).logits, **TOLERANCE)
    assert torch.equal(open_bundle(tmp_path).model(tokens()), ours(tokens()))


def test_every_weight_is_trained(pair: tuple[Decoder, Any]) -> None:
    """But for experts that no token was sent to."""
    ours, _ = pair
    ours(tokens()).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    ours.zero_grad()
    left_out = [name for name, grad in gradients.items() if grad is None or not grad.abs().sum() > 0]
    assert [name for name in left_out if ".experts." not in name and not name.endswith("k_proj.bias")] == []


@torch.no_grad()
def test_longrope_is_by_the_length_of_the_sequence() -> None:
    """Also where the length is told before all tokens are there, as for a prompt in chunks."""
    theirs = make_theirs("phi4-mini", original_max_position_embeddings=16)
    config = DecoderConfig.from_hf(theirs.config.to_dict())
    ours = Decoder(config).eval()
    ours.load_state_dict(dict(from_stored(config, theirs.state_dict())), strict=False)
    for length in (16, 17, TOKENS):
        expected = theirs(tokens()[:, :length]).logits
        torch.testing.assert_close(ours(tokens()[:, :length]), expected, **TOLERANCE)
        cache = KVCache(config, 3, length, sequence_length=length)
        found = [ours(tokens()[:, at : at + 4], kv_cache=cache) for at in range(0, length - length % 4, 4)]
        torch.testing.assert_close(torch.cat(found, 1), expected[:, : length - length % 4], **TOLERANCE)


@torch.no_grad()
def test_a_mask_is_never_of_all_tokens_by_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """With windows of 7 in a sequence of 2000; the blocks that are computed give what one gives."""
    theirs = make_theirs("gemma3", max_position_embeddings=2048)
    config = DecoderConfig.from_hf(theirs.config.to_dict())
    ours = Decoder(config).eval()
    ours.load_state_dict(dict(from_stored(config, theirs.state_dict())), strict=False)
    ids = torch.randint(3, 320, (1, 2000), generator=torch.Generator().manual_seed(5))
    made: list[int] = []
    mask = Visible.mask

    def noting(self: Visible, *arguments: Any) -> Tensor:
        result = mask(self, *arguments)
        made.append(result.numel())
        return result

    monkeypatch.setattr(Visible, "mask", noting)
    blockwise = ours(ids)
    assert made
    assert max(made) <= attention.QUERY_BLOCK * (attention.QUERY_BLOCK + WINDOW)
    monkeypatch.setattr(attention, "QUERY_BLOCK", 4096)
    torch.testing.assert_close(blockwise, ours(ids), **TOLERANCE)
    torch.testing.assert_close(blockwise, theirs(ids).logits, **TOLERANCE)


@torch.no_grad()
def test_the_language_model_in_a_gemma_3_with_images(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    text = make_theirs("gemma3")
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28
    )
    config = Gemma3Config(text_config=text.config, vision_config=vision, mm_tokens_per_image=4)
    whole = Gemma3ForConditionalGeneration(config).eval()
    whole.model.language_model.load_state_dict(text.model.state_dict())
    whole.save_pretrained(tmp_path)
    tiny_tokenizer.save(tmp_path)
    torch.testing.assert_close(open_bundle(tmp_path).model(tokens()), text(tokens()).logits, **TOLERANCE)
