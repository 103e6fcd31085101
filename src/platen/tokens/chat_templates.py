"""The chat templates that `tokenizer.chat_template` may name.

`instruct` marks task, material and answer with the landmarks ###Instruction, ###Input and ###Response, which
repeat and so tell a model what comes next; `plain` marks nothing, for base models.
"""

from __future__ import annotations

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
