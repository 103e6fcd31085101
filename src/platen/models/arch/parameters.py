"""The names and shapes of a decoder's parameters: the same names for all families, nothing fused.

They are those of transformers' Llama, extended. With N a layer, E an expert:

    model.embed_tokens.weight                       (vocab_size, hidden_size)
    model.embed_positions.weight                    (max_position_embeddings, hidden_size): learned positions
    model.layers.N.input_layernorm                  before attention: norm_placement "pre" and "both"
    model.layers.N.self_attn.{q,k,v}_proj           weight (outputs, inputs), bias: attention_bias
    model.layers.N.self_attn.{q,k}_norm.weight      qk_norm: (head_dim) or (outputs)
    model.layers.N.self_attn.o_proj                 bias: output_bias
    model.layers.N.post_attention_layernorm         placement "pre": before the feed-forward layer, as in
                                                    Llama; "post" and "both": of what attention gives
    model.layers.N.pre_feedforward_layernorm        placement "both"
    model.layers.N.mlp.{gate,up,down}_proj          no gate_proj unless gated_mlp; bias: mlp_bias
    model.layers.N.post_feedforward_layernorm       placement "post" and "both": of what the layer gives
    model.layers.N.mlp.gate.weight                  the router, (num_experts, hidden_size)
    model.layers.N.mlp.experts.E.{gate,up,down}_proj.weight
    model.norm                                      before the output layer
    lm_head.weight                                  (vocab_size, hidden_size): unless tie_word_embeddings

Norms have a `weight` and, where they are LayerNorms, a `bias`.
"""

from __future__ import annotations

from collections.abc import Iterator

from platen.models.arch.config import DecoderConfig

Shape = tuple[int, ...]


def parameter_shapes(config: DecoderConfig) -> dict[str, Shape]:
    """The shape of every parameter by name, in the network's own order."""
    return dict(_parameters(config))


def projection_shapes(config: DecoderConfig) -> dict[str, tuple[int, int]]:
    """The (outputs, inputs) of each layer's linear projections outside of experts, by module name."""
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in _parameters(config)
        if name.endswith("_proj.weight") and ".experts." not in name
    }


def _parameters(config: DecoderConfig) -> Iterator[tuple[str, Shape]]:
    embedding = (config.vocab_size, config.hidden_size)
    yield "model.embed_tokens.weight", embedding
    if config.positions == "learned":
        yield "model.embed_positions.weight", (config.max_position_embeddings, config.hidden_size)
    for layer in range(config.num_hidden_layers):
        yield from _layer(config, layer)
    yield from _norm(config, "model.norm")
    if not config.tie_word_embeddings:
        yield "lm_head.weight", embedding


def _layer(config: DecoderConfig, layer: int) -> Iterator[tuple[str, Shape]]:
    prefix = f"model.layers.{layer}."
    hidden, queries, keys = config.hidden_size, config.query_size, config.key_size
    attention = f"{prefix}self_attn."
    for name, size in (("q", queries), ("k", keys), ("v", keys)):
        yield from _linear(f"{attention}{name}_proj", size, hidden, config.attention_bias)
    yield from _linear(f"{attention}o_proj", hidden, queries, config.output_bias)
    if config.qk_norm is not None:
        by_head = config.qk_norm == "head"
        yield f"{attention}q_norm.weight", (config.head_dim if by_head else queries,)
        yield f"{attention}k_norm.weight", (config.head_dim if by_head else keys,)
    yield from _mlp(config, layer, f"{prefix}mlp.")
    for name in norm_names(config):
        yield from _norm(config, f"{prefix}{name}")


def norm_names(config: DecoderConfig) -> tuple[str, ...]:
    """The norms of a layer."""
    return {
        "pre": ("input_layernorm", "post_attention_layernorm"),
        "post": ("post_attention_layernorm", "post_feedforward_layernorm"),
        "both": (
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ),
    }[config.norm_placement]


def _mlp(config: DecoderConfig, layer: int, prefix: str) -> Iterator[tuple[str, Shape]]:
    if not config.has_experts(layer):
        yield from _feed_forward(config, prefix, config.intermediate_size, config.mlp_bias)
        return
    yield f"{prefix}gate.weight", (config.num_experts, config.hidden_size)
    for expert in range(config.num_experts):
        yield from _feed_forward(config, f"{prefix}experts.{expert}.", config.moe_intermediate_size, False)


def _feed_forward(config: DecoderConfig, prefix: str, inner: int, bias: bool) -> Iterator[tuple[str, Shape]]:
    for name in ("gate_proj", "up_proj") if config.gated_mlp else ("up_proj",):
        yield from _linear(f"{prefix}{name}", inner, config.hidden_size, bias)
    yield from _linear(f"{prefix}down_proj", config.hidden_size, inner, bias)


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(config: DecoderConfig, name: str) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (config.hidden_size,)
    if config.norm == "layer":
        yield f"{name}.bias", (config.hidden_size,)
