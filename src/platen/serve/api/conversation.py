"""From a conversation to its answer on the way: prompt, tools and grammar, whichever protocol it came by.

`Conversation` is what chat and responses have in common; `start` hands it to the engine and gives the readers
that take calls of tools out of the answers.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from platen.engines.protocol import SamplingParams, TokenEvent
from platen.prompts.messages import Message, as_chat
from platen.prompts.structured import Grammar
from platen.prompts.templates import PLAIN_OPTIONS, TemplateOptions
from platen.prompts.tool_grammar import calls_grammar
from platen.prompts.tool_parser import Piece, Said, ToolReader
from platen.prompts.tools import FunctionTool, ToolFormat
from platen.serve.access.caller import Caller
from platen.serve.api.generation import Generation
from platen.serve.hub.served_model import ServedModel
from platen.web.errors import ApiError

Ending = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True)
class ToolUse:
    """The functions that may be called, whether one has to be (or which), and whether several may be."""

    tools: tuple[FunctionTool, ...] = ()
    choice: Literal["none", "auto", "required"] = "auto"
    named: str | None = None
    several: bool = True


@dataclass(frozen=True)
class Conversation:
    """What is to be answered. `room` bounds the prompt's tokens: the oldest messages are left out.

    `template` is what the request says of the chat template; its tools are those of `tool_use`.
    """

    messages: tuple[Message, ...]
    tool_use: ToolUse = ToolUse()
    room: int | None = None
    template: TemplateOptions = PLAIN_OPTIONS
    messages_param: str = "messages"
    """The request's field of the messages, for errors."""

    async def start(
        self,
        model: ServedModel,
        sampling: SamplingParams,
        caller: Caller,
        *,
        n: int = 1,
        answer_param: str = "response_format",
    ) -> Answers:
        """Submit the conversation with `n` choices. Raises ApiError when model or engine can't take it.

        `sampling.grammar` is what an answer that is no call must match.
        """
        plan = _plan(self, model.tool_format, sampling.grammar, answer_param)
        prompt = await self._prompt(model, plan)
        generation = await Generation.start(
            model.engine,
            [prompt],
            replace(sampling, grammar=plan.grammar),
            caller=caller,
            model=model.info.name,
            n=n,
            prompt_param=self.messages_param,
            grammar_param="tools" if plan.tools else answer_param,
            shown=tuple(plan.format.markers.values()) if plan.format else (),
        )
        return Answers(generation, [plan.reader() for _ in range(n)])

    async def prompt(self, model: ServedModel) -> list[int]:
        """The ids that the model is given. Raises ApiError when it can't take the conversation."""
        return await self._prompt(model, _plan(self, model.tool_format, None, "response_format"))

    async def _prompt(self, model: ServedModel, plan: _Plan) -> list[int]:
        tools = tuple(tool.for_template() for tool in plan.tools)
        options = replace(self.template, tools=tools)
        return await model.chat_prompt(as_chat(self.messages), self.room, options, param=self.messages_param)


class Answers:
    """The choices of one conversation while they are written."""

    def __init__(self, generation: Generation, readers: Sequence[ToolReader | None]) -> None:
        self.generation = generation
        self._readers = readers

    def read(self, index: int, event: TokenEvent) -> list[Piece]:
        """What an event adds to the choice with this index."""
        reader = self._readers[index]
        if reader is None:
            return [Said(event.text)] if event.text else []
        pieces = reader.feed(event.text)
        return pieces if event.finish_reason is None else pieces + reader.finish()

    def finish_reason(self, index: int, event: TokenEvent) -> Ending | None:
        """Why the choice ends with this event; None when it goes on."""
        if event.finish_reason == "stop":
            reader = self._readers[index]
            return "tool_calls" if reader is not None and reader.called else "stop"
        return None if event.finish_reason == "cancelled" else event.finish_reason


def new_call_id() -> str:
    """Nine letters and digits: what Mistral's templates insist on, and others don't mind."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


@dataclass(frozen=True)
class _Plan:
    """How the tools of a request are dealt with. `tools` are those that the model is told of."""

    tools: tuple[FunctionTool, ...]
    format: ToolFormat | None
    grammar: Grammar | None
    several: bool

    def reader(self) -> ToolReader | None:
        if self.format is None:
            return None
        return ToolReader(self.format, {tool.name for tool in self.tools}, most=None if self.several else 1)


def _plan(
    conversation: Conversation, format: ToolFormat | None, answer: Grammar | None, answer_param: str
) -> _Plan:
    use = conversation.tool_use
    _check(use)
    if format is None and (
        use.tools or any(message.calls or message.role == "tool" for message in conversation.messages)
    ):
        raise ApiError(
            400,
            "This model's chat template has no tools that this server knows how to read. Leave out tools and "
            "messages about them, or serve a model that was trained to call functions.",
            param="tools" if use.tools else conversation.messages_param,
            code="tools_not_supported",
        )
    if format is None or not use.tools or use.choice == "none":
        return _Plan((), None, answer, use.several)
    callable_tools = [tool for tool in use.tools if use.named in (None, tool.name)]
    instead: Grammar | Literal["text"] | None = None
    if use.choice == "auto":
        if answer is not None and answer.kind == "lark":
            raise ApiError(
                400,
                "A grammar and tools can't be combined; use a JSON schema or a regular expression.",
                param=answer_param,
                code="invalid_value",
            )
        instead = answer or "text"
    grammar = None
    if use.choice == "required" or answer is not None or any(tool.strict for tool in use.tools):
        grammar = calls_grammar(
            format, callable_tools, several=use.several and use.named is None, instead=instead
        )
    return _Plan(use.tools, format, grammar, use.several)


def _check(use: ToolUse) -> None:
    names = [tool.name for tool in use.tools]
    if len(set(names)) < len(names):
        raise ApiError(400, "Two tools have the same name.", param="tools", code="invalid_value")
    if use.choice == "required" and not names:
        raise ApiError(400, "'tool_choice' needs 'tools'.", param="tool_choice", code="invalid_value")
    if use.named is not None and use.named not in names:
        raise ApiError(
            400,
            f"'tool_choice' names '{use.named}', which is not among the tools.",
            param="tool_choice",
            code="invalid_value",
        )
