"""Text to token ids and back: a thin, exact wrapper over a Hugging Face `tokenizer.json`.

It adds what serving needs: a detokenizer for streams that never shows half a character, and the special
tokens and chat templates that other files name. `tokenizer.json` is saved back byte for byte, so its sha256
identifies a tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from platen.core.errors import BundleError
from platen.tokens.folder import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    declared_tokens,
    decoder_entries,
    named_templates,
    read_tokenizer_folder,
    special_tokens,
    token_text,
)
from platen.tokens.specials import BOS, EOS, PAD

_AGAIN = "Make the tokenizer again, or take the file from where the model comes from."


@dataclass(frozen=True)
class AddedToken:
    """A token beside the model's own. `looks_around`: it minds blanks or word ends at its sides."""

    id: int
    content: str
    special: bool
    looks_around: bool


def added_token(id: int, content: str, special: bool) -> dict[str, Any]:
    """An entry of `added_tokens` in a `tokenizer.json`, found wherever it stands in a text."""
    sides = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": content, **sides, "special": special}


def bos_processor(token: str, id: int) -> Any:
    """A post-processor (of the tokenizers library) that puts this token before every text."""
    return TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B:1", special_tokens=[(token, id)]
    )


class Tokenizer:
    """A tokenizer and its special tokens.

    `bos_id`, `eos_id` and `pad_id` are None where the model has no such token. Safe to share between
    threads once built.
    """

    def __init__(self, raw: bytes, config: Mapping[str, Any]) -> None:
        """`raw` is the content of `tokenizer.json`, `config` that of `tokenizer_config.json`."""
        self._raw = raw
        self._config = dict(config)
        self.sha256 = hashlib.sha256(raw).hexdigest()
        self._backend = _backend(raw)
        self.bos_id = self._special("bos_token")
        self.eos_id = self._special("eos_token")
        self.pad_id = self._special("pad_token")
        self.chat_templates: Mapping[str, str] = named_templates(config.get("chat_template"), CONFIG_FILE)
        """The model's own templates (Jinja) by name, such as `default`, `tool_use`; none for a base model."""
        self.template_files: Mapping[str, str] = {}
        """Where each of them was read from, for what is said of faults in it."""
        if self._backend.post_processor is None and self._is_an_earlier_one_of_ours():
            self._backend.post_processor = bos_processor(BOS, self.bos_id or 0)
        self._added = frozenset(self._backend.get_added_tokens_decoder())
        decoders = _decoder_types(self._backend)
        self._byte_level = "ByteLevel" in decoders
        self.context_free = decoders <= {"ByteLevel", ""}
        """What a token reads as does not depend on those before it, if they are whole characters."""

    @classmethod
    def from_dir(cls, path: str | Path) -> Tokenizer:
        """Read a folder with `tokenizer.json` and, if there, what belongs to it in files beside.

        Tokens that only those name are added, as transformers adds them. Raises BundleError naming the file
        that is missing or damaged.
        """
        folder = Path(path)
        file = folder / TOKENIZER_FILE
        if not file.is_file():
            raise BundleError(
                f"{folder} has no {TOKENIZER_FILE}",
                hint="Save it in the fast format: transformers' AutoTokenizer writes it by save_pretrained.",
            )
        beside = read_tokenizer_folder(folder)
        try:
            tokenizer = cls(file.read_bytes(), beside.config)._with_declared(beside.added)
        except BundleError as error:
            raise BundleError(f"{file}: {error.message}", hint=error.hint) from None
        tokenizer.template_files = beside.template_files
        return tokenizer

    def with_files_beside(self, folder: Path) -> Tokenizer:
        """With what the files of a folder say that has no `tokenizer.json`, where `add_bos_token` counts."""
        beside = read_tokenizer_folder(folder)
        config = self._config | beside.config
        tokenizer = type(self)(self._raw, config)._with_declared(beside.added)
        if config.get("add_bos_token"):
            tokenizer = tokenizer.beginning_with_bos()
        tokenizer.template_files = beside.template_files
        return tokenizer

    def _with_declared(self, added: Mapping[str, int]) -> Tokenizer:
        """With the tokens that its configuration names and `tokenizer.json` lacks; itself if none."""
        known = {repr(token) for token in self._backend.get_added_tokens_decoder().values()}
        texts = {token.content for token in self._backend.get_added_tokens_decoder().values()}
        exact = {token_text(token) for token in decoder_entries(self._config)}
        missing = [
            token
            for token in declared_tokens(self._config, added)
            if (repr(token) not in known if token.content in exact else token.content not in texts)
        ]
        if not missing:
            return self
        backend = Backend.from_buffer(self._raw)
        backend.add_tokens(missing)
        return type(self)(backend.to_str().encode(), self._config)

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json`, unchanged, and `tokenizer_config.json` into the folder `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TOKENIZER_FILE).write_bytes(self._raw)
        text = json.dumps(self._config, indent=2, ensure_ascii=False) + "\n"
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")

    @cached_property
    def _literal(self) -> Any:
        """The same, but text that reads like a special token is plain text."""
        return _literal(self._backend, self._raw)

    @property
    def base_vocab_size(self) -> int:
        """One more than the largest id of the learned vocabulary; tokens added to it may lie beyond."""
        return int(max(self._backend.get_vocab(with_added_tokens=False).values())) + 1

    @property
    def vocab_size(self) -> int:
        """Entries in all, special tokens included: one more than the largest id."""
        return int(max(self._backend.get_vocab(with_added_tokens=True).values())) + 1

    def beginning_with_bos(self) -> Tokenizer:
        """The same, with the token that begins a text put before every one; itself if it has
        a rule for that already, or no such token."""
        text, backend = token_text(self._config.get("bos_token")), Backend.from_buffer(self._raw)
        if self.bos_id is None or text is None or backend.post_processor is not None:
            return self
        backend.post_processor = bos_processor(text, self.bos_id)
        return type(self)((backend.to_str(pretty=True) + "\n").encode(), self._config)

    @property
    def raw(self) -> bytes:
        """The content of `tokenizer.json`."""
        return self._raw

    @property
    def chat_template(self) -> str | None:
        """The model's own template (Jinja), None for a base model."""
        return self.chat_templates.get("default")

    @property
    def has_chat_template(self) -> bool:
        return bool(self.chat_templates)

    @property
    def special_tokens(self) -> dict[str, str]:
        """The texts of the special tokens that it names, such as `bos_token`, as templates see them."""
        return special_tokens(self._config)

    @cached_property
    def prefix_ids(self) -> tuple[int, ...]:
        """The special tokens that it puts before a text: one that begins it, mostly, or none."""
        framed = self._backend.encode("a", add_special_tokens=True)
        marks = [index for index, special in enumerate(framed.special_tokens_mask) if not special]
        return tuple(framed.ids[: marks[0]]) if marks else ()

    def encode(self, text: str, *, add_special_tokens: bool = False, special: bool = True) -> list[int]:
        """Ids of `text`. With `special` False, text that reads like a special token is plain text.

        `add_special_tokens` puts those around it that the tokenizer's own post-processor puts there.
        """
        backend = self._backend if special else self._literal
        ids: list[int] = backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_spans(self, text: str, spans: Iterable[tuple[int, int]]) -> tuple[list[int], list[bool]]:
        """Ids of `text`, and which of them belong to one of these spans of its characters."""
        found = self._backend.encode(text, add_special_tokens=False)
        inside = [False] * len(found.ids)
        for start, end in spans:
            # A blank at an edge may belong to no token.
            tokens = (found.char_to_token(at) for at in range(start, end))
            first = next((token for token in tokens if token is not None), None)
            tokens = (found.char_to_token(at) for at in range(end - 1, start - 1, -1))
            last = next((token for token in tokens if token is not None), None)
            if first is not None and last is not None:
                inside[first : last + 1] = [True] * (last + 1 - first)
        return list(found.ids), inside

    def encode_inside(self, text: str) -> list[int]:
        """Ids of a plain text that does not begin here: without the blank that some put before a text."""
        ids = self.encode(text, special=False)
        if b"".join(map(self.token_bytes, ids)) == text.encode():
            return ids
        line, after = self.encode("\n", special=False), self.encode("\n" + text, special=False)
        return after[len(line) :] if after[: len(line)] == line else ids

    def encode_batch(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """Ids of each text, on all cores."""
        backend = self._backend if special else self._literal
        return [found.ids for found in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_with_special_tokens(
        self, texts: Sequence[str], *, limit: int | None = None
    ) -> list[list[int]]:
        """Ids of each text between the special tokens that the tokenizer itself puts around one.

        Of a text that would make more than `limit` ids, those included, only the beginning is taken.
        """
        room = None if limit is None else max(0, limit - self._backend.num_special_tokens_to_add(False))
        framed = []
        for found in self._backend.encode_batch(list(texts), add_special_tokens=False):
            if room is not None:
                found.truncate(room)
            framed.append(self._backend.post_process(found, None, True).ids)
        return framed

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are no UTF-8 come out as U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=skip_special))

    def decode_batch(self, rows: Sequence[Sequence[int]], *, skip_special: bool = True) -> list[str]:
        """Text of each row of ids, on all cores."""
        return list(self._backend.decode_batch([list(row) for row in rows], skip_special_tokens=skip_special))

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text that has begun: its blank too, and a part of a character as it is.

        An id that no token has adds nothing.
        """
        piece = self._backend.id_to_token(token_id)
        if piece is None:
            return b""
        if token_id in self._added:
            return str(piece).encode()
        if self._byte_level and all(letter in BYTE_OF_LETTER for letter in piece):
            return bytes(BYTE_OF_LETTER[letter] for letter in piece)
        if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
            return bytes.fromhex(piece[3:5])
        return str(piece).replace("▁", " ").encode()

    def token_text(self, token_id: int) -> str:
        """A token by itself, as OpenAI's log-probabilities name it: `bytes:` and hex if it is no text."""
        data = self.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def token_to_id(self, token: str) -> int | None:
        """The id of a whole token such as `<|end_of_text|>`, or None."""
        found: int | None = self._backend.token_to_id(token)
        return found

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are no text, such as `<|end_of_text|>`."""
        added = self._backend.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @property
    def added_tokens(self) -> tuple[AddedToken, ...]:
        """Tokens that were added to the vocabulary, special or not, by id."""
        added = self._backend.get_added_tokens_decoder()
        return tuple(
            AddedToken(id, token.content, token.special, token.single_word or token.lstrip or token.rstrip)
            for id, token in sorted(added.items())
        )

    @property
    def config(self) -> dict[str, Any]:
        """A copy of the content of `tokenizer_config.json`."""
        return dict(self._config)

    @property
    def unknown_id(self) -> int | None:
        """The token for what is not in the vocabulary; None where every text has tokens of its own."""
        return self._special("unk_token")

    def is_added(self, token: str) -> bool:
        """Whether this was added to the vocabulary as one token, special or not, as `<|fim_prefix|>` was."""
        return self.token_to_id(token) in self._added

    def _is_an_earlier_one_of_ours(self) -> bool:
        """Whether Platen learned it before it wrote post-processors: its models know the token that begins
        a text all the same."""
        named = [token_text(self._config.get(key)) for key in ("bos_token", "eos_token", "pad_token")]
        return named == [BOS, EOS, PAD] and self.bos_id is not None

    def _special(self, key: str) -> int | None:
        token = token_text(self._config.get(key))
        return self.token_to_id(token) if token else None


class TextStream:
    """Turns ids that arrive a few at a time into text, whole characters only.

    The pushes and the finish together are what `Tokenizer.decode` gives for all ids at once. Only a short
    window of ids is decoded at each push; it keeps the tokens before, because what a token reads as (a
    leading space, say) can depend on them. `after` are ids whose text goes on here, a prompt's.
    """

    # A character is at most four bytes, and a token at least one.
    _LONGEST = 4

    def __init__(self, tokenizer: Tokenizer, *, after: Sequence[int] = (), skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._ids = list(after[-2 * self._LONGEST :])  # the window
        text = self._text()
        if text.endswith("\ufffd"):  # half a character, which is no text that could go on
            self._ids, text = [], ""
        self._known = len(self._ids)  # ids at its head whose text is out
        self._out = len(text)  # characters of the window's text that are out
        self._shown: frozenset[int] = frozenset()

    def show(self, ids: Iterable[int]) -> None:
        """From now on give the names of these special tokens as text."""
        self._shown = frozenset(ids)

    def push(self, ids: Iterable[int]) -> str:
        """Take new ids; return the text that is now certain, often empty."""
        return "".join(self._push(id) for id in ids)

    def _push(self, id: int) -> str:
        if id in self._shown:  # the text before it ends here
            before = self.finish()
            self._ids, self._known, self._out = [], 0, 0
            return before + self._tokenizer.token_bytes(id).decode()
        self._ids.append(id)
        text = self._text()
        broken = len(text) - len(text.rstrip("\ufffd"))
        if len(self._ids) - self._known >= self._LONGEST:  # broken for good, but for the last bytes
            broken = min(broken, self._LONGEST - 1)
        sure = len(text) - broken
        new = text[self._out : sure]
        self._out = max(self._out, sure)
        if new and not broken:
            self._ids = [] if self._tokenizer.context_free else self._ids[self._known :]
            self._known = len(self._ids)
            self._out = len(self._text()) if self._ids else 0
        return new

    def finish(self) -> str:
        """The end of the stream: whatever was held back, broken characters as U+FFFD."""
        new = self._text()[self._out :]
        self._out += len(new)
        return new

    def _text(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special=self._skip_special)


def _backend(raw: bytes) -> Any:
    try:
        backend = Backend.from_buffer(raw)
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"not a tokenizer: {error}", hint=_AGAIN) from None
    backend.no_padding()
    backend.no_truncation()
    return backend


def _literal(backend: Any, raw: bytes) -> Any:
    """The same tokenizer, to which the names of special tokens are plain text.

    It shares the model, which takes a second to read for a vocabulary of 262,144 tokens.
    """
    literal = Backend(backend.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (found := getattr(backend, part)) is not None:
            setattr(literal, part, found)
    added = backend.get_added_tokens_decoder()
    literal.add_tokens([added[id] for id in sorted(added)])
    if literal.get_added_tokens_decoder() != added:  # ids with gaps can't be given again one by one
        literal = _backend(raw)
    literal.encode_special_tokens = True
    return literal


def _decoder_types(backend: Any) -> set[str]:
    """The kinds of decoder that turn its tokens into text."""
    decoder = {} if backend.decoder is None else json.loads(backend.decoder.__getstate__())
    return {step.get("type", "") for step in [decoder, *decoder.get("decoders", [])]}


def _letters_of_bytes() -> dict[str, int]:
    """GPT-2's alphabet: a visible letter for each byte; those that are none get letters from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF_LETTER = _letters_of_bytes()
