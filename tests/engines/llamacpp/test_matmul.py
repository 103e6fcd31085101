"""Products that take the place of llama.cpp's own: against NumPy, in any company, and inside llama.cpp."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from platen.compress.compile import compile_bundle
from platen.core.cpu import features, find_compiler
from platen.engines.llamacpp import matmul as matmul_module
from platen.engines.llamacpp.matmul import WRITTEN_FOR, load_matmul
from platen.engines.native import load_native
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.models.bundle import save_bundle
from platen.tokens.tokenizer import Tokenizer

FLOAT32, FLOAT16, Q8_0, BFLOAT16 = 0, 1, 8, 30
Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.skipif(
    find_compiler() is None or not {"avx512_vnni", "avx512vl"} <= features(), reason="no AVX-512 VNNI"
)


class Params(ctypes.Structure):
    """The beginning of ggml's structure of this name."""

    _fields_ = [("thread", ctypes.c_int), ("threads", ctypes.c_int)]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    found = load_native(Path(matmul_module.__file__).with_suffix(".cpp"))
    assert found is not None
    found.llamafile_sgemm.restype = ctypes.c_bool
    return found


def q8_0(values: Array) -> tuple[Array, Array]:
    """Rows of blocks as ggml writes them, 34 bytes each, and the numbers that these stand for."""
    blocks = values.reshape(*values.shape[:-1], -1, 32)
    scales = (np.abs(blocks).max(-1, keepdims=True) / 127).astype(np.float16)
    ints = np.rint(blocks / np.maximum(scales.astype(np.float32), 1e-8)).clip(-128, 127).astype(np.int8)
    stored = np.concatenate((scales.view(np.int8), ints), axis=-1)
    return stored.reshape(len(values), -1), (ints * scales.astype(np.float64)).reshape(values.shape)


def bfloat16(values: Array) -> tuple[Array, Array]:
    cut = torch.from_numpy(values).bfloat16()
    return cut.view(torch.int16).numpy(), cut.double().numpy()


def multiply(
    library: ctypes.CDLL, kind: int, weights: Array, tokens: Array, width: int, threads: int
) -> Array:
    """What all threads together make of it, (tokens, rows): each its share, whatever the order."""
    out = np.full((len(tokens), len(weights)), np.nan, np.float32)
    blocks = width // 32 if kind == Q8_0 else width
    sizes = [ctypes.c_int64(n) for n in (len(weights), len(tokens), blocks, blocks, blocks, len(weights))]
    m, n, k, lda, ldb, ldc = sizes
    for thread in reversed(range(threads)):
        assert library.llamafile_sgemm(
            ctypes.byref(Params(thread, threads)),
            *(m, n, k, weights.ctypes.data_as(ctypes.c_void_p), lda),
            *(tokens.ctypes.data_as(ctypes.c_void_p), ldb, out.ctypes.data_as(ctypes.c_void_p), ldc),
            *(kind, kind, FLOAT32),
        )
    return out


BLOCKS = st.one_of(st.integers(1, 40), st.integers(180, 400))
"""In a row: some 200 to 350 are laid out at a time."""
FORMS: list[Any] = [
    pytest.param(Q8_0, q8_0, 2, id="q8_0"),
    pytest.param(
        BFLOAT16,
        bfloat16,
        8,
        id="bfloat16",
        marks=pytest.mark.skipif("avx512_bf16" not in features(), reason="no products of bfloat16"),
    ),
]


