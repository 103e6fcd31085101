"""An embedding model as a graph in OpenVINO's or ONNX's format, in a folder for sentence-transformers too."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from platen.core.errors import BundleError, MissingExtraError, first_line
from platen.core.files import replaced_folder
from platen.engines.embedding.embedder import Embedder, TransformersEncoder, open_embedder
from platen.engines.embedding.graph import write_record
from platen.models.bundle import PLATEN_FILE
from platen.models.classic.words import VECTORS_FILE
from platen.models.folder import bundle_fingerprint, find_bundle
from platen.models.sentence import GRAPHS, Backend, Pooling, SentenceConfig, sentence_files
from platen.models.store import remembered_digests
from platen.tokens.folder import CONFIG_FILE, TEMPLATE_FILE, TOKENIZER_FILE

MOST_APART = 1e-4
"""What a graph's vectors may lack to a cosine of 1 with the model's."""
_BESIDE = (
    "config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    CONFIG_FILE,
    PLATEN_FILE,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
)
_COMPARED = (
    "A cat sits on the mat.",
    "x",
    "Über allen Gipfeln ist Ruh. 日本語も少し。",
    "To be, or not to be: that is the question. " * 20,
)


def convert(path_or_name: Path | str, out: Path, to: Backend, *, pooling: Pooling | None = None) -> float:
    """Write the model as a graph into the new folder `out`; the least cosine with the model's own vectors.

    The folder is there when it is whole and its vectors are the model's. Raises BundleError,
    MissingExtraError.
    """
    path = find_bundle(path_or_name)
    if (path / VECTORS_FILE).is_file():
        raise BundleError(
            f"{path} holds word vectors, and no network that a graph could be made of",
            hint="Embed with them as they are: platen embed run.",
        )
    model = open_embedder(path, pooling=pooling, backend="torch")
    with replaced_folder(out) as new:
        (new / GRAPHS[to]).parent.mkdir()
        for name in _BESIDE:
            if (path / name).is_file():
                shutil.copyfile(path / name, new / name)
        _write_modules(new, model.config, model.dimensions)
        _write_graph(path, new / GRAPHS[to], to)
        cosine = _compare(model, open_embedder(new, backend=to))
        with remembered_digests() as digest:
            write_record(new, to, bundle_fingerprint(path, digest), digest)
    return cosine


def _write_modules(folder: Path, config: SentenceConfig, dimensions: int) -> None:
    """The pooling as sentence-transformers writes it, so that the folder needs no option to be opened."""
    for name, content in sentence_files(config, dimensions).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class _Network(nn.Module):
    """What is traced: ids (B, T) and mask (B, T) to hidden states (B, T, C)."""

    def __init__(self, encoder: TransformersEncoder) -> None:
        super().__init__()
        self.model, self._hidden_states = encoder.network, encoder.hidden_states

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self._hidden_states(input_ids, attention_mask)


def _write_graph(path: Path, file: Path, to: Backend) -> None:
    """Trace the network as transformers has it, which reads Llamas too, with sizes left open."""
    network = _Network(TransformersEncoder(path)).eval()
    network.model.config.use_cache = False
    ids = torch.ones(2, 7, dtype=torch.long)
    mask = ids.clone()
    mask[1, 4:] = 0
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every branch that it takes
        try:
            (_write_openvino if to == "openvino" else _write_onnx)(network, ids, mask, file)
        except ImportError:
            raise MissingExtraError(to, f"converting to {to}") from None
        except RuntimeError as error:
            raise BundleError(
                f"{path} can't be traced: {first_line(error)}", hint="Embed with --backend torch."
            ) from None


def _write_openvino(network: nn.Module, ids: Tensor, mask: Tensor, file: Path) -> None:
    import openvino as ov
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # What openvino.convert_model does, but for its messages to OpenVINO's makers.
    traced = TorchScriptPythonDecoder(network, example_input={"input_ids": ids, "attention_mask": mask})
    frontend: Any = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(traced))
    model.outputs[0].get_tensor().set_names({"last_hidden_state"})
    ov.save_model(model, file, compress_to_fp16=False)


def _write_onnx(network: nn.Module, ids: Tensor, mask: Tensor, file: Path) -> None:
    import onnx  # noqa: F401  # the exporter needs it, and says so with an error of another kind

    inputs, output = ["input_ids", "attention_mask"], "last_hidden_state"
    torch.onnx.export(
        network,
        (ids, mask),
        file,
        input_names=inputs,
        output_names=[output],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in (*inputs, output)},
        opset_version=17,
        dynamo=False,  # the newer exporter takes five times as long and needs two further packages
    )


def _compare(model: Embedder, graph: Embedder) -> float:
    """The least cosine between the two's vectors of some texts. Raises BundleError when they differ."""
    ids = model.token_ids(_COMPARED, model.max_tokens)
    ours, theirs = model.embed(ids), graph.embed(ids)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = float(((ours * theirs).sum(axis=1) / lengths).min())
    if not cosine > 1 - MOST_APART:
        raise BundleError(
            f"the graph's vectors are not the model's: a cosine of {cosine:.5f}",
            hint="Embed with --backend torch.",
        )
    return cosine
