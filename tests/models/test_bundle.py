"""Bundles: what we write transformers opens, what is damaged or foreign is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from platen.core.errors import BundleError
from platen.models.arch.decoder import Decoder
from platen.models.bundle import model_card, open_bundle, save_bundle
from platen.tokens.tokenizer import Tokenizer

IDS = torch.tensor([[5, 9, 2, 77, 31, 8]])


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "model"))


@torch.no_grad()
def test_round_trip(tiny_bundle: Path, tiny_llama: Decoder, tiny_tokenizer: Tokenizer) -> None:
    opened = open_bundle(tiny_bundle)
    assert torch.equal(opened.model(IDS), tiny_llama(IDS))
    assert not opened.model.training
    assert opened.tokenizer.sha256 == tiny_tokenizer.sha256
    assert opened.config.eos_token_ids == (tiny_tokenizer.eos_id,)
    assert open_bundle(tiny_bundle, dtype=torch.bfloat16).model(IDS).dtype == torch.bfloat16


@pytest.mark.parametrize("max_shard_bytes", [10_000_000, 20_000], ids=["single", "sharded"])
@torch.no_grad()
def test_transformers_opens_it(
    tiny_llama: Decoder, tiny_tokenizer: Tokenizer, tmp_path: Path, max_shard_bytes: int
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_bundle(tmp_path / "m", tiny_llama, tiny_tokenizer, max_shard_bytes=max_shard_bytes)
    shards = list((tmp_path / "m").glob("*.safetensors"))
    assert (len(shards) > 1) == (max_shard_bytes == 20_000)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    torch.testing.assert_close(theirs(IDS).logits, tiny_llama(IDS), atol=1e-4, rtol=0)
    assert torch.equal(open_bundle(tmp_path / "m").model(IDS), tiny_llama(IDS))
    text = "To be, or  not 123\n\n  über 日本 🙂"
    their_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert their_tokenizer(text)["input_ids"] == tiny_tokenizer.encode(text)
    assert theirs.generation_config.eos_token_id == tiny_tokenizer.eos_id


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_opens_what_transformers_saves(tiny_tokenizer: Tokenizer, tmp_path: Path, tied: bool) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(2)
    config = MistralConfig(
        vocab_size=tiny_tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        sliding_window=None,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    theirs = MistralForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    tiny_tokenizer.save(tmp_path)
    opened = open_bundle(tmp_path)
    torch.testing.assert_close(opened.model(IDS), theirs(IDS).logits, atol=1e-4, rtol=0)


def test_same_model_same_bytes(tiny_llama: Decoder, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_bundle(tmp_path / name, tiny_llama, tiny_tokenizer)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_fingerprint_follows_the_weights(bundle: Path) -> None:
    before = open_bundle(bundle).fingerprint
    assert open_bundle(bundle).fingerprint == before
    change_weights(bundle, lambda tensors: tensors["model.norm.weight"].add_(1))
    assert open_bundle(bundle).fingerprint != before


def test_model_card(tiny_llama: Decoder) -> None:
    card = model_card(tiny_llama.config, name="Bard", body="Trained on plays.")
    assert "# Bard" in card
    assert f"{sum(p.numel() for p in tiny_llama.parameters()):,} parameters" in card
    assert card.endswith("Trained on plays.\n")


def change_weights(bundle: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {key: tensor.clone() for key, tensor in load_file(bundle / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, bundle / "model.safetensors")


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def truncate(bundle: Path) -> None:
    weights = bundle / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def other_tokenizer(bundle: Path) -> None:
    file = bundle / "tokenizer.json"
    raw = json.loads(file.read_text())
    first, second, *others = raw["model"]["merges"]
    raw["model"]["merges"] = [second, first, *others]
    file.write_text(json.dumps(raw))


def pickle_only(bundle: Path) -> None:
    (bundle / "model.safetensors").rename(bundle / "pytorch_model.bin")


def index_of_nothing(bundle: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (bundle / "model.safetensors.index.json").write_text(json.dumps(index))


NORM = "model.layers.1.input_layernorm.weight"
BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, r"model\.safetensors is damaged"),
    "not safetensors": (lambda b: (b / "model.safetensors").write_bytes(b"hello"), "is damaged"),
    "no weights": (lambda b: (b / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "missing tensor": (lambda b: change_weights(b, lambda t: t.pop(NORM)), f"no tensor {NORM}"),
    "wrong shape": (
        lambda b: change_weights(b, lambda t: t.update({NORM: torch.ones(31)})),
        rf"{NORM} has shape \[31\]; config.json asks for \[32\]",
    ),
    "integers": (
        lambda b: change_weights(b, lambda t: t.update({NORM: torch.ones(32, dtype=torch.int8)})),
        f"{NORM} is int8",
    ),
    "extra tensor": (
        lambda b: change_weights(
            b, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)})
        ),
        "self_attn.q_proj.bias",
    ),
    "pickle": (pickle_only, "pytorch_model.bin"),
    "missing shard": (index_of_nothing, "model-00001-of-00002.safetensors"),
    "index is no index": (
        lambda b: (b / "model.safetensors.index.json").write_text("[1]"),
        "it has no weight_map",
    ),
    "other tokenizer": (other_tokenizer, "not the tokenizer that this model was trained with"),
    "large vocabulary": (lambda b: change_json(b / "config.json", vocab_size=300), "320 entries"),
    "damaged tokenizer": (lambda b: (b / "tokenizer.json").write_text("{"), "tokenizer.json"),
    "no tokenizer": (lambda b: (b / "tokenizer.json").unlink(), "no tokenizer.json"),
    "damaged tokenizer config": (lambda b: (b / "tokenizer_config.json").write_text("{"), "not valid"),
    "no config": (lambda b: (b / "config.json").unlink(), "no config.json"),
    "damaged config": (lambda b: (b / "config.json").write_text('{"a'), "config.json is damaged"),
    "config is a list": (lambda b: (b / "config.json").write_text("[]"), "not a JSON object"),
    "foreign architecture": (
        lambda b: change_json(b / "config.json", architectures=["BloomForCausalLM"]),
        "BloomForCausalLM is not supported",
    ),
    "more layers": (lambda b: change_json(b / "config.json", num_hidden_layers=3), "model.layers.2"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_bundles_are_refused_by_name(bundle: Path, name: str) -> None:
    break_it, says = BREAKS[name]
    break_it(bundle)
    with pytest.raises(BundleError, match=says) as caught:
        open_bundle(bundle)
    assert caught.value.hint


def test_tokenizer_larger_than_embedding_is_not_saved(
    tiny_llama: Decoder, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = Decoder(replace(tiny_llama.config, vocab_size=100))
    with pytest.raises(BundleError, match="320 entries"):
        save_bundle(tmp_path / "m", model, tiny_tokenizer)
    assert not (tmp_path / "m").exists()


def test_a_path_that_is_not_there() -> None:
    with pytest.raises(BundleError, match="no model folder"):
        open_bundle("./nowhere/at/all")
    with pytest.raises(BundleError, match="no model folder"):
        open_bundle(Path("no/where"))


def test_hub_name_from_the_cache_and_offline(tiny_bundle: Path, tmp_path: Path) -> None:
    """The Hub's cache layout, made by hand, opened with the network off."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_bundle, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    script = (
        "from platen.models.bundle import open_bundle\n"
        "from platen.core.errors import BundleError\n"
        "print(open_bundle('someone/tiny').config.num_parameters())\n"
        "try:\n    open_bundle('someone/else')\nexcept BundleError as error:\n    print(error.message)\n"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    count, message = done.stdout.splitlines()
    assert int(count) == open_bundle(tiny_bundle).config.num_parameters()
    assert "someone/else is neither a folder here nor in the Hub cache" in message
