"""A GGUF file alone, without a folder of ours around it, is opened and says what its bundle would."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from platen.compress.compile import compile_bundle
from platen.engines.local import open_model
from platen.engines.protocol import GenerationRequest, SamplingParams

pytest.importorskip("llama_cpp")
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


async def written(path: Path) -> tuple[list[int], str, int]:
    """The tokens and the text after a prompt, and the context window."""
    model = open_model(path)
    tokens: list[int] = []
    text = ""
    try:
        assert model.engine.name == "llamacpp"
        request = GenerationRequest("r", model.tokenizer.encode("to be or not"), GREEDY)
        async for event in model.engine.submit(request):
            tokens += event.token_ids
            text += event.text
        return tokens, text, model.engine.capacity().context_window
    finally:
        await model.engine.close()


async def test_a_file_alone_is_served_as_in_its_folder(tiny_bundle: Path, tmp_path: Path) -> None:
    compile_bundle(tiny_bundle, tmp_path / "compiled", "gguf", "f16")
    alone = tmp_path / "elsewhere.gguf"
    shutil.copy(tmp_path / "compiled" / "model.gguf", alone)
    found = await written(alone)
    assert found == await written(tmp_path / "compiled")
    assert len(found[0]) == 24
    assert found[1]
