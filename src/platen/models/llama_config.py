"""The shape of a Llama-family network, read from and written to a Hugging Face `config.json`.

One frozen dataclass in transformers' names. Reading refuses, by name, whatever the network in
`platen.models.llama` would compute wrongly: other architectures, biases, sliding windows, other rope types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from platen.core.errors import BundleError

if TYPE_CHECKING:
    from platen.models.config import ModelConfig
    from platen.tokens.tokenizer import Tokenizer

_TAKE_AGAIN = "Take config.json again from where the model comes from."
SUPPORTED_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's frequency scaling ("The Llama 3 Herd of Models", 2024, and Meta's reference code).

    Wavelengths longer than `original_max_position_embeddings / low_freq_factor` are stretched by `factor`,
    those shorter than `original_max_position_embeddings / high_freq_factor` are kept, between them the two
    are blended.
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True)
class LlamaConfig:
    """What decides a network's parameters and its function."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise BundleError(
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})",
                hint="Every group of query heads shares one key/value head; make one divide the other.",
            )
        if self.head_dim % 2:
            raise BundleError(
                f"head_dim ({self.head_dim}) is odd", hint="Rotary embeddings turn pairs; make it even."
            )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every id that ends a text (Llama 3.x chat models have several)."""
        if self.eos_token_id is None:
            return ()
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else self.eos_token_id

    def num_parameters(self) -> int:
        """Trainable parameters; tied embeddings count once."""
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        attention = self.hidden_size * (2 * queries + 2 * keys)
        mlp = 3 * self.hidden_size * self.intermediate_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return (
            embeddings + self.num_hidden_layers * (attention + mlp + 2 * self.hidden_size) + self.hidden_size
        )

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> LlamaConfig:
        """Read a parsed `config.json` of transformers 4 or 5.

        Raises BundleError when a key is missing or the model is one that Platen can't compute.
        """
        _refuse_unsupported(raw)
        wrong = [key for key in _REQUIRED if not _is_count(raw.get(key))]
        wrong += [key for key in _OPTIONAL if raw.get(key) is not None and not _is_count(raw[key])]
        if wrong:
            raise BundleError(
                f"config.json has no positive whole number under {', '.join(wrong)}",
                hint=_TAKE_AGAIN,
            )
        heads = raw["num_attention_heads"]
        eos = raw.get("eos_token_id")
        theta, scaling = _rope(raw)
        return cls(
            **{key: raw[key] for key in _REQUIRED},
            num_key_value_heads=raw.get("num_key_value_heads") or _default_kv_heads(raw),
            head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
            max_position_embeddings=raw.get("max_position_embeddings", 2048),
            rope_theta=theta,
            rope_scaling=scaling,
            rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            tie_word_embeddings=raw.get("tie_word_embeddings", False),
            initializer_range=raw.get("initializer_range", 0.02),
            bos_token_id=raw.get("bos_token_id"),
            eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
            pad_token_id=raw.get("pad_token_id"),
        )

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that transformers (4 and 5), vLLM and llama.cpp read back as this network."""
        scaling = self.rope_scaling
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_position_embeddings,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling
            and {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
            },
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": self.initializer_range,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(self.eos_token_id)
            if isinstance(self.eos_token_id, tuple)
            else self.eos_token_id,
            "pad_token_id": self.pad_token_id,
        }


_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)

_OPTIONAL = ("num_key_value_heads", "head_dim", "max_position_embeddings")

_MUST_BE: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    architectures = raw.get("architectures") or [f"model_type {raw.get('model_type', 'missing')!r}"]
    if architectures[0] not in SUPPORTED_ARCHITECTURES:
        raise BundleError(
            f"architecture {architectures[0]} is not supported",
            hint=f"Platen opens {' and '.join(SUPPORTED_ARCHITECTURES)} (Llama, SmolLM2, Mistral).",
        )
    # What transformers takes for a Mistral whose config.json leaves it out.
    unstated = {"sliding_window": 4096} if architectures[0] == "MistralForCausalLM" else {}
    for key, allowed in _MUST_BE.items():
        if (found := raw.get(key, unstated.get(key))) not in allowed:
            raise BundleError(
                f"{architectures[0]} with {key}: {found!r} is not supported",
                hint=f"Platen computes {key}: {allowed[0]!r} only.",
            )


def _default_kv_heads(raw: Mapping[str, Any]) -> int:
    """transformers' defaults where `num_key_value_heads` is left out: Mistral's is 8, Llama's one a head."""
    return 8 if raw.get("model_type") == "mistral" else int(raw["num_attention_heads"])


def _rope(raw: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling from transformers 5's `rope_parameters` or 4's `rope_theta` and `rope_scaling`."""
    parameters = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise BundleError(f"config.json: rope scaling is {parameters!r}, not an object", hint=_TAKE_AGAIN)
    theta = parameters.get("rope_theta", raw.get("rope_theta", 10_000.0))
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    if rope_type == "default":
        return float(theta), None
    if rope_type != "llama3":
        raise BundleError(
            f"rope type {rope_type!r} is not supported", hint="Platen computes default and llama3 rope."
        )
    try:
        scaling = RopeScaling(
            factor=float(parameters["factor"]),
            low_freq_factor=float(parameters["low_freq_factor"]),
            high_freq_factor=float(parameters["high_freq_factor"]),
            original_max_position_embeddings=int(parameters["original_max_position_embeddings"]),
        )
        return float(theta), scaling
    except KeyError as missing:
        complaint = f"rope scaling llama3 has no {missing.args[0]}"
    except (TypeError, ValueError) as error:
        complaint = f"rope scaling llama3: {error}"
    raise BundleError(f"config.json: {complaint}", hint=_TAKE_AGAIN)


def llama_config(model: ModelConfig, vocab_size: int, tokenizer: Tokenizer | None = None) -> LlamaConfig:
    """The network's config: the project file's shape and, once there is a tokenizer, its special tokens."""
    scaling = model.rope_scaling
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_key_value_heads or model.num_attention_heads,
        head_dim=model.hidden_size // model.num_attention_heads,
        max_position_embeddings=model.max_position_embeddings,
        rope_theta=model.rope_theta,
        rope_scaling=RopeScaling(**scaling.model_dump()) if scaling else None,
        rms_norm_eps=model.rms_norm_eps,
        tie_word_embeddings=model.tie_word_embeddings,
        bos_token_id=tokenizer.bos_id if tokenizer else None,
        eos_token_id=tokenizer.eos_id if tokenizer else None,
        pad_token_id=tokenizer.pad_id if tokenizer else None,
    )
