"""An engine of another package: declared by a spec, found, chosen and served without a line in this one."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from platen.core.devices import select_device
from platen.core.errors import BundleError, ConfigError
from platen.core.phases import Phase
from platen.engines import registry
from platen.engines.choose import choose
from platen.engines.local import open_model
from platen.engines.options import EngineOptions
from platen.engines.protocol import (
    Capability,
    Capacity,
    Engine,
    EngineStats,
    GenerationRequest,
    TokenEvent,
    Usage,
)
from platen.engines.registry import EngineSpec, engine, engines, register, unregister
from platen.models.resolve import ResolvedModel, resolve
from platen.prompts.structured import Grammar
from platen.serve.config import ServeConfig
from platen.serve.hub.loading import open_configured


class Echo:
    """Says the last token of the prompt, until it has said it often enough."""

    name = "echo"
    capabilities: frozenset[Capability] = frozenset({"token_ids"})

    def __init__(self, model: ResolvedModel, options: EngineOptions) -> None:
        self.model, self.options = model, options
        self._said = 0

    async def submit(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:  # type: ignore[override]
        last = request.prompt_ids[-1]
        count = request.sampling.max_tokens or 0
        for _ in range(count):
            self._said += 1
            yield TokenEvent((last,), self.model.tokenizer.decode([last]))
        yield TokenEvent(finish_reason="length", usage=Usage(len(request.prompt_ids), count))

    def prepare(self, grammar: Grammar) -> None:
        pass

    def cancel(self, request_id: str) -> None:
        pass

    def capacity(self) -> Capacity:
        return Capacity(self.model.config.context_window, self.options.max_concurrent, 0)

    def stats(self) -> EngineStats:
        return EngineStats(0, 0, self._said)

    async def close(self) -> None:
        self.model.release()


def opened(model: ResolvedModel, options: EngineOptions, phase: Phase) -> Engine:
    return Echo(model, options)


SPEC = EngineSpec(name="echo", forms=("bundle",), open=opened, devices=("cpu", "mps"))


@pytest.fixture
def echo() -> Iterator[EngineSpec]:
    register(SPEC)
    yield SPEC
    unregister("echo")


def test_this_packages_engines_say_what_they_run() -> None:
    forms = {name: spec.forms for name, spec in engines().items()}
    assert {"torch", "openvino", "llamacpp", "vllm", "remote"} <= forms.keys()
    assert (forms["torch"], forms["llamacpp"]) == (("bundle",), ("gguf",))
    with pytest.raises(ConfigError, match="no engine 'toaster'"):
        engine("toaster")


def test_an_engine_from_elsewhere_is_served_when_it_is_asked_for(echo: EngineSpec, tiny_bundle: Path) -> None:
    config = ServeConfig(engine="echo", max_concurrent=3)
    model = open_configured(tiny_bundle, config)
    assert model.why == "echo: the bundle itself; asked for with --engine"
    assert isinstance(model.engine, Echo)
    assert model.engine.options.max_concurrent == 3
    assert model.engine.stats().tokens_generated == 4, "it has been warmed up"
    asyncio.run(model.engine.close())
    assert choose(resolve(tiny_bundle), "auto").spec.name != "echo", "it has no rank"


def test_with_a_rank_it_is_taken_by_itself(tiny_bundle: Path) -> None:
    register(replace(SPEC, rank=1))
    try:
        assert open_model(tiny_bundle).engine.name == "echo"
    finally:
        unregister("echo")


def test_what_it_refuses_goes_to_another(tiny_bundle: Path) -> None:
    register(replace(SPEC, rank=1, refuses=lambda model: "it says nothing new"))
    try:
        assert choose(resolve(tiny_bundle)).spec.name == "torch"
        with pytest.raises(BundleError, match="it says nothing new"):
            choose(resolve(tiny_bundle), "echo")
    finally:
        unregister("echo")


def test_an_entry_point_names_an_engine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    points = [
        importlib.metadata.EntryPoint("echo", f"{__name__}:SPEC", registry.ENTRY_POINTS),
        importlib.metadata.EntryPoint("broken", "no_such_module:SPEC", registry.ENTRY_POINTS),
        importlib.metadata.EntryPoint("wrong", f"{__name__}:opened", registry.ENTRY_POINTS),
    ]
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: points)
    registry._from_entry_points.cache_clear()
    try:
        assert engines()["echo"].name == "echo"
        assert {"broken", "wrong"}.isdisjoint(engines())
    finally:
        registry._from_entry_points.cache_clear()
    assert "no_such_module" in caplog.text


def test_a_device_that_an_engine_does_not_compute_on_is_refused_before_anything_is_loaded(
    echo: EngineSpec, tiny_bundle: Path
) -> None:
    with pytest.raises(ConfigError, match="echo computes on cpu, mps, and cuda is asked for"):
        open_model(tiny_bundle, EngineOptions(device="cuda"), engine="echo")


def test_an_architecture_that_torch_lacks_is_left_to_others(tiny_bundle: Path, tmp_path: Path) -> None:
    config = (tiny_bundle / "config.json").read_text().replace("LlamaForCausalLM", "UnseenForCausalLM")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(BundleError, match="UnseenForCausalLM is not supported"):
        choose(resolve(tmp_path))
    assert choose(resolve(tmp_path), "vllm").spec.name == "vllm"
    assert resolve(tmp_path).config.vocab_size == resolve(tiny_bundle).config.vocab_size


@pytest.mark.parametrize(("cuda", "mps", "best"), [(2, True, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_auto_takes_the_best_device_there_is(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, best: str
) -> None:
    there(monkeypatch, cuda, mps)
    assert str(select_device("auto")) == best


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there(monkeypatch, 2, mps=False)
    assert str(select_device("cuda:1")) == "cuda:1"
    with pytest.raises(ConfigError, match="no device cuda:2 here") as error:
        select_device("cuda:2")
    assert error.value.hint == "there is cuda:0, cuda:1"
    with pytest.raises(ConfigError, match="no Apple GPU"):
        select_device("mps")
    with pytest.raises(ConfigError, match="'tpu' is no device"):
        select_device("tpu")
    there(monkeypatch, 0, mps=False)
    with pytest.raises(ConfigError, match="no device cuda here"):
        select_device("cuda")


def there(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool) -> None:
    """Let these devices seem to be in this machine."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
