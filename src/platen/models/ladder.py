"""The ablation ladder: four small networks between a bigram model and Llama, each one idea above the last.

`feedforward` sees one token; `rmsnorm` normalises before its feed-forward layer; `rope_attention` puts
causal attention with rotary positions before that; `swiglu` replaces the ReLU layer by Llama's gated one.
The next rung is the real Llama: many such blocks, a residual stream through the feed-forward layers too,
and a last norm. The parts are Llama's own, so a rung differs from the one below by exactly what it says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from platen.core.errors import BundleError, first_line
from platen.models.arch.attention import Attention, Visible
from platen.models.arch.config import DecoderConfig
from platen.models.arch.from_project import llama_config
from platen.models.arch.layers import FeedForward, RMSNorm
from platen.models.arch.rope import RotaryTables, rope_frequencies
from platen.models.config import ModelConfig
from platen.tokens.tokenizer import Tokenizer

Rung = Literal["feedforward", "rmsnorm", "rope_attention", "swiglu"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
MODEL_TYPE = "platen_ladder"


class ReLULayer(nn.Module):
    """The baseline's feed-forward layer: linear (C, C) with bias, then ReLU."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(x))


class LadderModel(nn.Module):
    """One rung: embedding, one block as far as the rung has it, output layer.

    `config` is that of a one-layer Llama of the same shape. Weights start as PyTorch's layers do, which for
    the embedding is normal(0, 1): from Llama's 0.02 a single block takes long to find the current token under
    what attention adds to it, and looks worse than no attention at all. A tied embedding is the output layer
    too, so it starts from 0.02. `dropout` acts in train mode on what each part gives.
    """

    def __init__(self, rung: Rung, config: DecoderConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        level = RUNGS.index(rung)
        self.rung = rung
        self.config = config
        self.dropout = dropout
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = RMSNorm(config.hidden_size, config.norm_eps) if level >= 1 else None
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps) if level >= 2 else None
        self.attention = Attention(config, 0) if level >= 2 else None
        self.rotary = _rotary(config) if level >= 2 else None
        self.feed_forward: nn.Module = FeedForward(config) if level >= 3 else ReLULayer(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            nn.init.normal_(self.embed_tokens.weight, std=config.initializer_range)
            self.head.weight = self.embed_tokens.weight

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """What the output layer reads, (B, T, C)."""
        x = self.embed_tokens(input_ids)
        if self.attention is not None and self.attention_norm is not None and self.rotary is not None:
            tokens = input_ids.shape[1]
            self.rotary.reach(tokens)
            cos, sin = self.rotary.cos[:tokens].to(x.dtype), self.rotary.sin[:tokens].to(x.dtype)
            attended = self.attention(self.attention_norm(x), (cos, sin), Visible(tokens), None)
            x = x + F.dropout(attended, self.dropout, self.training)
        x = self.feed_forward(x if self.norm is None else self.norm(x))
        return F.dropout(x, self.dropout, self.training)

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        kv_cache: object | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """Logits (B, T, V) of the token after each of `input_ids` (B, T), as `Decoder` gives them.

        With `logits_to_keep` n > 0 only the last n positions come out. The ladder is for comparison, not
        for serving: padding and caching raise ValueError.
        """
        if attention_mask is not None or position_ids is not None or kv_cache is not None:
            raise ValueError("a ladder model takes whole unpadded rows and no cache")
        return self.head(self.hidden_states(input_ids)[:, -logits_to_keep:])  # type: ignore[no-any-return]


def _rotary(config: DecoderConfig) -> RotaryTables:
    frequencies = partial(rope_frequencies, config.rotary_dim, config.rope_theta, config.rope_scaling)
    return RotaryTables(frequencies, config.rotary_dim, config.max_position_embeddings)


@dataclass(frozen=True)
class Baseline:
    """An opened ladder model."""

    model: LadderModel
    tokenizer: Tokenizer
    config: DecoderConfig
    path: Path


def build(model_config: ModelConfig, vocab_size: int, *, dropout: float = 0.0) -> LadderModel:
    """The network of the rung that `model_config.architecture` names; `num_hidden_layers` is not used."""
    if model_config.architecture == "llama":
        raise ValueError("llama is not a rung; it is in platen.models.arch.decoder")
    config = replace(llama_config(model_config, vocab_size), num_hidden_layers=1)
    return LadderModel(model_config.architecture, config, dropout=dropout)


def save(out: Path, model: LadderModel, tokenizer: Tokenizer) -> None:
    """Write `config.json`, `model.safetensors` and the tokenizer into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    raw: dict[str, Any] = {
        **model.config.to_hf(),
        "architectures": ["PlatenLadder"],
        "model_type": MODEL_TYPE,
        "rung": model.rung,
    }
    (out / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["head.weight"]
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(out)


def is_ladder(path: Path) -> bool:
    """Whether the folder holds a ladder model."""
    try:
        raw = json.loads((path / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(raw, dict) and raw.get("model_type") == MODEL_TYPE


def open(path: Path) -> Baseline:
    """Open what `save` wrote, in evaluation mode. Raises BundleError when it is damaged."""
    try:
        raw = json.loads((path / "config.json").read_text("utf-8"))
        config = DecoderConfig.from_hf({**raw, "architectures": ["LlamaForCausalLM"], "model_type": "llama"})
        model = LadderModel(raw["rung"], config)
        tensors = load_file(path / "model.safetensors")
        if config.tie_word_embeddings:
            tensors["head.weight"] = tensors["embed_tokens.weight"]
        model.load_state_dict(tensors)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = first_line(error)
        raise BundleError(
            f"{path} holds no ladder model that can be opened: {reason}", hint="train it again"
        ) from error
    return Baseline(model.eval(), Tokenizer.from_dir(path), config, path)
