"""The project file's `serve.upstreams`: models at OpenAI-compatible services elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from platen.core.checks import check_base_url, check_variable_name
from platen.core.config import PathInFile, PositiveInt, Section, Text
from platen.core.errors import ConfigError


class UpstreamConfig(Section):
    """A model at an OpenAI-compatible service elsewhere, offered here under a name of its own."""

    name: Text
    """The model's name for this server's clients."""
    base_url: Annotated[Text, AfterValidator(check_base_url)]
    """Address of the service's API, usually ending in /v1. Credentials do not belong in it."""
    model: Text | None = None
    """The model's name at the service; default: `name`."""
    api_key_env: Annotated[str, AfterValidator(check_variable_name)] | None = None
    """Name of the environment variable that holds the service's key; none is sent when absent."""
    redact: bool = False
    """Take secrets and personal data out of what is sent there."""
    proxy: Literal["environment", "none"] = "environment"
    """Whether HTTP_PROXY, HTTPS_PROXY and NO_PROXY are obeyed."""
    http2: bool = False
    """Speak HTTP/2 with the service where it offers it."""
    ca_file: Text | None = None
    """PEM file of the authorities that may vouch for the service; default: the system's."""
    client_certificate: Text | None = None
    """PEM file of the certificate that the service asks for."""
    client_key: Text | None = None
    """PEM file of the certificate's private key, if it is not in the same file."""
    connect_seconds: Annotated[float, Field(gt=0, le=600)] = 5.0
    """How long a connection may take to be made."""
    read_seconds: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """How long the service may be silent before or within an answer."""
    max_concurrent: PositiveInt = 256
    """Requests on their way at once; more go to the fallbacks, or are answered 429."""
    max_retries: Annotated[int, Field(ge=0, le=20)] = 2
    """Attempts after the first, on status 408, 409, 429 and 5xx and when the connection fails."""
    retry_delay_seconds: Annotated[float, Field(ge=0, le=60)] = 0.5
    """Wait before the first retry. Doubles with each retry, with jitter; Retry-After can lengthen it."""
    breaker_failures: PositiveInt = 5
    """After this many failures in a row the service is left alone for `breaker_seconds`."""
    breaker_seconds: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """How long it is left alone, before a single request tries it again."""
    stream_usage: bool = True
    """Ask for token counts in streams (`stream_options`); without them tokens are estimated."""
    fallbacks: tuple[Text, ...] = ()
    """Upstreams or models of this server that answer instead, in this order, when this one can't."""

    def paths(self) -> Iterator[PathInFile]:
        for key in ("ca_file", "client_certificate", "client_key"):
            if (name := getattr(self, key)) is not None:
                yield PathInFile(key, name, "file", self)

    def located(self, directory: Path) -> UpstreamConfig:
        """With paths as seen from anywhere; in the file they are relative to its `directory`."""
        names = ("ca_file", "client_certificate", "client_key")
        found = {key: str(directory / name) for key in names if (name := getattr(self, key)) is not None}
        return self.model_copy(update=found)

    @property
    def remote_model(self) -> str:
        """The model's name at the service."""
        return self.model or self.name

    def key(self) -> str:
        """The service's key from the environment, empty when it has none. Raises ConfigError without one."""
        if self.api_key_env is None:
            return ""
        key = os.environ.get(self.api_key_env, "").strip()
        where = (
            f"the environment variable {self.api_key_env}, which holds the key of the upstream {self.name}"
        )
        if not key:
            raise ConfigError(f"{where}, is not set", hint=f"export {self.api_key_env}=…")
        if not key.isascii() or not key.isprintable():
            raise ConfigError(f"{where}, has characters that no key has", hint="set it to the key alone")
        return key
