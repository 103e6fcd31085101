"""Models at services elsewhere that speak OpenAI's API: `remote:URL?tokenizer=…`.

Prompts go there as token ids, so the model's tokenizer must be at hand: `tokenizer` is a folder or any other
reference to a model that has the same. `model` is its name at the service; `window` the tokens of its context
window, by default what the tokenizer's own config.json says; `key_env` the environment variable with the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit, urlunsplit

from platen.core.errors import ConfigError
from platen.core.phases import Phase
from platen.engines.options import EngineOptions
from platen.engines.registry import EngineSpec

if TYPE_CHECKING:
    from platen.engines.protocol import Engine
    from platen.engines.remote.config import UpstreamConfig
    from platen.models.resolve import ResolvedModel

_KNOWN = {"tokenizer", "model", "window", "key_env"}


def upstream_of(address: str, max_concurrent: int) -> UpstreamConfig:
    """The service at an address. Raises ConfigError when it is none, or has settings that are not known."""
    from pydantic import ValidationError

    from platen.core.errors import complaint
    from platen.engines.remote.config import UpstreamConfig

    parts, settings = urlsplit(address), _settings(address)
    if "model" not in settings:
        raise ConfigError(
            "a remote model needs its name at the service", hint="Add it: remote:URL?model=NAME&tokenizer=…"
        )
    try:
        return UpstreamConfig(
            name=settings["model"],
            base_url=urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")),
            api_key_env=settings.get("key_env"),
            max_concurrent=max_concurrent,
        )
    except ValidationError as error:
        raise ConfigError(
            f"remote:{parts.scheme}://{parts.hostname} is no service: {complaint(error.errors()[0])}",
            hint="As in remote:http://127.0.0.1:8000/v1?model=NAME&tokenizer=FOLDER",
        ) from None


def _settings(address: str) -> dict[str, str]:
    found = {key: values[-1] for key, values in parse_qs(urlsplit(address).query).items()}
    if unknown := sorted(found.keys() - _KNOWN):
        raise ConfigError(
            f"a remote model has no setting {unknown[0]!r}", hint=f"It has {', '.join(sorted(_KNOWN))}."
        )
    return found


def _window(model: ResolvedModel) -> int:
    stated = _settings(model.address).get("window")
    if stated is None:
        return model.config.context_window
    if not stated.isdecimal() or int(stated) < 1:
        raise ConfigError(f"a remote model's window is {stated!r}", hint="Give its tokens: window=4096")
    return int(stated)


def _open(model: ResolvedModel, options: EngineOptions, phase: Phase) -> Engine:
    from platen.engines.remote.engine import RemoteEngine

    with phase("start engine"):
        return RemoteEngine(
            upstream_of(model.address, options.max_concurrent),
            context_window=_window(model),
            vocab_size=model.tokenizer.vocab_size,
            max_queue=options.max_queue,
            on_close=model.release,
        )


SPEC = EngineSpec(
    name="remote", forms=("remote",), open=_open, extra="serve", module="httptools", devices=(), rank=90
)
