"""Chat templates: those that `tokenizer.chat_template` may name, and running any of them in a sandbox.

`instruct` marks task, material and answer with the landmarks ###Instruction, ###Input and ###Response, which
repeat and so tell a model what comes next; `plain` marks nothing, for base models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from platen.core.errors import PlatenError

PLAIN_CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- message.content -}}
    {%- if not loop.last and (message.role == 'assistant' or loop.nextitem.role != 'assistant') -%}
        {{- '\\n\\n' -}}
    {%- endif -%}
{%- endfor -%}
"""
"""For base models, which know texts and no turns: an answer continues the message before it, and anything
else starts a new paragraph."""

INSTRUCT_CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message.role == 'system' -%}
        {{- message.content + '\\n\\n' -}}
    {%- elif message.role == 'user' -%}
        {{- '###Instruction\\n' + (message.instruction or message.content) + '\\n' -}}
        {%- if message.input -%}
            {{- '###Input\\n' + message.input + '\\n' -}}
        {%- endif -%}
    {%- else -%}
        {{- '###Response\\n' + message.content + (eos_token or '') + '\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '###Response\\n' -}}
{%- endif -%}
"""

CHAT_TEMPLATES = {
    "plain": PLAIN_CHAT_TEMPLATE,
    "instruct": INSTRUCT_CHAT_TEMPLATE,
}
"""Name → Jinja."""


class ChatTemplateError(PlatenError):
    """The messages don't fit the model's chat template, or the template itself is broken."""


def compile_template(source: str) -> Any:
    """A chat template as transformers runs it, but it can neither change nor reach anything outside.

    Raises ChatTemplateError.
    """
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ChatTemplateError(
            f"the chat template is not valid Jinja: line {error.lineno}: {error.message}",
            hint="Correct the template file.",
        ) from None


def render_template(
    template: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    specials: Mapping[str, str],
) -> str:
    """The prompt of a compiled template. Raises ChatTemplateError with the template's own complaint."""
    import jinja2

    try:
        return str(
            template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=tools or None,
                **specials,
            )
        )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise ChatTemplateError(
            f"the model's chat template refused the messages: {error}",
            hint="Give each message a role (system, user, assistant) and a text; most models want user "
            "and assistant in turn.",
        ) from None
