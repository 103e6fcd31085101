"""Folders of all families are read as transformers reads them: added tokens, special tokens, BOS or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from platen.core.errors import BundleError
from platen.prompts.encoding import chat_prompt, text_prompt, truncated_text_prompt
from platen.tokens.convert import open_tokenizer
from platen.tokens.folder import tokenizer_files
from platen.tokens.tokenizer import Tokenizer
from tests.tokens.corpus import TEXTS as CORPUS

PLAY = "".join(CORPUS)
TEXTS = (
    "The capital of France is",
    " two  blanks ",
    "",
    "\n\tline\n\nfeeds ",
    "Zürich 北京 🙂 don't 1234567",
    "<|im_start|>user\nhi<|im_end|>\n",
    "a <s> b</s>c <|end|>d<mask> e <sep>f",
    "x <word>y<word> z",
)
LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(*, bos: str | None, digits: bool = False, pattern: str | None = None) -> Backend:
    """Byte-level BPE, as GPT-2, SmolLM2, Llama 3 and Qwen have it."""
    from tokenizers import trainers

    backend = Backend(models.BPE())
    cut = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern is not None:
        cut.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    cut.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(cut)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>", "<|im_start|>", "<|im_end|>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([PLAY], trainer)
    if bos is not None:
        framing = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, backend.token_to_id(bos))]
        )
        backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), framing])
    return backend


def sentencepiece_like(*, metaspace: bool) -> Backend:
    """BPE over blanks as marks, byte fallback and a blank before a text: Llama 2, Mistral."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for piece in ("▁", *"abcdefghilnoprstuxy", "▁a", "▁th", "th", "is", "ca"):
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("▁", "a"), ("t", "h"), ("▁", "th"), ("i", "s"), ("c", "a")]
    backend = Backend(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return backend


def unigram(*, end: bool) -> Backend:
    """Unigram that splits nothing but blanks, as Gemma writes them; with `end` as T5, which ends texts."""
    pieces = [("<pad>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -4.0) for letter in "abcdefghilnoprstuxyTF"] + [("▁is", -3.0), ("th", -3.0)]
    backend = Backend(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Replace("▁", " ")
    backend.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>"])
    single = "$A </s>" if end else "<s> $A"
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return backend


Make = Callable[[], Backend]
FAMILIES: dict[str, tuple[Make, dict[str, Any]]] = {
    # A begin token is named, and none is put before texts.
    "smollm": (
        lambda: byte_level(bos=None, digits=True),
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    ),
    "gpt-2": (lambda: byte_level(bos=None), {"bos_token": "<|end|>", "eos_token": "<|end|>"}),
    "qwen": (
        lambda: byte_level(bos=None, pattern=LLAMA_3_PATTERN),
        {"bos_token": None, "eos_token": "<|im_end|>"},
    ),
    "llama-3": (
        lambda: byte_level(bos="<s>", pattern=LLAMA_3_PATTERN),
        {"bos_token": "<s>", "eos_token": "<|end|>"},
    ),
    "llama-2": (lambda: sentencepiece_like(metaspace=False), {"bos_token": "<s>", "eos_token": "</s>"}),
    "mistral": (
        lambda: sentencepiece_like(metaspace=True),
        {
            "bos_token": {"__type": "AddedToken", "content": "<s>"},
            "eos_token": "</s>",
            "add_bos_token": False,
        },
    ),
    "gemma": (lambda: unigram(end=False), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "t5": (lambda: unigram(end=True), {"eos_token": "</s>", "pad_token": "<pad>"}),
}
CHAT = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"


def written(folder: Path, backend: Backend, config: dict[str, Any], **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | config)
    )
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def theirs_from(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def assert_same(folder: Path) -> Tokenizer:
    ours, theirs = Tokenizer.from_dir(folder), theirs_from(folder)
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=True) == theirs(text)["input_ids"], text
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
    assert {token.id: token.content for token in ours.added_tokens} == {
        id: token.content for id, token in theirs.added_tokens_decoder.items()
    }
    assert ours.special_ids == {id for id, token in theirs.added_tokens_decoder.items() if token.special}
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (
        theirs.bos_token_id,
        theirs.eos_token_id,
        theirs.pad_token_id,
    )
    assert ours.special_tokens == theirs.special_tokens_map
    return ours


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_prompts_have_the_ids_of_transformers(tmp_path: Path, family: str) -> None:
    make, config = FAMILIES[family]
    folder = written(tmp_path, make(), config | {"chat_template": CHAT})
    ours, theirs = assert_same(folder), theirs_from(folder)
    for text in filter(None, TEXTS):
        assert text_prompt(ours, text) == theirs(text)["input_ids"]
    messages = [{"role": "user", "content": "the <s> cat "}, {"role": "assistant", "content": "is"}]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert chat_prompt(ours, messages) == expected
    assert (folder / "tokenizer.json").read_bytes() == ours.raw


def test_what_stays_of_a_long_text_begins_as_texts_do(tmp_path: Path) -> None:
    llama = Tokenizer.from_dir(written(tmp_path / "a", *_of("llama-3")))
    ids = text_prompt(llama, "the cat is on the mat")
    assert llama.prefix_ids == (llama.bos_id,)
    assert truncated_text_prompt(llama, "the cat is on the mat", 4) == [ids[0], *ids[-3:]]
    smollm = Tokenizer.from_dir(written(tmp_path / "b", *_of("smollm")))
    assert smollm.prefix_ids == ()
    assert (
        truncated_text_prompt(smollm, "the cat is on the mat", 4)
        == smollm.encode("the cat is on the mat")[-4:]
    )


def _of(family: str) -> tuple[Backend, dict[str, Any]]:
    make, config = FAMILIES[family]
    return make(), config


def decoder(*tokens: tuple[int, str, dict[str, bool]]) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {str(id): {"content": text} | plain | flags for id, text, flags in tokens}


BESIDE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "added_tokens_decoder": (
        {
            "added_tokens_decoder": decoder(
                (320, "<mask>", {"lstrip": True}),
                (321, "<sep>", {"rstrip": True, "special": False}),
                (322, "<word>", {"single_word": True, "special": False, "normalized": True}),
                (0, "<|end|>", {"lstrip": True}),
            ),
            "mask_token": "<mask>",
        },
        {"special_tokens_map": {"pad_token": "<ignored>"}, "added_tokens": {"<ignored too>": 330}},
    ),
    "special_tokens_map": (
        {"eos_token": "<|end|>"},
        {
            "special_tokens_map": {
                "eos_token": {"content": "<|im_end|>", "lstrip": True, "rstrip": False, "normalized": False},
                "pad_token": "<pad>",
            }
        },
    ),
    "added_tokens": (
        {"mask_token": "<mask>"},
        {"added_tokens": {"<word>": 321, "<mask>": 320}},
    ),
    "extra_special_tokens": ({"extra_special_tokens": ["<sep>", "<mask>"], "pad_token": "<pad>"}, {}),
    "additional_special_tokens": ({"additional_special_tokens": ["<sep>"]}, {}),
    "named extra tokens": (
        {"extra_special_tokens": {"image_token": "<image>"}, "audio_token": "<audio>"},
        {},
    ),
    "a token of the vocabulary": ({"sep_token": "the"}, {}),
}


@pytest.mark.parametrize("case", sorted(BESIDE))
def test_tokens_that_only_other_files_name(tmp_path: Path, case: str) -> None:
    config, files = BESIDE[case]
    backend = byte_level(bos=None)
    backend.add_tokens(
        [AddedToken("<|x|>", normalized=False)]
    ) if case == "a token of the vocabulary" else None
    folder = written(tmp_path / "first", backend, {"eos_token": "<|im_end|>"} | config, **files)
    ours = assert_same(folder)
    ours.save(tmp_path / "again")  # what was put together stays together
    again = Tokenizer.from_dir(tmp_path / "again")
    assert again.added_tokens == ours.added_tokens
    assert again.sha256 == ours.sha256


def test_files_that_make_up_a_tokenizer(tmp_path: Path) -> None:
    written(tmp_path, byte_level(bos=None), {}, added_tokens={})
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("x")
    assert tokenizer_files(tmp_path) == [
        "tokenizer.json",
        "tokenizer_config.json",
        "added_tokens.json",
        "additional_chat_templates/rag.jinja",
    ]


@pytest.mark.parametrize("name", ["special_tokens_map", "added_tokens"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    written(tmp_path, byte_level(bos=None), {}, **{name: []})
    with pytest.raises(BundleError, match=f"{name}.json is not valid"):
        Tokenizer.from_dir(tmp_path)


def test_models_that_platen_trained_before_begin_texts_as_before(tmp_path: Path) -> None:
    """They were trained with this token before each text, though their files have no rule that says so."""
    backend = byte_level(bos=None)
    backend.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"])
    named = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|pad|>"}
    ours = Tokenizer.from_dir(written(tmp_path, backend, named))
    assert text_prompt(ours, "a") == [ours.token_to_id("<|begin_of_text|>"), *ours.encode("a")]
    assert chat_prompt(ours, [{"role": "user", "content": "a"}]) == text_prompt(ours, "a")


@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_sentencepiece_model_alone(tmp_path: Path, kind: str, add_bos: bool | None) -> None:
    import io

    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(PLAY.split("\n")),
        model_writer=model,
        model_type=kind,
        vocab_size=500,
        hard_vocab_limit=False,
        byte_fallback=True,
        required_chars="".join(map(chr, range(33, 127))),
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    config = {"chat_template": CHAT, "added_tokens_decoder": decoder((400, "<|im_end|>", {}))}
    config |= {"bos_token": "<s>", "eos_token": "<|im_end|>"}
    config |= {} if add_bos is None else {"add_bos_token": add_bos}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = open_tokenizer(tmp_path)
    text = PLAY.replace("<s>", "")  # which would be the special token
    plain = SentencePieceProcessor(model_proto=model.getvalue()).encode(text)
    assert text_prompt(ours, text) == ([ours.bos_id, *plain] if add_bos else plain)
    assert ours.eos_id == ours.token_to_id("<|im_end|>")
    assert ours.chat_template == CHAT
    assert ours.encode("<|im_end|>")[-1] == ours.eos_id
