"""End tokens and sampling defaults that stand beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from platen.core.errors import BundleError
from platen.models.arch.decoder import Decoder
from platen.models.bundle import save_bundle
from platen.models.generation_config import GenerationConfig, SamplingDefaults, read_generation_config
from platen.tokens.tokenizer import Tokenizer


def read(folder: Path, content: dict[str, Any] | list[Any]) -> GenerationConfig:
    (folder / "generation_config.json").write_text(json.dumps(content))
    return read_generation_config(folder, 320)


def test_what_makers_of_models_write(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path, 320) == GenerationConfig()
    assert read(
        tmp_path,
        {
            "bos_token_id": 1,
            "do_sample": True,
            "eos_token_id": [2, 30],
            "repetition_penalty": 1.05,
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.8,
            "min_p": None,
            "max_new_tokens": 2048,
            "transformers_version": "5",
        },
    ) == GenerationConfig((2, 30), SamplingDefaults(0.7, 20, 0.8, None, 1.05))
    assert read(tmp_path, {"eos_token_id": 0, "top_k": -1}) == GenerationConfig(
        (0,), SamplingDefaults(top_k=0)
    )
    assert read(tmp_path, {"do_sample": False, "temperature": 0.6}).sampling == SamplingDefaults(
        temperature=0
    )


def test_tokens_that_are_never_taken(tmp_path: Path) -> None:
    sampling = read(tmp_path, {"suppress_tokens": [3, 5, 320], "eos_token_id": [7, 320]}).sampling
    assert sampling.suppress_tokens == (3, 5)  # the model has 320 tokens
    assert sampling.biases({5: 1.0, 9: 2.0}) == ((3, -100.0), (5, 1.0), (9, 2.0))
    assert sampling.as_dict() == {}


def test_bundles_that_platen_writes_have_no_wishes(
    tiny_llama: Decoder, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_bundle(tmp_path / "bundle", tiny_llama, tiny_tokenizer)
    assert read_generation_config(tmp_path / "bundle", 320) == GenerationConfig((0,), SamplingDefaults())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"temperature": "hot"}, "temperature is 'hot', and should be a number of at least 0"),
        ({"top_p": 1.5}, "top_p is 1.5.*at most 1"),
        ({"top_k": True}, "top_k is True"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"suppress_tokens": [-1]}, "suppress_tokens is"),
        ({"eos_token_id": ["</s>"]}, "eos_token_id is .*a list of them"),
        ([1], "not a JSON object"),
    ],
)
def test_values_that_make_no_sense(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(BundleError, match=rf"generation_config\.json.*{says}"):
        read(tmp_path, content)
