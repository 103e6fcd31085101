"""The project file's `serve`: the HTTP service, who may use it, its guards and its further models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from platen.checks import check_base_url, check_variable_name
from platen.errors import ConfigError
from platen.projectparts import PositiveInt, Section, Text

SecretKind = Literal["email", "phone", "card", "iban", "ip", "key", "jwt", "private_key", "password"]
GuardAction = Literal["off", "log", "mask", "refuse"]
GuardMask = Literal["label", "hash", "drop"]


class InjectionGuard(Section):
    """Looks in what comes in for attempts to turn the model against its instructions."""

    input: Literal["off", "log", "refuse"] = "off"
    """What is done: `log` only says so."""
    threshold: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Weight of clues from which it acts; lower finds more, and more that is harmless."""


class SecretsGuard(Section):
    """Looks for secrets and personal data."""

    input: GuardAction = "off"
    """In what comes in, and in what a gateway sends to others."""
    output: GuardAction = "off"
    """In answers."""
    kinds: Annotated[tuple[SecretKind, ...], Field(min_length=1)] = get_args(SecretKind)
    """Which kinds."""
    mask: GuardMask = "label"
    """What `mask` puts in its place: `[EMAIL]`, `[EMAIL:1f3a9c02]` (equal for equal secrets), or nothing."""


class BlocklistGuard(Section):
    """Looks for words and patterns of your own."""

    input: GuardAction = "off"
    """In what comes in."""
    output: GuardAction = "off"
    """In answers."""
    words: Text | None = None
    """A file with a word or phrase a line, without wildcards, `#` before comments; case, accents and
    look-alike letters make no difference."""
    patterns: Text | None = None
    """A file with a regular expression a line, `#` before comments; what repeats must be bounded."""

    def located(self, directory: Path) -> BlocklistGuard:
        """With paths as seen from anywhere; in the file they are relative to its `directory`."""
        files = {"words": self.words, "patterns": self.patterns}
        found = {key: str(directory / name) for key, name in files.items() if name is not None}
        return self.model_copy(update=found)

    @model_validator(mode="after")
    def _has_a_list(self) -> BlocklistGuard:
        if (self.input, self.output) != ("off", "off") and self.words is None and self.patterns is None:
            raise ValueError("a block list needs a file: words or patterns")
        return self


class CanaryGuard(Section):
    """Puts a secret mark into system prompts and looks for it in answers."""

    output: Literal["off", "log", "refuse"] = "off"
    """What is done with an answer that has it."""


class GuardsConfig(Section):
    """What may not go into the model or come out of it. All guards are off until they are asked for."""

    injection: InjectionGuard = InjectionGuard()
    """Prompt injection."""
    secrets: SecretsGuard = SecretsGuard()
    """Secrets and personal data."""
    blocklist: BlocklistGuard = BlocklistGuard()
    """Your own lists."""
    canary: CanaryGuard = CanaryGuard()
    """Leaks of the system prompt."""
    on_input: Literal["error", "refusal"] = "error"
    """A refused request gets an error (400, content_filter), or an answer that is a refusal."""


class PriceConfig(Section):
    """What a million tokens cost, in a currency of your choice."""

    prompt: Annotated[float, Field(ge=0)] = 0.0
    """Tokens read."""
    completion: Annotated[float, Field(ge=0)] = 0.0
    """Tokens written."""


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


class BatchingConfig(Section):
    """Texts of concurrent requests that are embedded in one call."""

    max_texts: PositiveInt = 64
    """Most texts in a call."""
    max_tokens: PositiveInt = 16_384
    """Most tokens in a call."""
    max_delay_seconds: Annotated[float, Field(ge=0, le=10)] = 0.002
    """How long a text waits for company while nothing is computed."""
    max_queue: PositiveInt = 4096
    """Texts that may wait; beyond them requests are answered 429 with Retry-After."""


class ServedModelConfig(Section):
    """A further model in the same server."""

    name: Text
    """Its name in the API."""
    path: Text
    """Its folder, relative to the project file, its URL, its Hub name or a registered MODEL@VERSION."""
    kind: Literal["auto", "text", "embedding"] = "auto"
    """Whether it writes text or makes embeddings; auto goes by what the folder holds."""
    pooling: Literal["mean", "last", "first", "max"] | None = None
    """How a text's last hidden states become its embedding; default: as the folder says, else the mean."""


