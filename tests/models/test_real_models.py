"""Two real models, which `make models` fetches: their files, read and imported, beside llama.cpp's own work.

They are looked for in `$PLATEN_TEST_MODELS`, or in `models/` beside the sources; without them nothing is
tested.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import torch

from platen.engines.local import open_model, stream_text
from platen.engines.protocol import SamplingParams
from platen.models.bundle import open_bundle
from platen.models.gguf import GgufModel
from platen.tokens.languages import SENTENCES

HERE = Path(os.environ.get("PLATEN_TEST_MODELS") or Path(__file__).parents[2] / "models")
SAMPLES = [
    *SENTENCES.values(),
    "def f(x):\n    return {'a': x[0]}  # ok\r\n\t\t12345 3.14",
    "a  b   c\n\n\n d    \n",
    "<|im_start|>user\nHi<|im_end|><start_of_turn>model\n<eos><bos>",
    "🙂🙃 ﬁ ½ Ω नमस्ते \u00a0\u3000 日本語 x" + "y" * 50,
]


@pytest.fixture(params=["smollm2", "gemma3"])
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    if not (HERE / f"{found}.gguf").is_file():
        pytest.skip("make models fetches it")
    return found


def test_what_the_files_say(name: str) -> None:
    model = GgufModel.open(HERE / f"{name}.gguf")
    tokenizer = model.tokenizer()
    said = (model.architecture, model.context_window, model.vocab_size, model.parameters)
    ends = {tokenizer.token_text(id) for id in model.eos_ids}
    if name == "smollm2":
        assert said == ("llama", 8192, 49_152, 134_515_008)
        assert ends == {"<|im_end|>", "<|endoftext|>"}
        assert tokenizer.prefix_ids == ()
        assert "<|im_start|>" in (tokenizer.chat_template or "")
    else:
        assert said == ("gemma3", 32_768, 262_144, 268_098_176)
        assert ends == {"<eos>", "<end_of_turn>"}
        assert tokenizer.prefix_ids == (tokenizer.bos_id,)


def test_ids_are_llama_cpps(name: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    ours = GgufModel.open(HERE / f"{name}.gguf").tokenizer()
    theirs = llama_cpp.Llama(str(HERE / f"{name}.gguf"), vocab_only=True, verbose=False)
    for special in (False, True):
        for text in SAMPLES:
            expected = theirs.tokenize(text.encode(), add_bos=False, special=special)
            assert ours.encode(text, special=special) == expected, text
    theirs.close()


def test_the_file_is_served_as_it_is(name: str) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    prompt = "The capital of France is"

    async def served() -> str:
        model = open_model(HERE / f"{name}.gguf")
        try:
            sampling = SamplingParams(temperature=0, max_tokens=12)
            events = stream_text(model.engine, model.tokenizer, prompt, sampling)
            return "".join([event.text async for event in events])
        finally:
            await model.engine.close()

    theirs = llama_cpp.Llama(str(HERE / f"{name}.gguf"), n_ctx=64, verbose=False)
    expected = theirs.create_completion(prompt, max_tokens=12, temperature=0)["choices"][0]["text"]
    theirs.close()
    assert asyncio.run(served()) == expected


def test_the_bundle_predicts_what_the_file_does(name: str) -> None:
    pytest.importorskip("llama_cpp")
    from platen.engines.llamacpp.agreement import agreement

    if not (HERE / name).is_dir():
        pytest.skip("make models imports it")
    found = agreement(HERE / f"{name}.gguf", HERE / name)
    assert found.divergence < 0.03
    assert found.greedy > 0.8


@torch.no_grad()
def test_transformers_opens_the_bundle(name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (HERE / name).is_dir():
        pytest.skip("make models imports it")
    bundle = open_bundle(HERE / name, dtype=torch.float32)
    theirs = AutoTokenizer.from_pretrained(HERE / name)
    for text in SAMPLES:
        assert theirs.encode(text) == bundle.tokenizer.encode(text, add_special_tokens=True)
    network = AutoModelForCausalLM.from_pretrained(HERE / name, dtype=torch.float32)
    ids = torch.tensor([bundle.tokenizer.encode(SAMPLES[0], add_special_tokens=True)])
    torch.testing.assert_close(bundle.model(ids), network(ids).logits, atol=2e-3, rtol=0)
    assert sorted(network.generation_config.eos_token_id) == sorted(bundle.config.eos_token_ids)
