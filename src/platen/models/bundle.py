"""A model as a folder in Hugging Face's format: `config.json`, safetensors, tokenizer, model card.

Opens what Platen wrote and any folder or Hub name of the families in `platen.models.arch`. What it writes, in
the family's own format, transformers opens. `platen.json` records the tokenizer that belongs to the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from platen.core.artifacts import sha256_file
from platen.core.errors import BundleError
from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.models.arch.tensors import CheckpointNames, from_stored, stored_tensors, to_stored
from platen.models.folder import bundle_fingerprint, find_bundle, read_json
from platen.models.weights import read_tensors, write_tensors
from platen.tokens.convert import open_tokenizer
from platen.tokens.folder import TOKENIZER_FILE
from platen.tokens.tokenizer import Tokenizer

PLATEN_FILE = "platen.json"
MAX_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Bundle:
    """An opened model. `config.eos_token_ids` and the tokenizer's `eos_id` end a text."""

    model: Decoder
    tokenizer: Tokenizer
    config: DecoderConfig
    path: Path

    @cached_property
    def fingerprint(self) -> str:
        """Hash of config, tokenizer and weights (16 hex digits), read at the first use."""
        return bundle_fingerprint(self.path)


def open_bundle(
    path_or_name: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> Bundle:
    """Open a model folder, or a Hugging Face Hub name such as `HuggingFaceTB/SmolLM2-135M`.

    `dtype` None keeps that of the files. Weights are mapped, not read, so a large model opens at once. The
    model comes in eval mode. Raises BundleError: not there, unsupported, damaged, or parts that disagree.
    """
    path = find_bundle(path_or_name)
    config = DecoderConfig.from_hf(read_json(path / "config.json"))
    tokenizer = open_tokenizer(path)
    _check_tokenizer(path, tokenizer, config)
    with torch.device("meta"), _NoInitialisation():
        model = Decoder(config)
    shapes = {name: stored.shape for name, stored in stored_tensors(config).items()}
    tensors = read_tensors(path, shapes, CheckpointNames(config), dtype=dtype, device=device)
    model.load_state_dict(dict(from_stored(config, tensors)), assign=True)
    model.reset_tables(torch.device(device))
    return Bundle(model=model.eval(), tokenizer=tokenizer, config=config, path=path)


def save_bundle(
    out: Path,
    model: Decoder,
    tokenizer: Tokenizer,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    card: str | None = None,
) -> None:
    """Write the model and its tokenizer into the folder `out`, which must be a stage's own or empty.

    `card` is the text of the model card (`README.md`); a plain one when None. Raises BundleError when the
    tokenizer has more entries than the embedding, or the disk refuses.
    """
    config = replace(
        model.config,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=model.config.eos_token_id if tokenizer.eos_id is None else tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    _check_vocabulary(tokenizer, config)
    out.mkdir(parents=True, exist_ok=True)
    weights = to_stored(config, model.state_dict())
    dtype = str(model.output_weight.dtype).removeprefix("torch.")
    write_tensors(out, weights, max_shard_bytes)
    tokenizer.save(out)
    _write_json(out / "config.json", config.to_hf() | {"dtype": dtype})
    _write_json(out / PLATEN_FILE, {"tokenizer_sha256": tokenizer.sha256})
    ids = {"bos": config.bos_token_id, "eos": config.to_hf()["eos_token_id"], "pad": config.pad_token_id}
    _write_json(
        out / "generation_config.json",
        {f"{name}_token_id": found for name, found in ids.items() if found is not None} | {"do_sample": True},
    )
    (out / "README.md").write_text(card or model_card(config), encoding="utf-8")


def model_card(config: DecoderConfig, *, name: str = "A language model", body: str = "") -> str:
    """A model card in the Hub's format: shape and how to open it, then `body` (Markdown)."""
    architecture = config.to_hf()["architectures"][0]
    grouped = f"{config.num_attention_heads} query and {config.num_key_value_heads} key/value heads"
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n"
        f"# {name}\n\n"
        f"A model of the architecture {architecture} with {config.num_parameters():,} parameters: "
        f"{config.num_hidden_layers} layers, width {config.hidden_size}, {grouped}, "
        f"{config.vocab_size:,} tokens, context window {config.max_position_embeddings:,}.\n\n"
        "Serve this folder with `platen serve`, or open it with\n"
        "`transformers.AutoModelForCausalLM.from_pretrained`.\n" + (f"\n{body.strip()}\n" if body else "")
    )


class _NoInitialisation(TorchFunctionMode):
    """Leaves out `torch.nn.init`: on the meta device it does nothing but import PyTorch's compiler (3 s)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)


def _check_tokenizer(path: Path, tokenizer: Tokenizer, config: DecoderConfig) -> None:
    _check_vocabulary(tokenizer, config)
    if not (path / PLATEN_FILE).is_file():
        return
    recorded = read_json(path / PLATEN_FILE).get("tokenizer_sha256")
    # Of a folder whose other files name more tokens, the file itself may have been recorded.
    if recorded != tokenizer.sha256 and recorded != sha256_file(path / TOKENIZER_FILE):
        raise BundleError(
            f"{path / TOKENIZER_FILE} is not the tokenizer that this model was trained with "
            f"(sha256 {tokenizer.sha256[:12]}…, recorded {str(recorded)[:12]}…)",
            hint="Put back the model's own tokenizer.json; another would give it wrong ids.",
        )


def _check_vocabulary(tokenizer: Tokenizer, config: DecoderConfig) -> None:
    if tokenizer.base_vocab_size > config.vocab_size:
        raise BundleError(
            f"the tokenizer has {tokenizer.base_vocab_size:,} entries, the model's embedding only "
            f"{config.vocab_size:,}",
            hint="Model and tokenizer are of different models; use the tokenizer it was trained with.",
        )


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
