"""Vocabularies in GGUF files: the same ids as llama.cpp's own tokenizer gives, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from platen.tokens.gguf_header import read_header
from platen.tokens.gguf_pretokenizers import name_of, patterns_named
from platen.tokens.gguf_vocabulary import end_ids, read_gguf_vocabulary
from platen.tokens.languages import SENTENCES
from platen.tokens.pieces import ConversionError
from platen.tokens.tokenizer import Tokenizer
from tests.small_tokenizer import small_tokenizer

gguf = pytest.importorskip("gguf")

PARTS = (
    *(
        "a",
        "Word",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "1",
        "23",
        "4567",
        ".",
        "!?",
        "-",
        "_",
        "'s",
        "'LL",
    ),
    *("don't", "é", "ß", "日本", "語", "🙂", "नमस्ते", "العربية", "x=", "{", "}", "//", "▁", "Ω", "½"),
    *("<|mark|>", "<|end|>", "<own>", "  ", "McDonald", "ABCdef"),
)
SAMPLES = [
    *SENTENCES.values(),
    "def f(x):\n    return {'a': x[0]}  # ok\r\n",
    *("".join(random.Random(seed).choices(PARTS, k=1 + seed % 25)) for seed in range(300)),
]
NAMES = (
    *("gpt-2", "llama-bpe", "smollm", "qwen2", "qwen35", "tekken", "gpt-4o", "deepseek-v3", "deepseek-coder"),
    *("falcon", "dbrx", "seed-coder", "bloom", "viking", "default", "refact", "olmo"),
)


_BY_ASCII = ("tekken", "gpt-4o")
"""Of which llama.cpp tells capitals in ASCII alone; ours are the patterns that the models come with."""


def byte_level(file: Path, pre: str, **fields: Any) -> Path:
    """A file with a small byte-level BPE, two marks, a token of a user's and a row that nothing uses."""
    raw = json.loads(small_tokenizer([*SENTENCES.values()] * 2, 900).raw)
    texts = [text for text, _ in sorted(raw["model"]["vocab"].items(), key=lambda entry: entry[1])]
    kinds = [3, *[1] * (len(texts) - 1), 3, 4, 5]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*texts, "<|mark|>", "<own>", "[PAD]"])
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in raw["model"]["merges"]])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(len(texts))
    return _finish(writer, fields, file)