@pytest.mark.parametrize(("kind", "store", "fewest"), FORMS)
@given(rows=st.integers(48, 90), more=st.integers(0, 33), blocks=BLOCKS, threads=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_products_are_numpys(
    library: ctypes.CDLL,
    kind: int,
    store: Callable[[Array], tuple[Array, Array]],
    fewest: int,
    rows: int,
    more: int,
    blocks: int,
    threads: int,
) -> None:
    count = fewest + more
    rng = np.random.default_rng(rows * count * blocks)
    weights, weights_meant = store(rng.normal(size=(rows, 32 * blocks)).astype(np.float32))
    tokens, tokens_meant = store((3 * rng.normal(size=(count, 32 * blocks))).astype(np.float32))
    got = multiply(library, kind, weights, tokens, 32 * blocks, threads)
    np.testing.assert_allclose(got, tokens_meant @ weights_meant.T, atol=1e-4 * blocks**0.5, rtol=1e-5)
    fewer = [
        multiply(library, kind, weights, tokens[at : at + fewest], 32 * blocks, 1)[0]
        for at in range(more + 1)
    ]
    np.testing.assert_array_equal(got[: more + 1], fewer)  # the same bits in any company


@given(rows=st.integers(48, 90), blocks=BLOCKS, threads=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_products_of_one_token_are_numpys(library: ctypes.CDLL, rows: int, blocks: int, threads: int) -> None:
    """A token of positive numbers alone: what is added to weights is then far from zero in the sum."""
    rng = np.random.default_rng(rows * blocks)
    weights, weights_meant = q8_0(rng.normal(size=(rows, 32 * blocks)).astype(np.float32))
    token, token_meant = q8_0(3 * np.abs(rng.normal(size=(1, 32 * blocks))).astype(np.float32))
    got = multiply(library, Q8_0, weights, token, 32 * blocks, threads)
    error = np.abs(got - token_meant @ weights_meant.T)
    assert (error <= 1e-6 * (np.abs(token_meant) @ np.abs(weights_meant).T)).all()


def test_the_ends_of_int8(library: ctypes.CDLL) -> None:
    """-128 to 127 on both sides: what is added to weights and taken off again must not run over."""
    ends = np.array([-128, 127, -128, 127, 0, -1, 1, -127] * 4, np.int8)
    scale = np.array([1.0], np.float16).view(np.int8)
    row = np.concatenate((scale, ends))
    weights = np.stack([row if i % 2 else np.concatenate((scale, np.flip(ends))) for i in range(16)])
    tokens = np.stack([row, np.concatenate((scale, np.full(32, -128, np.int8)))])
    expected = tokens[:, 2:].astype(np.int64) @ weights[:, 2:].astype(np.int64).T
    np.testing.assert_array_equal(multiply(library, Q8_0, weights, tokens, 32, 1), expected)
    for token, meant in zip(tokens, expected, strict=True):
        np.testing.assert_array_equal(multiply(library, Q8_0, weights, token[None], 32, 1), meant[None])


@pytest.mark.parametrize(
    ("kind", "rows", "count", "threads"),
    [(FLOAT16, 16, 2, 1), (Q8_0, 15, 2, 1), (Q8_0, 47, 2, 3), (BFLOAT16, 48, 7, 1)],
)
def test_others_are_left_to_llama_cpp(
    library: ctypes.CDLL, kind: int, rows: int, count: int, threads: int
) -> None:
    asked: list[tuple[int, ...]] = []

    @ctypes.CFUNCTYPE(
        ctypes.c_bool,
        *(ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p),
        *(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_int] * 3),
    )
    def own(_: int, m: int, n: int, k: int, *rest: int) -> bool:
        asked.append((m, n, k, rest[-3]))
        return True

    library.set_own_matmul(own)
    try:
        block = np.zeros((48, 68), np.int8)
        multiply(library, kind, block[:rows], block[:count], 32, threads)
    finally:
        library.set_own_matmul(None)
    assert asked == [(rows, count, 1 if kind == Q8_0 else 32, kind)] * threads


# -- inside llama.cpp ------------------------------------------------------------------------------


installed = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)


STEP = """
import sys
from pathlib import Path

import numpy as np

from platen.engines.llamacpp.runner import LlamaCppRunner
from platen.engines.batching.runner import Chunk


class Text:
    def __init__(self, seed):
        self.tokens = [(7 * seed + k) % 50 + 1 for k in range(6)]
        self.prompt_length, self.reserved = 6, 7


texts = [Text(seed) for seed in range(8)]
runner = LlamaCppRunner(Path(sys.argv[1]), context_window=64, max_rows=8, step_tokens=64, cache_bytes=2**28)
for text in texts:
    runner.admit(text, reuse=False)
np.save(sys.argv[2], runner.forward([Chunk(text, 0, 6, "all") for text in texts]))
"""


@installed
@pytest.mark.parametrize("weights", ["q8_0", "bf16"])
def test_llama_cpp_computes_with_them(weights: str, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Steps of eight differ from llama.cpp's own by rounding alone: they do differ, so ours were called."""
    if weights == "bf16" and "avx512_bf16" not in features():
        pytest.skip("no products of bfloat16")
    torch.manual_seed(5)
    config = DecoderConfig(
        vocab_size=tiny_tokenizer.vocab_size,
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    save_bundle(tmp_path / "bundle", Decoder(config).bfloat16(), tiny_tokenizer)
    compile_bundle(tmp_path / "bundle", tmp_path / "gguf", "gguf", weights=weights)
    script = tmp_path / "step.py"
    script.write_text(STEP)
    scores = []
    for compiler in ({}, {"CXX": "no-such-compiler"}):
        out = tmp_path / f"{len(scores)}.npy"
        subprocess.run(
            [sys.executable, str(script), str(tmp_path / "gguf" / "model.gguf"), str(out)],
            env={**os.environ, **compiler},
            check=True,
            timeout=120,
        )
        scores.append(np.load(out))
    ours, own = scores
    np.testing.assert_allclose(ours, own, atol=0.02 * float(np.abs(own).max()))
    assert not np.array_equal(ours, own)


@installed
def test_the_version_they_were_written_for_is_the_installed_one() -> None:
    """Another version may call the function with other arguments: look at it before this is raised."""
    assert metadata.version("llama-cpp-python") == WRITTEN_FOR


@installed
def test_what_is_not_the_package_they_were_written_for_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.setattr(matmul_module, "load_native", pytest.fail)
    monkeypatch.setattr(matmul_module, "features", lambda: {"avx512_vnni"})
    with monkeypatch.context() as patch:
        patch.setattr(metadata, "version", lambda _: "0.3.99")
        assert load_matmul.__wrapped__() is False
    with monkeypatch.context() as patch:
        patch.setenv("LLAMA_CPP_LIB_PATH", "/usr/lib")
        assert load_matmul.__wrapped__() is False
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "llama_cpp", sys)  # it is loaded already
        assert load_matmul.__wrapped__() is False
