"""Chat templates: from a conversation to the text that a model was trained on.

Rendered as transformers renders them, from all the places where it finds them, but within bounds of time and
size: see `platen.prompts.sandbox`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from platen.core.errors import PlatenError
from platen.tokens.chat_templates import PLAIN_CHAT_TEMPLATE
from platen.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    import jinja2

    from platen.prompts.sandbox import TemplateEnvironment

_MOST_SOURCE = 1_000_000
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which clients give an answer's reasoning; templates read the first, gpt-oss's the second."""
RESERVED_VARIABLES = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")
)
"""Of a template: what `TemplateOptions` and the messages give it."""
# Appended to a message that is to be continued, and found again; a template that trims takes its last blank.
_HERE = "⟦the answer goes on here⟧ "


class ChatTemplateError(PlatenError):
    """The messages don't fit the model's chat template, or the template itself is broken."""


@dataclass(frozen=True)
class TemplateOptions:
    """What a template is given beside the messages.

    `tools` are functions in OpenAI's form, `documents` objects with `title` and `text`; `template` names one
    of the model's own. With `continue_final_message` the text ends where the last message does, for the model
    to go on with it. `variables` are whatever else a template knows, such as `enable_thinking`.
    """

    tools: Sequence[Mapping[str, Any]] = ()
    documents: Sequence[Mapping[str, Any]] | None = None
    template: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Any] | None = None


PLAIN_OPTIONS = TemplateOptions()


@dataclass(frozen=True)
class Rendered:
    """A prompt's text; `answers` are the spans of it that the template says an assistant wrote.

    `plain` is a text by Platen's own template for base models, which writes no special tokens.
    """

    text: str
    answers: tuple[tuple[int, int], ...]
    plain: bool = False


def apply_chat_template(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    options: TemplateOptions = PLAIN_OPTIONS,
) -> str:
    """The prompt for a conversation; `messages` have `role` and `content`.

    A template writes its own special tokens: encode the result without further ones. Raises ChatTemplateError
    with the template's own complaint, and when it takes too long or makes too much.
    """
    return render_chat(tokenizer, messages, options).text


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    options: TemplateOptions = PLAIN_OPTIONS,
) -> Rendered:
    """Like `apply_chat_template`, with what stands in `{% generation %}` blocks."""
    source, file = _chosen(tokenizer, options)
    compiled = _compiled(source, file)
    given = [_given(message) for message in messages]
    if options.continue_final_message:
        _mark_end(given, options)
    variables = dict(options.variables or {})
    if reserved := sorted(RESERVED_VARIABLES.intersection(variables)):
        raise ChatTemplateError(
            f"'{reserved[0]}' is no variable of a template's own", hint="Give it beside the variables."
        )
    rendered = _rendered(
        compiled,
        file,
        {
            **tokenizer.special_tokens,
            **variables,
            "messages": given,
            "tools": list(options.tools) or None,
            "documents": None if options.documents is None else list(options.documents),
            "add_generation_prompt": options.add_generation_prompt and not options.continue_final_message,
        },
    )
    if options.continue_final_message:
        rendered = _cut_at_end(rendered, messages[-1])
    return replace(rendered, plain=source == PLAIN_CHAT_TEMPLATE)


def training_ids(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], options: TemplateOptions | None = None
) -> tuple[list[int], list[bool]]:
    """Ids of a whole conversation, and which of them are an answer's, for a loss on answers alone.

    As transformers' `return_assistant_tokens_mask`. Raises ChatTemplateError when the template doesn't mark
    what an assistant wrote with `{% generation %}`.
    """
    rendered = render_chat(tokenizer, messages, options or TemplateOptions(add_generation_prompt=False))
    if not rendered.answers:
        raise ChatTemplateError(
            "the chat template marks no answers, or the conversation has none",
            hint="Put {% generation %} and {% endgeneration %} around what an assistant's message writes.",
        )
    return tokenizer.encode_spans(rendered.text, rendered.answers)


def check_templates(tokenizer: Tokenizer) -> None:
    """Compile all templates of a tokenizer, so that a fault in one is told when a model opens.

    Raises ChatTemplateError with file and line.
    """
    for name, source in tokenizer.chat_templates.items():
        _compiled(source, tokenizer.template_files.get(name, f"chat_template {name!r}"))


