"""The compiled kernels against PyTorch's operations, alone and in company, and what is done without them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from platen.core.cpu import find_compiler
from platen.engines.torch.cpu.accelerate import accelerate
from platen.engines.torch.cpu.kernels import (
    HEAD_SIZES,
    NO_WINDOW,
    Kernels,
    Scoring,
    kernels_for,
    load_kernels,
    pack_weight,
)
from platen.models.arch.cache import KVCache
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.models.arch.rope import rotate

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")


CONFIG = DecoderConfig(
    vocab_size=320,
    hidden_size=96,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    initializer_range=0.25,
    eos_token_id=0,
)


def plain() -> Decoder:
    """Weights as models are published: bfloat16's values."""
    torch.manual_seed(3)
    return Decoder(CONFIG).bfloat16().float().eval()


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    found = load_kernels()
    assert found is not None
    return found


def close(got: Tensor, expected: Tensor, scoring: Scoring | None = None) -> None:
    """Within float32's rounding, which the softmax multiplies by the scores' size."""
    atol = 5e-6 if scoring is None else 1e-4 * max(scoring.scale, 0.05)
    torch.testing.assert_close(got, expected, atol=atol, rtol=5e-6)


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_norms_and_gates_are_pytorchs(kernels: Kernels, rows: int) -> None:
    torch.manual_seed(rows)
    x, gain = torch.randn(rows, 3, 96) * 3, torch.randn(96)
    close(kernels.rms_norm(x, gain, 1e-5), F.rms_norm(x, (96,), gain, 1e-5))
    gate, up = (x * 20).chunk(2, dim=-1)
    torch.testing.assert_close(kernels.gated(x * 20), F.silu(gate) * up, atol=1e-6, rtol=1e-5)
    gelu = F.gelu(gate, approximate="tanh") * up
    torch.testing.assert_close(kernels.gated(x * 20, gelu=True), gelu, atol=1e-4, rtol=1e-5)


def test_gates_hold_at_the_ends_of_float32(kernels: Kernels) -> None:
    gate = torch.tensor([0.0, -0.0, 1e-30, -200.0, 200.0, -1e30, 1e30, 88.0] * 2)
    got = kernels.gated(torch.cat((gate, torch.ones(16)))[None])[0]
    torch.testing.assert_close(got, F.silu(gate), atol=1e-30, rtol=1e-6)
    assert kernels.gated(torch.full((1, 32), torch.nan)).isnan().all()


@given(rows=st.integers(1, 40), outputs=st.integers(1, 100), inputs=st.integers(1, 70), added=st.booleans())
@settings(max_examples=60, deadline=None)
def test_products_are_pytorchs(kernels: Kernels, rows: int, outputs: int, inputs: int, added: bool) -> None:
    torch.manual_seed(rows)
    weight, x = torch.randn(outputs, inputs).bfloat16().float(), torch.randn(rows, inputs)
    beside = torch.randn(rows, outputs) if added else None
    expected = (x.double() @ weight.double().T).float() + (0 if beside is None else beside)
    got = kernels.matmul(x, pack_weight(weight), outputs, beside)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


class Case:
    """Rows of a cache that hold different numbers of tokens, and new ones for each."""

    def __init__(
        self,
        rows: int,
        tokens: int,
        held: list[int],
        heads: int,
        group: int,
        size: int,
        scoring: Scoring | None = None,
        *,
        rotated: int | None = None,
        normed: bool = False,
    ) -> None:
        torch.manual_seed(7 * rows + tokens)
        width = (heads * group + 2 * heads) * size
        self.rows, self.tokens, self.size, self.group = rows, tokens, size, group
        self.scoring = scoring or Scoring(size**-0.5)
        self.starts = torch.tensor(held[:rows])
        self.qkv = torch.randn(rows, tokens, width)
        rotated = size if rotated is None else rotated
        angles = torch.rand(rows, 1, tokens, rotated // 2) * 6
        self.cos, self.sin = angles.cos().repeat(1, 1, 1, 2), torch.cat((-angles.sin(), angles.sin()), -1)
        self.rotated = rotated > 0
        self.gains = (1 + 0.3 * torch.randn(size), 1 + 0.3 * torch.randn(size)) if normed else None
        capacity = max(held) + tokens + 3
        self.keys, self.values = torch.randn(2, rows, heads, capacity, size)

    def queries(self, kernels: Kernels) -> Tensor:
        angles = (self.cos, self.sin) if self.rotated else None
        return kernels.rotate_and_keep(
            self.qkv, angles, self.keys, self.values, self.starts, self.gains, 1e-6
        )

    def ours(self, kernels: Kernels) -> Tensor:
        queries = self.queries(kernels)
        return kernels.attend(queries, self.keys, self.values, self.starts, self.scoring)

    def expected(self) -> Tensor:
        """By PyTorch in float64, row by row; (B, T, H * D)."""
        heads = self.keys.shape[1]
        split = self.qkv.view(self.rows, self.tokens, -1, self.size).transpose(1, 2).double()
        q, k, v = split.split((heads * self.group, heads, heads), dim=1)
        if self.gains is not None:
            q = F.rms_norm(q, (self.size,), self.gains[0].double(), 1e-6)
            k = F.rms_norm(k, (self.size,), self.gains[1].double(), 1e-6)
        if self.rotated:
            q, k = (rotate(x, self.cos.double(), self.sin.double()) for x in (q, k))
        outs = []
        for row, start in enumerate(self.starts.tolist()):
            keys = torch.cat((self.keys[row, :, :start], k[row]), 1).repeat_interleave(self.group, dim=0)
            values = torch.cat((self.values[row, :, :start], v[row]), 1).repeat_interleave(self.group, dim=0)
            scores = q[row] @ keys.transpose(1, 2) * self.scoring.scale
            if self.scoring.softcap:
                scores = self.scoring.softcap * torch.tanh(scores / self.scoring.softcap)
            new = torch.arange(start, start + self.tokens)[:, None]
            old = torch.arange(start + self.tokens)
            seen = (old <= new) & (old > new - self.scoring.window)
            y = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values
            outs.append(y.transpose(0, 1).reshape(self.tokens, -1))
        return torch.stack(outs).float()


SCORINGS = st.builds(
    Scoring,
    scale=st.sampled_from([0.05, 0.25]),
    softcap=st.sampled_from([0.0, 1.5, 50.0]),
    window=st.sampled_from([1, 5, 64, 70, NO_WINDOW]),
)


@pytest.mark.parametrize("size", HEAD_SIZES)
@given(data=st.data(), scoring=SCORINGS, normed=st.booleans(), share=st.sampled_from([0, 0.5, 0.75, 1]))
@settings(max_examples=20, deadline=None)
def test_rows_of_different_lengths_attend_as_by_pytorch(
    kernels: Kernels, size: int, data: st.DataObject, scoring: Scoring, normed: bool, share: float
) -> None:
    rows, tokens = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    held = data.draw(st.lists(st.integers(0, 140), min_size=rows, max_size=rows))
    heads, group, rotated = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4)), int(share * size)
    case = Case(rows, tokens, held, heads, group, size, scoring, rotated=rotated, normed=normed)
    expected = case.expected()
    close(case.ours(kernels), expected, scoring)


