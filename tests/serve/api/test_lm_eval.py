"""lm-evaluation-harness scores texts over `/v1/completions`: what it asks for, and the harness itself.

Expected values are computed with transformers from the same bundle.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from platen.engines.local import open_model
from platen.tokens.tokenizer import Tokenizer
from tests.serve.running import RunningServer, serving

QUESTIONS = [
    ("To be, or not to be, that is the", (" question", " answer", " sea of troubles")),
    ("Über allen Gipfeln ist", (" Ruh", " nobler", " 日本語")),
    ("to suffer the slings and arrows of", (" outrageous fortune", " whether", " 🙂")),
]


@pytest.fixture(scope="module")
def bundle_server(tiny_bundle: Path) -> Iterator[RunningServer]:
    model = open_model(tiny_bundle)
    with serving(model.engine, model.tokenizer) as server:
        yield server
    asyncio.run(model.engine.close())


@pytest.fixture(scope="module")
def reference(tiny_bundle: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_bundle, dtype=torch.float32).eval()


def likelihood(reference: Any, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Log-likelihood of `continuation` after `context`, and whether it is the greedy one."""
    with torch.inference_mode():
        logits = reference(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
    scores = torch.log_softmax(logits, -1)
    total = sum(float(row[token]) for row, token in zip(scores, continuation, strict=True))
    return total, logits.argmax(-1).tolist() == continuation


def pairs(tokenizer: Tokenizer) -> list[tuple[list[int], list[int]]]:
    """Ids of context and continuation as the harness divides them: by the tokens of the whole text."""
    found = []
    for context, continuations in QUESTIONS:
        for continuation in continuations:
            head, whole = tokenizer.encode(context), tokenizer.encode(context + continuation)
            found.append((head, whole[len(head) :]))
    return found


def test_the_requests_that_the_harness_sends(
    bundle_server: RunningServer, tiny_tokenizer: Tokenizer, reference: Any
) -> None:
    """What `local-completions` of 0.4.13 posts for log-likelihoods, and how it reads the answer."""
    asked = pairs(tiny_tokenizer)
    body = {
        "model": "tiny",
        "prompt": [context + continuation for context, continuation in asked],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    answer = httpx.post(f"{bundle_server.url}/v1/completions", json=body, timeout=60).json()
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    assert len(choices) == len(asked)
    for choice, (context, continuation) in zip(choices, asked, strict=True):
        scores = choice["logprobs"]["token_logprobs"][len(context) : -1]
        tops = choice["logprobs"]["top_logprobs"][len(context) : -1]
        greedy = all(score == max(top.values()) for score, top in zip(scores, tops, strict=True))
        assert len(scores) == len(continuation)
        total, expected_greedy = likelihood(reference, context, continuation)
        assert sum(scores) == pytest.approx(total, abs=1e-3)
        assert greedy == expected_greedy
    scored_only = httpx.post(
        f"{bundle_server.url}/v1/completions", json={**body, "max_tokens": 0}, timeout=60
    ).json()
    for choice, scored in zip(choices, scored_only["choices"], strict=True):
        assert scored["logprobs"]["token_logprobs"][1:] == pytest.approx(
            choice["logprobs"]["token_logprobs"][1:-1], abs=1e-4
        )
        assert scored["logprobs"]["token_logprobs"][0] is None


def test_the_text_that_the_harness_asks_for(bundle_server: RunningServer) -> None:
    body = {
        "model": "tiny",
        "prompt": ["To be"],
        "max_tokens": 9,
        "temperature": 0,
        "stop": ["\n\n"],
        "seed": 1234,
    }
    answer = httpx.post(f"{bundle_server.url}/v1/completions", json=body, timeout=60).json()
    assert [choice["index"] for choice in answer["choices"]] == [0]
    assert "\n\n" not in answer["choices"][0]["text"]


@pytest.mark.slow
def test_the_harness_itself(
    bundle_server: RunningServer, tiny_tokenizer: Tokenizer, reference: Any, tmp_path: Path
) -> None:
    """A multiple-choice task of local files, tokens by the server's own `/tokenize`."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    rows = [{"question": question, "choices": list(choices), "gold": 0} for question, choices in QUESTIONS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tiny.yaml").write_text(
        "task: tiny_choice\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}, cache_dir: {tmp_path}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{question}}'\ndoc_to_choice: choices\ndoc_to_target: gold\ntarget_delimiter: ''\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\nmetadata: {version: 1}\n"
    )
    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "base_url": f"{bundle_server.url}/v1/completions",
            "model": "tiny",
            "num_concurrent": 2,
            "max_length": 128,
            "batch_size": 2,
        },
        tasks=["tiny_choice"],
        task_manager=TaskManager(include_path=str(tmp_path)),
        log_samples=True,
        bootstrap_iters=0,
    )
    expected = [
        likelihood(reference, context, continuation) for context, continuation in pairs(tiny_tokenizer)
    ]
    samples = sorted(results["samples"]["tiny_choice"], key=lambda sample: sample["doc_id"])
    found = [
        (float(score), str(greedy) == "True") for s in samples for (score, greedy) in s["filtered_resps"]
    ]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    right = [max(expected[at : at + 3])[0] == expected[at][0] for at in range(0, 9, 3)]
    assert results["results"]["tiny_choice"]["acc,none"] == pytest.approx(sum(right) / 3)
