"""The tokenizer and tokens stages: deterministic, exact, and opened by transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from platen.core.errors import ConfigError
from platen.prompts.templates import apply_chat_template
from platen.tokens.config import TokenizerConfig
from platen.tokens.files import TokensMeta
from platen.tokens.tokenizer import Tokenizer
from platen.tokens.train import encode_corpus, train_tokenizer
from tests.tokens.conftest import RunStage, write_data

PLAY = (
    "ROMEO:\nBut soft, what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n\n"
)
FOREIGN = "Ach, daß ich ein Mäuschen wär! 🙂 12345\r\n\t日本語"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    splits = {
        "train": [PLAY * 5, PLAY + FOREIGN],
        "validation": [FOREIGN, "<|end_of_text|> is plain text here"],
    }
    return write_data(tmp_path / "data", splits)


@pytest.fixture
def tokenizer_dir(run_stage: RunStage, data: Path, tmp_path: Path) -> Path:
    run_stage(train_tokenizer, TokenizerConfig(vocab_size=300), tmp_path / "tokenizer", data=data)
    return tmp_path / "tokenizer"


def test_trained_tokenizer(tokenizer_dir: Path) -> None:
    tokenizer = Tokenizer.from_dir(tokenizer_dir)
    assert tokenizer.vocab_size == 300
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"]
    assert [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id] == list(
        map(tokenizer.token_to_id, specials)
    )
    assert tokenizer.decode(tokenizer.encode(FOREIGN)) == FOREIGN
    assert len(tokenizer.encode(PLAY)) < len(PLAY.encode())
    assert tokenizer.encode("a", add_special_tokens=True) == [tokenizer.bos_id, *tokenizer.encode("a")]


def test_transformers_gives_the_same_ids(tokenizer_dir: Path) -> None:
    from transformers import AutoTokenizer

    ours = Tokenizer.from_dir(tokenizer_dir)
    theirs = AutoTokenizer.from_pretrained(tokenizer_dir)
    for text in (PLAY, FOREIGN, "  two  blanks\n\n\nlines ", "don't 1234567 <|end_of_text|>", ""):
        assert theirs(text)["input_ids"] == ours.encode(text, add_special_tokens=True)
        assert theirs(text)["input_ids"][0] == ours.bos_id
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text), skip_special=False)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        ours.bos_id,
        ours.eos_id,
        ours.pad_id,
    )
    messages = [{"role": "user", "content": "ROMEO:"}, {"role": "assistant", "content": "\nAy me!"}]
    assert theirs.apply_chat_template(messages, tokenize=False) == apply_chat_template(ours, messages)


def test_same_text_same_tokenizer(
    run_stage: RunStage, data: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    run_stage(train_tokenizer, TokenizerConfig(vocab_size=300), tmp_path / "again", data=data)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tokenizer_dir / name).read_bytes()


def test_a_small_corpus_gives_a_small_vocabulary(run_stage: RunStage, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", {"train": ["ababab"]})
    result = run_stage(train_tokenizer, TokenizerConfig(vocab_size=1000), tmp_path / "t", data=data)
    tokenizer = Tokenizer.from_dir(tmp_path / "t")
    assert result.metrics["vocab_size"] == tokenizer.vocab_size < 300
    assert str(tokenizer.vocab_size) in result.notes["vocabulary"]


def test_markers_of_the_chat_template_become_tokens(run_stage: RunStage, data: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>{# <|user|> #}"
    (tmp_path / "chat.jinja").write_text(template)
    config = TokenizerConfig(vocab_size=300, chat_template="chat.jinja")
    run_stage(train_tokenizer, config, tmp_path / "t", data=data)
    tokenizer = Tokenizer.from_dir(tmp_path / "t")
    prompt = apply_chat_template(tokenizer, [{"role": "user", "content": "Hello"}])
    assert prompt == "<|user|>Hello<|assistant|>"
    ids = tokenizer.encode(prompt)
    assert ids[0] == tokenizer.token_to_id("<|user|>")
    assert ids[-1] == tokenizer.token_to_id("<|assistant|>")


def test_configuration_errors(run_stage: RunStage, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.jinja can't be read"):
        run_stage(train_tokenizer, TokenizerConfig(chat_template="missing.jinja"), tmp_path / "a", data=data)
    (tmp_path / "many.jinja").write_text("<|a|><|b|>")
    config = TokenizerConfig(vocab_size=260, chat_template="many.jinja")
    with pytest.raises(ConfigError, match="5 special tokens have to fit"):
        run_stage(train_tokenizer, config, tmp_path / "b", data=data)


def test_token_files(run_stage: RunStage, data: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    run_stage(encode_corpus, TokenizerConfig(), out, data=data, tokenizer=tokenizer_dir)
    tokenizer = Tokenizer.from_dir(tokenizer_dir)
    meta = TokensMeta.read(out)
    assert (meta.dtype, meta.vocab_size, meta.eos_id) == ("uint16", 300, tokenizer.eos_id)
    assert meta.tokenizer_sha256 == tokenizer.sha256
    train = np.fromfile(out / "train.bin", dtype="<u2").tolist()
    bos, eos = tokenizer.bos_id, tokenizer.eos_id
    assert train == [
        bos,
        *tokenizer.encode(PLAY * 5),
        eos,
        bos,
        *tokenizer.encode(PLAY + FOREIGN),
        eos,
    ]
    assert meta.splits["train"].tokens == len(train)
    assert meta.splits["train"].bytes == len((PLAY * 6 + FOREIGN).encode())
    assert meta.splits["train"].documents == 2
    validation = np.fromfile(out / "validation.bin", dtype="<u2").tolist()
    assert validation.count(eos) == 2  # the one written in the text is text
    assert tokenizer.decode(validation) == FOREIGN + "<|end_of_text|> is plain text here"
    assert (out / "test.bin").stat().st_size == 0
    assert meta.splits["test"].tokens == meta.splits["test"].documents == 0


def test_long_documents_have_the_ids_of_one_piece(
    run_stage: RunStage, tokenizer_dir: Path, tmp_path: Path
) -> None:
    text = (PLAY + "  Indented,\n\n 'tis so.\n" + FOREIGN + "\n") * 6500
    assert len(text) > 1_000_000
    data = write_data(tmp_path / "long", {"train": [text]})
    run_stage(encode_corpus, TokenizerConfig(), tmp_path / "tokens", data=data, tokenizer=tokenizer_dir)
    tokenizer = Tokenizer.from_dir(tokenizer_dir)
    ids = np.fromfile(tmp_path / "tokens" / "train.bin", dtype="<u2").tolist()
    assert ids == [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
    assert TokensMeta.read(tmp_path / "tokens").splits["train"].bytes == len(text.encode())


def test_large_vocabularies_take_four_bytes(run_stage: RunStage, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    backend = Backend(WordLevel({f"w{i}": i for i in range(70_000)} | {"<eos>": 70_000}, unk_token="w0"))
    backend.pre_tokenizer = Whitespace()
    Tokenizer(backend.to_str().encode(), {"eos_token": "<eos>"}).save(tmp_path / "t")
    data = write_data(tmp_path / "data", {"train": ["w69999 w1"]})
    run_stage(encode_corpus, TokenizerConfig(), tmp_path / "tokens", data=data, tokenizer=tmp_path / "t")
    assert TokensMeta.read(tmp_path / "tokens").dtype == "uint32"
    assert np.fromfile(tmp_path / "tokens" / "train.bin", dtype="<u4").tolist() == [69_999, 1, 70_000]