def _chosen(tokenizer: Tokenizer, options: TemplateOptions) -> tuple[str, str]:
    """The template to use and where it stands: the one named, `tool_use` for tools, else `default`."""
    own = tokenizer.chat_templates
    name = options.template or ("tool_use" if options.tools and "tool_use" in own else "default")
    if name in own:
        return own[name], tokenizer.template_files.get(name, f"chat_template {name!r}")
    if not own and options.template is None:
        return PLAIN_CHAT_TEMPLATE, "Platen's template for base models"
    names = ", ".join(sorted(own)) or "none"
    raise ChatTemplateError(
        f"this model has no chat template named '{name}'; it has {names}", hint="Name one of these."
    )


@cache
def _environment() -> TemplateEnvironment:
    from platen.prompts.sandbox import TemplateEnvironment

    return TemplateEnvironment()


@lru_cache(maxsize=64)
def _compiled(source: str, file: str) -> jinja2.Template:
    import jinja2

    if len(source) > _MOST_SOURCE:
        raise ChatTemplateError(
            f"{file}: a chat template of {len(source):,} characters is too long",
            hint=f"At most {_MOST_SOURCE:,} are compiled.",
        )
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ChatTemplateError(
            f"{file}, line {error.lineno}: the chat template is not valid Jinja: {error.message}",
            hint="Correct the template file.",
        ) from None
    except (RecursionError, SyntaxError, ValueError, OverflowError) as error:  # from Python's own compiler
        raise ChatTemplateError(
            f"{file}: the chat template can't be compiled: {error}", hint="Correct the template file."
        ) from None


def _rendered(compiled: jinja2.Template, file: str, variables: dict[str, Any]) -> Rendered:
    import jinja2

    try:
        text, answers = _environment().render(compiled, variables)
    except jinja2.TemplateError as error:
        line = _line(compiled, error.__traceback__)
        at = f" ({file}, line {line})" if line else ""
        raise ChatTemplateError(
            f"the model's chat template refused the messages: {error}{at}",
            hint="Give each message a role (system, user, assistant) and a text; most models want user "
            "and assistant in turn.",
        ) from None
    except Exception as error:  # a template can raise whatever its expressions can
        line = _line(compiled, error.__traceback__)
        raise ChatTemplateError(
            f"the model's chat template fails on these messages: {error} ({file}, line {line or '?'})",
            hint="Give each message a role (system, user, assistant) and a text; most models want user "
            "and assistant in turn.",
        ) from None
    return Rendered(text, tuple(answers))


def _line(compiled: jinja2.Template, trace: TracebackType | None) -> int | None:
    """The template's line in which it failed."""
    found = None
    while trace is not None:
        if trace.tb_frame.f_globals.get("__jinja_template__") is compiled or (
            trace.tb_frame.f_code.co_filename == "<template>"
        ):
            found = compiled.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return found


def _given(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates see it: without keys that have no value, reasoning under its usual names."""
    given = {key: value for key, value in message.items() if value is not None}
    reasoning = next((given[name] for name in _REASONING if name in given), None)
    return given if reasoning is None else {"thinking": reasoning, **given, "reasoning_content": reasoning}


def _mark_end(messages: list[dict[str, Any]], options: TemplateOptions) -> None:
    content = messages[-1].get("content") if messages else None
    if not isinstance(content, str) or messages[-1]["role"] != "assistant":
        raise ChatTemplateError(
            "only an answer with a text can be continued, and the last message is none",
            hint="End the messages with one of the role assistant, or leave continue_final_message out.",
        )
    messages[-1]["content"] = content + _HERE


def _cut_at_end(rendered: Rendered, last: Mapping[str, Any]) -> Rendered:
    """Without what the template writes after the last message."""
    mark = _HERE.rstrip()
    at = rendered.text.rfind(mark)
    if at < 0 or last["content"].strip() not in rendered.text:
        raise ChatTemplateError(
            "the model's chat template does not write the last message as it is, so it can't be continued",
            hint="Leave continue_final_message out.",
        )
    text = rendered.text[:at]
    trimmed = not rendered.text.startswith(_HERE, at)
    return Rendered(text.rstrip() if trimmed else text, ())
