"""The models that ours is compared with: a plain transformers loop and a small character GPT."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM


def transformers_llama(vocab_size: int, context: int = 256) -> LlamaForCausalLM:
    """2.85 million parameters at 1,024 entries: width 192, 6 layers, 6 heads."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=context,
            tie_word_embeddings=True,
        )
    )


class LogitsOnly(nn.Module):
    """A transformers model that gives its logits alone, as the evaluation calls a model."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, *, logits_to_keep: int = 0) -> Tensor:
        logits: Tensor = self.model(input_ids, logits_to_keep=logits_to_keep).logits
        return logits


class CharacterGPT(nn.Module):
    """GPT-2's layout at the size that nanoGPT's README gives for a CPU: 4 layers, 4 heads, width 128.

    Learned positions, LayerNorm before each part, GELU, tied output, no biases and no dropout.
    """

    def __init__(self, vocab_size: int, block: int = 64, width: int = 128, layers: int = 4, heads: int = 4):
        super().__init__()
        self.token = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(block, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scale = 0.02 / math.sqrt(2 * layers) if name.endswith("out.weight") else 0.02
                nn.init.normal_(parameter, std=scale)

    def forward(self, input_ids: Tensor, *, logits_to_keep: int = 0) -> Tensor:
        x = self.token(input_ids) + self.position.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x)[:, -logits_to_keep:], self.token.weight)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(y.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp_out(F.gelu(self.up(self.norm2(x))))
