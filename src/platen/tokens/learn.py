"""Learn a tokenizer from texts: byte-level BPE, WordPiece and Unigram (tokenizers), or SentencePiece's two.

BPE and Unigram here cut text like Llama 3's tokenizer and have all 256 bytes; SentencePiece models fall back
on bytes. So every text has ids and comes back exactly. WordPiece is BERT's: blanks and rare characters are
lost.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from platen.core.errors import ConfigError, DataError, MissingExtraError
from platen.core.wording import counted
from platen.tokens.chat_templates import CHAT_TEMPLATES, PLAIN_CHAT_TEMPLATE
from platen.tokens.config import TokenizerConfig
from platen.tokens.ranks import LLAMA3_PATTERN
from platen.tokens.specials import BOS, EOS, FILL_IN_THE_MIDDLE, PAD, UNK, markers_of
from platen.tokens.tokenizer import Tokenizer, bos_processor

# Longer lines are skipped by SentencePiece's trainer unless it is told that there are any.
_LINE_BYTES = 4096


def learn_tokenizer(texts: Iterable[str], config: TokenizerConfig, project_dir: Path) -> Tokenizer:
    """A tokenizer of `config.kind`.

    The same texts give the same file, byte for byte; not so `wordpiece` and `unigram`, whose library breaks
    ties at random.

    Raises ConfigError for a chat template that can't be read or a vocabulary too small for its special
    tokens, and DataError when the texts have too little in them.
    """
    template = chat_template(config, project_dir)
    specials = _specials(config, template)
    _check_room(config, specials)
    texts = _with_text(texts)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    if config.kind in ("sentencepiece_bpe", "sentencepiece_unigram"):
        learned = _sentencepiece(texts, config, specials)
        return Tokenizer(learned.raw, learned.config | tokenizer_config).beginning_with_bos()
    backend, trainer = _parts(config, specials)
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = bos_processor(BOS, backend.token_to_id(BOS))
    if config.kind == "wordpiece":
        tokenizer_config["unk_token"] = UNK
    return Tokenizer((backend.to_str(pretty=True) + "\n").encode(), tokenizer_config)


def _with_text(texts: Iterable[str]) -> Iterator[str]:
    """The same texts. Raises DataError when all are blank: the libraries would learn from them too."""
    coming, blank = iter(texts), []
    for text in coming:
        blank.append(text)
        if text.strip():
            return chain(blank, coming)
    raise DataError(
        f"there is nothing to learn a tokenizer from: {counted(len(blank), 'text')}, all blank",
        hint="Give text to learn from.",
    )


def _parts(config: TokenizerConfig, specials: Sequence[str]) -> tuple[Any, Any]:
    """An empty tokenizer of the library and the trainer for it."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend

    if config.kind == "wordpiece":
        backend = Backend(models.WordPiece(unk_token=UNK))
        backend.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=False)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        return backend, trainers.WordPieceTrainer(
            vocab_size=config.vocab_size,
            min_frequency=config.min_frequency,
            special_tokens=list(specials),
            show_progress=False,
        )
    backend = Backend(models.BPE() if config.kind == "bpe" else models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    common: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "special_tokens": list(specials),
        "initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet()),
        "show_progress": False,
    }
    if config.kind == "bpe":
        return backend, trainers.BpeTrainer(min_frequency=config.min_frequency, **common)
    return backend, trainers.UnigramTrainer(**common)


def _sentencepiece(texts: Iterable[str], config: TokenizerConfig, specials: Sequence[str]) -> Tokenizer:
    try:
        from sentencepiece import SentencePieceTrainer
    except ImportError:
        raise MissingExtraError("data", f"tokenizer.kind {config.kind}") from None
    from platen.tokens.pieces import to_tokenizer
    from platen.tokens.sentencepiece_file import read_sentencepiece

    written = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=written,
            model_type=config.kind.removeprefix("sentencepiece_"),
            vocab_size=config.vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            # Or a text that reads like a special token would be one where these are unknown.
            required_chars="".join(sorted(set("<0x123456789ABCDEF>").union(*specials))),
            max_sentence_length=2 * _LINE_BYTES,
            num_threads=os.cpu_count(),
            train_extremely_large_corpus=True,
            minloglevel=2,
            bos_id=0,
            eos_id=1,
            pad_id=2,
            unk_id=3,
            bos_piece=BOS,
            eos_piece=EOS,
            pad_piece=PAD,
            unk_piece=UNK,
            control_symbols=list(specials[4:]),
        )
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"SentencePiece can't learn {config.vocab_size} pieces from this text: {str(error).strip()}",
            hint="Set a tokenizer.vocab_size that fits the text.",
        ) from None
    return to_tokenizer(read_sentencepiece(written.getvalue()))


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines without their ends, as SentencePiece learns from; long ones in parts."""
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _LINE_BYTES // 4):
                yield line[start : start + _LINE_BYTES // 4]


def _specials(config: TokenizerConfig, template: str) -> list[str]:
    """The special tokens, in the order of their ids."""
    own = [BOS, EOS, PAD] + ([] if config.kind in ("bpe", "unigram") else [UNK])
    middle = FILL_IN_THE_MIDDLE if config.fill_in_the_middle else ()
    return list(dict.fromkeys([*own, *markers_of(template), *middle, *config.special_tokens]))


def _check_room(config: TokenizerConfig, specials: Sequence[str]) -> None:
    bytes_too = 0 if config.kind == "wordpiece" else 256
    if config.vocab_size < bytes_too + len(specials):
        raise ConfigError(
            f"tokenizer.vocab_size is {config.vocab_size}, but {bytes_too} bytes and {len(specials)} special "
            "tokens have to fit",
            hint=f"Set tokenizer.vocab_size to more than {bytes_too + len(specials)}.",
        )


def chat_template(config: TokenizerConfig, project_dir: Path) -> str:
    """The template's text: one of ours by name, or a file's. Raises ConfigError when it can't be read."""
    if config.chat_template is None:
        return PLAIN_CHAT_TEMPLATE
    if config.chat_template in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[config.chat_template]
    file = project_dir / config.chat_template
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"tokenizer.chat_template: {file} can't be read: {error}",
            hint="Give a Jinja text file, relative to the project file, or leave the key out.",
        ) from None
