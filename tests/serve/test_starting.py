"""Opening a model for the server: from a URL, tried before it is ready, its time accounted for."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import fsspec
import pytest

from platen.core.errors import ArtifactError
from platen.core.phases import Phases
from platen.engines.torch.runner import TorchRunner
from platen.models.store import cache_folder
from platen.serve.config import ServeConfig
from platen.serve.hub.loading import ServeError, open_configured


def test_a_model_has_written_before_it_is_ready(tiny_bundle: Path) -> None:
    phases = Phases()
    model = open_configured(tiny_bundle, ServeConfig(), phase=phases)
    stats = model.engine.stats()
    asyncio.run(model.engine.close())
    assert (stats.tokens_generated, stats.running) == (4, 0)
    assert list(phases.seconds) == [
        "import PyTorch",
        "open weights",
        "pack",
        "start engine",
        "fingerprint",
        "warm-up",
    ]


def test_a_url_is_served_from_the_cache_and_freed_when_the_model_is_closed(tiny_bundle: Path) -> None:
    urls = [f"memory://{uuid.uuid4().hex}/tiny" for _ in range(2)]
    for number, url in enumerate(urls):
        for file in tiny_bundle.iterdir():
            fsspec.filesystem("memory").pipe_file(f"{url}/{file.name}", file.read_bytes())
        fsspec.filesystem("memory").pipe_file(f"{url}/note.txt", bytes([number]))
    size = sum(file.stat().st_size for file in tiny_bundle.iterdir()) + 1
    small = ServeConfig(cache_gb=1.5 * size / 1e9)
    phases, seen = Phases(), []
    first = open_configured(urls[0], small, phase=phases, report=lambda done, total: seen.append(done))
    assert first.path.is_relative_to(cache_folder())
    assert {"list", "verify", "download"} < set(phases.seconds)
    assert seen[-1] == size
    with pytest.raises(ArtifactError, match="are in use"):
        open_configured(urls[1], small)
    asyncio.run(first.engine.close())
    second = open_configured(urls[1], small)
    asyncio.run(second.engine.close())
    assert not first.path.exists()


def test_a_model_that_can_not_write_is_not_served(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(TorchRunner, "forward", broken)
    with pytest.raises(ServeError, match="opens, but can't write"):
        open_configured(tiny_bundle, ServeConfig())
