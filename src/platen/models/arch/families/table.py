"""What a family's table says, and what all tables share: the common keys of a `config.json`.

A family is data: its architecture's name, transformers' defaults for keys that a `config.json` may leave out,
what its keys mean for a `DecoderConfig` and back, and how its tensors are named and fused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from platen.core.errors import BundleError
from platen.models.arch.config import Activation, DecoderConfig
from platen.models.arch.families.rope import read_rope, write_rope

TAKE_AGAIN = "Take config.json again from where the model comes from."

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
ACTIVATION_NAMES = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}

COUNTS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
OPTIONAL_COUNTS = ("num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window")


@dataclass(frozen=True)
class Tensor:
    """Where our parameters whose names match `ours` are in a checkpoint: under the name `theirs`.

    Several of ours under one name are fused, in our order. `layout` is how: "rows" one below the other,
    "columns" the transpose of that, "heads" rows in turns of a head each (GPT-NeoX).
    """

    ours: str
    """A regular expression for all of a name."""
    theirs: str
    """With groups of `ours`, as `re.Match.expand` takes them."""
    layout: str = "rows"


@dataclass(frozen=True)
class Family:
    """One family's table."""

    name: str
    """transformers' model_type."""
    architecture: str
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    """The fields that are not common to all families, from a `config.json` with its defaults."""
    write: Callable[[DecoderConfig], dict[str, Any]]
    """The keys for them."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """transformers' values for keys that a `config.json` may leave out."""
    computed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Keys of which only these values are computed here; None and a missing key are always fine."""
    names: Mapping[str, str | None] = field(default_factory=dict)
    """This family's names of the common keys, where they differ; None: it has none, the default counts."""
    inner_factor: int = 0
    """intermediate_size over hidden_size where a `config.json` leaves the former out."""
    rope_theta: float = 10_000.0
    tensors: tuple[Tensor, ...] = ()
    known_as: tuple[tuple[str, str], ...] = ()
    """Other names in checkpoints of the family: what to replace in them, a regular expression, by what."""
    ignored: tuple[str, ...] = ()
    """Regular expressions for the beginnings of other tensors' names, which nothing is computed from."""


def read_common(family: Family, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The common fields. Raises BundleError naming the keys that are missing or no positive whole numbers."""
    keys = {name: family.names.get(name, key) or "" for name, key in _COMMON.items()}
    found: dict[str, Any] = {name: raw.get(key) for name, key in keys.items()}
    if family.inner_factor and found["intermediate_size"] is None and is_count(found["hidden_size"]):
        found["intermediate_size"] = family.inner_factor * found["hidden_size"]
    wrong = [name for name in COUNTS if not is_count(found[name])]
    wrong += [name for name in OPTIONAL_COUNTS if found[name] is not None and not is_count(found[name])]
    if wrong:
        named = ", ".join(keys[name] for name in wrong)
        raise BundleError(f"config.json has no positive whole number under {named}", hint=TAKE_AGAIN)
    heads, eos = found["num_attention_heads"], found["eos_token_id"]
    window = found["max_position_embeddings"] or 2048
    return {
        **{name: found[name] for name in COUNTS},
        "num_key_value_heads": found["num_key_value_heads"] or heads,
        "head_dim": found["head_dim"] or found["hidden_size"] // heads,
        "max_position_embeddings": window,
        "norm_eps": _number(found, "norm_eps", 1e-6),
        "tie_word_embeddings": bool(found["tie_word_embeddings"]),
        "initializer_range": _number(found, "initializer_range", 0.02),
        "bos_token_id": found["bos_token_id"],
        "eos_token_id": tuple(eos) if isinstance(eos, list) else eos,
        "pad_token_id": found["pad_token_id"],
        "activation": _activation(found["activation"]),
        "family": family.name,
        **read_rope(raw, window, family.rope_theta),
    }


def write_common(family: Family, config: DecoderConfig) -> dict[str, Any]:
    """The common keys, under the family's names."""
    eos = config.eos_token_id
    values: dict[str, Any] = {name: getattr(config, name) for name in _COMMON if name != "activation"}
    values["activation"] = ACTIVATION_NAMES[config.activation]
    values["eos_token_id"] = list(eos) if isinstance(eos, tuple) else eos
    renamed = {family.names.get(name, _COMMON[name]): value for name, value in values.items()}
    return {
        "architectures": [family.architecture],
        "model_type": family.name,
        **{name: value for name, value in renamed.items() if name is not None},
        **(write_rope(config) if config.positions == "rotary" else {}),
    }


# Common fields and the usual names of their keys; a family's own names are in its table.
_COMMON = {
    **{name: name for name in (*COUNTS, *OPTIONAL_COUNTS)},
    "norm_eps": "rms_norm_eps",
    "tie_word_embeddings": "tie_word_embeddings",
    "initializer_range": "initializer_range",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
    "activation": "hidden_act",
}


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(found: Mapping[str, Any], name: str, default: float) -> float:
    value = found[name]
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BundleError(f"config.json: {name} is {value!r}, not a number", hint=TAKE_AGAIN)
    return float(value)


def _activation(name: Any) -> Activation:
    if name is None:
        return "silu"
    if name not in ACTIVATIONS:
        raise BundleError(
            f"activation {name!r} is not supported", hint=f"Platen computes {', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[name]