def pieces(file: Path, *, prefix: bool) -> Path:
    """A file with a SentencePiece vocabulary: bytes, letters, and some longer pieces."""
    words = sorted({part for text in SENTENCES.values() for part in text.split()})[:400]
    letters = sorted({letter for text in SENTENCES.values() for letter in text} - {" "})
    joined = sorted({f"▁{word}"[:length] for word in words for length in range(2, len(word) + 2)})
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<own>", "  ", "▁"]
    kinds = [2, 3, 3, *[6] * 256, 4, 4, 1]
    texts += [text for text in (*letters, *joined) if text not in texts]
    kinds += [1] * (len(texts) - len(kinds))
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_scores([-float(id) for id in range(len(texts))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(prefix)
    return _finish(writer, {}, file)


def _finish(writer: Any, fields: dict[str, Any], file: Path) -> Path:
    for key, value in fields.items():
        (writer.add_bool if isinstance(value, bool) else writer.add_string)(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return file


def require_same(file: Path, samples: list[str] = SAMPLES) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")  # the extra edge, built from source
    ours = read_gguf_vocabulary(file)
    theirs = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    for special in (False, True):
        for text, ids in zip(samples, ours.encode_batch(samples, special=special), strict=True):
            assert ids == theirs.tokenize(text.encode(), add_bos=False, special=special), text
    framed = ours.encode("a", add_special_tokens=True)
    assert framed == theirs.tokenize(b"a", add_bos=True, special=True)
    theirs.close()


@pytest.mark.parametrize("pre", NAMES)
def test_byte_level_ids_are_llama_cpps(pre: str, tmp_path: Path) -> None:
    samples = [text for text in SAMPLES if text.isascii()] if pre in _BY_ASCII else SAMPLES
    assert len(samples) > 10
    require_same(byte_level(tmp_path / "a.gguf", pre), samples)


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_ids_are_llama_cpps(prefix: bool, tmp_path: Path) -> None:
    require_same(pieces(tmp_path / "a.gguf", prefix=prefix))


def test_what_comes_before_a_text(tmp_path: Path) -> None:
    usual = read_gguf_vocabulary(byte_level(tmp_path / "a.gguf", "llama-bpe"))
    assert usual.encode("a", add_special_tokens=True)[0] == usual.bos_id == usual.token_to_id("<|mark|>")
    told = {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True}
    other = read_gguf_vocabulary(byte_level(tmp_path / "b.gguf", "llama-bpe", **told))
    assert other.encode("a", add_special_tokens=True) == [*other.encode("a"), other.eos_id]
    assert read_gguf_vocabulary(byte_level(tmp_path / "c.gguf", "gpt-2")).prefix_ids == ()


def test_tokens_keep_their_kinds(tmp_path: Path) -> None:
    tokenizer = read_gguf_vocabulary(byte_level(tmp_path / "a.gguf", "gpt-2"))
    own = tokenizer.token_to_id("<own>")
    assert tokenizer.encode("<own>", special=False) == [own]
    assert len(tokenizer.encode("<|mark|>", special=False)) > 1
    assert tokenizer.token_to_id("[PAD]") is None
    assert own not in tokenizer.special_ids
    assert tokenizer.eos_id == 0


def test_templates(tmp_path: Path) -> None:
    one = {"tokenizer.chat_template": "{{ messages }}"}
    assert read_gguf_vocabulary(byte_level(tmp_path / "a.gguf", "gpt-2", **one)).chat_template == (
        "{{ messages }}"
    )
    several = one | {"tokenizer.chat_template.tool_use": "{{ tools }}"}
    templates = read_gguf_vocabulary(byte_level(tmp_path / "b.gguf", "gpt-2", **several)).chat_templates
    assert templates == {"default": "{{ messages }}", "tool_use": "{{ tools }}"}


def test_every_end_is_found(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_array("tokenizer.ggml.tokens", ["<|endoftext|>", "a", "<|im_end|>", "b", "</s>"])
    writer.add_eos_token_id(3)
    header = read_header(_finish(writer, {}, tmp_path / "a.gguf"))
    assert end_ids(header) == (0, 2, 3)


def test_unknown_vocabularies_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"a\.gguf.*'kimi-k2'"):
        read_gguf_vocabulary(byte_level(tmp_path / "a.gguf", "kimi-k2"))
    writer = gguf.GGUFWriter(tmp_path / "b.gguf", "bert")
    writer.add_tokenizer_model("bert")
    with pytest.raises(ConversionError, match=r"b\.gguf.*'bert'"):
        read_gguf_vocabulary(_finish(writer, {}, tmp_path / "b.gguf"))
    writer = gguf.GGUFWriter(tmp_path / "c.gguf", "llama")
    writer.add_tokenizer_model("llama")
    with pytest.raises(ConversionError, match=r"c\.gguf.*incomplete"):
        read_gguf_vocabulary(_finish(writer, {}, tmp_path / "c.gguf"))


@pytest.mark.parametrize("pre", NAMES)
def test_names_are_found_again(pre: str, tmp_path: Path) -> None:
    tokenizer = read_gguf_vocabulary(byte_level(tmp_path / "a.gguf", pre))
    found = name_of(json.loads(tokenizer.raw))
    assert found is not None
    assert patterns_named(found) == patterns_named(pre)


def test_digits_cut_one_by_one_are_smollms() -> None:
    """As SmolLM's own tokenizer.json says it, with steps of other kinds."""
    raw = json.loads(small_tokenizer(["a"], 300).raw)
    digits = {"type": "Digits", "individual_digits": True}
    raw["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, raw["pre_tokenizer"]]}
    assert name_of(raw) == "smollm"
    raw["pre_tokenizer"]["pretokenizers"][0] = {"type": "Punctuation"}
    assert name_of(raw) is None


def test_a_large_vocabulary_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from platen.models import gguf as module

    file = byte_level(tmp_path / "a.gguf", "gpt-2")
    monkeypatch.setenv("PLATEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_CACHED_FROM", 100)
    model = module.GgufModel(read_header(file), ())
    first = model.tokenizer()
    monkeypatch.setattr(module, "vocabulary_of", lambda header: pytest.fail("made again"))
    again = model.tokenizer()
    assert isinstance(again, Tokenizer)
    assert again.raw == first.raw
    assert again.config == first.config
