"""A GGUF file made a bundle: config, weights dequantized, tokenizer, chat template, end tokens.

Weights become bfloat16 unless told otherwise: what most models were trained in, half of float32, and its
rounding (1 part in 256) is far below that of 4-bit weights. float32 keeps a file's numbers exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from platen.core.download import Report, no_report
from platen.core.errors import BundleError
from platen.models.arch.config import DecoderConfig
from platen.models.arch.tensors import stored_tensors
from platen.models.bundle import MAX_SHARD_BYTES, PLATEN_FILE, model_card
from platen.models.gguf import GgufModel
from platen.models.gguf_config import config_of
from platen.models.gguf_weights import DTYPES, GgufWeights, write_stored


def import_gguf(
    file: Path,
    out: Path,
    *,
    dtype: str = "bfloat16",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    report: Report = no_report,
) -> DecoderConfig:
    """Write the model in `file` into the empty folder `out`, in the format of its family.

    `report` is told the bytes written and all there are. Raises BundleError for an architecture, a
    quantization or a vocabulary that can't be imported, MissingExtraError.
    """
    if dtype not in DTYPES:
        raise BundleError(f"weights can't be {dtype!r}", hint=f"They can be {', '.join(DTYPES)}.")
    model = GgufModel.open(file)
    tokenizer = model.tokenizer()
    shapes = {tensor.name: tensor.shape for shard in model.shards for tensor in shard.tensors}
    if "token_embd.weight" not in shapes:
        raise BundleError(f"{file} has no tensor token_embd.weight", hint="Give a model's file.")
    eos = model.eos_ids
    config = replace(
        config_of(model.header, shapes),
        bos_token_id=tokenizer.bos_id,
        eos_token_id=eos[0] if len(eos) == 1 else eos or None,
        pad_token_id=tokenizer.pad_id,
    )
    weights = GgufWeights(model.shards, config, DTYPES[dtype])
    tensors = stored_tensors(config)
    total = sum(prod(stored.shape) for stored in tensors.values()) * DTYPES[dtype].itemsize
    done = 0

    def written(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    out.mkdir(parents=True, exist_ok=True)
    write_stored(out, tensors, weights.stored, DTYPES[dtype], max_shard_bytes, written)
    tokenizer.save(out)
    _write_json(out / "config.json", config.to_hf() | {"dtype": dtype})
    _write_json(out / PLATEN_FILE, {"tokenizer_sha256": tokenizer.sha256, "imported_from": file.name})
    _write_json(out / "generation_config.json", _generation(config, model.header.fields))
    (out / "README.md").write_text(_card(model, config, dtype), encoding="utf-8")
    return config


def _generation(config: DecoderConfig, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that begin and end a text, and how the model's makers would sample if the file says."""
    ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids) or None,
        "pad_token_id": config.pad_token_id,
    }
    names = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
    sampling = {
        name: fields[f"general.sampling.{key}"]
        for key, name in names.items()
        if f"general.sampling.{key}" in fields
    }
    return {key: id for key, id in ids.items() if id is not None} | {"do_sample": True} | sampling


def _card(model: GgufModel, config: DecoderConfig, dtype: str) -> str:
    fields = model.header.fields
    licence = fields.get("general.license")
    card = model_card(
        config,
        name=str(fields.get("general.name", model.name)),
        body=f"Imported from {model.path.name} (GGUF, mostly {model.weights}); weights are {dtype}.",
    )
    return card if licence is None else card.replace("---\n", f"---\nlicense: {licence}\n", 1)


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
