"""An embedding model's network as a graph that OpenVINO computes on the CPU: its own format, or ONNX.

The graphs lie in a model's folder where sentence-transformers puts them. Whoever publishes one does not say
what it was made from, so its vectors have a fingerprint of their own; those that `platen embed convert` made
and compared with the model's say it in a record and have the model's.
(sentence-transformers runs graphs through optimum, whose releases for ONNX ask for an older transformers.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from platen.core.errors import BundleError, MissingExtraError, last_line
from platen.engines.embedding.embedder import ENCODER_ADVICE, llama_ids
from platen.models.folder import bundle_fingerprint, read_json
from platen.models.hub_models import open_config, positions
from platen.models.sentence import GRAPHS, Backend
from platen.tokens.tokenizer import Tokenizer

RECORD = "converted.json"
_HIDDEN = ("last_hidden_state", "token_embeddings")
"""What exporters call the hidden states; sentence-transformers' have a `sentence_embedding` beside them."""


class GraphEncoder:
    """A graph in float32. Calls wait for each other: one takes all cores."""

    def __init__(self, path: Path, backend: Backend, *, llama: bool) -> None:
        try:
            import openvino as ov
        except ImportError:
            raise MissingExtraError("openvino", f"the backend {backend}") from None
        self.name: str = backend
        file = path / GRAPHS[backend]
        if not file.is_file():
            raise BundleError(
                f"{path} has no {GRAPHS[backend]}",
                hint=f"platen embed convert {path} OUT --to {backend} makes one from the weights.",
            )
        self._tokenizer, self._llama = Tokenizer.from_dir(path), llama
        config = open_config(path, advice=ENCODER_ADVICE)
        self.hidden_size, self.vocab_size = config.hidden_size, config.vocab_size
        self.max_tokens = positions(config)
        try:
            model = ov.Core().read_model(file)
            self._inputs = {port.get_any_name(): port.element_type.to_dtype() for port in model.inputs}
            self._output = _hidden_output(model, file, self.hidden_size)
            self.parameters = _weights(model)
            # The CPU plugin would compute in bfloat16 where the processor can, which changes the third digit.
            settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            self._request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise BundleError(
                f"OpenVINO can't open {file}: {last_line(error)}",
                hint="Copy or convert the model again.",
            ) from None
        unknown = self._inputs.keys() - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown:
            raise BundleError(
                f"{file} has an input {min(unknown)}, which Platen does not give",
                hint="Convert the model with platen embed convert.",
            )
        self._lock = Lock()

    def token_ids(self, texts: Sequence[str], limit: int | None) -> list[list[int]]:
        if self._llama:
            return llama_ids(self._tokenizer, texts, limit)
        return self._tokenizer.encode_with_special_tokens(texts, limit=limit)

    def hidden_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        inputs = {name: given[name].numpy().astype(dtype) for name, dtype in self._inputs.items()}
        with self._lock:
            found = self._request.infer(inputs)[self._output]
            return torch.from_numpy(np.array(found, dtype=np.float32))


def graph_fingerprint(path: Path, backend: Backend, digest: Callable[[Path], str]) -> str:
    """What `bundle_fingerprint` is for weights: 16 hex digits that change when the graph's vectors do.

    Those of the model that it was made from, if a record says so of this very graph and tokenizer.
    """
    own = _own_fingerprint(path, backend, digest)
    record = read_json(path / RECORD) if (path / RECORD).is_file() else {}
    return str(record["made_from"]) if record.get("fingerprint") == own else own


def write_record(path: Path, backend: Backend, made_from: str, digest: Callable[[Path], str]) -> None:
    """Say that the graph in a folder gives the vectors of the model with the fingerprint `made_from`."""
    record = {"made_from": made_from, "fingerprint": _own_fingerprint(path, backend, digest)}
    (path / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _own_fingerprint(path: Path, backend: Backend, digest: Callable[[Path], str]) -> str:
    graph = path / GRAPHS[backend]
    files = sorted(file for file in graph.parent.iterdir() if file.name.startswith(f"{graph.stem}."))
    digests = "".join(f"{file.name}:{digest(file)}\n" for file in files)
    return hashlib.sha256(f"{bundle_fingerprint(path, digest)} {digests}".encode()).hexdigest()[:16]


def _hidden_output(model: Any, file: Path, size: int) -> int:
    """The place among the graph's outputs of the hidden states (B, T, C)."""
    found = {}
    for place, port in enumerate(model.outputs):
        shape = port.get_partial_shape()
        if shape.rank.is_static and len(shape) == 3 and shape[2].is_dynamic | (str(shape[2]) == str(size)):
            found[place] = port.get_names()
    named = [place for place, names in found.items() if names & set(_HIDDEN)]
    if len(found) != 1 and len(named) != 1:
        raise BundleError(
            f"{file} does not give the last hidden states, {size} numbers a token",
            hint="Convert the model with platen embed convert.",
        )
    return named[0] if named else next(iter(found))


def _weights(model: Any) -> int:
    """The graph's numbers in floating point."""
    constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    return sum(
        int(np.prod(list(node.get_output_shape(0))))
        for node in constants
        if node.get_output_element_type(0).is_real()
    )
