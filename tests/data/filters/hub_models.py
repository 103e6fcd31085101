"""Tiny BERTs in the Hub's format with weights set by hand: what they say can be told from the words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification
from transformers.utils.logging import disable_progress_bar

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def save_tokenizer(folder: Path, pieces: Sequence[str]) -> list[str]:
    """BERT's, in lower case, with these pieces of words; returns the whole vocabulary."""
    vocabulary = [*SPECIAL, *pieces]
    model = WordPiece({piece: id for id, piece in enumerate(vocabulary)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return vocabulary


def save_tagger(folder: Path, pieces: Mapping[str, str], labels: Sequence[str], positions: int = 64) -> Path:
    """Labels each piece as `pieces` says, and everything else with the first of the labels."""
    disable_progress_bar()
    vocabulary = save_tokenizer(folder, list(pieces))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=len(labels),
        num_hidden_layers=0,
        num_attention_heads=1,
        intermediate_size=1,
        max_position_embeddings=positions,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        clear_positions(model)
        for id, piece in enumerate(vocabulary):
            row = model.bert.embeddings.word_embeddings.weight[id]
            row.zero_()[labels.index(pieces.get(piece, labels[0]))] = 1
        model.classifier.weight.copy_(torch.eye(len(labels)))
        model.classifier.bias.zero_()
    model.save_pretrained(folder)
    return folder


def save_judge(folder: Path, bad: Sequence[str], *, sigmoid: bool = False, positions: int = 64) -> Path:
    """Says `toxic` of a text with a word of `bad` and `fine` of any other, nearly certain of both."""
    disable_progress_bar()
    vocabulary = save_tokenizer(folder, bad)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=1,
        max_position_embeddings=positions,
        id2label={0: "fine", 1: "toxic"},
        label2id={"fine": 0, "toxic": 1},
        problem_type="multi_label_classification" if sigmoid else None,
    )
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        layer = model.bert.encoder.layer[0]
        for norm in (model.bert.embeddings, layer.attention.output, layer.output):
            norm.LayerNorm.weight.fill_(1)
        # Bad words are (1, 0, 0, 0), others (0, 1, 0, 0); normed that is √3 in one place, -1/√3 elsewhere.
        words = model.bert.embeddings.word_embeddings.weight
        words[:, 1] = 1
        for word in bad:
            words[vocabulary.index(word)] = torch.tensor([1.0, 0, 0, 0])
        # All positions look evenly at all: the first place gets a number above 0 if one word is bad.
        layer.attention.self.value.weight[0, 0] = 1000
        layer.attention.self.value.bias[0] = 1000 / 3**0.5
        layer.attention.output.dense.weight.copy_(torch.eye(4))
        model.bert.pooler.dense.weight.copy_(torch.eye(4))
        model.classifier.weight[0, 1] = model.classifier.weight[1, 0] = 20
    model.save_pretrained(folder)
    return folder


def clear_positions(model: BertForTokenClassification) -> None:
    """Let a word mean the same wherever it stands."""
    model.bert.embeddings.position_embeddings.weight.zero_()
    model.bert.embeddings.token_type_embeddings.weight.zero_()
