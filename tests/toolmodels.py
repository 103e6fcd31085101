"""Tokenizers of models that were made for tools or for filling in the middle, and random weights for them.

The templates are short ones of our own in the notations of three families of models.
"""

from __future__ import annotations

import json

import torch

from platen.models.arch.config import DecoderConfig
from platen.models.arch.decoder import Decoder
from platen.tokens.tokenizer import Tokenizer
from tests.small_tokenizer import small_tokenizer

ROLES = (
    "{%- for message in messages %}"
    "{%- if message.role == 'tool' %}[tool {{ message.name }}: {{ message.content }}]"
    "{%- elif message.tool_calls is not defined %}[{{ message.role }}: {{ message.content }}]"
    "{%- else %}[assistant: {{ message.content }}"
)
TAIL = "]{%- endif %}{%- endfor %}{%- if add_generation_prompt %}[assistant: {%- endif %}"
FUNCTIONS = (
    "{%- if tools %}Functions:{% for tool in tools %} {{ tool.function.name }}{% endfor %}\n{%- endif %}"
)

TEMPLATES = {
    "tags": FUNCTIONS
    + ROLES
    + "{%- for call in message.tool_calls %}{{ '\\n<tool_call>\\n' }}"
    + '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    + "{{ '\\n</tool_call>' }}{%- endfor %}"
    + TAIL,
    "list": FUNCTIONS
    + ROLES
    + "{{- '[TOOL_CALLS] [' }}{%- for call in message.tool_calls %}"
    + "{{- (call.function | tojson)[:-1] }}"
    + "{%- if call.id | length != 9 %}{{ raise_exception('an id has nine letters') }}{% endif %}"
    + "{{- ', \"id\": \"' + call.id + '\"}' }}{{- ', ' if not loop.last else ']' }}{%- endfor %}"
    + TAIL,
    "bare": FUNCTIONS
    + ROLES
    + "{%- if message.tool_calls | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}"
    + '{{- \'{"name": "\' + message.tool_calls[0].function.name + \'", "parameters": \' }}'
    + "{{- message.tool_calls[0].function.arguments | tojson }}{{- '}' }}"
    + TAIL,
}
MARKERS = {"tags": ["<tool_call>", "</tool_call>"], "list": ["[TOOL_CALLS]"], "bare": ["<|python_tag|>"]}


def tokenizer_with(
    *, template: str | dict[str, str] | None = None, special: list[str] | None = None
) -> Tokenizer:
    """Byte-level, with `<|end|>` (id 0) to end texts and further special tokens."""
    config: dict[str, object] = {}
    if isinstance(template, dict):
        config["chat_template"] = [{"name": name, "template": text} for name, text in template.items()]
    elif template is not None:
        config["chat_template"] = template
    texts = [template or "", '{"name": "weather", "arguments": {"city": "Bern"}}']
    return small_tokenizer(texts, 340, special=special or [], **config)


def random_llama(tokenizer: Tokenizer, *, window: int = 512) -> Decoder:
    """Two narrow layers of random weights."""
    torch.manual_seed(11)
    config = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=window,
        initializer_range=0.25,
        eos_token_id=0,
    )
    return Decoder(config).eval()


WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Bern", "Oslo"]},
        "days": {"$ref": "#/$defs/days"},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 9}},
}
NOW = {"type": "object", "properties": {}, "additionalProperties": False}
SCHEMAS = {"weather": WEATHER, "now": NOW}


def written(style: str, calls: list[tuple[str, str]]) -> str:
    """Calls as a model of this style writes them; each is a name and its arguments as JSON text."""
    name = [json.dumps(name, ensure_ascii=False) for name, _ in calls]
    if style == "tags":
        objects = [f'{{"name": {n}, "arguments": {a}}}' for n, (_, a) in zip(name, calls, strict=True)]
        return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in objects)
    if style == "list":
        objects = [f'{{"name": {n}, "arguments": {a}}}' for n, (_, a) in zip(name, calls, strict=True)]
        return f"[TOOL_CALLS] [{', '.join(objects)}]"
    return "; ".join(f'{{"name": {n}, "parameters": {a}}}' for n, (_, a) in zip(name, calls, strict=True))
