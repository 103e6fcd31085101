"""What stands beside `tokenizer.json` in a model's folder, read as transformers reads it.

Named special tokens, added tokens and chat templates each have several places, older and newer ones. What a
newer place says wins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken as BackendToken

from platen.core.errors import BundleError

TOKENIZER_FILE = "tokenizer.json"
SENTENCEPIECE_FILE = "tokenizer.model"
CONFIG_FILE = "tokenizer_config.json"
SPECIALS_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
PROCESSOR_TEMPLATE_FILE = "chat_template.json"

SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
"""The special tokens that every tokenizer may name."""


def tokenizer_files(folder: Path) -> list[str]:
    """Names, in the folder, of all its files that make up a tokenizer and its chat templates."""
    names = (
        *(TOKENIZER_FILE, SENTENCEPIECE_FILE, CONFIG_FILE, SPECIALS_FILE, ADDED_FILE),
        *(TEMPLATE_FILE, PROCESSOR_TEMPLATE_FILE),
    )
    further = sorted(file.name for file in (folder / TEMPLATE_FOLDER).glob("*.jinja"))
    return [
        *(name for name in names if (folder / name).is_file()),
        *(f"{TEMPLATE_FOLDER}/{name}" for name in further),
    ]


@dataclass(frozen=True)
class TokenizerFolder:
    """`config` is `tokenizer_config.json` with what the other files say; `added` are ids of
    `added_tokens.json`; `template_files` has for each chat template, by its name, where it stands."""

    config: dict[str, Any]
    added: Mapping[str, int] = field(default_factory=dict)
    template_files: Mapping[str, str] = field(default_factory=dict)


def read_tokenizer_folder(folder: Path) -> TokenizerFolder:
    """All that stands beside `tokenizer.json`. Raises BundleError naming the file that is damaged."""
    config = _json_object(folder / CONFIG_FILE)
    added: dict[str, int] = {}
    if "added_tokens_decoder" not in config:  # older folders say it in two files of their own
        config |= _json_object(folder / SPECIALS_FILE)
        added = {text: int(id) for text, id in _json_object(folder / ADDED_FILE).items()}
    templates, files = _templates(folder, config)
    if templates:
        several = [{"name": name, "template": template} for name, template in templates.items()]
        config["chat_template"] = templates["default"] if set(templates) == {"default"} else several
    return TokenizerFolder(config, added, files)


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the special tokens that a tokenizer names, such as `bos_token`, as templates see them."""
    own = [name for name in config if name.endswith("_token") and isinstance(config[name], str)]
    named = {name: token_text(config.get(name)) or "" for name in dict.fromkeys((*SPECIAL_NAMES, *own))}
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        named |= {name: token_text(token) or "" for name, token in extra.items()}
    return {name: text for name, text in named.items() if text}


def declared_tokens(config: Mapping[str, Any], added: Mapping[str, int]) -> list[BackendToken]:
    """Tokens that the files beside `tokenizer.json` say there are, in the order in which they get ids."""
    named = special_tokens(config)
    declared: dict[str, BackendToken] = {}
    for token in decoder_entries(config):
        text = str(token_text(token))
        declared[text] = _backend_token(token, special=token.get("special") or text in named.values())
    extra = list(_extra(config))
    for text in sorted(added, key=lambda text: added[text]):
        special = text in named.values() or text in map(token_text, extra)
        declared.setdefault(text, BackendToken(text, normalized=not special, special=special))
    for entry in (*(config.get(name) or text for name, text in named.items()), *extra):
        if content := token_text(entry):
            declared.setdefault(content, _backend_token(entry, special=True))
    return list(declared.values())


def decoder_entries(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of `added_tokens_decoder` by id."""
    entries = sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda entry: int(entry[0]))
    return [token for _, token in entries if isinstance(token, dict) and token_text(token)]


def token_text(token: Any) -> str | None:
    """A special token's text: tokenizer_config.json has it as a string or as an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _extra(config: Mapping[str, Any]) -> Iterator[Any]:
    """Further special tokens, which have no names; the key was called otherwise before."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    yield from extra if isinstance(extra, list) else ()


def _backend_token(token: Any, *, special: bool) -> BackendToken:
    flags = token if isinstance(token, dict) else {}
    sides = {name: bool(flags.get(name, False)) for name in ("single_word", "lstrip", "rstrip")}
    normalized = bool(flags.get("normalized", not special))
    return BackendToken(str(token_text(token)), normalized=normalized, special=special, **sides)


def _templates(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """The chat templates by name, and where each stands. Files of their own win over the config."""
    files = {"default": folder / TEMPLATE_FILE} if (folder / TEMPLATE_FILE).is_file() else {}
    files |= {file.stem: file for file in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))}
    if files:
        templates = {name: _text(file) for name, file in files.items()}
        return templates, {name: str(file) for name, file in files.items()}
    told, file = config.get("chat_template"), folder / CONFIG_FILE
    if not told:  # where processors of images and sound keep theirs
        file = folder / PROCESSOR_TEMPLATE_FILE
        told = _json_object(file).get("chat_template")
    templates = named_templates(told, file)
    return templates, {name: f"{file} (chat_template {name!r})" for name in templates}


def named_templates(told: Any, file: str | Path) -> dict[str, str]:
    """Chat templates by name, of a config's `chat_template`: one, a list with names, or none.

    Raises BundleError, naming `file`, for anything else.
    """
    if not told:
        return {}
    if isinstance(told, str):
        return {"default": told}
    if isinstance(told, dict):
        told = [{"name": name, "template": template} for name, template in told.items()]
    try:
        templates = {str(entry["name"]): entry["template"] for entry in told}
    except (TypeError, KeyError):
        templates = {"": None}
    if not all(isinstance(template, str) for template in templates.values()):
        raise BundleError(
            f"{file}: chat_template is neither a text nor a list of entries with name and template",
            hint="Correct the file, or take it from where the model comes from.",
        )
    return templates


def _json_object(file: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing when it isn't there. Raises BundleError."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise BundleError(
            f"{file} is not valid: {error}",
            hint="Make the tokenizer again, or take the file from where the model comes from.",
        ) from None
    return content


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{file} can't be read: {error}", hint="It should be text in UTF-8.") from None