@pytest.mark.parametrize("size", HEAD_SIZES)
@given(data=st.data(), scoring=SCORINGS)
@settings(max_examples=20, deadline=None)
def test_prompts_attend_as_by_pytorch(
    kernels: Kernels, size: int, data: st.DataObject, scoring: Scoring
) -> None:
    start, tokens = data.draw(st.integers(0, 90)), data.draw(st.integers(1, 150))
    rows, heads, group = (
        data.draw(st.integers(1, 2)),
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 4)),
    )
    case = Case(rows, tokens, [start] * rows, heads, group, size, scoring)
    expected = case.expected()
    queries = case.queries(kernels)
    close(kernels.attend_prompt(queries, case.keys, case.values, start, scoring), expected, scoring)


@pytest.mark.parametrize("scoring", [Scoring(0.125), Scoring(0.125, 20.0, 40)], ids=["all", "window"])
def test_a_row_attends_the_same_in_any_company(kernels: Kernels, scoring: Scoring) -> None:
    """Or a seeded request would read otherwise in a full batch, and a draft change the text."""
    held = [5, 63, 200, 17, 131, 64, 1, 90]
    whole = Case(8, 6, held, 2, 3, 64, scoring)
    together = whole.ours(kernels)
    for row in range(8):
        for tokens in (1, 2, 5):
            alone = copy.copy(whole)
            alone.rows, alone.tokens, alone.starts = 1, tokens, whole.starts[row : row + 1]
            alone.qkv = whole.qkv[row : row + 1, :tokens].contiguous()
            alone.cos = whole.cos[row : row + 1, :, :tokens].contiguous()
            alone.sin = whole.sin[row : row + 1, :, :tokens].contiguous()
            alone.keys = whole.keys[row : row + 1].clone()
            alone.values = whole.values[row : row + 1].clone()
            assert torch.equal(alone.ours(kernels)[0], together[row, :tokens]), (row, tokens)


@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_layers_give_the_same_with_and_without_kernels(tokens: int) -> None:
    """Padded on the left too, where a token doesn't look at all that comes before."""
    ids = torch.arange(1, 2 * tokens + 41).reshape(2, -1) % CONFIG.vocab_size
    unpacked, packed = plain(), plain()
    assert accelerate(packed)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    for padding in (None, mask):
        outs = []
        for model in (unpacked, packed):
            cache = KVCache(model.config, 2, ids.shape[1])
            with torch.inference_mode():
                first = None if padding is None else padding[:, :20]
                begun = model(ids[:, :20], attention_mask=first, kv_cache=cache)
                rest = model(ids[:, 20:], attention_mask=padding, kv_cache=cache)
            outs.append(torch.cat((begun, rest), 1)[0 if padding is None else 1, 7:])
        torch.testing.assert_close(outs[1], outs[0], atol=1e-4, rtol=1e-4)


def test_sizes_that_there_is_no_code_for_are_left_to_pytorch() -> None:
    assert kernels_for(CONFIG) is not None
    for change in ({"head_dim": 24}, {"hidden_size": 104}, {"intermediate_size": 72}):
        assert kernels_for(replace(CONFIG, **change)) is None


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Kernels | None]:
    """Loads anew, with a cache folder of its own."""
    monkeypatch.setenv("PLATEN_CACHE", str(tmp_path / "cache"))
    return load_kernels.__wrapped__


def test_they_are_compiled_once(load: Callable[[], Kernels | None], tmp_path: Path) -> None:
    assert load() is not None
    (library,) = (tmp_path / "cache" / "kernels").iterdir()
    made = library.stat().st_mtime_ns
    assert load() is not None
    assert [file.stat().st_mtime_ns for file in library.parent.iterdir()] == [made]


def test_a_cache_that_cannot_be_written_is_done_without(
    load: Callable[[], Kernels | None], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert load() is not None


def test_without_a_compiler_or_with_a_broken_one_pytorch_computes(
    load: Callable[[], Kernels | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert load() is None
    assert not caplog.records
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\necho "no such header" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with caplog.at_level(logging.WARNING):
        assert load() is None
    assert "no such header" in caplog.text
    assert not (tmp_path / "cache" / "kernels").exists()
