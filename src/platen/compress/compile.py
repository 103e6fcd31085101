"""Turns a bundle into the form that a compiled engine runs; the result names the bundle it came from."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from platen.errors import BundleError, MissingExtraError
from platen.models.bundle import bundle_fingerprint, open_bundle, read_json

COMPILED_FILE = "compiled.json"
_BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
           "chat_template.jinja", "platen.json")

OpenVinoWeights = Literal["int8", "int4", "bf16"]
INT4_GROUP = 64
"""Weights that share one scale in `int4`; smaller groups are more exact and a little larger."""


@dataclass(frozen=True)
class Compiled:
    """What a compiled folder says of itself."""

    to: str
    weights: str
    bundle_fingerprint: str


def read_compiled(folder: Path) -> Compiled | None:
    """What `folder` holds when it is a compiled model, None when it is not one."""
    if not (folder / COMPILED_FILE).is_file():
        return None
    raw = read_json(folder / COMPILED_FILE)
    try:
        return Compiled(**raw)
    except TypeError:
        raise BundleError(f"{folder / COMPILED_FILE} is damaged", hint="Compile the bundle again.") from None


def compile_openvino(bundle: Path | str, out: Path, weights: OpenVinoWeights = "int8") -> Compiled:
    """Write `bundle` as an OpenVINO model into the folder `out`, its tokenizer beside it.

    `int8` keeps a scale for each output channel, `int4` one for each 64 weights of it; embeddings and
    output layer are int8 in both. Raises MissingExtraError, BundleError.
    """
    try:
        import nncf
        import openvino as ov
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    from platen.compress.openvino_graph import build_graph

    if weights not in get_args(OpenVinoWeights):
        raise BundleError(f"OpenVINO weights can't be {weights!r}", hint="int8, int4 or bf16")
    opened = open_bundle(bundle)
    graph = build_graph(opened.config, opened.model.state_dict())
    if weights == "int8":
        graph = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM)
    elif weights == "int4":
        graph = nncf.compress_weights(
            graph,
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=INT4_GROUP,
            ratio=1.0,
            advanced_parameters=nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
            ),
        )
    out.mkdir(parents=True, exist_ok=True)
    ov.save_model(graph, out / "openvino_model.xml", compress_to_fp16=False)
    for name in _BESIDE:
        if (opened.path / name).is_file():
            shutil.copyfile(opened.path / name, out / name)
    compiled = Compiled("openvino", weights, bundle_fingerprint(opened.path))
    (out / COMPILED_FILE).write_text(json.dumps(asdict(compiled), indent=2) + "\n", encoding="utf-8")
    return compiled
