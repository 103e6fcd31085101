"""The project file's `serve`: the HTTP service, who may use it, its guards and its further models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from platen.core.config import PathInFile, PositiveInt, Section, Text
from platen.core.devices import DeviceName, DType
from platen.engines.batching.config import DraftConfig
from platen.engines.batching.kv_budget import DEFAULT, KvMemory
from platen.engines.remote.config import UpstreamConfig
from platen.engines.vllm.config import VllmConfig
from platen.serve.guards.config import GuardsConfig


class PriceConfig(Section):
    """What a million tokens cost, in a currency of your choice."""

    prompt: Annotated[float, Field(ge=0)] = 0.0
    """Tokens read."""
    completion: Annotated[float, Field(ge=0)] = 0.0
    """Tokens written."""


class BatchingConfig(Section):
    """Texts of concurrent requests that are embedded in one call."""

    max_texts: PositiveInt = 64
    """Most texts in a batch."""
    max_tokens: PositiveInt = 16_384
    """Most tokens in a call."""
    max_delay_seconds: Annotated[float, Field(ge=0, le=10)] = 0.002
    """How long a text waits for others while nothing is computed."""
    max_queue: PositiveInt = 4096
    """Texts that may wait; beyond them requests are answered 429 with Retry-After."""


class ServedModelConfig(Section):
    """A further model in the same server."""

    name: Text
    """Its name in the API."""
    path: Text
    """Its folder, relative to the project file, its URL, its Hub name or a registered MODEL@VERSION."""
    kind: Literal["auto", "text", "embedding"] = "auto"
    """Whether it generates text or makes embeddings; auto goes by what the folder holds."""
    pooling: Literal["mean", "last", "first", "max"] | None = None
    """How a text's last hidden states become its embedding; default: as the folder says, else the mean."""


class ServeConfig(Section):
    """The HTTP service."""

    host: Text = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the service to the network."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 picks a free one."""
    max_concurrent: PositiveInt = 16
    """Requests decoded together; more wait in the queue."""
    kv_memory: KvMemory = DEFAULT
    """Memory for keys and values of all requests: an amount, as 4GB or 512MB, or a share of what is free."""
    max_queue: Annotated[int, Field(ge=0)] = 64
    """Requests that may wait; more get 429 with Retry-After."""
    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long SIGTERM lets running requests finish."""
    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """TCP port of the Open Inference Protocol over gRPC; 0 picks a free one; off by default."""
    models: tuple[ServedModelConfig, ...] = ()
    """Further models in the same server, such as one for embeddings."""
    batching: BatchingConfig = BatchingConfig()
    """Adaptive batching of embedding requests."""
    cache_gb: Annotated[float, Field(gt=0)] = 100.0
    """Gigabytes that models downloaded from URLs may take on this machine; the longest unused are evicted."""
    engine: Text = "auto"
    """What runs the models: torch, openvino, llamacpp, vllm or another engine; auto takes the fastest
    measured here, else a compiled form before the bundle."""
    device: DeviceName = "auto"
    """Where PyTorch computes: cpu, cuda, cuda:N or mps; auto takes a GPU if there is one."""
    dtype: DType = "auto"
    """What it computes in; auto is float32 for PyTorch's engine and the model's own for vLLM's."""
    vllm: VllmConfig | None = None
    """When given, a `vllm serve` process runs the bundle."""
    generation_config: Literal["auto", "none"] = "auto"
    """Whether generation_config.json's sampling defaults hold for requests that give none."""
    draft: DraftConfig | None = None
    """When given, PyTorch's engine checks draft tokens: the same responses, sooner where they repeat."""
    keys: Literal["required", "optional", "off"] = "off"
    """Who may ask: only holders of a key (`platen keys`); anyone, but holders of a key first; or anyone."""
    prices: dict[Text, PriceConfig] = Field(default_factory=dict)
    """What models cost their callers, by name or pattern (`*` is every model); the first that fits counts."""
    limits_store: Annotated[Text, Field(pattern=r"^rediss?://")] | None = None
    """Address of a Redis where replicas share their counts of requests and tokens a minute."""
    queue_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for a slot in the batch; after it the response is 503 with Retry-After."""
    request_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """Longest time that a whole request may take; after it its work is stopped."""
    idle_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for a client that stops sending its request or reading its response."""
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

    @property
    def wanted_engine(self) -> str:
        """The engine that is asked for, or auto."""
        return "vllm" if self.engine == "auto" and self.vllm is not None else self.engine

    def paths(self) -> Iterator[PathInFile]:
        return (PathInFile(f"models: {entry.name}", entry.path, "model", entry) for entry in self.models)

    def located(self, directory: Path) -> ServeConfig:
        """With paths as seen from anywhere; in the file they are relative to its `directory`."""
        blocklist = self.guards.blocklist.located(directory)
        guards = self.guards.model_copy(update={"blocklist": blocklist})
        draft = None if self.draft is None else self.draft.located(directory)
        upstreams = tuple(upstream.located(directory) for upstream in self.upstreams)
        return self.model_copy(update={"guards": guards, "draft": draft, "upstreams": upstreams})
