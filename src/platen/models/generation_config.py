"""`generation_config.json`: the tokens that end a model's texts, and how its makers would sample.

As vLLM's `--generation-config auto` takes it: what a request leaves out, the model's file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from platen.core.errors import BundleError
from platen.models.folder import read_json

FILE = "generation_config.json"
T = TypeVar("T")
NO_BIASES: Mapping[int, float] = {}
_NEVER = -100.0
"""Added to a token's logit, as OpenAI's API bans one."""


@dataclass(frozen=True)
class SamplingDefaults:
    """What a request is given that leaves these out; None where the model has no wish."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that are never to be taken."""

    def as_dict(self) -> dict[str, float]:
        """The numbers that the model has a wish for, by name."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, (int, float))}

    def biases(self, given: Mapping[int, float] = NO_BIASES) -> tuple[tuple[int, float], ...]:
        """A request's biases of logits, with those that keep the suppressed tokens away."""
        return tuple((dict.fromkeys(self.suppress_tokens, _NEVER) | dict(given)).items())


NO_DEFAULTS = SamplingDefaults()


@dataclass(frozen=True)
class GenerationConfig:
    """`eos_token_ids` end a text beside those that the model's config and its tokenizer name."""

    eos_token_ids: tuple[int, ...] = ()
    sampling: SamplingDefaults = NO_DEFAULTS


def read_generation_config(folder: Path, vocab_size: int) -> GenerationConfig:
    """What the file in a model's folder says, if there is one, of the tokens that the model has.

    Raises BundleError for values out of range.
    """
    file = folder / FILE
    if not file.is_file():
        return GenerationConfig()
    raw = read_json(file)
    temperature = _number(file, raw, "temperature", 0, None)
    if raw.get("do_sample") is False:  # said, not left out: the likeliest token always
        temperature = 0.0
    top_k = _number(file, raw, "top_k", -1, None)
    sampling = SamplingDefaults(
        temperature=temperature,
        top_k=None if top_k is None else max(0, int(top_k)),
        top_p=_number(file, raw, "top_p", 1e-9, 1),
        min_p=_number(file, raw, "min_p", 0, 1),
        repetition_penalty=_number(file, raw, "repetition_penalty", 1e-9, None),
        suppress_tokens=_ids(file, raw, "suppress_tokens", vocab_size),
    )
    return GenerationConfig(_ids(file, raw, "eos_token_id", vocab_size), sampling)


def first_given(given: T | None, own: T | None, otherwise: T) -> T:
    """What a request says, else what its model says, else the value that holds for all."""
    if given is not None:
        return given
    return otherwise if own is None else own


def _ids(file: Path, raw: dict[str, Any], name: str, vocab_size: int) -> tuple[int, ...]:
    value = raw.get(name)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(id, int) and id >= 0 for id in ids):
        raise _invalid(file, name, value, "a token id or a list of them")
    return tuple(id for id in ids if id < vocab_size)


def _number(file: Path, raw: dict[str, Any], name: str, least: float, most: float | None) -> float | None:
    value = raw.get(name)
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or value < least or (most is not None and value > most):
        raise _invalid(
            file, name, value, f"a number of at least {least:g}" + (f", at most {most:g}" if most else "")
        )
    return float(value)


def _invalid(file: Path, name: str, value: object, wanted: str) -> BundleError:
    return BundleError(
        f"{file}: {name} is {value!r}, and should be {wanted}",
        hint="Correct it, or take the file from where the model comes from.",
    )
