"""From a text or a conversation to the token ids that a model is given."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from platen.prompts.templates import (
    PLAIN_OPTIONS,
    ChatTemplateError,
    TemplateOptions,
    apply_chat_template,
    render_chat,
)
from platen.tokens.tokenizer import Tokenizer

ModelKind = Literal["base", "chat"]
"""A base model continues text; a chat model was trained on turns."""


def text_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text to continue, with the special tokens that the tokenizer itself puts around one.

    An empty one begins a new document. Raises ValueError when the text is empty and the tokenizer marks no
    documents.
    """
    return tokenizer.encode(text, add_special_tokens=True) or _new_document(tokenizer)


def truncated_text_prompt(tokenizer: Tokenizer, text: str, room: int) -> list[int]:
    """Like `text_prompt`, but of a longer text only the end that makes `room` tokens."""
    ids = text_prompt(tokenizer, text)
    if len(ids) <= room:
        return ids
    begin = list(tokenizer.prefix_ids) if room > len(tokenizer.prefix_ids) else []
    return begin + ids[len(ids) - room + len(begin) :]


def chat_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    options: TemplateOptions = PLAIN_OPTIONS,
) -> list[int]:
    """Ids of a conversation, up to where the answer begins. Raises ChatTemplateError, ValueError."""
    rendered = render_chat(tokenizer, messages, options)
    # A chat model's template writes its own beginning of a text; the plain one writes none.
    return tokenizer.encode(rendered.text, add_special_tokens=rendered.plain) or _new_document(tokenizer)


def truncated_chat_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    room: int,
    options: TemplateOptions = PLAIN_OPTIONS,
) -> list[int]:
    """Like `chat_prompt`, leaving out the oldest turns (never instructions) until `room` tokens do.

    The last message always stays; if it is too long by itself, so is the result.
    """
    turns = [i for i, message in enumerate(messages[:-1]) if message["role"] != "system"]

    def without(oldest: int) -> list[int]:
        left_out = set(turns[:oldest])
        return chat_prompt(tokenizer, [m for i, m in enumerate(messages) if i not in left_out], options)

    # What stays never begins with an answer whose question is left out, nor with a tool's.
    cuts = [
        n
        for n in range(len(turns) + 1)
        if n in (0, len(turns)) or messages[turns[n]]["role"] not in ("assistant", "tool")
    ]
    found = bisect_left(cuts, True, key=lambda cut: len(without(cut)) <= room)
    return without(cuts[min(found, len(cuts) - 1)])


def kind_of(tokenizer: Tokenizer) -> ModelKind:
    """Whether a model was made for turns, told by its chat template: a plain one marks no turns."""
    if not tokenizer.has_chat_template:
        return "base"
    texts = ("first", "second", "third")
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    try:
        prompt = apply_chat_template(tokenizer, messages)
    except ChatTemplateError:
        return "chat"
    return "base" if "".join(prompt.split()) == "".join(texts) else "chat"


def _new_document(tokenizer: Tokenizer) -> list[int]:
    if tokenizer.eos_id is None:
        raise ValueError("the prompt has no tokens")
    return [tokenizer.eos_id]  # documents are divided by end-of-text, so after it one begins
