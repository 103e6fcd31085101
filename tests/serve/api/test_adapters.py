"""Adapters that a running server is told to answer with, beside the model whose weights they share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from platen.engines.local import open_model
from platen.engines.options import EngineOptions
from platen.serve.config import ServeConfig
from platen.serve.hub.loading import served_model
from platen.serve.hub.served_model import ServedModel
from tests.peft_adapters import save_adapter
from tests.serve.running import RunningServer, wait_until


@pytest.fixture(scope="module")
def adapter(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that makes a difference."""
    folder = tmp_path_factory.mktemp("adapter") / "formal"
    options = {"r": 8, "lora_alpha": 32, "target_modules": ["q_proj", "down_proj"]}
    return save_adapter(tiny_bundle, folder, seed=5, std=0.3, **options)


@pytest.fixture
def http(tiny_bundle: Path) -> Iterator[httpx.Client]:
    def load(reference: str, name: str) -> ServedModel:
        return served_model(open_model(reference, EngineOptions(max_concurrent=4)), name, reference)

    model = served_model(open_model(tiny_bundle, EngineOptions(max_concurrent=4)), "tiny", str(tiny_bundle))
    server = RunningServer([model], ServeConfig(drain_seconds=1), load=load)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
    server.stop()
    asyncio.run(model.engine.close())


def text(http: httpx.Client, model: str) -> httpx.Response:
    body = {"model": model, "prompt": "To be", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    return http.post("/v1/completions", json=body)


def said(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def merged_tokens(tiny_bundle: Path, adapter: Path) -> list[int]:
    """Greedy tokens of the adapted model, by PEFT and transformers."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_bundle)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_bundle), adapter)
    prompt = tokenizer("To be", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        for _ in range(24):
            logits = model(prompt).logits[:, -1]
            prompt = torch.cat([prompt, logits.argmax(-1, keepdim=True)], dim=1)
    return [int(token) for token in prompt[0, -24:]]


def test_an_adapter_answers_under_its_own_name_and_goes_again(
    http: httpx.Client, tiny_bundle: Path, adapter: Path
) -> None:
    plain = said(text(http, "tiny"))
    added = http.put("/admin/models/formal", json={"model": f"tiny+{adapter}"})
    assert added.status_code == 200, added.text
    [variant] = added.json()["variants"]
    assert variant["model"] == f"tiny+{adapter}"
    answer = text(http, "formal")
    assert answer.headers["x-platen-version"] == variant["version"]
    detokenized = http.post(
        "/detokenize", json={"model": "tiny", "tokens": merged_tokens(tiny_bundle, adapter)}
    )
    assert said(answer) == detokenized.json()["prompt"]
    assert said(text(http, "tiny")) == plain != said(answer)
    assert http.delete("/admin/models/formal").status_code == 200
    assert text(http, "formal").status_code == 404
    assert said(text(http, "tiny")) == plain


def test_the_base_stays_open_as_long_as_its_adapter(
    http: httpx.Client, tiny_bundle: Path, adapter: Path
) -> None:
    http.put("/admin/models/formal", json={"model": f"tiny+{adapter}"}).raise_for_status()
    formal = said(text(http, "formal"))
    http.put("/admin/models/tiny", json={"model": str(tiny_bundle), "reload": True}).raise_for_status()
    assert said(text(http, "formal")) == formal
    http.delete("/admin/models/formal").raise_for_status()
    wait_until(lambda: text(http, "tiny").status_code == 200)


def test_what_is_no_adapter_is_refused_and_changes_nothing(http: httpx.Client, tiny_bundle: Path) -> None:
    refused = http.put("/admin/models/formal", json={"model": f"tiny+{tiny_bundle}"})
    assert refused.status_code == 400
    assert "adapter_config.json" in refused.json()["error"]["message"]
    assert text(http, "formal").status_code == 404
    assert http.get("/health").json()["status"] == "ok"