class VllmConfig(Section):
    """How vLLM is started, on a machine that has it."""

    tensor_parallel_size: PositiveInt = 1
    """GPUs over which each layer is cut."""
    pipeline_parallel_size: PositiveInt = 1
    """Groups of GPUs over which the layers are dealt out."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """What it computes in; auto takes the bundle's own."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of each GPU's memory that it may take."""
    max_model_len: PositiveInt | None = None
    """Longest text in tokens; default: the model's context window."""
    start_seconds: Annotated[float, Field(gt=0)] = 900.0
    """How long it may take to become ready."""


class DraftConfig(Section):
    """Speculative decoding: guesses of how a text goes on, checked several in one step."""

    tokens: Annotated[int, Field(ge=1, le=64)] = 8
    """Most tokens guessed for a text in a step; fewer after wrong guesses."""
    match: Annotated[int, Field(ge=1, le=16)] = 3
    """So many last tokens must have come before in prompt or text; what followed them is the guess."""
    step_tokens: Annotated[int, Field(ge=2, le=1024)] = 16
    """Most tokens computed in a step for all texts, guesses among them; a fuller batch is not guessed for."""
    ngram: Text | None = None
    """Folder that `platen baselines draft` made: guesses from a corpus where prompt and text have none."""

    def located(self, directory: Path) -> DraftConfig:
        """With the path as seen from anywhere; in the file it is relative to its `directory`."""
        ngram = None if self.ngram is None else str(directory / self.ngram)
        return self.model_copy(update={"ngram": ngram})


class ServeConfig(Section):
    """The HTTP service."""

    host: Text = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the service to the network."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 picks a free one."""
    max_concurrent: PositiveInt = 16
    """Requests decoded together; more wait in the queue."""
    max_queue: Annotated[int, Field(ge=0)] = 64
    """Requests that may wait; more are answered 429 with Retry-After."""
    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long SIGTERM lets running requests finish."""
    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """TCP port of the Open Inference Protocol over gRPC; 0 picks a free one; off by default."""
    models: tuple[ServedModelConfig, ...] = ()
    """Further models in the same server, such as one for embeddings."""
    batching: BatchingConfig = BatchingConfig()
    """Adaptive batching of embedding requests."""
    cache_gb: Annotated[float, Field(gt=0)] = 100.0
    """Gigabytes that models downloaded from URLs may take on this machine; the longest unused go first."""
    vllm: VllmConfig | None = None
    """When given, a `vllm serve` process runs the bundle."""
    draft: DraftConfig | None = None
    """When given, PyTorch's engine guesses how texts go on: the same texts, sooner where they repeat."""
    keys: Literal["required", "optional", "off"] = "off"
    """Who may ask: only holders of a key (`platen keys`); anyone, but holders of a key first; or anyone."""
    prices: dict[Text, PriceConfig] = Field(default_factory=dict)
    """What models cost their callers, by name or pattern (`*` is every model); the first that fits counts."""
    limits_store: Annotated[Text, Field(pattern=r"^rediss?://")] | None = None
    """Address of a Redis where replicas share their counts of requests and tokens a minute."""
    queue_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for a place in the batch; after it a request is answered 503 with Retry-After."""
    request_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """Longest time that a whole request may take; after it its work is stopped."""
    idle_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for a client that stops sending its request or reading its answer."""
    upstreams: tuple[UpstreamConfig, ...] = ()
    """Models elsewhere that this server passes requests on to."""
    guards: GuardsConfig = GuardsConfig()
    """What may not go in or come out."""

    @model_validator(mode="after")
    def _upstreams_differ(self) -> ServeConfig:
        names = [upstream.name for upstream in self.upstreams]
        for upstream in self.upstreams:
            if names.count(upstream.name) > 1:
                raise ValueError(f"two upstreams are named {upstream.name}; clients choose by the name")
            if upstream.name in upstream.fallbacks:
                raise ValueError(f"the upstream {upstream.name} is its own fallback")
        return self

    def located(self, directory: Path) -> ServeConfig:
        """With paths as seen from anywhere; in the file they are relative to its `directory`."""
        blocklist = self.guards.blocklist.located(directory)
        guards = self.guards.model_copy(update={"blocklist": blocklist})
        draft = None if self.draft is None else self.draft.located(directory)
        return self.model_copy(update={"guards": guards, "draft": draft})
