"""Graphs of embedding models, OpenVINO's and ONNX's: made, compared, run instead of the weights."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from platen.cli.main import app
from platen.core.errors import BundleError, ConfigError, DataError, PlatenError
from platen.engines.embedding.embedder import open_embedder
from platen.models.classic.word_vectors import WordVectors
from platen.models.classic.words import Vocabulary
from platen.models.sentence import GRAPHS, Backend, is_embedding_folder
from platen.retrieve.convert import convert
from platen.retrieve.embedders import open_model
from platen.retrieve.stamp import Stamp
from tests.conftest import TEXT
from tests.small_tokenizer import small_tokenizer

TEXTS = ["To be, or not to be", "x", "", "slings and arrows " * 40, "Über allen Gipfeln"]
FORMS: tuple[Backend, ...] = ("openvino", "onnx")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT as sentence-transformers publishes one, pooled by its first token, not normalized."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "bert"
    tokenizer = small_tokenizer([TEXT] * 3, 320, tokenizer_class="PreTrainedTokenizerFast")
    tokenizer.save(folder)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "modules.json").write_text(
        json.dumps([{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules])
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    return folder


@pytest.fixture(scope="module")
def graphs(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Backend, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    for to in FORMS:
        assert convert(bert, folder / to, to) == pytest.approx(1, abs=1e-6)
    return {to: folder / to for to in FORMS}


@pytest.mark.parametrize("to", FORMS)
def test_a_graph_gives_the_model_s_vectors_under_the_model_s_fingerprint(
    bert: Path, graphs: dict[Backend, Path], to: Backend
) -> None:
    model, graph = open_embedder(bert), open_embedder(graphs[to])
    assert not list(graphs[to].glob("*.safetensors"))
    assert (graph.encoder.name, graph.fingerprint) == (to, model.fingerprint)
    assert (graph.dimensions, graph.max_tokens) == (model.dimensions, model.max_tokens) == (32, 64)
    texts = [text for text in TEXTS if text]
    ids = model.token_ids(texts, model.max_tokens)
    assert graph.token_ids(texts, graph.max_tokens) == ids
    expected = model.embed(ids)
    assert (np.linalg.norm(expected, axis=1) > 2).all()  # not normalized
    np.testing.assert_allclose(graph.embed(ids), expected, atol=1e-4)
    assert is_embedding_folder(graphs[to])


@pytest.mark.parametrize("to", FORMS)
def test_a_bundle_s_graph_keeps_its_pooling(tiny_bundle: Path, tmp_path: Path, to: Backend) -> None:
    convert(tiny_bundle, tmp_path / "graph", to, pooling="last")
    model, graph = open_embedder(tiny_bundle, pooling="last"), open_embedder(tmp_path / "graph")
    assert (graph.config, graph.fingerprint) == (model.config, model.fingerprint)
    ids = model.token_ids(TEXTS, model.max_tokens)
    np.testing.assert_allclose(graph.embed(ids), model.embed(ids), atol=1e-4)


def test_vectors_of_model_and_graph_go_together_and_say_who_made_them(
    bert: Path, graphs: dict[Backend, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATEN_CACHE", str(tmp_path / "cache"))
    out = str(tmp_path / "vectors.parquet")

    def embed(*arguments: str, given: str | None = None) -> str:
        result = CliRunner().invoke(app, ["embed", *arguments], input=given)
        if isinstance(result.exception, PlatenError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    given = '{"text": "slings"}\n{"text": "arrows"}\n'
    said = embed("run", "-", "--model", str(graphs["openvino"]), "--out", out, given=given)
    assert ", by openvino, " in said
    assert embed("search", out, "slings", "--model", str(bert)).startswith(" 1.000")
    assert embed("search", out, "arrows", "--model", str(graphs["onnx"]), "-n", "1").endswith("arrows\n")
    swapped = "".join(reversed(given.splitlines(keepends=True)))
    said = embed("run", "-", "--model", str(bert), "--append", "--out", out, given=swapped)
    assert "2 vectors added, 0 there already (2 known before)" in said  # the graph's, which are the model's


def test_a_graph_of_unknown_make_has_a_fingerprint_of_its_own(
    bert: Path, graphs: dict[Backend, Path], tmp_path: Path
) -> None:
    published = Path(shutil.copytree(bert, tmp_path / "published"))
    shutil.copytree(graphs["onnx"] / "onnx", published / "onnx")
    torch_, onnx = (open_model(published, role="query", backend=backend) for backend in ("torch", "onnx"))
    assert open_model(published, role="query").stamp == torch_.stamp
    assert open_model(published, role="query", backend="onnx").stamp == onnx.stamp
    with pytest.raises(DataError, match="different models"):
        torch_.stamp.check_comparable(onnx.stamp, "file")
    changed = Path(shutil.copytree(graphs["onnx"], tmp_path / "changed"))
    with (changed / GRAPHS["onnx"]).open("ab") as file:
        file.write(b"\x1a\x00")  # an empty documentation string: the graph is the same, the file is not
    own = open_embedder(changed).fingerprint
    assert own not in (torch_.stamp.fingerprint, onnx.stamp.fingerprint)


@pytest.mark.filterwarnings("ignore")  # tracing warns of every branch that it takes
def test_a_published_graph_may_have_the_inputs_and_outputs_of_other_exporters(
    bert: Path, tmp_path: Path
) -> None:
    """As optimum writes them: types of tokens come in, a pooled vector goes out beside the hidden states."""
    from transformers import AutoModel

    network = AutoModel.from_pretrained(bert).eval().requires_grad_(False)

    class Exported(torch.nn.Module):
        def forward(
            self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor
        ) -> tuple[torch.Tensor, ...]:
            hidden = network(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
            return hidden[:, 0], hidden

    folder = Path(shutil.copytree(bert, tmp_path / "published"))
    (folder / "onnx").mkdir()
    names = ["input_ids", "attention_mask", "token_type_ids"]
    ones = torch.ones(2, 5, dtype=torch.long)
    torch.onnx.export(
        Exported(),
        (ones, ones, torch.zeros_like(ones)),
        folder / GRAPHS["onnx"],
        input_names=names,
        output_names=["sentence_embedding", "token_embeddings"],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in [*names, "token_embeddings"]},
        dynamo=False,
    )
    model, graph = open_embedder(bert), open_embedder(folder, backend="onnx")
    ids = model.token_ids(["To be", "or not to be"])
    np.testing.assert_allclose(graph.embed(ids), model.embed(ids), atol=1e-4)


def test_what_can_not_be_run_is_refused(bert: Path, graphs: dict[Backend, Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no openvino/openvino_model\.xml") as missing:
        open_embedder(bert, backend="openvino")
    assert "platen embed convert" in str(missing.value)
    for asked in ("torch", "openvino"):
        with pytest.raises(BundleError, match="has a graph for onnx, and no weights") as only_graph:
            open_embedder(graphs["onnx"], backend=asked)
        assert "embed convert" not in str(only_graph.value), "of a graph nothing else can be made"
    damaged = Path(shutil.copytree(graphs["openvino"], tmp_path / "damaged"))
    (damaged / GRAPHS["openvino"]).write_text("<net")
    with pytest.raises(BundleError, match=r"OpenVINO can't open .*: Unable to read the model"):
        open_embedder(damaged)
    truncated = Path(shutil.copytree(bert, tmp_path / "truncated"))
    (truncated / "model.safetensors").write_bytes(b"\x00" * 50)
    with pytest.raises(BundleError, match="transformers can't open"):
        open_embedder(truncated)
    command = ["embed", "convert", str(bert), str(graphs["onnx"])]
    assert isinstance(CliRunner().invoke(app, command).exception, ConfigError)


def test_what_is_no_model_is_told_by_what_it_is(graphs: dict[Backend, Path], tmp_path: Path) -> None:
    """None of these would be mended by copying the folder again: they are whole."""
    vectors = WordVectors(Vocabulary.of(Counter(["cat"])), np.ones((4, 2), dtype=np.float32))
    vectors.save(tmp_path / "words")
    small_tokenizer([TEXT], 300).save(tmp_path / "tokenizer")
    (tmp_path / "texts").mkdir()
    for folder, says in {
        tmp_path / "words": "holds word vectors",
        tmp_path / "tokenizer": "holds a tokenizer and no model",
        tmp_path / "texts": "Give the folder of a model",
        graphs["openvino"]: "give the model that the graph was made from",
    }.items():
        with pytest.raises(BundleError, match=says) as refused:
            convert(folder, tmp_path / "out", "onnx")
        assert "again" not in str(refused.value)
        assert not (tmp_path / "out").exists()


def test_a_graph_that_differs_from_the_model_is_not_kept(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platen.retrieve.convert.MOST_APART", -1e-3)
    with pytest.raises(BundleError, match="not the model's"):
        convert(bert, tmp_path / "graph", "openvino")
    assert not list(tmp_path.iterdir())


def test_stamps_from_before_there_were_backends_are_read() -> None:
    stamp = Stamp("m", "0", "mean", True, 2, "", "torch")
    old = json.loads(stamp.metadata()[b"platen.vectors"])
    del old["backend"]
    read = Stamp.read({b"platen.vectors": json.dumps(old).encode()}, "file")
    read.check_same(stamp, "file")
